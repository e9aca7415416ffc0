//! The emulator's options.

use std::sync::Arc;
use std::time::Duration;

use super::Emulator;
use super::connect::{ConnectAnswer, ConnectHandler, ConnectRequest};
use super::events::{EmulatedEvent, EventAnswer, Handler};
use super::outbox::Load;
use super::reports::Listeners;
use super::server_session::ConnectionInfo;
use super::service::{Settings, random_id};
use super::web::Negotiate;
use crate::auth::ClientAccess;
use crate::error::Result;
use crate::protocol::JsonForm;
use crate::secret::Secret;

/// The service's limits, as the emulator keeps them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Numbered messages that a reliable session may have unacknowledged; the message that would
    /// exceed it ends the session. Messages whose `ttlSeconds` are over do not count (an
    /// assumption: the service's own emulator only checks the number). Default: 1000.
    pub unacked_messages: usize,
    /// The same in bytes of encoded frames. Default: 16 MiB.
    pub unacked_bytes: usize,
    /// Frames (messages, acks, pongs) that may wait until they are written to a client; one more
    /// cuts the connection without a Close, and the session is over. This is for clients that are not
    /// reliable; for a reliable one it is [`unacked_messages`](Self::unacked_messages) and 32
    /// more, 1032 by default. Default: 1000.
    pub outbound_frames: usize,
    /// The same in bytes, for clients that are not reliable. Default: 16 MiB.
    pub outbound_bytes: usize,
    /// The largest message taken from a client; a larger one gets Close 1009. Also the largest
    /// payload that [`Emulator::send_to_all`] and the other `send_to_…` methods take. Default: 1 MiB.
    pub message_size: usize,
    /// This many of the last ack ids that succeeded are known again (`Duplicate`). Default: 1000.
    pub remembered_ack_ids: usize,
    /// For how long a reliable session waits for recovery. Default: 30 s.
    pub retention: Duration,
    /// A `connect` handler that fails is tried again by the service for this long; then the client
    /// gets HTTP 500. The emulator calls the closure once and waits. Default: 9 s.
    pub connect_retry_time: Duration,
    /// Streams that one connection may publish at a time; the start of one more is refused
    /// (`BadRequest`). The service's limit is not known. Default: 1000.
    pub streams_per_connection: usize,
    /// A stream whose start names no idle timeout ends after this long without a fragment or a
    /// keepalive. Default: 300 s.
    pub stream_idle_timeout: Duration,
    /// After this many fragments a stream is acknowledged. The service's pace is not known.
    /// Default: 16.
    pub stream_ack_every: usize,
    /// And at the latest this long after the first of them. Default: 20 ms.
    pub stream_ack_delay: Duration,
    /// UTF-8 bytes of all keys and values of one group state together. Default: 512.
    pub group_state_bytes: usize,
    /// A snapshot of the states in a group names the first ones, by connection id, and no more than
    /// this many. Default: 200.
    pub group_state_items: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            unacked_messages: 1000,
            unacked_bytes: 16 << 20,
            outbound_frames: 1000,
            outbound_bytes: 16 << 20,
            message_size: 1 << 20,
            remembered_ack_ids: 1000,
            retention: Duration::from_secs(30),
            connect_retry_time: Duration::from_secs(9),
            streams_per_connection: 1000,
            stream_idle_timeout: Duration::from_secs(300),
            stream_ack_every: 16,
            stream_ack_delay: Duration::from_millis(20),
            group_state_bytes: 512,
            group_state_items: 200,
        }
    }
}

impl Limits {
    /// Beside the unacknowledged messages, which a recovery sends all at once, this many acks and
    /// pongs may wait for a reliable client.
    const CONTROL_FRAMES: usize = 32;

    /// Whether this much may wait to be written to a client.
    pub(super) fn allow(&self, reliable: bool, load: Load) -> bool {
        if reliable {
            load.frames <= self.unacked_messages.saturating_add(Self::CONTROL_FRAMES)
        } else {
            load.frames <= self.outbound_frames && load.bytes <= self.outbound_bytes
        }
    }
}

/// Options of an [`Emulator`]; made by [`Emulator::builder`].
#[must_use]
pub struct EmulatorBuilder {
    pub(super) port: u16,
    pub(super) tls: bool,
    pub(super) mutual_tls: bool,
    pub(super) access_key: Secret,
    pub(super) allow_anonymous: bool,
    pub(super) handler: Option<Arc<Handler>>,
    pub(super) connect: Option<Arc<ConnectHandler>>,
    pub(super) listeners: Listeners,
    pub(super) pong_every: Option<Duration>,
    pub(super) record: usize,
    pub(super) log_frames: bool,
    pub(super) negotiate: Option<Negotiate>,
    pub(super) settings: Settings,
}

impl EmulatorBuilder {
    pub(super) fn new() -> Self {
        Self {
            port: 0,
            tls: false,
            mutual_tls: false,
            access_key: Secret::new(random_id(&mut rand::rng(), 32)),
            allow_anonymous: false,
            handler: None,
            connect: None,
            listeners: Listeners::default(),
            pong_every: None,
            record: 10_000,
            log_frames: false,
            negotiate: None,
            settings: Settings::default(),
        }
    }

    /// The TCP port on 127.0.0.1. Default: 0, which takes a free one.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Serves `wss` with a certificate of its own, see
    /// [`Emulator::root_certificate_pem`]. Default: off. Needs a TLS feature of this crate.
    pub fn tls(mut self, on: bool) -> Self {
        self.tls = on;
        self
    }

    /// Refuses TLS clients that do not show the certificate of
    /// [`Emulator::client_certificate_pem`]. Default: off. Needs the feature `rustls`.
    pub fn require_client_certificate(mut self, on: bool) -> Self {
        self.mutual_tls = on;
        self
    }

    /// The access key that signs tokens. Default: a random one. An empty one, or one with `;` or with
    /// white space at its ends, is refused by [`start`](Self::start).
    pub fn access_key(mut self, key: impl Into<Secret>) -> Self {
        self.access_key = key.into();
        self
    }

    /// Lets clients without a token in, as anonymous ones without roles. Default: off.
    pub fn allow_anonymous(mut self, on: bool) -> Self {
        self.allow_anonymous = on;
        self
    }

    /// The event handler. It runs on the thread that reads for the sender's connection (or for the
    /// one that this session had before), under no lock, and may use the emulator. While it runs,
    /// everything else that the sender sends waits, pings included, also after a recovery. A panic in
    /// it counts as [`EventAnswer::Failure`]. Dropping the emulator waits for it to return.
    ///
    /// Default: none. Then events fail as at the service: with the error `InternalServerError`, or
    /// without a word if no ack was asked for; a simple client gets Close 1011. Invocations, which it
    /// answers too, fail with the same error.
    ///
    /// ```
    /// use webpubsub::emulator::{Emulator, EventAnswer};
    ///
    /// # fn main() -> webpubsub::Result<()> {
    /// let emulator = Emulator::builder()
    ///     .event_handler(|event| match (&event.invocation_id, event.event.as_str()) {
    ///         (Some(_), "echo") => EventAnswer::Message(event.payload.clone()),
    ///         (Some(_), other) => EventAnswer::Error {
    ///             name: "BadRequest".into(),
    ///             message: format!("no such method: {other}"),
    ///         },
    ///         (None, _) => EventAnswer::Nothing,
    ///     })
    ///     .start()?;
    /// # let _ = emulator;
    /// # Ok(())
    /// # }
    /// ```
    pub fn event_handler(
        mut self,
        handler: impl Fn(&EmulatedEvent) -> EventAnswer + Send + Sync + 'static,
    ) -> Self {
        self.handler = Some(Arc::new(handler));
        self
    }

    /// The handler of the `connect` event, which decides who may connect and with what. The upgrade
    /// waits for its answer, so it may sleep. It is asked about every new connection whose token is
    /// good, simple clients included, and not about recoveries. It runs on the new connection's own
    /// thread, under no lock, and may use the emulator. A panic counts as a refusal with 500.
    /// Dropping the emulator waits for it to return.
    ///
    /// Default: none; whoever has a good token may connect.
    pub fn connect(
        mut self,
        handler: impl Fn(&ConnectRequest) -> ConnectAnswer + Send + Sync + 'static,
    ) -> Self {
        self.connect = Some(Arc::new(handler));
        self
    }

    /// Called for each new connection once its client can have got `connected`; recoveries do not
    /// count. Under a fault that holds writing back ([`Faults::freeze`](super::Faults::freeze),
    /// `latency`, `slow_write`) it is called although nothing is written yet.
    ///
    /// This closure and that of [`disconnected`](Self::disconnected) run on one thread of the
    /// emulator, one call after the other, in the order in which things happened. So a slow one
    /// delays later reports and no client. They run under no lock and may use the emulator.
    /// Dropping it waits until everything up to then is reported. Default: none.
    pub fn connected(mut self, listener: impl Fn(&ConnectionInfo) + Send + Sync + 'static) -> Self {
        self.listeners.connected = Some(Arc::new(listener));
        self
    }

    /// Called once for each connection whose session has ended, with the reason, after its
    /// [`connected`](Self::connected). A reliable session ends when its time for recovery is over,
    /// not when its transport is lost. Reliable sessions still open or recoverable when the emulator
    /// is dropped are not reported. The words of the reasons are the emulator's own.
    /// Default: none.
    pub fn disconnected(
        mut self,
        listener: impl Fn(&ConnectionInfo, &str) + Send + Sync + 'static,
    ) -> Self {
        self.listeners.disconnected = Some(Arc::new(listener));
        self
    }

    /// Sends an unsolicited empty Pong on every connection at this interval (Microsoft's emulator:
    /// every 120 s). Default: off.
    pub fn unsolicited_pong(mut self, every: Duration) -> Self {
        self.pong_every = Some(every.max(Duration::from_millis(1)));
        self
    }

    /// Whether an event that fails, or finds no handler, costs a PubSub client its connection too:
    /// Close 1011 in place of the error, and the session is over. The service's documentation says
    /// so; Microsoft's emulator answers with the error. An invocation that fails never costs it.
    /// Default: `false`.
    pub fn failed_event_closes_connection(mut self, on: bool) -> Self {
        self.settings.failed_event_closes_connection = on;
        self
    }

    /// Whether a recovered client gets a second `connected` message, with a new reconnection
    /// token. The sources differ about the real service, so test with both. Default: `false`.
    pub fn connected_after_recovery(mut self, on: bool) -> Self {
        self.settings.connected_after_recovery = on;
        self
    }

    /// Writes JSON frames as UTF-8, with no more escapes than JSON requires and `sequenceId` first,
    /// which is easier to read. Default: off; the frames are then written as the service writes them,
    /// with everything but plain ASCII, and also `"`, `&`, `'`, `+`, `<`, `>` and the grave accent, as
    /// `\uXXXX`, and with `sequenceId` last. Every JSON parser reads the same from both. JSON data is
    /// passed on as its sender wrote it, either way.
    pub fn plain_json(mut self, on: bool) -> Self {
        self.settings.json = if on { JsonForm::Plain } else { JsonForm::Service };
        self
    }

    /// Refuses JSON messages of `dataType` `protobuf` with Close 1007, as Microsoft's own emulator
    /// of the service does. Default: off, because the official JavaScript and C# clients write them,
    /// and what the service itself does is not known.
    pub fn refuse_protobuf_over_json(mut self, on: bool) -> Self {
        self.settings.refuse_protobuf_over_json = on;
        self
    }

    /// Whether the last message of a stream comes without a payload, and without `dataType`, which
    /// the service may do too. Default: off; it then has an empty text.
    pub fn stream_end_without_payload(mut self, on: bool) -> Self {
        self.settings.stream_end_without_payload = on;
        self
    }

    /// Changes limits: `.limits(|l| l.retention = Duration::from_secs(5))`. Default: the
    /// service's, see [`Limits`].
    pub fn limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.settings.limits);
        self
    }

    /// How many frames are kept for [`Emulator::frames`]; at most 8 MiB in all. 0 switches the
    /// recording off. Default: 10,000.
    pub fn record_frames(mut self, last: usize) -> Self {
        self.record = last;
        self
    }

    /// Logs every data frame that passes, level `debug`, as one line of at most some 240 characters;
    /// payloads are in it, reconnection tokens are not. Default: off.
    pub fn log_frames(mut self, on: bool) -> Self {
        self.log_frames = on;
        self
    }

    /// Hands out client access URLs, in the place of an app server: GET or POST of `/negotiate` is
    /// answered by `{"url":"…"}`, with a new token for each request, and with CORS headers for
    /// any origin. `?hub=` names another hub, `?user=` another user. Default: off.
    pub fn negotiate(mut self, hub: impl Into<String>, access: ClientAccess) -> Self {
        self.negotiate = Some(Negotiate { hub: hub.into(), access });
        self
    }

    /// Starts the emulator.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for TLS in a build without it, and for an
    /// access key or a hub that cannot be used;
    /// [`ErrorKind::Connect`](crate::ErrorKind::Connect) if the port cannot be taken or a thread
    /// cannot be started.
    pub fn start(self) -> Result<Emulator> {
        Emulator::launch(self)
    }
}

impl std::fmt::Debug for EmulatorBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmulatorBuilder")
            .field("port", &self.port)
            .field("tls", &self.tls)
            .field("allow_anonymous", &self.allow_anonymous)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
