//! The present writer: takes batches of the out-buffer, encrypts them, and writes them until all is
//! written, its deadline passes, or another caller takes over.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::super::address::limit_unacknowledged;
use super::super::lock;
use super::super::tls::Engine;
use super::super::wait::wait_to_write;
use super::super::wire::{CHUNK, would_block};
use super::{Link, Out, SLICE};
use crate::error::{Error, ErrorKind};
use crate::sync::Guard;

/// How long a writer stays away from an engine that renegotiates.
const RENEGOTIATION_PAUSE: Duration = Duration::from_millis(5);
/// A peer that takes no byte for this long is dead, unless it may be running an event handler.
pub(super) const NO_PROGRESS: Duration = Duration::from_secs(10);
/// Having written this much for others, a writer hands over to the next caller.
const RELIEF: u64 = 256 * 1024;
/// Ciphertext is made in pieces of this size, so that the reader never waits long for the engine.
const ENCRYPT_PIECE: usize = 4 * CHUNK;
/// Buffers that grew beyond this are given back after a batch that did not need them.
const KEEP_CAPACITY: usize = 256 * 1024;
/// Windows takes a buffer of any size whole, whatever the peer reads, and so hides a peer that does
/// not: there a write has at most this many bytes.
const WINDOWS_MOST: usize = 64 * 1024;

#[derive(Debug, Default)]
pub(super) struct Work {
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
    /// The socket had no room; what it takes next is a sign of life.
    blocked: bool,
    /// TCP tolerates until then that the peer takes nothing.
    tolerant_until: Option<Instant>,
}

impl Work {
    pub(super) fn is_empty(&self) -> bool {
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
    /// The link is dead.
    Failed,
}

impl Link {
    /// Sees to it that the out-buffer is written: by this thread, unless another one is at it.
    ///
    /// Waits for room in the socket until the deadline. What is left then is the reader's.
    pub(crate) fn flush(&self, deadline: Instant) -> Flushed {
        let flushed = self.write_until(deadline);
        if flushed == Flushed::Rest {
            self.waker.wake();
        }
        flushed
    }

    /// The same for the reader: never waits, and leaves the rest to its own next wait.
    pub(crate) fn flush_now(&self) -> Flushed {
        self.write_until(Instant::now())
    }

    fn write_until(&self, deadline: Instant) -> Flushed {
        let mut work = match self.start_writing(deadline) {
            Ok(work) => work,
            Err(nothing_to_do) => return nothing_to_do,
        };
        let mut mine = 0;
        loop {
            match self.write_some(&mut work) {
                Ok(n) => {
                    mine += n as u64;
                    if n > 0 && work.tolerant_until.take().is_some() {
                        self.tolerate_silence(None);
                    }
                    if let Some(end) = self.got_on(&mut work, n, mine) {
                        return end;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if would_block(&e) => {
                    work.blocked = true;
                    let now = Instant::now();
                    let patience = self.out.lock().patience.filter(|until| *until > now);
                    if let Some(until) = patience.filter(|_| patience > work.tolerant_until) {
                        work.tolerant_until = patience;
                        self.tolerate_silence(Some(until - now));
                    }
                    if let Some(end) = self.no_progress(&mut work, now, deadline) {
                        return end;
                    }
                    let slice = deadline.saturating_duration_since(now).min(SLICE);
                    if let Err(e) = wait_to_write(&self.socket, slice) {
                        return self.fail_writer(e);
                    }
                }
                Err(e) => return self.fail_writer(e),
            }
        }
    }

    /// Tells TCP how long the peer may take nothing, if not the usual time.
    fn tolerate_silence(&self, limit: Option<Duration>) {
        // Where that fails TCP is stricter than we are, which costs a recovery at worst.
        let _ = limit_unacknowledged(&SockRef::from(&self.socket), limit);
    }

    /// Becomes the writer, with something to write; else returns why that is not needed.
    fn start_writing(&self, deadline: Instant) -> Result<Work, Flushed> {
        match self.out.start(deadline, |out| out.failed.is_some()) {
            Ok((mut out, mut work)) => {
                if work.is_empty() && !self.next_batch(&mut out, &mut work) {
                    return Err(all_written(out, work));
                }
                Ok(work)
            }
            Err(out) if out.failed.is_some() => Err(Flushed::Failed),
            Err(_) => Err(Flushed::ByOther),
        }
    }

    /// After the socket took something: goes on (`None`) with the rest or with what was appended
    /// meanwhile, or is no longer the writer.
    fn got_on(&self, work: &mut Work, n: usize, mine: u64) -> Option<Flushed> {
        let now = Instant::now();
        let mut out = self.out.lock();
        out.written = (out.written + n as u64).min(out.appended);
        out.progress = now;
        if std::mem::take(&mut work.blocked) {
            out.moved = Some(now);
        }
        let written = out.written;
        while out.unsent.front().is_some_and(|end| *end <= written) {
            out.unsent.pop_front();
        }
        self.note_level(&out);
        if work.is_empty() && (out.failed.is_some() || !self.next_batch(&mut out, work)) {
            return Some(all_written(out, std::mem::take(work)));
        }
        out.set_relief(mine >= RELIEF);
        if out.has_relief() {
            out.give_back(std::mem::take(work));
            return Some(Flushed::ByOther);
        }
        out.notify();
        None
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
        if !out.inside_frame
            && let Some(pong) = out.pong.take()
        {
            work.plain.extend_from_slice(&pong);
            out.appended += pong.len() as u64;
        }
        work.alerts = std::mem::take(&mut out.tls_output);
        !work.is_empty()
    }

    /// A system call or a few. Returns how many plaintext bytes are thereby done.
    fn write_some(&self, work: &mut Work) -> io::Result<usize> {
        let mut socket = &self.socket;
        let Some(tls) = &self.tls else {
            let rest = &work.plain[work.done..];
            let n = match socket.write(&rest[..at_once(rest.len())])? {
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
            if encrypted.as_ref().is_err_and(would_block) {
                // The socket may have room all the while, so waiting for that would not wait.
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

    /// After the socket took nothing: goes on (`None`), leaves, or gives up.
    fn no_progress(&self, work: &mut Work, now: Instant, deadline: Instant) -> Option<Flushed> {
        let out = self.out.lock();
        if out.failed.is_some() {
            out.give_back(std::mem::take(work));
            return Some(Flushed::Failed);
        }
        if now >= out.dead_at() {
            drop(out);
            self.fail(Error::new(
                ErrorKind::Disconnected,
                "the peer took no data for too long; the connection counts as dead",
            ));
            return Some(Flushed::Failed);
        }
        if out.has_relief() {
            out.give_back(std::mem::take(work));
            return Some(Flushed::ByOther);
        }
        if now < deadline {
            return None;
        }
        out.leave_rest(std::mem::take(work));
        Some(Flushed::Rest)
    }

    fn fail_writer(&self, e: io::Error) -> Flushed {
        self.fail(
            Error::new(ErrorKind::Disconnected, "writing to the connection failed").with_source(e),
        );
        Flushed::Failed
    }
}

/// No longer the writer: nothing is left, or the link has failed.
fn all_written(out: Guard<'_, Out, Work>, work: Work) -> Flushed {
    out.finish(work);
    Flushed::All
}

/// How many of this many bytes are written at once.
fn at_once(len: usize) -> usize {
    if cfg!(windows) { len.min(WINDOWS_MOST) } else { len }
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
            Err(e) if would_block(&e) && (taken > 0 || tls.has_output()) => break,
            Err(e) => return Err(e),
        }
    }
    tls.take_output(cipher)?;
    Ok(taken)
}
