//! The platform's TLS, by native-tls.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use native_tls::{
    Certificate, HandshakeError, Identity, MidHandshakeTlsStream, Protocol, TlsConnector, TlsStream,
};

use super::super::wire::{Wire, chunk};
use super::config::{Roots, Settings, bad_identity, bad_root};
use super::{Engine, read_handshake};
use crate::error::{Error, Result};

pub(super) fn connector(settings: &Settings) -> Result<TlsConnector> {
    let mut builder = TlsConnector::builder();
    builder.min_protocol_version(Some(Protocol::Tlsv12));
    match settings.roots {
        Roots::Platform => {}
        Roots::AddedOnly => drop(builder.disable_built_in_roots(true)),
        Roots::Bundled => {
            return Err(Error::config(
                "`TlsConfig::roots`: `Roots::Bundled` needs the back end rustls",
            ));
        }
    }
    for pem in &settings.added {
        for certificate in bundle(pem).map_err(|e| bad_root().with_source(e))? {
            builder.add_root_certificate(certificate);
        }
    }
    if let Some((chain, key)) = &settings.identity {
        let identity = Identity::from_pkcs8(chain.as_bytes(), key.expose().as_bytes());
        builder.identity(identity.map_err(|_| bad_identity())?);
    }
    if settings.accept_invalid {
        builder.danger_accept_invalid_certs(true).danger_accept_invalid_hostnames(true);
    }
    builder.build().map_err(|e| Error::config("the TLS library could not be set up").with_source(e))
}

/// All certificates of a PEM text; native-tls itself reads the first one only.
fn bundle(pem: &str) -> std::result::Result<Vec<Certificate>, native_tls::Error> {
    const END: &str = "-----END CERTIFICATE-----";
    let mut all = Vec::new();
    let mut rest = pem;
    while let Some(end) = rest.find(END) {
        let (one, after) = rest.split_at(end + END.len());
        all.push(Certificate::from_pem(one.as_bytes())?);
        rest = after;
    }
    if all.is_empty() {
        // For its error.
        all.push(Certificate::from_pem(pem.as_bytes())?);
    }
    Ok(all)
}

/// The two memory buffers under a TLS stream.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    input: Vec<u8>,
    taken: usize,
    ended: bool,
    output: Vec<u8>,
}

impl Pipe {
    /// Nothing can be read before more is fed.
    fn is_empty(&self) -> bool {
        self.taken == self.input.len() && !self.ended
    }

    fn feed(&mut self, cipher: &[u8]) {
        self.ended |= cipher.is_empty();
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

/// An established TLS stream over a [`Pipe`].
#[derive(Debug)]
pub(crate) struct Stream(Box<TlsStream<Pipe>>);

impl Stream {
    pub(super) fn feed(&mut self, cipher: &[u8]) {
        self.0.get_mut().feed(cipher);
    }

    pub(super) fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // OpenSSL would find out the same, at the price of an error with a history. (Others may
        // hold records that they have taken and not decrypted yet.)
        if cfg!(not(any(windows, target_vendor = "apple")))
            && self.0.get_ref().is_empty()
            && self.0.buffered_read_size().is_ok_and(|n| n == 0)
        {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.0.read(buf)
    }

    pub(super) fn write(&mut self, plain: &[u8]) -> io::Result<usize> {
        self.0.write(plain)
    }

    pub(super) fn close_notify(&mut self) {
        // Over memory it can only say that the peer's alert is still missing.
        drop(self.0.shutdown());
    }

    pub(super) fn has_output(&mut self) -> bool {
        !self.0.get_ref().output.is_empty()
    }

    pub(super) fn take_output(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        out.append(&mut self.0.get_mut().output);
        Ok(())
    }
}

pub(super) fn connect(
    connector: &TlsConnector,
    host: &str,
    socket: TcpStream,
    deadline: Instant,
) -> io::Result<Wire> {
    handshake(connector.connect(host, Pipe::default()), socket, true, deadline)
}

/// The server's side of the handshake.
#[cfg(all(feature = "emulator", not(feature = "rustls")))]
pub(crate) fn accept(
    acceptor: &native_tls::TlsAcceptor,
    socket: TcpStream,
    deadline: Instant,
) -> io::Result<Wire> {
    handshake(acceptor.accept(Pipe::default()), socket, false, deadline)
}

type Step = std::result::Result<TlsStream<Pipe>, HandshakeError<Pipe>>;

/// `first`: the first bytes from the peer are still to be looked at.
fn handshake(
    mut step: Step,
    socket: TcpStream,
    mut first: bool,
    deadline: Instant,
) -> io::Result<Wire> {
    let mut cipher = chunk();
    // For the handshake's own bytes.
    let mut plain = Wire::plain(socket.try_clone()?);
    loop {
        let mut mid: MidHandshakeTlsStream<Pipe> = match step {
            Ok(stream) => {
                let engine = Engine::Native(Stream(Box::new(stream)));
                let mut wire = Wire { socket, tls: Some(engine) };
                // The last flight of the handshake is still in the output buffer.
                wire.write_all(&[], deadline)?;
                return Ok(wire);
            }
            Err(HandshakeError::Failure(e)) => return Err(io::Error::other(e)),
            Err(HandshakeError::WouldBlock(mid)) => mid,
        };
        let out = std::mem::take(&mut mid.get_mut().output);
        plain.write_all(&out, deadline)?;
        let n = read_handshake(&socket, &mut cipher, first, deadline)?;
        first = false;
        mid.get_mut().feed(&cipher[..n]);
        step = mid.handshake();
    }
}
