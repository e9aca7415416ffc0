//! One connection: the handshake and its checks, then a thread that reads and one that writes.

use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;
use socket2::SockRef;

use super::admission::{self, Admission, NewConnection};
use super::connect;
use super::faults::StallAt;
use super::http;
use super::inbound::Inbound;
use super::live::Live;
use super::notes;
use super::outbox::Fate;
use super::server::Shared;
use super::server_session::Kind;
use super::web;
use super::writer::Writer;
use crate::transport::{Link, LinkOptions, LinkReader, Role, Waker, Wire, has_ended};

/// Each step of the handshake may take this long.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// The life of one connection, on its own thread.
pub(super) fn serve(shared: &Arc<Shared>, socket: TcpStream, writer: &Arc<Writer>) {
    let Ok(handle) = socket.try_clone() else { return };
    let handle = Arc::new(handle);
    let victim = Arc::clone(&handle);
    let watcher = Arc::downgrade(shared);
    writer.set_kill(move |fate| {
        kill(&victim, fate);
        if let Some(shared) = watcher.upgrade() {
            shared.switches.notify();
        }
    });
    // Aborted before there was a way to kill it.
    if writer.is_over() {
        return;
    }
    let Some(asked) = handshake(shared, socket, writer) else { return };
    // Stalls and the `connect` handler take their time. Whoever has left by now gets no session,
    // above all not one that lives on another transport.
    if writer.is_over() || has_ended(&handle) {
        return;
    }
    // The session has its transport before the client hears of the upgrade: whoever has seen that
    // can count on it, and an attempt given up earlier cannot take the session away later.
    shared.counters.up(&shared.counters.currently_open);
    let entered = enter(shared, asked.admission, writer);
    let done = Instant::now() + HANDSHAKE;
    let mut wire = asked.wire;
    let options = LinkOptions { max_message_size: shared.message_size, ..LinkOptions::default() };
    if http::accept(&mut wire, &asked.key, asked.protocol.as_deref(), done).is_ok()
        && let Ok((link, reader)) = open(wire, asked.rest, &options)
    {
        shared.switches.stall(StallAt::Connected, || writer.is_over());
        let live = Live {
            shared: Arc::clone(shared),
            writer: Arc::clone(writer),
            link,
            socket: handle,
            id: entered.as_ref().map(|(id, _)| Arc::clone(id)),
        };
        Arc::new(live).run(reader, entered.as_ref());
    }
    if let Some((id, _)) = entered {
        // For all ways that did not say it already.
        shared.with(None, |service, now| service.receive(now, &id, writer.link(), Inbound::end()));
    }
    shared.counters.down(&shared.counters.currently_open);
}

fn open(
    wire: Wire,
    rest: Vec<u8>,
    options: &LinkOptions,
) -> std::io::Result<(Arc<Link>, LinkReader)> {
    Link::open(wire, rest, Role::Server, options, Arc::new(Waker::new()?))
}

/// A new session, or a new transport for one. `None` if a recovery is refused; the Close that says
/// so is in the outbox.
fn enter(shared: &Shared, admission: Admission, writer: &Arc<Writer>) -> Option<(Arc<str>, Kind)> {
    shared.with(None, |service, now| match admission {
        Admission::New(new) => {
            let NewConnection { handshake, id, .. } = *new;
            let (kind, outbox) = (handshake.kind.clone(), Arc::clone(&writer.outbox));
            let id = match id {
                Some(id) => service.connect_as(id, handshake, outbox),
                None => service.connect(handshake, outbox),
            };
            Some((id, kind))
        }
        Admission::Recovery { hub, connection_id, token } => {
            service.recover(&hub, &connection_id, &token, &writer.outbox, now)
        }
    })
}

/// A reset must not be preceded by a FIN, so only our reading is shut down: that wakes the reader,
/// and the last one to let go of the socket closes it, which with no linger time sends the RST.
fn kill(socket: &TcpStream, fate: Fate) {
    let how = match fate {
        Fate::Cut => Shutdown::Both,
        Fate::Reset => {
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
            Shutdown::Read
        }
    };
    let _ = socket.shutdown(how);
}

/// An upgrade request that is to be accepted.
struct Asked {
    wire: Wire,
    rest: Vec<u8>,
    admission: Admission,
    key: String,
    protocol: Option<String>,
}

/// TLS, the upgrade request and its checks. `None` if it was refused or aborted, or nothing came.
fn handshake(shared: &Arc<Shared>, socket: TcpStream, writer: &Writer) -> Option<Asked> {
    stall(shared, StallAt::Accept, writer)?;
    stall(shared, StallAt::Tls, writer)?;
    let mut wire = shared.wire(socket, Instant::now() + HANDSHAKE)?;
    let (request, rest) = http::read(&mut wire, Instant::now() + HANDSHAKE).ok()??;
    if let Some(answer) = request.as_ref().ok().and_then(|request| web::answer(shared, request)) {
        web::send(&mut wire, &answer);
        return None;
    }
    shared.counters.up(&shared.counters.upgrades_attempted);
    stall(shared, StallAt::Upgrade, writer)?;

    let path = request.as_ref().map(|request| request.path.clone()).unwrap_or_default();
    let answer = request.and_then(|request| {
        let mut admission = admit(shared, &request)?;
        let protocol = match &mut admission {
            Admission::New(new) => {
                connect::ask(shared, writer, &request, new)?;
                new.subprotocol.as_deref()
            }
            Admission::Recovery { connection_id, .. } => {
                // A recovered connection keeps its subprotocol, whatever is asked for.
                let kept = shared.with(None, |service, _| service.protocol_of(connection_id));
                let asked = admission::negotiate(&request.protocols);
                match (kept, asked) {
                    (Some(kept), Some((asked, name))) if kept == asked => Some(name),
                    (Some(kept), _) => Some(kept.name()),
                    (None, asked) => asked.map(|(_, name)| name),
                }
            }
        };
        let protocol = protocol.map(str::to_owned);
        Ok((admission, request.key.unwrap_or_default(), protocol))
    });
    match answer {
        Ok((admission, key, protocol)) => Some(Asked { wire, rest, admission, key, protocol }),
        Err(refusal) => {
            shared.counters.up(&shared.counters.upgrades_refused);
            let http::Refusal { status, text, .. } = &refusal;
            // A refusal's text can be the program's, and quote what the client sent.
            let (path, text) = (notes::path(&path), notes::shortened(text));
            notes::write(Level::Info, format_args!("refused: {status} {path:?}: {text}"));
            let deadline = Instant::now() + HANDSHAKE;
            let _ = http::refuse(&mut wire, &refusal, deadline);
            None
        }
    }
}

/// Waits while new connections are stalled at this step. `None` if this one is aborted meanwhile.
fn stall(shared: &Shared, at: StallAt, writer: &Writer) -> Option<()> {
    shared.switches.stall(at, || writer.is_over());
    (!writer.is_over()).then_some(())
}

fn admit(shared: &Shared, request: &http::Request) -> Result<Admission, http::Refusal> {
    let hub = admission::hub(request)?;
    let recovery = request.parameter("awps_connection_id").is_some_and(|id| !id.is_empty());
    if let Some(scripted) = shared.switches.take_refusal(recovery) {
        if recovery {
            shared.counters.up(&shared.counters.recoveries_refused_by_status);
        }
        return Err(http::Refusal {
            status: scripted.status,
            text: "The emulator was told to refuse this.".into(),
            retry_after: scripted.retry_after,
        });
    }
    admission::admit(&shared.tokens, request, hub, shared.clock.unix_seconds())
}
