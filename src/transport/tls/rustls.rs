//! rustls, which is a state machine over memory by itself.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, Connection, DigitallySignedStruct, SignatureScheme};

use super::super::wire::{Wire, chunk, read_socket, write_socket};
use super::{Engine, Root, TlsOptions};
use crate::error::{Error, Result};

/// Named here, so that it does not matter what else is in the program's tree.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(super) fn connector(options: &TlsOptions) -> Result<Arc<ClientConfig>> {
    let setup =
        |e: rustls::Error| Error::config("the TLS library could not be set up").with_source(e);
    let roots = roots(&options.roots)?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(setup)?;
    let builder = if options.accept_invalid {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAll(provider())))
    } else if options.bundled_roots {
        builder.with_root_certificates(bundled(roots)?)
    } else {
        let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(roots, provider())
            .map_err(setup)?;
        builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
    };
    let config = match &options.identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            // No source: a parser's error could quote the key.
            let bad = || {
                Error::config(
                    "`client_certificate`: a PEM certificate chain and its PKCS#8 PEM key are \
                     needed",
                )
            };
            let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes())
                .collect::<std::result::Result<_, _>>()
                .map_err(|_| bad())?;
            let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).map_err(|_| bad())?;
            builder.with_client_auth_cert(chain, key).map_err(|_| bad())?
        }
    };
    Ok(Arc::new(config))
}

fn roots(roots: &[Root]) -> Result<Vec<CertificateDer<'static>>> {
    let mut all = Vec::new();
    let bad = || Error::config("`root_certificate`: this is not a certificate in the form it says");
    for root in roots {
        match root {
            Root::Der(der) => all.push(CertificateDer::from(der.clone())),
            Root::Pem(pem) => {
                let before = all.len();
                for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                    all.push(certificate.map_err(|e| bad().with_source(e))?);
                }
                if all.len() == before {
                    return Err(bad());
                }
            }
        }
    }
    // What is not a certificate at all is found here and not at the first handshake.
    let mut store = rustls::RootCertStore::empty();
    for certificate in &all {
        store.add(certificate.clone()).map_err(|e| bad().with_source(e))?;
    }
    Ok(all)
}

#[cfg(feature = "rustls-bundled-roots")]
fn bundled(extra: Vec<CertificateDer<'static>>) -> Result<rustls::RootCertStore> {
    let mut store = rustls::RootCertStore::empty();
    store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    store.add_parsable_certificates(extra);
    Ok(store)
}

#[cfg(not(feature = "rustls-bundled-roots"))]
fn bundled(_: Vec<CertificateDer<'static>>) -> Result<rustls::RootCertStore> {
    Err(Error::config("`bundled_roots` needs the feature `rustls-bundled-roots`"))
}

/// An established (or beginning) TLS connection and the ciphertext that it has not taken yet.
#[derive(Debug)]
pub(crate) struct Stream {
    connection: Connection,
    input: Vec<u8>,
    taken: usize,
    ended: bool,
}

impl Stream {
    fn new(mut connection: Connection) -> Self {
        // Our out-buffer bounds what is under way; a second bound would only cut writes short.
        connection.set_buffer_limit(None);
        Self { connection, input: Vec::new(), taken: 0, ended: false }
    }

    pub(super) fn feed(&mut self, cipher: &[u8]) {
        self.ended |= cipher.is_empty();
        if self.taken == self.input.len() {
            self.input.clear();
            self.taken = 0;
        }
        self.input.extend_from_slice(cipher);
    }

    /// Lets the state machine take some input; false if there is none.
    fn take_input(&mut self) -> io::Result<bool> {
        let mut left = &self.input[self.taken..];
        if left.is_empty() && !self.ended {
            return Ok(false);
        }
        let before = left.len();
        self.connection.read_tls(&mut left)?;
        self.taken += before - left.len();
        self.connection.process_new_packets().map_err(io::Error::other)?;
        Ok(true)
    }

    pub(super) fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.reader().read(buf) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                done => return done,
            }
            if !self.take_input()? {
                return Err(ErrorKind::WouldBlock.into());
            }
        }
    }

    pub(super) fn write(&mut self, plain: &[u8]) -> io::Result<usize> {
        self.connection.writer().write(plain)
    }

    pub(super) fn close_notify(&mut self) {
        self.connection.send_close_notify();
    }

    pub(super) fn has_output(&mut self) -> bool {
        self.connection.wants_write()
    }

    pub(super) fn take_output(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(out)?;
        }
        Ok(())
    }
}

pub(super) fn connect(
    config: &Arc<ClientConfig>,
    host: &str,
    socket: TcpStream,
    deadline: Instant,
) -> io::Result<Wire> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let connection = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    handshake(connection.into(), socket, deadline)
}

/// The server's side of the handshake.
#[cfg(feature = "emulator")]
pub(crate) fn accept(
    config: &Arc<rustls::ServerConfig>,
    socket: TcpStream,
    deadline: Instant,
) -> io::Result<Wire> {
    let connection = rustls::ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
    handshake(connection.into(), socket, deadline)
}

fn handshake(connection: Connection, socket: TcpStream, deadline: Instant) -> io::Result<Wire> {
    let mut stream = Stream::new(connection);
    let mut cipher = chunk();
    let outcome = loop {
        write_out(&socket, &mut stream, deadline)?;
        if !stream.connection.is_handshaking() {
            break Ok(());
        }
        match stream.take_input() {
            Ok(true) => continue,
            Ok(false) => {}
            Err(e) => break Err(e),
        }
        match read_socket(&socket, &mut cipher, deadline)? {
            0 => break Err(ErrorKind::UnexpectedEof.into()),
            n => stream.feed(&cipher[..n]),
        }
    };
    // The last flight, or the alert that tells the peer why.
    let written = write_out(&socket, &mut stream, deadline);
    outcome.and(written)?;
    Ok(Wire { socket, tls: Some(Engine::Rustls(Box::new(stream))) })
}

fn write_out(socket: &TcpStream, stream: &mut Stream, deadline: Instant) -> io::Result<()> {
    let mut out = Vec::new();
    stream.take_output(&mut out)?;
    write_socket(socket, &out, deadline)
}

/// For the switch with the ugly name.
#[derive(Debug)]
struct AcceptAll(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
