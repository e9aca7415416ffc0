//! What the service wants to send on one connection, in order.
//!
//! The hub pushes (in memory, under its own lock); the connection's threads take batches and write
//! them. One outbox lives as long as one transport: a recovered session gets a new one.
//!
//! Lock order: hub, then outbox. The outbox lock is never held across a system call.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::protocol::Frame;

/// Locks, also after a panic elsewhere: a broken test must not hang the emulator's drop.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One thing to be written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Out {
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
pub(super) enum Fate {
    Cut,
    Reset,
}

/// Who writes at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writing {
    Nobody,
    /// Somebody has taken a batch and is writing it.
    Somebody,
    /// A batch was taken but could not be written within the reader's patience; the writer thread
    /// goes on with it.
    Owed,
}

struct Queue {
    items: VecDeque<Out>,
    /// Messages (not acks or pongs) in `items`, and their bytes.
    messages: usize,
    bytes: usize,
    writing: Writing,
    fate: Option<Fate>,
    ended: bool,
    /// Threads in a wait; nobody is notified in vain, because that is a system call.
    waiters: usize,
    reader_waits: bool,
    /// The client has until then to answer our Close.
    deadline: Option<Instant>,
}

type Kill = Box<dyn Fn(Fate) + Send + Sync>;

pub(super) struct Outbox {
    /// Unlike any other transport's of this emulator.
    pub(super) link: u64,
    queue: Mutex<Queue>,
    changed: Condvar,
    kill: OnceLock<Kill>,
}

impl Outbox {
    pub(super) fn new(link: u64) -> Arc<Self> {
        let queue = Queue {
            items: VecDeque::new(),
            messages: 0,
            bytes: 0,
            writing: Writing::Nobody,
            fate: None,
            ended: false,
            waiters: 0,
            reader_waits: false,
            deadline: None,
        };
        Arc::new(Self {
            link,
            queue: Mutex::new(queue),
            changed: Condvar::new(),
            kill: OnceLock::new(),
        })
    }

    /// How to end the transport at once. It is called outside all locks.
    pub(super) fn set_kill(&self, kill: impl Fn(Fate) + Send + Sync + 'static) {
        let _ = self.kill.set(Box::new(kill));
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

    /// Decides that the transport ends at once; [`Outbox::wake`] then does it.
    pub(super) fn condemn(&self, fate: Fate) {
        lock(&self.queue).fate.get_or_insert(fate);
    }

    /// Lets the writer look, and ends a condemned transport. Call it without the hub lock.
    pub(super) fn wake(&self) {
        let fate = self.notify(&lock(&self.queue)).fate;
        if let (Some(fate), Some(kill)) = (fate, self.kill.get()) {
            kill(fate);
        }
    }

    /// Marks the end of the transport: both threads leave.
    pub(super) fn end(&self) {
        let mut queue = lock(&self.queue);
        queue.ended = true;
        self.notify(&queue);
    }

    fn notify<'a>(&self, queue: &'a Queue) -> &'a Queue {
        if queue.waiters > 0 {
            self.changed.notify_all();
        }
        queue
    }

    fn sleep<'a>(
        &self,
        mut queue: MutexGuard<'a, Queue>,
        limit: Duration,
    ) -> MutexGuard<'a, Queue> {
        queue.waiters += 1;
        let woken = self.changed.wait_timeout(queue, limit);
        let mut queue = woken.unwrap_or_else(PoisonError::into_inner).0;
        queue.waiters -= 1;
        queue
    }

    pub(super) fn is_over(&self) -> bool {
        let queue = lock(&self.queue);
        queue.ended || queue.fate.is_some()
    }

    /// Takes a batch of at least one item and about `max_bytes`, if nobody else is writing. Who
    /// took one must call [`Outbox::wrote`].
    pub(super) fn take(&self, max_bytes: usize) -> Option<Vec<Out>> {
        let mut queue = lock(&self.queue);
        if queue.writing != Writing::Nobody || queue.fate.is_some() || queue.items.is_empty() {
            return None;
        }
        queue.writing = Writing::Somebody;
        Some(queue.split(max_bytes))
    }

    /// The batch has been written, or (`owed`) is left to the writer thread.
    pub(super) fn wrote(&self, owed: bool) {
        let mut queue = lock(&self.queue);
        queue.writing = if owed { Writing::Owed } else { Writing::Nobody };
        if owed || !queue.items.is_empty() || queue.reader_waits {
            self.notify(&queue);
        }
    }

    /// Waits until fewer than so many things are queued, or the transport is over. A connection
    /// whose client does not read its acks is not read from either.
    pub(super) fn wait_below(&self, items: usize) {
        let mut queue = lock(&self.queue);
        while queue.items.len() >= items && !queue.ended && queue.fate.is_none() {
            queue.reader_waits = true;
            queue = self.sleep(queue, Duration::from_secs(60));
        }
        queue.reader_waits = false;
    }

    /// The writer thread's wait: until there is a batch, something owed, or the end.
    pub(super) fn wait(&self, max_bytes: usize) -> Work {
        let mut queue = lock(&self.queue);
        loop {
            if queue.ended || queue.fate.is_some() {
                return Work::End;
            }
            match queue.writing {
                Writing::Owed => {
                    queue.writing = Writing::Somebody;
                    return Work::Owed;
                }
                Writing::Nobody if !queue.items.is_empty() => {
                    queue.writing = Writing::Somebody;
                    return Work::Batch(queue.split(max_bytes));
                }
                _ => {}
            }
            let mut limit = Duration::from_secs(60);
            if let Some(deadline) = queue.deadline {
                limit = deadline.saturating_duration_since(Instant::now());
                if limit.is_zero() {
                    queue.fate = Some(Fate::Cut);
                    continue;
                }
            }
            queue = self.sleep(queue, limit);
        }
    }

    /// Waits until everything is written or the transport is over, at most that long.
    pub(super) fn wait_idle(&self, limit: Duration) {
        let until = Instant::now() + limit;
        let mut queue = lock(&self.queue);
        while !queue.ended
            && queue.fate.is_none()
            && (queue.writing != Writing::Nobody || !queue.items.is_empty())
        {
            let Some(left) = until.checked_duration_since(Instant::now()) else { break };
            queue.reader_waits = true;
            queue = self.sleep(queue, left);
        }
        queue.reader_waits = false;
    }

    /// The transport has so long to end by itself; then the writer thread cuts it.
    pub(super) fn limit_life(&self, limit: Duration) {
        let mut queue = lock(&self.queue);
        queue.deadline = Some(Instant::now() + limit);
        self.notify(&queue);
    }

    pub(super) fn is_condemned(&self) -> bool {
        lock(&self.queue).fate.is_some()
    }
}

/// What the writer thread has to do.
#[derive(Debug)]
pub(super) enum Work {
    Batch(Vec<Out>),
    Owed,
    End,
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
    fn one_writer_at_a_time_and_order_kept() {
        let outbox = Outbox::new(1);
        outbox.push_message(text("a"));
        assert_eq!(outbox.push_message(text("b")), (2, 2));
        let first = outbox.take(1).unwrap();
        assert_eq!(first, [Out::Frame(text("a"))]);
        assert!(outbox.take(1).is_none());
        outbox.wrote(true);
        assert!(outbox.take(1).is_none(), "what is owed goes first");
        assert!(matches!(outbox.wait(1), Work::Owed));
        outbox.wrote(false);
        assert!(matches!(outbox.wait(1), Work::Batch(b) if b == [Out::Frame(text("b"))]));
    }

    #[test]
    fn a_condemned_transport_writes_nothing_more() {
        let outbox = Outbox::new(1);
        outbox.push(Out::Cut);
        outbox.condemn(Fate::Reset);
        assert!(outbox.take(1).is_none());
        assert!(matches!(outbox.wait(1), Work::End));
        assert!(outbox.is_over());
    }
}
