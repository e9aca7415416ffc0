//! Settings of a client.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::handle::Client;
use super::options::{Options, ProxyOption};
use super::queue::Overflow;
use super::request::rule;
use super::simple::SimpleClient;
use super::source::{Raw, UrlSource};
use crate::error::{Error, Result};
use crate::protocol::{Protocol, rules};
use crate::secret::Secret;
use crate::transport::{Root, TlsBackend};

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

    /// How many calls may be sent and unacked, 1 to 1000. Default: 256. Further ones wait in
    /// order.
    ///
    /// The service recognises a repetition among the last 1000 ack ids that succeeded. It also ends
    /// a session for which more than 1000 frames are unsent (1032 over a reliable subprotocol), and
    /// a call may bring two: its ack, and the echo of a publication to a group of which the client is
    /// a member. Fire and forget has no such limit.
    pub fn max_in_flight(mut self, calls: usize) -> Self {
        self.options.session.max_in_flight = calls;
        self
    }

    /// How many calls may have no outcome yet, those that wait to be sent included. Default: 65,536.
    /// At this bound [`Client::start`] waits and [`Client::try_start`] returns `WouldBlock`.
    pub fn max_pending_calls(mut self, calls: usize) -> Self {
        self.options.session.max_pending_calls = calls;
        self
    }

    /// How many bytes of calls may wait to be sent. Default: 64 MiB; a single call may be larger.
    pub fn max_pending_bytes(mut self, bytes: usize) -> Self {
        self.options.session.max_pending_bytes = bytes;
        self
    }

    /// How long after a loss recovery is tried. Default: 30 s, what the service guarantees.
    pub fn recovery_window(mut self, window: Duration) -> Self {
        self.options.session.recovery_window = window;
        self
    }

    /// About how often it is tried. Default: 1 s; the first try comes at once.
    pub fn recovery_interval(mut self, interval: Duration) -> Self {
        self.options.session.recovery_interval = interval;
        self
    }

    /// The limit of each try. Default: 5 s. A try whose link brings data may go on, for 2 min at
    /// most: the first message of a replay may be large, and the line slow.
    pub fn recovery_attempt_timeout(mut self, limit: Duration) -> Self {
        self.options.session.recovery_attempt = limit;
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
}

/// Settings of a [`SimpleClient`]. Every default is in the method's documentation.
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
        options.session.auto_reconnect = false;
        Self { options, raw: Raw::default() }
    }

    /// Publish what is sent to this group, instead of sending it to the app server as the event
    /// `message`. The token needs the role to send to the group.
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
        if let Some(group) = &self.raw.group {
            rule("group name", rules::group(group)).map_err(|e| Error::config(e.to_string()))?;
        }
        self.options.connect(None, self.raw).map(SimpleClient::from_shared)
    }
}

macro_rules! common_settings {
    ($builder:ty) => {
        impl $builder {
            /// The limit of one attempt to connect, all steps together. Default: 30 s.
            ///
            /// The service answers the upgrade when the `connect` event handler of the hub, if
            /// there is one, has answered. So that wait is one that only this limits; make it
            /// longer than the handler may take.
            pub fn connect_timeout(mut self, limit: Duration) -> Self {
                self.options.session.connect_timeout = limit;
                self
            }

            /// The limit of each step of connecting: name look-up, TCP, proxy, TLS, writing the
            /// upgrade request, and after its answer the `connected` message. The wait for the
            /// answer to the upgrade is limited by [`connect_timeout`](Self::connect_timeout) alone.
            /// Default: 10 s.
            pub fn step_timeout(mut self, limit: Duration) -> Self {
                self.options.session.step_timeout = limit;
                self
            }

            /// The deadline of a call: waiting for a connection, writing and the ack together.
            /// Default: 30 s. The ack of an event comes when the app server's handler is through,
            /// so this bounds the handler too.
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
            /// session, which the service keeps for 30 s. While an event handler of the app server may
            /// run, silence ends nothing; see [`call_timeout`](Self::call_timeout).
            pub fn keep_alive(mut self, interval: Duration, dead_after: Duration) -> Self {
                self.options.keep_alive = Some(interval);
                self.options.dead_after = dead_after;
                self
            }

            /// No pings: a service that no longer answers is not noticed while its system still
            /// does. A dead network is, by TCP itself: on Linux within 30 s, elsewhere with data
            /// under way as late as the system's own limits make it. An idle client then never wakes
            /// up.
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

            /// Stop after this many attempts in a row to make a new connection. Default: no limit.
            pub fn max_reconnect_attempts(mut self, attempts: u32) -> Self {
                self.options.session.max_reconnect_attempts = Some(attempts);
                self
            }

            /// How many messages the event queue holds while no call waits for its ack. Default:
            /// 1024. Lifecycle events do not count and always enter.
            pub fn queue_messages(mut self, most: usize) -> Self {
                self.options.limits.soft = most;
                self
            }

            /// How many it holds while a call waits for its ack, which is read behind the messages.
            /// Default: 16,384; never less than [`queue_messages`](Self::queue_messages). Past this
            /// bound the client reads on for another 1000 messages or 16 MiB; then acks are not read
            /// either.
            pub fn queue_messages_in_flight(mut self, most: usize) -> Self {
                self.options.limits.hard = most;
                self
            }

            /// How many bytes of messages it holds in any case. Default: 64 MiB. (Messages are slices
            /// of read buffers, which may take up to twice their bytes.)
            pub fn queue_bytes(mut self, most: usize) -> Self {
                self.options.limits.bytes = most;
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

            /// The read buffer of a connection, in bytes. Default: 8 KiB. With 16 KiB a flood is
            /// received about a tenth faster, and every connection takes 8 KiB more.
            pub fn read_buffer_size(mut self, bytes: usize) -> Self {
                self.options.link.read_buffer_size = bytes;
                self
            }
        }
    };
}
common_settings!(ClientBuilder);
common_settings!(SimpleClientBuilder);
