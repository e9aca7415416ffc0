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

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::frame::{Op, write_frame};
use super::lock;
use super::reader::LinkReader;
use super::tls::Engine;
use super::wire::{CHUNK, Wire, is_timeout};
use crate::error::{Error, ErrorKind, Result};

/// A blocked write returns this often, so that its thread can look at its deadline.
const SLICE: Duration = Duration::from_millis(50);
/// How long a writer stays away from an engine that renegotiates.
const RENEGOTIATION_PAUSE: Duration = Duration::from_millis(5);
/// A peer that takes no byte for so long is dead.
const NO_PROGRESS: Duration = Duration::from_secs(10);
/// A write that took so long had to wait for room.
const BLOCKED: Duration = Duration::from_millis(1);
/// Having written so much for others, a writer hands over to the next caller.
const RELIEF: u64 = 256 * 1024;
/// Ciphertext is made in pieces of this size, so that the reader never waits long for the engine.
const ENCRYPT_PIECE: usize = 4 * CHUNK;
/// Buffers that grew beyond this are given back after a batch that did not need them.
const KEEP_CAPACITY: usize = 256 * 1024;

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
    work: Option<Work>,
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
    closing: bool,
    failed: Option<Error>,
}

#[derive(Debug, Default)]
struct Work {
    /// Bytes of one batch, and how many of them are written (or encrypted).
    plain: Vec<u8>,
    done: usize,
    /// With TLS: ciphertext under way, and how much of it is written.
    cipher: Vec<u8>,
    sent: usize,
    /// How many plaintext bytes are in `cipher`; they count as written when all of it has left.
    covers: usize,
    /// With TLS: the engine has output of its own, to be taken with the next piece.
    alerts: bool,
}

impl Work {
    fn is_empty(&self) -> bool {
        self.done == self.plain.len() && self.sent == self.cipher.len() && !self.alerts
    }
}

/// What became of a flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// The out-buffer is empty.
    All,
    /// Another thread is writing it.
    ByOther,
    /// The deadline passed; a rest is left.
    Rest,
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
                work: Some(Work::default()),
                appended: 0,
                written: 0,
                relief: false,
                takers: 0,
                waiting_for_room: 0,
                tls_output: false,
                progress: Instant::now(),
                moved: None,
                unsent: VecDeque::new(),
                closing: false,
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
        if out.closing {
            if unwaited {
                // Behind a Close it will never leave, whatever is written.
                out.unsent.push_back(u64::MAX);
            }
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

    /// Frames that the read half made by itself: pongs and the answer to a Close.
    pub(super) fn append_raw(&self, frame: &[u8]) {
        let mut out = lock(&self.out);
        if out.closing {
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

    /// Sees to it that the out-buffer is written: by this thread, unless another one is at it.
    ///
    /// Blocks while the socket does, at most until the deadline or some 50 ms past it.
    pub(crate) fn flush(&self, deadline: Instant) -> Flushed {
        let mut work = match self.start_writing(deadline) {
            Ok(work) => work,
            Err(nothing_to_do) => return nothing_to_do,
        };
        let mut mine = 0;
        let mut blocked = false;
        loop {
            let before = Instant::now();
            match self.write_some(&mut work) {
                Ok(n) => {
                    mine += n as u64;
                    let now = Instant::now();
                    let waited = now.duration_since(before);
                    let blocked = std::mem::take(&mut blocked) || waited >= BLOCKED;
                    if let Some(end) = self.got_on(&mut work, n, mine, now, blocked) {
                        return end;
                    }
                    // A peer that takes a little in each slice must not hold us past the deadline.
                    if waited >= SLICE / 2
                        && now >= deadline
                        && let Some(end) = self.no_progress(&mut work, deadline)
                    {
                        return end;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if is_timeout(&e) => {
                    blocked = true;
                    if let Some(end) = self.no_progress(&mut work, deadline) {
                        return end;
                    }
                }
                Err(e) => return self.fail_writer(work, e),
            }
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

    /// Becomes the writer, with something to write; else tells why that is not needed.
    fn start_writing(&self, deadline: Instant) -> Result<Work, Flushed> {
        let mut out = lock(&self.out);
        loop {
            if out.failed.is_some() {
                return Err(Flushed::ByOther);
            }
            if let Some(mut work) = out.work.take() {
                return match work.is_empty() && !self.next_batch(&mut out, &mut work) {
                    true => Err(self.all_written(out, work)),
                    false => Ok(work),
                };
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !out.relief || left.is_zero() {
                return Err(Flushed::ByOther);
            }
            out.takers += 1;
            out = wait(&self.changed, out, left);
            out.takers -= 1;
        }
    }

    /// Wakes those who wait, if any do: each notification is a system call.
    fn tell_change(&self, out: &Out) {
        if out.takers > 0 || out.waiting_for_room > 0 {
            self.changed.notify_all();
        }
    }

    /// After the socket took something: goes on (`None`) with the rest or with what was appended
    /// meanwhile, or is no longer the writer.
    fn got_on(
        &self,
        work: &mut Work,
        n: usize,
        mine: u64,
        now: Instant,
        blocked: bool,
    ) -> Option<Flushed> {
        let mut out = lock(&self.out);
        out.written = (out.written + n as u64).min(out.appended);
        out.progress = now;
        if blocked {
            out.moved = Some(now);
        }
        let written = out.written;
        while out.unsent.front().is_some_and(|end| *end <= written) {
            out.unsent.pop_front();
        }
        self.note_level(&out);
        if work.is_empty() && (out.failed.is_some() || !self.next_batch(&mut out, work)) {
            return Some(self.all_written(out, std::mem::take(work)));
        }
        self.tell_change(&out);
        out.relief = mine >= RELIEF;
        if !out.relief || out.takers == 0 {
            return None;
        }
        // Another caller takes over.
        out.work = Some(std::mem::take(work));
        out.relief = false;
        Some(Flushed::ByOther)
    }

    /// Takes what was appended, if anything was.
    fn next_batch(&self, out: &mut Out, work: &mut Work) -> bool {
        for buffer in [&mut work.plain, &mut work.cipher] {
            if buffer.capacity() > KEEP_CAPACITY && buffer.len() < KEEP_CAPACITY / 2 {
                *buffer = Vec::new();
            }
            buffer.clear();
        }
        work.done = 0;
        work.sent = 0;
        std::mem::swap(&mut work.plain, &mut out.pending);
        work.alerts = std::mem::take(&mut out.tls_output);
        !work.is_empty()
    }

    /// No longer the writer: nothing is left, or the link has failed.
    fn all_written(&self, mut out: MutexGuard<'_, Out>, work: Work) -> Flushed {
        out.work = Some(work);
        out.relief = false;
        self.left.store(false, Ordering::SeqCst);
        self.tell_change(&out);
        Flushed::All
    }

    /// A system call or a few. Gives how many plaintext bytes are thereby done.
    fn write_some(&self, work: &mut Work) -> io::Result<usize> {
        let mut socket = &self.socket;
        let Some(tls) = &self.tls else {
            let n = match socket.write(&work.plain[work.done..])? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => n,
            };
            work.done += n;
            return Ok(n);
        };
        if work.sent == work.cipher.len() {
            work.cipher.clear();
            work.sent = 0;
            work.alerts = false;
            let piece = &work.plain[work.done..];
            let piece = &piece[..piece.len().min(ENCRYPT_PIECE)];
            let encrypted = encrypt(&mut lock(tls), piece, &mut work.cipher);
            if encrypted.as_ref().is_err_and(is_timeout) {
                // A socket's slice would have waited for something too.
                std::thread::park_timeout(RENEGOTIATION_PAUSE);
            }
            work.covers = encrypted?;
            work.done += work.covers;
        }
        if work.sent < work.cipher.len() {
            match socket.write(&work.cipher[work.sent..])? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => work.sent += n,
            }
        }
        if work.sent < work.cipher.len() {
            return Ok(0);
        }
        Ok(std::mem::take(&mut work.covers))
    }

    /// After a slice in which the socket took nothing: goes on (`None`), leaves, or gives up.
    fn no_progress(&self, work: &mut Work, deadline: Instant) -> Option<Flushed> {
        let now = Instant::now();
        let mut out = lock(&self.out);
        if now.duration_since(out.progress) >= NO_PROGRESS {
            drop(out);
            self.fail(Error::new(
                ErrorKind::Disconnected,
                "the peer took no data for 10 s; the connection counts as dead",
            ));
            return Some(Flushed::ByOther);
        }
        let relieved = out.relief && out.takers > 0;
        if out.failed.is_none() && now < deadline && !relieved {
            return None;
        }
        out.work = Some(std::mem::take(work));
        out.relief = false;
        self.tell_change(&out);
        if relieved {
            return Some(Flushed::ByOther);
        }
        self.left.store(true, Ordering::SeqCst);
        Some(Flushed::Rest)
    }

    fn fail_writer(&self, _work: Work, e: io::Error) -> Flushed {
        self.fail(
            Error::new(ErrorKind::Disconnected, "writing to the connection failed").with_source(e),
        );
        Flushed::ByOther
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
        lock(&self.out).unsent.len() as u64
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

/// Encrypts as much as the engine takes, and takes what it has to say by itself. `WouldBlock` if
/// that is nothing: it renegotiates, and needs the reader to feed it first.
fn encrypt(tls: &mut Engine, plain: &[u8], cipher: &mut Vec<u8>) -> io::Result<usize> {
    let mut taken = 0;
    while taken < plain.len() {
        match tls.write(&plain[taken..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => taken += n,
            // What was taken is encrypted and must not be encrypted again.
            Err(e) if is_timeout(&e) && (taken > 0 || tls.has_output()) => break,
            Err(e) => return Err(e),
        }
    }
    tls.take_output(cipher)?;
    Ok(taken)
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
mod tests {
    use super::*;
    use socket2::SockRef;
    use std::io::Read;
    use std::net::TcpListener;

    fn pair() -> (Arc<Link>, TcpStream) {
        let (link, _reader, peer) = both_halves();
        (link, peer)
    }

    fn both_halves() -> (Arc<Link>, LinkReader, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let ours = TcpStream::connect(listener.local_addr().expect("addr")).expect("connect");
        let (theirs, _) = listener.accept().expect("accept");
        SockRef::from(&ours).set_send_buffer_size(64 * 1024).expect("size");
        let wire = Wire::plain(ours);
        let link = Link::open(wire, Vec::new(), Role::Server, &LinkOptions::default());
        let (link, reader) = link.expect("open");
        (link, reader, theirs)
    }

    fn soon(ms: u64) -> Instant {
        Instant::now() + Duration::from_millis(ms)
    }

    #[test]
    fn a_writer_leaves_at_its_deadline_and_the_next_one_goes_on() {
        let (link, mut peer) = pair();
        let big = vec![7u8; 16 << 20];
        link.append(Op::Binary, &big);
        assert_eq!(link.flush(soon(10)), Flushed::Rest);
        assert!(link.has_rest());
        assert!(link.wait_for_room(soon(10)).is_err());
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).map(|_| all)
        });
        assert_eq!(link.flush(soon(60_000)), Flushed::All);
        link.append_unwaited(Op::Text, b"x");
        assert_eq!(link.unsent(), 1);
        assert_eq!(link.flush(soon(60_000)), Flushed::All);
        assert_eq!(link.unsent(), 0);
        link.shutdown();
        let all = reader.join().expect("joined").expect("read");
        assert_eq!(all.len(), 10 + big.len() + 3);
        assert!(all[10..10 + big.len()].iter().all(|b| *b == 7));
    }

    #[test]
    fn the_reader_goes_on_with_a_rest_that_it_left_itself() {
        let (link, mut reader, mut peer) = both_halves();
        let len = 16 << 20;
        link.append(Op::Binary, &vec![7u8; len]);
        link.defer_flush();
        let (looked, look) = std::sync::mpsc::channel();
        let unwritten = Arc::clone(&link);
        let reading = std::thread::spawn(move || {
            // Nothing comes in and nothing else is due, so only the rest can wake it.
            while reader.wake_at(None, Instant::now()).is_ok() && reader.next(true).is_ok() {
                looked.send(!unwritten.is_unwritten()).expect("somebody looks");
            }
        });
        let watchdog = Duration::from_secs(60);
        assert_eq!(look.recv_timeout(watchdog), Ok(false));
        assert!(link.has_rest());
        let all = std::thread::spawn(move || {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).map(|_| all.len())
        });
        while !look.recv_timeout(watchdog).expect("the reader goes on") {}
        link.shutdown();
        reading.join().expect("joined");
        assert_eq!(all.join().expect("joined").expect("read"), 10 + len);
    }

    #[test]
    fn nothing_leaves_after_a_close_frame() {
        let (link, mut peer) = pair();
        link.append_close(1000, &"é".repeat(80));
        link.append_unwaited(Op::Text, b"late");
        assert!(link.drain(soon(10_000)));
        assert_eq!(link.unsent(), 1);
        link.shutdown();
        let mut all = Vec::new();
        peer.read_to_end(&mut all).expect("read");
        assert_eq!(all[..4], [0x88, 2 + 122, 3, 232]);
    }
}
