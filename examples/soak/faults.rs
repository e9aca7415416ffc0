//! The faults, and how it is known that each of them took effect.
//!
//! Faults follow each other in decks: a deck holds each kind as often as its weight says and is
//! shuffled, so every kind has its turn. Before each one the world is calm (everybody connected,
//! nothing being recovered), so that what then shows in the counters is this fault's doing; the
//! kinds that combine several blows (`drop`, `half-open`) strike into the recoveries themselves.
//! Pauses of consumers go on through all of them, on plans of their own.
//!
//! A fault counts as a **hit** only if its effect was seen: at the emulator's counters, or in what
//! a client reported. `inject.rs` and `endings.rs` say for each kind what is looked at.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use webpubsub::Client;
use webpubsub::emulator::{Emulator, Faults, Stats};

use super::listener::{Gate, Seen};
use super::publisher::Handler;

pub(crate) const HUB: &str = "soak";

/// The client's settings, which some faults have to outlast.
pub(crate) const PING: Duration = Duration::from_millis(200);
pub(crate) const DEAD_AFTER: Duration = Duration::from_millis(400);
pub(crate) const RECOVERY_ATTEMPT: Duration = Duration::from_millis(300);
/// The bound of the subscribers' queues, so small that a short pause fills them.
pub(crate) const QUEUE: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Drop,
    Reset,
    Freeze,
    HalfOpen,
    ServerError,
    ClientError,
    SlowRead,
    SlowWrite,
    SlowHandler,
    DropBeforeAck,
    LoseAcks,
    DropBeforeExecution,
    CutFullQueue,
    CloseRecoverable,
    CloseEnding,
    SessionClosed,
    RecoveryRefused,
    SessionExpired,
    DuplicateReplay,
    StalledUpgrade,
}

/// With the number of cards in a deck: those that take long come less often, so that the mean time
/// between two faults is kept.
pub(crate) const KINDS: [(Kind, &str, usize); 20] = [
    (Kind::Drop, "drop", 3),
    (Kind::Reset, "reset", 3),
    (Kind::Freeze, "freeze", 1),
    (Kind::HalfOpen, "half-open", 1),
    (Kind::ServerError, "HTTP 5xx on return", 2),
    (Kind::ClientError, "HTTP 4xx on recovery", 2),
    (Kind::SlowRead, "slow read", 1),
    (Kind::SlowWrite, "slow write", 1),
    (Kind::SlowHandler, "slow event handler", 2),
    (Kind::DropBeforeAck, "ack lost with a drop", 3),
    (Kind::LoseAcks, "acks lost, then a drop", 3),
    (Kind::DropBeforeExecution, "drop before execution", 2),
    (Kind::CutFullQueue, "cut, queue full", 2),
    (Kind::CloseRecoverable, "close code, go on", 3),
    (Kind::CloseEnding, "close code, session over", 2),
    (Kind::SessionClosed, "closed by the app server", 1),
    (Kind::RecoveryRefused, "1008 on recovery", 2),
    (Kind::SessionExpired, "session expired", 1),
    (Kind::DuplicateReplay, "replay with duplicates", 3),
    (Kind::StalledUpgrade, "stalled upgrade", 1),
];

impl Kind {
    /// Some kinds need a session that can be recovered.
    pub(crate) fn applies(self, reliable: bool) -> bool {
        reliable
            || !matches!(
                self,
                Self::ClientError
                    | Self::RecoveryRefused
                    | Self::SessionExpired
                    | Self::DuplicateReplay
            )
    }
}

/// No fault ends the sessions of clients at even places, if they can be recovered at all.
pub(crate) fn is_robust(place: usize) -> bool {
    place.is_multiple_of(2)
}

/// Whether a subscriber drops messages when its queue is full, instead of waiting.
pub(crate) fn drops_messages(place: usize) -> bool {
    place % 4 == 3
}

/// What the faults strike.
#[derive(Clone, Copy)]
pub(crate) struct Scene<'a> {
    pub(crate) emulator: &'a Emulator,
    pub(crate) handler: &'a Handler,
    /// All clients: the publishers, then the subscribers.
    pub(crate) clients: &'a [Client],
    /// One for each client.
    pub(crate) gates: &'a [Gate],
    pub(crate) publishers: usize,
    pub(crate) reliable: bool,
    pub(crate) seen: &'a Seen,
}

pub(crate) struct Lab<'a> {
    pub(super) scene: Scene<'a>,
    pub(super) emulator: &'a Emulator,
    pub(super) clients: &'a [Client],
    pub(super) faults: Faults,
    pub(super) rng: StdRng,
    pub(super) started: Instant,
    /// Close codes that still have their turn, see `endings.rs`.
    pub(super) codes: [Vec<u16>; 2],
    /// Those that were sent.
    pub(crate) sent_codes: BTreeSet<u16>,
    /// Sessions that a fault was about to end.
    pub(crate) doomed: HashSet<String>,
    pub(crate) violations: Vec<String>,
    /// By place in `KINDS`: how often ordered, and how often seen to take effect.
    pub(crate) ordered: [u64; KINDS.len()],
    pub(crate) hits: [u64; KINDS.len()],
}

impl<'a> Lab<'a> {
    pub(crate) fn new(scene: Scene<'a>, seed: u64) -> Self {
        Self {
            scene,
            emulator: scene.emulator,
            clients: scene.clients,
            faults: scene.emulator.faults(),
            rng: StdRng::seed_from_u64(seed),
            started: Instant::now(),
            codes: [Vec::new(), Vec::new()],
            sent_codes: BTreeSet::new(),
            doomed: HashSet::new(),
            violations: Vec::new(),
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
                let fit = |(kind, _, _): &(Kind, _, _)| kind.applies(self.scene.reliable);
                let cards = KINDS.iter().enumerate().filter(|(_, kind)| fit(kind));
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
                client.state().is_connected()
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
