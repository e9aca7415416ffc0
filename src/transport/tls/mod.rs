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

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::time::Instant;

use super::wire::read_socket;

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

/// What came is no TLS record, so the peer speaks something else.
#[derive(Debug)]
struct NoTls;

impl fmt::Display for NoTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the first byte from the peer begins no TLS record")
    }
}

impl std::error::Error for NoTls {}

pub(super) fn is_no_tls(e: &io::Error) -> bool {
    e.get_ref().is_some_and(|inner| inner.is::<NoTls>())
}

/// Reads more of a handshake, at least one byte. `first`: of a server that has sent nothing before;
/// the back ends would report a wrong version or a bad record where it speaks no TLS.
#[cfg_attr(not(feature = "_tls"), allow(dead_code))]
fn read_handshake(
    socket: &TcpStream,
    cipher: &mut [u8],
    first: bool,
    deadline: Instant,
) -> io::Result<usize> {
    let n = read_socket(socket, cipher, deadline)?;
    match cipher[..n].first() {
        None => Err(io::ErrorKind::UnexpectedEof.into()),
        // The types of a record, from change_cipher_spec to application_data (RFC 8446 §5.1).
        Some(kind) if first && !matches!(kind, 20..=23) => Err(io::Error::other(NoTls)),
        Some(_) => Ok(n),
    }
}
