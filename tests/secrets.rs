//! Secrets are nowhere to be seen: not in the log, not in errors, not in `Debug`.
//!
//! A binary of its own, because the logger is the whole process's.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Mutex;
use std::time::Duration;

use webpubsub::emulator::Emulator;
use webpubsub::{
    Client, ClientAccess, ConnectionString, Event, Proxy, Publish, Reconnect, Recovery, Role,
    Secret, SimpleClient, TlsConfig, UrlSource,
};

#[allow(dead_code)] // it serves the other binary too
mod support;

use support::{Fake, WATCHDOG, next_event, read_head, shown};

const KEY: &str = "MARKED-ACCESS-KEY-0123456789";
const PROXY_PASSWORD: &str = "MARKED-PROXY-PASSWORD";
const RECONNECTION: &str = "MARKED-RECONNECTION-TOKEN";
const HEADER: &str = "MARKED-HEADER";

/// Everything that was logged, of all targets and levels.
static LOG: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

struct Collector;

impl log::Log for Collector {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        let mut log = LOG.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        log.push((record.target().to_owned(), record.args().to_string()));
    }
    fn flush(&self) {}
}

/// Texts that a person could come to see, with where each came from.
#[derive(Default)]
struct Texts(Vec<(String, String)>);

impl Texts {
    fn note(&mut self, from: &str, text: impl Into<String>) {
        self.0.push((from.to_owned(), text.into()));
    }

    fn error(&mut self, from: &str, error: &webpubsub::Error) {
        self.note(from, shown(error));
    }

    fn events(&mut self, from: &str, client: &Client) {
        while let Ok(Some(event)) = client.try_recv() {
            self.note(from, format!("{event:?}"));
        }
    }
}

/// The token in a client access URL, in the three parts that a JWT has, and whole.
fn token_of(url: &str) -> Vec<String> {
    let token = url.split("access_token=").nth(1).expect("token").to_owned();
    let signature = token.rsplit('.').next().expect("signature").to_owned();
    vec![token, signature]
}

#[test]
fn secrets_are_nowhere_to_be_seen() {
    log::set_logger(&Collector).expect("the only logger");
    log::set_max_level(log::LevelFilter::Trace);
    let mut texts = Texts::default();
    let mut marks = vec![KEY.to_owned(), PROXY_PASSWORD.to_owned(), HEADER.to_owned()];

    let emulator = Emulator::builder()
        .access_key(KEY)
        .negotiate("hub", ClientAccess::new())
        .log_frames(true)
        .start()
        .expect("emulator");
    let url = emulator.url("hub");
    marks.extend(token_of(&url));
    texts.note("emulator", format!("{emulator:?} {:?}", emulator.connections("hub")));

    connect_and_recover(&emulator, &url, &mut texts, &mut marks);
    refusals(&url, &mut texts);
    marks.extend(negotiate(&emulator));
    marks.push(long_token(&mut texts));
    malformed_input(&emulator, &url, &mut texts);
    proxy_failures(&url, &mut texts);
    types(&emulator, &mut texts);

    let log = LOG.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // tungstenite's own trace target prints frames; the reconnection token comes in one.
    let ours = log.iter().filter(|(target, _)| !target.starts_with("tungstenite"));
    let checked: Vec<_> = ours.chain(&texts.0).collect();
    assert!(checked.len() > 100, "only {} texts were collected", checked.len());
    for part in ["connected: ", "recovered: ", "recovery refused: ", "refused: 502 ", "***"] {
        let of_emulator = log.iter().filter(|(target, _)| target == "webpubsub::emulator");
        assert!(of_emulator.map(|(_, line)| line).any(|line| line.contains(part)), "no {part}");
    }
    assert!(log.iter().any(|(target, _)| target == "webpubsub::client::reader::report"));
    let client_lines = log.iter().filter(|(target, _)| target.starts_with("webpubsub::client"));
    let client_lines: Vec<_> = client_lines.map(|(_, line)| line).collect();
    assert!(client_lines.len() > 20, "{client_lines:?}");
    for line in client_lines {
        // The hub is unknown while no URL has been had.
        let label = line.split(['/', ']']).next().unwrap_or_default();
        assert!(["[hub", "[h", "[named", "[?"].contains(&label), "whose is it? {line}");
    }
    for (from, text) in &checked {
        for mark in &marks {
            assert!(!text.contains(mark.as_str()), "{from}: a secret in: {text}");
        }
    }
    // Of tungstenite's only the frames may hold one, and only the reconnection token.
    for (target, text) in log.iter().filter(|(target, _)| target.starts_with("tungstenite")) {
        for mark in &marks[..5] {
            assert!(!text.contains(mark.as_str()), "{target}: a secret in: {text}");
        }
    }
    println!(
        "{} log records and {} other texts checked for {} marks",
        log.len(),
        texts.0.len(),
        marks.len()
    );
}

/// Connecting in every way, a recovery, a reconnect, a close.
fn connect_and_recover(emulator: &Emulator, url: &str, texts: &mut Texts, marks: &mut Vec<String>) {
    marks.push(RECONNECTION.to_owned());
    let ms = Duration::from_millis;
    let builder = Client::builder(url)
        .header("X-Gateway-Key", HEADER)
        .reconnect(Some(Reconnect::new().backoff(ms(1), ms(10))))
        .recovery(Recovery::new().attempt_interval(ms(20)));
    texts.note("builder", format!("{builder:?}"));
    let client = builder.connect().expect("connect");
    texts.note("client", format!("{client:?}"));
    client.join_group("g").expect("join");
    let pending = client.start(Publish::new("g", "x")).expect("start");
    texts.note("pending", format!("{pending:?}"));
    pending.wait().expect("ack");
    emulator.faults().refuse_recoveries(2, 502);
    emulator.faults().drop_connections();
    while !matches!(next_event(&client), Event::Recovered(_)) {}
    emulator.faults().recovery_closes_1008(1);
    emulator.faults().drop_connections();
    while !matches!(next_event(&client), Event::Connected(_)) {}
    texts.events("events", &client);
    texts.note("stats", format!("{:?}", client.stats()));
    client.close().expect("close");
    texts.note("client", format!("{client:?}"));
    // The reconnection tokens that went over the wire are in the recording.
    for frame in emulator.frames() {
        if let Some(rest) = frame.text.split("\"reconnectionToken\":\"").nth(1) {
            marks.push(rest.split('"').next().expect("token").to_owned());
        }
    }
    assert!(marks.len() >= 8, "no reconnection token was seen");
    let by_header = Client::builder(url).token_in_header(true).name("named").connect();
    let by_header = by_header.expect("connect");
    texts.note("client", format!("{by_header:?}"));
    let simple = SimpleClient::connect(url).expect("connect");
    texts.note("simple", format!("{simple:?}"));
}

/// A token that was handed out over HTTP.
fn negotiate(emulator: &Emulator) -> Vec<String> {
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", emulator.port())).expect("connect");
    socket.write_all(b"GET /negotiate HTTP/1.1\r\n\r\n").expect("write");
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut socket, &mut answer).expect("an answer");
    token_of(answer.trim_end_matches("\"}"))
}

/// The peer echoes what it was sent, in every refusal.
fn refusals(url: &str, texts: &mut Texts) {
    for status in [302, 400, 401, 403, 404, 429, 500, 503] {
        let echo = Fake::start(move |mut stream| {
            let head = read_head(&mut stream);
            let first = head.lines().next().unwrap_or("").to_owned();
            let path = first.split(' ').nth(1).unwrap_or("");
            let answer = format!(
                "HTTP/1.1 {status} {first}\r\nLocation: {path}\r\nConnection: close\r\n\r\n{head}"
            );
            let _ = stream.write_all(answer.as_bytes());
        });
        let query = url.split_once('?').expect("query").1;
        let url = format!("ws://127.0.0.1:{}/client/hubs/hub?{query}", echo.port);
        for header in [false, true] {
            let builder = Client::builder(url.as_str()).token_in_header(header);
            let error = builder.header("X-Key", HEADER).connect().expect_err("refused");
            texts.error("refusal", &error);
        }
    }
}

/// A token longer than the part of a body that is shown.
fn long_token(texts: &mut Texts) -> String {
    let token = format!("MARKED{}", "t".repeat(600));
    let echo = Fake::start(|mut stream| {
        let head = read_head(&mut stream);
        let path = head.split(' ').nth(1).unwrap_or("").to_owned();
        let body = format!("invalid token: {}", path.split('=').nth(1).unwrap_or(""));
        let _ = stream.write_all(format!("HTTP/1.1 401 No\r\n\r\n{body}").as_bytes());
    });
    let url = format!("ws://127.0.0.1:{}/client/hubs/hub?access_token={token}", echo.port);
    texts.error("long token", &Client::connect(url).expect_err("refused"));
    "MARKEDttt".to_owned()
}

/// Bad URLs, bad frames, bad settings.
fn malformed_input(emulator: &Emulator, url: &str, texts: &mut Texts) {
    let token = &token_of(url)[0];
    for bad in [
        format!("wss//{token}"),
        format!("https://h/client/hubs/h?access_token={token}"),
        format!("ws://{token}:x/"),
        format!("ws://h?access_token={token}"),
        format!("ws://127.0.0.1:1/client/hubs/h?access_token={token}"),
    ] {
        texts.error("bad url", &Client::connect(bad.as_str()).expect_err("bad"));
    }
    let builder = Client::builder(url).header("bad name", HEADER);
    texts.error("bad header", &builder.connect().expect_err("bad"));
    let builder = Client::builder(url).header("X", format!("{HEADER}\n"));
    texts.error("bad header", &builder.connect().expect_err("bad"));
    let tls = TlsConfig::new().client_certificate_pem("-", KEY);
    texts.note("tls", format!("{tls:?}"));
    let builder = Client::builder(url).tls(tls);
    texts.note("builder", format!("{builder:?}"));
    if cfg!(feature = "_tls") {
        texts.error("bad key", &builder.connect().expect_err("bad"));
    }
    let provider = UrlSource::provider(|_| Err::<String, _>("no URL today"));
    texts.note("source", format!("{provider:?} {:?}", UrlSource::from(url)));
    texts.error("provider", &Client::connect(provider).expect_err("bad"));

    let client = Client::connect(url).expect("connect");
    let id = client.connection_id().expect("connected");
    let frame = format!(
        r#"{{"type":"system","event":"connected","connectionId":7,"reconnectionToken":"{RECONNECTION}"}}"#
    );
    emulator.faults().send_raw_text(Some(&*id), &frame);
    client.join_group("g").expect("alive");
    assert_eq!(client.stats().malformed, 1);
    #[cfg(feature = "__codecs")]
    texts.note("decoder", malformed(&frame));

    // Whoever encodes a whole URL encodes the `?` too.
    for path in ["/client/hubs/chat", "/api/hubs/chat"] {
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", emulator.port())).expect("TCP");
        let request = format!(
            "GET {path}%3Faccess_token={token} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).expect("write");
        let mut answer = Vec::new();
        let _ = std::io::Read::read_to_end(&mut socket, &mut answer);
        assert!(answer.starts_with(b"HTTP/1.1 "), "no answer");
    }
}

#[cfg(feature = "__codecs")]
fn malformed(frame: &str) -> String {
    let mut decoder = webpubsub::__codecs::Decoder::new(webpubsub::Protocol::ReliableJson);
    let good = frame.replace(":7", ":\"c\"");
    let frame = |text: &str| webpubsub::__codecs::Frame::Text(text.into());
    format!("{:?} {:?}", decoder.decode(&frame(&good)), frame_error(&mut decoder, frame(&good)))
}

#[cfg(feature = "__codecs")]
fn frame_error(
    decoder: &mut webpubsub::__codecs::Decoder,
    frame: webpubsub::__codecs::Frame,
) -> String {
    let cut = webpubsub::__codecs::Frame::Binary(frame.as_bytes().to_vec().into());
    format!("{:?}", decoder.decode(&cut))
}

fn proxy_failures(url: &str, texts: &mut Texts) {
    let echo = Fake::start(|mut stream| {
        let head = read_head(&mut stream);
        let head = head.replace("\r\n", " ");
        let _ = stream.write_all(format!("HTTP/1.1 407 {head}\r\n\r\n").as_bytes());
    });
    for proxy in [
        format!("http://u:{PROXY_PASSWORD}@127.0.0.1:{}", echo.port),
        format!("socks5://u:{PROXY_PASSWORD}@h"),
        format!("http://u:{PROXY_PASSWORD}@"),
    ] {
        let refused = Proxy::new(proxy).and_then(|proxy| {
            texts.note("proxy", format!("{proxy:?}"));
            let builder = Client::builder(url).proxy(Some(proxy));
            texts.note("builder", format!("{builder:?}"));
            builder.connect()
        });
        texts.error("proxy", &refused.expect_err("refused"));
    }
}

/// `Debug` and `Display` of what holds secrets.
fn types(emulator: &Emulator, texts: &mut Texts) {
    let text = emulator.connection_string();
    let parsed = ConnectionString::parse(&text).expect("good");
    texts.note("connection string", format!("{parsed:?}"));
    texts.note("secret", format!("{:?} {}", Secret::new(KEY), Secret::new(KEY)));
    for bad in [
        format!("AccessKey={KEY}"),
        format!("Endpoint=ftp://h;AccessKey={KEY}"),
        format!("Endpoint=http://{KEY}@h;AccessKey={KEY};"),
        format!("Endpoint=http://h;AccessKey={KEY};Port={KEY}"),
        text.replace("Endpoint", "End"),
    ] {
        texts.error("connection string", &ConnectionString::parse(&bad).expect_err("bad"));
    }
    let access = ClientAccess::new().user_id("u").role(Role::send());
    let minted = UrlSource::connection_string(parsed.clone(), "hub", access.clone());
    texts.note("source", format!("{minted:?} {access:?}"));
    let url = parsed.client_access_url("hub", &access).expect("good");
    texts.note("url", format!("{url:?} {url} {:?}", UrlSource::from(url.clone())));
    let client = Client::connect(minted).expect("connect");
    texts.note("client", format!("{client:?}"));
    assert_eq!(client.user_id().as_deref(), Some("u"));
    let bad = ClientAccess::new().role(Role::send_to_groups("***********"));
    texts.error("role", &parsed.client_access_url("hub", &bad).expect_err("bad"));
    let mut all = String::new();
    for frame in &emulator.frames() {
        let _ = write!(all, "{frame:?}");
    }
    texts.note("recording", all);
    assert!(client.recv_timeout(WATCHDOG).expect("open").is_some());
}
