//! The publisher of a stream against a pure model of the service, with latency, refusals, losses and
//! recoveries from a seed.
//!
//! Whatever happens, subscribers have seen a prefix of what was sent, each fragment once and in
//! order, and a `finish` that succeeds means that they have seen all of it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::scenario::{frame, text};
use super::{ms, secs};
use crate::error::{Error, ErrorKind};
use crate::protocol::NamedError;
use crate::session::stream_writer::{Emit, StreamConfig, StreamWriter};

/// What the service sends to the publisher.
#[derive(Debug)]
enum Down {
    Ack(u64),
    Nack(u64, &'static str),
    Closed(Option<&'static str>),
}

/// One stream, as the service keeps it.
struct Service {
    alive: bool,
    expected: u64,
    unacked: u32,
    batch: u32,
    last_activity: Instant,
    idle: Duration,
    /// What subscribers see.
    published: Vec<String>,
    ended: Option<End>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Complete,
    Aborted,
    Idle,
}

impl Service {
    fn take(&mut self, now: Instant, up: Emit, refuses: bool) -> Vec<Down> {
        self.expire(now);
        match up {
            Emit::Start => {
                self.alive = true;
                self.last_activity = now;
                vec![Down::Ack(1)]
            }
            _ if !self.alive => vec![Down::Closed(Some("StreamNotFound"))],
            Emit::Fragment(frame) | Emit::Probe(frame) => self.fragment(now, text(&frame), refuses),
            Emit::KeepAlive => {
                self.last_activity = now;
                Vec::new()
            }
            Emit::End => self.end(End::Complete),
            Emit::Abort(_) => self.end(End::Aborted),
        }
    }

    fn fragment(&mut self, now: Instant, number: String, refuses: bool) -> Vec<Down> {
        let number: u64 = number.parse().expect("a number");
        if number < self.expected {
            return vec![Down::Ack(self.expected)];
        }
        if number > self.expected {
            return vec![Down::Nack(self.expected, "InvalidSequenceId")];
        }
        if refuses {
            return vec![Down::Nack(self.expected, "TransientError")];
        }
        self.published.push(number.to_string());
        self.expected += 1;
        self.last_activity = now;
        self.unacked += 1;
        if self.unacked < self.batch {
            return Vec::new();
        }
        self.unacked = 0;
        vec![Down::Ack(self.expected)]
    }

    fn end(&mut self, end: End) -> Vec<Down> {
        self.alive = false;
        self.ended.get_or_insert(end);
        vec![Down::Closed(None)]
    }

    fn expire(&mut self, now: Instant) -> bool {
        let idle = self.alive && now >= self.last_activity + self.idle;
        if idle {
            self.end(End::Idle);
        }
        idle
    }
}

struct World {
    rng: StdRng,
    now: Instant,
    writer: StreamWriter,
    service: Service,
    link: bool,
    up: VecDeque<(Instant, Emit)>,
    down: VecDeque<(Instant, Down)>,
    sent: u64,
    finishing: bool,
    /// How likely a fragment is refused for the moment.
    refusals: f64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let now = Instant::now();
        let idle = secs(rng.random_range(3..60));
        let config = StreamConfig {
            max_unacked_fragments: rng.random_range(1..40),
            idle_timeout: idle,
            ..StreamConfig::default()
        };
        let service = Service {
            alive: false,
            expected: 1,
            unacked: 0,
            // Larger than the window now and then: then only probes bring acks.
            batch: rng.random_range(1..60),
            last_activity: now,
            idle,
            published: Vec::new(),
            ended: None,
        };
        let refusals = [0.0, 0.05, 0.4][rng.random_range(0..3)];
        Self {
            writer: StreamWriter::new(config, now, true, now + secs(30)),
            rng,
            now,
            service,
            link: true,
            up: VecDeque::new(),
            down: VecDeque::new(),
            sent: 0,
            finishing: false,
            refusals,
        }
    }

    /// Takes what is to be written. Without a link nothing may be.
    fn carry(&mut self) {
        while let Some(emit) = self.writer.output() {
            assert!(self.link, "{emit:?} without a link");
            let earliest = self.up.back().map_or(self.now, |(at, _)| *at);
            let at = (self.now + ms(self.rng.random_range(0..30))).max(earliest);
            self.up.push_back((at, emit));
        }
        self.check();
    }

    fn check(&self) {
        let expected: Vec<String> =
            (1..=self.service.published.len() as u64).map(|n| n.to_string()).collect();
        assert_eq!(self.service.published, expected, "once each, in order");
        let published = self.service.published.len() as u64;
        assert!(self.writer.acked() <= published && published <= self.sent);
        if self.service.ended == Some(End::Complete) && self.finishing {
            assert_eq!(published, self.sent, "a stream that looks complete is");
        }
        if matches!(self.writer.outcome(), Some(Ok(()))) {
            assert_eq!(self.service.ended, Some(End::Complete));
            assert_eq!(published, self.sent);
        }
    }

    fn answer(&mut self, down: Vec<Down>) {
        for message in down {
            let earliest = self.down.back().map_or(self.now, |(at, _)| *at);
            let at = (self.now + ms(self.rng.random_range(0..30))).max(earliest);
            self.down.push_back((at, message));
        }
    }

    /// Goes to the next thing that happens, but not beyond the given instant.
    fn step(&mut self, until: Instant) {
        let front = |at: Option<Instant>| at.filter(|_| self.link);
        let next = [
            front(self.up.front().map(|(at, _)| *at)),
            front(self.down.front().map(|(at, _)| *at)),
            self.writer.next_wake(),
            Some(until),
        ];
        self.now = self.now.max(next.into_iter().flatten().min().unwrap_or(until));
        if self.service.expire(self.now) && self.link {
            self.answer(vec![Down::Closed(Some("IdleTimeout"))]);
        }
        if self.link && self.up.front().is_some_and(|(at, _)| *at <= self.now) {
            let Some((_, emit)) = self.up.pop_front() else { return };
            let refuses = self.rng.random_bool(self.refusals);
            let answers = self.service.take(self.now, emit, refuses);
            self.answer(answers);
        }
        if self.link && self.down.front().is_some_and(|(at, _)| *at <= self.now) {
            match self.down.pop_front() {
                Some((_, Down::Ack(n))) => self.writer.ack(self.now, n),
                Some((_, Down::Nack(n, name))) => self.writer.nack(self.now, n, name),
                Some((_, Down::Closed(name))) => {
                    let error = name.map(|name| NamedError { name: name.into(), message: None });
                    self.writer.closed(self.now, error.as_ref());
                }
                None => {}
            }
        }
        if self.writer.next_wake().is_some_and(|at| at <= self.now) {
            self.writer.tick(self.now);
            assert!(self.writer.next_wake().is_none_or(|at| at > self.now), "a tick left undone");
        }
        self.carry();
    }

    fn run_for(&mut self, duration: Duration) {
        let until = self.now + duration;
        let mut steps = 0;
        while self.now < until {
            self.step(until);
            steps += 1;
            assert!(steps < 1_000_000, "time stands still");
        }
    }

    fn send(&mut self) {
        if self.finishing || !self.writer.is_open() || !self.writer.has_room(4) {
            return;
        }
        let number = self.writer.next_number();
        self.writer.send(self.now, frame(&number.to_string())).expect("it is open");
        self.sent = number;
        self.carry();
    }

    /// All that is under way is lost, in both directions; the service may have taken part of it.
    fn lose(&mut self) {
        let taken = self.rng.random_range(0..=self.up.len());
        for (_, emit) in self.up.drain(..taken).collect::<Vec<_>>() {
            self.service.take(self.now, emit, false);
        }
        self.up.clear();
        self.down.clear();
        self.link = false;
        self.writer.lost();
        self.carry();
    }

    fn recover(&mut self) {
        self.link = true;
        self.writer.linked(self.now);
        self.carry();
    }

    fn run_until_the_end_is_under_way(&mut self) {
        let is_end = |(_, emit): &(Instant, Emit)| *emit == Emit::End;
        for _ in 0..3000 {
            if self.up.iter().any(is_end) || self.writer.outcome().is_some() {
                return;
            }
            self.run_for(ms(1));
        }
    }

    fn new_connection(&mut self) {
        self.service.alive = false;
        self.up.clear();
        self.down.clear();
        self.link = true;
        self.writer.session_over(&Error::new(ErrorKind::Disconnected, "gone"));
        self.writer.linked(self.now);
        self.carry();
    }

    fn act(&mut self) {
        match self.rng.random_range(0..100) {
            0..60 => (0..self.rng.random_range(1..20)).for_each(|_| self.send()),
            60..64 if self.link => self.lose(),
            64..80 if !self.link => self.recover(),
            80 if self.rng.random_bool(0.05) => self.new_connection(),
            81..84 => self.run_for(ms(5_000)),
            _ => {
                let pause = ms(self.rng.random_range(0..200));
                self.run_for(pause);
            }
        }
    }

    /// A program finishes what it has opened.
    fn finish(&mut self) {
        while !self.writer.is_open() && self.writer.outcome().is_none() {
            self.run_for(ms(10));
        }
        self.finishing = true;
        self.writer.finish(self.now, self.now + secs(120));
        self.carry();
    }
}

#[test]
fn subscribers_see_a_prefix_and_after_success_the_whole() {
    let (mut succeeded, mut failed) = (0, 0);
    for seed in 0..250 {
        let mut world = World::new(seed);
        world.carry();
        for _ in 0..world.rng.random_range(1..120) {
            world.act();
        }
        world.finish();
        if world.link && world.rng.random_bool(0.4) {
            // The end or its answer is lost, and perhaps the stream ends by itself meanwhile.
            world.run_until_the_end_is_under_way();
            let without = ms(world.rng.random_range(0..40_000));
            world.lose();
            world.run_for(without);
            world.recover();
        }
        for _ in 0..world.rng.random_range(0..20) {
            world.act();
        }
        if !world.link {
            world.recover();
        }
        world.run_for(secs(200));
        match world.writer.outcome() {
            Some(Ok(())) => succeeded += 1,
            Some(Err(error)) => {
                failed += 1;
                assert_ne!(error.kind(), ErrorKind::Internal);
                assert!(!error.to_string().contains("broke the rules"), "{seed}: {error}");
            }
            None => panic!("{seed}: neither success nor failure within the deadline"),
        }
        assert!(world.writer.is_over());
    }
    // Else little would have been tested.
    assert!(succeeded > 50 && failed > 10, "{succeeded} {failed}");
}

#[test]
fn without_a_loss_every_stream_succeeds_however_much_is_refused() {
    for seed in 0..200 {
        let mut world = World::new(seed);
        world.refusals = world.refusals.min(0.1);
        world.service.idle = secs(3600);
        world.run_for(secs(1));
        for _ in 0..50 {
            world.send();
            world.run_for(ms(20));
        }
        assert!(world.sent > 0);
        world.finish();
        world.run_for(secs(130));
        assert!(matches!(world.writer.outcome(), Some(Ok(()))), "{seed}: {:?}", world.writer);
    }
}
