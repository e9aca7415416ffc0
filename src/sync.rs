//! The synchronization between threads, without what they exchange: who writes ([`SingleWriter`]),
//! a result that others wait for ([`OneShot`]), a wake-up ([`WakeFlag`]).
//!
//! `ci/interleavings` includes this very file and explores it, so it uses nothing of the crate but
//! `primitives`.

use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::time::Duration;

use super::primitives::{AtomicBool, Condvar, Instant, Mutex, MutexGuard, Ordering, Sender};

/// State that many threads change, and work on it that one thread at a time does without the lock:
/// `W` is what that thread, the writer, works with.
///
/// Whoever changes the state calls [`start`](Self::start) next: either it becomes the writer, or
/// there is one, which looks at the state again before it finishes. A writer that must go earlier
/// leaves the rest to the thread that asks [`rest`](Self::rest), which it must then wake.
#[derive(Debug)]
pub(crate) struct SingleWriter<S, W> {
    shared: Mutex<Shared<S, W>>,
    /// The state changed, or the writer left.
    changed: Condvar,
    /// Something may be left that nobody is writing. Cleared when that turns out to be untrue.
    left: AtomicBool,
}

#[derive(Debug)]
struct Shared<S, W> {
    state: S,
    /// Here only while nobody writes.
    work: Option<W>,
    /// The writer asks to be relieved; `takers` threads wait to do so.
    relief: bool,
    takers: usize,
    /// Threads that wait for a change of the state.
    watchers: usize,
}

/// Holds the lock.
pub(crate) struct Guard<'a, S, W> {
    owner: &'a SingleWriter<S, W>,
    shared: MutexGuard<'a, Shared<S, W>>,
}

impl<S, W> SingleWriter<S, W> {
    pub(crate) fn new(state: S, work: W) -> Self {
        let shared = Shared { state, work: Some(work), relief: false, takers: 0, watchers: 0 };
        Self { shared: Mutex::new(shared), changed: Condvar::new(), left: AtomicBool::new(false) }
    }

    /// Goes on after a panic elsewhere: the state must be consistent between statements.
    pub(crate) fn lock(&self) -> Guard<'_, S, W> {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        Guard { owner: self, shared }
    }

    /// Becomes the writer: at once if there is none, else if the present one asks for relief by the
    /// given instant. The lock comes back in any case.
    pub(crate) fn start(
        &self,
        until: Instant,
        over: impl Fn(&S) -> bool,
    ) -> Result<(Guard<'_, S, W>, W), Guard<'_, S, W>> {
        let mut guard = self.lock();
        loop {
            if over(&guard) {
                return Err(guard);
            }
            if let Some(work) = guard.shared.work.take() {
                return Ok((guard, work));
            }
            if !guard.shared.relief {
                return Err(guard);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(guard);
            }
            guard.shared.takers += 1;
            guard = guard.wait(left);
            guard.shared.takers -= 1;
        }
    }

    /// The next [`rest`](Self::rest) looks.
    pub(crate) fn note_rest(&self) {
        self.left.store(true, Ordering::SeqCst);
    }

    /// What `look` finds left, if nobody is writing it.
    pub(crate) fn rest<R>(&self, look: impl FnOnce(&S, &W) -> Option<R>) -> Option<R> {
        // It is asked before each wait, so the usual answer takes no lock.
        if !self.left.load(Ordering::SeqCst) {
            return None;
        }
        let Guard { shared, .. } = self.lock();
        let found = shared.work.as_ref().and_then(|work| look(&shared.state, work));
        if found.is_none() {
            // Under the lock: who leaves a rest raises the flag under it too.
            self.left.store(false, Ordering::SeqCst);
        }
        found
    }
}

impl<S, W> Guard<'_, S, W> {
    /// Nobody writes.
    pub(crate) fn is_idle(&self) -> bool {
        self.shared.work.is_some()
    }

    /// For the writer: lets another thread take over, or takes that back.
    pub(crate) fn set_relief(&mut self, wanted: bool) {
        self.shared.relief = wanted;
    }

    /// For the writer: it has asked for relief, and a thread waits to take over.
    pub(crate) fn has_relief(&self) -> bool {
        self.shared.relief && self.shared.takers > 0
    }

    /// No longer the writer: nothing is left.
    pub(crate) fn finish(self, work: W) {
        self.owner.left.store(false, Ordering::SeqCst);
        self.give_back(work);
    }

    /// No longer the writer: there is a rest. The thread that asks for it must be woken next.
    pub(crate) fn leave_rest(self, work: W) {
        self.owner.note_rest();
        self.give_back(work);
    }

    /// No longer the writer: a thread waits to take over, or nobody need.
    pub(crate) fn give_back(mut self, work: W) {
        self.shared.work = Some(work);
        self.shared.relief = false;
        self.notify();
    }

    /// Wakes those who wait, if any do: each notification is a system call.
    pub(crate) fn notify(&self) {
        if self.shared.takers > 0 || self.shared.watchers > 0 {
            self.owner.changed.notify_all();
        }
    }

    /// Waits until the state may have changed or the writer left.
    pub(crate) fn wait_for_change(mut self, left: Duration) -> Self {
        self.shared.watchers += 1;
        let mut guard = self.wait(left);
        guard.shared.watchers -= 1;
        guard
    }

    fn wait(self, left: Duration) -> Self {
        let Self { owner, shared } = self;
        let woken = owner.changed.wait_timeout(shared, left);
        Self { owner, shared: woken.unwrap_or_else(PoisonError::into_inner).0 }
    }
}

impl<S, W> Deref for Guard<'_, S, W> {
    type Target = S;
    fn deref(&self) -> &S {
        &self.shared.state
    }
}

impl<S, W> DerefMut for Guard<'_, S, W> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.shared.state
    }
}

/// A result that is set once, for threads that wait and for a channel. A wake-up only for who waits.
#[derive(Debug)]
pub(crate) struct OneShot<T> {
    state: Mutex<OneShotState<T>>,
    set: Condvar,
}

#[derive(Debug)]
struct OneShotState<T> {
    value: Option<T>,
    /// How many threads wait.
    waiting: usize,
    channel: Option<Sender<T>>,
}

impl<T: Clone> OneShot<T> {
    pub(crate) fn new() -> Self {
        let state = OneShotState { value: None, waiting: 0, channel: None };
        Self { state: Mutex::new(state), set: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, OneShotState<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self) -> Option<T> {
        self.lock().value.clone()
    }

    /// The first value stays.
    pub(crate) fn set(&self, value: T) {
        let mut state = self.lock();
        if state.value.is_some() {
            return;
        }
        if let Some(channel) = state.channel.take() {
            let _ = channel.try_send(value.clone());
        }
        state.value = Some(value);
        let any_waits = state.waiting > 0;
        // First the lock: who is woken needs it.
        drop(state);
        if any_waits {
            self.set.notify_all();
        }
    }

    /// `None` if the time is up before the value is known.
    pub(crate) fn wait_until(&self, until: Instant) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(value) = &state.value {
                return Some(value.clone());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            state.waiting += 1;
            state = self.set.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
        }
    }

    /// The value goes to this channel once. A later channel takes the place of an earlier one.
    pub(crate) fn send_to(&self, channel: Sender<T>) {
        let mut state = self.lock();
        match &state.value {
            Some(value) => drop(channel.try_send(value.clone())),
            None => state.channel = Some(channel),
        }
    }
}

/// Says whether the signal that wakes a thread is raised and not yet taken, so that a second
/// wake-up costs no system call.
#[derive(Debug)]
pub(crate) struct WakeFlag(AtomicBool);

impl WakeFlag {
    pub(crate) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// What was stored before this call is seen by the woken thread.
    pub(crate) fn raise(&self, raise_signal: impl FnOnce()) {
        if !self.0.swap(true, Ordering::AcqRel) {
            raise_signal();
        }
    }

    pub(crate) fn is_raised(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// For the thread that waits, after its wait (which has seen the signal or not): takes the
    /// wake-up, if there is one. The caller looks at everything next.
    pub(crate) fn take(&self, signalled: bool, clear_signal: impl FnOnce()) -> bool {
        // Raised since: the caller need not wait once more for it.
        if !signalled && !self.is_raised() {
            return false;
        }
        // In this order, or a signal raised in between would be cleared while the flag stays up,
        // and no later wake-up would ever come. As it is, a wake-up in between is seen by the
        // caller, and a signal raised late, with the flag down, ends one wait too many.
        clear_signal();
        self.0.swap(false, Ordering::AcqRel);
        true
    }
}
