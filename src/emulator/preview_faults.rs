//! Faults of the preview features: invocations, streams, group state.

use super::faults::{Faults, take};

/// Faults inside the service; counts go down with each use.
#[derive(Debug, Default)]
pub(crate) struct PreviewPlan {
    pub(crate) hold_responses: bool,
    pub(crate) lose_responses: u64,
}

impl PreviewPlan {
    pub(super) fn take_lost_response(&mut self) -> bool {
        take(&mut self.lose_responses)
    }
}

/// Preview features.
///
/// An answer to an invocation in another form (a second time, with another id, with a `dataType` that
/// nobody knows) is a matter of [`Faults::send_raw_text`]: lose the proper one, and write your own
/// with the [`invocation_id`](super::EmulatedEvent::invocation_id). So are a stream's control messages
/// with other numbers.
impl Faults {
    /// Runs invocations but keeps their answers; `hold_invocation_responses(false)` sends them. A lost
    /// transport loses the held answers.
    pub fn hold_invocation_responses(&self, on: bool) {
        self.shared.with(None, |service, _| {
            if on {
                service.plan.preview.hold_responses = true;
            } else {
                service.release_responses();
            }
        });
    }

    /// Runs the next `count` invocations and throws their answers away. The connection stays.
    pub fn lose_next_invocation_responses(&self, count: u64) {
        self.plan(|plan| plan.preview.lose_responses = count);
    }
}
