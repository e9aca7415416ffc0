//! Counters, and waiting for them without a sleep.
//!
//! Every change bumps an epoch. A waiter registers, reads the epoch, looks at the numbers, and
//! sleeps only if the epoch is still the same; so no change is missed, and a change costs two
//! atomic operations while nobody waits.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::outbox::lock;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of an [`Emulator`](super::Emulator), all since it was started.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: AtomicU64,)*
            epoch: AtomicU64,
            waiters: AtomicU64,
            gate: Mutex<()>,
            changed: Condvar,
        }

        impl Counters {
            pub(super) fn snapshot(&self) -> Stats {
                Stats { $($name: self.$name.load(SeqCst),)* }
            }
        }
    };
}

counters! {
    /// TCP connections accepted.
    tcp_accepted,
    /// WebSocket upgrades asked for, refused ones included.
    upgrades_attempted,
    /// Upgrades refused with an HTTP status.
    upgrades_refused,
    /// New sessions (recoveries do not count).
    connections_opened,
    /// Transports that are open now.
    currently_open,
    /// Sessions that exist now, those that wait for recovery included.
    sessions,
    /// Sessions that ended, for whatever reason.
    sessions_ended,
    /// Sessions that ended because a queue was full.
    overflows,
    /// Recoveries accepted.
    recoveries_accepted,
    /// Recoveries refused, by an HTTP status or by Close 1008.
    recoveries_refused,
    /// Data messages received.
    frames_in,
    /// Data messages written.
    frames_out,
    /// `ping` messages of the subprotocol received.
    pings,
    /// WebSocket pings received.
    websocket_pings,
    /// Acks given, failures included (also those that a fault then held back or lost).
    acks,
    /// Acks that reported a failure other than `Duplicate`.
    failed_acks,
    /// Acks that reported `Duplicate`.
    duplicates,
    /// `sequenceAck` messages received.
    sequence_acks,
    /// The most messages that one session ever had unacknowledged.
    unacked_high_water,
    /// The most often that any one ack id of one connection was executed.
    max_executions,
    /// Messages sent again on recoveries.
    replayed,
    /// Connections closed because of malformed input.
    malformed,
    /// Events given to the event handler.
    events,
    /// Publications to a group by clients that were carried out.
    publications,
}

impl Counters {
    pub(super) fn add(&self, which: &AtomicU64, by: u64) {
        which.fetch_add(by, SeqCst);
        self.notify();
    }

    pub(super) fn up(&self, which: &AtomicU64) {
        self.add(which, 1);
    }

    pub(super) fn down(&self, which: &AtomicU64) {
        which.fetch_sub(1, SeqCst);
        self.notify();
    }

    pub(super) fn max(&self, which: &AtomicU64, value: u64) {
        if which.load(SeqCst) < value {
            which.fetch_max(value, SeqCst);
            self.notify();
        }
    }

    /// Something that a waiter may look at has changed.
    pub(super) fn notify(&self) {
        self.epoch.fetch_add(1, SeqCst);
        if self.waiters.load(SeqCst) > 0 {
            drop(lock(&self.gate));
            self.changed.notify_all();
        }
    }

    /// Waits until the condition holds. It is evaluated without any lock, after `refresh`.
    pub(super) fn wait_until(
        &self,
        limit: Duration,
        refresh: impl Fn(),
        condition: impl Fn(&Stats) -> bool,
    ) -> bool {
        let until = Instant::now() + limit;
        self.waiters.fetch_add(1, SeqCst);
        let met = loop {
            refresh();
            let epoch = self.epoch.load(SeqCst);
            if condition(&self.snapshot()) {
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
                other.up(&other.pings);
            }
        });
        assert!(counters.wait_until(Duration::from_secs(20), || (), |s| s.pings == 1000));
        assert!(!counters.wait_until(Duration::from_millis(5), || (), |s| s.pings == 1001));
        thread.join().unwrap();
    }
}
