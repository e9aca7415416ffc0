//! The sequence ids of one connection (reliable subprotocols), and their acknowledgment.

use std::time::{Duration, Instant};

/// Acknowledge after this many numbered messages (the service holds at most 1000 of them),
const ACK_COUNT: u64 = 200;
/// or this many bytes (it holds at most 16 MB),
const ACK_BYTES: usize = 1 << 20;
/// or this long after the first one.
const ACK_DELAY: Duration = Duration::from_millis(500);

/// The service numbers without gaps and holds at most 1000 messages. An id this far above the
/// largest seen is an error of the peer, and following it would silently drop all that comes after.
const WILD: u64 = 1_000_000;

/// What to do with a message, by its sequence id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    New,
    /// Seen before: drop it, but acknowledge again.
    Duplicate,
    /// Too far above the largest id seen to be true.
    Wild,
}

#[derive(Debug, Default)]
pub(super) struct Sequence {
    /// The largest id seen, in whatever frame.
    seen: u64,
    /// The largest whose message is in the event queue (or was dropped by its policy). Only these
    /// are acknowledged.
    handed: u64,
    /// Numbered messages and bytes since the last acknowledgment, and when the first of them came.
    count: u64,
    bytes: usize,
    since: Option<Instant>,
    /// The link takes no more data, so the next acknowledgment waits, and covers more then.
    put_off_until: Option<Instant>,
}

impl Sequence {
    /// Messages come in order, so an id that is not above the largest seen is a repetition.
    pub(super) fn check(&mut self, id: u64) -> Verdict {
        if id <= self.seen {
            return Verdict::Duplicate;
        }
        if id - self.seen > WILD {
            return Verdict::Wild;
        }
        self.seen = id;
        Verdict::New
    }

    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    /// The message is in the queue (or was dropped on purpose), so it may be acknowledged.
    pub(super) fn handed(&mut self, id: u64, bytes: usize, now: Instant) {
        self.handed = self.handed.max(id);
        self.count += 1;
        self.bytes += bytes;
        self.since.get_or_insert(now);
    }

    /// What was seen but not handed over is gone; the service sends it again after a recovery.
    pub(super) fn rewind(&mut self) {
        self.seen = self.handed;
    }

    pub(super) fn next_wake(&self) -> Option<Instant> {
        let due = self.since.map(|since| match self.is_plenty() {
            true => since,
            false => since + ACK_DELAY,
        })?;
        Some(self.put_off_until.map_or(due, |until| until.max(due)))
    }

    pub(super) fn put_off(&mut self, now: Instant) {
        self.put_off_until = Some(now + ACK_DELAY);
    }

    fn is_plenty(&self) -> bool {
        self.count >= ACK_COUNT || self.bytes >= ACK_BYTES
    }

    /// The id to acknowledge, if an acknowledgment is due.
    pub(super) fn take_ack(&mut self, now: Instant) -> Option<u64> {
        if self.next_wake()? > now {
            return None;
        }
        self.since = None;
        self.put_off_until = None;
        self.count = 0;
        self.bytes = 0;
        Some(self.handed)
    }
}
