//! Faults of the preview features: invocations, streams, group state.

use super::faults::{Faults, take};
use super::receive::named;

/// Faults inside the service; counts go down with each use.
#[derive(Debug, Default)]
pub(crate) struct PreviewPlan {
    pub(crate) hold_responses: bool,
    pub(crate) lose_responses: u64,
    pub(crate) ignore_starts: u64,
    pub(crate) refuse_starts: u64,
    pub(crate) refuse_fragments: u64,
    /// Only from this number on.
    pub(crate) refuse_fragments_from: u64,
    pub(crate) hold_stream_acks: bool,
    pub(crate) lose_stream_acks: u64,
    pub(crate) lose_stream_closes: u64,
    pub(crate) skip_fragments: u64,
    pub(crate) repeat_fragments: u64,
    pub(crate) hold_snapshots: bool,
}

impl PreviewPlan {
    pub(super) fn take_lost_response(&mut self) -> bool {
        take(&mut self.lose_responses)
    }

    pub(super) fn take_ignored_start(&mut self) -> bool {
        take(&mut self.ignore_starts)
    }

    pub(super) fn take_refused_start(&mut self) -> bool {
        take(&mut self.refuse_starts)
    }

    pub(super) fn take_refused_fragment(&mut self, number: u64) -> bool {
        number >= self.refuse_fragments_from && take(&mut self.refuse_fragments)
    }

    pub(super) fn take_lost_stream_ack(&mut self) -> bool {
        take(&mut self.lose_stream_acks)
    }

    pub(super) fn take_lost_stream_close(&mut self) -> bool {
        take(&mut self.lose_stream_closes)
    }

    /// How often subscribers get a fragment.
    pub(super) fn take_copies(&mut self) -> usize {
        if take(&mut self.skip_fragments) {
            return 0;
        }
        1 + usize::from(take(&mut self.repeat_fragments))
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

    /// The next `count` starts of streams are not carried out and get no answer.
    pub fn ignore_next_stream_starts(&self, count: u64) {
        self.plan(|plan| plan.preview.ignore_starts = count);
    }

    /// The next `count` starts of streams are refused with `InternalServerError`. (A missing role and
    /// an id that is in use are refused without a fault.)
    pub fn refuse_next_stream_starts(&self, count: u64) {
        self.plan(|plan| plan.preview.refuse_starts = count);
    }

    /// The next `count` fragments in their turn whose number is `from` or higher are not accepted but
    /// answered by the nack `TransientError`. Sent again, a fragment counts again.
    pub fn refuse_next_fragments(&self, from: u64, count: u64) {
        self.plan(|plan| {
            plan.preview.refuse_fragments_from = from;
            plan.preview.refuse_fragments = count;
        });
    }

    /// Sends no `streamAck`, not even for a start; `hold_stream_acks(false)` sends each stream that
    /// waits for one its present number.
    pub fn hold_stream_acks(&self, on: bool) {
        self.shared.with(None, |service, _| {
            if on {
                service.plan.preview.hold_stream_acks = true;
            } else {
                service.release_stream_acks();
            }
        });
    }

    /// Throws the next `count` messages `streamAck` away, those that accept a start included.
    pub fn lose_next_stream_acks(&self, count: u64) {
        self.plan(|plan| plan.preview.lose_stream_acks = count);
    }

    /// Throws the next `count` messages `streamClosed` away: what they report has happened. Lost with
    /// the link: [`Faults::drop_after_frames`] in addition.
    pub fn lose_next_stream_closes(&self, count: u64) {
        self.plan(|plan| plan.preview.lose_stream_closes = count);
    }

    /// Accepts the next `count` fragments and passes them on to nobody.
    pub fn skip_next_fragments(&self, count: u64) {
        self.plan(|plan| plan.preview.skip_fragments = count);
    }

    /// Passes the next `count` fragments on twice.
    pub fn repeat_next_fragments(&self, count: u64) {
        self.plan(|plan| plan.preview.repeat_fragments = count);
    }

    /// Who follows a group's states gets its ack and later updates at once, but the snapshot, as it was
    /// then, only with `hold_group_state_snapshots(false)`: an update that is newer comes before it.
    /// With [`Faults::hold_acks`] updates come before the ack too.
    pub fn hold_group_state_snapshots(&self, on: bool) {
        self.shared.with(None, |service, _| {
            if on {
                service.plan.preview.hold_snapshots = true;
            } else {
                service.release_snapshots();
            }
        });
    }

    /// The service ends a stream with that error, for its publisher as for its subscribers; false if
    /// there is none.
    pub fn fail_stream(
        &self,
        connection_id: &str,
        stream_id: &str,
        name: &str,
        message: &str,
    ) -> bool {
        let error = named(name, message);
        self.shared.with(None, |service, _| service.fail_stream(connection_id, stream_id, error))
    }
}
