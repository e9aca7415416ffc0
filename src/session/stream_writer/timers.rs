//! What becomes due: probes, pauses, keep-alives, stalls and deadlines.

use std::time::Instant;

use super::{Emit, PROBE, State, StreamWriter};

impl StreamWriter {
    /// The next instant at which `tick` has something to do.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        let timers = [self.stalls_at(), self.resumes_at(), self.probes_at(), self.keeps_alive_at()];
        timers.into_iter().chain([self.deadline]).flatten().min()
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.deadline) {
            self.overdue();
        }
        if due(self.stalls_at()) {
            self.fail("the service confirmed nothing of the stream for too long");
        }
        if due(self.resumes_at()) {
            self.pause_until = None;
            self.quiet_since = now;
            self.flight.rewind();
            self.pump(now);
        }
        if due(self.probes_at()) {
            self.quiet_since = now;
            if let Some(oldest) = self.flight.oldest() {
                self.emit(now, Emit::Probe(oldest));
            }
        }
        if due(self.keeps_alive_at()) {
            self.emit(now, Emit::KeepAlive);
        }
    }

    pub(super) fn is_sending(&self) -> bool {
        self.link && matches!(self.state, State::Open | State::Draining)
    }

    fn stalls_at(&self) -> Option<Instant> {
        let waits = self.is_sending() && !self.flight.is_empty();
        waits.then(|| self.progress + self.config.stall_timeout)
    }

    fn resumes_at(&self) -> Option<Instant> {
        self.pause_until.filter(|_| self.is_sending())
    }

    fn probes_at(&self) -> Option<Instant> {
        let waits = self.is_sending() && self.pause_until.is_none() && self.flight.any_sent();
        waits.then(|| self.quiet_since + PROBE)
    }

    fn keeps_alive_at(&self) -> Option<Instant> {
        self.is_sending().then(|| self.written + self.config.idle_timeout / 3)
    }
}
