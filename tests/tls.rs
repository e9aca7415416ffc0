//! TLS on good and bad days, with each back end that the build has.
#![cfg(feature = "_tls")]

use std::time::Duration;

use webpubsub::emulator::Emulator;
use webpubsub::{
    Client, ClientBuilder, Error, ErrorKind, Event, Reconnect, Roots, TlsBackend, TlsConfig,
};

use crate::support::{next_event, next_group_message, shown};

pub(crate) const BACKENDS: &[TlsBackend] = &[
    #[cfg(feature = "native-tls")]
    TlsBackend::NativeTls,
    #[cfg(feature = "rustls")]
    TlsBackend::Rustls,
];

fn emulator() -> Emulator {
    Emulator::builder().tls(true).start().expect("emulator")
}

fn root(emulator: &Emulator) -> String {
    emulator.root_certificate_pem().expect("root")
}

fn tls(backend: TlsBackend) -> TlsConfig {
    TlsConfig::new().backend(backend)
}

fn builder(emulator: &Emulator, tls: TlsConfig) -> ClientBuilder {
    Client::builder(emulator.url("hub"))
        .tls(tls)
        .connect_step_timeout(Duration::from_secs(5))
        .reconnect(Some(
            Reconnect::new().backoff(Duration::from_millis(1), Duration::from_millis(20)),
        ))
}

fn tls_error(builder: ClientBuilder) -> Error {
    let error = builder.connect().expect_err("the handshake must fail");
    assert_eq!(error.kind(), ErrorKind::Tls, "{error:?}");
    assert!(std::error::Error::source(&error).is_some(), "the reason is kept: {error:?}");
    error
}

#[test]
fn an_unknown_authority_is_refused_and_a_trusted_one_accepted() {
    for backend in BACKENDS {
        let emulator = emulator();
        let error = tls_error(builder(&emulator, tls(*backend)));
        assert!(error.to_string().contains("certificate"), "{error}");
        let other = self::emulator();
        tls_error(builder(&emulator, tls(*backend).root_certificate_pem(root(&other))));
        tls_error(builder(&emulator, other.tls_config().backend(*backend)));
        // Beside the platform's roots, among others, and alone.
        let both = root(&other) + &root(&emulator);
        for trusting in [
            tls(*backend).root_certificate_pem(root(&emulator)),
            tls(*backend).root_certificate_pem(root(&other)).root_certificate_pem(root(&emulator)),
            tls(*backend).roots(Roots::AddedOnly).root_certificate_pem(both),
            emulator.tls_config().backend(*backend),
        ] {
            let client = builder(&emulator, trusting).connect().expect("connect");
            client.join_group("g").expect("join");
            client.publish("g", "x").expect("send");
            assert_eq!(next_group_message(&client).text().expect("text"), "x");
            emulator.faults().drop_connections();
            while !matches!(next_event(&client), Event::Recovered(_)) {}
            client.close().expect("close");
        }
    }
}

#[test]
fn a_wrong_host_name_is_refused() {
    for backend in BACKENDS {
        let emulator = emulator();
        let address = ([127, 0, 0, 1], emulator.port()).into();
        let url = emulator.url("hub").replace("127.0.0.1", "other.test");
        let by_name = Client::builder(url)
            .tls(emulator.tls_config().backend(*backend))
            .resolver(move |_, _| Ok(vec![address]));
        let error = tls_error(by_name);
        assert!(error.to_string().contains("other.test"), "{error}");
    }
}

#[test]
fn the_insecure_switch_accepts_everything() {
    for backend in BACKENDS {
        let emulator = emulator();
        let careless = tls(*backend).danger_accept_invalid_certificates(true);
        builder(&emulator, careless).connect().expect("connect").join_group("g").expect("join");
    }
}

#[test]
fn what_is_no_certificate_is_refused_by_the_builder() {
    for backend in BACKENDS {
        let emulator = emulator();
        let key = "-----BEGIN PRIVATE KEY-----\nU0VDUkVU\n-----END PRIVATE KEY-----\n";
        for bad in [
            tls(*backend).root_certificate_pem("nonsense"),
            tls(*backend).client_certificate_pem("nonsense", key),
            tls(*backend).client_certificate_pem(root(&emulator), key),
        ] {
            let error = builder(&emulator, bad).connect().expect_err("bad");
            assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
            assert!(error.to_string().contains("_certificate"), "{error}");
            assert!(!shown(&error).contains("U0VDUkVU"));
        }
        assert_eq!(emulator.stats().tcp_accepted, 0, "nothing was sent");
    }
}

#[test]
fn an_expired_certificate_is_refused() {
    for backend in BACKENDS {
        let expired = server::Server::start(true);
        let trusting = tls(*backend).root_certificate_pem(expired.root_pem.as_str());
        let error = tls_error(Client::builder(expired.url()).tls(trusting));
        let text = shown(&error).to_lowercase();
        assert!(text.contains("expired"), "{text}");
    }
}

#[cfg(feature = "rustls")]
#[test]
fn mutual_tls() {
    for backend in BACKENDS {
        let emulator = Emulator::builder()
            .tls(true)
            .require_client_certificate(true)
            .start()
            .expect("emulator");
        let (chain, key) = emulator.client_certificate_pem().expect("tls");
        let trusting = emulator.tls_config().backend(*backend);
        let with = trusting.clone().client_certificate_pem(chain, key);
        builder(&emulator, with).connect().expect("connect").join_group("g").expect("join");
        // In TLS 1.3 a client learns of the refusal only with its first read.
        let error = builder(&emulator, trusting).connect().expect_err("no certificate was shown");
        assert!(matches!(error.kind(), ErrorKind::Tls | ErrorKind::Upgrade), "{error:?}");
    }
}

#[cfg(all(feature = "rustls", not(feature = "rustls-bundled-roots")))]
#[test]
fn bundled_roots_need_their_feature() {
    let emulator = emulator();
    let error = builder(&emulator, tls(TlsBackend::Rustls).roots(Roots::Bundled)).connect();
    assert!(error.expect_err("no roots").to_string().contains("rustls-bundled-roots"));
}

#[cfg(feature = "rustls-bundled-roots")]
#[test]
fn bundled_roots_are_trusted_beside_the_programs_own() {
    let emulator = emulator();
    let bundled = tls(TlsBackend::Rustls).roots(Roots::Bundled);
    tls_error(builder(&emulator, bundled.clone()));
    let own = bundled.root_certificate_pem(root(&emulator));
    builder(&emulator, own).connect().expect("connect");
}

#[test]
fn a_stream_that_ends_with_close_notify_or_without_is_a_loss() {
    for backend in BACKENDS {
        let emulator = emulator();
        let trusting = emulator.tls_config().backend(*backend);
        let client = builder(&emulator, trusting).connect().expect("connect");
        client.join_group("g").expect("join");
        assert!(matches!(next_event(&client), Event::Connected(_)));
        for reset in [false, true] {
            match reset {
                false => emulator.faults().drop_connections(),
                true => emulator.faults().reset_connections(),
            }
            assert!(matches!(next_event(&client), Event::Recovering(_)));
            assert!(matches!(next_event(&client), Event::Recovered(_)));
        }
        client.publish("g", "x").expect("alive");
    }
}

/// Key updates come in the middle of data and must be answered from the reader.
#[cfg(feature = "rustls")]
#[test]
fn key_updates_in_mid_stream_lose_nothing() {
    const MESSAGES: usize = 200;
    for backend in BACKENDS {
        let server = server::Server::start(false);
        let client = simple_client(&server, *backend);
        let sender = client.clone();
        let writing = std::thread::spawn(move || {
            for i in 0..MESSAGES {
                sender.send(format!("{i} {}", "x".repeat(20_000))).expect("send");
            }
        });
        let mut next = 0;
        while next < MESSAGES {
            match client.recv_timeout(crate::support::WATCHDOG).expect("open").expect("watchdog") {
                Event::ServerMessage(m) => {
                    let text = m.text().expect("text").to_owned();
                    assert!(text.starts_with(&format!("{next} ")), "{next}");
                    next += 1;
                }
                Event::Connected(_) => {}
                other => panic!("{other:?}"),
            }
        }
        writing.join().expect("joined");
        client.close().expect("close");
    }
}

fn simple_client(server: &server::Server, backend: TlsBackend) -> webpubsub::SimpleClient {
    webpubsub::SimpleClient::builder(server.url())
        .tls(tls(backend).root_certificate_pem(server.root_pem.as_str()))
        .connect()
        .expect("connect")
}

#[test]
fn the_answer_to_a_close_arrives() {
    for backend in BACKENDS {
        let server = server::Server::start(false);
        let client = simple_client(&server, *backend);
        client.send(server::CLOSE).expect("send");
        let answered = server.ends.recv_timeout(crate::support::WATCHDOG).expect("watchdog");
        assert!(answered, "{backend:?}");
    }
}

/// A WebSocket echo server with a certificate of its own, valid or expired; with rustls it updates
/// its keys all the time.
mod server {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread;

    use tungstenite::WebSocket;

    /// What asks for a Close.
    pub(crate) const CLOSE: &str = "close";

    use rcgen::{
        BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd,
    };

    pub(crate) struct Server {
        port: u16,
        pub(crate) root_pem: String,
        /// For each connection that ends: whether with a Close from both sides.
        pub(crate) ends: Receiver<bool>,
    }

    impl Server {
        pub(crate) fn start(expired: bool) -> Self {
            let root_key = KeyPair::generate().expect("key");
            let mut root = CertificateParams::new(Vec::new()).expect("params");
            root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            root.distinguished_name.push(DnType::CommonName, "a root");
            let root_pem = root.self_signed(&root_key).expect("root").pem();
            let issuer = Issuer::new(root, root_key);
            let leaf_key = KeyPair::generate().expect("key");
            let mut leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("params");
            leaf.distinguished_name.push(DnType::CommonName, "a server");
            if expired {
                leaf.not_before = date_time_ymd(2020, 1, 1);
                leaf.not_after = date_time_ymd(2021, 1, 1);
            }
            let certificate = leaf.signed_by(&leaf_key, &issuer).expect("leaf").pem();
            let key = leaf_key.serialize_pem();
            let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
            let port = listener.local_addr().expect("address").port();
            let (ended, ends) = channel();
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (certificate, key) = (certificate.clone(), key.clone());
                    let ended = ended.clone();
                    thread::spawn(move || serve(stream, &certificate, &key, &ended));
                }
            });
            Self { port, root_pem, ends }
        }

        pub(crate) fn url(&self) -> String {
            format!("wss://127.0.0.1:{}/client/hubs/hub", self.port)
        }
    }

    #[cfg(feature = "rustls")]
    fn serve(mut tcp: TcpStream, certificate: &str, key: &str, ended: &Sender<bool>) {
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        use std::sync::Arc;

        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("pem")];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("pem");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("config");
        let mut connection = rustls::ServerConnection::new(Arc::new(config)).expect("connection");
        if connection.complete_io(&mut tcp).is_err() {
            return;
        }
        let stream = rustls::StreamOwned::new(connection, tcp);
        let Ok(mut socket) = tungstenite::accept(stream) else { return };
        let mut count = 0;
        echo(&mut socket, ended, |socket| {
            // rustls takes no more than 32 answers in a row for a flood.
            if count % 10 == 0 {
                socket.get_mut().conn.refresh_traffic_keys().expect("TLS 1.3");
            }
            count += 1;
        });
    }

    #[cfg(not(feature = "rustls"))]
    fn serve(tcp: TcpStream, certificate: &str, key: &str, ended: &Sender<bool>) {
        let identity = native_tls::Identity::from_pkcs8(certificate.as_bytes(), key.as_bytes());
        let acceptor = native_tls::TlsAcceptor::new(identity.expect("pem")).expect("acceptor");
        let Ok(stream) = acceptor.accept(tcp) else { return };
        let Ok(mut socket) = tungstenite::accept(stream) else { return };
        echo(&mut socket, ended, |_| {});
    }

    fn echo<S: Read + Write>(
        socket: &mut WebSocket<S>,
        ended: &Sender<bool>,
        mut before: impl FnMut(&mut WebSocket<S>),
    ) {
        let end = loop {
            match socket.read() {
                Ok(message) if message.to_text().is_ok_and(|text| text == CLOSE) => {
                    socket.close(None).expect("close");
                }
                Ok(message) if message.is_text() => {
                    before(socket);
                    socket.send(message).expect("send");
                }
                Ok(_) => {}
                Err(end) => break end,
            }
        };
        let _ = ended.send(matches!(end, tungstenite::Error::ConnectionClosed));
    }
}
