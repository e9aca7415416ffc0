//! The handle of the PubSub client.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};

use super::builder::ClientBuilder;
use super::pending::PendingAck;
use super::request::sealed::{Internal, PendingCall};
use super::request::{FireAndForget, Parts, Request};
use super::shared::{Call, Shared};
use super::source::UrlSource;
use super::stats::Stats;
use super::wake::may_block;
use crate::error::Result;
use crate::message::{Ack, Event, Payload};
use crate::session::CallKind;
use crate::state::ClientState;

/// A client of the service's PubSub subprotocols: groups, events, acks, recovery.
///
/// ```no_run
/// use webpubsub::Client;
///
/// # fn main() -> webpubsub::Result<()> {
/// let client = Client::connect("wss://NAME.webpubsub.azure.com/client/hubs/HUB?access_token=…")?;
/// let chat = client.subscribe("chat")?; // joined when this returns
/// client.publish("chat", "hello")?; // acknowledged when this returns
/// for message in chat.messages() {
///     println!("{}", message?.payload);
/// }
/// # Ok(()) }
/// ```
///
/// # Threads and cloning
/// `Client` is `Clone + Send + Sync`; clones are the same client. Behind it runs one thread, named
/// `webpubsub`, which reads and keeps the connection alive and re-establishes it; of the program's
/// code it runs only a closure given to [`on_wake`](ClientBuilder::on_wake). Calls write on the
/// caller's own thread. While the client connects, there are helper threads for a look-up of the host
/// name, for a [URL provider](UrlSource::provider), for each of several addresses, and in the background
/// or after a loss for the attempt itself.
///
/// # The end
/// [`close`](Client::close) flushes what was accepted, says goodbye and waits for the thread. When
/// the last clone is dropped the client ends too, but without waiting and without flushing.
/// A [`PendingAck`] or a receiver of events does not keep it alive.
#[derive(Clone)]
pub struct Client(Arc<Handle>);

/// Its drop is the drop of the last clone.
pub(super) struct Handle(pub(super) Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.drop_all();
    }
}

impl Client {
    /// Connects with a client access URL and default settings.
    ///
    /// Makes one attempt and blocks until the service has said `connected`, at most 30 s in all.
    /// Only after this first success a lost connection is re-established.
    ///
    /// # Errors
    /// `Config` for a bad URL (or proxy in the environment), else the step that failed:
    /// `UrlProvider`, `NameLookup`, `Connect`, `Proxy`, `Tls`, `Upgrade`, `Subprotocol`,
    /// `SessionStart`; `Timeout` if no step fails in time, `Internal` if no thread can be started.
    pub fn connect(url: impl Into<UrlSource>) -> Result<Self> {
        Self::builder(url).connect()
    }

    /// Settings, then [`ClientBuilder::connect`].
    pub fn builder(url: impl Into<UrlSource>) -> ClientBuilder {
        ClientBuilder::new(url.into())
    }

    pub(super) fn from_shared(shared: Arc<Shared>) -> Self {
        Self(Arc::new(Handle(shared)))
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }

    // --- the short forms -----------------------------------------------------------------------

    /// Joins a group; blocks until the service has acked, at most until the call's deadline.
    ///
    /// The client joins it again after a new connection (a recovered one is still a member).
    ///
    /// # Errors
    /// As [`call`](Self::call); `Refused` with `Forbidden` if the token lacks the role.
    #[doc(alias = "joinGroup")]
    pub fn join_group(&self, group: impl AsRef<str>) -> Result<Ack> {
        self.call_now(Parts::join(group.as_ref()))
    }

    /// Leaves a group; blocks until the service has acked, at most until the call's deadline.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    #[doc(alias = "leaveGroup")]
    pub fn leave_group(&self, group: impl AsRef<str>) -> Result<Ack> {
        self.call_now(Parts::leave(group.as_ref()))
    }

    /// Publishes to a group; blocks until the service has acked, at most until the call's deadline.
    /// Membership is not needed.
    ///
    /// # Errors
    /// As [`call`](Self::call); `Refused` with `Forbidden` if the token lacks the role.
    #[doc(alias = "send_to_group")]
    #[doc(alias = "sendToGroup")]
    pub fn publish(&self, group: impl AsRef<str>, data: impl Into<Payload>) -> Result<Ack> {
        self.call_now(Parts::publish(group.as_ref(), data.into()))
    }

    /// Sends an event to the app server; blocks until the service has acked, at most until the
    /// call's deadline. If the app server answers with data, that arrives as
    /// [`Event::ServerMessage`] before this returns.
    ///
    /// # Errors
    /// As [`call`](Self::call); `Refused` with `InternalServerError` if the handler failed, or
    /// there is none.
    #[doc(alias = "sendEvent")]
    pub fn send_event(&self, name: impl AsRef<str>, data: impl Into<Payload>) -> Result<Ack> {
        self.call_now(Parts::event(name.as_ref(), data.into()))
    }

    fn call_now(&self, parts: Parts<'_>) -> Result<Ack> {
        self.begin::<PendingAck>(parts, true)?.wait()
    }

    pub(super) fn begin<P: PendingCall>(&self, parts: Parts<'_>, wait: bool) -> Result<P> {
        let now = Instant::now();
        let call = parts.prepare(self.shared(), now)?;
        self.note_join(&call);
        self.shared().start_one(now, call, wait)
    }

    /// Who joins a group wants its messages, which come to the event queue.
    fn note_join(&self, call: &Call) {
        if matches!(call.kind, CallKind::Join(_)) {
            self.shared().ask_for_events();
        }
    }

    // --- requests, which have options ----------------------------------------------------------

    /// Sends a request and blocks until its outcome is known, at most until its deadline.
    ///
    /// # Errors
    /// `InvalidRequest` (nothing was sent), `Refused`, `Timeout`, `OutcomeUnknown`, `Closed`, or
    /// what ended the client.
    pub fn call<R: Request>(&self, request: R) -> Result<R::Outcome> {
        self.start(request)?.outcome(Internal)
    }

    /// Starts a call and returns while it is under way. Blocks only at the bounds of what may be
    /// [pending](crate::ClientBuilder::max_pending_calls), until there is room, at most until the
    /// call's deadline. What the connection does not take at once waits in memory, and the client's
    /// thread writes it; at most [`max_in_flight`](crate::ClientBuilder::max_in_flight) calls are
    /// sent and unacked, the others wait in order.
    ///
    /// # Errors
    /// `InvalidRequest`, `Timeout`, `Closed`, or what ended the client (nothing was sent).
    pub fn start<R: Request>(&self, request: R) -> Result<R::Pending> {
        self.begin(request.into_parts(Internal), true)
    }

    /// As [`start`](Self::start), but never blocks: for a thread that must not wait, such as that of
    /// a user interface.
    ///
    /// # Errors
    /// As [`start`](Self::start), and `WouldBlock` if there is no room (nothing was sent).
    pub fn try_start<R: Request>(&self, request: R) -> Result<R::Pending> {
        self.begin(request.into_parts(Internal), false)
    }

    /// Sends without asking for an ack: returns when the frame is in the out-buffer, and no outcome
    /// is ever reported. Blocks while there is no connection, or none that takes more data, at most
    /// until the deadline.
    ///
    /// What is still in the out-buffer when the connection is lost is lost with it; the event that
    /// reports the loss counts it. [`close`](Self::close) flushes.
    ///
    /// # Errors
    /// `InvalidRequest`, `Timeout`, `Closed`, or what ended the client (nothing was sent).
    pub fn fire_and_forget<R: FireAndForget>(&self, request: R) -> Result<()> {
        let shared = self.shared();
        let now = Instant::now();
        let call = request.into_parts(Internal).unacked(shared, now)?;
        shared.fire(now, call.deadline, [call])
    }

    // --- many requests -------------------------------------------------------------------------

    /// Makes many calls, pipelined and in order: up to
    /// [`max_in_flight`](crate::ClientBuilder::max_in_flight) are under way at once, and no more
    /// are held in memory, however many the iterator returns. Blocks until all have their outcome;
    /// returns how many succeeded.
    ///
    /// The first failure ends it: once it is known no further request is taken from the iterator, those
    /// under way are waited for, and the error is returned. An iterator that blocks is not interrupted,
    /// not even by the end of the client.
    ///
    #[cfg_attr(feature = "emulator", doc = "```")]
    #[cfg_attr(not(feature = "emulator"), doc = "```ignore")]
    /// # use webpubsub::{Client, Publish, emulator::Emulator};
    /// # fn main() -> webpubsub::Result<()> {
    /// # let emulator = Emulator::start()?;
    /// # let client = Client::connect(emulator.url("chat"))?;
    /// let lines = ["one", "two", "three"];
    /// assert_eq!(client.call_all(lines.map(|line| Publish::new("chat", line)))?, 3);
    /// # client.close() }
    /// ```
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn call_all<R: Request>(&self, requests: impl IntoIterator<Item = R>) -> Result<u64> {
        let most = self.shared().config.max_in_flight;
        let mut under_way: VecDeque<R::Pending> = VecDeque::with_capacity(most);
        let mut succeeded = 0;
        let mut first_error = None;
        let mut requests = requests.into_iter();
        loop {
            // Looked at before the next request is asked for, which may take as long as the iterator likes.
            while let Some(outcome) =
                under_way.front().and_then(|oldest| oldest.known_outcome(Internal))
            {
                match outcome {
                    Ok(_) => succeeded += 1,
                    Err(error) => first_error = first_error.or(Some(error)),
                }
                under_way.pop_front();
            }
            let next = if first_error.is_none() { requests.next() } else { None };
            let started = next.map(|request| self.start(request));
            let all_started = started.is_none();
            match started {
                Some(Ok(pending)) => under_way.push_back(pending),
                Some(Err(error)) => first_error = Some(error),
                None => {}
            }
            while let Some(oldest) = under_way.front()
                && (all_started || first_error.is_some() || under_way.len() >= most)
            {
                match oldest.outcome(Internal) {
                    Ok(_) => succeeded += 1,
                    // In the order of the requests, unless a later one could not be started.
                    Err(error) => first_error = first_error.or(Some(error)),
                }
                under_way.pop_front();
            }
            if all_started {
                return first_error.map_or(Ok(succeeded), Err);
            }
        }
    }

    /// Starts many calls at once: they are written together, in order, which costs far less than
    /// one by one. As [`start`](Self::start) for each; the first request's deadline limits the wait
    /// for room, and the batch may go above the bounds of what may be pending.
    ///
    /// # Errors
    /// As [`start`](Self::start); if one request is not valid, none is sent.
    pub fn start_all<R: Request>(
        &self,
        requests: impl IntoIterator<Item = R>,
    ) -> Result<Vec<R::Pending>> {
        let now = Instant::now();
        let prepare = |request: R| request.into_parts(Internal).prepare(self.shared(), now);
        let calls = requests.into_iter().map(prepare).collect::<Result<Vec<_>>>()?;
        calls.iter().for_each(|call| self.note_join(call));
        self.shared().start(calls)
    }

    /// Sends many publications and events at once without asking for acks; otherwise as
    /// [`fire_and_forget`](Self::fire_and_forget) for each, with the first one's deadline.
    ///
    /// # Errors
    /// As [`fire_and_forget`](Self::fire_and_forget); if one request is not valid, none is sent.
    pub fn fire_and_forget_all<R: FireAndForget>(
        &self,
        requests: impl IntoIterator<Item = R>,
    ) -> Result<()> {
        let now = Instant::now();
        let prepare = |request: R| request.into_parts(Internal).unacked(self.shared(), now);
        let mut calls = requests.into_iter().map(prepare).collect::<Result<Vec<_>>>()?;
        let Some(deadline) = calls.first().map(|call| call.deadline) else { return Ok(()) };
        for call in &mut calls {
            call.deadline = deadline;
        }
        self.shared().fire(now, deadline, calls)
    }

    // --- state ---------------------------------------------------------------------------------

    /// The groups that this client has joined, by its own calls and subscriptions.
    #[must_use]
    pub fn groups(&self) -> Vec<Arc<str>> {
        self.shared().lock().session.groups().cloned().collect()
    }

    /// The service's id of the present connection; it stays the same over a recovery. `None`
    /// between two connections.
    #[must_use]
    pub fn connection_id(&self) -> Option<Arc<str>> {
        self.shared().lock().session.identity().map(|id| Arc::clone(&id.connection_id))
    }

    /// The user id of the present connection, if it has one.
    #[must_use]
    pub fn user_id(&self) -> Option<Arc<str>> {
        self.shared().lock().session.identity().and_then(|id| id.user_id.clone())
    }
}

macro_rules! common_calls {
    ($client:ty) => {
        impl std::fmt::Debug for $client {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.shared().fmt(f)
            }
        }

        impl $client {
            /// The queue of messages and lifecycle events, in arrival order. It ends after
            /// [`Event::Stopped`](crate::Event::Stopped).
            ///
            /// It is a `crossbeam_channel::Receiver`, for iteration and `select!`. Clone it to move it
            /// into a thread: all receivers of a client share one queue, and each event goes to one
            /// of them.
            #[must_use]
            pub fn events(&self) -> &Receiver<Event> {
                self.shared().events()
            }

            /// Blocks until the next event.
            ///
            /// # Errors
            /// At the end of the queue: `Closed`, or what ended the client.
            pub fn recv(&self) -> Result<Event> {
                may_block()?;
                self.shared().events().recv().map_err(|_| self.shared().end_error())
            }

            /// Blocks for at most `limit`; `None` if no event came.
            ///
            /// # Errors
            /// As [`recv`](Self::recv).
            pub fn recv_timeout(&self, limit: Duration) -> Result<Option<Event>> {
                may_block()?;
                match self.shared().events().recv_timeout(limit) {
                    Ok(event) => Ok(Some(event)),
                    Err(RecvTimeoutError::Timeout) => Ok(None),
                    Err(RecvTimeoutError::Disconnected) => Err(self.shared().end_error()),
                }
            }

            /// Does not block; `None` if the queue is empty.
            ///
            /// # Errors
            /// As [`recv`](Self::recv).
            pub fn try_recv(&self) -> Result<Option<Event>> {
                match self.shared().events().try_recv() {
                    Ok(event) => Ok(Some(event)),
                    Err(TryRecvError::Empty) => Ok(None),
                    Err(TryRecvError::Disconnected) => Err(self.shared().end_error()),
                }
            }

            /// Blocks until the client is connected, at most for `limit`; `Duration::MAX` is without
            /// end. [`close`](Self::close) from any thread ends it at once.
            ///
            /// # Errors
            /// `Timeout`, `Closed`, or what ended the client.
            pub fn wait_connected(&self, limit: Duration) -> Result<()> {
                self.shared().wait_connected(limit)
            }

            /// Blocks until every started call has its outcome and all that was sent is written, at
            /// most for `limit`. What other threads start meanwhile counts too.
            ///
            /// # Errors
            /// `Timeout`, whose text says how many calls are left.
            pub fn drain(&self, limit: Duration) -> Result<()> {
                self.shared().drain(limit)
            }

            /// Ends the client, from any thread and in any state.
            ///
            /// Calls without an outcome end with `Closed` at once; [`drain`](Self::drain) waits for
            /// them. What was handed to the connection is flushed: every `fire_and_forget` that has
            /// returned, and the started calls that had their turn. Then a Close frame (1000) is sent, the queue gets
            /// [`Event::Stopped`](crate::Event::Stopped) and ends, so `recv` and blocked writers end
            /// too, and the client's thread is waited for: in all at most the close timeout (default
            /// 2 s). A second `close` waits for the first.
            ///
            /// # Errors
            /// The client is closed in any case. `Closed` if that cut off calls (the text says how
            /// many were not sent, and of how many the outcome is unknown); `Timeout` if the peer did
            /// not take all that was sent before.
            pub fn close(&self) -> Result<()> {
                self.shared().close()
            }

            /// Sends a ping, which the service answers itself, and blocks until its pong has come, at
            /// most for the call timeout. Returns the round trip.
            ///
            /// # Errors
            /// `Disconnected` without a connection, or if it is lost before the pong; `Timeout`,
            /// `Closed`, or what ended the client.
            pub fn ping(&self) -> Result<Duration> {
                self.shared().ping()
            }

            /// Counters, as they stand now.
            #[must_use]
            pub fn stats(&self) -> Stats {
                self.shared().stats()
            }

            /// What the client is doing at the moment: connecting, connected, recovering, waiting
            /// for the next attempt, or stopped.
            #[must_use]
            pub fn state(&self) -> ClientState {
                self.shared().lock().session.state(Instant::now())
            }
        }
    };
}
pub(super) use common_calls;
common_calls!(Client);
