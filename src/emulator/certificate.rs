//! A certificate authority of its own for each emulator, and a leaf for the loopback names.

use std::io;
use std::net::TcpStream;
use std::time::Instant;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::error::{Error, ErrorKind, Result};
use crate::secret::Secret;
use crate::transport::Wire;

/// The server's side of TLS, and what clients need: the root to trust, and a certificate to show.
pub(super) struct Certificate {
    acceptor: Acceptor,
    pub(super) root_pem: String,
    /// For clients, where the emulator asks for a certificate.
    pub(super) client_pem: (String, Secret),
}

#[cfg(feature = "rustls")]
type Acceptor = std::sync::Arc<rustls::ServerConfig>;
#[cfg(not(feature = "rustls"))]
type Acceptor = native_tls::TlsAcceptor;

impl Certificate {
    /// `mutual`: refuse clients that show no certificate of this authority.
    pub(super) fn new(mutual: bool) -> Result<Self> {
        let made = Made::new().map_err(failed)?;
        Ok(Self {
            acceptor: acceptor(&made, mutual)?,
            client_pem: (made.client_pem, Secret::new(made.client_key_pem)),
            root_pem: made.root_pem,
        })
    }

    pub(super) fn accept(&self, socket: TcpStream, deadline: Instant) -> io::Result<Wire> {
        #[cfg(not(feature = "rustls"))]
        use crate::transport::tls::native::accept;
        #[cfg(feature = "rustls")]
        use crate::transport::tls::rustls::accept;
        accept(&self.acceptor, socket, deadline)
    }
}

#[cfg(feature = "rustls")]
fn acceptor(made: &Made, mutual: bool) -> Result<Acceptor> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::server::WebPkiClientVerifier;
    use std::sync::Arc;

    let provider = crate::transport::tls::rustls::provider();
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    let builder = if mutual {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from(made.root_der.clone())).map_err(failed)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        builder.with_client_cert_verifier(verifier.build().map_err(failed)?)
    } else {
        builder.with_no_client_auth()
    };
    let chain = CertificateDer::from_pem_slice(made.leaf_pem.as_bytes()).map_err(failed)?;
    let key = PrivateKeyDer::from_pem_slice(made.leaf_key_pem.as_bytes()).map_err(failed)?;
    builder.with_single_cert(vec![chain], key).map(Arc::new).map_err(failed)
}

#[cfg(not(feature = "rustls"))]
fn acceptor(made: &Made, mutual: bool) -> Result<Acceptor> {
    if mutual {
        return Err(Error::config(
            "`require_client_certificate` needs the feature `rustls`: native-tls cannot ask for one",
        ));
    }
    let chain = format!("{}{}", made.leaf_pem, made.root_pem);
    let key = made.leaf_key_pem.as_bytes();
    let identity = native_tls::Identity::from_pkcs8(chain.as_bytes(), key).map_err(failed)?;
    native_tls::TlsAcceptor::new(identity).map_err(failed)
}

/// Everything as text, whoever serves it.
struct Made {
    root_pem: String,
    #[cfg(feature = "rustls")]
    root_der: Vec<u8>,
    leaf_pem: String,
    leaf_key_pem: String,
    client_pem: String,
    client_key_pem: String,
}

impl Made {
    fn new() -> Result<Self, rcgen::Error> {
        let mut root = CertificateParams::new(Vec::new())?;
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        root.distinguished_name.push(DnType::CommonName, "webpubsub emulator root");
        let root_key = KeyPair::generate()?;
        let root_certificate = root.self_signed(&root_key)?;
        let issuer = Issuer::new(root, root_key);
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let (leaf_pem, leaf_key_pem) =
            signed(names, "webpubsub emulator", ExtendedKeyUsagePurpose::ServerAuth, &issuer)?;
        let (client_pem, client_key_pem) =
            signed(Vec::new(), "a client", ExtendedKeyUsagePurpose::ClientAuth, &issuer)?;
        Ok(Self {
            root_pem: root_certificate.pem(),
            #[cfg(feature = "rustls")]
            root_der: root_certificate.der().to_vec(),
            leaf_pem,
            leaf_key_pem,
            client_pem,
            client_key_pem,
        })
    }
}

fn signed(
    names: Vec<String>,
    common_name: &str,
    usage: ExtendedKeyUsagePurpose,
    issuer: &Issuer<'_, KeyPair>,
) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.use_authority_key_identifier_extension = true;
    params.extended_key_usages = vec![usage];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn failed(e: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Tls, "the emulator's certificate could not be made").with_source(e)
}
