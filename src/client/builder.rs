//! Settings of a client.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};

use super::handle::Client;
use super::queue::{Limits, Overflow, Queue};
use super::reader::{Reader, Setup};
use super::request::rule;
use super::shared::{Shared, internal};
use super::simple::SimpleClient;
use super::source::{Kind, Shape, UrlSource};
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::{Protocol, rules};
use crate::secret::Secret;
use crate::session;
use crate::transport::{
    DialOptions, LinkOptions, Proxy, ProxyChoice, Resolver, Root, TlsBackend, TlsOptions,
};

/// What both builders hold.
#[derive(Clone)]
struct Options {
    source: UrlSource,
    session: session::Config,
    limits: Limits,
    link: LinkOptions,
    keep_alive: Option<Duration>,
    dead_after: Duration,
    token_in_header: bool,
    socket_buffer: Option<usize>,
    thread_name: String,
    tls: TlsOptions,
    proxy: ProxyOption,
    user_agent: String,
    headers: Vec<(String, Secret)>,
    resolver: Option<Arc<Resolver>>,
}

/// As the program gave it; parsed when the client is built.
#[derive(Clone)]
enum ProxyOption {
    Environment,
    None,
    Url(Secret),
}

/// Headers that the upgrade sets itself.
const OWN_HEADERS: [&str; 10] = [
    "host",
    "upgrade",
    "connection",
    "authorization",
    "user-agent",
    "content-length",
    "transfer-encoding",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-protocol",
];

/// RFC 9110 §5: a name is a token, a value has no line ends; neither is repeated in the error.
fn check_headers(user_agent: &str, headers: &[(String, Secret)]) -> Result<()> {
    let value_is_good = |value: &str| value.bytes().all(|b| b == b'\t' || (b >= 0x20 && b != 0x7f));
    if !value_is_good(user_agent) {
        return Err(Error::config("`user_agent` must not contain control characters"));
    }
    for (name, value) in headers {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(token) {
            return Err(Error::config("`header`: a name must consist of HTTP token characters"));
        }
        if !value_is_good(value.expose()) {
            return Err(Error::config(format!(
                "`header`: the value of `{name}` must not contain control characters"
            )));
        }
        if OWN_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
            return Err(Error::config(format!(
                "`header`: `{name}` is set by the client itself; see `token_in_header` and \
                 `user_agent`"
            )));
        }
    }
    Ok(())
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("source", &self.source)
            .field("session", &self.session)
            .field("queue", &self.limits)
            .field("link", &self.link)
            .field("keep_alive", &self.keep_alive)
            .field("dead_after", &self.dead_after)
            .finish_non_exhaustive()
    }
}

impl Options {
    fn new(source: UrlSource) -> Self {
        let session =
            session::Config { url_provider: source.is_renewable(), ..session::Config::default() };
        Self {
            source,
            session,
            limits: Limits::default(),
            link: LinkOptions::default(),
            keep_alive: Some(Duration::from_secs(10)),
            dead_after: Duration::from_secs(20),
            token_in_header: false,
            socket_buffer: None,
            thread_name: "webpubsub".into(),
            tls: TlsOptions::default(),
            proxy: ProxyOption::Environment,
            user_agent: concat!("webpubsub-rust/", env!("CARGO_PKG_VERSION")).into(),
            headers: Vec::new(),
            resolver: None,
        }
    }

    fn check(&self) -> Result<()> {
        let s = &self.session;
        let wrong = |text: &'static str| Err(Error::config(text));
        if s.max_in_flight == 0 || s.max_in_flight > 1000 {
            return wrong(
                "`max_in_flight` must be 1 to 1000: the service remembers the last 1000 ack ids",
            );
        }
        if s.backoff_min > s.backoff_max {
            return wrong("`backoff`: the shortest delay must not exceed the longest");
        }
        if self.keep_alive.is_some_and(|interval| interval.is_zero()) {
            return wrong("`keep_alive`: the interval must not be zero; use `no_keep_alive`");
        }
        if self.keep_alive.is_some_and(|interval| interval >= self.dead_after) {
            return wrong("`keep_alive`: the dead limit must be longer than the interval");
        }
        if [s.connect_timeout, s.step_timeout, s.recovery_attempt].iter().any(Duration::is_zero) {
            return wrong("the time limits for connecting must not be zero");
        }
        if self.limits.soft == 0 || self.limits.hard < self.limits.soft || self.limits.bytes == 0 {
            return wrong(
                "`queue_limit`: the bounds must not be zero, and the one while calls are in \
                 flight not below the other",
            );
        }
        if self.thread_name.contains('\0') {
            return wrong("`thread_name` must not contain a NUL character");
        }
        if self.link.read_buffer_size < 1024 || self.link.max_message_size < 1024 {
            return wrong("`read_buffer_size` and `max_message_size` must be 1024 at least");
        }
        Ok(())
    }

    fn dial_options(&self) -> Result<DialOptions> {
        check_headers(&self.user_agent, &self.headers)?;
        let proxy = match &self.proxy {
            ProxyOption::Environment => ProxyChoice::Environment,
            ProxyOption::None => ProxyChoice::None,
            ProxyOption::Url(url) => ProxyChoice::Fixed(Proxy::parse(url.expose())?),
        };
        Ok(DialOptions {
            step: self.session.step_timeout,
            socket_buffer: self.socket_buffer,
            tls: self.tls.connector()?,
            proxy,
            user_agent: self.user_agent.clone(),
            headers: self.headers.clone(),
        })
    }

    /// A limit that the clock cannot express is a long one.
    fn bounded(mut self) -> Self {
        let session = &mut self.session;
        for limit in [
            &mut session.connect_timeout,
            &mut session.step_timeout,
            &mut session.call_timeout,
            &mut session.close_timeout,
            &mut self.dead_after,
        ] {
            *limit = (*limit).min(YEAR);
        }
        self.keep_alive = self.keep_alive.map(|interval| interval.min(YEAR));
        self
    }

    /// Checks everything, starts the thread and waits for the first connection.
    fn connect(self, protocol: Option<Protocol>, raw_group: Option<String>) -> Result<Arc<Shared>> {
        self.check()?;
        self.bounded().connect_checked(protocol, raw_group)
    }

    fn connect_checked(
        self,
        protocol: Option<Protocol>,
        raw_group: Option<String>,
    ) -> Result<Arc<Shared>> {
        let shape = Shape {
            subprotocol: protocol.map(Protocol::name),
            token_in_header: self.token_in_header,
            raw_group,
        };
        // Nothing is started before the configuration is known to be good.
        match &self.source.0 {
            Kind::Fixed(url) => drop(shape.new_connection(url.expose())?),
            Kind::Minted { from, hub, access } => {
                drop(shape.new_connection(from.client_access_url(hub, access)?.as_str())?);
            }
            Kind::Provider(_) => {}
        }
        let setup = Setup {
            source: self.source.clone(),
            shape,
            dial: self.dial_options()?,
            resolver: self.resolver.clone(),
            link: self.link.clone(),
            keep_alive: self.keep_alive,
            dead_after: self.dead_after,
        };
        let limit = self.session.connect_timeout + GRACE;
        let (queue, events) = Queue::new(self.limits);
        let (shared, alive) = Shared::new(protocol, self.session, events);
        let (ready, first) = bounded(1);
        let reader = Reader::new(Arc::clone(&shared), setup, queue, ready, alive);
        let thread = thread::Builder::new()
            .name(self.thread_name)
            .spawn(move || reader.run())
            .map_err(|e| {
                Error::new(ErrorKind::Internal, "the client's thread could not be started")
                    .with_source(e)
            })?;
        shared.set_thread(thread);
        let outcome = match first.recv_timeout(limit) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Disconnected) => Err(internal()),
            Err(RecvTimeoutError::Timeout) => {
                Err(Error::new(ErrorKind::Timeout, "connecting took longer than its time limit"))
            }
        };
        match outcome {
            Ok(()) => Ok(shared),
            Err(error) => {
                let _ = shared.close();
                Err(error)
            }
        }
    }
}

const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// The dialing thread keeps the limit itself; this is for a machine that hangs.
const GRACE: Duration = Duration::from_secs(2);

/// Settings of a [`Client`]. Every default is in the method's documentation.
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

    /// Re-establish a connection that is lost for good. Default: true. (Recovery of a reliable
    /// connection is tried in any case.)
    pub fn auto_reconnect(mut self, on: bool) -> Self {
        self.options.session.auto_reconnect = on;
        self
    }

    /// Join again, after a new connection, the groups that the client had joined. Default: true.
    pub fn rejoin_groups(mut self, on: bool) -> Self {
        self.options.session.rejoin = on;
        self
    }

    /// Send calls that were in flight when a session was lost again on the new connection, under
    /// the same ack id. The service may then execute them twice, since ack ids mean nothing across
    /// connections. Default: false, such calls fail with `OutcomeUnknown`.
    pub fn resend_on_new_connection(mut self, on: bool) -> Self {
        self.options.session.resend_on_new_connection = on;
        self
    }

    /// How many calls may be sent and unacked, 1 to 1000. Default: 512. Further ones wait in
    /// order. (The service recognises a repetition among its last 1000 ack ids.)
    pub fn max_in_flight(mut self, calls: usize) -> Self {
        self.options.session.max_in_flight = calls;
        self
    }

    /// Recovery: how long after the loss it is tried (default 30 s, what the service guarantees),
    /// about how often (default 1 s), and the limit of each try (default 5 s).
    pub fn recovery(mut self, window: Duration, interval: Duration, attempt: Duration) -> Self {
        self.options.session.recovery_window = window;
        self.options.session.recovery_interval = interval;
        self.options.session.recovery_attempt = attempt;
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
        options.connect(Some(self.protocol), None).map(Client::from_shared)
    }
}

/// Settings of a [`SimpleClient`]. Every default is in the method's documentation.
#[derive(Debug, Clone)]
#[must_use = "nothing happens until `connect`"]
pub struct SimpleClientBuilder {
    options: Options,
    group: Option<String>,
}

impl SimpleClientBuilder {
    pub(super) fn new(source: UrlSource) -> Self {
        let mut options = Options::new(source);
        options.session.simple = true;
        options.session.recoverable = false;
        options.session.auto_reconnect = false;
        Self { options, group: None }
    }

    /// Publish what is sent to this group, instead of sending it to the app server as the event
    /// `message`. The token needs the role to send to the group.
    pub fn publish_to(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// Make a new connection when one is lost. Messages in between are missed. Default: false.
    pub fn auto_reconnect(mut self, on: bool) -> Self {
        self.options.session.auto_reconnect = on;
        self
    }

    /// Checks the settings, connects, and blocks until the upgrade is done.
    ///
    /// # Errors
    /// `Config` if a setting or the URL is wrong (nothing was sent then), else as
    /// [`SimpleClient::connect`].
    pub fn connect(self) -> Result<SimpleClient> {
        if let Some(group) = &self.group {
            rule("group name", rules::group(group)).map_err(|e| Error::config(e.to_string()))?;
        }
        self.options.connect(None, self.group).map(SimpleClient::from_shared)
    }
}

macro_rules! common_settings {
    ($builder:ty) => {
        impl $builder {
            /// The limit of one attempt to connect, all steps together. Default: 30 s.
            pub fn connect_timeout(mut self, limit: Duration) -> Self {
                self.options.session.connect_timeout = limit;
                self
            }

            /// The limit of each step of connecting: name look-up, TCP, TLS, upgrade, `connected`.
            /// Default: 10 s.
            pub fn step_timeout(mut self, limit: Duration) -> Self {
                self.options.session.step_timeout = limit;
                self
            }

            /// The deadline of a call: waiting for a connection, writing and the ack together.
            /// Default: 30 s.
            pub fn call_timeout(mut self, limit: Duration) -> Self {
                self.options.session.call_timeout = limit;
                self
            }

            /// How long `close` may take. Default: 2 s.
            pub fn close_timeout(mut self, limit: Duration) -> Self {
                self.options.session.close_timeout = limit;
                self
            }

            /// Send a ping when nothing came for `interval`, and give the peer up when nothing
            /// came for `dead_after`. Default: 10 s and 20 s, so that a recovery still finds its
            /// session, which the service keeps for 30 s.
            pub fn keep_alive(mut self, interval: Duration, dead_after: Duration) -> Self {
                self.options.keep_alive = Some(interval);
                self.options.dead_after = dead_after;
                self
            }

            /// No pings: a peer that vanishes silently is noticed only when something is sent.
            /// An idle client then never wakes up.
            pub fn no_keep_alive(mut self) -> Self {
                self.options.keep_alive = None;
                self
            }

            /// New connections: exponential backoff with full jitter, from `min` to `max`.
            /// Default: 1 s and 30 s.
            pub fn backoff(mut self, min: Duration, max: Duration) -> Self {
                self.options.session.backoff_min = min;
                self.options.session.backoff_max = max;
                self
            }

            /// Stop after so many attempts in a row to make a new connection. Default: no limit.
            pub fn max_reconnect_attempts(mut self, attempts: u32) -> Self {
                self.options.session.max_reconnect_attempts = Some(attempts);
                self
            }

            /// The bound of the event queue: `messages` normally, `while_in_flight` while a call
            /// waits for its ack (which is read behind the messages), and `bytes` in any case.
            /// Default: 1024, 16,384 and 64 MiB. Lifecycle events do not count as messages and
            /// always enter.
            pub fn queue_limit(
                mut self,
                messages: usize,
                while_in_flight: usize,
                bytes: usize,
            ) -> Self {
                self.options.limits.soft = messages;
                self.options.limits.hard = while_in_flight;
                self.options.limits.bytes = bytes;
                self
            }

            /// What happens at the bound. Default: [`Overflow::Wait`].
            pub fn overflow(mut self, policy: Overflow) -> Self {
                self.options.limits.overflow = policy;
                self
            }

            /// No event queue: messages and events are discarded, for programs that only send.
            pub fn no_event_queue(mut self) -> Self {
                self.options.limits.off = true;
                self
            }

            /// Send the access token as `Authorization: Bearer …` instead of in the URL's query.
            /// Default: false. The service's specification names the query; the header is taken
            /// by the official emulator and the service's reference page.
            pub fn token_in_header(mut self, on: bool) -> Self {
                self.options.token_in_header = on;
                self
            }

            /// Another header for the upgrade request, for gateways on the way. The value is
            /// treated as a secret.
            pub fn header(mut self, name: impl Into<String>, value: impl Into<Secret>) -> Self {
                self.options.headers.push((name.into(), value.into()));
                self
            }

            /// The `User-Agent` of the upgrade request. Default: `webpubsub-rust/VERSION`.
            pub fn user_agent(mut self, text: impl Into<String>) -> Self {
                self.options.user_agent = text.into();
                self
            }

            /// Go through this HTTP proxy by a CONNECT tunnel:
            /// `http://[USER:PASSWORD@]HOST[:PORT]`, with Basic credentials if it has them.
            ///
            /// Default: by the environment. `HTTPS_PROXY` is for `wss`, `HTTP_PROXY` for `ws`,
            /// `ALL_PROXY` for both; `NO_PROXY` lists exceptions (`*`, hosts with all below them,
            /// each with an optional port); lower-case names come first; loopback hosts are never
            /// proxied that way.
            pub fn proxy(mut self, url: impl Into<Secret>) -> Self {
                self.options.proxy = ProxyOption::Url(url.into());
                self
            }

            /// Connect directly, whatever the environment says.
            pub fn no_proxy(mut self) -> Self {
                self.options.proxy = ProxyOption::None;
                self
            }

            /// Trust this certificate (PEM) too, beside the platform's.
            pub fn root_certificate_pem(mut self, pem: impl Into<String>) -> Self {
                self.options.tls.roots.push(Root::Pem(pem.into()));
                self
            }

            /// Trust this certificate (DER) too, beside the platform's.
            pub fn root_certificate_der(mut self, der: impl Into<Vec<u8>>) -> Self {
                self.options.tls.roots.push(Root::Der(der.into()));
                self
            }

            /// Show this certificate to the service: a chain and its PKCS#8 key, both in PEM.
            pub fn client_certificate_pem(
                mut self,
                chain: impl Into<String>,
                key: impl Into<Secret>,
            ) -> Self {
                self.options.tls.identity = Some((chain.into(), key.into()));
                self
            }

            /// Which TLS implementation, where the build has two. Default: native-tls if it is
            /// there. Both speak TLS 1.2 at least.
            pub fn tls_backend(mut self, backend: TlsBackend) -> Self {
                self.options.tls.backend = Some(backend);
                self
            }

            /// rustls only: trust Mozilla's roots, which the feature `rustls-bundled-roots` brings,
            /// instead of the platform's. Default: false.
            pub fn bundled_roots(mut self, on: bool) -> Self {
                self.options.tls.bundled_roots = on;
                self
            }

            /// **Insecure.** Accept every certificate for every host: anybody on the way can read
            /// and change everything, the access token included. For experiments only.
            pub fn danger_accept_invalid_certificates(mut self, on: bool) -> Self {
                self.options.tls.accept_invalid = on;
                self
            }

            /// The largest message that is accepted from the service, in bytes. Default: 16 MiB.
            /// A larger one ends the session.
            pub fn max_message_size(mut self, bytes: usize) -> Self {
                self.options.link.max_message_size = bytes;
                self
            }

            /// The size of the operating system's send and receive buffers of the connection, in
            /// bytes. Default: the system's.
            pub fn socket_buffer_size(mut self, bytes: usize) -> Self {
                self.options.socket_buffer = Some(bytes);
                self
            }

            /// The name of the client's thread. Default: `webpubsub`.
            pub fn thread_name(mut self, name: impl Into<String>) -> Self {
                self.options.thread_name = name.into();
                self
            }

            /// Resolve host names by this closure instead of the system's resolver. It may block: it
            /// runs on a thread of its own, at most one at a time.
            pub fn resolver<F>(mut self, resolver: F) -> Self
            where
                F: Fn(&str, u16) -> std::io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
            {
                self.options.resolver = Some(Arc::new(resolver));
                self
            }

            /// The read buffer of a connection, in bytes. Default: 16 KiB.
            pub fn read_buffer_size(mut self, bytes: usize) -> Self {
                self.options.link.read_buffer_size = bytes;
                self
            }
        }
    };
}
common_settings!(ClientBuilder);
common_settings!(SimpleClientBuilder);
