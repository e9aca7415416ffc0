//! TLS over memory buffers: a state machine that is fed ciphertext and gives ciphertext.
//!
//! A TLS stream over a socket can be neither split nor shared with a blocked reader. Over two
//! buffers it needs no socket at all, so its lock is held only to encrypt or to decrypt.

#[cfg(feature = "native-tls")]
pub(crate) use native::*;
use std::io;

/// The TLS state of one connection.
#[derive(Debug)]
pub(crate) enum Engine {
    #[cfg(feature = "native-tls")]
    Native(Box<::native_tls::TlsStream<Pipe>>),
}

/// Without a TLS feature the enum is empty and no value of it can exist, so each method matches on
/// a place of an uninhabited type.
#[cfg_attr(not(feature = "native-tls"), allow(unused_variables))]
impl Engine {
    /// Hands over ciphertext from the socket.
    pub(super) fn feed(&mut self, cipher: &[u8]) {
        match *self {
            #[cfg(feature = "native-tls")]
            Self::Native(ref mut s) => s.get_mut().feed(cipher),
        }
    }

    /// The socket ended.
    pub(super) fn feed_eof(&mut self) {
        match *self {
            #[cfg(feature = "native-tls")]
            Self::Native(ref mut s) => s.get_mut().ended = true,
        }
    }

    /// Plaintext; `WouldBlock` if more ciphertext is needed.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match *self {
            #[cfg(feature = "native-tls")]
            Self::Native(ref mut s) => io::Read::read(s, buf),
        }
    }

    /// Encrypts into the output buffer.
    pub(super) fn write_all(&mut self, plain: &[u8]) -> io::Result<()> {
        match *self {
            #[cfg(feature = "native-tls")]
            Self::Native(ref mut s) => io::Write::write_all(s, plain),
        }
    }

    /// Queues the `close_notify` alert.
    pub(super) fn close_notify(&mut self) {
        match *self {
            #[cfg(feature = "native-tls")]
            // Over memory it can only say that the peer's alert is still missing.
            Self::Native(ref mut s) => drop(s.shutdown()),
        }
    }

    pub(super) fn has_output(&self) -> bool {
        match *self {
            #[cfg(feature = "native-tls")]
            Self::Native(ref s) => !s.get_ref().output.is_empty(),
        }
    }

    /// Appends the pending ciphertext to `out`.
    pub(super) fn take_output(&mut self, out: &mut Vec<u8>) {
        match *self {
            #[cfg(feature = "native-tls")]
            Self::Native(ref mut s) => out.append(&mut s.get_mut().output),
        }
    }
}

#[cfg(feature = "native-tls")]
mod native {
    use super::Engine;
    use crate::transport::Wire;
    use crate::transport::wire::{CHUNK, read_socket};
    use native_tls::{HandshakeError, MidHandshakeTlsStream, TlsAcceptor, TlsConnector, TlsStream};
    use std::io::{self, ErrorKind, Read, Write};
    use std::net::TcpStream;
    use std::time::Instant;

    /// The two memory buffers under a TLS stream.
    #[derive(Debug, Default)]
    pub(crate) struct Pipe {
        input: Vec<u8>,
        taken: usize,
        pub(super) ended: bool,
        pub(super) output: Vec<u8>,
    }

    impl Pipe {
        pub(super) fn feed(&mut self, cipher: &[u8]) {
            if self.taken == self.input.len() {
                self.input.clear();
                self.taken = 0;
            }
            self.input.extend_from_slice(cipher);
        }
    }

    impl Read for Pipe {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let left = &self.input[self.taken..];
            if left.is_empty() {
                return if self.ended { Ok(0) } else { Err(ErrorKind::WouldBlock.into()) };
            }
            let n = left.len().min(buf.len());
            buf[..n].copy_from_slice(&left[..n]);
            self.taken += n;
            Ok(n)
        }
    }

    impl Write for Pipe {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.output.extend_from_slice(buf);
            Ok(buf.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The client's side of the handshake.
    pub(crate) fn connect(
        connector: &TlsConnector,
        host: &str,
        socket: TcpStream,
        deadline: Instant,
    ) -> io::Result<Wire> {
        handshake(connector.connect(host, Pipe::default()), socket, deadline)
    }

    /// The server's side of the handshake.
    #[cfg(feature = "emulator")]
    pub(crate) fn accept(
        acceptor: &TlsAcceptor,
        socket: TcpStream,
        deadline: Instant,
    ) -> io::Result<Wire> {
        handshake(acceptor.accept(Pipe::default()), socket, deadline)
    }

    #[cfg(not(feature = "emulator"))]
    const _: Option<TlsAcceptor> = None;

    type Step = Result<TlsStream<Pipe>, HandshakeError<Pipe>>;

    fn handshake(mut step: Step, socket: TcpStream, deadline: Instant) -> io::Result<Wire> {
        let mut cipher = [0; CHUNK];
        loop {
            let mut mid: MidHandshakeTlsStream<Pipe> = match step {
                Ok(stream) => {
                    let mut wire = Wire { socket, tls: Some(Engine::Native(Box::new(stream))) };
                    // The last flight of the handshake is still in the output buffer.
                    wire.write_all(&[], deadline)?;
                    return Ok(wire);
                }
                Err(HandshakeError::Failure(e)) => return Err(io::Error::other(e)),
                Err(HandshakeError::WouldBlock(mid)) => mid,
            };
            let mut out = std::mem::take(&mut mid.get_mut().output);
            let mut plain = Wire::plain(socket.try_clone()?);
            plain.write_all(&out, deadline)?;
            out.clear();
            mid.get_mut().output = out;
            match read_socket(&socket, &mut cipher, deadline)? {
                0 => mid.get_mut().ended = true,
                n => mid.get_mut().feed(&cipher[..n]),
            }
            step = mid.handshake();
        }
    }
}
