//! A recovery link until its replay is over: is it accepted, does it get on, what is replayed.

use std::time::{Duration, Instant};

use super::RECOVERY_PONG;

/// No Close frame is this long (2 bytes of header, at most 125 of payload), so a link that brings
/// more in a stretch is bringing a message: the first one of a replay may be large, the line slow.
const PROGRESS: usize = 128;
/// However slowly something comes, a link that is not proved after this long is given up.
const LONGEST: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub(super) struct Replay {
    replayed: u64,
    /// How long the link may bring less than [`PROGRESS`] before its proof.
    stretch: Duration,
    bytes: usize,
    state: State,
    last_end: Instant,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Nothing whole has come; at this instant the bytes are looked at.
    Unproved { look_at: Instant },
    /// The session is ours; the pong is awaited until then.
    Proved { pong_until: Instant },
}

impl Replay {
    pub(super) fn new(now: Instant, until: Instant, stretch: Duration, replayed: u64) -> Self {
        Self {
            replayed,
            stretch,
            bytes: 0,
            state: State::Unproved { look_at: until },
            last_end: now + LONGEST,
        }
    }

    pub(super) fn replayed(&self) -> u64 {
        self.replayed
    }

    /// A frame with a sequence id came.
    pub(super) fn count(&mut self) {
        self.replayed += 1;
    }

    pub(super) fn bytes(&mut self, n: usize) {
        self.bytes += n;
    }

    pub(super) fn is_proved(&self) -> bool {
        matches!(self.state, State::Proved { .. })
    }

    /// A whole frame came. True if it is the first one.
    pub(super) fn prove(&mut self, now: Instant) -> bool {
        let first = !self.is_proved();
        if first {
            self.state = State::Proved { pong_until: now + RECOVERY_PONG };
        }
        first
    }

    pub(super) fn next_wake(&self) -> Instant {
        match self.state {
            State::Unproved { look_at } => look_at,
            State::Proved { pong_until } => pong_until,
        }
    }

    /// At the end of a stretch: whether too little has come in it. If not, the next one begins.
    pub(super) fn is_stalled(&mut self, now: Instant) -> bool {
        if std::mem::take(&mut self.bytes) < PROGRESS || now >= self.last_end {
            return true;
        }
        self.state = State::Unproved { look_at: (now + self.stretch).min(self.last_end) };
        false
    }

    /// The link is being cut: nothing more is asked of it.
    pub(super) fn rest(&mut self) {
        self.state = State::Unproved { look_at: self.last_end + LONGEST };
    }
}
