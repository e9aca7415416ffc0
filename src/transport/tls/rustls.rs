//! rustls, which is a state machine over memory by itself.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
};

use super::super::wire::{CHUNK, Wire, chunk, write_socket};
use super::config::{Roots, Settings, bad_identity, bad_root};
use super::{Engine, read_handshake};
use crate::error::{Error, Result};

/// Named here, so that it does not matter what else is in the program's tree.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(super) fn connector(settings: &Settings) -> Result<Arc<ClientConfig>> {
    let setup =
        |e: rustls::Error| Error::config("the TLS library could not be set up").with_source(e);
    let added = certificates(&settings.added)?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(setup)?;
    let builder = match settings.roots {
        _ if settings.accept_invalid => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAll(provider())))
        }
        Roots::Platform => {
            let verifier =
                rustls_platform_verifier::Verifier::new_with_extra_roots(added, provider())
                    .map_err(setup)?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
        Roots::Bundled => builder.with_root_certificates(store(bundled()?, added)?),
        Roots::AddedOnly => builder.with_root_certificates(store(RootCertStore::empty(), added)?),
    };
    let config = match &settings.identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes())
                .collect::<std::result::Result<_, _>>()
                .map_err(|_| bad_identity())?;
            let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes());
            let key = key.map_err(|_| bad_identity())?;
            builder.with_client_auth_cert(chain, key).map_err(|_| bad_identity())?
        }
    };
    Ok(Arc::new(config))
}

/// The certificates that the program has added. What is none at all is found here and not at the
/// first handshake.
fn certificates(added: &[String]) -> Result<Vec<CertificateDer<'static>>> {
    let mut all = Vec::new();
    for pem in added {
        let before = all.len();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            all.push(certificate.map_err(|e| bad_root().with_source(e))?);
        }
        if all.len() == before {
            return Err(bad_root());
        }
    }
    store(RootCertStore::empty(), all.clone())?;
    Ok(all)
}

fn store(mut store: RootCertStore, added: Vec<CertificateDer<'static>>) -> Result<RootCertStore> {
    for certificate in added {
        store.add(certificate).map_err(|e| bad_root().with_source(e))?;
    }
    Ok(store)
}

#[cfg(feature = "rustls-bundled-roots")]
fn bundled() -> Result<RootCertStore> {
    Ok(webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect())
}

#[cfg(not(feature = "rustls-bundled-roots"))]
fn bundled() -> Result<RootCertStore> {
    Err(Error::config(
        "`TlsConfig::roots`: `Roots::Bundled` needs the feature `rustls-bundled-roots`",
    ))
}

/// An established (or beginning) TLS connection and the ciphertext that it has not taken yet.
#[derive(Debug)]
pub(crate) struct Stream {
    connection: Connection,
    input: Vec<u8>,
    taken: usize,
    ended: bool,
    /// How many records the plaintext that the engine took since the last output must become.
    owed: usize,
}

impl Stream {
    fn new(mut connection: Connection) -> Self {
        // Our out-buffer bounds what is under way; a second bound would only cut writes short.
        connection.set_buffer_limit(None);
        Self { connection, input: Vec::new(), taken: 0, ended: false, owed: 0 }
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
        let n = self.connection.writer().write(plain)?;
        self.owed += n.div_ceil(CHUNK);
        Ok(n)
    }

    pub(super) fn close_notify(&mut self) {
        self.connection.send_close_notify();
    }

    pub(super) fn has_output(&mut self) -> bool {
        self.connection.wants_write()
    }

    pub(super) fn take_output(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        let before = out.len();
        while self.connection.wants_write() {
            self.connection.write_tls(out)?;
        }
        // Past the record limit of its keys, TLS 1.2 cannot change them. rustls then queues a
        // `close_notify`, and takes and drops all further plaintext without an error.
        if std::mem::take(&mut self.owed) > data_records(&out[before..]) {
            return Err(io::Error::other(
                "the TLS connection is at the record limit of its keys; it takes no more data",
            ));
        }
        Ok(())
    }
}

/// Counts the records of application data in whole records of ciphertext. (In TLS 1.3 they all look
/// like that: more are counted than owed, never fewer.)
fn data_records(mut cipher: &[u8]) -> usize {
    const APPLICATION_DATA: u8 = 23;
    let mut count = 0;
    // Type, version (two bytes), length (two bytes), and that many bytes.
    while let [kind, _, _, high, low, rest @ ..] = cipher {
        count += usize::from(*kind == APPLICATION_DATA);
        cipher = rest.get(usize::from(u16::from_be_bytes([*high, *low]))..).unwrap_or_default();
    }
    count
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
    let mut first = matches!(stream.connection, Connection::Client(_));
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
        let n = read_handshake(&socket, &mut cipher, first, deadline)?;
        first = false;
        stream.feed(&cipher[..n]);
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

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::crypto::ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
    use rustls::version::TLS12;
    use rustls::{CipherSuiteCommon, ServerConfig, ServerConnection, SupportedCipherSuite};
    use rustls::{Tls12CipherSuite, pki_types::PrivatePkcs8KeyDer};

    /// A client of TLS 1.2 whose engine may encrypt this many records, and its server.
    fn pair(records: u64) -> (Stream, Stream) {
        let SupportedCipherSuite::Tls12(usual) = TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 else {
            panic!("a suite of TLS 1.2")
        };
        let limited = Tls12CipherSuite {
            common: CipherSuiteCommon { confidentiality_limit: records, ..usual.common },
            ..*usual
        };
        let limited = SupportedCipherSuite::Tls12(Box::leak(Box::new(limited)));
        let few = CryptoProvider { cipher_suites: vec![limited], ..(*provider()).clone() };
        let client = ClientConfig::builder_with_provider(Arc::new(few))
            .with_protocol_versions(&[&TLS12])
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAll(provider())))
            .with_no_client_auth();
        let own = rcgen::generate_simple_self_signed(["h".to_owned()]).expect("certificate");
        let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
        let server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS12])
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key.into())
            .expect("config");
        let name = ServerName::try_from("h").expect("name");
        let client = ClientConnection::new(Arc::new(client), name).expect("client");
        let server = ServerConnection::new(Arc::new(server)).expect("server");
        let (mut client, mut server) = (Stream::new(client.into()), Stream::new(server.into()));
        for _ in 0..4 {
            carry(&mut client, &mut server).expect("handshake");
            carry(&mut server, &mut client).expect("handshake");
        }
        assert!(!client.connection.is_handshaking() && !server.connection.is_handshaking());
        (client, server)
    }

    /// Moves what one end has to say to the other; returns the plaintext in it.
    fn carry(from: &mut Stream, to: &mut Stream) -> io::Result<Vec<u8>> {
        let mut cipher = Vec::new();
        from.take_output(&mut cipher)?;
        if !cipher.is_empty() {
            to.feed(&cipher);
        }
        let mut plain = Vec::new();
        let mut buf = [0; 4096];
        loop {
            match to.read(&mut buf) {
                Ok(0) => return Ok(plain),
                Ok(n) => plain.extend_from_slice(&buf[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(plain),
                Err(e) => return Err(e),
            }
        }
    }

    #[test]
    fn what_the_engine_drops_past_its_record_limit_is_an_error() {
        // A frame; two that share a batch; one that needs several records, the last one short.
        for sizes in [&[100][..], &[10, 20], &[3 * 16 * 1024 + 10]] {
            let (mut client, mut server) = pair(40);
            let mut rounds = 0;
            let error = loop {
                let mut sent = Vec::new();
                for size in sizes {
                    let frame = vec![rounds; *size];
                    assert_eq!(client.write(&frame).expect("taken"), *size);
                    sent.extend(frame);
                }
                match carry(&mut client, &mut server) {
                    Ok(arrived) => assert!(arrived == sent, "round {rounds}: bytes were dropped"),
                    Err(e) => break e,
                }
                rounds += 1;
                assert!(rounds < 50, "the limit is never reached");
            };
            assert!(error.to_string().contains("record limit"), "{error}");
            assert!(rounds > 5, "{rounds}");
        }
    }
}
