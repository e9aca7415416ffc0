//! The threads of a connection that is up: one reads (and answers), one writes what others queue.
//!
//! The reader writes its own answers at once when nobody else is writing; that saves the change of
//! threads for every ack. It never waits long for a client that does not read: what cannot be
//! written is left to the writer thread.

use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::events::EventAnswer;
use super::inbound::Inbound;
use super::outbox::{Fate, Out};
use super::record::Direction;
use super::server::Shared;
use super::server_session::Kind;
use super::writer::{Work, Writer};
use crate::protocol::{Frame, Protocol};
use crate::transport::{Flushed, Incoming, Link, LinkReader, Lost, Op, wait_to_read};

/// One batch of a writer.
const BATCH: usize = 256 * 1024;
/// While the socket has no room, this often the outbox hears which frames have left: until then they
/// count against the limit of queued frames.
const REPORT: Duration = Duration::from_millis(10);
/// For this long the reader tries to write its own answers.
const READER_LIMIT: Duration = Duration::from_millis(20);
/// A read that took less did not ask the socket: the client sends many messages at once, and the
/// writer thread then answers many of them with one system call.
const BUFFERED: Duration = Duration::from_nanos(600);
/// From this many on the reader writes them itself, so that a client which reads is not cut because
/// the writer thread does not get to run.
const OWN_ANSWERS: usize = 128;
/// With this many things unwritten a client is not read from.
const UNREAD_ANSWERS: usize = 4096;
/// How long a client may take to read what is queued once a Close is behind it, and then to answer
/// the Close.
const CLOSE_WAIT: Duration = Duration::from_secs(2);
/// After a violation: for this long the client's remaining bytes are read away, because closing a
/// socket with unread bytes would destroy the Close frame under way.
const LINGER: Duration = Duration::from_secs(1);

/// The state of the threads of one connection that is up.
pub(super) struct Live {
    pub(super) shared: Arc<Shared>,
    pub(super) writer: Arc<Writer>,
    pub(super) link: Arc<Link>,
    pub(super) socket: Arc<TcpStream>,
    pub(super) id: Option<Arc<str>>,
}

impl Live {
    pub(super) fn run(self: &Arc<Self>, reader: LinkReader, entered: Option<&(Arc<str>, Kind)>) {
        if let Some((id, _)) = entered {
            self.opened(id);
        }
        let Some(writer) = self.start_writer() else { return };
        match entered {
            Some((id, kind)) => self.read(reader, id, kind),
            None => await_close(reader),
        }
        // A FIN would spoil a reset, and after a cut there is nothing to finish.
        if self.writer.outbox.fate().is_none() {
            self.link.finish();
        }
        self.writer.end();
        let _ = writer.join();
    }

    /// Writes what waits, `connected` first. There is no other writer yet, so the client can have
    /// got it when the program hears of the connection.
    fn opened(&self, id: &str) {
        if !self.is_held_back()
            && let Some(batch) = self.writer.take(BATCH)
        {
            self.append(batch, READER_LIMIT);
        }
        self.shared.with(Some(&self.writer), |service, _| service.report_connected(id));
    }

    // --- reading -----------------------------------------------------------------------------

    fn read(&self, mut reader: LinkReader, id: &Arc<str>, kind: &Kind) {
        let protocol = kind.protocol();
        loop {
            let start = Instant::now();
            let incoming = reader.next_blocking();
            let buffered = start.elapsed() < BUFFERED;
            let over = || self.writer.is_over();
            self.shared.switches.thaw(over);
            if over() {
                break;
            }
            match incoming {
                Ok(Incoming::Text(text)) => self.take(id, protocol, Frame::Text(text)),
                Ok(Incoming::Binary(bytes)) => self.take(id, protocol, Frame::Binary(bytes)),
                Ok(Incoming::Ping) => {
                    // The Pong goes out in its turn: behind earlier answers, ahead of later ones.
                    self.pump(READER_LIMIT);
                    self.link.flush_now();
                    self.shared.counters.up(&self.shared.counters.websocket_pings);
                }
                Ok(Incoming::Pong(_)) => {}
                Ok(Incoming::Close { code, .. }) => {
                    self.receive(id, None, Inbound::close(code));
                    return;
                }
                Err(lost) => {
                    self.lost(id, protocol, &lost);
                    return;
                }
            }
            if buffered && self.writer.outbox.len() < OWN_ANSWERS {
                self.writer.wake();
            } else {
                self.pump(READER_LIMIT);
            }
            self.writer.wait_for_input(UNREAD_ANSWERS);
            self.shared.switches.pause(over);
        }
        self.receive(id, None, Inbound::end());
    }

    /// One data message.
    fn take(&self, id: &Arc<str>, protocol: Option<Protocol>, frame: Frame) {
        let shared = &self.shared;
        // Recorded first: who has seen the count finds the frame.
        if shared.recorder.is_on() {
            shared.recorder.add(id, Direction::Up, &frame, shared.clock.now());
        }
        shared.counters.up(&shared.counters.frames_in);
        let inbound = Inbound::data(protocol, frame, shared.message_size);
        self.receive(id, Some(&self.writer), inbound);
    }

    /// Passes it to the service, and runs the event handler as long as the service has an event for
    /// it. By then this session may have another transport, even a second event that came on that one.
    fn receive(&self, id: &Arc<str>, own: Option<&Writer>, inbound: Inbound) {
        let (shared, link) = (&self.shared, self.writer.link());
        let mut started = shared.with(own, |service, now| service.receive(now, id, link, inbound));
        while let Some(event) = started {
            let answer = shared.handler.as_ref().map_or(EventAnswer::Nothing, |handler| {
                let call = catch_unwind(AssertUnwindSafe(|| handler(&event)));
                call.unwrap_or(EventAnswer::Failure)
            });
            started = shared.with(own, |service, now| service.answer(now, id, answer));
        }
    }

    /// The read half ended without a Close.
    fn lost(&self, id: &Arc<str>, protocol: Option<Protocol>, lost: &Lost) {
        let Some(code) = lost.violation else {
            return self.receive(id, None, Inbound::end());
        };
        self.receive(id, None, Inbound::violation(protocol, code));
        self.writer.wait_idle(LINGER);
        if self.writer.outbox.fate().is_none() {
            self.link.finish();
        }
        self.read_away();
    }

    fn read_away(&self) {
        let until = Instant::now() + LINGER;
        let mut buffer = [0; 4096];
        let mut socket = &*self.socket;
        while Instant::now() < until && !self.writer.is_over() {
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

    // --- writing -----------------------------------------------------------------------------

    fn start_writer(self: &Arc<Self>) -> Option<thread::JoinHandle<()>> {
        let live = Arc::clone(self);
        let name = format!("emulator-write-{}", self.writer.link());
        thread::Builder::new().name(name).spawn(move || live.write()).ok()
    }

    /// The writer thread.
    fn write(&self) {
        let every = self.shared.pong_every;
        let next = || every.and_then(|every| Instant::now().checked_add(every));
        let mut pong_at = next();
        loop {
            // A slow writer takes one frame at a time, because each counts until it is written.
            let slow = self.shared.switches.pace().is_some();
            match self.writer.wait(if slow { 1 } else { BATCH }, pong_at) {
                Work::End => return self.writer.wake(),
                Work::Pong => {
                    pong_at = next();
                    self.shared.switches.thaw(|| self.writer.is_over());
                    self.link.append(Op::Pong, &[]);
                    self.flush(Duration::MAX, None)
                }
                Work::Owed => self.flush(Duration::MAX, None),
                Work::Batch(batch) => self.append(batch, Duration::MAX),
            };
        }
    }

    /// Writes what is queued, on the reader's thread; what does not go out soon is left behind.
    fn pump(&self, limit: Duration) {
        if self.is_held_back() {
            return self.writer.wake();
        }
        while let Some(batch) = self.writer.take(BATCH) {
            if !self.append(batch, limit) {
                return;
            }
        }
        // Behind the frames may be what ends the transport.
        if self.writer.outbox.is_ending() {
            self.writer.wake();
        }
    }

    /// A fault keeps writers waiting, which the reader must not do.
    fn is_held_back(&self) -> bool {
        let switches = &self.shared.switches;
        switches.is_frozen() || switches.pace().is_some() || switches.latency.get().is_some()
    }

    fn append(&self, batch: Vec<Out>, limit: Duration) -> bool {
        let over = || self.writer.is_over();
        self.shared.switches.thaw(over);
        let mut last = None;
        for out in batch {
            match out {
                Out::Frame(frame) => self.append_frame(&frame, limit),
                Out::Close { .. } | Out::Cut | Out::Reset if last.is_some() => {}
                Out::Close { code, reason } => {
                    self.link.append_close(code, &reason);
                    last = Some(Last::Close);
                }
                Out::Cut => {
                    last = Some(Last::End(Fate::Cut));
                    break;
                }
                Out::Reset => {
                    last = Some(Last::End(Fate::Reset));
                    break;
                }
            }
        }
        let end = match last {
            Some(Last::End(fate)) => Some(fate),
            _ => None,
        };
        let done = self.flush(limit, end);
        match last {
            Some(Last::End(fate)) => self.writer.end_now(fate),
            // The reader goes on until the client's Close comes.
            Some(Last::Close) => self.writer.limit_life(CLOSE_WAIT),
            None => {}
        }
        done
    }

    fn append_frame(&self, frame: &Frame, limit: Duration) {
        let shared = &self.shared;
        let op = match frame {
            Frame::Text(_) => Op::Text,
            Frame::Binary(_) => Op::Binary,
        };
        let (over, bytes) = (|| self.writer.is_over(), frame.as_bytes());
        // The writer thread alone has all the time.
        if limit < Duration::MAX || !shared.switches.write_slowly(&self.link, op, bytes, over) {
            self.link.append_call(op, bytes, true, None);
        }
        shared.counters.up(&shared.counters.frames_out);
        if let (true, Some(id)) = (shared.recorder.is_on(), &self.id) {
            shared.recorder.add(id, Direction::Down, frame, shared.clock.now());
        }
    }

    /// Writes what was appended, and tells the outbox what has left. False if something is left
    /// (owed to the writer thread). `end`: behind it the transport is over.
    fn flush(&self, limit: Duration, end: Option<Fate>) -> bool {
        let until = Instant::now().checked_add(limit);
        loop {
            let slice = Instant::now() + REPORT;
            let flushed = self.link.flush(until.map_or(slice, |until| until.min(slice)));
            let unwritten = self.link.unwritten();
            // The reader, which writes a pong, may have taken the rest over; it does not wait.
            let done = match flushed {
                Flushed::All | Flushed::Failed => true,
                Flushed::ByOther => unwritten == 0,
                Flushed::Rest => false,
            };
            if done || self.writer.is_over() {
                // Before the reader may find everything written, and send a FIN.
                if let Some(fate) = end {
                    self.writer.outbox.abort(fate);
                }
                self.writer.wrote(false);
                return true;
            }
            self.writer.outbox.keep_taken(unwritten);
            // A client that does not read must not keep a connection open that the service has
            // ended. A frozen one has no chance to read.
            if self.writer.outbox.is_ending()
                && !self.shared.switches.is_frozen()
                && self.writer.is_late(CLOSE_WAIT)
            {
                self.writer.end_now(end.unwrap_or(Fate::Cut));
                continue;
            }
            if until.is_some_and(|until| until <= Instant::now()) {
                self.writer.wrote(true);
                return false;
            }
            if flushed == Flushed::ByOther {
                thread::yield_now();
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
    End(Fate),
}
