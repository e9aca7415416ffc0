//! Counters, and waiting for them without a sleep.
//!
//! The service counts in plain numbers ([`Tally`]) under its own lock; the sockets' side counts in
//! atomics ([`Counters`]), which also know who waits. Every change bumps an epoch. A waiter
//! registers, reads the epoch, looks at the numbers, and sleeps only if the epoch is still the
//! same; so no change is missed, and a change costs two atomic operations while nobody waits.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::outbox::lock;

/// Counters of an [`Emulator`](super::Emulator), all since it was started.
///
/// ```
/// use std::time::Duration;
///
/// use webpubsub::emulator::Emulator;
/// use webpubsub::{Client, Publish};
///
/// # fn main() -> webpubsub::Result<()> {
/// let emulator = Emulator::start()?;
/// let client = Client::connect(emulator.url("chat"))?;
/// client.fire_and_forget(Publish::new("chat", "hello"))?;
/// // Without a sleep: this returns as soon as it is so.
/// assert!(emulator.wait_until(Duration::from_secs(5), |stats| stats.publications == 1));
/// # client.close() }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// TCP connections accepted.
    pub tcp_accepted: u64,
    /// WebSocket upgrades asked for, refused ones included.
    pub upgrades_attempted: u64,
    /// Upgrades refused with an HTTP status.
    pub upgrades_refused: u64,
    /// New sessions (recoveries do not count).
    pub connections_opened: u64,
    /// Transports that are open now.
    pub currently_open: u64,
    /// Sessions that exist now, those that wait for recovery included.
    pub sessions: u64,
    /// Sessions that ended, for whatever reason.
    pub sessions_ended: u64,
    /// Sessions that ended because a queue was full.
    pub overflows: u64,
    /// Recoveries accepted.
    pub recoveries_accepted: u64,
    /// Recoveries refused, by an HTTP status or by Close 1008.
    pub recoveries_refused: u64,
    /// Data messages received.
    pub frames_in: u64,
    /// Data messages written.
    pub frames_out: u64,
    /// `ping` messages of the subprotocol received.
    pub pings: u64,
    /// WebSocket pings received.
    pub websocket_pings: u64,
    /// Acks given, failures included (also those that a fault then held back or lost).
    pub acks: u64,
    /// Acks that reported a failure other than `Duplicate`.
    pub failed_acks: u64,
    /// Acks that reported `Duplicate`.
    pub duplicates: u64,
    /// `sequenceAck` messages received.
    pub sequence_acks: u64,
    /// The most messages that one session ever had unacknowledged.
    pub unacked_high_water: u64,
    /// The most often that any one ack id of one connection was executed.
    pub max_executions: u64,
    /// Messages sent again on recoveries.
    pub replayed: u64,
    /// Connections closed because of malformed input.
    pub malformed: u64,
    /// Events given to the event handler.
    pub events: u64,
    /// Publications to a group by clients that were carried out.
    pub publications: u64,
    /// Invocations received (preview).
    pub invocations: u64,
    /// `cancelInvocation` messages received; nothing else becomes of them.
    pub invocations_cancelled: u64,
    /// Starts of streams that were accepted (preview).
    pub streams_opened: u64,
    /// Streams that ended, for whatever reason.
    pub streams_closed: u64,
    /// Fragments of streams that were accepted.
    pub stream_fragments: u64,
    /// `streamData` messages without a fragment, for streams that exist.
    pub stream_keepalives: u64,
    /// `streamAck` messages sent.
    pub stream_acks: u64,
    /// `streamNack` messages sent.
    pub stream_nacks: u64,
    /// `setGroupState` messages that were carried out (preview).
    pub group_state_changes: u64,
}

/// What the service counts.
#[derive(Debug, Default)]
pub(super) struct Tally {
    stats: Stats,
    changed: bool,
}

impl Tally {
    pub(super) fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The numbers, to change one.
    pub(super) fn count(&mut self) -> &mut Stats {
        self.changed = true;
        &mut self.stats
    }

    /// Something that has no number has changed: a membership, a transport.
    pub(super) fn mark_changed(&mut self) {
        self.changed = true;
    }

    /// Whether anything has changed since this was asked last.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }
}

/// What the sockets' side counts, and who waits for a change.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) tcp_accepted: AtomicU64,
    pub(super) upgrades_attempted: AtomicU64,
    pub(super) upgrades_refused: AtomicU64,
    pub(super) recoveries_refused_by_status: AtomicU64,
    pub(super) currently_open: AtomicU64,
    pub(super) frames_in: AtomicU64,
    pub(super) frames_out: AtomicU64,
    pub(super) websocket_pings: AtomicU64,
    epoch: AtomicU64,
    waiters: AtomicU64,
    gate: Mutex<()>,
    changed: Condvar,
}

impl Counters {
    /// These numbers beside the service's.
    pub(super) fn merge(&self, service: Stats) -> Stats {
        let refused = self.recoveries_refused_by_status.load(SeqCst);
        Stats {
            tcp_accepted: self.tcp_accepted.load(SeqCst),
            upgrades_attempted: self.upgrades_attempted.load(SeqCst),
            upgrades_refused: self.upgrades_refused.load(SeqCst),
            recoveries_refused: service.recoveries_refused + refused,
            currently_open: self.currently_open.load(SeqCst),
            frames_in: self.frames_in.load(SeqCst),
            frames_out: self.frames_out.load(SeqCst),
            websocket_pings: self.websocket_pings.load(SeqCst),
            ..service
        }
    }

    pub(super) fn up(&self, which: &AtomicU64) {
        which.fetch_add(1, SeqCst);
        self.notify();
    }

    pub(super) fn down(&self, which: &AtomicU64) {
        which.fetch_sub(1, SeqCst);
        self.notify();
    }

    /// Something that a waiter may look at has changed.
    pub(super) fn notify(&self) {
        self.epoch.fetch_add(1, SeqCst);
        if self.waiters.load(SeqCst) > 0 {
            drop(lock(&self.gate));
            self.changed.notify_all();
        }
    }

    /// Waits until the condition holds for what `stats` returns. Both run without any lock.
    pub(super) fn wait_until(
        &self,
        limit: Duration,
        stats: impl Fn() -> Stats,
        condition: impl Fn(&Stats) -> bool,
    ) -> bool {
        let until = Instant::now() + limit;
        self.waiters.fetch_add(1, SeqCst);
        let met = loop {
            let epoch = self.epoch.load(SeqCst);
            if condition(&stats()) {
                break true;
            }
            let Some(left) = until.checked_duration_since(Instant::now()) else { break false };
            // Sessions also end by mere time, which notifies nobody.
            let left = left.min(Duration::from_millis(250));
            let gate = lock(&self.gate);
            if self.epoch.load(SeqCst) == epoch {
                drop(self.changed.wait_timeout(gate, left).unwrap_or_else(PoisonError::into_inner));
            }
        };
        self.waiters.fetch_sub(1, SeqCst);
        met
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_waiter_sees_a_change_made_elsewhere() {
        let counters = Arc::new(Counters::default());
        let other = Arc::clone(&counters);
        let thread = std::thread::spawn(move || {
            for _ in 0..1000 {
                other.up(&other.frames_in);
            }
        });
        let stats = || counters.merge(Stats::default());
        assert!(counters.wait_until(Duration::from_secs(20), stats, |s| s.frames_in == 1000));
        assert!(!counters.wait_until(Duration::from_millis(5), stats, |s| s.frames_in == 1001));
        thread.join().unwrap();
    }

    #[test]
    fn the_service_tells_whether_anything_changed() {
        let mut tally = Tally::default();
        tally.count().pings += 1;
        assert!(tally.take_changed() && !tally.take_changed());
        tally.mark_changed();
        assert_eq!((tally.take_changed(), tally.stats().pings), (true, 1));
    }
}
