//! The handle of the PubSub client.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};

use super::builder::ClientBuilder;
use super::pending::PendingAck;
use super::request::{Request, What};
use super::shared::Shared;
use super::source::UrlSource;
use super::stats::Stats;
use crate::error::{Error, Result};
use crate::message::{Ack, Event, Payload};

/// A client of the service's PubSub subprotocols: groups, events, acks, recovery.
///
/// # Threads and cloning
/// `Client` is `Clone + Send + Sync`; clones are the same client. Behind it runs one thread, named
/// `webpubsub`, which reads and keeps the connection alive and re-establishes it; it runs no code
/// of the program. Calls write on the caller's own thread. While the client connects, there are
/// helper threads for a look-up of the host name, for a [URL provider](UrlSource::provider), for each
/// of several addresses, and after a loss for the attempt itself.
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
    /// `NotConnected`; `Timeout` if no step fails in time, `Internal` if no thread can be started.
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

    /// Joins a group; blocks until the service has acked. See [`Request::wait`].
    ///
    /// The client joins it again after a new connection (a recovered one is still a member).
    ///
    /// # Errors
    /// As [`Request::wait`]; `Refused` with `Forbidden` if the token lacks the role.
    pub fn join_group(&self, group: impl AsRef<str>) -> Result<Ack> {
        self.join(group.as_ref()).wait()
    }

    /// Leaves a group; blocks until the service has acked.
    ///
    /// # Errors
    /// As [`Request::wait`].
    pub fn leave_group(&self, group: impl AsRef<str>) -> Result<Ack> {
        self.leave(group.as_ref()).wait()
    }

    /// Publishes to a group; blocks until the service has acked. Membership is not needed.
    ///
    /// # Errors
    /// As [`Request::wait`]; `Refused` with `Forbidden` if the token lacks the role.
    pub fn send_to_group(&self, group: impl AsRef<str>, data: impl Into<Payload>) -> Result<Ack> {
        self.to_group(group.as_ref(), data).wait()
    }

    /// Sends an event to the app server; blocks until the service has acked. If the app server
    /// answers with data, that arrives as [`Event::ServerMessage`] before this returns.
    ///
    /// # Errors
    /// As [`Request::wait`]; `Refused` with `InternalServerError` if the handler failed.
    pub fn send_event(&self, event: impl AsRef<str>, data: impl Into<Payload>) -> Result<Ack> {
        self.event(event.as_ref(), data).wait()
    }

    /// A publication with options.
    pub fn to_group<'a>(
        &'a self,
        group: impl Into<Cow<'a, str>>,
        data: impl Into<Payload>,
    ) -> Request<'a> {
        Request::new(self, What::Publish(group.into(), data.into()))
    }

    /// An event to the app server with options.
    pub fn event<'a>(
        &'a self,
        event: impl Into<Cow<'a, str>>,
        data: impl Into<Payload>,
    ) -> Request<'a> {
        Request::new(self, What::Event(event.into(), data.into()))
    }

    /// Joining with options.
    pub fn join<'a>(&'a self, group: impl Into<Cow<'a, str>>) -> Request<'a> {
        Request::new(self, What::Join(group.into()))
    }

    /// Leaving with options.
    pub fn leave<'a>(&'a self, group: impl Into<Cow<'a, str>>) -> Request<'a> {
        Request::new(self, What::Leave(group.into()))
    }

    /// Starts many calls at once: they are written together, in order, which costs far less than
    /// one by one. As [`Request::start`] for each; the first request's deadline is the limit for
    /// writing. All are held in memory until they are written.
    ///
    /// ```no_run
    /// # fn main() -> webpubsub::Result<()> {
    /// # let client = webpubsub::Client::connect("wss://example/client/hubs/h")?;
    /// let pending = client.start_all((0..1000).map(|i| client.to_group(format!("g{i}"), "x")))?;
    /// for one in &pending {
    ///     one.wait()?;
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Request::start`]; if one request is not valid, none is sent.
    pub fn start_all<'a>(
        &'a self,
        requests: impl IntoIterator<Item = Request<'a>>,
    ) -> Result<Vec<PendingAck>> {
        let prepare = |request: Request<'a>| {
            self.own(&request)?;
            request.prepare(Instant::now())
        };
        self.shared().start(requests.into_iter().map(prepare).collect::<Result<_>>()?)
    }

    /// Sends many publications and events at once without asking for acks; otherwise as
    /// [`Request::fire_and_forget`] for each.
    ///
    /// # Errors
    /// As [`Request::fire_and_forget`]; if one request is not valid, none is sent.
    pub fn fire_all<'a>(&'a self, requests: impl IntoIterator<Item = Request<'a>>) -> Result<()> {
        let mut calls = Vec::new();
        for request in requests {
            self.own(&request)?;
            if !request.is_message() {
                return Err(Error::invalid("`fire_all` takes publications and events only"));
            }
            calls.push(request.unacked(Instant::now())?);
        }
        let Some(deadline) = calls.first().map(|call| call.deadline) else { return Ok(()) };
        for call in &mut calls {
            call.deadline = deadline;
        }
        self.shared().fire(Instant::now(), deadline, calls)
    }

    fn own(&self, request: &Request<'_>) -> Result<()> {
        if request.is_of(self) {
            return Ok(());
        }
        Err(Error::invalid("a request of another client is among these"))
    }

    /// The groups that this client has joined, by its own calls.
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
            /// It is a `crossbeam_channel::Receiver`, for iteration and `select!`. All receivers of
            /// a client share one queue: each event goes to one of them.
            #[must_use]
            pub fn events(&self) -> Receiver<Event> {
                self.shared().events.clone()
            }

            /// Blocks until the next event.
            ///
            /// # Errors
            /// At the end of the queue: `Closed`, or what ended the client.
            pub fn recv(&self) -> Result<Event> {
                self.shared().events.recv().map_err(|_| self.shared().end_error())
            }

            /// Blocks for at most `limit`; `None` if no event came.
            ///
            /// # Errors
            /// As [`recv`](Self::recv).
            pub fn recv_timeout(&self, limit: Duration) -> Result<Option<Event>> {
                match self.shared().events.recv_timeout(limit) {
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
                match self.shared().events.try_recv() {
                    Ok(event) => Ok(Some(event)),
                    Err(TryRecvError::Empty) => Ok(None),
                    Err(TryRecvError::Disconnected) => Err(self.shared().end_error()),
                }
            }

            /// Ends the client, from any thread and in any state.
            ///
            /// Pending calls end with `Closed` at once. What was handed to the connection is
            /// flushed: every `fire_and_forget` that has returned, and started calls within
            /// `max_in_flight`. (Started calls that still wait for their turn are not sent; to be
            /// sure, wait for their outcome first.) Then a Close frame (1000) is sent, the queue gets
            /// [`Event::Stopped`](crate::Event::Stopped) and ends, so `recv` and blocked writers end
            /// too, and the client's thread is waited for: in all at most the close timeout (default
            /// 2 s). A second `close` waits for the first.
            ///
            /// # Errors
            /// `Timeout` if the peer did not take all that was sent before; the rest is lost.
            pub fn close(&self) -> Result<()> {
                self.shared().close()
            }

            /// Counters, as they stand now.
            #[must_use]
            pub fn stats(&self) -> Stats {
                self.shared().stats()
            }

            /// True while the connection is up.
            #[must_use]
            pub fn is_connected(&self) -> bool {
                self.shared().lock().session.is_open()
            }
        }
    };
}
pub(super) use common_calls;
common_calls!(Client);
