//! A certificate authority of its own for each emulator, and a leaf for the loopback names.

use native_tls::{Identity, TlsAcceptor};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::error::{Error, ErrorKind, Result};

/// The server's side of TLS, and the root that clients have to trust.
pub(super) struct Certificate {
    pub(super) acceptor: TlsAcceptor,
    pub(super) root_pem: String,
    pub(super) root_der: Vec<u8>,
}

impl Certificate {
    pub(super) fn new() -> Result<Self> {
        let (leaf_pem, key_pem, root_pem, root_der) = generate().map_err(failed)?;
        let chain = format!("{leaf_pem}{root_pem}");
        let identity =
            Identity::from_pkcs8(chain.as_bytes(), key_pem.as_bytes()).map_err(failed)?;
        let acceptor = TlsAcceptor::new(identity).map_err(failed)?;
        Ok(Self { acceptor, root_pem, root_der })
    }
}

fn generate() -> Result<(String, String, String, Vec<u8>), rcgen::Error> {
    let mut root = CertificateParams::new(Vec::new())?;
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    root.distinguished_name.push(DnType::CommonName, "webpubsub emulator root");
    let root_key = KeyPair::generate()?;
    let root_certificate = root.self_signed(&root_key)?;
    let issuer = Issuer::new(root, root_key);

    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let mut leaf = CertificateParams::new(names)?;
    leaf.distinguished_name.push(DnType::CommonName, "webpubsub emulator");
    leaf.use_authority_key_identifier_extension = true;
    let leaf_key = KeyPair::generate()?;
    let leaf_certificate = leaf.signed_by(&leaf_key, &issuer)?;
    Ok((
        leaf_certificate.pem(),
        leaf_key.serialize_pem(),
        root_certificate.pem(),
        root_certificate.der().to_vec(),
    ))
}

fn failed(e: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Tls, "the emulator's certificate could not be made").with_source(e)
}
