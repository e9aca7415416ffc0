//! The program's `on_wake` closure: what asks for it, and how the client's thread calls it.

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, ErrorKind, Result};

/// The closure itself; the clones of a builder share it.
pub(super) type OnWake = Arc<dyn Fn() + Send + Sync>;

/// Shared by whoever causes a call of the closure and the reader, which makes it.
pub(crate) struct WakeHook {
    /// Until the client's thread has ended: what it owns must not live as long as a handle.
    closure: Mutex<Option<OnWake>>,
    /// Something has happened since the last call began.
    due: AtomicBool,
    /// The program has looked at a pending call since an outcome last asked for a call.
    looked: AtomicBool,
    /// The closure has panicked, and is not called again.
    broken: AtomicBool,
}

thread_local! {
    static IN_CLOSURE: Cell<bool> = const { Cell::new(false) };
}

/// Refuses a method that blocks if a closure of `on_wake` has called it: it runs on a client's
/// thread, which could not go on meanwhile.
pub(super) fn may_block() -> Result<()> {
    if !IN_CLOSURE.get() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::WouldBlock,
        "this method blocks, and the closure of `on_wake` runs on the client's thread: only wake your \
         event loop in the closure, and call the method from the event loop",
    ))
}

impl WakeHook {
    pub(super) fn new(closure: OnWake) -> Self {
        Self {
            closure: Mutex::new(Some(closure)),
            due: AtomicBool::new(false),
            looked: AtomicBool::new(true),
            broken: AtomicBool::new(false),
        }
    }

    /// Something has happened that the program wants to know of. Any thread; the call follows when
    /// the reader's present round ends.
    pub(super) fn request(&self) {
        // Whoever takes the flag sees what has happened before.
        self.due.store(true, Ordering::Release);
    }

    pub(super) fn is_due(&self) -> bool {
        self.due.load(Ordering::Relaxed)
    }

    /// An outcome is there to be seen. A program looks at all its calls when it is woken, so one
    /// request is enough until it does.
    pub(super) fn outcome(&self) {
        // Read-modify-write here and in `looking`: of the two, one comes later and sees the other.
        // Either the look finds the outcome, or the outcome finds that there was a look.
        if self.looked.swap(false, Ordering::AcqRel) {
            self.request();
        }
    }

    /// Before the program looks at a pending call.
    pub(super) fn looking(&self) {
        self.looked.swap(true, Ordering::AcqRel);
    }

    /// The last call has been made.
    pub(super) fn end(&self) {
        let closure = self.lock().take();
        // Outside the lock: its drop is code of the program.
        drop(closure);
    }

    fn lock(&self) -> MutexGuard<'_, Option<OnWake>> {
        self.closure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the reader, without a lock: calls the closure if that is due. An error: it has panicked.
    pub(super) fn run(&self) -> Result<()> {
        if self.broken.load(Ordering::Relaxed) || !self.due.swap(false, Ordering::Acquire) {
            return Ok(());
        }
        // Called without the lock.
        let Some(closure) = self.lock().clone() else { return Ok(()) };
        IN_CLOSURE.set(true);
        let outcome = catch_unwind(AssertUnwindSafe(|| closure()));
        IN_CLOSURE.set(false);
        outcome.map_err(|_| {
            self.broken.store(true, Ordering::Relaxed);
            Error::new(ErrorKind::Internal, "the closure of `on_wake` panicked")
        })
    }
}

impl fmt::Debug for WakeHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WakeHook").field("due", &self.due).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn counting() -> (WakeHook, Arc<AtomicUsize>) {
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&calls);
        let closure = move || {
            counter.fetch_add(1, Ordering::Relaxed);
        };
        (WakeHook::new(Arc::new(closure)), calls)
    }

    #[test]
    fn it_is_called_once_for_all_that_has_happened_since() {
        let (hook, calls) = counting();
        hook.run().expect("nothing to do");
        hook.request();
        hook.request();
        hook.run().expect("called");
        hook.run().expect("nothing to do");
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn outcomes_ask_once_until_the_program_looks() {
        let (hook, calls) = counting();
        for (looks, expected) in [(false, 1), (false, 1), (true, 2), (false, 2)] {
            if looks {
                hook.looking();
            }
            hook.outcome();
            hook.run().expect("called or not");
            assert_eq!(calls.load(Ordering::Relaxed), expected);
        }
    }

    #[test]
    fn only_inside_the_closure_nothing_may_block_and_after_a_panic_it_is_not_called_again() {
        let hook = WakeHook::new(Arc::new(|| {
            assert_eq!(may_block().expect_err("inside").kind(), ErrorKind::WouldBlock);
            panic!("a bug of the program");
        }));
        hook.request();
        assert_eq!(hook.run().expect_err("panicked").kind(), ErrorKind::Internal);
        may_block().expect("outside");
        hook.request();
        hook.run().expect("not called");
    }
}
