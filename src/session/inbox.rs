//! What only the reader thread needs to know about incoming frames: numbers and signs of life.

use std::time::{Duration, Instant};

/// Acknowledge after so many numbered messages (the service holds at most 1000 of them),
const ACK_COUNT: u64 = 200;
/// or so many bytes (it holds at most 16 MB),
const ACK_BYTES: usize = 1 << 20;
/// or so long after the first one.
const ACK_DELAY: Duration = Duration::from_millis(500);

/// What to do with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Deliver,
    /// Seen before: drop it, but acknowledge again.
    Duplicate,
}

/// The sequence ids of one connection (reliable subprotocols).
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    largest: u64,
    /// The largest whose message has been handled, and what was acknowledged of that.
    done: u64,
    acked: u64,
    /// Numbered messages and bytes since the last ack, and when the first of them came.
    count: u64,
    bytes: usize,
    since: Option<Instant>,
    /// While a recovery is being completed: how many messages the service sent again.
    replayed: Option<u64>,
}

impl Inbox {
    /// A new connection numbers from 1.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    /// A recovered link: what comes until the pong is counted as replayed.
    pub(crate) fn count_replayed(&mut self) {
        self.replayed.get_or_insert(0);
    }

    #[allow(dead_code)]
    pub(crate) fn is_counting(&self) -> bool {
        self.replayed.is_some()
    }

    pub(crate) fn take_replayed(&mut self) -> u64 {
        self.replayed.take().unwrap_or(0)
    }

    #[allow(dead_code)]
    pub(crate) fn replayed(&self) -> u64 {
        self.replayed.unwrap_or(0)
    }

    /// Any frame with a sequence id, readable or not. Messages come in order, so a number that is
    /// not above the largest seen is a repetition.
    pub(crate) fn check(&mut self, id: u64) -> Verdict {
        if let Some(n) = &mut self.replayed {
            *n += 1;
        }
        if id <= self.largest {
            return Verdict::Duplicate;
        }
        self.largest = id;
        Verdict::Deliver
    }

    /// The frame is in the queue (or was dropped on purpose): it may be acknowledged. Gives the
    /// number to acknowledge now.
    pub(crate) fn handled(&mut self, bytes: usize, now: Instant) -> Option<u64> {
        self.done = self.largest;
        self.count += 1;
        self.bytes += bytes;
        self.since.get_or_insert(now);
        if self.count >= ACK_COUNT || self.bytes >= ACK_BYTES { self.ack() } else { None }
    }

    /// The number to acknowledge because time has passed.
    pub(crate) fn due(&mut self, now: Instant) -> Option<u64> {
        self.next_wake().filter(|at| *at <= now).and_then(|_| self.ack())
    }

    pub(crate) fn next_wake(&self) -> Option<Instant> {
        self.since.map(|since| since + ACK_DELAY)
    }

    /// Everything that was handled and is not acknowledged yet, whatever the counts. A message that
    /// still waits for room in the queue is not part of it.
    pub(crate) fn ack(&mut self) -> Option<u64> {
        self.since.take()?;
        self.count = 0;
        self.bytes = 0;
        self.acked = self.done;
        Some(self.acked)
    }
}

/// When to ask the peer for a sign of life, and when to give it up.
#[derive(Debug)]
pub(crate) struct KeepAlive {
    interval: Option<Duration>,
    dead_after: Duration,
    heard: Instant,
    asked: bool,
}

/// What silence calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beat {
    Ping,
    Dead,
}

impl KeepAlive {
    pub(crate) fn new(interval: Option<Duration>, dead_after: Duration, now: Instant) -> Self {
        Self { interval, dead_after, heard: now, asked: false }
    }

    /// Any inbound bytes, or a time during which we did not listen.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.asked = false;
    }

    /// The peer took data that had waited for it, which is a sign of life too. Without this, an
    /// answer that comes late behind a large upload would look like silence.
    pub(crate) fn moved(&mut self, at: Instant) {
        self.heard = self.heard.max(at);
    }

    pub(crate) fn next_wake(&self) -> Option<Instant> {
        let interval = self.interval?;
        Some(self.heard + if self.asked { self.dead_after } else { interval })
    }

    pub(crate) fn due(&mut self, now: Instant) -> Option<Beat> {
        let interval = self.interval?;
        if now < self.next_wake()? {
            return None;
        }
        if self.asked {
            return Some(Beat::Dead);
        }
        // A machine that slept finds both limits passed: the peer still gets its chance.
        self.asked = true;
        self.heard = self.heard.max(now.checked_sub(interval).unwrap_or(now));
        Some(Beat::Ping)
    }
}
