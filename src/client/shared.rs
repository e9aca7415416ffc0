//! What all handles of a client and its reader thread have in common, and the one lock.

mod closing;
mod outputs;
mod state;
#[cfg_attr(not(feature = "preview"), allow(dead_code))]
mod streams;
mod waits;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::group_state::Watches;
use super::pending::{Registration, Waiter};
use super::ping::Pings;
use super::queues::Routes;
use super::request::sealed::{Internal, PendingCall};
use super::stats::{Counters, Stats};
use super::wake::{WakeHook, may_block};
use crate::error::{Error, ErrorKind, Result};
use crate::message::Event;
use crate::protocol::Protocol;
use crate::session::{self, Key, Session, StateKind};
use crate::transport::{Stop, Waker};
pub(super) use outputs::After;
pub(super) use state::{Locked, State};

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

/// A call of this client, checked and encoded.
pub(super) type Call = session::Call<Waiter>;

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
        Locked::new(state, &self.waker)
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

    /// Takes a call back at its deadline, unless it has just ended otherwise.
    pub(super) fn withdraw(&self, key: Key, deadline: Instant) {
        let now = Instant::now();
        let ((), after) = self.step(|session| session.withdraw(now, key, deadline));
        self.finish(after, now);
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

pub(super) fn internal() -> Error {
    Error::new(ErrorKind::Internal, "a thread of webpubsub panicked; please report this as a bug")
        .maybe_delivered(true)
}
