//! What the builders hold, its rules, and how a client is started from it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};

use super::dialer::{Dials, Setup};
use super::queue::{Limits, Queue};
use super::reader::Reader;
use super::shared::{Shared, internal};
use super::source::{Kind, Raw, Shape, UrlSource};
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::Protocol;
use crate::secret::Secret;
use crate::session::{self, KeepAliveConfig};
use crate::transport::{DialOptions, LinkOptions, Proxy, ProxyChoice, Resolver, TlsOptions};

/// What both builders hold.
#[derive(Clone)]
pub(super) struct Options {
    pub(super) source: UrlSource,
    pub(super) session: session::Config,
    pub(super) limits: Limits,
    pub(super) link: LinkOptions,
    pub(super) keep_alive: Option<Duration>,
    pub(super) dead_after: Duration,
    pub(super) token_in_header: bool,
    pub(super) socket_buffer: Option<usize>,
    pub(super) thread_name: String,
    pub(super) tls: TlsOptions,
    pub(super) proxy: ProxyOption,
    pub(super) user_agent: String,
    pub(super) headers: Vec<(String, Secret)>,
    pub(super) resolver: Option<Arc<Resolver>>,
}

/// As the program gave it; parsed when the client is built.
#[derive(Clone)]
pub(super) enum ProxyOption {
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
    pub(super) fn new(source: UrlSource) -> Self {
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
        if s.max_pending_calls == 0 || s.max_pending_bytes == 0 {
            return wrong("`max_pending_calls` and `max_pending_bytes` must not be zero");
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
        if self.limits.soft == 0 || self.limits.bytes == 0 {
            return wrong(
                "`queue_messages` and `queue_bytes` must not be zero; use `no_event_queue`",
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
    pub(super) fn connect(self, protocol: Option<Protocol>, raw: Raw) -> Result<Arc<Shared>> {
        self.check()?;
        self.bounded().connect_checked(protocol, raw)
    }

    fn connect_checked(self, protocol: Option<Protocol>, raw: Raw) -> Result<Arc<Shared>> {
        let shape = Shape {
            subprotocol: protocol.map(Protocol::name),
            token_in_header: self.token_in_header,
            raw,
        };
        // Nothing is started before the configuration is known to be good.
        match &self.source.0 {
            Kind::Fixed(url) => drop(shape.new_connection(url.expose())?),
            Kind::Minted { from, hub, access } => {
                drop(shape.new_connection(from.client_access_url(hub, access)?.as_str())?);
            }
            Kind::Provider(_) => {}
        }
        let dials = Dials::new(Setup {
            source: self.source.clone(),
            shape,
            dial: self.dial_options()?,
            resolver: self.resolver.clone(),
            link: self.link.clone(),
        });
        let keep_alive = KeepAliveConfig { interval: self.keep_alive, dead_after: self.dead_after };
        let limit = self.session.connect_timeout + GRACE;
        let calls = Arc::new(AtomicUsize::new(0));
        let (queue, events) = Queue::new(self.limits, Arc::clone(&calls));
        let (shared, alive) = Shared::new(protocol, self.session, events, calls)?;
        let (ready, first) = bounded(1);
        // On the heap, because a thread's stack keeps what was ever moved over it.
        let reader = Reader::new(Arc::clone(&shared), dials, keep_alive, queue, ready, alive);
        let reader = Box::new(reader);
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
