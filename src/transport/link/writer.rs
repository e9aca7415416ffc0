//! The present writer: takes batches of the out-buffer, encrypts them, and writes them until all is
//! written, its deadline passes, or another caller takes over.

use std::io::{self, Write};
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::super::lock;
use super::super::tls::Engine;
use super::super::wire::{CHUNK, is_timeout};
use super::{Link, Out, SLICE, wait};
use crate::error::{Error, ErrorKind};

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

    /// Becomes the writer, with something to write; else tells why that is not needed.
    fn start_writing(&self, deadline: Instant) -> Result<Work, Flushed> {
        let mut out = lock(&self.out);
        loop {
            if out.failed.is_some() {
                return Err(Flushed::Failed);
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
            return Some(Flushed::Failed);
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
        Flushed::Failed
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
