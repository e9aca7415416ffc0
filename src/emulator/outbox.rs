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
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

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

/// How long things stay queued before they are due, by a fault; shared by all outboxes of an
/// emulator. 0 is no latency, and then no outbox looks at a clock.
#[derive(Debug, Clone, Default)]
pub(super) struct Latency(Arc<AtomicU64>);

impl Latency {
    pub(super) fn set(&self, latency: Option<Duration>) {
        let nanos = latency.map_or(0, |latency| latency.as_nanos());
        self.0.store(u64::try_from(nanos).unwrap_or(u64::MAX), SeqCst);
    }

    pub(super) fn get(&self) -> Option<Duration> {
        Some(Duration::from_nanos(self.0.load(SeqCst))).filter(|latency| !latency.is_zero())
    }
}

/// What is due on a transport and is not yet written: messages, acks, pongs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) frames: usize,
    pub(super) bytes: usize,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    /// So many of `items`, from the front, are due. The others do not count: the latency holds them
    /// back, not the client.
    due: usize,
    /// The sizes of the frames that were taken and are not yet written, in order.
    taken: VecDeque<usize>,
    /// Of the items that are due and of `taken`.
    load: Load,
    /// Something that ends the transport is due, or was taken.
    ending: bool,
    fate: Option<Fate>,
    input_paused: bool,
}

struct Item {
    out: Out,
    /// Only if there was a latency then.
    queued: Option<Instant>,
}

impl Item {
    /// How long it must still wait; `None` if it is due.
    fn wait(&self, latency: Option<Duration>) -> Option<Duration> {
        let left = latency?.saturating_sub(self.queued?.elapsed());
        Some(left).filter(|left| !left.is_zero())
    }
}

pub(super) struct Outbox {
    /// Unlike any other transport's of this emulator.
    pub(super) link: u64,
    queue: Mutex<Queue>,
    latency: Latency,
}

impl Outbox {
    #[cfg(test)]
    pub(super) fn new(link: u64) -> Arc<Self> {
        Self::with_latency(link, Latency::default())
    }

    pub(super) fn with_latency(link: u64, latency: Latency) -> Arc<Self> {
        Arc::new(Self { link, queue: Mutex::default(), latency })
    }

    /// Queues something. Returns what is due and waits to be written then; a Close does not count.
    pub(super) fn push(&self, out: Out) -> Load {
        let mut queue = self.queue();
        let queued = self.latency.get().map(|_| Instant::now());
        queue.items.push_back(Item { out, queued });
        queue.count_due(self.latency.get());
        queue.load
    }

    /// The queue, with everything counted that is due by now.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        let mut queue = lock(&self.queue);
        queue.count_due(self.latency.get());
        queue
    }

    /// How long the first thing in the queue must wait, by the latency.
    pub(super) fn until_due(&self) -> Option<Duration> {
        let queue = self.queue();
        if queue.due > 0 { None } else { queue.items.front()?.wait(self.latency.get()) }
    }

    /// Whether something that ends the transport is due, or was taken.
    pub(super) fn is_ending(&self) -> bool {
        self.queue().ending
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

    /// Takes at least one item and about `max_bytes`; nothing if none is due, or from an
    /// aborted transport. The frames go on counting until [`Outbox::keep_taken`].
    pub(super) fn take(&self, max_bytes: usize) -> Vec<Out> {
        let mut queue = self.queue();
        if queue.fate.is_some() { Vec::new() } else { queue.split(max_bytes, false) }
    }

    /// The same, but nothing that ends the transport.
    pub(super) fn take_frames(&self, max_bytes: usize) -> Vec<Out> {
        let mut queue = self.queue();
        if queue.fate.is_some() { Vec::new() } else { queue.split(max_bytes, true) }
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
    fn count_due(&mut self, latency: Option<Duration>) {
        while let Some(item) = self.items.get(self.due)
            && item.wait(latency).is_none()
        {
            match &item.out {
                Out::Frame(frame) => {
                    self.load.frames += 1;
                    self.load.bytes += frame.as_bytes().len();
                }
                _ => self.ending = true,
            }
            self.due += 1;
        }
    }

    fn split(&mut self, max_bytes: usize, only_frames: bool) -> Vec<Out> {
        let mut size = 0;
        let mut count = 0;
        for item in self.items.range(..self.due) {
            if count > 0 && size >= max_bytes {
                break;
            }
            size += match &item.out {
                Out::Frame(frame) => frame.as_bytes().len() + 16,
                _ if only_frames => break,
                _ => 32,
            };
            count += 1;
        }
        self.due -= count;
        let batch: Vec<Out> = self.items.drain(..count).map(|item| item.out).collect();
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
    fn what_the_latency_holds_back_is_not_taken_and_does_not_count() {
        let latency = Latency::default();
        let outbox = Outbox::with_latency(1, latency.clone());
        assert_eq!(outbox.push(Out::Frame(text("a"))), load(1, 1));
        latency.set(Some(Duration::from_secs(3600)));
        assert_eq!(outbox.push(Out::Frame(text("bb"))), load(1, 1));
        outbox.push(Out::Cut);
        assert_eq!(outbox.until_due(), None, "the first was queued without a latency");
        assert_eq!(outbox.take_written(usize::MAX), [Out::Frame(text("a"))]);
        assert!(outbox.take(usize::MAX).is_empty() && !outbox.is_ending());
        assert!(outbox.until_due().unwrap() > Duration::from_secs(3000));
        latency.set(None);
        assert_eq!((outbox.until_due(), outbox.is_ending()), (None, true));
        assert_eq!(outbox.push(Out::Frame(text("c"))), load(2, 3));
        assert_eq!(outbox.take_frames(usize::MAX), [Out::Frame(text("bb"))]);
        assert!(outbox.take_frames(usize::MAX).is_empty(), "a Cut comes first");
        assert_eq!(outbox.take(usize::MAX), [Out::Cut, Out::Frame(text("c"))]);
    }

    #[test]
    fn an_aborted_transport_returns_nothing_more() {
        let outbox = Outbox::new(1);
        outbox.push(Out::Cut);
        outbox.abort(Fate::Reset);
        outbox.abort(Fate::Cut);
        assert!(outbox.take(1).is_empty());
        assert_eq!(outbox.fate(), Some(Fate::Reset));
    }
}
