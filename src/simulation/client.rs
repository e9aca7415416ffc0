//! One client: the real session, receiver, decoder and queue, driven as `client::reader` and
//! `client::shared` drive them, but in one thread and in virtual time.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::checker::Checker;
use super::network::{Incoming, Link, Up};
use super::schedule::{ClientSetup, Consume, DialFate};
use crate::client::{Limits, Queue};
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Ack, Event};
use crate::protocol::{Decoder, Frame, Upstream, encode_upstream};
use crate::session::{
    Call, CallKind, Config, Dial, KeepAliveConfig, Key, Loss, Output, Receiver, Session,
};

/// The most that one look at the socket brings.
pub(super) const READ: usize = 16 * 1024;
/// In one instant; more is a client that spins.
const MOST_ROUNDS: usize = 10_000;

pub(super) struct Dialing {
    pub(super) dial: Dial,
    pub(super) at: Duration,
    pub(super) fate: Option<DialFate>,
}

/// A call that a program has made and the session has not seen yet.
pub(super) struct Prepared {
    pub(super) token: usize,
    pub(super) key: Key,
    pub(super) kind: CallKind,
    pub(super) frame: Frame,
    pub(super) deadline: Duration,
    pub(super) fire: bool,
    pub(super) waits: bool,
}

#[derive(Default)]
struct After {
    events: Vec<Event>,
    dial: Option<Dial>,
    cut: bool,
    completions: Vec<(usize, Result<Ack>)>,
}

pub(super) struct Client {
    pub(super) index: usize,
    pub(super) setup: ClientSetup,
    base: Instant,
    pub(super) session: Session<usize>,
    pub(super) receiver: Receiver,
    decoder: Decoder,
    queue: Queue,
    events: crossbeam_channel::Receiver<Event>,
    calls: Arc<AtomicUsize>,
    attempt: Duration,
    pub(super) link: Option<Link>,
    pub(super) old: Vec<Link>,
    pub(super) dialing: Option<Dialing>,
    pub(super) fates: VecDeque<DialFate>,
    latency: Duration,
    next_id: u64,
    reader_wakes: Option<Instant>,
    session_wake: Option<Instant>,
    woken: bool,
    stop: bool,
    pub(super) stalled_until: Duration,
    waiting: BTreeSet<(Duration, Key)>,
    for_room: VecDeque<Prepared>,
    pub(super) consumer: Consume,
    consume_at: Duration,
    behind: bool,
    stopped: bool,
    /// Sessions that the client reported as over, for the world to judge at once.
    pub(super) over: Vec<Arc<str>>,
    known: Option<Arc<str>>,
    pub(super) frames: u64,
    /// Faults of the network that this client has met.
    pub(super) trouble: u64,
    pub(super) closed_by_program: bool,
    /// A redirect, which ends everything.
    pub(super) redirected: bool,
}

impl Client {
    pub(super) fn new(
        index: usize,
        setup: ClientSetup,
        base: Instant,
        seed: u64,
        latency: Duration,
    ) -> Self {
        let config = Config {
            recoverable: setup.protocol.is_reliable(),
            url_provider: setup.url_provider,
            auto_reconnect: setup.auto_reconnect,
            rejoin: setup.rejoin,
            resend_on_new_connection: setup.resend,
            max_in_flight: setup.max_in_flight,
            call_timeout: ms(setup.call_timeout),
            ..Config::default()
        };
        let attempt = config.recovery_attempt;
        let (interval, dead_after) = match setup.keep_alive {
            Some((interval, dead)) => (Some(ms(interval)), ms(dead)),
            None => (None, Duration::from_secs(20)),
        };
        let calls = Arc::new(AtomicUsize::new(0));
        let limits = Limits {
            soft: setup.soft,
            hard: setup.hard,
            overflow: setup.overflow,
            ..Limits::default()
        };
        let (queue, events) = Queue::new(limits, Arc::clone(&calls));
        Self {
            index,
            decoder: Decoder::new(setup.protocol),
            base,
            session: Session::new(config, seed),
            receiver: Receiver::new(KeepAliveConfig { interval, dead_after }, base),
            queue,
            events,
            calls,
            attempt,
            link: None,
            old: Vec::new(),
            dialing: None,
            fates: VecDeque::new(),
            latency,
            next_id: 1,
            reader_wakes: None,
            session_wake: None,
            woken: false,
            stop: false,
            stalled_until: Duration::ZERO,
            waiting: BTreeSet::new(),
            for_room: VecDeque::new(),
            consumer: Consume::Greedy,
            consume_at: Duration::ZERO,
            behind: false,
            stopped: false,
            over: Vec::new(),
            known: None,
            frames: 0,
            trouble: 0,
            closed_by_program: false,
            redirected: false,
            setup,
        }
    }

    fn at(&self, now: Duration) -> Instant {
        self.base + now
    }

    fn since_base(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.base)
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped
    }

    // --- callers (`client::shared`) ------------------------------------------------------------

    pub(super) fn call(&mut self, now: Duration, call: Prepared, check: &mut Checker) {
        self.for_room.push_back(call);
        self.go_on(now, check);
    }

    /// Callers that wait for room in the out-buffer go on, in order.
    fn go_on(&mut self, now: Duration, check: &mut Checker) {
        while let Some(call) = self.for_room.pop_front() {
            if let Some(call) = self.with_room(now, call, check) {
                self.for_room.push_front(call);
                break;
            }
        }
        let overdue = |call: &Prepared| call.deadline <= now;
        while let Some(at) = self.for_room.iter().position(overdue) {
            let Some(call) = self.for_room.remove(at) else { break };
            let error = Error::new(ErrorKind::Timeout, "no room; nothing was sent");
            check.completed(now, call.token, &Err(error));
        }
    }

    /// The call comes back if it must wait for room.
    fn with_room(
        &mut self,
        now: Duration,
        call: Prepared,
        check: &mut Checker,
    ) -> Option<Prepared> {
        let at = self.at(now);
        let down = self.link.as_ref().is_some_and(|link| link.is_down(now));
        if down {
            self.session.suspend();
        } else if self.link.as_ref().is_some_and(|link| !link.has_room(now)) {
            return Some(call);
        }
        self.session.make_room(at);
        let Prepared { token, key, kind, frame, deadline, fire, waits } = call;
        let deadline_at = self.at(deadline);
        let mut call = Call::new(key, kind, frame, deadline_at);
        if fire {
            match self.session.fire(at, call) {
                Ok(None) => {
                    if down {
                        check.fail("fire and forget on a link that is known to be dead");
                    }
                    self.applied(now, check);
                    check.completed(now, token, &Ok(Ack { ack_id: 0, duplicate: false }));
                    return None;
                }
                Err(error) => {
                    check.completed(now, token, &Err(error));
                    return self.applied(now, check);
                }
                Ok(Some(back)) => {
                    call = back;
                    call.key = Key::Unacked(self.next_id());
                }
            }
        } else if let Some(error) = self.session.refuses(key) {
            check.completed(now, token, &Err(error));
            return self.applied(now, check);
        }
        if waits {
            self.waiting.insert((deadline, call.key));
        }
        call.waiter = Some(token);
        self.session.call(at, call);
        self.applied(now, check)
    }

    fn applied(&mut self, now: Duration, check: &mut Checker) -> Option<Prepared> {
        let after = self.apply(now, check);
        self.finish_on_caller(now, after, check);
        None
    }

    fn finish_on_caller(&mut self, now: Duration, after: After, check: &mut Checker) {
        if !after.events.is_empty() || after.dial.is_some() {
            check.fail("a caller caused an event or a dial");
        }
        for (token, result) in after.completions {
            check.completed(now, token, &result);
        }
        if let Some(link) = &mut self.link {
            link.flush(now);
        }
        if let Some(next) = self.session.next_wake()
            && self.reader_wakes.is_none_or(|at| next < at)
        {
            self.reader_wakes = Some(next);
            self.woken = true;
        }
    }

    /// Threads whose calls have reached their deadlines take them back.
    pub(super) fn withdraw(&mut self, now: Duration, check: &mut Checker) {
        while let Some(&(at, key)) = self.waiting.first()
            && at <= now
        {
            self.waiting.pop_first();
            self.session.withdraw(self.at(now), key);
            self.applied(now, check);
        }
        if !self.for_room.is_empty() {
            self.go_on(now, check);
        }
    }

    pub(super) fn close(&mut self, now: Duration, check: &mut Checker) {
        self.session.close(self.at(now));
        let after = self.apply(now, check);
        self.stop |= self.link.is_none();
        self.finish_on_caller(now, after, check);
        self.woken = true;
    }

    fn apply(&mut self, now: Duration, check: &mut Checker) -> After {
        let mut after = After::default();
        while let Some(output) = self.session.output() {
            match output {
                Output::Send { frame, unwaited, patience } => {
                    let patience = patience.map(|at| self.since_base(at));
                    check.sent(now, self.index, &frame, unwaited);
                    let Some(link) = &mut self.link else { continue };
                    link.append(now, Up::Frame(frame), unwaited);
                    if let Some(until) = patience {
                        link.be_patient(until);
                    }
                }
                Output::Ping => self.append_own(now, &Upstream::Ping),
                Output::CloseLink { .. } => {
                    let Some(link) = &mut self.link else { continue };
                    link.append(now, Up::Close, false);
                }
                Output::CutLink => {
                    after.cut = true;
                    self.let_go(now);
                }
                Output::Complete { waiter, result } => after.completions.push((waiter, result)),
                Output::Event(event) => after.events.push(event),
                Output::Dial(dial) => after.dial = Some(dial),
            }
        }
        self.calls.store(self.session.pending(), Ordering::Relaxed);
        after
    }

    fn let_go(&mut self, now: Duration) {
        if let Some(mut link) = self.link.take() {
            link.finish(now);
            self.old.push(link);
            self.receiver.link_gone();
        }
    }

    fn append_own(&mut self, now: Duration, message: &Upstream<'_>) {
        let Ok(frame) = encode_upstream(self.setup.protocol, message) else { return };
        if let Some(link) = &mut self.link {
            link.append(now, Up::Frame(frame), false);
        }
    }

    // --- the reader (`client::reader`) ---------------------------------------------------------

    pub(super) fn start(&mut self, now: Duration, check: &mut Checker) {
        self.step(now, check, Session::start);
    }

    fn step<R>(
        &mut self,
        now: Duration,
        check: &mut Checker,
        act: impl FnOnce(&mut Session<usize>, Instant) -> R,
    ) -> R {
        let at = self.at(now);
        let result = act(&mut self.session, at);
        self.stepped(now, check);
        result
    }

    fn stepped(&mut self, now: Duration, check: &mut Checker) {
        let after = self.apply(now, check);
        self.reader_wakes = self.session.next_wake();
        self.session_wake = self.reader_wakes;
        for event in after.events {
            self.note(&event);
            self.receiver.event(self.at(now), event, &mut self.queue);
        }
        if let Some(dial) = after.dial {
            self.dial(now, dial);
        }
        for (token, result) in after.completions {
            check.completed(now, token, &result);
        }
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::Connected(e) => self.known = Some(Arc::clone(&e.connection_id)),
            Event::Disconnected(_) => self.over.extend(self.known.take()),
            Event::Stopped(_) => self.stopped = true,
            _ => {}
        }
    }

    fn dial(&mut self, now: Duration, dial: Dial) {
        let until = self.since_base(dial.until);
        let fate = self.fates.pop_front();
        self.trouble += u64::from(fate.is_some());
        self.redirected |= matches!(fate, Some(DialFate::Refused { status: 300..=399, .. }));
        let soon = now + self.latency * 4 + Duration::from_millis(1);
        let (at, fate) = match fate {
            Some(DialFate::Hangs) => (until.max(now), fate),
            _ if soon > until => (until.max(now), Some(DialFate::Hangs)),
            _ => (soon, fate),
        };
        self.dialing = Some(Dialing { dial, at, fate });
    }

    pub(super) fn dial_failed(&mut self, now: Duration, error: Error, check: &mut Checker) {
        self.step(now, check, |session, at| session.dial_failed(at, error));
        self.keep_time(now, check);
    }

    pub(super) fn linked(
        &mut self,
        now: Duration,
        mut link: Link,
        until: Instant,
        check: &mut Checker,
    ) {
        check.new_link(self.index);
        link.unproved = true;
        self.link = Some(link);
        let recovers = self.step(now, check, |session, at| {
            session.linked(at);
            session.is_proving()
        });
        if let Some(link) = &mut self.link {
            link.unproved = recovers;
        }
        self.receiver.linked(self.at(now), recovers.then_some((until, self.attempt)));
        self.keep_time(now, check);
    }

    /// All that the reader has to do now.
    pub(super) fn run(&mut self, now: Duration, check: &mut Checker) {
        if now < self.stalled_until || self.stopped {
            return;
        }
        for _ in 0..MOST_ROUNDS {
            if !self.round(now, check) {
                return;
            }
        }
        check.fail("the reader spins");
    }

    fn round(&mut self, now: Duration, check: &mut Checker) -> bool {
        let at = self.at(now);
        let mut any =
            [self.session_wake, self.receiver.next_wake()].into_iter().flatten().any(|t| t <= at);
        if std::mem::take(&mut self.woken) {
            any = true;
            if self.stop {
                self.step(now, check, |session, _| session.stop(Error::closed()));
            } else if self.step(now, check, |session, _| session.ended().is_some()) {
                self.receiver.closing();
            }
        }
        if self.link.as_ref().is_some_and(|link| link.stream_has_ended(now)) {
            self.receiver.stream_ended();
        }
        if self.receiver.may_read() && self.link.as_ref().is_some_and(|link| link.is_readable(now))
        {
            any = true;
            self.read(now, check);
        }
        if any && !self.stopped {
            self.keep_time(now, check);
        }
        any && !self.stopped
    }

    fn keep_time(&mut self, now: Duration, check: &mut Checker) {
        let at = self.at(now);
        self.note_behind();
        if self.session_wake.is_some_and(|t| t <= at) {
            self.step(now, check, Session::tick);
        }
        if self.receiver.next_wake().is_some_and(|t| t <= at) {
            if let Some(moved) = self.link.as_ref().and_then(|link| link.moved) {
                self.receiver.moved(self.at(moved));
            }
            let session = &self.session;
            self.receiver.tick(at, &mut self.queue, |heard| session.silence_allowed_until(heard));
            self.carry_out(now, check);
        }
        if let Some(link) = &mut self.link {
            link.flush(now);
        }
    }

    fn note_behind(&mut self) {
        if self.receiver.is_behind() != self.behind {
            self.behind = !self.behind;
            self.session.queue_full(self.behind.then(|| self.queue.len()));
        }
    }

    fn carry_out(&mut self, now: Duration, check: &mut Checker) {
        let at = self.at(now);
        if self.receiver.has_inputs() {
            for input in self.receiver.take_inputs() {
                self.session.input(at, input);
            }
            self.stepped(now, check);
        }
        if let Some(loss) = self.receiver.take_end() {
            return self.lost(now, loss, check);
        }
        let Some(link) = &self.link else { return };
        let unproved = link.unproved;
        if let Some(sequence_id) = self.receiver.take_sequence_ack(at, link.has_room(now)) {
            if unproved {
                check.fail("a sequence ack on a recovery link that is not proved");
            }
            self.append_own(now, &Upstream::SequenceAck { sequence_id });
        }
        if self.receiver.take_ping() {
            self.append_own(now, &Upstream::Ping);
        }
    }

    fn read(&mut self, now: Duration, check: &mut Checker) {
        let at = self.at(now);
        let mut budget = READ;
        while let Some(incoming) = self.link.as_mut().and_then(|link| link.next(now)) {
            let urgent = match incoming {
                Incoming::Piece(n) => {
                    self.receiver.bytes(at, n);
                    budget = budget.saturating_sub(n);
                    false
                }
                Incoming::Frame(frame, n) => {
                    self.receiver.bytes(at, n);
                    budget = budget.saturating_sub(n);
                    self.frames += 1;
                    if let Some(link) = &mut self.link {
                        link.unproved = false;
                    }
                    let decoded = self.decoder.decode(&frame);
                    self.receiver.frame(at, decoded, frame.as_bytes().len())
                }
                Incoming::Close(code) => {
                    self.hand_over(now, check);
                    let error = Error::new(ErrorKind::Disconnected, "the service closed");
                    let loss = Loss::of(error.with_close_code(Some(code)));
                    return self.lost(now, Loss { close_code: Some(code), ..loss }, check);
                }
                Incoming::End => {
                    self.hand_over(now, check);
                    let error = Error::new(ErrorKind::Disconnected, "the connection ended");
                    return self.lost(now, Loss::of(error), check);
                }
            };
            if urgent {
                self.hand_over(now, check);
            }
            if budget == 0 {
                break;
            }
        }
        self.hand_over(now, check);
    }

    fn hand_over(&mut self, now: Duration, check: &mut Checker) {
        self.receiver.hand_over(self.at(now), &mut self.queue);
        self.carry_out(now, check);
    }

    fn lost(&mut self, now: Duration, mut loss: Loss, check: &mut Checker) {
        self.session.suspend();
        let Some(mut link) = self.link.take() else { return };
        link.flush(now);
        loss.unsent = link.unsent();
        link.finish(now);
        self.old.push(link);
        self.receiver.link_gone();
        self.note_behind();
        self.step(now, check, |session, at| session.lost(at, loss));
    }

    // --- the consumer --------------------------------------------------------------------------

    pub(super) fn consume(&mut self, now: Duration, check: &mut Checker) {
        let most = match self.consumer {
            Consume::Greedy => usize::MAX,
            Consume::Paused => 0,
            Consume::Slow { events, every } => {
                if now < self.consume_at {
                    return;
                }
                self.consume_at = now + ms(every.max(1));
                usize::from(events)
            }
        };
        for event in self.events.try_iter().take(most) {
            check.received(self.index, &event);
        }
        let (messages, bytes) = self.receiver.held();
        let out = self.link.as_ref().map_or(0, Link::out_bytes);
        let ended = self.link.as_ref().is_none_or(|link| link.stream_has_ended(now));
        check.memory(&self.setup, self.events.len(), messages, bytes, out, ended);
    }

    // --- time ----------------------------------------------------------------------------------

    pub(super) fn next_time(&self, now: Duration) -> Option<Duration> {
        let old = self.old.iter().filter_map(|link| link.next_time(now, false)).min();
        let link = self.link.as_ref();
        let reader = if self.stopped {
            None
        } else {
            let timers = [self.session_wake, self.receiver.next_wake()];
            let timers = timers.into_iter().flatten().min().map(|at| self.since_base(at));
            let woken = self.woken.then_some(now);
            let dial = self.dialing.as_ref().map(|dialing| dialing.at);
            let next = [timers, woken, dial].into_iter().flatten().min();
            next.map(|at| at.max(self.stalled_until))
        };
        // What the link does by itself concerns the service and callers too.
        let link = link.and_then(|link| {
            let stalled = now < self.stalled_until;
            let at = link.next_time(now, !stalled && self.receiver.may_read());
            at.map(|at| if at <= now && stalled { at.max(self.stalled_until) } else { at })
        });
        let callers = self.waiting.first().map(|(at, _)| *at);
        let room = self.for_room.iter().map(|call| call.deadline).min();
        let consumer = (matches!(self.consumer, Consume::Slow { .. }) && !self.events.is_empty())
            .then_some(self.consume_at);
        [old, link, reader, callers, room, consumer].into_iter().flatten().min()
    }
}

pub(super) fn ms(ms: u32) -> Duration {
    Duration::from_millis(ms.into())
}
