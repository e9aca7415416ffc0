//! The faults that end links by a Close, and those that end sessions.
//!
//! A reliable session may end for three reasons only: one of these faults wanted it to (its id is
//! among the `doomed` before the blow), the service's limit of unacknowledged messages (a fragile
//! subscriber that paused), or the end of the run. Whoever strikes here strikes one session, never
//! "the next one", because somebody else might be recovering at the same time.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use rand::RngExt;
use rand::seq::SliceRandom;
use webpubsub::Client;
use webpubsub::emulator::StallAt;

use super::faults::{HUB, Lab, QUEUE, drops_messages, is_robust};
use super::inject::PATIENCE;

/// Every kind of code after which a session can be recovered: those of RFC 6455 and of its registry,
/// those of libraries and programs, and those that must never be in a frame.
const RECOVERABLE: [u16; 21] = [
    0, 999, 1001, 1004, 1005, 1006, 1010, 1012, 1013, 1014, 1015, 1016, 1999, 2000, 2999, 3000,
    3999, 4000, 4999, 5000, 65535,
];
/// All after which it cannot.
const ENDING: [u16; 7] = [1000, 1002, 1003, 1007, 1008, 1009, 1011];

/// A link that was lost behind a full queue is known to be lost after one second; the rest is for
/// the machine.
const NOTICED: Duration = Duration::from_secs(4);

/// Longer than the emulator keeps a session.
const RETENTION_OVER: Duration = Duration::from_secs(31);

impl<'a> Lab<'a> {
    /// One that may lose its session: in plain subprotocols anybody.
    fn fragile(&mut self) -> &'a Client {
        if self.scene.reliable {
            let odd = self.rng.random_range(0..self.clients.len() / 2);
            &self.clients[odd * 2 + 1]
        } else {
            &self.clients[self.rng.random_range(0..self.clients.len())]
        }
    }

    /// The next code; each of them has its turn.
    fn code(&mut self, ending: bool) -> u16 {
        let deck = &mut self.codes[usize::from(ending)];
        if deck.is_empty() {
            *deck = if ending { ENDING.to_vec() } else { RECOVERABLE.to_vec() };
            deck.shuffle(&mut self.rng);
        }
        let code = deck.pop().unwrap_or(1001);
        self.sent_codes.insert(code);
        code
    }

    /// Seen: somebody came back.
    pub(super) fn close_recoverable(&mut self) -> bool {
        let before = self.emulator.stats();
        let code = self.code(false);
        if self.rng.random_bool(0.3) {
            self.faults.close_connections(code, "soak");
        } else {
            let client = &self.clients[self.rng.random_range(0..self.clients.len())];
            let Some(id) = client.connection_id() else { return false };
            self.faults.close_connection(&id, code, "soak");
        }
        self.soon(PATIENCE, |s| self.returned(s, &before))
    }

    /// Seen: the emulator ended a session, and a new one came.
    pub(super) fn close_ending(&mut self) -> bool {
        let code = self.code(true);
        self.end_one(|lab, id| lab.faults.close_connection(id, code, "soak"))
    }

    /// Seen: as before.
    pub(super) fn session_closed(&mut self) -> bool {
        self.sent_codes.insert(1000);
        self.end_one(|lab, id| lab.emulator.close_connection(HUB, id, Some("soak")))
    }

    /// With calls in flight: on loopback an ack takes no time at all, so acks are held for a moment.
    /// The end of its session loses those of one client, the others get theirs later.
    fn end_one(&mut self, end: impl FnOnce(&Self, &str) -> bool) -> bool {
        let Some(id) = self.fragile().connection_id() else { return false };
        self.doomed.insert(id.to_string());
        self.faults.hold_acks(true);
        std::thread::sleep(self.millis(0, 40));
        let before = self.emulator.stats();
        let ended = end(self, &id);
        self.faults.hold_acks(false);
        ended && self.soon(PATIENCE, |s| s.connections_opened > before.connections_opened)
    }

    /// The session ends while its client is on the way back. Seen: a recovery was refused, not by an
    /// HTTP status, and a new session came.
    pub(super) fn recovery_refused(&mut self) -> bool {
        self.lose_one(|lab, id| lab.emulator.close_connection(HUB, id, None))
    }

    /// The same, by time. Nobody else may be waiting for recovery then.
    pub(super) fn session_expired(&mut self) -> bool {
        self.lose_one(|lab, id| {
            let known = lab.emulator.connections(HUB);
            let alone = known.iter().all(|info| info.is_open != (info.id == id));
            if alone {
                lab.emulator.advance_clock(RETENTION_OVER);
            }
            alone
        })
    }

    /// Cuts one session's link and ends the session before a recovery is let in.
    fn lose_one(&mut self, end: impl FnOnce(&Self, &str) -> bool) -> bool {
        let Some(id) = self.fragile().connection_id() else { return false };
        self.doomed.insert(id.to_string());
        self.sent_codes.insert(1008);
        self.faults.hold_acks(true);
        std::thread::sleep(self.millis(0, 40));
        let before = self.emulator.stats();
        self.faults.stall(StallAt::Upgrade, true);
        let ended = self.faults.drop_connection(&id) && end(self, &id);
        self.faults.stall(StallAt::Upgrade, false);
        self.faults.hold_acks(false);
        ended
            && self.soon(PATIENCE, |s| {
                s.recoveries_refused > before.recoveries_refused
                    && s.upgrades_refused == before.upgrades_refused
                    && s.connections_opened > before.connections_opened
            })
    }

    /// A subscriber stops reading, its queue fills up, and its link is lost. Seen: the queue was full
    /// at its bound; the subscriber must come back while it still does not read.
    pub(super) fn cut_full_queue(&mut self) -> bool {
        // A fragile one would fall too far behind, and one that drops messages never has a full queue.
        let fit = |place: &usize| {
            if self.scene.reliable { is_robust(*place) } else { !drops_messages(*place) }
        };
        let places: Vec<usize> = (self.scene.publishers..self.clients.len()).filter(fit).collect();
        // One that pauses by itself has its queue full already.
        let is_full = |place: &usize| self.clients[*place].stats().queue_len >= QUEUE;
        let place = match places.iter().copied().find(is_full) {
            Some(place) => place,
            None => places[self.rng.random_range(0..places.len())],
        };
        let (client, gate) = (&self.clients[place], &self.scene.gates[place]);
        gate.held.store(true, SeqCst);
        let full = self.soon(PATIENCE, |_| is_full(&place));
        let id = client.connection_id().filter(|_| full);
        let seen = id.is_some_and(|id| self.cut_and_await(place, client, &id));
        gate.held.store(false, SeqCst);
        seen
    }

    fn cut_and_await(&mut self, place: usize, client: &Client, id: &str) -> bool {
        let before = self.emulator.stats();
        let how = self.rng.random_range(0..4);
        match how {
            0 => self.faults.reset_connections(),
            1 => {
                let code = self.code(false);
                self.faults.close_connection(id, code, "soak");
            }
            _ => {
                self.faults.drop_connection(id);
            }
        }
        let back = |other: &str| {
            let known = self.emulator.connections(HUB);
            known.iter().any(|info| info.is_open && info.id == other)
        };
        let returned = self.soon(NOTICED, |s| match self.scene.reliable {
            true => self.returned(s, &before) && back(id),
            false => client.connection_id().is_some_and(|now| *now != *id && back(&now)),
        });
        if !returned {
            self.violations.push(format!(
                "client {place} did not come back within {} s after its link was lost behind its full \
                 queue",
                NOTICED.as_secs()
            ));
        }
        returned
    }
}
