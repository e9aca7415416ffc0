//! URL to TCP to TLS to WebSocket, and the link that reader and callers share.
//!
//! Invariants: every blocking call here takes a deadline; nothing here logs a URL's query, a
//! header or a frame; nothing here knows of sessions, acks or groups.
//!
//! - [`dial()`] opens a connection: name look-up, TCP, TLS, upgrade; each step has a limit and an
//!   error of its own, and [`Stop`] cuts each of them short.
//! - [`Wire`] is the byte stream before the WebSocket exists.
//! - [`Link`] is the write half, shared by all callers; [`LinkReader`] the read half, owned by the
//!   one reader thread. The socket does not block; [`wait()`] is the one place where a thread waits
//!   for it, and nobody holds a lock across a system call.

mod address;
mod dial;
mod frame;
mod link;
mod options;
mod proxy;
mod reader;
mod stop;
mod target;
pub(crate) mod tls;
mod upgrade;
mod wait;
mod wire;

pub(crate) use address::{Lookup, Resolver};
pub(crate) use dial::dial;
pub(crate) use frame::Op;
#[cfg(feature = "emulator")]
pub(crate) use frame::encode_frame;
#[cfg(feature = "emulator")]
pub(crate) use link::Flushed;
pub(crate) use link::{Link, LinkOptions, Role};
pub(crate) use options::DialOptions;
pub use proxy::Proxy;
pub(crate) use reader::{Incoming, LinkReader, Lost};
pub(crate) use stop::{Helper, HelperError, Stop};
pub(crate) use target::Target;
pub use tls::{Roots, TlsBackend, TlsConfig};
pub(crate) use wait::{Waker, wait};
#[cfg(feature = "emulator")]
pub(crate) use wait::{has_ended, wait_to_read};
#[cfg(feature = "emulator")]
pub(crate) use wire::Wire;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, and goes on after a panic elsewhere: the data behind the locks of this module are byte
/// buffers that are consistent between statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
