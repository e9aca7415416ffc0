//! What [`sync`](crate::sync) is made of. `ci/interleavings` puts doubles in its place.

pub(crate) use std::sync::atomic::{AtomicBool, Ordering};
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
pub(crate) use std::time::Instant;

pub(crate) use crossbeam_channel::Sender;
