//! What a program chooses of TLS, and the connector that is made of it.

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use super::super::lock;
use super::super::wire::Wire;
#[cfg(feature = "native-tls")]
use super::native;
#[cfg(feature = "rustls")]
use super::rustls;
use crate::error::{Error, Result};
use crate::secret::Secret;

/// A TLS implementation. A build has those whose features are on; another one is an error of
/// [`ErrorKind::Config`](crate::ErrorKind::Config) at `connect`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsBackend {
    /// The platform's own (feature `native-tls`): OpenSSL on Linux, SChannel on Windows, Secure
    /// Transport on macOS.
    NativeTls,
    /// rustls (feature `rustls`) with the ring provider, chosen explicitly: other providers in the
    /// program's tree do not matter.
    Rustls,
}

/// The authorities that are trusted beside the certificates that the program
/// [adds](TlsConfig::root_certificate_pem).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Roots {
    /// Those that the platform trusts.
    #[default]
    Platform,
    /// Mozilla's, which are part of the program. For rustls, with the feature
    /// `rustls-bundled-roots`.
    Bundled,
    /// None: only what the program adds is trusted.
    AddedOnly,
}

/// How a client does TLS: whom it trusts, and which certificate it shows.
///
/// The program owns it. The trust store is loaded once, by the first client that needs it (some
/// 30 ms and 1 MB for the platform's), and clones share it: give clones of one `TlsConfig` to
/// clients that trust the same. It is gone, the private key included, with the last clone and the
/// last client that was built with one. A setter returns a new one and leaves the clones of the old
/// one as they are.
///
/// Clients that were built without any share one with the defaults, as long as one of them lives.
///
#[cfg_attr(feature = "emulator", doc = "```")]
#[cfg_attr(not(feature = "emulator"), doc = "```ignore")]
/// # use webpubsub::Client;
/// # use webpubsub::emulator::Emulator;
/// use webpubsub::{Roots, TlsConfig};
///
/// # fn pem() -> Option<String> { Some(Emulator::builder().tls(true).start().ok()?.root_certificate_pem()?) }
/// # fn main() -> webpubsub::Result<()> {
/// # let Some(pem) = pem() else { return Ok(()) };
/// # let emulator = Emulator::start()?;
/// # let (url, other_url) = (emulator.url("chat"), emulator.url("chat"));
/// let tls = TlsConfig::new().roots(Roots::AddedOnly).root_certificate_pem(pem);
/// let one = Client::builder(url).tls(tls.clone()).connect()?;
/// let other = Client::builder(other_url).tls(tls).connect()?; // shares the trust store
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct TlsConfig(Arc<Inner>);

struct Inner {
    settings: Settings,
    /// Made when it is first needed. Whoever needs it meanwhile waits, and could not connect without
    /// it; other configurations have locks of their own.
    connector: Mutex<Option<Connector>>,
    #[cfg(test)]
    times_made: std::sync::atomic::AtomicU32,
}

#[derive(Clone, Default, PartialEq)]
#[cfg_attr(not(feature = "_tls"), allow(dead_code))]
pub(super) struct Settings {
    backend: Option<TlsBackend>,
    pub(super) roots: Roots,
    /// PEM texts, each with one certificate or more.
    pub(super) added: Vec<String>,
    /// Certificate chain and PKCS#8 key, both PEM.
    pub(super) identity: Option<(String, Secret)>,
    pub(super) accept_invalid: bool,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl TlsConfig {
    /// The defaults: the platform's roots, no client certificate.
    pub fn new() -> Self {
        Self::of(Settings::default())
    }

    fn of(settings: Settings) -> Self {
        Self(Arc::new(Inner {
            settings,
            connector: Mutex::new(None),
            #[cfg(test)]
            times_made: 0.into(),
        }))
    }

    fn with(self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = match Arc::try_unwrap(self.0) {
            Ok(inner) => inner.settings,
            Err(shared) => shared.settings.clone(),
        };
        change(&mut settings);
        Self::of(settings)
    }

    /// Which TLS implementation, where the build has two. Both speak TLS 1.2 at least. Default:
    /// native-tls if the build has it.
    pub fn backend(self, backend: TlsBackend) -> Self {
        self.with(|settings| settings.backend = Some(backend))
    }

    /// Which authorities are trusted beside what is added. Default: [`Roots::Platform`].
    pub fn roots(self, roots: Roots) -> Self {
        self.with(|settings| settings.roots = roots)
    }

    /// Trusts this certificate, or these, in PEM, beside the [`roots`](Self::roots). Each call adds.
    /// Default: none.
    pub fn root_certificate_pem(self, pem: impl Into<String>) -> Self {
        let pem = pem.into();
        self.with(|settings| settings.added.push(pem))
    }

    /// Shows this certificate to the service: a chain and its PKCS#8 key, both in PEM. Default:
    /// none.
    pub fn client_certificate_pem(self, chain: impl Into<String>, key: impl Into<Secret>) -> Self {
        let identity = (chain.into(), key.into());
        self.with(|settings| settings.identity = Some(identity))
    }

    /// **Insecure.** Accepts every certificate for every host: anybody on the way can read and
    /// change everything, the access token included. For experiments only. Default: false.
    pub fn danger_accept_invalid_certificates(self, on: bool) -> Self {
        self.with(|settings| settings.accept_invalid = on)
    }

    /// The one of clients that were built without any.
    pub(crate) fn shared() -> Self {
        static SHARED: Mutex<Weak<Inner>> = Mutex::new(Weak::new());
        Self::shared_by(&SHARED)
    }

    fn shared_by(place: &Mutex<Weak<Inner>>) -> Self {
        let mut shared = lock(place);
        if let Some(inner) = shared.upgrade() {
            return Self(inner);
        }
        let new = Self::new();
        *shared = Arc::downgrade(&new.0);
        new
    }

    /// Finds what is wrong with it. Where nothing was chosen nothing can be, and the trust store is
    /// loaded by the first `wss` connection only.
    pub(crate) fn check(&self) -> Result<()> {
        if self.0.settings == Settings::default() {
            return Ok(());
        }
        self.connector().map(drop)
    }

    // Without TLS no connector exists.
    #[cfg_attr(not(feature = "_tls"), allow(unreachable_code, unused_mut, unused_variables))]
    fn connector(&self) -> Result<Connector> {
        let mut made = lock(&self.0.connector);
        if let Some(connector) = &*made {
            return Ok(connector.clone());
        }
        let connector = self.0.settings.connector()?;
        #[cfg(test)]
        self.0.times_made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        *made = Some(connector.clone());
        Ok(connector)
    }

    /// The client's side of the handshake.
    #[cfg_attr(not(feature = "_tls"), allow(unused_variables))]
    pub(crate) fn connect(
        &self,
        host: &str,
        socket: TcpStream,
        deadline: Instant,
    ) -> io::Result<Wire> {
        match self.connector().map_err(io::Error::other)? {
            #[cfg(feature = "native-tls")]
            Connector::Native(connector) => native::connect(&connector, host, socket, deadline),
            #[cfg(feature = "rustls")]
            Connector::Rustls(config) => rustls::connect(&config, host, socket, deadline),
        }
    }
}

/// Without the certificates, which are long, and without the key.
impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.0.settings;
        f.debug_struct("TlsConfig")
            .field("backend", &settings.backend)
            .field("roots", &settings.roots)
            .field("added_roots", &settings.added.len())
            .field("client_certificate", &settings.identity.is_some())
            .field("accepts_invalid_certificates", &settings.accept_invalid)
            .finish()
    }
}

/// What opens the client's side of TLS.
#[derive(Clone)]
enum Connector {
    #[cfg(feature = "native-tls")]
    Native(native_tls::TlsConnector),
    #[cfg(feature = "rustls")]
    Rustls(Arc<::rustls::ClientConfig>),
}

impl Settings {
    fn connector(&self) -> Result<Connector> {
        if cfg!(not(feature = "_tls")) {
            return Err(Error::config(
                "`tls`: this build of webpubsub has no TLS; enable the feature `native-tls` or \
                 `rustls`",
            ));
        }
        // With both, the default feature's back end is the default.
        let usual = match cfg!(feature = "native-tls") {
            true => TlsBackend::NativeTls,
            false => TlsBackend::Rustls,
        };
        let backend = self.backend.unwrap_or(usual);
        if self.roots == Roots::AddedOnly && self.added.is_empty() && !self.accept_invalid {
            return Err(Error::config(
                "`TlsConfig::roots`: with `Roots::AddedOnly` at least one `root_certificate_pem` is \
                 needed",
            ));
        }
        match backend {
            #[cfg(feature = "native-tls")]
            TlsBackend::NativeTls => native::connector(self).map(Connector::Native),
            #[cfg(feature = "rustls")]
            TlsBackend::Rustls => rustls::connector(self).map(Connector::Rustls),
            #[allow(unreachable_patterns)] // which patterns are left depends on the features
            other => {
                let feature = match other {
                    TlsBackend::NativeTls => "native-tls",
                    TlsBackend::Rustls => "rustls",
                };
                Err(Error::config(format!(
                    "`TlsConfig::backend`: this build of webpubsub has no {feature}; enable the \
                     feature `{feature}`"
                )))
            }
        }
    }
}

/// For what is wrong with a certificate to trust.
#[cfg(feature = "_tls")]
pub(super) fn bad_root() -> Error {
    Error::config("`TlsConfig::root_certificate_pem`: this is not a certificate in PEM")
}

/// Without a source: a parser's error could quote the key.
#[cfg(feature = "_tls")]
pub(super) fn bad_identity() -> Error {
    Error::config(
        "`TlsConfig::client_certificate_pem`: a PEM certificate chain and its PKCS#8 PEM key are \
         needed",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn text(config: &TlsConfig) -> String {
        let error = config.check().expect_err("wrong");
        assert_eq!(error.kind(), ErrorKind::Config);
        error.to_string()
    }

    #[test]
    fn clones_share_and_a_setter_makes_a_new_one() {
        let one = TlsConfig::new();
        let clone = one.clone();
        assert!(Arc::ptr_eq(&one.0, &clone.0));
        let other = clone.roots(Roots::AddedOnly);
        assert!(!Arc::ptr_eq(&one.0, &other.0));
        assert_eq!(one.0.settings.roots, Roots::Platform);
    }

    #[test]
    fn the_key_is_neither_shown_nor_kept_beyond_the_last_clone() {
        let config = TlsConfig::new().client_certificate_pem("chain", "SECRET-KEY");
        assert!(!format!("{config:?}").contains("SECRET"), "{config:?}");
        let inner = Arc::downgrade(&config.0);
        let clone = config.clone();
        drop(config);
        assert!(inner.upgrade().is_some());
        drop(clone);
        assert!(inner.upgrade().is_none());
    }

    #[test]
    fn a_back_end_that_is_not_built_in_is_named_with_its_feature() {
        for (backend, is_there, feature) in [
            (TlsBackend::NativeTls, cfg!(feature = "native-tls"), "`native-tls`"),
            (TlsBackend::Rustls, cfg!(feature = "rustls"), "`rustls`"),
        ] {
            let config = TlsConfig::new().backend(backend);
            match is_there {
                true => config.check().expect("built in"),
                false => assert!(text(&config).contains(feature), "{}", text(&config)),
            }
        }
    }

    #[cfg(feature = "_tls")]
    #[test]
    fn only_added_roots_must_be_added() {
        let config = TlsConfig::new().roots(Roots::AddedOnly);
        assert!(text(&config).contains("`root_certificate_pem`"), "{}", text(&config));
        config.danger_accept_invalid_certificates(true).check().expect("nothing is checked then");
    }

    #[cfg(not(feature = "rustls-bundled-roots"))]
    #[test]
    fn bundled_roots_need_rustls_and_their_feature() {
        let config = TlsConfig::new().roots(Roots::Bundled);
        let what = match cfg!(feature = "_tls") {
            true => "Roots::Bundled",
            false => "no TLS",
        };
        assert!(text(&config).contains(what), "{}", text(&config));
    }

    #[test]
    fn what_is_shared_by_default_lives_as_long_as_one_of_its_clients() {
        let place = Mutex::new(Weak::new());
        let one = TlsConfig::shared_by(&place);
        let other = TlsConfig::shared_by(&place);
        assert!(Arc::ptr_eq(&one.0, &other.0) && other.0.settings == Settings::default());
        drop((one, other));
        assert!(lock(&place).upgrade().is_none());
        let of_the_process = TlsConfig::shared();
        assert!(Arc::ptr_eq(&of_the_process.0, &TlsConfig::shared().0));
    }

    /// Trust store and key, with each back end.
    #[cfg(all(feature = "emulator", feature = "_tls"))]
    #[test]
    fn clients_share_what_is_loaded_and_it_is_gone_with_the_last_of_them() {
        use crate::Client;
        use crate::emulator::Emulator;
        use std::sync::atomic::Ordering;

        for backend in [TlsBackend::NativeTls, TlsBackend::Rustls] {
            let emulator = Emulator::builder().tls(true).start().expect("emulator");
            let (chain, key) = emulator.client_certificate_pem().expect("TLS");
            let config = emulator.tls_config().backend(backend).client_certificate_pem(chain, key);
            if config.check().is_err() {
                continue; // not built in
            }
            let inner = Arc::downgrade(&config.0);
            let builder = Client::builder(emulator.url("hub")).tls(config);
            let one = builder.clone().connect().expect("connect");
            let other = builder.connect().expect("connect");
            let made = inner.upgrade().map(|inner| inner.times_made.load(Ordering::Relaxed));
            assert_eq!(made, Some(1), "{backend:?}");
            one.close().expect("close");
            assert!(inner.upgrade().is_some(), "{backend:?}: the other one has it");
            other.close().expect("close");
            assert!(inner.upgrade().is_none(), "{backend:?}: nobody has it");
        }
    }
}
