//! The doubles that `sync` is explored with: loom's types, and a clock that a model sets.

use std::sync::{Arc, LockResult, PoisonError};
use std::time::Duration;

pub(crate) use loom::sync::atomic::{AtomicBool, Ordering};

loom::lazy_static! {
    static ref TIME_IS_UP: AtomicBool = AtomicBool::new(false);
}

/// A clock of two states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(u64);

impl Instant {
    /// It has passed from the start.
    pub(crate) const PAST: Self = Self(0);
    /// It passes when the model says so.
    pub(crate) const SOON: Self = Self(1);
    /// It never passes.
    pub(crate) const NEVER: Self = Self(1000);

    pub(crate) fn now() -> Self {
        Self(u64::from(TIME_IS_UP.load(Ordering::SeqCst)))
    }

    pub(crate) fn pass() {
        TIME_IS_UP.store(true, Ordering::SeqCst);
    }

    pub(crate) fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }
}

#[derive(Debug)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    guard: loom::sync::MutexGuard<'a, T>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        let guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(MutexGuard { mutex: self, guard })
    }
}

impl<T> std::ops::Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> std::ops::DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

#[derive(Debug)]
pub(crate) struct Condvar(loom::sync::Condvar);

impl Condvar {
    pub(crate) fn new() -> Self {
        Self(loom::sync::Condvar::new())
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        let MutexGuard { mutex, guard } = guard;
        let guard = self.0.wait(guard).unwrap_or_else(PoisonError::into_inner);
        MutexGuard { mutex, guard }
    }

    /// Times out at once, but with the lock free meanwhile, or never: loom's own never does.
    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        left: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, ())> {
        let soon = left <= Duration::from_secs(1);
        if soon && Instant::now() >= Instant::SOON {
            let mutex = guard.mutex;
            drop(guard);
            loom::thread::yield_now();
            let guard = mutex.lock().unwrap_or_else(PoisonError::into_inner);
            return Ok((guard, ()));
        }
        Ok((self.wait(guard), ()))
    }
}

/// Keeps all that is sent, for the model to look at in the end.
#[derive(Debug, Clone)]
pub(crate) struct Sender<T>(Arc<std::sync::Mutex<Vec<T>>>);

impl<T: Clone> Sender<T> {
    pub(crate) fn new() -> Self {
        Self(Arc::new(std::sync::Mutex::new(Vec::new())))
    }

    pub(crate) fn sent(&self) -> Vec<T> {
        self.0.lock().expect("no panic").clone()
    }

    pub(crate) fn try_send(&self, value: T) -> Result<(), T> {
        self.0.lock().expect("no panic").push(value);
        Ok(())
    }
}
