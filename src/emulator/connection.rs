//! One transport: a thread that reads (and answers), a thread that writes what others queue.
//!
//! The reader writes its own answers at once when nobody else is writing; that saves the change of
//! threads for every ack. It never waits long for a client that does not read: what cannot be
//! written is left to the writer thread.

use std::net::{Shutdown, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::admission::{self, Admission};
use super::events::EventAnswer;
use super::faults::StallAt;
use super::http;
use super::hub::{Ending, World};
use super::outbox::{Fate, Out, Outbox, Work};
use super::receive::{From, Next};
use super::record::Direction;
use super::server::Shared;
use super::session::Kind;
use crate::protocol::{Frame, Protocol, decode_upstream};
use crate::transport::{
    Incoming, Link, LinkOptions, LinkReader, Lost, Op, Role, Waker, Wire, wait_to_read,
};

/// Each step of the handshake may take so long.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// One batch of a writer.
const BATCH: usize = 256 * 1024;
/// So long the reader tries to write its own answers.
const READER_PATIENCE: Duration = Duration::from_millis(20);
/// A read that took less did not ask the socket: the client sends many messages at once, and the
/// writer thread then answers many of them with one system call.
const BUFFERED: Duration = Duration::from_nanos(600);
/// With so many things unwritten a client is not read from.
const UNREAD_ANSWERS: usize = 4096;
/// So long a client may take to answer a Close.
const CLOSE_WAIT: Duration = Duration::from_secs(2);
/// After a violation: so long the client's remaining bytes are read away, because closing a
/// socket with unread bytes would destroy the Close frame under way.
const LINGER: Duration = Duration::from_secs(1);

/// The state of the threads of one connection that is up.
struct Live {
    shared: Arc<Shared>,
    outbox: Arc<Outbox>,
    link: Arc<Link>,
    socket: Arc<TcpStream>,
    id: Option<Arc<str>>,
}

/// The life of one connection, on its own thread.
pub(super) fn serve(shared: &Arc<Shared>, socket: TcpStream, outbox: &Arc<Outbox>) {
    let Ok(handle) = socket.try_clone() else { return };
    let handle = Arc::new(handle);
    let victim = Arc::clone(&handle);
    let watcher = Arc::downgrade(shared);
    outbox.set_kill(move |fate| {
        kill(&victim, fate);
        if let Some(shared) = watcher.upgrade() {
            shared.switches.notify();
        }
    });
    // Condemned before there was a way to kill it.
    if outbox.is_over() {
        return;
    }
    let Some(asked) = handshake(shared, socket, outbox) else { return };
    // The session has its transport before the client hears of the upgrade: whoever has seen that
    // can count on it, and an attempt given up earlier cannot take the session away later.
    shared.counters.up(&shared.counters.currently_open);
    let entered = enter(shared, asked.admission, outbox);
    let done = Instant::now() + HANDSHAKE;
    let mut wire = asked.wire;
    let options = LinkOptions { max_message_size: shared.message_size, ..LinkOptions::default() };
    if http::accept(&mut wire, &asked.key, asked.protocol.as_deref(), done).is_ok()
        && let Ok((link, reader)) = open(wire, asked.rest, &options)
    {
        shared.switches.stall(StallAt::Connected, || outbox.is_over());
        let live = Live {
            shared: Arc::clone(shared),
            outbox: Arc::clone(outbox),
            link,
            socket: handle,
            id: entered.as_ref().map(|(id, _)| Arc::clone(id)),
        };
        Arc::new(live).run(reader, entered.as_ref());
    }
    if let Some((id, _)) = entered {
        // For all ways that did not say it already.
        let ended = |world: &mut World, now| {
            world.transport_ended(now, &id, outbox.link, Ending::Loss);
        };
        shared.with(None, ended);
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
fn enter(shared: &Shared, admission: Admission, outbox: &Arc<Outbox>) -> Option<(Arc<str>, Kind)> {
    shared.with(None, |world, now| match admission {
        Admission::New(newcomer) => {
            let kind = newcomer.kind.clone();
            Some((world.connect(*newcomer, Arc::clone(outbox)), kind))
        }
        Admission::Recovery { hub, connection_id, token } => {
            world.recover(&hub, &connection_id, &token, outbox, now)
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

/// TLS, the upgrade request and its checks. `None` if it was refused, or nothing came.
fn handshake(shared: &Arc<Shared>, socket: TcpStream, outbox: &Outbox) -> Option<Asked> {
    let switches = &shared.switches;
    switches.stall(StallAt::Accept, || outbox.is_over());
    switches.stall(StallAt::Tls, || outbox.is_over());
    let mut wire = shared.wire(socket, Instant::now() + HANDSHAKE)?;
    let (request, rest) = http::read(&mut wire, Instant::now() + HANDSHAKE).ok()??;
    shared.counters.up(&shared.counters.upgrades_attempted);
    switches.stall(StallAt::Upgrade, || outbox.is_over());

    let answer = request.and_then(|request| {
        let admission = admit(shared, &request)?;
        let protocol = match &admission {
            Admission::New(_) => admission::negotiate(&request.protocols).map(|(_, name)| name),
            Admission::Recovery { connection_id, .. } => {
                // A recovered connection keeps its subprotocol, whatever is asked for.
                let kept = shared.with(None, |world, _| world.protocol_of(connection_id));
                let asked = admission::negotiate(&request.protocols);
                match (kept, asked) {
                    (Some(kept), Some((asked, name))) if kept == asked => Some(name),
                    (Some(kept), _) => Some(kept.name()),
                    (None, asked) => asked.map(|(_, name)| name),
                }
            }
        };
        Ok((admission, request.key.clone().unwrap_or_default(), protocol.map(str::to_owned)))
    });
    match answer {
        Ok((admission, key, protocol)) => Some(Asked { wire, rest, admission, key, protocol }),
        Err(refusal) => {
            shared.counters.up(&shared.counters.upgrades_refused);
            let deadline = Instant::now() + HANDSHAKE;
            let _ = http::refuse(&mut wire, &refusal, deadline);
            None
        }
    }
}

fn admit(shared: &Shared, request: &http::Request) -> Result<Admission, http::Refusal> {
    let hub = admission::hub(request)?;
    let recovery = request.parameter("awps_connection_id").is_some_and(|id| !id.is_empty());
    if let Some(scripted) = shared.switches.take_refusal(recovery) {
        if recovery {
            shared.counters.up(&shared.counters.recoveries_refused);
        }
        return Err(http::Refusal {
            status: scripted.status,
            text: "The emulator was told to refuse this.".into(),
            retry_after: scripted.retry_after,
        });
    }
    admission::admit(&shared.keeper, request, hub, shared.clock.unix_seconds())
}

impl Live {
    fn run(self: &Arc<Self>, reader: LinkReader, entered: Option<&(Arc<str>, Kind)>) {
        let Some(writer) = self.start_writer() else { return };
        match entered {
            Some((id, kind)) => self.read(reader, id, kind),
            None => await_close(reader),
        }
        // A FIN would spoil a reset, and after a cut there is nothing to finish.
        if !self.outbox.is_condemned() {
            self.link.finish();
        }
        self.outbox.end();
        let _ = writer.join();
    }

    // --- reading -----------------------------------------------------------------------------

    fn read(&self, mut reader: LinkReader, id: &Arc<str>, kind: &Kind) {
        let protocol = kind.protocol();
        loop {
            let start = Instant::now();
            let incoming = reader.next_blocking();
            let buffered = start.elapsed() < BUFFERED;
            let over = || self.outbox.is_over();
            self.shared.switches.thaw(over);
            if over() {
                break;
            }
            match incoming {
                Ok(Incoming::Text(text)) => self.take(id, protocol, Frame::Text(text)),
                Ok(Incoming::Binary(bytes)) => self.take(id, protocol, Frame::Binary(bytes)),
                Ok(Incoming::Ping) => {
                    self.shared.counters.up(&self.shared.counters.websocket_pings);
                }
                Ok(Incoming::Pong) => {}
                Ok(Incoming::Close { code, .. }) => {
                    let goodbye = code == Some(1000);
                    self.ended(id, if goodbye { Ending::Goodbye } else { Ending::Loss });
                    return;
                }
                Err(lost) => {
                    self.lost(id, protocol, &lost);
                    return;
                }
            }
            if buffered {
                self.outbox.wake();
            } else {
                self.pump(READER_PATIENCE);
            }
            self.outbox.wait_below(UNREAD_ANSWERS);
            self.shared.switches.pause(over);
        }
        self.ended(id, Ending::Loss);
    }

    fn from<'a>(&self, id: &'a Arc<str>, now: Duration) -> From<'a> {
        From { id, link: self.outbox.link, now }
    }

    /// One data message.
    fn take(&self, id: &Arc<str>, protocol: Option<Protocol>, frame: Frame) {
        let shared = &self.shared;
        shared.counters.up(&shared.counters.frames_in);
        if shared.recorder.is_on() {
            shared.recorder.add(id, Direction::Up, &frame, shared.clock.now());
        }
        // Decoding is the costly part; the lock is not held for it.
        let decoded = protocol.map(|p| (p, decode_upstream(p, &frame)));
        let own = Some(self.outbox.link);
        let next = shared.with(own, |world, now| {
            let from = self.from(id, now);
            match decoded {
                None => world.receive_raw(from, frame),
                Some((_, Ok(message))) => world.receive(from, message),
                Some((protocol, Err(malformed))) => {
                    let (code, reason) = complaint(protocol, malformed.wrong_frame_kind);
                    world.refuse_input(from, code, reason);
                    Next::Done
                }
            }
        });
        if let Next::Event(event, ack_id) = next {
            let answer = shared.handler.as_ref().map_or(EventAnswer::Nothing, |handler| {
                let call = catch_unwind(AssertUnwindSafe(|| handler(&event)));
                call.unwrap_or(EventAnswer::Failure)
            });
            shared.with(own, |world, now| world.answer(self.from(id, now), ack_id, answer));
        }
    }

    /// The read half ended without a Close.
    fn lost(&self, id: &Arc<str>, protocol: Option<Protocol>, lost: &Lost) {
        let Some(code) = lost.violation else {
            return self.ended(id, Ending::Loss);
        };
        let reason = match (code, protocol) {
            (1009, _) => "The client message is too large.",
            (1007, Some(protocol)) => complaint(protocol, false).1,
            _ => "The client frame is invalid.",
        };
        self.shared.with(None, |world, now| {
            world.refuse_input(self.from(id, now), code, reason);
        });
        self.outbox.wait_idle(LINGER);
        self.link.finish();
        self.read_away();
    }

    fn read_away(&self) {
        let until = Instant::now() + LINGER;
        let mut buffer = [0; 4096];
        let mut socket = &*self.socket;
        while Instant::now() < until && !self.outbox.is_over() {
            match std::io::Read::read(&mut socket, &mut buffer) {
                Ok(n) if n > 0 => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    let left = until.saturating_duration_since(Instant::now());
                    let _ = wait_to_read(&self.socket, Some(left));
                }
                _ => return,
            }
        }
    }

    fn ended(&self, id: &Arc<str>, how: Ending) {
        let link = self.outbox.link;
        self.shared.with(None, |world, now| world.transport_ended(now, id, link, how));
    }

    // --- writing -----------------------------------------------------------------------------

    fn start_writer(self: &Arc<Self>) -> Option<thread::JoinHandle<()>> {
        let live = Arc::clone(self);
        let name = format!("emulator-write-{}", self.outbox.link);
        thread::Builder::new().name(name).spawn(move || live.write()).ok()
    }

    /// The writer thread.
    fn write(&self) {
        loop {
            match self.outbox.wait(BATCH) {
                Work::End => return self.outbox.wake(),
                Work::Owed => self.flush(Duration::MAX),
                Work::Batch(batch) => self.append(batch, Duration::MAX),
            };
        }
    }

    /// Writes what is queued, on the reader's thread; what does not go out soon is left behind.
    fn pump(&self, patience: Duration) {
        let switches = &self.shared.switches;
        if switches.is_frozen() || switches.pace().is_some() {
            return self.outbox.wake();
        }
        while let Some(batch) = self.outbox.take(BATCH) {
            if !self.append(batch, patience) {
                return;
            }
        }
    }

    fn append(&self, batch: Vec<Out>, patience: Duration) -> bool {
        let over = || self.outbox.is_over();
        self.shared.switches.thaw(over);
        let mut last = None;
        for out in batch {
            match out {
                Out::Frame(frame) => self.append_frame(&frame, patience),
                Out::Close { .. } | Out::Cut if last.is_some() => {}
                Out::Close { code, reason } => {
                    self.link.append_close(code, &reason);
                    last = Some(Last::Close);
                }
                Out::Cut => {
                    last = Some(Last::Cut);
                    break;
                }
            }
        }
        // What ends the connection is worth waiting for.
        let patience = if last.is_some() { Duration::MAX } else { patience };
        let done = self.flush(patience);
        match last {
            Some(Last::Cut) => {
                self.outbox.condemn(Fate::Cut);
                self.outbox.wake();
            }
            // The reader goes on until the client's Close comes.
            Some(Last::Close) => self.outbox.limit_life(CLOSE_WAIT),
            None => {}
        }
        done
    }

    fn append_frame(&self, frame: &Frame, patience: Duration) {
        let shared = &self.shared;
        let op = match frame {
            Frame::Text(_) => Op::Text,
            Frame::Binary(_) => Op::Binary,
        };
        let (over, bytes) = (|| self.outbox.is_over(), frame.as_bytes());
        // The writer thread alone has all the time.
        if patience < Duration::MAX || !shared.switches.write_slowly(&self.link, op, bytes, over) {
            self.link.append(op, bytes);
        }
        shared.counters.up(&shared.counters.frames_out);
        if let (true, Some(id)) = (shared.recorder.is_on(), &self.id) {
            shared.recorder.add(id, Direction::Down, frame, shared.clock.now());
        }
    }

    /// Writes what was appended, and says so to the outbox. False if something is left (owed to
    /// the writer thread).
    fn flush(&self, patience: Duration) -> bool {
        let until = Instant::now().checked_add(patience);
        loop {
            let slice = Instant::now() + Duration::from_millis(100);
            self.link.flush(until.map_or(slice, |until| until.min(slice)));
            if !self.link.has_rest() || self.outbox.is_over() {
                self.outbox.wrote(false);
                return true;
            }
            if until.is_some_and(|until| until <= Instant::now()) {
                self.outbox.wrote(true);
                return false;
            }
        }
    }
}

/// After a refused recovery: reads until the client has answered the Close, or the writer thread
/// cuts the connection.
fn await_close(mut reader: LinkReader) {
    while !matches!(reader.next_blocking(), Ok(Incoming::Close { .. }) | Err(_)) {}
}

enum Last {
    Close,
    Cut,
}

/// Code and reason for input that breaks a rule.
fn complaint(protocol: Protocol, wrong_frame_kind: bool) -> (u16, &'static str) {
    let (requires, is_not_valid) = match protocol {
        Protocol::Json | Protocol::ReliableJson => (
            "The JSON subprotocol requires text messages.",
            "The client message is not a valid JSON protocol message.",
        ),
        // Of the reliable one too: that is how the service's own emulator words it.
        #[cfg(feature = "protobuf")]
        Protocol::Protobuf | Protocol::ReliableProtobuf => (
            "The protobuf.webpubsub.azure.v1 subprotocol requires binary messages.",
            "The client message is not a valid protobuf.webpubsub.azure.v1 protocol message.",
        ),
    };
    if wrong_frame_kind { (1003, requires) } else { (1007, is_not_valid) }
}
