//! Each fault, and where its effect shows; those that end links by a Close, or sessions, are in
//! `endings.rs`.

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use rand::RngExt;
use webpubsub::Client;
use webpubsub::emulator::{StallAt, Stats};

use super::faults::{DEAD_AFTER, Kind, Lab, RECOVERY_ATTEMPT};

/// An effect that does not show within this time is not counted.
pub(super) const PATIENCE: Duration = Duration::from_millis(1500);

/// How long a slow event handler takes at most, in milliseconds. While it runs the emulator answers
/// nothing on that link, so this is longer than a client bears silence without such a reason.
const SLOWEST_HANDLER: u64 = 2 * DEAD_AFTER.as_millis() as u64;

const SERVER_ERRORS: [u16; 4] = [429, 500, 502, 503];
const CLIENT_ERRORS: [u16; 4] = [403, 404, 410, 429];

impl<'a> Lab<'a> {
    /// Cuts one connection, or all.
    pub(super) fn cut(&mut self) {
        if self.rng.random_bool(0.3) {
            return self.faults.drop_connections();
        }
        let client = &self.clients[self.rng.random_range(0..self.clients.len())];
        self.cut_one(client);
    }

    pub(super) fn cut_one(&self, client: &Client) {
        if let Some(id) = client.connection_id() {
            self.faults.drop_connection(&id);
        }
    }

    /// Somebody came back: by a recovery, or in a plain subprotocol by a new connection.
    pub(super) fn returned(&self, now: &Stats, before: &Stats) -> bool {
        if self.scene.reliable {
            now.recoveries_accepted > before.recoveries_accepted
        } else {
            now.connections_opened > before.connections_opened
        }
    }

    /// True if the effect was seen.
    pub(super) fn inject(&mut self, kind: Kind) -> bool {
        let before = self.emulator.stats();
        match kind {
            // Seen: somebody came back. One to three cuts, the later ones into the
            // recoveries from the first.
            Kind::Drop => {
                for _ in 0..self.rng.random_range(1..=3) {
                    self.cut();
                    std::thread::sleep(self.millis(0, 15));
                }
                self.soon(PATIENCE, |s| self.returned(s, &before))
            }
            // Seen: a client reported `ConnectionReset` from its socket.
            Kind::Reset => {
                let resets = self.scene.seen.resets.load(SeqCst);
                self.faults.reset_connections();
                self.soon(PATIENCE, |_| self.scene.seen.resets.load(SeqCst) > resets)
            }
            Kind::Freeze => self.freeze(),
            Kind::HalfOpen => self.half_open(),
            Kind::ServerError => self.refused(&SERVER_ERRORS),
            Kind::ClientError => self.refused(&CLIENT_ERRORS),
            Kind::SlowRead => self.slow_read(),
            Kind::SlowWrite => self.slow_write(),
            Kind::SlowHandler => self.slow_handler(),
            // Seen: the call was sent again and answered `Duplicate`, so it had been executed and
            // its ack had been lost; in plain subprotocols somebody came back, though nobody else
            // has cut anything.
            Kind::DropBeforeAck => {
                let count = self.rng.random_range(1..=3);
                self.faults.drop_before_next_ack(count);
                self.soon(PATIENCE, |s| self.resent(s, &before, count));
                self.faults.drop_before_next_ack(0);
                self.resent(&self.emulator.stats(), &before, 1)
            }
            // Seen: as before. The connections live on without the acks until they are cut.
            Kind::LoseAcks => {
                let count = self.rng.random_range(1..=5);
                self.faults.lose_next_acks(count);
                self.soon(PATIENCE / 3, |s| s.acks >= before.acks + count);
                self.faults.lose_next_acks(0);
                self.faults.drop_connections();
                self.soon(PATIENCE, |s| self.resent(s, &before, count));
                self.resent(&self.emulator.stats(), &before, 1)
            }
            // Seen: somebody came back, though nobody else has cut anything.
            Kind::DropBeforeExecution => {
                self.faults.drop_before_next_execution(1);
                let seen = self.soon(PATIENCE, |s| self.returned(s, &before));
                self.faults.drop_before_next_execution(0);
                seen
            }
            Kind::CutFullQueue => self.cut_full_queue(),
            Kind::CloseRecoverable => self.close_recoverable(),
            Kind::CloseEnding => self.close_ending(),
            Kind::SessionClosed => self.session_closed(),
            Kind::RecoveryRefused => self.recovery_refused(),
            Kind::SessionExpired => self.session_expired(),
            Kind::DuplicateReplay => self.duplicate_replay(),
            // Seen: somebody knocked and was not let in while the fault was on.
            Kind::StalledUpgrade => {
                self.faults.stall(StallAt::Upgrade, true);
                self.cut();
                std::thread::sleep(self.millis(100, 500));
                let during = self.emulator.stats();
                self.faults.stall(StallAt::Upgrade, false);
                during.upgrades_attempted > before.upgrades_attempted
                    && !self.returned(&during, &before)
            }
        }
    }

    fn resent(&self, now: &Stats, before: &Stats, count: u64) -> bool {
        if self.scene.reliable {
            now.duplicates >= before.duplicates + count
        } else {
            now.connections_opened > before.connections_opened
        }
    }

    /// Seen: an upgrade was refused with an HTTP status, which nothing else does here.
    fn refused(&mut self, statuses: &[u16]) -> bool {
        let before = self.emulator.stats().upgrades_refused;
        let status = statuses[self.rng.random_range(0..statuses.len())];
        let count = self.rng.random_range(1..=4);
        self.refuse(count, status);
        self.cut();
        self.soon(PATIENCE, |s| s.upgrades_refused >= before + u64::from(count));
        self.refuse(0, status);
        self.emulator.stats().upgrades_refused > before
    }

    fn refuse(&self, count: u32, status: u16) {
        if self.scene.reliable {
            self.faults.refuse_recoveries(count, status);
        } else {
            self.faults.refuse_next_upgrades(count, status, None);
        }
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

    /// Seen: somebody knocked while nothing had been cut, so a client gave the silent peer up.
    /// Sometimes the peer stays silent for the new links too, so that attempts fail.
    fn half_open(&mut self) -> bool {
        let before = self.emulator.stats();
        self.faults.freeze(true);
        let limit = PATIENCE + DEAD_AFTER;
        let seen = self.soon(limit, |s| s.upgrades_attempted > before.upgrades_attempted);
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
            && came as f64 <= each * self.scene.publishers as f64
            && (came as f64) < mean * time.as_secs_f64() / 2.0
    }

    /// Seen: no more messages came than such a pace allows, and more afterwards. One time in three a
    /// link is cut in the middle of a frame.
    fn slow_write(&mut self) -> bool {
        let received = |clients: &[Client]| -> u64 {
            clients.iter().map(|client| client.stats().messages_in).sum()
        };
        let (bytes, pause) = match self.rng.random_bool(0.5) {
            true => (1, Duration::from_millis(150)),
            false => (self.rng.random_range(1..=32), self.millis(50, 200)),
        };
        self.faults.slow_write(bytes, Some(pause));
        std::thread::sleep(Duration::from_millis(30));
        let (from, start) = (received(self.clients), Instant::now());
        std::thread::sleep(self.millis(300, 900));
        if self.rng.random_bool(0.3) {
            self.cut();
        }
        let (to, time) = (received(self.clients), start.elapsed());
        self.faults.slow_write(bytes, None);
        // No message is shorter than 40 bytes, and each link may have had one under way.
        let pieces = time.as_secs_f64() / pause.as_secs_f64() + 1.0;
        let each = pieces * bytes as f64 / 40.0 + 1.0;
        (to - from) as f64 <= each * self.clients.len() as f64
            && self.soon(PATIENCE, |_| received(self.clients) > to)
    }

    /// Seen: the handler was slow, and nobody dialed for that. Two times in five links are cut while
    /// it may run.
    fn slow_handler(&mut self) -> bool {
        let handler = self.scene.handler;
        let slept = handler.slept.load(SeqCst);
        let dialed = self.emulator.stats().upgrades_attempted;
        let pause = self.millis(SLOWEST_HANDLER / 10, SLOWEST_HANDLER);
        let cut = self.rng.random_bool(0.4);
        handler.slow_down(self.rng.random_range(1..=3), pause);
        if cut {
            std::thread::sleep(pause);
            self.cut();
        }
        let seen = self.soon(PATIENCE, |_| handler.slept.load(SeqCst) > slept);
        handler.slow_down(0, pause);
        seen && (cut || self.emulator.stats().upgrades_attempted == dialed)
    }

    /// Seen: a client recognised and dropped repeated messages.
    fn duplicate_replay(&mut self) -> bool {
        let dropped = |clients: &[Client]| -> u64 {
            clients.iter().map(|client| client.stats().duplicates).sum()
        };
        self.faults.duplicate_replay(true);
        std::thread::sleep(self.millis(0, 60));
        let before = dropped(self.clients);
        let subscriber = self.rng.random_range(self.scene.publishers..self.clients.len());
        self.cut_one(&self.clients[subscriber]);
        let seen = self.soon(PATIENCE, |_| dropped(self.clients) > before);
        self.faults.duplicate_replay(false);
        seen
    }
}
