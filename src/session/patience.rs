//! How long the silence of the peer proves nothing.
//!
//! While the service runs an event handler it answers nothing on that link, no ping either. So from
//! the writing of an event silence is allowed until the call's deadline, and for a minute at least.
//! An invocation runs a handler too.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::call::{Call, CallKind};

/// A handler may take this long even if the call has a shorter deadline.
const LEAST: Duration = Duration::from_secs(60);

/// For an event that is written now: silence is allowed until then.
pub(super) fn of<W>(call: &Call<W>, now: Instant) -> Option<Instant> {
    matches!(call.kind, CallKind::Event | CallKind::Invoke).then(|| call.deadline.max(now + LEAST))
}

/// The events of the present link that are not in the table of calls (any more), and may still keep
/// the service silent.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    /// Fire and forget: when they were written, and how long silence is allowed for them. An entry
    /// that a later one outlasts is gone, so there is one, unless the limits get shorter and shorter.
    fired: VecDeque<(Instant, Instant)>,
    /// Written calls whose callers gave up.
    given_up: Option<Instant>,
}

impl Unanswered {
    pub(super) fn fired(&mut self, now: Instant, until: Instant) {
        while self.fired.back().is_some_and(|(_, earlier)| *earlier <= until) {
            self.fired.pop_back();
        }
        self.fired.push_back((now, until));
    }

    pub(super) fn given_up(&mut self, until: Option<Instant>) {
        self.given_up = self.given_up.max(until);
    }

    /// What was written before the peer was last heard, without an ack to come, counts as answered.
    pub(super) fn until(&self, heard: Instant) -> Option<Instant> {
        let fired = self.fired.iter().find(|(at, _)| *at >= heard).map(|(_, until)| *until);
        fired.max(self.given_up)
    }

    pub(super) fn new_link(&mut self) {
        self.fired.clear();
        self.given_up = None;
    }
}
