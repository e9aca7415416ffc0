//! What all handles of a client and its reader thread have in common, and the one lock.

#[cfg_attr(not(feature = "preview"), allow(dead_code))]
mod streams;
mod waits;

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::group_state::{StateLost, Watches};
use super::pending::{Registration, Waiter};
use super::ping::{Answer, Pings, lost_pong};
use super::queues::Routes;
use super::request::sealed::{Internal, PendingCall};
use super::stats::{Counters, Stats, add};
use super::wake::{WakeHook, may_block};
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Ack, Event, Reply};
use crate::protocol::{self, Frame, Protocol, Upstream};
use crate::session::{self, CutOff, Dial, Key, Output, Session, StateKind};
use crate::transport::{Link, Op, Stop, Waker};

/// After its link is cut the reader ends at once; a machine that hangs may take longer.
const LAST_WAIT: Duration = Duration::from_secs(1);
/// A limit that the clock cannot express is as good as this one.
pub(super) const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// The handles' end of the event queue and of the subscriptions' queues.
#[derive(Debug)]
pub(super) struct Events {
    pub(super) receiver: Receiver<Event>,
    pub(super) calls: Arc<AtomicUsize>,
    pub(super) asked: Arc<AtomicBool>,
    pub(super) routes: Arc<Routes>,
    pub(super) hook: Option<Arc<WakeHook>>,
}

#[cfg(test)]
impl Events {
    /// For tests without a reader.
    pub(super) fn unused() -> Self {
        let (_, receiver) = crossbeam_channel::unbounded();
        let (calls, asked, routes) = Default::default();
        Self { receiver, calls, asked, routes, hook: None }
    }
}

pub(super) struct Shared {
    state: Mutex<State>,
    /// For the threads that the `…_watchers` of the state count.
    room: Condvar,
    /// Cuts a dial short, and ends the reader if `waker` wakes it.
    pub(super) stop: Stop,
    /// Wakes the reader, whatever it waits for.
    pub(super) waker: Arc<Waker>,
    /// How many calls have not ended, for the bounds of the event queue. Written under the lock.
    pub(super) calls: Arc<AtomicUsize>,
    /// The program has asked for what comes to the event queue.
    asked: Arc<AtomicBool>,
    /// Subscriptions that come and go, for the reader.
    pub(super) routes: Arc<Routes>,
    /// Who watches states in groups.
    pub(super) watches: Watches,
    /// The closure that wakes the program's event loop.
    pub(super) hook: Option<Arc<WakeHook>>,
    /// The reader holds messages that the event queue has no room for. It looks for room now and
    /// then, but a call that starts makes room at once: the bound is higher while one is in flight.
    pub(super) holds: AtomicBool,
    /// A frame of the simple client was refused because the link had no room, and the program is to
    /// be woken when there is some.
    send_refused: AtomicBool,
    /// The next ack id.
    ids: AtomicU64,
    /// `None`: the simple client.
    pub(super) protocol: Option<Protocol>,
    pub(super) config: session::Config,
    pub(super) counters: Counters,
    events: Receiver<Event>,
    /// Disconnected once the reader thread has done its last act.
    done: Receiver<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) session: Session<Waiter>,
    /// The current link. Frames are appended to it under the lock, so wire order is session order.
    pub(super) link: Option<Arc<Link>>,
    /// When the reader wakes at the latest. A caller that needs it earlier wakes it.
    reader_wakes: Option<Instant>,
    /// That is the deadline of a call.
    wakes_for_call: bool,
    /// Threads that wait for room for a call, and those that wait until no call is left.
    room_watchers: usize,
    end_watchers: usize,
    /// Threads that wait for a connection.
    connect_watchers: usize,
    /// Threads that wait for something of a stream.
    stream_watchers: usize,
    /// The size of the smallest call that was refused for want of room, if the program is to be woken
    /// when there is some.
    refused: Option<usize>,
    /// The client's state when the program was last woken for one, if it is woken.
    shown: (StateKind, u32),
    pub(super) pings: Pings,
}

impl State {
    /// For the reader: when it must look at the session again. After a call that stays the instant
    /// that it has waited for anyway if nothing is due earlier, or it would forget it with the last
    /// call that ends, and the next call would have to wake it. After anything else, such as the
    /// limit for `connected`, an idle client is not woken for nothing.
    pub(super) fn note_wake(&mut self, now: Instant) -> Option<Instant> {
        let next = self.session.next_wake();
        let kept = self
            .reader_wakes
            .filter(|at| self.wakes_for_call && *at > now && next.is_none_or(|next| next > *at));
        if kept.is_none() {
            self.reader_wakes = next;
            self.wakes_for_call = self.session.pending() > 0;
        }
        self.reader_wakes
    }

    /// The reader may not have noticed yet that the link has failed. What is sent now waits for the
    /// next one.
    pub(super) fn note_dead_link(&mut self) {
        if self.link.as_ref().is_some_and(|link| link.is_down()) {
            self.session.suspend();
        }
    }

    /// Whether the reader would wake too late for what the session has been told just now.
    fn needs_wake(&mut self) -> bool {
        let Some(next) = self.session.next_wake() else { return false };
        let late = self.reader_wakes.is_none_or(|at| next < at);
        if late {
            self.reader_wakes = Some(next);
            self.wakes_for_call = true;
        }
        late
    }
}

/// Holds the lock.
pub(super) struct Locked<'a> {
    // Dropped in this order: the poison is there when the reader looks for it.
    state: MutexGuard<'a, State>,
    _wake: WakeOnPanic<'a>,
}

impl<'a> Locked<'a> {
    /// Lets go of the lock until there is a notice, at most for that long.
    fn wait(self, notice: &Condvar, limit: Duration) -> Self {
        let Self { state, _wake } = self;
        let waited = notice.wait_timeout(state, limit);
        Self { state: waited.unwrap_or_else(PoisonError::into_inner).0, _wake }
    }
}

/// A thread that panics with the lock wakes the reader, which ends the client: nobody else would,
/// and every waiter would wait for its deadline.
struct WakeOnPanic<'a>(&'a Waker);

impl Drop for WakeOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.wake();
        }
    }
}

impl Deref for Locked<'_> {
    type Target = State;
    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

/// A call of this client, checked and encoded.
pub(super) type Call = session::Call<Waiter>;

/// What is left to do when the lock is free again.
#[derive(Debug, Default)]
pub(super) struct After {
    completions: Vec<(Waiter, Result<Ack>)>,
    /// Of invocations.
    answers: Vec<(Waiter, Box<Reply>)>,
    events: Vec<Event>,
    /// Groups whose leave behind their last subscription has ended, under this ack id.
    released: Vec<(Arc<str>, u64)>,
    /// States in groups that a new connection has not taken.
    states_lost: Vec<StateLost>,
    /// Pings whose pong will not come, and what is to be said about that.
    unanswered: Vec<Answer>,
    no_pong: Option<Error>,
    dial: Option<Dial>,
    /// Something was appended to this link, so somebody must write.
    flush: Option<Arc<Link>>,
    cut: Option<Arc<Link>>,
    /// The reader must look at the session again.
    wake: bool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Client")
            .field("protocol", &self.protocol)
            .field("connection_id", &state.session.identity().map(|id| &id.connection_id))
            .field("connected", &state.session.is_open())
            // Its causes may quote a URL provider of the program.
            .field("ended", &state.session.ended().map(Error::kind))
            .finish_non_exhaustive()
    }
}

impl After {
    fn is_empty(&self) -> bool {
        self.completions.is_empty()
            && self.answers.is_empty()
            && self.unanswered.is_empty()
            && self.flush.is_none()
            && self.cut.is_none()
            && !self.wake
    }

    pub(super) fn cuts_link(&self) -> bool {
        self.cut.is_some()
    }

    pub(super) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    pub(super) fn take_released(&mut self) -> Vec<(Arc<str>, u64)> {
        std::mem::take(&mut self.released)
    }

    pub(super) fn take_states_lost(&mut self) -> Vec<StateLost> {
        std::mem::take(&mut self.states_lost)
    }

    pub(super) fn take_dial(&mut self) -> Option<Dial> {
        self.dial.take()
    }
}

impl Shared {
    pub(super) fn new(
        protocol: Option<Protocol>,
        config: session::Config,
        events: Events,
    ) -> Result<(Arc<Self>, Sender<()>)> {
        let (alive, done) = bounded(0);
        let waker = Waker::new().map_err(|e| {
            Error::new(ErrorKind::Internal, "the system has no descriptor left to wake a thread by")
                .with_source(e)
        })?;
        let shared = Self {
            state: Mutex::new(State {
                session: Session::new(config.clone(), rand::random()),
                link: None,
                reader_wakes: None,
                wakes_for_call: false,
                room_watchers: 0,
                end_watchers: 0,
                connect_watchers: 0,
                stream_watchers: 0,
                refused: None,
                shown: (StateKind::Connecting, 0),
                pings: Pings::default(),
            }),
            room: Condvar::new(),
            stop: Stop::new(),
            waker: Arc::new(waker),
            calls: events.calls,
            asked: events.asked,
            routes: events.routes,
            watches: Watches::default(),
            hook: events.hook,
            holds: AtomicBool::new(false),
            send_refused: AtomicBool::new(false),
            ids: AtomicU64::new(1),
            protocol,
            config,
            counters: Counters::default(),
            events: events.receiver,
            done,
            thread: Mutex::new(None),
        };
        Ok((Arc::new(shared), alive))
    }

    /// The event queue. Who asks for it reads it, so from now on it may make the client wait.
    pub(super) fn events(&self) -> &Receiver<Event> {
        self.ask_for_events();
        &self.events
    }

    pub(super) fn has_asked_for_events(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    pub(super) fn ask_for_events(&self) {
        // Looked at first: a store would disturb the reader each time.
        if !self.asked.load(Ordering::Relaxed) {
            self.asked.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn set_thread(&self, thread: JoinHandle<()>) {
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    }

    /// The lock. A panic while it was held is a bug of ours; the reader turns it into `Stopped`.
    pub(super) fn lock(&self) -> Locked<'_> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Locked { state, _wake: WakeOnPanic(&self.waker) }
    }

    pub(super) fn is_poisoned(&self) -> bool {
        self.state.is_poisoned()
    }

    /// Runs something on the session and does what it asks for, except events and dialing.
    pub(super) fn step<R>(&self, act: impl FnOnce(&mut Session<Waiter>) -> R) -> (R, After) {
        let mut state = self.lock();
        let result = act(&mut state.session);
        let after = self.apply_for_caller(&mut state);
        drop(state);
        (result, after)
    }

    fn apply_for_caller(&self, state: &mut State) -> After {
        let after = self.apply(state);
        After { wake: state.needs_wake(), ..after }
    }

    /// Takes the session's outputs; appends to the link what is to be sent.
    pub(super) fn apply(&self, state: &mut State) -> After {
        let mut after = After::default();
        while let Some(output) = state.session.output() {
            match output {
                Output::Send { frame, unwaited, patience } => {
                    let Some(link) = &state.link else { continue };
                    self.append(link, &frame, unwaited, patience);
                    after.flush.get_or_insert_with(|| Arc::clone(link));
                }
                Output::Ping => {
                    let State { link: Some(link), pings, .. } = &mut *state else { continue };
                    self.append_ping(pings, link, Instant::now(), None);
                    after.flush.get_or_insert_with(|| Arc::clone(link));
                }
                Output::CancelInvocation { id } => {
                    let Some(link) = &state.link else { continue };
                    let invocation_id = id.to_string().into();
                    self.append_own(link, &Upstream::CancelInvocation { invocation_id });
                    after.flush.get_or_insert_with(|| Arc::clone(link));
                }
                Output::Stream { start, emit } => {
                    let Some(link) = &state.link else { continue };
                    self.append_stream(link, &start, &emit);
                    after.flush.get_or_insert_with(|| Arc::clone(link));
                }
                Output::CloseLink { code } => {
                    let Some(link) = &state.link else { continue };
                    link.append_close(code, "");
                    after.flush.get_or_insert_with(|| Arc::clone(link));
                }
                // Asked for twice, the first one has it.
                Output::CutLink => after.cut = after.cut.take().or_else(|| state.link.take()),
                Output::Complete { waiter, result } => after.completions.push((waiter, result)),
                Output::Answer { waiter, reply } => after.answers.push((waiter, reply)),
                Output::Event(event) => after.events.push(event),
                Output::Released { group, ack_id } => after.released.push((group, ack_id)),
                Output::StateLost { group, watch, error } => {
                    after.states_lost.push(StateLost { group, watch, error });
                }
                Output::Dial(dial) => after.dial = Some(dial),
            }
        }
        if self.hook.is_some() {
            let shown = (state.session.state_kind(), state.session.attempts());
            if std::mem::replace(&mut state.shown, shown) != shown {
                self.request_wake();
            }
        }
        if state.refused.is_some_and(|size| state.session.has_room(size)) {
            state.refused = None;
            self.request_wake();
        }
        let ended = state.session.ended();
        if state.link.is_none() || ended.is_some() {
            after.unanswered = state.pings.link_gone();
            after.no_pong = (!after.unanswered.is_empty()).then(|| lost_pong(ended));
        }
        let pending = state.session.pending();
        // An open stream waits for answers too.
        self.calls.store(pending + state.session.streams(), Ordering::Relaxed);
        // Not in vain, because that is a system call.
        if state.room_watchers > 0 && state.session.has_room(0)
            || state.end_watchers > 0 && state.session.pending_of_program() == 0
            || state.connect_watchers > 0
                && (state.session.is_open() || state.session.ended().is_some())
            || state.stream_watchers > 0 && state.session.take_stream_news()
        {
            self.room.notify_all();
        }
        after
    }

    fn append(&self, link: &Link, frame: &Frame, unwaited: bool, patience: Option<Instant>) {
        let bytes = frame.as_bytes();
        add(&self.counters.messages_out, 1);
        add(&self.counters.bytes_out, bytes.len() as u64);
        link.append_call(op_of(frame), bytes, unwaited, patience);
    }

    /// Appends a frame that no call is behind: a sequence ack, or the subprotocol's `ping` (a
    /// WebSocket ping for the simple client). The reader writes it before it waits.
    pub(super) fn append_own(&self, link: &Link, message: &Upstream<'_>) {
        match self.encode(message) {
            Ok(Some(frame)) => link.append(op_of(&frame), frame.as_bytes()),
            _ => link.append(Op::Ping, &[]),
        }
        link.write_later();
    }

    /// `None` for the simple client, which has no protocol messages.
    pub(super) fn encode(&self, message: &Upstream<'_>) -> Result<Option<Frame>> {
        self.protocol.map(|p| protocol::encode_upstream(p, message)).transpose()
    }

    /// An ack id that no call of this client has used, or the caller's own.
    pub(super) fn next_id(&self, own: Option<u64>) -> u64 {
        match own {
            None => self.ids.fetch_add(1, Ordering::Relaxed),
            Some(id) => {
                // Later generated ids must not meet it. Ids in the upper half are out of reach.
                if id < 1 << 63 {
                    self.ids.fetch_max(id + 1, Ordering::Relaxed);
                }
                id
            }
        }
    }

    pub(super) fn register<P: PendingCall>(
        self: &Arc<Self>,
        session: &mut Session<Waiter>,
        now: Instant,
        mut call: Call,
    ) -> P {
        let registration = Registration::new(Arc::clone(self), call.key, call.deadline);
        let (pending, waiter) = P::register(registration, Internal);
        call.waiter = Some(waiter);
        session.call(now, call);
        pending
    }

    /// What a caller does after the lock: tell the others, write, wake the reader.
    pub(super) fn finish(&self, mut after: After, deadline: Instant) {
        debug_assert!(
            after.events.is_empty() && after.released.is_empty() && after.dial.is_none(),
            "only the reader may cause events and dials: {after:?}"
        );
        self.tell(&mut after);
        let hook_is_due = self.hook.as_ref().is_some_and(|hook| hook.is_due());
        // Before the write, which may take long.
        if after.wake || hook_is_due || self.holds.load(Ordering::Relaxed) {
            self.waker.wake();
        }
        if let Some(link) = after.flush.take() {
            self.flush(&link, deadline);
        }
    }

    /// Writes, on a thread of the program. A link that fails here is down, which the next call sees.
    pub(super) fn flush(&self, link: &Link, deadline: Instant) {
        link.flush(deadline);
        if self.note_link_room(link) {
            self.waker.wake();
        }
    }

    pub(super) fn tell(&self, after: &mut After) {
        let any = !(after.completions.is_empty() && after.answers.is_empty());
        for (waiter, result) in after.completions.drain(..) {
            waiter.tell(result);
        }
        for (waiter, reply) in after.answers.drain(..) {
            waiter.answer(*reply);
        }
        if let (true, Some(hook)) = (any, &self.hook) {
            hook.outcome();
        }
        if let Some(error) = after.no_pong.take() {
            after.unanswered.drain(..).for_each(|answer| answer.set(Err(error.clone())));
        }
        if let Some(link) = after.cut.take() {
            link.finish();
            link.shutdown();
        }
    }

    /// The program is to be woken. The reader does it, at the end of its round.
    fn request_wake(&self) {
        if let Some(hook) = &self.hook {
            hook.request();
        }
    }

    /// What the reader does after the lock. It writes before it next blocks, all in one.
    pub(super) fn finish_on_reader(&self, after: &mut After) {
        self.tell(after);
        if let Some(link) = after.flush.take() {
            link.write_later();
        }
    }

    /// Takes a call back at its deadline, unless it has just ended otherwise.
    pub(super) fn withdraw(&self, key: Key, deadline: Instant) {
        let now = Instant::now();
        let ((), after) = self.step(|session| session.withdraw(now, key, deadline));
        self.finish(after, now);
    }

    /// See [`Client::close`](crate::Client::close).
    pub(super) fn close(&self) -> Result<()> {
        may_block()?;
        let deadline = Instant::now() + self.config.close_timeout;
        let (link, cut_off) = self.begin_close(deadline);
        let flushed = link.as_ref().is_none_or(|link| link.drain(deadline));
        if self.done.recv_deadline(deadline) != Err(RecvTimeoutError::Disconnected) {
            self.abandon(link.as_deref());
        }
        // Nothing can hold the reader any more: its link is cut and its waits know the stop.
        let ended = self.done.recv_timeout(LAST_WAIT) == Err(RecvTimeoutError::Disconnected);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread.filter(|_| ended) {
            let _ = thread.join();
        }
        end_report(cut_off, flushed)
    }

    /// Asks the session to end. Returns the link to flush, if there is one, and which calls that has
    /// cut off.
    fn begin_close(&self, deadline: Instant) -> (Option<Arc<Link>>, CutOff) {
        let mut state = self.lock();
        let link = state.link.clone();
        let before = state.session.ended().is_some();
        state.session.close(Instant::now());
        self.request_wake();
        // What ended earlier is reported by who ended it.
        let cut_off = if before { CutOff::default() } else { state.session.cut_off };
        let after = self.apply(&mut state);
        drop(state);
        if link.is_none() {
            self.stop.stop();
        }
        // Before the write: with a full event queue the reader has stopped reading, and only when it
        // reads on may the peer take what is written.
        self.waker.wake();
        self.finish(after, deadline);
        (link, cut_off)
    }

    fn abandon(&self, link: Option<&Link>) {
        self.stop.stop();
        if let Some(link) = link {
            link.shutdown();
        }
        self.waker.wake();
    }

    /// The last handle is gone: the same as `close`, without waiting for anything.
    pub(super) fn drop_all(&self) {
        let (link, _) = self.begin_close(Instant::now());
        self.abandon(link.as_deref());
    }

    pub(super) fn stats(&self) -> Stats {
        let state = self.lock();
        let (queue_len, counted) = (self.events.len(), self.counters.snapshot());
        let counts = state.session.counts.clone();
        Stats {
            queue_high_water: counted.queue_high_water.max(queue_len),
            queue_len,
            calls_pending: state.session.pending_of_program() as u64,
            calls_acked: counts.acked,
            calls_refused: counts.refused,
            calls_timed_out: counts.timed_out,
            calls_cut_off: counts.cut_off,
            recoveries: counts.recoveries,
            reconnects: counts.reconnects,
            connected_since: counts.connected_since,
            last_error: counts.last_error,
            last_round_trip: counts.round_trip,
            ..counted
        }
    }

    /// Why `events` ended.
    pub(super) fn end_error(&self) -> Error {
        match self.lock().session.ended() {
            Some(cause) => session::ended_error(cause, false),
            None => Error::closed(),
        }
    }
}

/// What `close` returns.
fn end_report(cut_off: CutOff, flushed: bool) -> Result<()> {
    let CutOff { unsent, unknown } = cut_off;
    if unsent + unknown > 0 {
        let what = match (unsent, unknown) {
            (1, 0) => "1 call that was not sent".to_owned(),
            (0, 1) => "1 call that may have been executed".to_owned(),
            (_, 0) => format!("{unsent} calls that were not sent"),
            (0, _) => format!("{unknown} calls that may have been executed"),
            _ => format!(
                "{} calls: {unsent} not sent, {unknown} that may have been executed",
                unsent + unknown
            ),
        };
        let text =
            format!("closing the client cut off {what}; `drain` before `close` waits for them");
        return Err(Error::new(ErrorKind::Closed, text).maybe_delivered(unknown > 0));
    }
    if flushed {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Timeout,
        "the peer did not take all that was sent before the close; the rest is lost",
    )
    .maybe_delivered(true))
}

fn op_of(frame: &Frame) -> Op {
    match frame {
        Frame::Text(_) => Op::Text,
        Frame::Binary(_) => Op::Binary,
    }
}

pub(super) fn internal() -> Error {
    Error::new(ErrorKind::Internal, "a thread of webpubsub panicked; please report this as a bug")
        .maybe_delivered(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{CallKind, Config, Identity};

    #[test]
    fn an_idle_client_is_woken_for_nothing_but_the_deadline_of_its_last_call() {
        let config = Config::default();
        let (shared, _alive) =
            Shared::new(Some(Protocol::Json), config.clone(), Events::unused()).expect("shared");
        let now = Instant::now();
        let mut state = shared.lock();
        state.session.start(now);
        state.session.linked(now);
        assert_eq!(state.note_wake(now), Some(now + config.step_timeout), "`connected` is awaited");
        let identity = Identity { connection_id: "c".into(), user_id: None, token: None };
        state.session.connected(now, identity);
        assert_eq!(state.note_wake(now), None);

        let deadline = now + Duration::from_secs(30);
        let frame = Frame::Text("x".into());
        state.session.call(now, Call::new(Key::Ack(1), CallKind::Message, frame, deadline));
        assert!(state.needs_wake());
        assert_eq!(state.note_wake(now), Some(deadline));
        state.session.ack(now, 1, true, None);
        assert_eq!(state.note_wake(now), Some(deadline), "so the next call need not wake it");
        assert_eq!(state.note_wake(deadline), None);
    }
}
