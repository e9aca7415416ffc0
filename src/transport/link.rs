//! The write half of a connection, shared by every thread.
//!
//! Callers append whole frames to the out-buffer, which is memory only, and then see to it that
//! somebody writes: the first one to find nobody writing does it, for all. Invariants:
//!
//! - Bytes leave in the order in which they were appended; there is one writer at a time.
//! - No lock is held across a system call. Lock order: `out`, then `tls`; never both while
//!   encrypting.
//! - The socket never blocks: who meets a full one waits for room in slices, within its deadline.
//! - A writer that must go (its deadline passed) leaves the rest behind, with its offset, and wakes
//!   the reader, which goes on from there as soon as the socket takes more.
//! - After a Close frame nothing more is appended.

mod writer;

pub(crate) use writer::Flushed;

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::frame::{Op, write_frame};
use super::lock;
use super::reader::LinkReader;
use super::tls::Engine;
use super::wait::Waker;
use super::wire::Wire;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::SingleWriter;

/// The end of a link waits this long for a caller that is writing.
const LAST_WRITE: Duration = Duration::from_millis(20);

/// A thread that waits for room in the socket looks this often whether it is to go.
const SLICE: Duration = Duration::from_millis(50);

/// Close codes of RFC 6455 §7.4.1.
const NORMAL: u16 = 1000;
const GOING_AWAY: u16 = 1001;

/// Which end of the WebSocket we are: clients mask their frames (RFC 6455 §5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    #[cfg_attr(not(feature = "emulator"), allow(dead_code))]
    Server,
}

impl From<Role> for tungstenite::protocol::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Client => Self::Client,
            Role::Server => Self::Server,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct LinkOptions {
    pub(crate) read_buffer_size: usize,
    /// The largest message that is accepted from the peer.
    pub(crate) max_message_size: usize,
    /// Above this many unwritten bytes callers wait before they append more.
    pub(crate) high_water: usize,
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self {
            read_buffer_size: 8 * 1024,
            max_message_size: 16 * 1024 * 1024,
            high_water: 1024 * 1024,
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Link {
    pub(super) socket: TcpStream,
    pub(super) tls: Option<Mutex<Engine>>,
    role: Role,
    high_water: u64,
    out: SingleWriter<Out, writer::Work>,
    /// Wakes the reader.
    waker: Arc<Waker>,
    /// Nothing more is appended: the link has failed, or a Close is out.
    down: AtomicBool,
    /// The out-buffer is above its high-water mark, as of the last append or write.
    full: AtomicBool,
}

/// Positions count the plaintext bytes appended since the link was opened.
#[derive(Debug)]
struct Out {
    pending: Vec<u8>,
    appended: u64,
    written: u64,
    /// The TLS engine has output that no plaintext of ours caused.
    tls_output: bool,
    /// The answer to the latest ping; earlier ones need none (RFC 6455 §5.5.3), so a peer that pings
    /// without end and never reads takes no memory.
    pong: Option<Vec<u8>>,
    /// The end of the last frame of the program (not a ping, a sequence ack or a Close).
    program_end: u64,
    /// When the socket last took a byte, or the out-buffer was last empty.
    progress: Instant,
    /// Until then a peer that takes nothing may be alive: it runs an event handler.
    patience: Option<Instant>,
    /// When a write that had to wait for the peer to make room last got on.
    moved: Option<Instant>,
    /// Ends of the frames that nobody waits for and that are not yet written.
    unsent: VecDeque<u64>,
    /// How many more such frames came too late to be appended.
    dropped: u64,
    closing: bool,
    /// The last piece of a frame is missing; only the emulator appends pieces.
    inside_frame: bool,
    failed: Option<Error>,
}

impl Link {
    /// Splits an upgraded connection. `leftover` are bytes read past the upgrade.
    pub(crate) fn open(
        wire: Wire,
        leftover: Vec<u8>,
        role: Role,
        options: &LinkOptions,
        waker: Arc<Waker>,
    ) -> io::Result<(Arc<Self>, LinkReader)> {
        wire.socket.set_nonblocking(true)?;
        let out = Out {
            pending: Vec::new(),
            appended: 0,
            written: 0,
            tls_output: false,
            pong: None,
            program_end: 0,
            progress: Instant::now(),
            patience: None,
            moved: None,
            unsent: VecDeque::new(),
            dropped: 0,
            closing: false,
            inside_frame: false,
            failed: None,
        };
        let link = Arc::new(Self {
            socket: wire.socket,
            tls: wire.tls.map(Mutex::new),
            role,
            high_water: options.high_water as u64,
            out: SingleWriter::new(out, writer::Work::default()),
            waker,
            down: AtomicBool::new(false),
            full: AtomicBool::new(false),
        });
        let reader = LinkReader::new(Arc::clone(&link), leftover, role, options);
        Ok((link, reader))
    }

    /// Appends a frame of our own (a ping, a sequence ack). Memory only; follow with
    /// [`Link::flush`]. After a Close or a failure the frame is dropped: the reader reports the end
    /// of the link.
    pub(crate) fn append(&self, op: Op, payload: &[u8]) {
        self.append_frame(op, payload, |_| {});
    }

    /// The same for a frame of the program. `unwaited`: nobody waits for its ack, so if the link
    /// dies first it counts as unsent. `patience`: until then a peer that takes nothing more may be
    /// alive.
    pub(crate) fn append_call(
        &self,
        op: Op,
        payload: &[u8],
        unwaited: bool,
        patience: Option<Instant>,
    ) {
        let appended = self.append_frame(op, payload, |out| {
            out.program_end = out.appended;
            out.patience = out.patience.max(patience);
            if unwaited {
                out.unsent.push_back(out.appended);
            }
        });
        if !appended && unwaited {
            self.out.lock().dropped += 1;
        }
    }

    /// False if it is too late for that.
    fn append_frame(&self, op: Op, payload: &[u8], then: impl FnOnce(&mut Out)) -> bool {
        let mask = (self.role == Role::Client).then(rand::random);
        let mut out = self.out.lock();
        if out.closing || out.failed.is_some() {
            return false;
        }
        out.note_start();
        let before = out.pending.len();
        write_frame(&mut out.pending, op, mask, payload);
        out.appended += (out.pending.len() - before) as u64;
        if op == Op::Close {
            self.note_close(&mut out);
        }
        self.note_level(&out);
        then(&mut out);
        true
    }

    fn note_close(&self, out: &mut Out) {
        out.closing = true;
        out.pong = None;
        self.down.store(true, Ordering::SeqCst);
    }

    pub(crate) fn append_close(&self, code: u16, reason: &str) {
        // A control frame holds at most 125 bytes, two of them the code.
        let mut end = reason.len().min(123);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let payload = [&code.to_be_bytes(), &reason.as_bytes()[..end]].concat();
        self.append(Op::Close, &payload);
    }

    /// Answers a Close that has no code; one with a code is answered by tungstenite, in kind. From a
    /// client the service takes a Close without a code as it takes 1000, for the end of the session,
    /// so a client that is about to recover must not send one.
    pub(super) fn answer_close_without_code(&self) {
        let (code, mask) = match self.role {
            Role::Client => (GOING_AWAY, Some(rand::random())),
            Role::Server => (NORMAL, None),
        };
        let mut frame = Vec::new();
        write_frame(&mut frame, Op::Close, mask, &code.to_be_bytes());
        self.append_raw(&frame);
    }

    /// Appends a piece of a frame, for a service that sends it slowly. Until the `last` one a pong
    /// waits and the answer to a Close is dropped, since they would land inside the frame.
    #[cfg(feature = "emulator")]
    pub(crate) fn append_part(&self, piece: &[u8], last: bool) {
        let mut out = self.out.lock();
        if out.closing || out.failed.is_some() {
            return;
        }
        out.note_start();
        out.pending.extend_from_slice(piece);
        out.appended += piece.len() as u64;
        out.inside_frame = !last;
        self.note_level(&out);
    }

    /// Frames that the read half made by itself: pongs and the answer to a Close. The reader writes
    /// them before it waits.
    pub(super) fn append_raw(&self, frame: &[u8]) {
        let mut out = self.out.lock();
        if out.closing || out.failed.is_some() {
            return;
        }
        let opcode = frame.first().map_or(0, |first| first & 0x0f);
        out.note_start();
        if opcode == 0xa {
            out.pong = Some(frame.to_vec());
        } else if !out.inside_frame {
            out.pending.extend_from_slice(frame);
            out.appended += frame.len() as u64;
            if opcode == 8 {
                self.note_close(&mut out);
            }
        }
        drop(out);
        self.write_later();
    }

    pub(super) fn note_tls_output(&self) {
        let mut out = self.out.lock();
        out.note_start();
        out.tls_output = true;
        drop(out);
        self.write_later();
    }

    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// The out-buffer is below its high-water mark (or the link has failed).
    pub(crate) fn has_room(&self) -> bool {
        !self.full.load(Ordering::SeqCst)
    }

    fn note_level(&self, out: &Out) {
        let full = out.failed.is_none() && out.appended - out.written >= self.high_water;
        if self.full.load(Ordering::SeqCst) != full {
            self.full.store(full, Ordering::SeqCst);
        }
    }

    /// Waits until the out-buffer is below its high-water mark.
    ///
    /// # Errors
    /// `Timeout` at the deadline. A failed link counts as room: the reader reports the rest.
    pub(crate) fn wait_for_room(&self, deadline: Instant) -> Result<()> {
        let mut out = self.out.lock();
        loop {
            if out.failed.is_some() || out.appended - out.written < self.high_water {
                return Ok(());
            }
            if out.is_idle() {
                drop(out);
                if self.flush(deadline) == Flushed::Rest {
                    return Err(no_room());
                }
                out = self.out.lock();
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(no_room());
            }
            out = out.wait_for_change(left);
        }
    }

    /// For the reader: what is appended now is written before the next wait.
    pub(crate) fn write_later(&self) {
        self.out.note_rest();
    }

    /// The link has failed, or a Close is out: nothing more is taken.
    pub(crate) fn is_down(&self) -> bool {
        self.down.load(Ordering::SeqCst)
    }

    /// Ends the link with a cause; the first cause stays.
    pub(crate) fn fail(&self, cause: Error) {
        let mut out = self.out.lock();
        out.failed.get_or_insert(cause);
        out.pong = None;
        self.down.store(true, Ordering::SeqCst);
        self.note_level(&out);
        out.notify();
        drop(out);
        self.shutdown();
        // Not every system ends a wait when the socket is shut down.
        self.waker.wake();
    }

    pub(crate) fn failure(&self) -> Option<Error> {
        self.out.lock().failed.clone()
    }

    /// When the peer last made room for a write that waited for it: a sign of life, since only a
    /// peer that takes data does so. (A write that finds room in the system's buffer proves nothing.)
    pub(crate) fn moved(&self) -> Option<Instant> {
        self.out.lock().moved
    }

    /// Bytes are left and nobody writes them: returns when the peer, if it takes none of them,
    /// counts as dead.
    pub(crate) fn rest(&self) -> Option<Instant> {
        self.out.rest(|out, work| {
            let rest = out.failed.is_none() && (!work.is_empty() || out.has_more());
            rest.then(|| out.dead_at())
        })
    }

    #[cfg(test)]
    pub(crate) fn has_rest(&self) -> bool {
        self.rest().is_some()
    }

    /// How many frames that nobody waits for have not left this process.
    pub(crate) fn unsent(&self) -> u64 {
        let out = self.out.lock();
        out.unsent.len() as u64 + out.dropped
    }

    /// How many of the frames that nobody waits for are appended and have not left this process.
    #[cfg(feature = "emulator")]
    pub(crate) fn unwritten(&self) -> usize {
        self.out.lock().unsent.len()
    }

    /// Waits until all that the program has sent before this call is written. False: it was not in
    /// time, or the link failed before.
    pub(crate) fn drain(&self, deadline: Instant) -> bool {
        let goal = self.out.lock().program_end;
        loop {
            self.flush(deadline);
            let out = self.out.lock();
            // What fails after that (the peer may be gone by then) is no loss.
            if out.written >= goal {
                // A frame that came too late to be appended is a loss all the same.
                return out.dropped == 0;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if out.failed.is_some() || left.is_zero() {
                return false;
            }
            if !out.is_idle() {
                drop(out.wait_for_change(left));
            }
        }
    }

    /// Ends our direction politely: TLS `close_notify`, then FIN. Never waits for a stuck peer.
    pub(crate) fn finish(&self) {
        // First what is appended, a Close frame perhaps: nothing can be encrypted after the notice.
        // A caller that is just writing takes it along, which is a matter of microseconds unless the
        // peer is stuck.
        let until = Instant::now() + LAST_WRITE;
        while self.flush_now() == Flushed::ByOther {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let out = self.out.lock();
            if !out.is_idle() {
                drop(out.wait_for_change(left));
            }
        }
        if let Some(tls) = &self.tls {
            lock(tls).close_notify();
            self.note_tls_output();
            self.flush_now();
        }
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Cuts the connection both ways at once; a blocked read or write returns.
    pub(crate) fn shutdown(&self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl Out {
    /// A burst that begins on an empty out-buffer starts the no-progress clock afresh.
    fn note_start(&mut self) {
        if self.appended == self.written {
            self.progress = Instant::now();
        }
    }

    /// Something waits for the next batch.
    fn has_more(&self) -> bool {
        !self.pending.is_empty() || self.tls_output || self.pong.is_some()
    }

    /// When a peer that takes nothing counts as dead.
    fn dead_at(&self) -> Instant {
        let limit = self.progress + writer::NO_PROGRESS;
        self.patience.map_or(limit, |patience| patience.max(limit))
    }
}

fn no_room() -> Error {
    Error::new(
        ErrorKind::Timeout,
        "the connection took no more data within the time limit of the call; nothing was sent",
    )
}

#[cfg(test)]
mod tests;
