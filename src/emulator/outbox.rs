//! What the service wants to send on one transport, in order. Nobody waits or is woken in here.
//!
//! The service pushes under its own lock; whoever owns the transport takes: the connection's threads
//! (`writer` adds their waiting), or a test that drives the service in one thread. One outbox lives as
//! long as one transport: a recovered session gets a new one.
//!
//! A frame counts as queued until it is written: whoever takes one must say so
//! ([`Outbox::keep_taken`]), or take it as written at once (`take_written`).
//!
//! Its lock only makes it shareable: it is a leaf, held for a few memory operations.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::protocol::Frame;

/// Locks, also after a panic elsewhere: a broken test must not hang the emulator's drop.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One thing to be written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Out {
    Frame(Frame),
    Close {
        code: u16,
        reason: String,
    },
    /// End the TCP connection once everything before has been written.
    Cut,
    /// The same by a reset.
    Reset,
}

/// How a transport is ended at once, without writing what is queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Cut,
    Reset,
}

/// What was queued on a transport and is not yet written: messages, acks, pongs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) frames: usize,
    pub(super) bytes: usize,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Out>,
    /// The sizes of the frames that were taken and are not yet written, in order.
    taken: VecDeque<usize>,
    /// Of `items` and `taken`.
    load: Load,
    fate: Option<Fate>,
    input_paused: bool,
}

pub(super) struct Outbox {
    /// Unlike any other transport's of this emulator.
    pub(super) link: u64,
    queue: Mutex<Queue>,
}

impl Outbox {
    pub(super) fn new(link: u64) -> Arc<Self> {
        Arc::new(Self { link, queue: Mutex::default() })
    }

    /// Queues something. Returns what waits to be written then; a Close does not count.
    pub(super) fn push(&self, out: Out) -> Load {
        let mut queue = lock(&self.queue);
        if let Out::Frame(frame) = &out {
            queue.load.frames += 1;
            queue.load.bytes += frame.as_bytes().len();
        }
        queue.items.push_back(out);
        queue.load
    }

    /// Decides that the transport ends at once, unless that is decided already.
    pub(super) fn abort(&self, fate: Fate) {
        lock(&self.queue).fate.get_or_insert(fate);
    }

    pub(super) fn fate(&self) -> Option<Fate> {
        lock(&self.queue).fate
    }

    /// Asks not to read from the client, or to read on.
    pub(super) fn pause_input(&self, on: bool) {
        lock(&self.queue).input_paused = on;
    }

    pub(super) fn is_input_paused(&self) -> bool {
        lock(&self.queue).input_paused
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.queue).items.len()
    }

    /// Takes at least one item and about `max_bytes`; nothing if there is none, or from an
    /// aborted transport. The frames go on counting until [`Outbox::keep_taken`].
    pub(super) fn take(&self, max_bytes: usize) -> Vec<Out> {
        let mut queue = lock(&self.queue);
        if queue.fate.is_some() { Vec::new() } else { queue.split(max_bytes) }
    }

    /// All frames that were taken are written, but for the last `unwritten` ones.
    pub(super) fn keep_taken(&self, unwritten: usize) {
        lock(&self.queue).keep_taken(unwritten);
    }

    /// The same as [`Outbox::take`], for whoever has written it thereby.
    #[cfg(test)]
    pub(super) fn take_written(&self, max_bytes: usize) -> Vec<Out> {
        let taken = self.take(max_bytes);
        self.keep_taken(0);
        taken
    }
}

impl Queue {
    fn split(&mut self, max_bytes: usize) -> Vec<Out> {
        let mut size = 0;
        let mut count = 0;
        for item in &self.items {
            if count > 0 && size >= max_bytes {
                break;
            }
            count += 1;
            size += match item {
                Out::Frame(frame) => frame.as_bytes().len() + 16,
                _ => 32,
            };
        }
        let batch: Vec<Out> = self.items.drain(..count).collect();
        for out in &batch {
            if let Out::Frame(frame) = out {
                self.taken.push_back(frame.as_bytes().len());
            }
        }
        batch
    }

    fn keep_taken(&mut self, unwritten: usize) {
        let written = self.taken.len().saturating_sub(unwritten);
        for size in self.taken.drain(..written) {
            self.load.frames -= 1;
            self.load.bytes -= size;
        }
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("link", &self.link).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(s: &str) -> Frame {
        Frame::Text(s.into())
    }

    fn load(frames: usize, bytes: usize) -> Load {
        Load { frames, bytes }
    }

    #[test]
    fn a_frame_counts_until_it_is_written() {
        let outbox = Outbox::new(1);
        assert_eq!(outbox.push(Out::Frame(text("a"))), load(1, 1));
        assert_eq!(outbox.push(Out::Frame(text("bb"))), load(2, 3));
        assert_eq!(outbox.take(1), [Out::Frame(text("a"))]);
        assert_eq!(outbox.push(Out::Frame(text("ccc"))), load(3, 6), "one is taken, none written");
        assert_eq!(outbox.take(usize::MAX).len(), 2);
        outbox.keep_taken(2);
        assert_eq!(outbox.push(Out::Frame(text("d"))), load(3, 6), "only the first is written");
        outbox.keep_taken(2);
        outbox.keep_taken(9);
        assert_eq!(outbox.push(Out::Cut), load(3, 6));
        outbox.keep_taken(0);
        assert_eq!(outbox.push(Out::Frame(text("e"))), load(2, 2), "what is not taken counts on");
        assert_eq!(outbox.take_written(usize::MAX).len(), 3);
        assert_eq!(outbox.push(Out::Frame(text("f"))), load(1, 1));
    }

    #[test]
    fn a_condemned_transport_gives_nothing_more() {
        let outbox = Outbox::new(1);
        outbox.push(Out::Cut);
        outbox.abort(Fate::Reset);
        outbox.abort(Fate::Cut);
        assert!(outbox.take(1).is_empty());
        assert_eq!(outbox.fate(), Some(Fate::Reset));
    }
}
