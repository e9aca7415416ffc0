//! What the service wants to send on one transport, in order. Nobody waits or is woken in here.
//!
//! The service pushes under its own lock; whoever owns the transport takes: the connection's threads
//! (`writer` adds their waiting), or a test that drives the service in one thread. One outbox lives as
//! long as one transport: a recovered session gets a new one.
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
}

/// How a transport is ended at once, without writing what is queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Cut,
    Reset,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Out>,
    /// Messages (not acks or pongs) in `items`, and their bytes.
    messages: usize,
    bytes: usize,
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

    /// Queues a message that counts against the limits; gives the messages and bytes waiting.
    pub(super) fn push_message(&self, frame: Frame) -> (usize, usize) {
        let mut queue = lock(&self.queue);
        queue.messages += 1;
        queue.bytes += frame.as_bytes().len();
        queue.items.push_back(Out::Frame(frame));
        (queue.messages, queue.bytes)
    }

    /// Queues something that is not a message (ack, pong, close).
    pub(super) fn push(&self, out: Out) {
        lock(&self.queue).items.push_back(out);
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

    /// Takes at least one item and about `max_bytes`; nothing if there is none, or from a
    /// aborted transport.
    pub(super) fn take(&self, max_bytes: usize) -> Vec<Out> {
        let mut queue = lock(&self.queue);
        if queue.fate.is_some() { Vec::new() } else { queue.split(max_bytes) }
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
        if self.items.is_empty() {
            (self.messages, self.bytes) = (0, 0);
        } else {
            // Acks are a little over-counted here, which the next emptying corrects.
            self.messages = self.messages.saturating_sub(batch.len());
            self.bytes = self.bytes.saturating_sub(size);
        }
        batch
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

    #[test]
    fn what_is_taken_leaves_the_count() {
        let outbox = Outbox::new(1);
        outbox.push_message(text("a"));
        assert_eq!(outbox.push_message(text("b")), (2, 2));
        assert_eq!(outbox.take(1), [Out::Frame(text("a"))]);
        assert_eq!(outbox.push_message(text("c")).0, 2);
        assert_eq!(outbox.take(usize::MAX).len(), 2);
        assert!(outbox.take(1).is_empty());
        assert_eq!(outbox.push_message(text("d")), (1, 1));
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
