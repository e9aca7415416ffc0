//! TLS over memory buffers: a state machine that is fed ciphertext and returns ciphertext.
//!
//! A TLS stream over a socket can be neither split nor shared with a blocked reader. Over two
//! buffers it needs no socket at all, so its lock is held only to encrypt or to decrypt. Both back
//! ends are driven the same way.

mod config;
#[cfg(feature = "native-tls")]
pub(crate) mod native;
#[cfg(feature = "rustls")]
pub(crate) mod rustls;

pub use config::{Roots, TlsBackend, TlsConfig};

use std::io;

/// The TLS state of one connection.
#[derive(Debug)]
pub(crate) enum Engine {
    #[cfg(feature = "native-tls")]
    Native(native::Stream),
    #[cfg(feature = "rustls")]
    Rustls(Box<rustls::Stream>),
}

/// Hands a call to the back end. Without one the enum is empty and no value of it can exist.
macro_rules! to_backend {
    ($engine:expr, $stream:ident => $call:expr) => {
        match *$engine {
            #[cfg(feature = "native-tls")]
            Engine::Native(ref mut $stream) => $call,
            #[cfg(feature = "rustls")]
            Engine::Rustls(ref mut $stream) => $call,
        }
    };
}

#[cfg_attr(not(feature = "_tls"), allow(unused_variables, clippy::ptr_arg))]
impl Engine {
    /// Hands over ciphertext from the socket; nothing: the socket ended.
    pub(super) fn feed(&mut self, cipher: &[u8]) {
        to_backend!(self, s => s.feed(cipher))
    }

    /// Plaintext; `WouldBlock` if more ciphertext is needed.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        to_backend!(self, s => s.read(buf))
    }

    /// Encrypts into the output buffer. Returns how much was taken.
    pub(super) fn write(&mut self, plain: &[u8]) -> io::Result<usize> {
        to_backend!(self, s => s.write(plain))
    }

    /// Queues the `close_notify` alert.
    pub(super) fn close_notify(&mut self) {
        to_backend!(self, s => s.close_notify())
    }

    pub(super) fn has_output(&mut self) -> bool {
        to_backend!(self, s => s.has_output())
    }

    /// Appends the pending ciphertext to `out`.
    pub(super) fn take_output(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        to_backend!(self, s => s.take_output(out))
    }
}
