//! How the service ends connections: by a Close frame, or by what a fault puts in its place.

use std::time::Duration;

use super::outbox::{Fate, Out, Outbox};
use super::service::Service;

/// The codes of the service behind which a session cannot be recovered.
fn ends_session(code: u16) -> bool {
    matches!(code, 1000 | 1002 | 1003 | 1007 | 1008 | 1009 | 1011)
}

impl Service {
    /// The only way of a Close into an outbox, but for the refusal of a recovery.
    pub(super) fn queue_close(&mut self, outbox: &Outbox, code: u16, reason: &str) {
        outbox.push(if self.plan.lose_close_frames {
            Out::Reset
        } else {
            Out::Close { code, reason: reason.into() }
        });
        self.touch_outbox(outbox);
    }

    /// A Close with that code, which ends the session or leaves it to be recovered.
    pub(super) fn close_with(&mut self, now: Duration, id: &str, code: u16, reason: &str) {
        if ends_session(code) {
            self.close(id, code, reason);
        } else {
            if self.sessions.get(id).is_some_and(|s| s.outbox.is_some()) {
                self.notes.info(|| format!("closed by a fault: {id}, {code} {reason:?}"));
            }
            if let Some(outbox) = self.detach(now, id) {
                self.queue_close(&outbox, code, reason);
            }
        }
    }

    /// Cuts the TCP connection without a word and forgets the session.
    pub(super) fn cut_and_end(&mut self, id: &str, why: &str) {
        if let Some(outbox) = self.sessions.get(id).and_then(|s| s.outbox.clone()) {
            outbox.abort(Fate::Cut);
            self.touch_outbox(&outbox);
        }
        self.end_session(id, why);
    }
}
