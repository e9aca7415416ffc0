//! The sockets' side: the accept thread, the connections' threads, and what they share.
//!
//! Threads: one that accepts; per connection one that reads and one that writes; one that looks
//! at the clock and reports connections to the program. All of them have names that begin with `emulator-`.
//!
//! Locks, in the order in which they may be taken: the service (`service`) or a writer's state, then
//! an outbox. The outbox, the recording, the reports and the counters' gate are leaves.
//! `connections` and the faults' switches are never held together with another lock. No lock is held
//! across I/O or a closure of the program; `connections` is held while a connection's thread is
//! started.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[cfg(feature = "_tls")]
use log::Level;

use super::admission::TokenCheck;
use super::builder::EmulatorBuilder;
use super::clock::Clock;
use super::connect::ConnectHandler;
use super::connection;
use super::events::Handler;
use super::faults::Switches;
#[cfg(feature = "_tls")]
use super::notes;
use super::outbox::{Fate, lock};
use super::record::Recorder;
use super::reports::{Inbox, Reporter, Reports};
use super::service::Service;
use super::stats::{Counters, Stats};
use super::web::Negotiate;
use super::writer::Writer;
use crate::auth::{ClientAccess, ConnectionString};
use crate::error::{Error, ErrorKind, Result};
use crate::transport::Wire;

pub(super) struct Shared {
    service: Mutex<Service>,
    pub(super) switches: Switches,
    pub(super) clock: Clock,
    pub(super) counters: Counters,
    pub(super) recorder: Recorder,
    pub(super) handler: Option<Arc<Handler>>,
    pub(super) connect: Option<Arc<ConnectHandler>>,
    pub(super) connect_retry_time: Duration,
    pub(super) pong_every: Option<Duration>,
    pub(super) reports: Inbox,
    pub(super) tokens: TokenCheck,
    pub(super) negotiate: Option<Negotiate>,
    pub(super) message_size: usize,
    connections: Mutex<Connections>,
    #[cfg(feature = "_tls")]
    pub(super) certificate: Option<super::certificate::Certificate>,
}

#[derive(Default)]
struct Connections {
    open: HashMap<u64, (Arc<Writer>, JoinHandle<()>)>,
}

/// The accept thread's handle and what all threads share.
pub(super) struct Server {
    pub(super) shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
    /// Dropped last, behind the ends of all connections.
    _reporter: Reporter,
}

impl Server {
    pub(super) fn start(builder: EmulatorBuilder) -> Result<Self> {
        if builder.mutual_tls && !builder.tls {
            return Err(Error::config("`require_client_certificate` needs `tls(true)`"));
        }
        #[cfg(feature = "_tls")]
        let certificate = match builder.tls {
            true => Some(super::certificate::Certificate::new(builder.mutual_tls)?),
            false => None,
        };
        #[cfg(not(feature = "_tls"))]
        if builder.tls {
            return Err(Error::config("this build has no TLS: switch a TLS feature on"));
        }
        let key = builder.access_key.expose();
        // It is a field of the connection string.
        if key.is_empty() || key.contains(';') || key.trim() != key {
            let text =
                "an access key is not empty, without `;` and without white space at its ends";
            return Err(Error::config(text));
        }
        let port = builder.port;
        let failed = |e| {
            let text = format!("the emulator could not be started on port {port} of 127.0.0.1");
            Error::new(ErrorKind::Connect, text).with_source(e)
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, builder.port)).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let mut settings = builder.settings;
        settings.has_handler = builder.handler.is_some();
        settings.started_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (message_size, connect_retry_time) =
            (settings.limits.message_size, settings.limits.connect_retry_time);
        let mut service = Service::new(settings, rand::random());
        service.reports = Reports::wanted(!builder.listeners.is_empty());
        let shared = Arc::new(Shared {
            message_size,
            connect_retry_time,
            service: Mutex::new(service),
            switches: Switches::default(),
            clock: Clock::new(),
            counters: Counters::default(),
            recorder: Recorder::new(builder.record, builder.log_frames),
            handler: builder.handler,
            connect: builder.connect,
            pong_every: builder.pong_every,
            reports: Inbox::default(),
            tokens: TokenCheck {
                key: builder.access_key,
                allow_anonymous: builder.allow_anonymous,
                address,
            },
            negotiate: builder.negotiate,
            connections: Mutex::default(),
            #[cfg(feature = "_tls")]
            certificate,
        });
        if let Some(negotiate) = &shared.negotiate {
            shared.url_for(&negotiate.hub, &negotiate.access)?;
        }
        let reporter = Reporter::start(&shared, builder.listeners).map_err(failed)?;
        let for_thread = Arc::clone(&shared);
        let accepting = thread::Builder::new()
            .name("emulator-accept".into())
            .spawn(move || accept(&for_thread, &listener))
            .map_err(failed)?;
        Ok(Self { shared, accepting: Some(accepting), _reporter: reporter })
    }
}

/// Whether a TLS library's error means that no TLS came, but HTTP: rustls's words, then OpenSSL's.
#[cfg(feature = "_tls")]
fn is_plain_text(error: &str) -> bool {
    ["InvalidContentType", "http request", "wrong version number"].iter().any(|s| error.contains(s))
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.switches.stop();
        // The accept thread looks at the switch when somebody connects.
        let wake = TcpStream::connect_timeout(&self.shared.address(), Duration::from_secs(1));
        if let (Ok(_), Some(thread)) = (wake, self.accepting.take()) {
            let _ = thread.join();
        }
        self.shared.end_transports(Fate::Cut);
        let open = std::mem::take(&mut lock(&self.shared.connections).open);
        for (writer, thread) in open.into_values() {
            writer.end_now(Fate::Cut);
            // The event handler may own the emulator, and drop it.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    static NEXT_LINK: AtomicU64 = AtomicU64::new(1);
    loop {
        let accepted = listener.accept();
        if shared.switches.is_stopping() {
            return;
        }
        match accepted {
            Ok((socket, _)) => {
                shared.counters.up(&shared.counters.tcp_accepted);
                let _ = socket.set_nodelay(true);
                let link = NEXT_LINK.fetch_add(1, Ordering::Relaxed);
                shared.start_connection(socket, link);
            }
            // Out of descriptors, or a client that left at once.
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

impl Shared {
    pub(super) fn address(&self) -> SocketAddr {
        self.tokens.address
    }

    pub(super) fn endpoint(&self) -> String {
        #[cfg(feature = "_tls")]
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        #[cfg(not(feature = "_tls"))]
        let scheme = "http";
        format!("{scheme}://127.0.0.1:{}", self.address().port())
    }

    pub(super) fn connection_string(&self) -> String {
        let key = self.tokens.key.expose();
        format!("Endpoint={};AccessKey={key};Version=1.0;", self.endpoint())
    }

    pub(super) fn url_for(&self, hub: &str, access: &ClientAccess) -> Result<String> {
        let service = ConnectionString::parse(&self.connection_string())?;
        Ok(service.client_access_url_at(hub, access, self.clock.unix_seconds())?.into())
    }

    fn start_connection(self: &Arc<Self>, socket: TcpStream, link: u64) {
        let writer = Writer::new(link, self.switches.latency.clone());
        let (shared, of_thread) = (Arc::clone(self), Arc::clone(&writer));
        // Held until the handle is in the map, so that the thread finds it there when it ends.
        let mut connections = lock(&self.connections);
        let thread =
            thread::Builder::new().name(format!("emulator-read-{link}")).spawn(move || {
                connection::serve(&shared, socket, &of_thread);
                lock(&shared.connections).open.remove(&link);
            });
        if let Ok(thread) = thread {
            connections.open.insert(link, (writer, thread));
        }
    }

    /// TLS, if it is switched on. `None` if its handshake fails.
    pub(super) fn wire(&self, socket: TcpStream, deadline: Instant) -> Option<Wire> {
        #[cfg(feature = "_tls")]
        if let Some(certificate) = &self.certificate {
            let wire = certificate.accept(socket, deadline).inspect_err(|e| {
                let text = e.to_string();
                let why = match is_plain_text(&text) {
                    true => "the client does not speak TLS: its URL needs wss:// or https://",
                    false => "does the client trust the root certificate?",
                };
                notes::write(Level::Info, format_args!("the TLS handshake failed ({why}): {text}"));
            });
            return wire.ok();
        }
        let _ = deadline;
        Some(Wire::plain(socket))
    }

    /// Does something with the service, then wakes whoever has something to write. `own` is the
    /// transport whose reader this thread is; it writes for itself.
    pub(super) fn with<R>(
        &self,
        own: Option<&Writer>,
        f: impl FnOnce(&mut Service, Duration) -> R,
    ) -> R {
        let now = self.clock.now();
        let mut service = lock(&self.service);
        service.expire(now);
        let result = f(&mut service, now);
        let touched = service.take_touched();
        let changed = service.counters.take_changed();
        let notes = service.notes.take();
        let reports = service.reports.take();
        let reported = !reports.is_empty();
        if reported {
            // Under the lock, because their order is that of what happened.
            self.reports.push(reports);
        }
        drop(service);
        if reported {
            self.reports.notify();
        }
        if changed {
            self.counters.notify();
        }
        self.wake(own, &touched);
        // Last, because a logger may take its time.
        notes.log();
        result
    }

    fn wake(&self, own: Option<&Writer>, touched: &[u64]) {
        let is_own = |link: u64| own.is_some_and(|own| own.link() == link);
        if touched.iter().any(|link| !is_own(*link)) {
            let connections = lock(&self.connections);
            let others = touched.iter().filter(|link| !is_own(**link));
            let writers = others.filter_map(|link| connections.open.get(link));
            let writers: Vec<_> = writers.map(|(writer, _)| Arc::clone(writer)).collect();
            drop(connections);
            for writer in writers {
                writer.wake();
            }
        }
        if let Some(own) = own.filter(|own| own.outbox.fate().is_some()) {
            own.wake();
        }
    }

    /// Every connection's threads look again.
    pub(super) fn wake_all(&self) {
        let open: Vec<_> =
            lock(&self.connections).open.values().map(|(writer, _)| Arc::clone(writer)).collect();
        for writer in open {
            writer.wake();
        }
    }

    /// The counters of both sides; sessions whose time is over count no more.
    pub(super) fn stats(&self) -> Stats {
        self.counters.merge(self.with(None, |service, _| *service.counters.stats()))
    }

    /// Ends every transport at once; reliable sessions wait for recovery.
    pub(super) fn end_transports(&self, fate: Fate) {
        // Taken first, so that a client that is already back is not cut again.
        let open: Vec<_> =
            lock(&self.connections).open.values().map(|(writer, _)| Arc::clone(writer)).collect();
        self.with(None, |service, now| {
            for id in service.open_sessions() {
                if let Some(outbox) = service.detach(now, &id) {
                    outbox.abort(fate);
                    service.touch_outbox(&outbox);
                }
            }
        });
        // Those that have no session (yet, or any more).
        for writer in open {
            writer.end_now(fate);
        }
    }
}
