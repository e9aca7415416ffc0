//! Each fault, and where its effect shows.

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use rand::RngExt;
use webpubsub::Client;
use webpubsub::emulator::StallAt;

use super::faults::{DEAD_AFTER, HUB, Kind, Lab, RECOVERY_ATTEMPT};

/// An effect that does not show within this time is not counted.
const PATIENCE: Duration = Duration::from_millis(1500);

impl<'a> Lab<'a> {
    /// Cuts one connection, or all.
    fn cut(&mut self) {
        if self.rng.random_bool(0.3) {
            return self.faults.drop_connections();
        }
        let client = &self.clients[self.rng.random_range(0..self.clients.len())];
        self.cut_one(client);
    }

    fn cut_one(&self, client: &Client) {
        if let Some(id) = client.connection_id() {
            self.faults.drop_connection(&id);
        }
    }

    /// One of those that may lose their sessions.
    fn fragile(&mut self) -> &'a Client {
        let odd = self.rng.random_range(0..self.clients.len() / 2);
        &self.clients[odd * 2 + 1]
    }

    /// True if the effect was seen.
    pub(super) fn inject(&mut self, kind: Kind) -> bool {
        let before = self.emulator.stats();
        match kind {
            // Seen: the emulator accepted a recovery. One to three cuts, the later ones into the
            // recoveries from the first.
            Kind::Drop => {
                for _ in 0..self.rng.random_range(1..=3) {
                    self.cut();
                    std::thread::sleep(self.millis(0, 15));
                }
                self.soon(PATIENCE, |s| s.recoveries_accepted > before.recoveries_accepted)
            }
            // Seen: a client reported `ConnectionReset` from its socket.
            Kind::Reset => {
                let resets = self.seen.resets.load(SeqCst);
                self.faults.reset_connections();
                self.soon(PATIENCE, |_| self.seen.resets.load(SeqCst) > resets)
            }
            Kind::Freeze => self.freeze(),
            Kind::HalfOpen => self.half_open(),
            // Seen: an upgrade was refused with an HTTP status, which nothing else does here.
            Kind::BadGateway => {
                let count = self.rng.random_range(1..=4);
                self.faults.refuse_recoveries(count, 502);
                self.cut();
                let all = before.upgrades_refused + u64::from(count);
                self.soon(PATIENCE, |s| s.upgrades_refused >= all);
                self.faults.refuse_recoveries(0, 502);
                self.emulator.stats().upgrades_refused > before.upgrades_refused
            }
            Kind::SlowRead => self.slow_read(),
            // Seen: the call was sent again and answered `Duplicate`, so it had been executed and
            // its ack had been lost.
            Kind::DropBeforeAck => {
                let count = self.rng.random_range(1..=3);
                self.faults.drop_before_next_ack(count);
                self.soon(PATIENCE, |s| s.duplicates >= before.duplicates + count);
                self.faults.drop_before_next_ack(0);
                self.emulator.stats().duplicates > before.duplicates
            }
            // Seen: as before. The connections live on without the acks until they are cut.
            Kind::LoseAcks => {
                let count = self.rng.random_range(1..=5);
                self.faults.lose_next_acks(count);
                self.soon(PATIENCE / 3, |s| s.acks >= before.acks + count);
                self.faults.lose_next_acks(0);
                self.faults.drop_connections();
                self.soon(PATIENCE, |s| s.duplicates >= before.duplicates + count);
                self.emulator.stats().duplicates > before.duplicates
            }
            // Seen: a recovery was accepted, though nobody else has cut anything.
            Kind::DropBeforeExecution => {
                self.faults.drop_before_next_execution(1);
                let seen =
                    self.soon(PATIENCE, |s| s.recoveries_accepted > before.recoveries_accepted);
                self.faults.drop_before_next_execution(0);
                seen
            }
            Kind::RecoveryRefused => self.recovery_refused(),
            Kind::SessionClosed => self.session_closed(),
            Kind::DuplicateReplay => self.duplicate_replay(),
            // Seen: a recovery knocked and was not let in while the fault was on.
            Kind::StalledUpgrade => {
                self.faults.stall(StallAt::Upgrade, true);
                self.cut();
                std::thread::sleep(self.millis(100, 500));
                let during = self.emulator.stats();
                self.faults.stall(StallAt::Upgrade, false);
                during.upgrades_attempted > before.upgrades_attempted
                    && during.recoveries_accepted == before.recoveries_accepted
            }
        }
    }

    /// Seen: a recovery was refused, not by an HTTP status, and a new session came.
    fn recovery_refused(&mut self) -> bool {
        let victim = self.fragile();
        let Some(id) = victim.connection_id() else { return false };
        self.hold_some_acks();
        let before = self.emulator.stats();
        self.faults.recovery_closes_1008(1);
        self.faults.drop_connection(&id);
        let seen = self.soon(PATIENCE, |s| {
            s.recoveries_refused > before.recoveries_refused
                && s.upgrades_refused == before.upgrades_refused
                && s.connections_opened > before.connections_opened
        });
        self.faults.recovery_closes_1008(0);
        self.faults.hold_acks(false);
        if seen && self.soon(PATIENCE, |_| victim.connection_id().is_some_and(|now| now != id)) {
            // Nobody will come back for the old session. It would wait 30 s and fill up.
            self.emulator.close_connection(HUB, &id, None);
        }
        seen
    }

    /// Seen: the emulator ended a session, and a new one came.
    fn session_closed(&mut self) -> bool {
        let Some(id) = self.fragile().connection_id() else { return false };
        self.hold_some_acks();
        let before = self.emulator.stats();
        let closed = self.emulator.close_connection(HUB, &id, Some("soak"));
        self.faults.hold_acks(false);
        closed && self.soon(PATIENCE, |s| s.connections_opened > before.connections_opened)
    }

    /// So that calls are in flight when a session ends: on loopback an ack takes no time at all.
    /// The end of its session loses the held acks of one client, the others get theirs later.
    fn hold_some_acks(&mut self) {
        self.faults.hold_acks(true);
        std::thread::sleep(self.millis(0, 40));
    }

    /// Seen: no message was read while it lasted, and some were afterwards. One time in four it
    /// lasts beyond the limit at which clients give the peer up.
    fn freeze(&mut self) -> bool {
        let (short, long) = (self.millis(50, 350), self.millis(400, 700));
        let time = if self.rng.random_bool(0.25) { long } else { short };
        self.faults.freeze(true);
        // A reader that had just passed the gate still takes one.
        std::thread::sleep(Duration::from_millis(10));
        let from = self.emulator.stats();
        std::thread::sleep(time);
        let to = self.emulator.stats();
        if self.rng.random_bool(0.2) {
            self.cut();
        }
        self.faults.freeze(false);
        from.frames_in == to.frames_in && self.soon(PATIENCE, |s| s.frames_in > to.frames_in)
    }

    /// Seen: a recovery came while nothing had been cut, so a client gave the silent peer up.
    /// Sometimes the peer stays silent for the new links too, so that attempts fail.
    fn half_open(&mut self) -> bool {
        let before = self.emulator.stats();
        self.faults.freeze(true);
        let limit = PATIENCE + DEAD_AFTER;
        let seen = self.soon(limit, |s| s.recoveries_accepted > before.recoveries_accepted);
        let more = RECOVERY_ATTEMPT.mul_f64(self.rng.random_range(0.0..1.5));
        std::thread::sleep(more);
        self.faults.freeze(false);
        seen
    }

    /// Seen: publications came at most as fast as the pause allows each publisher (one for each
    /// pause), and at less than half of the run's mean rate.
    fn slow_read(&mut self) -> bool {
        let pause = self.millis(30, 50);
        self.faults.slow_read(Some(pause));
        std::thread::sleep(pause);
        let (from, start) = (self.emulator.stats(), Instant::now());
        std::thread::sleep(self.millis(200, 400));
        let (to, time) = (self.emulator.stats(), start.elapsed());
        self.faults.slow_read(None);
        let came = to.publications - from.publications;
        let mean = from.publications as f64 / self.started.elapsed().as_secs_f64();
        let each = time.as_secs_f64() / pause.as_secs_f64() + 2.0;
        came > 0
            && came as f64 <= each * self.publishers as f64
            && (came as f64) < mean * time.as_secs_f64() / 2.0
    }

    /// Seen: a client recognised and dropped repeated messages.
    fn duplicate_replay(&mut self) -> bool {
        let dropped = |clients: &[Client]| -> u64 {
            clients.iter().map(|client| client.stats().duplicates).sum()
        };
        self.faults.duplicate_replay(true);
        std::thread::sleep(self.millis(0, 60));
        let before = dropped(self.clients);
        let subscriber = self.rng.random_range(self.publishers..self.clients.len());
        self.cut_one(&self.clients[subscriber]);
        let seen = self.soon(PATIENCE, |_| dropped(self.clients) > before);
        self.faults.duplicate_replay(false);
        seen
    }
}
