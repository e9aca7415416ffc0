//! The write half of a connection, shared by every thread.
//!
//! Callers append whole frames to the out-buffer, which is memory only, and then see to it that
//! somebody writes: the first one to find nobody writing does it, for all. Invariants:
//!
//! - Bytes leave in the order in which they were appended; there is one writer at a time.
//! - No lock is held across a system call. Lock order: `out`, then `tls`; never both while
//!   encrypting.
//! - A writer that must go (its deadline passed) leaves the rest behind, with its offset; the
//!   next caller or the reader goes on from there.
//! - After a Close frame nothing more is appended.

mod writer;

pub(crate) use writer::Flushed;

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::frame::{Op, write_frame};
use super::lock;
use super::reader::LinkReader;
use super::tls::Engine;
use super::wire::Wire;
use crate::error::{Error, ErrorKind, Result};

/// A blocked write returns this often, so that its thread can look at its deadline.
const SLICE: Duration = Duration::from_millis(50);

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
    /// Above so many unwritten bytes callers wait before they append more.
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
    out: Mutex<Out>,
    /// A writer has left before all was written, since somebody last wrote all.
    left: AtomicBool,
    /// The reader has appended something that it will write before it blocks.
    deferred: AtomicBool,
    /// The out-buffer is above its high-water mark, as of the last append or write.
    full: AtomicBool,
    /// Something changed: room was made, the writer left, or the link failed.
    changed: Condvar,
}

/// Positions count the plaintext bytes appended since the link was opened.
#[derive(Debug)]
struct Out {
    pending: Vec<u8>,
    /// What the present writer works on; here only while nobody writes.
    work: Option<writer::Work>,
    appended: u64,
    written: u64,
    /// The writer asks to be relieved; `takers` callers wait to do so.
    relief: bool,
    takers: usize,
    waiting_for_room: usize,
    /// The TLS engine has output that no plaintext of ours caused.
    tls_output: bool,
    /// When the socket last took a byte, or the out-buffer was last empty.
    progress: Instant,
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
    ) -> io::Result<(Arc<Self>, LinkReader)> {
        wire.socket.set_write_timeout(Some(SLICE))?;
        wire.socket.set_read_timeout(None)?;
        let link = Arc::new(Self {
            socket: wire.socket,
            tls: wire.tls.map(Mutex::new),
            role,
            high_water: options.high_water as u64,
            out: Mutex::new(Out {
                pending: Vec::new(),
                work: Some(writer::Work::default()),
                appended: 0,
                written: 0,
                relief: false,
                takers: 0,
                waiting_for_room: 0,
                tls_output: false,
                progress: Instant::now(),
                moved: None,
                unsent: VecDeque::new(),
                dropped: 0,
                closing: false,
                inside_frame: false,
                failed: None,
            }),
            left: AtomicBool::new(false),
            deferred: AtomicBool::new(false),
            full: AtomicBool::new(false),
            changed: Condvar::new(),
        });
        let reader = LinkReader::new(Arc::clone(&link), leftover, role, options);
        Ok((link, reader))
    }

    /// Appends one frame. Memory only; follow with [`Link::flush`]. After a Close or a failure the
    /// frame is dropped: the reader reports the end of the link.
    pub(crate) fn append(&self, op: Op, payload: &[u8]) {
        self.append_frame(op, payload, false);
    }

    /// The same for a frame that nobody waits for: if the link dies first it counts as unsent.
    pub(crate) fn append_unwaited(&self, op: Op, payload: &[u8]) {
        self.append_frame(op, payload, true);
    }

    fn append_frame(&self, op: Op, payload: &[u8], unwaited: bool) {
        let mask = (self.role == Role::Client).then(rand::random);
        let mut out = lock(&self.out);
        if out.closing || out.failed.is_some() {
            // It will never leave, whatever is written. (So it takes no memory: the reader may wait
            // for room in the queue and see the end of the link late.)
            out.dropped += u64::from(unwaited);
            return;
        }
        out.note_start();
        let before = out.pending.len();
        write_frame(&mut out.pending, op, mask, payload);
        out.appended += (out.pending.len() - before) as u64;
        out.closing = op == Op::Close;
        self.note_level(&out);
        if unwaited {
            let end = out.appended;
            out.unsent.push_back(end);
        }
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

    /// Appends a piece of a frame, for a service that sends it slowly. Until the `last` one what the
    /// read half has to say is dropped, since it would land inside the frame.
    #[cfg(feature = "emulator")]
    pub(crate) fn append_part(&self, piece: &[u8], last: bool) {
        let mut out = lock(&self.out);
        if out.closing || out.failed.is_some() {
            return;
        }
        out.note_start();
        out.pending.extend_from_slice(piece);
        out.appended += piece.len() as u64;
        out.inside_frame = !last;
        self.note_level(&out);
    }

    /// Frames that the read half made by itself: pongs and the answer to a Close.
    pub(super) fn append_raw(&self, frame: &[u8]) {
        let mut out = lock(&self.out);
        if out.closing || out.inside_frame || out.failed.is_some() {
            return;
        }
        out.note_start();
        out.pending.extend_from_slice(frame);
        out.appended += frame.len() as u64;
        out.closing = frame.first().is_some_and(|first| first & 0x0f == 8);
    }

    pub(super) fn note_tls_output(&self) {
        lock(&self.out).tls_output = true;
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
    /// `Timeout` at the deadline. A failed link counts as room: the reader tells the rest.
    pub(crate) fn wait_for_room(&self, deadline: Instant) -> Result<()> {
        let mut out = lock(&self.out);
        loop {
            if out.failed.is_some() || out.appended - out.written < self.high_water {
                return Ok(());
            }
            if out.work.is_some() {
                drop(out);
                if self.flush(deadline) == Flushed::Rest {
                    return Err(no_room());
                }
                out = lock(&self.out);
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(no_room());
            }
            out.waiting_for_room += 1;
            out = wait(&self.changed, out, left);
            out.waiting_for_room -= 1;
        }
    }

    /// For the reader: what is appended now is written before the next blocking read.
    pub(crate) fn defer_flush(&self) {
        self.deferred.store(true, Ordering::SeqCst);
    }

    /// Writes what was deferred; never waits for a stuck peer. False: a rest is left.
    pub(crate) fn flush_deferred(&self) -> bool {
        let any =
            self.deferred.load(Ordering::SeqCst) && self.deferred.swap(false, Ordering::SeqCst);
        !any || self.flush(Instant::now()) != Flushed::Rest
    }

    /// Wakes those who wait, if any do: each notification is a system call.
    fn tell_change(&self, out: &Out) {
        if out.takers > 0 || out.waiting_for_room > 0 {
            self.changed.notify_all();
        }
    }

    /// Ends the link with a cause; the first cause stays.
    pub(crate) fn fail(&self, cause: Error) {
        let mut out = lock(&self.out);
        if out.failed.is_none() {
            out.failed = Some(cause);
        }
        self.note_level(&out);
        self.tell_change(&out);
        drop(out);
        self.shutdown();
    }

    pub(crate) fn failure(&self) -> Option<Error> {
        lock(&self.out).failed.clone()
    }

    /// When the peer last made room for a write that waited for it: a sign of life, since only a
    /// peer that takes data does so. (A write that finds room in the system's buffer proves nothing.)
    pub(crate) fn moved(&self) -> Option<Instant> {
        lock(&self.out).moved
    }

    /// Bytes are left and nobody writes them.
    pub(crate) fn has_rest(&self) -> bool {
        // The reader asks before each read, so the usual answer takes no lock.
        if !self.left.load(Ordering::SeqCst) {
            return false;
        }
        let out = lock(&self.out);
        out.failed.is_none()
            && out
                .work
                .as_ref()
                .is_some_and(|w| !w.is_empty() || !out.pending.is_empty() || out.tls_output)
    }

    /// Bytes are left, whoever writes them.
    pub(crate) fn is_unwritten(&self) -> bool {
        let out = lock(&self.out);
        out.failed.is_none() && out.written < out.appended
    }

    /// How many frames that nobody waits for have not left this process.
    pub(crate) fn unsent(&self) -> u64 {
        let out = lock(&self.out);
        out.unsent.len() as u64 + out.dropped
    }

    /// Waits until all that was appended before this call is written. False: it was not in time,
    /// or the link failed before.
    pub(crate) fn drain(&self, deadline: Instant) -> bool {
        let goal = lock(&self.out).appended;
        loop {
            self.flush(deadline);
            let mut out = lock(&self.out);
            // What fails after that (the peer may be gone by then) is no loss.
            if out.written >= goal {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if out.failed.is_some() || left.is_zero() {
                return false;
            }
            if out.work.is_none() {
                out.waiting_for_room += 1;
                out = wait(&self.changed, out, left);
                out.waiting_for_room -= 1;
            }
        }
    }

    /// Ends our direction politely: TLS `close_notify`, then FIN. Never waits for a stuck peer.
    pub(crate) fn finish(&self) {
        if let Some(tls) = &self.tls {
            lock(tls).close_notify();
            self.note_tls_output();
        }
        self.flush(Instant::now());
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
}

fn wait<'a>(changed: &Condvar, out: MutexGuard<'a, Out>, left: Duration) -> MutexGuard<'a, Out> {
    changed.wait_timeout(out, left).unwrap_or_else(PoisonError::into_inner).0
}

fn no_room() -> Error {
    Error::new(
        ErrorKind::Timeout,
        "the connection took no more data within the time limit of the call; nothing was sent",
    )
}

#[cfg(test)]
mod tests;
