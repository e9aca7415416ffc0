//! Random operations against the invariants. A failure names its seed; `run(seed)` repeats it.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::grammar::State;
use super::scenario::{frame, identity, loss, loss_by, text};
use super::{ms, secs};
use crate::error::{Error, ErrorKind};
use crate::message::Event;
use crate::protocol::{Decoder, Downstream, Frame, Protocol};
use crate::session::{Call, CallKind, Config, Key, Loss, Output, Session};

const RUNS: u64 = 2_000;
const OPERATIONS: usize = 200;
const CAP: usize = 5;

/// Drives a session as the client does, knowing nothing but its outputs.
struct World {
    rng: StdRng,
    session: Session<u64>,
    now: Instant,
    state: State,
    dialing: bool,
    linked: bool,
    /// A Close frame is out on this link.
    closing: bool,
    next_id: u64,
    /// Calls that have not ended, by waiter, which is the id.
    open: BTreeSet<u64>,
    ended: BTreeSet<u64>,
    deadlines: BTreeMap<u64, Instant>,
    /// What has been sent under each id, ever.
    sent: BTreeMap<u64, String>,
    /// Ids that were written on the present link and have not ended.
    on_link: BTreeSet<u64>,
    /// Invocations that the service was told to cancel.
    cancelled: BTreeSet<u64>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let config = Config {
            recoverable: rng.random_bool(0.8),
            url_provider: rng.random_bool(0.7),
            auto_reconnect: rng.random_bool(0.9),
            rejoin: rng.random_bool(0.9),
            resend_on_new_connection: rng.random_bool(0.3),
            max_reconnect_attempts: rng.random_bool(0.1).then_some(3),
            max_in_flight: CAP,
            max_in_flight_bytes: 60,
            ..Config::default()
        };
        Self {
            session: Session::new(config, seed),
            rng,
            now: Instant::now(),
            state: State::New,
            dialing: false,
            linked: false,
            closing: false,
            next_id: 1,
            open: BTreeSet::new(),
            ended: BTreeSet::new(),
            deadlines: BTreeMap::new(),
            sent: BTreeMap::new(),
            on_link: BTreeSet::new(),
            cancelled: BTreeSet::new(),
        }
    }

    fn operate(&mut self) {
        match self.rng.random_range(0..100) {
            0..25 => self.call(),
            25..45 => self.ack(),
            45..52 => self.withdraw(),
            52..77 => self.proceed(),
            77..88 if self.rng.random_bool(0.3) => self.lose(),
            88..98 => self.pass_time(),
            98 => self.session.service_said(Some("so long".into())),
            _ if self.rng.random_bool(0.05) => self.session.close(self.now),
            _ => {}
        }
        self.drain();
    }

    fn call(&mut self) {
        let reuse = self.rng.random_bool(0.1);
        let id = if reuse { self.rng.random_range(1..=self.next_id) } else { self.next_id };
        if self.ended.contains(&id) {
            return; // the service would call it a duplicate
        }
        if self.open.contains(&id) {
            assert!(
                !matches!(key(id), Key::Ack(_))
                    || self.session.refuses(Key::Ack(id), &CallKind::Message).is_some()
            );
            return;
        }
        let id = self.next_id;
        self.next_id += 1;
        let group = format!("g{}", self.rng.random_range(0..4));
        let key = key(id);
        let (kind, what) = match (key, self.rng.random_range(0..4)) {
            (Key::Invocation(_), _) => (CallKind::Invoke, "invoke"),
            (Key::Ack(_), 0) => (CallKind::Join(group.as_str().into()), "join"),
            (Key::Ack(_), 1) => (CallKind::Leave(group.as_str().into()), "leave"),
            (_, 2) => (CallKind::Event, "event"),
            _ => (CallKind::Message, "say"),
        };
        let padding = "x".repeat(self.rng.random_range(0..30));
        self.open.insert(id);
        let frame = frame(&format!("{id} {what} {group} {padding}"));
        let deadline = self.now + ms(self.rng.random_range(1..40_000));
        self.deadlines.insert(id, deadline);
        let mut call = Call::new(key, kind, frame, deadline);
        call.waiter = Some(id);
        self.session.call(self.now, call);
    }

    /// An answer for a random id: in flight, waiting, ended, or never heard of.
    fn ack(&mut self) {
        if !self.linked {
            return;
        }
        let id = match self.on_link.first() {
            Some(id) if self.rng.random_bool(0.7) => *id,
            _ => self.rng.random_range(0..self.next_id + 3),
        };
        if matches!(key(id), Key::Invocation(_)) {
            return self.answer(id);
        }
        let name = ["", "", "Duplicate", "Forbidden"][self.rng.random_range(0..4)];
        let error = (!name.is_empty()).then(|| (name.to_owned(), String::new()));
        self.session.ack(self.now, id, error.is_none(), error);
        if !self.open.contains(&id) {
            self.on_link.remove(&id); // a rejoin, which completes nobody
        }
    }

    fn answer(&mut self, id: u64) {
        let frame = [r#","success":true"#, r#","success":false"#, r#","success":7"#]
            [self.rng.random_range(0..3)];
        let frame = format!(r#"{{"type":"invokeResponse","invocationId":"{id}"{frame}}}"#);
        let answer = match Decoder::new(Protocol::Json).decode(&Frame::Text(frame.into())) {
            Ok(Downstream::InvokeResponse(response)) => Ok(response),
            Ok(other) => panic!("{other:?}"),
            Err(malformed) => Err(malformed.why),
        };
        let ends = self.on_link.contains(&id);
        self.session.answer(self.now, &id.to_string(), answer);
        self.drain();
        assert!(!ends || !self.open.contains(&id), "an answered invocation has ended");
    }

    fn withdraw(&mut self) {
        let id = self.rng.random_range(0..self.next_id + 1);
        if self.open.contains(&id) && matches!(key(id), Key::Invocation(_)) {
            // Unless it ends at its deadline first.
            let in_time = self.now < self.deadlines[&id];
            assert_eq!(self.session.cancel_invocation(self.now, id), in_time);
            self.drain();
            assert!(!self.open.contains(&id));
        } else if self.open.contains(&id) {
            let deadline = self.session.calls.get(key(id)).map_or(self.now, |call| call.deadline);
            self.session.withdraw(self.now, key(id), deadline);
            self.drain();
            assert!(!self.open.contains(&id));
        }
    }

    /// What is under way goes on: a dial ends, the service speaks.
    fn proceed(&mut self) {
        if self.dialing {
            self.dialing = false;
            // Most runs survive the first connection, else there is little to see.
            if self.rng.random_bool(if self.state == State::New { 0.98 } else { 0.6 }) {
                self.linked = true;
                self.session.linked(self.now);
            } else {
                let error = self.dial_error();
                self.session.dial_failed(self.now, error);
            }
        } else if self.linked {
            // On a new link `connected` is likely, on one for recovery any frame.
            let likely = if self.session.is_open() || self.session.is_proving() { 0 } else { 6 };
            match self.rng.random_range(likely..10) {
                0 if self.rng.random_bool(0.1) => self.session.suspend(),
                1 if self.rng.random_bool(0.2) => self.session.recovery_stalled(self.now),
                0..3 => self.session.recovered(self.now, 0),
                3..6 => self.session.proved(self.now),
                _ => {
                    let old = self.session.identity().map(|i| i.connection_id.to_string());
                    let id = match old {
                        Some(id) if self.rng.random_bool(0.9) => id,
                        _ => format!("c{}", self.rng.random::<u32>()),
                    };
                    let token = self.rng.random_bool(0.9).then_some("t");
                    self.session.connected(self.now, identity(&id, token));
                }
            }
        } else if self.state == State::New {
            self.session.start(self.now);
        }
    }

    fn dial_error(&mut self) -> Error {
        let error = Error::new(ErrorKind::Connect, "dialing failed");
        let fatal = self.rng.random_bool(0.1);
        let statuses = if fatal { [401, 404, 302] } else { [502, 429, 503] };
        match self.rng.random_bool(0.5).then(|| statuses[self.rng.random_range(0..3)]) {
            None if self.rng.random_bool(0.02) => Error::new(ErrorKind::Subprotocol, "none"),
            None => error,
            Some(status) => {
                Error::new(ErrorKind::Upgrade, "refused").with_http_status(status).with_retry_after(
                    self.rng.random_bool(0.3).then(|| secs(self.rng.random_range(0..100))),
                )
            }
        }
    }

    fn lose(&mut self) {
        if !std::mem::take(&mut self.linked) {
            return;
        }
        self.on_link.clear();
        // The link goes first, so that nothing is written to it any more.
        self.session.suspend();
        let codes = [None, None, None, None, None, Some(1000), Some(1001), Some(1007), Some(1012)];
        self.session.lost(
            self.now,
            Loss {
                violation: self.rng.random_bool(0.05),
                unsent: self.rng.random_range(0..3),
                ..loss_by(codes[self.rng.random_range(0..codes.len())])
            },
        );
    }

    fn pass_time(&mut self) {
        let at = match self.session.next_wake() {
            Some(at) if self.rng.random_bool(0.7) => at,
            _ => self.now + ms(self.rng.random_range(0..20_000)),
        };
        self.now = self.now.max(at);
        if self.rng.random_bool(0.3) {
            return; // the reader is late, whatever comes first
        }
        self.session.tick(self.now);
        let next = self.session.next_wake();
        self.drain();
        assert!(next.is_none_or(|at| at > self.now) || self.may_wake_now(), "a tick left undone");
    }

    /// A delay of zero by jitter or by the end of the recovery window is due in the same instant.
    fn may_wake_now(&mut self) -> bool {
        self.session.tick(self.now);
        self.drain();
        self.session.next_wake().is_none_or(|at| at > self.now)
    }

    fn drain(&mut self) {
        while let Some(output) = self.session.output() {
            match output {
                Output::Send { frame, unwaited, .. } => self.check_send(&text(&frame), unwaited),
                Output::Ping => assert!(self.linked),
                Output::Complete { waiter, result } => {
                    if let Some(error) = result.err().filter(Error::is_timeout) {
                        let written = self.sent.contains_key(&waiter);
                        assert_eq!(error.may_have_been_delivered(), written);
                    }
                    self.end(waiter);
                }
                Output::Event(event) => self.check_event(&event),
                // Of a leave, whose outcome is checked by itself.
                Output::Released { .. } => {}
                Output::Answer { waiter, .. } => {
                    assert!(self.sent.contains_key(&waiter), "it was never asked");
                    self.end(waiter);
                }
                Output::CancelInvocation { id } => {
                    assert!(self.linked && !self.closing, "no link to write to");
                    assert!(self.sent.contains_key(&id), "there is nothing to cancel");
                    assert!(self.cancelled.insert(id), "cancelled twice");
                }
                Output::StateLost { .. } => unreachable!("no state is set or watched"),
                Output::Stream { .. } => unreachable!("no stream is opened"),
                Output::CloseLink { .. } => {
                    assert!(self.linked && !self.closing);
                    self.closing = true;
                }
                Output::CutLink => {
                    self.linked = false;
                    self.on_link.clear();
                }
                Output::Dial(dial) => {
                    assert!(!self.linked && !self.dialing, "one link at a time");
                    assert!(dial.until >= self.now);
                    self.dialing = true;
                }
            }
        }
        assert!(self.on_link.len() <= CAP, "{} calls in flight", self.on_link.len());
    }

    fn check_send(&mut self, text: &str, unwaited: bool) {
        assert!(self.linked && self.session.is_open() && !self.closing, "no place to send to");
        let id: u64 = text.split(' ').next().and_then(|n| n.parse().ok()).expect("an id");
        // (A join that has ended is sent again by the rejoin, under another deadline.)
        if self.open.contains(&id) {
            assert!(self.now < self.deadlines[&id], "sent after its deadline");
        }
        if unwaited {
            assert!(self.sent.insert(id, text.into()).is_none(), "fire and forget goes once");
            return;
        }
        assert!(self.on_link.insert(id), "id {id} is in flight twice");
        if matches!(key(id), Key::Invocation(_)) {
            assert!(!self.sent.contains_key(&id), "an invocation is sent once");
        }
        let before = self.sent.entry(id).or_insert_with(|| text.into());
        assert_eq!(before, text, "what is sent again is identical");
        assert!(
            text.contains(" join ") || self.open.contains(&id),
            "a call that ended was sent again"
        );
    }

    fn check_event(&mut self, event: &Event) {
        self.state.check(event);
        if let Event::JoinFailed(e) = event {
            let join = format!(" join {} ", e.group);
            let ids: Vec<u64> =
                self.sent.iter().filter(|(_, t)| t.contains(&join)).map(|(id, _)| *id).collect();
            let Self { open, on_link, .. } = self;
            on_link.retain(|id| open.contains(id) || !ids.contains(id));
        }
        if matches!(event, Event::Connected(_)) {
            self.on_link.clear(); // a service may replace the connection on its link
        }
    }

    fn end(&mut self, id: u64) {
        assert!(self.open.remove(&id), "call {id} ended twice");
        self.ended.insert(id);
        self.on_link.remove(&id);
    }

    fn stop(&mut self) {
        self.session.stop(Error::closed());
        self.drain();
        assert_eq!(self.state, State::Ended);
        assert!(self.open.is_empty(), "calls that never ended: {:?}", self.open);
        assert_eq!((self.session.pending(), self.session.next_wake()), (0, None));
    }

    /// Whatever happens now, nothing but refusals comes of it.
    fn check_the_rest(&mut self) {
        self.session.start(self.now);
        self.session.linked(self.now);
        self.session.connected(self.now, identity("late", Some("t")));
        self.session.proved(self.now);
        self.session.recovered(self.now, 1);
        self.session.recovery_stalled(self.now);
        self.session.lost(self.now, loss());
        self.session.dial_failed(self.now, Error::closed());
        self.session.tick(self.now + secs(100));
        self.session.close(self.now);
        self.session.stop(Error::closed());
        assert!(self.session.output().is_none());
        let until = self.now + secs(1);
        let fire = Call::new(Key::Unacked(0), CallKind::Message, frame("late"), until);
        assert!(self.session.fire(self.now, fire).is_err());
        let id = self.next_id;
        self.open.insert(id);
        let mut call = Call::new(Key::Ack(id), CallKind::Message, frame("late"), until);
        call.waiter = Some(id);
        self.session.call(self.now, call);
        self.drain();
        assert!(self.open.is_empty() && self.session.next_wake().is_none());
    }
}

/// Every fifth call is fire and forget, and some are invocations.
fn key(id: u64) -> Key {
    match id % 10 {
        0 | 5 => Key::Unacked(id),
        2 => Key::Invocation(id),
        _ => Key::Ack(id),
    }
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..OPERATIONS {
        world.operate();
        if world.state == State::Ended {
            break;
        }
    }
    world.stop();
    world.check_the_rest();
}

#[test]
fn random_operations_break_no_invariant() {
    for seed in 0..RUNS {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            panic!("seed {seed}: {}", text.unwrap_or_default());
        }
    }
}
