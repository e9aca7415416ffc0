//! Schedules from seeds.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::schedule::{
    Action, Answer, ClientSetup, Consume, DialFate, LinkFault, Schedule, Setup, What,
};
use crate::client::Overflow;
use crate::emulator::virtual_service::Fault;
use crate::protocol::Protocol;

const GROUPS: u8 = 3;

/// What a run is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// A few dozen actions, nearly all of them trouble.
    Small,
    /// Much traffic, and some trouble.
    Bulk,
}

pub(super) fn schedule(seed: u64, style: Style) -> Schedule {
    Generator {
        rng: StdRng::seed_from_u64(seed),
        now: 0,
        actions: Vec::new(),
        clients: 0,
        setups: Vec::new(),
        latency: 0,
    }
    .make(seed, style)
}

struct Generator {
    rng: StdRng,
    now: u32,
    actions: Vec<(u32, Action)>,
    clients: usize,
    setups: Vec<ClientSetup>,
    /// In milliseconds.
    latency: u32,
}

impl Generator {
    fn make(mut self, seed: u64, style: Style) -> Schedule {
        let calm = self.one_in(10);
        self.clients = self.rng.random_range(1..=3);
        let clients: Vec<ClientSetup> = (0..self.clients)
            .map(|index| {
                let protocol = Protocol::ALL[(seed as usize + index) % Protocol::ALL.len()];
                self.client(protocol, style, calm)
            })
            .collect();
        self.setups.clone_from(&clients);
        let setup = Setup {
            seed,
            connected_after_recovery: self.rng.random(),
            failed_event_closes: !calm && self.one_in(8),
            // On a long line the service may run out of its 1000 messages.
            latency: [100, 1_000, 20_000, 150_000]
                [self.rng.random_range(0..if calm { 2 } else { 4 })],
            calm,
            clients,
        };
        self.latency = setup.latency / 1_000;
        if !calm && self.one_in(50) {
            let fate = self.dial_fate();
            self.push(Action::Dial { client: 0, fate });
        }
        self.now = 1_000;
        for client in 0..self.clients {
            for group in 0..self.rng.random_range(1..=GROUPS) {
                self.call(client, What::Join(group), 1);
            }
        }
        if !calm && self.one_in(80) {
            self.flood();
        }
        match style {
            Style::Small => self.small(calm),
            Style::Bulk => self.bulk(calm),
        }
        Schedule { setup, actions: self.actions }
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.rng.random_ratio(1, n)
    }

    fn push(&mut self, action: Action) {
        self.actions.push((self.now, action));
    }

    fn any_client(&mut self) -> usize {
        self.rng.random_range(0..self.clients)
    }

    fn group(&mut self) -> u8 {
        self.rng.random_range(0..GROUPS)
    }

    fn client(&mut self, protocol: Protocol, style: Style, calm: bool) -> ClientSetup {
        let small = style == Style::Small && !calm && self.rng.random_bool(0.7);
        let overflow = match self.rng.random_range(0..10) {
            _ if calm => Overflow::Wait,
            0..2 => Overflow::DropNewest,
            2 if small => Overflow::Stop,
            _ => Overflow::Wait,
        };
        let (soft, hard) = if small { (4, 8) } else { (1024, 16 * 1024) };
        ClientSetup {
            protocol,
            soft,
            hard,
            overflow,
            auto_reconnect: !self.one_in(10),
            rejoin: !self.one_in(10),
            resend: self.one_in(6),
            url_provider: self.rng.random_bool(0.7),
            max_in_flight: if style == Style::Bulk {
                256
            } else {
                [2, 5, 256][self.rng.random_range(0..3)]
            },
            keep_alive: match self.rng.random_range(0..4) {
                0 => None,
                1 => Some((1_000, 3_000)),
                _ => Some((10_000, 20_000)),
            },
            call_timeout: [2_000, 30_000][self.rng.random_range(0..2)],
            high_water: if small { 2_000 } else { 1 << 20 },
            socket: if small { 1_500 } else { 1 << 18 },
            callers_first: self.rng.random(),
        }
    }

    // --- actions -------------------------------------------------------------------------------

    fn pause(&mut self) {
        let ms = match self.rng.random_range(0..100) {
            0..40 => 0,
            40..70 => self.rng.random_range(0..20),
            70..90 => self.rng.random_range(0..700),
            90..97 => self.rng.random_range(0..6_000),
            _ => self.rng.random_range(0..40_000),
        };
        self.now += ms;
    }

    fn small(&mut self, calm: bool) {
        for _ in 0..self.rng.random_range(5..60) {
            self.pause();
            match self.rng.random_range(0..100) {
                0..45 => self.some_call(calm),
                45..62 => {
                    let count = if calm { 50 } else { self.burst() };
                    let group = self.group();
                    let size = self.size().min(30_000 / count);
                    self.push(Action::Publish { group, count, size });
                }
                62..70 if !calm => self.consumer(),
                70..78 => self.subscription(),
                78..98 if !calm => self.trouble(),
                98 if !calm && self.one_in(2) => {
                    let client = self.any_client();
                    self.push(Action::Close { client });
                }
                _ => {}
            }
        }
    }

    /// More than a client whose consumer pauses may keep.
    fn flood(&mut self) {
        let waits = |client: &usize| {
            let setup = &self.setups[*client];
            setup.overflow == Overflow::Wait && !setup.protocol.is_reliable()
        };
        let Some(client) = (0..self.clients).find(waits) else { return };
        self.push(Action::Consumer { client, mode: Consume::Paused });
        let group = self.group();
        self.call(client, What::Join(group), 1);
        for _ in 0..5 {
            self.now += 700;
            self.push(Action::Publish { group, count: 600, size: 0 });
        }
        self.now += 1_000;
        self.push(Action::Consumer { client, mode: Consume::Greedy });
    }

    /// The ack of a join is lost, that of the leave behind it is not, and the join is sent again.
    fn late_join(&mut self, client: usize) {
        let group = self.group();
        self.push(Action::Hub(Fault::LoseAcks(1)));
        self.call(client, What::Join(group), 1);
        self.call(client, What::Leave(group), 1);
        self.now += 900;
        self.push(Action::Link { client, fault: LinkFault::Reset });
        self.now += 5_000;
    }

    /// The reader is late between the end of the dial and the first frame, and a deadline passes.
    fn late_proof(&mut self, client: usize) {
        self.push(Action::Link { client, fault: LinkFault::Reset });
        // A dial takes four times the latency and a millisecond.
        self.now += 6 * self.latency + 1;
        self.push(Action::Stall { client, ms: 800 });
        let what = What::Send { group: 0, size: 1 };
        self.push(Action::Call { client, what, count: 1, within: 500, waits: false });
        self.now += 3_000;
    }

    /// Bursts of messages and calls for some seconds; between them now and then trouble.
    fn bulk(&mut self, calm: bool) {
        let size = self.size().min(1_000);
        let publish = self.rng.random_range(20..150);
        let calls = self.rng.random_range(1..60);
        for _ in 0..self.rng.random_range(100..400) {
            self.now += self.rng.random_range(2..12);
            let group = self.group();
            self.push(Action::Publish { group, count: publish, size });
            let client = self.any_client();
            let group = self.group();
            let what = match self.rng.random_bool(0.7) {
                true => What::Send { group, size },
                false => What::Fire { group, size },
            };
            self.push(Action::Call { client, what, count: calls, within: 30_000, waits: false });
            if !calm && self.one_in(60) {
                self.trouble();
            }
            if !calm && self.one_in(100) {
                self.consumer();
            }
        }
    }

    fn burst(&mut self) -> u16 {
        match self.rng.random_range(0..10) {
            0..5 => 1,
            5..8 => self.rng.random_range(1..20),
            8 => self.rng.random_range(1..60),
            _ => [30, 60, 100, 990][self.rng.random_range(0..4)],
        }
    }

    fn size(&mut self) -> u16 {
        match self.rng.random_range(0..10) {
            0..7 => self.rng.random_range(0..60),
            7..9 => self.rng.random_range(0..600),
            _ => self.rng.random_range(0..10_000),
        }
    }

    fn call(&mut self, client: usize, what: What, count: u16) {
        let within = match self.rng.random_range(0..10) {
            0..2 => self.rng.random_range(1..1_000),
            2..4 => self.rng.random_range(1..8_000),
            4 => 60_000,
            _ => 30_000,
        };
        let waits = self.rng.random();
        self.push(Action::Call { client, what, count, within, waits });
    }

    fn some_call(&mut self, calm: bool) {
        let client = self.any_client();
        let (group, size) = (self.group(), self.size());
        let count = if self.one_in(4) { self.rng.random_range(1..30) } else { 1 };
        let (what, count) = match self.rng.random_range(0..100) {
            0..12 => (What::Join(group), 1),
            12..24 => (What::Leave(group), 1),
            24..60 => (What::Send { group, size }, count),
            60..80 => (What::Fire { group, size }, count),
            _ => (self.event(calm), count.min(3)),
        };
        self.call(client, what, count);
    }

    fn event(&mut self, calm: bool) -> What {
        // A row of slow handlers may be silent for longer than a client waits.
        let handler = match self.rng.random_range(0..if calm { 8 } else { 10 }) {
            0..5 => 0,
            5..8 => self.rng.random_range(0..3_000),
            _ => self.rng.random_range(0..40_000),
        };
        let answer = [Answer::Nothing, Answer::Message, Answer::Failure];
        What::Event { handler, answer: answer[self.rng.random_range(0..3)] }
    }

    fn subscription(&mut self) {
        let client = self.any_client();
        if self.one_in(3) {
            let oldest = self.rng.random();
            return self.push(Action::Unsubscribe { client, oldest });
        }
        let group = self.group();
        let within = [500, 5_000, 30_000][self.rng.random_range(0..3)];
        let waits = self.rng.random();
        let overflow = if self.one_in(4) { Overflow::DropNewest } else { Overflow::Wait };
        self.push(Action::Subscribe { client, group, within, waits, overflow });
    }

    fn consumer(&mut self) {
        let client = self.any_client();
        let mode = match self.rng.random_range(0..4) {
            0 => Consume::Greedy,
            1 => Consume::Slow {
                events: self.rng.random_range(1..20),
                every: self.rng.random_range(1..500),
            },
            _ => Consume::Paused,
        };
        self.push(Action::Consumer { client, mode });
    }

    fn trouble(&mut self) {
        let client = self.any_client();
        let action = match self.rng.random_range(0..100) {
            0..2 => return self.late_join(client),
            2..4 => return self.late_proof(client),
            4..60 => Action::Link { client, fault: self.link_fault(client) },
            60..75 => Action::Dial { client, fate: self.dial_fate() },
            75..92 => Action::Hub(self.hub_fault()),
            92..97 => {
                let ms = if self.one_in(3) { 8_000 } else { 700 };
                Action::Stall { client, ms: self.rng.random_range(1..ms) }
            }
            _ => Action::AppCloses { client },
        };
        self.push(action);
    }

    fn link_fault(&mut self, client: usize) -> LinkFault {
        const CODES: [u16; 12] =
            [1000, 1001, 1002, 1003, 1006, 1007, 1008, 1009, 1011, 1012, 3000, 4999];
        let code = CODES[self.rng.random_range(0..CODES.len())];
        match self.rng.random_range(0..100) {
            0..25 => LinkFault::Reset,
            25..50 => LinkFault::Fin,
            50..65 => LinkFault::BlackHole,
            65..80 => {
                // What the systems hold gets through within some seconds.
                let least = self.setups[client].socket as u32 / 4_000;
                LinkFault::Slow { bytes_per_ms: self.rng.random_range(1..100).max(least) }
            }
            80..91 => LinkFault::Close { code },
            91..93 => LinkFault::CloseWithoutCode,
            _ => LinkFault::LostClose { code },
        }
    }

    fn dial_fate(&mut self) -> DialFate {
        const STATUSES: [u16; 8] = [302, 400, 401, 403, 404, 429, 500, 503];
        match self.rng.random_range(0..10) {
            0..4 => DialFate::Fails,
            4..6 => DialFate::Hangs,
            6..9 => DialFate::Refused {
                status: STATUSES[self.rng.random_range(0..STATUSES.len())],
                retry_after: self.one_in(3).then(|| self.rng.random_range(0..10)),
            },
            _ => DialFate::Mute,
        }
    }

    fn hub_fault(&mut self) -> Fault {
        let count = self.rng.random_range(1..4);
        match self.rng.random_range(0..11) {
            0..2 => Fault::LoseAcks(count),
            2 => Fault::DropBeforeAck(count),
            3 => Fault::DropAfterAck(count),
            4 => Fault::DropBeforeExecution(count),
            5 => Fault::RefuseRecovery(count),
            6 => Fault::DuplicateReplay(self.rng.random()),
            7 => Fault::HoldAcks(self.rng.random()),
            8 => Fault::LoseCloseFrames(self.rng.random()),
            9 => Fault::RefreshTokens,
            _ => Fault::SilentPings(self.rng.random()),
        }
    }
}
