//! One client: the real session, receiver, decoder and queue, driven as `client::reader` and
//! `client::shared` drive them, but in one thread and in virtual time.

mod reader;
mod subscriptions;
mod tap;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::checker::Checker;
use super::network::{Link, Up};
use super::schedule::{ClientSetup, Consume, DialFate};
use crate::client::{Queue, QueueConfig, Queues, Routes};
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Ack, Event};
use crate::protocol::{Decoder, Frame, Upstream, encode_upstream};
use crate::session::{
    Call, CallKind, Config, Dial, KeepAliveConfig, Key, Output, Receiver, Session,
};

use subscriptions::Listening;
use tap::Tap;

/// The most that one look at the socket brings.
pub(super) const READ: usize = 16 * 1024;

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
    /// The number of the subscription whose join it is.
    pub(super) joins: Option<usize>,
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
    queue: Tap,
    routes: Arc<Routes>,
    /// In the order of their beginnings.
    pub(super) subscriptions: Vec<Listening>,
    /// Joins of subscriptions that a program waits for, by their tokens.
    joining: HashMap<usize, usize>,
    /// Subscriptions whose joins have failed.
    failed_joins: Vec<usize>,
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
        let queue = QueueConfig::new()
            .max_messages(setup.soft)
            .max_messages_during_calls(setup.hard)
            .overflow(setup.overflow);
        let asked = Arc::new(true.into());
        let (queue, events) = Queue::new(Some(queue), Arc::clone(&calls), asked, None);
        let routes = Arc::<Routes>::default();
        let queues = Queues::new(queue, Arc::clone(&routes), base);
        let queue = Tap::new(queues, setup.protocol.is_reliable());
        Self {
            index,
            decoder: Decoder::new(setup.protocol),
            base,
            session: Session::new(config, seed),
            receiver: Receiver::new(KeepAliveConfig { interval, dead_after }, base),
            queue,
            routes,
            subscriptions: Vec::new(),
            joining: HashMap::new(),
            failed_joins: Vec::new(),
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
        let Prepared { token, key, kind, frame, deadline, fire, waits, joins } = call;
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
        } else if let Some(error) = self.session.refuses(key, &call.kind) {
            check.completed(now, token, &Err(error));
            return self.applied(now, check);
        }
        if let Some(number) = joins {
            self.begin_subscription(number);
            self.joining.insert(token, number);
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
            self.completed(now, token, &result, check);
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
            self.session.withdraw(self.at(now), key, self.at(at));
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
                Output::CancelInvocation { .. }
                | Output::Answer { .. }
                | Output::StateLost { .. } => {
                    unreachable!("nothing is invoked, and no state is set or watched")
                }
                Output::Stream { .. } => unreachable!("no stream is opened"),
                Output::CloseLink { code } => {
                    let Some(link) = &mut self.link else { continue };
                    link.append(now, Up::Close(Some(code)), false);
                }
                Output::CutLink => {
                    after.cut = true;
                    self.let_go(now);
                }
                Output::Complete { waiter, result } => after.completions.push((waiter, result)),
                Output::Event(event) => after.events.push(event),
                Output::Released { group, ack_id } => self.queue.released(&group, ack_id),
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
        self.consume_subscriptions(now, most, check);
        if let Some(text) = self.queue.violation.take() {
            check.fail(text);
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
        let unread = !self.events.is_empty() || self.subscriptions.iter().any(Listening::is_unread);
        let consumer =
            (matches!(self.consumer, Consume::Slow { .. }) && unread).then_some(self.consume_at);
        [old, link, reader, callers, room, consumer].into_iter().flatten().min()
    }
}

pub(super) fn ms(ms: u32) -> Duration {
    Duration::from_millis(ms.into())
}
