//! What `transport/wait.rs` does with a `WakeFlag` and a descriptor.

use std::sync::PoisonError;

use crate::primitives::{Condvar, Mutex, MutexGuard};
use crate::sync::WakeFlag;

#[derive(Debug)]
pub(crate) struct Waker {
    flag: WakeFlag,
    signal: Mutex<bool>,
    raised: Condvar,
}

impl Waker {
    pub(crate) fn new() -> Self {
        Self { flag: WakeFlag::new(), signal: Mutex::new(false), raised: Condvar::new() }
    }

    fn signal(&self) -> MutexGuard<'_, bool> {
        self.signal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wake(&self) {
        self.flag.raise(|| {
            *self.signal() = true;
            self.raised.notify_all();
        });
    }

    /// A `poll` without a time limit.
    pub(crate) fn wait(&self) {
        let mut signal = self.signal();
        while !*signal {
            signal = self.raised.wait(signal);
        }
        drop(signal);
        assert!(self.flag.take(true, || *self.signal() = false));
    }

    /// A `poll` that ends for another reason: the socket, or its time limit.
    pub(crate) fn look(&self) -> bool {
        let signalled = *self.signal();
        self.flag.take(signalled, || *self.signal() = false)
    }
}
