//! The faults, and how it is known that each of them took effect.
//!
//! Faults follow each other in decks: a deck holds each kind as often as its weight says and is
//! shuffled, so every kind has its turn. Before each one the world is calm (everybody connected,
//! nothing being recovered), so that what then shows in the counters is this fault's doing; the
//! kinds that combine several blows (`drop`, `half-open`) strike into the recoveries themselves.
//!
//! A fault counts as a **hit** only if its effect was seen: at the emulator's counters, or in what
//! a client reported. `inject.rs` says for each kind what is looked at.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use webpubsub::Client;
use webpubsub::emulator::{Emulator, Faults, Stats};

pub(crate) const HUB: &str = "soak";

/// The client's settings, which some faults have to outlast.
pub(crate) const PING: Duration = Duration::from_millis(200);
pub(crate) const DEAD_AFTER: Duration = Duration::from_millis(400);
pub(crate) const RECOVERY_ATTEMPT: Duration = Duration::from_millis(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Drop,
    Reset,
    Freeze,
    HalfOpen,
    BadGateway,
    SlowRead,
    DropBeforeAck,
    LoseAcks,
    DropBeforeExecution,
    RecoveryRefused,
    SessionClosed,
    DuplicateReplay,
    StalledUpgrade,
}

/// With the number of cards in a deck: those that take long come less often, so that the mean time
/// between two faults is kept.
pub(crate) const KINDS: [(Kind, &str, usize); 13] = [
    (Kind::Drop, "drop", 3),
    (Kind::Reset, "reset", 3),
    (Kind::Freeze, "freeze", 1),
    (Kind::HalfOpen, "half-open", 1),
    (Kind::BadGateway, "502 on recovery", 3),
    (Kind::SlowRead, "slow read", 1),
    (Kind::DropBeforeAck, "ack lost with a drop", 3),
    (Kind::LoseAcks, "acks lost, then a drop", 3),
    (Kind::DropBeforeExecution, "drop before execution", 3),
    (Kind::RecoveryRefused, "1008 on recovery", 2),
    (Kind::SessionClosed, "session closed (1000)", 2),
    (Kind::DuplicateReplay, "replay with duplicates", 3),
    (Kind::StalledUpgrade, "stalled upgrade", 1),
];

/// What clients reported, where the emulator's counters cannot know.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// `Recovering` events whose cause was a reset connection.
    pub(crate) resets: AtomicU64,
}

pub(crate) struct Lab<'a> {
    pub(super) emulator: &'a Emulator,
    pub(super) faults: Faults,
    /// All clients; those at odd places may be made to lose their sessions.
    pub(super) clients: &'a [Client],
    pub(super) publishers: usize,
    pub(super) seen: &'a Seen,
    pub(super) rng: StdRng,
    pub(super) started: Instant,
    /// By place in `KINDS`: how often ordered, and how often seen to take effect.
    pub(crate) ordered: [u64; KINDS.len()],
    pub(crate) hits: [u64; KINDS.len()],
}

impl<'a> Lab<'a> {
    pub(crate) fn new(
        emulator: &'a Emulator,
        clients: &'a [Client],
        publishers: usize,
        seen: &'a Seen,
        seed: u64,
    ) -> Self {
        Self {
            emulator,
            faults: emulator.faults(),
            clients,
            publishers,
            seen,
            rng: StdRng::seed_from_u64(seed),
            started: Instant::now(),
            ordered: [0; KINDS.len()],
            hits: [0; KINDS.len()],
        }
    }

    /// Injects faults for that long, one about every `every`, then switches all of them off.
    pub(crate) fn torment(&mut self, time: Duration, every: Duration) {
        let end = Instant::now() + time;
        let mut due = Instant::now();
        let mut deck: Vec<usize> = Vec::new();
        while Instant::now() < end {
            if deck.is_empty() {
                let cards = KINDS.iter().enumerate();
                deck = cards.flat_map(|(i, (_, _, weight))| vec![i; *weight]).collect();
                deck.shuffle(&mut self.rng);
            }
            let Some(i) = deck.pop() else { break };
            self.calm(Duration::from_secs(2));
            self.ordered[i] += 1;
            self.hits[i] += u64::from(self.inject(KINDS[i].0));
            // After a long fault the next ones come quicker, until the mean is right again.
            due += every.mul_f64(self.rng.random_range(0.5..1.5));
            let least = Instant::now() + every.mul_f64(self.rng.random_range(0.05..0.3));
            sleep_until(due.max(least).min(end));
        }
        self.faults.clear();
    }

    /// True once every client is connected, and the emulator thinks so too.
    pub(crate) fn calm(&self, limit: Duration) -> bool {
        self.soon(limit, |_| {
            let known = self.emulator.connections(HUB);
            self.clients.iter().all(|client| {
                client.is_connected()
                    && client
                        .connection_id()
                        .is_some_and(|id| known.iter().any(|info| info.id == *id && info.is_open))
            })
        })
    }

    pub(super) fn soon(&self, limit: Duration, condition: impl Fn(&Stats) -> bool) -> bool {
        let until = Instant::now() + limit;
        loop {
            if condition(&self.emulator.stats()) {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(super) fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(from..=to))
    }
}

fn sleep_until(at: Instant) {
    std::thread::sleep(at.saturating_duration_since(Instant::now()));
}
