//! Connecting on bad days: each step fails with its own error, in time, without a secret.

use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use webpubsub::emulator::Emulator;
use webpubsub::{
    Client, ClientAccess, Error, ErrorKind, Event, KeepAlive, Protocol, QueueConfig, Reconnect,
    Recovery, SimpleClient, TlsConfig,
};

use crate::support::{
    Fake, RELIABLE, WATCHDOG, emulator, hold, read_head, shown, upgrade_by_hand, within,
};

fn fails(url: &str) -> Error {
    let url = url.to_owned();
    let error = within(WATCHDOG, move || {
        Client::builder(url)
            .connect_step_timeout(Duration::from_millis(300))
            .connect_timeout(Duration::from_secs(5))
            .connect()
            .expect_err("must fail")
    });
    assert!(!shown(&error).contains("SECRET"), "{error:?}");
    assert!(!error.may_have_been_delivered());
    error
}

#[test]
fn bad_urls_are_refused_before_anything_is_sent() {
    for (url, part) in [
        ("", "is empty"),
        ("SECRET", "has no scheme"),
        ("https://x.webpubsub.azure.com/client/hubs/h?access_token=SECRET", "`wss://` or `ws://`"),
        ("wss://x.webpubsub.azure.com", "has no path"),
        ("wss://x:99999/client/hubs/h", "cannot be parsed"),
    ] {
        let error = fails(url);
        assert_eq!(error.kind(), ErrorKind::Config, "{url}");
        assert!(error.to_string().contains(part), "{url}: {error}");
    }
}

#[test]
fn an_unknown_host_and_a_refused_port_say_so() {
    let error = fails("ws://no-such-host.invalid/client/hubs/h?access_token=SECRET");
    assert_eq!(error.kind(), ErrorKind::NameLookup);
    assert!(error.to_string().contains("no-such-host.invalid"));

    let port = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("addr").port();
    let error = fails(&format!("ws://127.0.0.1:{port}/client/hubs/h?access_token=SECRET"));
    assert_eq!(error.kind(), ErrorKind::Connect);
    assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
}

#[test]
fn a_peer_that_never_accepts_is_given_up() {
    let (_listener, address, _fill) = black_hole();
    let error = fails(&format!("ws://{address}/client/hubs/h?access_token=SECRET"));
    assert_eq!(error.kind(), ErrorKind::Connect);
    assert!(error.to_string().contains("timed out"), "{error}");
}

#[test]
fn a_peer_that_stays_silent_is_given_up_at_each_step() {
    let silent = Fake::start(hold);
    let error = fails(&silent.url());
    assert_eq!(error.kind(), ErrorKind::Upgrade);
    assert!(error.to_string().contains("time limit"), "{error}");

    let upgraded = Fake::start(|mut stream| {
        upgrade_by_hand(&mut stream, RELIABLE);
        hold(stream);
    });
    // Only the answer to the upgrade may take longer than a step.
    let start = Instant::now();
    let error = fails(&upgraded.url());
    assert_eq!(error.kind(), ErrorKind::SessionStart);
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[cfg(feature = "_tls")]
#[test]
fn a_peer_that_is_silent_in_the_tls_handshake_is_given_up() {
    let silent = Fake::start(hold);
    let error = fails(&silent.url().replace("ws:", "wss:"));
    assert_eq!(error.kind(), ErrorKind::Tls);
    assert!(error.to_string().contains("time limit"), "{error}");

    let plain = Fake::start(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        hold(stream);
    });
    let error = fails(&plain.url().replace("ws:", "wss:"));
    assert_eq!(error.kind(), ErrorKind::Tls);
}

#[cfg(not(feature = "_tls"))]
#[test]
fn a_wss_url_in_a_build_without_tls_is_an_error_of_the_builder() {
    let error = fails("wss://x.webpubsub.azure.com/client/hubs/h?access_token=SECRET");
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("native-tls"));
    assert_eq!(
        Emulator::builder().tls(true).start().expect_err("no TLS").kind(),
        ErrorKind::Config
    );
}

#[test]
fn a_refused_upgrade_shows_status_and_a_cut_of_the_body() {
    for (status, hint) in [(401, "access token"), (404, "host and hub"), (500, "")] {
        let fake = Fake::start(move |mut stream| {
            let head = read_head(&mut stream);
            // A peer that echoes the request must not make us show the token.
            let body = format!("sorry {head} {}", "x".repeat(10_000));
            let answer = format!("HTTP/1.1 {status} No\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(answer.as_bytes());
            let _ = stream.write_all(body.as_bytes());
        });
        let error = fails(&fake.url());
        assert_eq!(error.kind(), ErrorKind::Upgrade);
        assert_eq!(error.http_status(), Some(status));
        let text = error.to_string();
        assert!(text.contains(hint) && text.contains("sorry"), "{text}");
        assert!(text.len() < 600, "{text}");
    }
}

#[test]
fn answers_that_are_no_upgrade_are_refused() {
    for answer in [
        "SSH-2.0-OpenSSH_9.6\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: bm90IHlvdXJzIQ==\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        "",
    ] {
        let fake = Fake::start(move |mut stream| {
            read_head(&mut stream);
            let _ = stream.write_all(answer.as_bytes());
        });
        let error = fails(&fake.url());
        assert_eq!(error.kind(), ErrorKind::Upgrade, "{answer}");
        assert_eq!(error.http_status(), None);
    }
}

#[test]
fn a_redirect_is_not_followed_and_its_query_is_not_shown() {
    let fake = Fake::start(|mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(
            b"HTTP/1.1 302 Found\r\nLocation: https://login.example/?t=SECRET\r\n\
              Content-Length: 0\r\n\r\n",
        );
    });
    let error = fails(&fake.url());
    assert_eq!(error.http_status(), Some(302));
    assert!(error.to_string().contains("https://login.example/"), "{error}");
}

/// The lines of a 101 for whoever sent this request, but for the two that say it is a WebSocket.
fn accept(head: &str) -> String {
    let key = crate::support::header(head, "Sec-WebSocket-Key").unwrap_or("");
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    format!("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {accept}\r\n")
}

const WEBSOCKET: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\n";

#[test]
fn several_lines_of_one_header_are_one_list() {
    let answered_with = |lines: &'static str| {
        let fake = Fake::start(move |mut stream| {
            let head = read_head(&mut stream);
            let _ = stream.write_all(format!("{}{lines}\r\n", accept(&head)).as_bytes());
            hold(stream);
        });
        SimpleClient::connect(fake.url())
    };
    for lines in [
        "Upgrade: websocket\r\nConnection: keep-alive\r\nConnection: Upgrade\r\n",
        "Connection: close, x\r\nUpgrade: h2c\r\nConnection: y, upgrade\r\nUpgrade: WebSocket\r\n",
    ] {
        answered_with(lines).unwrap_or_else(|e| panic!("{lines}: {e}"));
    }
    for lines in [
        "Upgrade: web\r\nUpgrade: socket\r\nConnection: Upgrade\r\n",
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Extensions:\r\n\
         Sec-WebSocket-Extensions: permessage-deflate\r\n",
    ] {
        let error = answered_with(lines).expect_err(lines);
        assert_eq!(error.kind(), ErrorKind::Upgrade);
    }
}

#[test]
fn interim_answers_before_the_upgrade_are_skipped() {
    const INTERIM: &str = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n\
                           HTTP/1.1 103 Early Hints\r\nLink: </s.css>; rel=preload\r\n\r\n";
    for in_one_piece in [true, false] {
        let fake = Fake::start(move |mut stream| {
            let head = read_head(&mut stream);
            // The last bytes are a text frame, "hi".
            let all = format!("{INTERIM}{}{WEBSOCKET}\r\n\u{1}\u{2}hi", accept(&head));
            let mut all = all.into_bytes();
            let frame = all.len() - 4;
            all[frame] = 0x81;
            let piece = if in_one_piece { all.len() } else { 7 };
            for piece in all.chunks(piece) {
                let _ = stream.write_all(piece);
                std::thread::sleep(Duration::from_millis(1));
            }
            hold(stream);
        });
        let client = SimpleClient::connect(fake.url()).expect("connect");
        loop {
            match client.recv_timeout(WATCHDOG).expect("open").expect("watchdog") {
                Event::Connected(_) => {}
                Event::ServerMessage(m) => break assert_eq!(m.text().expect("text"), "hi"),
                other => panic!("{other:?}"),
            }
        }
    }
    let refusing = Fake::start(|mut stream| {
        read_head(&mut stream);
        let refusal = "HTTP/1.1 403 No\r\nContent-Length: 5\r\n\r\nsorry";
        let _ = stream.write_all(format!("{INTERIM}{refusal}").as_bytes());
    });
    let error = fails(&refusing.url());
    assert_eq!(error.http_status(), Some(403));
    assert!(error.to_string().contains("sorry"), "{error}");
}

#[test]
fn interim_answers_without_end_are_given_up() {
    let many = Fake::start(|mut stream| {
        read_head(&mut stream);
        while stream.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").is_ok() {}
    });
    let long = Fake::start(|mut stream| {
        read_head(&mut stream);
        let answer = format!("HTTP/1.1 103 Early\r\nLink: {}\r\n\r\n", "x".repeat(4000));
        while stream.write_all(answer.as_bytes()).is_ok() {}
    });
    for fake in [many, long] {
        let error = fails(&fake.url());
        assert_eq!(error.kind(), ErrorKind::Upgrade);
        assert!(error.to_string().contains("interim"), "{error}");
    }
    let slow = Fake::start(|mut stream| {
        read_head(&mut stream);
        while stream.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let start = Instant::now();
    let error = SimpleClient::builder(slow.url())
        .connect_timeout(Duration::from_millis(500))
        .connect()
        .expect_err("never upgraded");
    assert!(error.to_string().contains("time limit"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

/// The service answers when the handler of its `connect` event has.
#[test]
fn the_answer_to_the_upgrade_may_take_longer_than_a_step() {
    let late = Fake::start(|mut stream| {
        let head = read_head(&mut stream);
        std::thread::sleep(Duration::from_millis(600));
        let _ = stream.write_all(format!("{}{WEBSOCKET}\r\n", accept(&head)).as_bytes());
        hold(stream);
    });
    SimpleClient::builder(late.url())
        .connect_step_timeout(Duration::from_millis(200))
        .connect_timeout(Duration::from_secs(5))
        .connect()
        .expect("connect");

    let silent = Fake::start(hold);
    let start = Instant::now();
    let error = SimpleClient::builder(silent.url())
        .connect_step_timeout(Duration::from_millis(200))
        .connect_timeout(Duration::from_millis(700))
        .connect()
        .expect_err("no answer");
    assert!(error.to_string().contains("time limit"), "{error}");
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(600) && took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn the_subprotocol_must_be_granted() {
    let missing = Fake::start(|mut stream| {
        upgrade_by_hand(&mut stream, "");
        hold(stream);
    });
    let error = fails(&missing.url());
    assert_eq!(error.kind(), ErrorKind::Subprotocol);
    assert!(error.to_string().contains("json.reliable.webpubsub.azure.v1"), "{error}");

    let unasked = Fake::start(|mut stream| {
        upgrade_by_hand(&mut stream, RELIABLE);
        hold(stream);
    });
    let error = SimpleClient::connect(unasked.url()).expect_err("none was asked for");
    assert_eq!(error.kind(), ErrorKind::Subprotocol);
}

#[test]
fn bytes_behind_the_upgrade_are_not_lost() {
    let eager = Fake::start(|mut stream| {
        let text = r#"{"type":"system","event":"connected","connectionId":"c1","userId":"u"}"#;
        let frame = format!("\u{0}{text}");
        let mut frame = frame.into_bytes();
        frame[0] = text.len() as u8;
        frame.insert(0, 0x81);
        // The answer to the upgrade and the first frame leave in one piece.
        let head = read_head(&mut stream);
        let mut all = format!("{}{WEBSOCKET}{RELIABLE}\r\n", accept(&head)).into_bytes();
        all.extend(frame);
        let _ = stream.write_all(&all);
        hold(stream);
    });
    let client = Client::connect(eager.url()).expect("connect");
    assert_eq!(client.connection_id().as_deref(), Some("c1"));
    assert_eq!(client.user_id().as_deref(), Some("u"));
}

#[test]
fn tokens_are_checked() {
    let emulator = emulator();
    let expired = ClientAccess::new().lifetime(Duration::from_secs(60));
    let url = emulator.url_for("hub", &expired).expect("url");
    emulator.advance_clock(Duration::from_secs(3600));
    for url in [
        url,
        emulator.url("other").replace("/hubs/other", "/hubs/hub"),
        emulator.url("hub") + "x",
        emulator.url("hub").split('?').next().expect("path").to_owned(),
    ] {
        let error = Client::connect(url).expect_err("must be refused");
        assert_eq!(error.http_status(), Some(401), "{error}");
    }
    let open = Emulator::builder().allow_anonymous(true).start().expect("emulator");
    let url = open.url("hub").split('?').next().expect("path").to_owned();
    Client::connect(url).expect("anonymous");
}

#[test]
fn the_token_can_go_into_the_header() {
    let emulator = emulator();
    let client =
        Client::builder(emulator.url("hub")).token_in_header(true).connect().expect("connect");
    client.join_group("g").expect("join");

    let fake = Fake::start(|mut stream| {
        let head = read_head(&mut stream);
        let good = header_only(&head);
        let status = if good { 418 } else { 500 };
        let _ = stream.write_all(format!("HTTP/1.1 {status} X\r\n\r\n").as_bytes());
    });
    let error = Client::builder(fake.url() + "&keep=1").token_in_header(true).connect();
    assert_eq!(error.expect_err("refused").http_status(), Some(418));
}

fn header_only(head: &str) -> bool {
    head.starts_with("GET /client/hubs/hub?keep=1 HTTP/1.1\r\n")
        && crate::support::header(head, "Authorization") == Some("Bearer SECRET-TOKEN")
}

const TLS_SETTING: &str = match cfg!(feature = "_tls") {
    true => "`TlsConfig::root_certificate_pem`",
    false => "this build of webpubsub has no TLS",
};

#[test]
fn wrong_settings_name_the_setting() {
    let url = "ws://127.0.0.1:1/client/hubs/h";
    let (zero, second) = (Duration::ZERO, Duration::from_secs(1));
    let with = || Client::builder(url);
    let keep_alive = |ping, dead| KeepAlive::new().ping_after(ping).dead_after(dead);
    let cases = [
        (with().max_in_flight(1001), "`max_in_flight`"),
        (with().max_in_flight(0), "`max_in_flight`"),
        (with().max_pending_calls(0), "`max_pending_calls`"),
        (with().max_pending_bytes(0), "`max_pending_bytes`"),
        (
            with().reconnect(Some(Reconnect::new().backoff(second * 2, second))),
            "`Reconnect::backoff`",
        ),
        (with().keep_alive(Some(keep_alive(second, second))), "`KeepAlive::dead_after`"),
        (with().keep_alive(Some(keep_alive(zero, second))), "`keep_alive(None)`"),
        (with().recovery(Recovery::new().attempt_timeout(zero)), "`Recovery::attempt_timeout`"),
        (
            with().event_queue(Some(QueueConfig::new().max_messages(0))),
            "`QueueConfig::max_messages`",
        ),
        (with().event_queue(Some(QueueConfig::new().max_bytes(0))), "`event_queue(None)`"),
        (with().read_buffer_bytes(1), "`read_buffer_bytes`"),
        (with().max_message_bytes(1023), "`max_message_bytes` must be 1024 at least"),
        (with().tls(TlsConfig::new().root_certificate_pem("nonsense")), TLS_SETTING),
        (with().connect_timeout(zero), "`connect_timeout`"),
        (with().connect_step_timeout(zero), "`connect_step_timeout`"),
        (with().name("a\0b"), "`name`"),
        (with().header("Host", "h"), "`header`"),
        (Client::builder("Endpoint=https://h;AccessKey=k;Version=1.0;"), "connection string"),
    ];
    for (builder, name) in cases {
        let error = builder.connect().expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Config, "{name}");
        assert!(error.to_string().contains(name), "{error}");
    }
    let error = SimpleClient::builder(url).publish_to(" ").connect().expect_err("blank");
    assert_eq!(error.kind(), ErrorKind::Config);
}

#[test]
fn a_url_provider_that_fails_hangs_or_panics_is_an_error() {
    use webpubsub::UrlSource;
    let cases: [(UrlSource, &str); 3] = [
        (UrlSource::provider(|_| Err::<String, _>("no token today")), "failed"),
        (UrlSource::provider(|_| -> Result<String, String> { panic!("on purpose") }), "panicked"),
        (
            UrlSource::provider(|_| -> Result<String, String> {
                loop {
                    std::thread::park();
                }
            }),
            "time limit",
        ),
    ];
    for (source, what) in cases {
        let start = Instant::now();
        // A panic prints a backtrace, which takes its time.
        let limit = if what == "time limit" { 300 } else { 10_000 };
        let error = Client::builder(source)
            .connect_timeout(Duration::from_millis(limit))
            .connect()
            .expect_err(what);
        assert_eq!(error.kind(), ErrorKind::UrlProvider);
        assert!(error.to_string().contains(what), "{error}");
        assert!(start.elapsed() < WATCHDOG);
    }
}

#[test]
fn a_log_line_says_of_which_client_it_is() {
    crate::support::log::log_of_threads();
    let emulator = emulator();
    let clients = [Client::connect(emulator.url("hub")), Client::connect(emulator.url("other"))];
    let clients = clients.map(|client| client.expect("connect"));
    let named = Client::builder(emulator.url("hub")).name("of-its-own").connect().expect("connect");
    let ids: Vec<_> = clients.iter().map(|client| client.connection_id().expect("open")).collect();
    emulator.faults().drop_connections();
    for client in clients.iter().chain([&named]) {
        crate::support::eventually("recovered", || client.stats().recoveries == 1);
    }
    for (thread, label) in [
        ("webpubsub", format!("[hub/{}] link lost", ids[0])),
        ("webpubsub", format!("[other/{}] link lost", ids[1])),
        ("of-its-own", "[of-its-own] link lost".to_owned()),
    ] {
        assert_eq!(crate::support::log::logged_by(thread, &label).len(), 1, "{label}");
    }
}

#[test]
fn all_subprotocols_and_the_simple_client_connect() {
    let emulator = emulator();
    for &protocol in Protocol::ALL {
        let client =
            Client::builder(emulator.url("hub")).protocol(protocol).connect().expect("connect");
        assert!(client.state().is_connected());
        client.join_group("g").expect("join");
        client.close().expect("close");
    }
    SimpleClient::connect(emulator.url("hub")).expect("connect").close().expect("close");
}

/// A listener whose backlog is full: connections to it hang.
fn black_hole() -> (TcpListener, std::net::SocketAddr, Vec<std::net::TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("addr");
    let mut fill = Vec::new();
    let short = Duration::from_millis(100);
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, short) {
        fill.push(stream);
        assert!(fill.len() < 10_000, "the backlog is never full");
    }
    (listener, address, fill)
}

#[test]
fn an_address_that_hangs_or_refuses_does_not_hold_back_the_next() {
    let emulator = Emulator::builder().allow_anonymous(true).start().expect("emulator");
    let good = std::net::SocketAddr::from(([127, 0, 0, 1], emulator.port()));
    let (_listener, hangs, _fill) = black_hole();
    let refuses = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("addr");
    let by_name = |addresses: Vec<std::net::SocketAddr>| {
        Client::builder("ws://service.test/client/hubs/hub")
            .connect_step_timeout(Duration::from_secs(5))
            .resolver(move |_, _| Ok(addresses.clone()))
            .connect()
    };
    let start = Instant::now();
    for addresses in [vec![hangs, good], vec![refuses, good], vec![refuses, hangs, good]] {
        by_name(addresses).expect("connect");
    }
    // Two head starts of 250 ms, and far from the limit of the step.
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    let error = by_name(vec![refuses, refuses]).expect_err("nobody there");
    assert_eq!(error.kind(), ErrorKind::Connect);
    assert!(error.to_string().contains("all of its 2 addresses"), "{error}");
    assert_eq!(by_name(Vec::new()).expect_err("none").kind(), ErrorKind::NameLookup);
    crate::support::eventually("all dialing threads gone", || {
        crate::support::threads_named("webpubsub-dial") == 0
    });
}
