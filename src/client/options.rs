//! What the builders hold, its rules, and how a client is started from it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::config::{KeepAlive, QueueConfig, Reconnect, Recovery};
use super::dialer::{Dials, Setup};
use super::label::Label;
use super::queue::Queue;
use super::queues::{Queues, Routes};
use super::reader::Reader;
use super::shared::{Events, Shared, internal};
use super::source::{Kind, Raw, Shape, UrlSource, hub_of};
use super::wake::{OnWake, WakeHook, may_block};
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::Protocol;
use crate::secret::Secret;
use crate::session::{self, KeepAliveConfig};
use crate::transport::{DialOptions, LinkOptions, Proxy, Resolver, TlsConfig};

/// What both builders hold.
#[derive(Clone)]
pub(super) struct Options {
    pub(super) source: UrlSource,
    pub(super) session: session::Config,
    pub(super) keep_alive: Option<KeepAlive>,
    pub(super) reconnect: Option<Reconnect>,
    pub(super) recovery: Recovery,
    pub(super) queue: Option<QueueConfig>,
    pub(super) link: LinkOptions,
    pub(super) token_in_header: bool,
    pub(super) socket_buffer: Option<usize>,
    pub(super) name: Option<String>,
    /// `None`: what all such clients share.
    pub(super) tls: Option<TlsConfig>,
    pub(super) proxy: Option<Proxy>,
    pub(super) user_agent: String,
    pub(super) headers: Vec<(String, Secret)>,
    pub(super) resolver: Option<Arc<Resolver>>,
    pub(super) on_wake: Option<OnWake>,
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
            .field("keep_alive", &self.keep_alive)
            .field("reconnect", &self.reconnect)
            .field("recovery", &self.recovery)
            .field("event_queue", &self.queue)
            .field("link", &self.link)
            .field("name", &self.name)
            .field("proxy", &self.proxy)
            .field("tls", &self.tls)
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
            keep_alive: Some(KeepAlive::new()),
            reconnect: Some(Reconnect::new()),
            recovery: Recovery::new(),
            queue: Some(QueueConfig::new()),
            link: LinkOptions::default(),
            token_in_header: false,
            socket_buffer: None,
            name: None,
            tls: None,
            proxy: Some(Proxy::from_env()),
            user_agent: concat!("webpubsub-rust/", env!("CARGO_PKG_VERSION")).into(),
            headers: Vec::new(),
            resolver: None,
            on_wake: None,
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
        for (setter, value, least) in [
            ("max_pending_calls", s.max_pending_calls, 1),
            ("max_pending_bytes", s.max_pending_bytes, 1),
            ("max_message_bytes", self.link.max_message_size, 1024),
            ("read_buffer_bytes", self.link.read_buffer_size, 1024),
        ] {
            if value < least {
                return Err(Error::config(format!("`{setter}` must be {least} at least")));
            }
        }
        if s.connect_timeout.is_zero() {
            return wrong("`connect_timeout` must not be zero");
        }
        if s.step_timeout.is_zero() {
            return wrong("`connect_step_timeout` must not be zero");
        }
        if self.name.as_ref().is_some_and(|name| name.contains('\0')) {
            return wrong("`name` must not contain a NUL character");
        }
        self.keep_alive.as_ref().map_or(Ok(()), KeepAlive::check)?;
        self.reconnect.as_ref().map_or(Ok(()), Reconnect::check)?;
        self.recovery.check()?;
        self.queue.as_ref().map_or(Ok(()), QueueConfig::check)
    }

    fn dial_options(&self) -> Result<DialOptions> {
        check_headers(&self.user_agent, &self.headers)?;
        let tls = self.tls.clone().unwrap_or_else(TlsConfig::shared);
        tls.check()?;
        Ok(DialOptions {
            step: self.session.step_timeout.min(YEAR),
            socket_buffer: self.socket_buffer,
            tls,
            proxy: self.proxy.clone(),
            user_agent: self.user_agent.clone(),
            headers: self.headers.clone(),
        })
    }

    /// The settings of the session. A limit that the clock cannot express is a long one.
    fn session(&self) -> session::Config {
        let given = &self.session;
        let mut session = session::Config {
            connect_timeout: given.connect_timeout.min(YEAR),
            step_timeout: given.step_timeout.min(YEAR),
            call_timeout: given.call_timeout.min(YEAR),
            close_timeout: given.close_timeout.min(YEAR),
            recovery_window: self.recovery.give_up_after.min(YEAR),
            recovery_interval: self.recovery.attempt_interval.min(YEAR),
            recovery_attempt: self.recovery.attempt_timeout.min(YEAR),
            auto_reconnect: self.reconnect.is_some(),
            ..given.clone()
        };
        if let Some(reconnect) = &self.reconnect {
            session.backoff_min = reconnect.shortest.min(YEAR);
            session.backoff_max = reconnect.longest.min(YEAR);
            session.max_reconnect_attempts = reconnect.max_attempts;
            session.rejoin = reconnect.rejoin_groups;
            session.resend_on_new_connection = reconnect.resend_calls;
        }
        session
    }

    fn keep_alive(&self) -> KeepAliveConfig {
        let KeepAlive { ping_after, dead_after } = self.keep_alive.clone().unwrap_or_default();
        let interval = self.keep_alive.is_some().then(|| ping_after.min(YEAR));
        KeepAliveConfig { interval, dead_after: dead_after.min(YEAR) }
    }

    /// How this client connects; checks what has to do with that.
    fn dials(&self, protocol: Option<Protocol>, raw: Raw) -> Result<Dials> {
        let shape = Shape {
            subprotocol: protocol.map(Protocol::name),
            token_in_header: self.token_in_header,
            raw,
        };
        let url = match &self.source.0 {
            Kind::Fixed(url) => Some(url.clone()),
            Kind::Minted { from, hub, access } => Some(from.client_access_url(hub, access)?),
            Kind::Provider(_) => None,
        };
        let label = Arc::new(Label::new(self.name.clone()));
        if let Some(url) = url {
            shape.new_connection(url.expose())?;
            label.hub(hub_of(url.expose()));
        }
        Ok(Dials::new(Setup {
            source: self.source.clone(),
            shape,
            dial: self.dial_options()?,
            resolver: self.resolver.clone(),
            link: self.link.clone(),
            label,
        }))
    }

    /// As [`connect`](Self::connect), without waiting.
    pub(super) fn connect_in_background(
        mut self,
        protocol: Option<Protocol>,
        raw: Raw,
    ) -> Result<Arc<Shared>> {
        self.session.background = true;
        self.begin(protocol, raw, None)
    }

    /// Checks everything, starts the thread and waits for the first connection.
    pub(super) fn connect(self, protocol: Option<Protocol>, raw: Raw) -> Result<Arc<Shared>> {
        may_block()?;
        let limit = self.session().connect_timeout + GRACE;
        let (ready, first) = bounded(1);
        let shared = self.begin(protocol, raw, Some(ready))?;
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

    /// Checks everything and starts the thread.
    fn begin(
        self,
        protocol: Option<Protocol>,
        raw: Raw,
        ready: Option<Sender<Result<()>>>,
    ) -> Result<Arc<Shared>> {
        // Nothing is started before the configuration is known to be good.
        self.check()?;
        let dials = self.dials(protocol, raw)?;
        let session = self.session();
        let keep_alive = self.keep_alive();
        let calls = Arc::new(AtomicUsize::new(0));
        let (asked, routes) = (Arc::new(AtomicBool::new(false)), Arc::new(Routes::default()));
        let hook = self.on_wake.map(|closure| Arc::new(WakeHook::new(closure)));
        let (queue, receiver) =
            Queue::new(self.queue, Arc::clone(&calls), Arc::clone(&asked), hook.clone());
        let queue = Queues::new(queue, Arc::clone(&routes), Instant::now());
        let events = Events { receiver, calls, asked, routes, hook };
        let (shared, alive) = Shared::new(protocol, session, events)?;
        // On the heap, because a thread's stack keeps what was ever moved over it.
        let reader = Reader::new(Arc::clone(&shared), dials, keep_alive, queue, ready, alive);
        let reader = Box::new(reader);
        let thread = thread::Builder::new()
            .name(self.name.unwrap_or_else(|| "webpubsub".into()))
            .spawn(move || reader.run())
            .map_err(|e| {
                Error::new(ErrorKind::Internal, "the client's thread could not be started")
                    .with_source(e)
            })?;
        shared.set_thread(thread);
        Ok(shared)
    }
}

const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// The dialing thread keeps the limit itself; this is for a machine that hangs.
const GRACE: Duration = Duration::from_secs(2);
