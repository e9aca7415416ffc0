//! TLS over memory buffers: a state machine that is fed ciphertext and returns ciphertext.
//!
//! A TLS stream over a socket can be neither split nor shared with a blocked reader. Over two
//! buffers it needs no socket at all, so its lock is held only to encrypt or to decrypt. Both back
//! ends are driven the same way.

#[cfg(feature = "native-tls")]
pub(crate) mod native;
#[cfg(feature = "rustls")]
pub(crate) mod rustls;

use std::io;
use std::net::TcpStream;
use std::sync::Mutex;
use std::time::Instant;

use super::lock;
use super::wire::Wire;
use crate::error::{Error, Result};
use crate::secret::Secret;

/// The TLS implementation of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsBackend {
    /// The platform's own: OpenSSL on Linux, SChannel on Windows, Secure Transport on macOS.
    #[cfg(feature = "native-tls")]
    NativeTls,
    /// rustls with the ring provider, chosen explicitly: other providers in the program's tree do
    /// not matter.
    #[cfg(feature = "rustls")]
    Rustls,
}

impl TlsBackend {
    /// With both, the default feature's back end is the default.
    fn usual() -> Option<Self> {
        #[cfg(feature = "native-tls")]
        return Some(Self::NativeTls);
        #[cfg(all(feature = "rustls", not(feature = "native-tls")))]
        return Some(Self::Rustls);
        #[cfg(not(feature = "_tls"))]
        None
    }
}

/// A certificate as the program gave it; parsed when the client is built.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(not(feature = "_tls"), allow(dead_code))]
pub(crate) enum Root {
    Pem(String),
    Der(Vec<u8>),
}

/// What the program chose.
#[derive(Debug, Clone, Default, PartialEq)]
#[cfg_attr(not(feature = "_tls"), allow(dead_code))]
pub(crate) struct TlsOptions {
    pub(crate) backend: Option<TlsBackend>,
    pub(crate) roots: Vec<Root>,
    /// Certificate chain and PKCS#8 key, both PEM.
    pub(crate) identity: Option<(String, Secret)>,
    pub(crate) bundled_roots: bool,
    pub(crate) accept_invalid: bool,
}

/// The connectors made last, with what they were made from. Loading the platform's trust store
/// takes some 30 ms and 1 MB, so clients with the same options share one.
static MADE: Mutex<Vec<(TlsOptions, Connector)>> = Mutex::new(Vec::new());
const MADE_KEPT: usize = 8;

impl TlsOptions {
    /// Parses what the program gave. Where it gave nothing there is nothing to get wrong, and the
    /// trust store is loaded by the first `wss` connection only.
    pub(crate) fn connector(&self) -> Result<Connector> {
        if *self == Self::default() {
            return Ok(Connector::Usual);
        }
        self.shared()
    }

    fn shared(&self) -> Result<Connector> {
        let mut made = lock(&MADE);
        if let Some((_, connector)) = made.iter().find(|(options, _)| options == self) {
            return Ok(connector.clone());
        }
        let connector = self.make()?;
        if made.len() >= MADE_KEPT {
            made.remove(0);
        }
        made.push((self.clone(), connector.clone()));
        Ok(connector)
    }

    fn make(&self) -> Result<Connector> {
        match self.backend.or(TlsBackend::usual()) {
            #[cfg(feature = "native-tls")]
            Some(TlsBackend::NativeTls) => native::connector(self).map(Connector::Native),
            #[cfg(feature = "rustls")]
            Some(TlsBackend::Rustls) => rustls::connector(self).map(Connector::Rustls),
            #[allow(unreachable_patterns)] // which patterns are left depends on the features
            _ => self.without_tls(),
        }
    }

    fn without_tls(&self) -> Result<Connector> {
        if *self != Self::default() {
            return Err(Error::config(
                "certificates need TLS, but this build of webpubsub has none; enable the feature \
                 `native-tls` or `rustls`",
            ));
        }
        Err(Error::config("this build of webpubsub has no TLS"))
    }
}

/// What opens the client's side of TLS.
#[derive(Clone)]
pub(crate) enum Connector {
    /// That of the default options, made when it is first needed.
    Usual,
    #[cfg(feature = "native-tls")]
    Native(native_tls::TlsConnector),
    #[cfg(feature = "rustls")]
    Rustls(std::sync::Arc<::rustls::ClientConfig>),
}

impl Connector {
    /// The client's side of the handshake.
    #[cfg_attr(not(feature = "_tls"), allow(clippy::only_used_in_recursion))]
    pub(super) fn connect(
        &self,
        host: &str,
        socket: TcpStream,
        deadline: Instant,
    ) -> io::Result<Wire> {
        match self {
            Self::Usual => TlsOptions::default()
                .shared()
                .map_err(io::Error::other)?
                .connect(host, socket, deadline),
            #[cfg(feature = "native-tls")]
            Self::Native(connector) => native::connect(connector, host, socket, deadline),
            #[cfg(feature = "rustls")]
            Self::Rustls(config) => rustls::connect(config, host, socket, deadline),
        }
    }
}

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
