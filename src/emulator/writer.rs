//! Who writes on a transport, and who waits for it: what the threads of one connection share.
//!
//! One of them writes at a time: the reader its own answers, else the writer thread.
//!
//! Lock order: `state`, then the outbox. The service pushes before [`Writer::wake`], which takes
//! `state`; a thread looks into the outbox under `state` before it sleeps. So it sees the push, or
//! is asleep when it is notified. No lock is held
//! across I/O or a closure of the program; a thread sleeps on `changed`, which lets go of `state`.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::outbox::{Fate, Latency, Out, Outbox, lock};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writing {
    Nobody,
    /// Somebody has taken a batch and is writing it.
    Somebody,
    /// A batch was taken but could not be written within the reader's limit; the writer thread
    /// goes on with it.
    Owed,
}

struct State {
    writing: Writing,
    ended: bool,
    /// Threads in a wait; nobody is notified in vain, because that is a system call.
    waiters: usize,
    reader_waits: bool,
    /// The client has until then to answer our Close.
    deadline: Option<Instant>,
}

type Kill = Box<dyn Fn(Fate) + Send + Sync>;

pub(super) struct Writer {
    pub(super) outbox: Arc<Outbox>,
    state: Mutex<State>,
    changed: Condvar,
    kill: OnceLock<Kill>,
}

/// What the writer thread has to do.
#[derive(Debug)]
pub(super) enum Work {
    Batch(Vec<Out>),
    Owed,
    /// It is time for an unsolicited Pong.
    Pong,
    End,
}

impl Writer {
    pub(super) fn new(link: u64, latency: Latency) -> Arc<Self> {
        let state = State {
            writing: Writing::Nobody,
            ended: false,
            waiters: 0,
            reader_waits: false,
            deadline: None,
        };
        Arc::new(Self {
            outbox: Outbox::with_latency(link, latency),
            state: Mutex::new(state),
            changed: Condvar::new(),
            kill: OnceLock::new(),
        })
    }

    pub(super) fn link(&self) -> u64 {
        self.outbox.link
    }

    /// How to end the transport at once. It is called outside all locks.
    pub(super) fn set_kill(&self, kill: impl Fn(Fate) + Send + Sync + 'static) {
        let _ = self.kill.set(Box::new(kill));
    }

    /// Lets both threads look, and ends an aborted transport. Call it without the service lock.
    pub(super) fn wake(&self) {
        self.notify(&lock(&self.state));
        if let (Some(fate), Some(kill)) = (self.outbox.fate(), self.kill.get()) {
            kill(fate);
        }
    }

    /// Ends the transport at once.
    pub(super) fn end_now(&self, fate: Fate) {
        self.outbox.abort(fate);
        self.wake();
    }

    /// Marks the end of the transport: both threads leave.
    pub(super) fn end(&self) {
        let mut state = lock(&self.state);
        state.ended = true;
        self.notify(&state);
    }

    fn notify(&self, state: &State) {
        if state.waiters > 0 {
            self.changed.notify_all();
        }
    }

    fn sleep<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        limit: Duration,
    ) -> MutexGuard<'a, State> {
        state.waiters += 1;
        let woken = self.changed.wait_timeout(state, limit);
        let mut state = woken.unwrap_or_else(PoisonError::into_inner).0;
        state.waiters -= 1;
        state
    }

    pub(super) fn is_over(&self) -> bool {
        self.has_ended(&lock(&self.state))
    }

    fn has_ended(&self, state: &State) -> bool {
        state.ended || self.outbox.fate().is_some()
    }

    /// Takes a batch of at least one frame and about `max_bytes`, if nobody else is writing. Who
    /// took one must call [`Writer::wrote`]. What ends the transport is left to the writer thread,
    /// which may wait for it.
    pub(super) fn take(&self, max_bytes: usize) -> Option<Vec<Out>> {
        let mut state = lock(&self.state);
        self.take_batch(&mut state, || self.outbox.take_frames(max_bytes))
    }

    fn take_batch(&self, state: &mut State, take: impl FnOnce() -> Vec<Out>) -> Option<Vec<Out>> {
        if state.writing != Writing::Nobody {
            return None;
        }
        let batch = take();
        if batch.is_empty() {
            return None;
        }
        state.writing = Writing::Somebody;
        Some(batch)
    }

    /// The batch has been written, or (`owed`) is left to the writer thread.
    pub(super) fn wrote(&self, owed: bool) {
        let mut state = lock(&self.state);
        if !owed {
            self.outbox.keep_taken(0);
        }
        state.writing = if owed { Writing::Owed } else { Writing::Nobody };
        if state.waiters > 0 && (owed || state.reader_waits || self.outbox.len() > 0) {
            self.notify(&state);
        }
    }

    /// Waits until fewer than this many things are queued and the service takes input, or the transport
    /// is over. A connection whose client does not read its acks is not read from either.
    pub(super) fn wait_for_input(&self, items: usize) {
        let mut state = lock(&self.state);
        while !self.has_ended(&state)
            && (self.outbox.len() >= items || self.outbox.is_input_paused())
        {
            state.reader_waits = true;
            state = self.sleep(state, Duration::from_secs(60));
        }
        state.reader_waits = false;
    }

    /// The writer thread's wait: until there is a batch, something owed, or the end; until then,
    /// too, if a Pong is due at some time. Except at the end [`Writer::wrote`] must be called then.
    pub(super) fn wait(&self, max_bytes: usize, pong_at: Option<Instant>) -> Work {
        let mut state = lock(&self.state);
        loop {
            if self.has_ended(&state) {
                return Work::End;
            }
            if state.writing == Writing::Owed {
                state.writing = Writing::Somebody;
                return Work::Owed;
            }
            // Asked before there was nothing to take: what becomes due in between shortens the wait.
            let until_due = self.outbox.until_due();
            if let Some(batch) = self.take_batch(&mut state, || self.outbox.take(max_bytes)) {
                return Work::Batch(batch);
            }
            let mut limit = Duration::from_secs(60);
            if let Some(left) = until_due {
                limit = limit.min(left);
            }
            if let Some(at) = pong_at {
                let left = at.saturating_duration_since(Instant::now());
                if left.is_zero() && state.writing == Writing::Nobody {
                    state.writing = Writing::Somebody;
                    return Work::Pong;
                }
                // The reader is writing, and does not wake this thread when it is through.
                limit = limit.min(left.max(Duration::from_millis(5)));
            }
            if let Some(deadline) = state.deadline {
                limit = limit.min(deadline.saturating_duration_since(Instant::now()));
                if limit.is_zero() {
                    self.outbox.abort(Fate::Cut);
                    continue;
                }
            }
            state = self.sleep(state, limit);
        }
    }

    /// Waits until everything is written or the transport is over, at most that long.
    pub(super) fn wait_idle(&self, limit: Duration) {
        let until = Instant::now() + limit;
        let mut state = lock(&self.state);
        while !self.has_ended(&state) && (state.writing != Writing::Nobody || self.outbox.len() > 0)
        {
            let Some(left) = until.checked_duration_since(Instant::now()) else { break };
            state.reader_waits = true;
            state = self.sleep(state, left);
        }
        state.reader_waits = false;
    }

    /// Whether the time is up in which what ends the transport must be written; it begins with the
    /// first call.
    pub(super) fn is_late(&self, limit: Duration) -> bool {
        let now = Instant::now();
        now >= *lock(&self.state).deadline.get_or_insert(now + limit)
    }

    /// The transport has this long to end by itself; then the writer thread cuts it.
    pub(super) fn limit_life(&self, limit: Duration) {
        let mut state = lock(&self.state);
        state.deadline = Some(Instant::now() + limit);
        self.notify(&state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Frame;

    fn text(s: &str) -> Frame {
        Frame::Text(s.into())
    }

    #[test]
    fn one_writer_at_a_time_and_order_kept() {
        let writer = Writer::new(1, Latency::default());
        writer.outbox.push(Out::Frame(text("a")));
        writer.outbox.push(Out::Frame(text("b")));
        assert_eq!(writer.take(1).unwrap(), [Out::Frame(text("a"))]);
        assert!(writer.take(1).is_none());
        writer.wrote(true);
        assert!(writer.take(1).is_none(), "what is owed goes first");
        assert!(matches!(writer.wait(1, None), Work::Owed));
        assert_eq!(writer.outbox.push(Out::Cut).frames, 2, "what is owed counts as queued");
        writer.wrote(false);
        assert_eq!(writer.outbox.push(Out::Cut).frames, 1);
        assert!(matches!(writer.wait(1, None), Work::Batch(b) if b == [Out::Frame(text("b"))]));
    }

    #[test]
    fn a_due_pong_comes_behind_what_is_queued_and_is_a_write() {
        let writer = Writer::new(1, Latency::default());
        let due = Some(Instant::now());
        writer.outbox.push(Out::Frame(text("a")));
        assert!(matches!(writer.wait(1, due), Work::Batch(_)));
        writer.wrote(false);
        assert!(matches!(writer.wait(1, due), Work::Pong));
        writer.outbox.push(Out::Frame(text("b")));
        assert!(writer.take(1).is_none(), "one writer at a time");
        writer.wrote(false);
        assert!(writer.take(1).is_some());
    }

    #[test]
    fn an_aborted_transport_writes_nothing_more() {
        let writer = Writer::new(1, Latency::default());
        writer.outbox.push(Out::Frame(text("a")));
        writer.outbox.pause_input(true);
        writer.end_now(Fate::Reset);
        assert!(writer.take(1).is_none());
        assert!(matches!(writer.wait(1, None), Work::End));
        writer.wait_for_input(1);
        assert!(writer.is_over());
    }
}
