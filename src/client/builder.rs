//! Settings of a client.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::config::{KeepAlive, QueueConfig, Reconnect, Recovery};
use super::handle::Client;
use super::options::Options;
use super::request::rule;
use super::simple::SimpleClient;
use super::source::{Raw, UrlSource};
use crate::error::{Error, Result};
use crate::protocol::{Protocol, rules};
use crate::secret::Secret;
use crate::transport::{Proxy, TlsConfig};

/// Settings of a [`Client`]. The documentation of each setter ends with its default.
///
/// It may be cloned, to build several clients of one kind or the same one again. `Debug` shows no
/// secret.
///
#[cfg_attr(feature = "emulator", doc = "```")]
#[cfg_attr(not(feature = "emulator"), doc = "```ignore")]
/// use std::time::Duration;
///
/// use webpubsub::{Client, QueueConfig, Reconnect};
/// # use webpubsub::emulator::Emulator;
/// # fn main() -> webpubsub::Result<()> {
/// # let emulator = Emulator::start()?;
/// # let url = emulator.url("chat");
/// let client = Client::builder(url)
///     .name("prices")
///     .call_timeout(Duration::from_secs(5))
///     .reconnect(Some(Reconnect::new().max_attempts(Some(10))))
///     .event_queue(Some(QueueConfig::new().max_messages(10_000)))
///     .connect()?;
/// # client.close() }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing happens until `connect`"]
pub struct ClientBuilder {
    options: Options,
    protocol: Protocol,
}

impl ClientBuilder {
    pub(super) fn new(source: UrlSource) -> Self {
        Self { options: Options::new(source), protocol: Protocol::default() }
    }

    /// The subprotocol. Default: [`Protocol::ReliableJson`].
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// New connections, when one is lost for good; `None`: the client stops then. (Recovery of a
    /// reliable connection is tried in any case.) Default: [`Reconnect::new()`].
    pub fn reconnect(mut self, reconnect: Option<Reconnect>) -> Self {
        self.options.reconnect = reconnect;
        self
    }

    /// How a lost link is recovered; with the reliable subprotocols only. Default:
    /// [`Recovery::new()`].
    pub fn recovery(mut self, recovery: Recovery) -> Self {
        self.options.recovery = recovery;
        self
    }

    /// How many calls may be sent and unacked, 1 to 1000. Further ones wait in order.
    ///
    /// The service recognises a repetition among the last 1000 ack ids that succeeded. It also ends
    /// a session for which more than 1000 frames are unsent (1032 over a reliable subprotocol), and
    /// a call may bring two: its ack, and the echo of a publication to a group of which the client is
    /// a member. Messages sent without an ack do not count here, but their echoes fill that queue too.
    /// Default: 256.
    pub fn max_in_flight(mut self, calls: usize) -> Self {
        self.options.session.max_in_flight = calls;
        self
    }

    /// How many calls may have no outcome yet, those that wait to be sent included. At this bound
    /// [`Client::start`] waits and [`Client::try_start`] returns `WouldBlock`. Default: 65,536.
    pub fn max_pending_calls(mut self, calls: usize) -> Self {
        self.options.session.max_pending_calls = calls;
        self
    }

    /// How many bytes of calls may wait to be sent; a single call may be larger. Default: 64 MiB.
    pub fn max_pending_bytes(mut self, bytes: usize) -> Self {
        self.options.session.max_pending_bytes = bytes;
        self
    }

    /// Checks the settings, connects, and blocks until the service has said `connected`.
    ///
    /// # Errors
    /// `Config` if a setting or the URL is wrong (nothing was sent then), else as
    /// [`Client::connect`].
    pub fn connect(self) -> Result<Client> {
        let mut options = self.options;
        options.session.recoverable = self.protocol.is_reliable();
        options.connect(Some(self.protocol), Raw::default()).map(Client::from_shared)
    }

    /// Checks the settings and returns; the client connects in the background. A failed attempt is
    /// followed by [`Event::Reconnecting`](crate::Event::Reconnecting) and the next one, as after a
    /// loss; with `reconnect(None)` there is one attempt. Calls wait for the connection within their
    /// deadlines; [`Client::wait_connected`] waits for it alone.
    ///
    /// # Errors
    /// `Config` if a setting or the URL is wrong; `Internal` if no thread can be started.
    pub fn connect_in_background(self) -> Result<Client> {
        let mut options = self.options;
        options.session.recoverable = self.protocol.is_reliable();
        let shared = options.connect_in_background(Some(self.protocol), Raw::default())?;
        Ok(Client::from_shared(shared))
    }
}

/// Settings of a [`SimpleClient`]. The documentation of each setter ends with its default; `Debug`
/// shows no secret.
#[derive(Debug, Clone)]
#[must_use = "nothing happens until `connect`"]
pub struct SimpleClientBuilder {
    options: Options,
    raw: Raw,
}

impl SimpleClientBuilder {
    pub(super) fn new(source: UrlSource) -> Self {
        let mut options = Options::new(source);
        options.session.simple = true;
        options.session.recoverable = false;
        options.reconnect = None;
        Self { options, raw: Raw::default() }
    }

    /// Publish what is sent to this group, instead of sending it to the app server as the event
    /// `message`. The token needs the role to send to the group. Default: none.
    pub fn publish_to(mut self, group: impl Into<String>) -> Self {
        self.raw.group = Some(group.into());
        self
    }

    /// Do not receive what this client publishes itself. Default: a member of the group receives
    /// it. It has a meaning together with [`publish_to`](Self::publish_to) only.
    pub fn no_echo(mut self) -> Self {
        self.raw.no_echo = true;
        self
    }

    /// New connections, when one is lost; messages in between are missed. `None`: the client stops
    /// then. Default: `None`.
    pub fn reconnect(mut self, reconnect: Option<Reconnect>) -> Self {
        self.options.reconnect = reconnect;
        self
    }

    /// Checks the settings, connects, and blocks until the upgrade is done.
    ///
    /// # Errors
    /// `Config` if a setting or the URL is wrong (nothing was sent then), else as
    /// [`SimpleClient::connect`].
    pub fn connect(self) -> Result<SimpleClient> {
        self.check()?;
        self.options.connect(None, self.raw).map(SimpleClient::from_shared)
    }

    /// Checks the settings and returns; the client connects in the background. A failed attempt is
    /// followed by the next one if [`reconnect`](Self::reconnect) is set; else the client stops.
    /// [`SimpleClient::send`] waits for the connection.
    ///
    /// # Errors
    /// `Config` if a setting or the URL is wrong; `Internal` if no thread can be started.
    pub fn connect_in_background(self) -> Result<SimpleClient> {
        self.check()?;
        self.options.connect_in_background(None, self.raw).map(SimpleClient::from_shared)
    }

    fn check(&self) -> Result<()> {
        let Some(group) = &self.raw.group else { return Ok(()) };
        rule("group name", rules::group(group)).map_err(|e| Error::config(e.to_string()))
    }
}

macro_rules! common_settings {
    ($builder:ty) => {
        impl $builder {
            /// The limit of one attempt to connect, all steps together.
            ///
            /// The service answers the upgrade when the `connect` event handler of the hub, if
            /// there is one, has answered. So that wait is one that only this limits; make it
            /// longer than the handler may take. Default: 30 s.
            pub fn connect_timeout(mut self, limit: Duration) -> Self {
                self.options.session.connect_timeout = limit;
                self
            }

            /// The limit of each step of connecting: name look-up, TCP, proxy, TLS, writing the
            /// upgrade request, and after its answer the `connected` message. The wait for the
            /// answer to the upgrade is limited by [`connect_timeout`](Self::connect_timeout) alone.
            /// Default: 10 s.
            pub fn connect_step_timeout(mut self, limit: Duration) -> Self {
                self.options.session.step_timeout = limit;
                self
            }

            /// The deadline of a call: waiting for a connection, writing and the ack together. The
            /// ack of an event comes when the app server's handler is through, so this bounds the
            /// handler too. Default: 30 s.
            pub fn call_timeout(mut self, limit: Duration) -> Self {
                self.options.session.call_timeout = limit;
                self
            }

            /// How long `close` may take. Default: 2 s.
            pub fn close_timeout(mut self, limit: Duration) -> Self {
                self.options.session.close_timeout = limit;
                self
            }

            /// When silence is noticed. `None`: no pings; a service that no longer answers is not
            /// noticed while its system still does. TCP itself notices a dead network: on Linux within
            /// 30 s, elsewhere only while data is under way, after the system's own limit. An
            /// idle client then never wakes up. Default: [`KeepAlive::new()`].
            pub fn keep_alive(mut self, keep_alive: Option<KeepAlive>) -> Self {
                self.options.keep_alive = keep_alive;
                self
            }

            /// The bounds of the event queue. `None`: no queue; messages and events are discarded,
            /// for programs that only send. Default: [`QueueConfig::new()`].
            pub fn event_queue(mut self, queue: Option<QueueConfig>) -> Self {
                self.options.queue = queue;
                self
            }

            /// Sends the access token as `Authorization: Bearer …` instead of in the URL's query.
            /// The service's specification names the query; the header is taken by the official
            /// emulator and the service's reference page. Default: false.
            pub fn token_in_header(mut self, on: bool) -> Self {
                self.options.token_in_header = on;
                self
            }

            /// Another header for the upgrade request, for gateways on the way. The value is
            /// treated as a secret. Each call adds. Default: none.
            pub fn header(mut self, name: impl Into<String>, value: impl Into<Secret>) -> Self {
                self.options.headers.push((name.into(), value.into()));
                self
            }

            /// The `User-Agent` of the upgrade request. Default: `webpubsub-rust/VERSION`.
            pub fn user_agent(mut self, text: impl Into<String>) -> Self {
                self.options.user_agent = text.into();
                self
            }

            /// Goes through this HTTP proxy. `None`: connects directly, whatever the environment
            /// says. Default: [`Proxy::from_env()`].
            pub fn proxy(mut self, proxy: Option<Proxy>) -> Self {
                self.options.proxy = proxy;
                self
            }

            /// How TLS is done, for a `wss` URL. Default: [`TlsConfig::new()`], shared by all clients
            /// that were built without.
            pub fn tls(mut self, tls: TlsConfig) -> Self {
                self.options.tls = Some(tls);
                self
            }

            /// The largest message that is accepted from the service, in bytes. A larger one ends
            /// the session. Default: 16 MiB.
            pub fn max_message_bytes(mut self, bytes: usize) -> Self {
                self.options.link.max_message_size = bytes;
                self
            }

            /// The read buffer of a connection, in bytes. With 16 KiB a flood is received about a
            /// tenth faster, and every connection takes 8 KiB more. Default: 8 KiB.
            pub fn read_buffer_bytes(mut self, bytes: usize) -> Self {
                self.options.link.read_buffer_size = bytes;
                self
            }

            /// The size of the system's buffers of the socket: for this crate's own tests, which fill
            /// them.
            #[doc(hidden)]
            pub fn socket_buffer_size(mut self, bytes: usize) -> Self {
                self.options.socket_buffer = Some(bytes);
                self
            }

            /// A name for the client: that of its thread, and what each of its log lines begins with.
            /// Default: none; the thread is `webpubsub`, and log lines begin with the hub and the id
            /// of the connection.
            pub fn name(mut self, name: impl Into<String>) -> Self {
                self.options.name = Some(name.into());
                self
            }

            /// A closure that wakes the program's event loop: posts a message, requests a repaint. It
            /// is called
            ///
            /// - when an event enters an empty queue, the event queue or a subscription's,
            /// - at the first outcome of a call since the program last started one or looked at one by
            ///   [`try_wait`](crate::PendingAck::try_wait) or `wait_timeout` (what it takes from
            ///   [`receiver`](crate::PendingAck::receiver) is not seen),
            /// - when `state()` changes,
            /// - when there is room again after a `WouldBlock`.
            ///
            /// So, when woken, take from each queue until it is empty and look at every pending call.
            /// It may be called more often than that, but never less.
            ///
            /// It is the one piece of the program's code that runs on the client's thread, which does
            /// nothing else meanwhile: it must return at once, so methods of this crate that block
            /// return `WouldBlock` there (a lent crossbeam receiver cannot refuse; do not wait on one). If
            /// it panics, the client stops with [`Internal`](crate::ErrorKind::Internal). It must not own
            /// a clone of the client, which would then never be dropped. Default: none.
            pub fn on_wake(mut self, closure: impl Fn() + Send + Sync + 'static) -> Self {
                self.options.on_wake = Some(Arc::new(closure));
                self
            }

            /// Resolves host names by this closure. It may block: it runs on a thread of its own, at
            /// most one at a time. Default: the system's resolver.
            pub fn resolver<F>(mut self, resolver: F) -> Self
            where
                F: Fn(&str, u16) -> std::io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
            {
                self.options.resolver = Some(Arc::new(resolver));
                self
            }
        }
    };
}
common_settings!(ClientBuilder);
common_settings!(SimpleClientBuilder);
