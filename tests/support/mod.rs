//! What the tests share: watchdogs, a fake peer with a script, counts of threads.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use webpubsub::emulator::{Emulator, EmulatorBuilder, EventAnswer};
use webpubsub::{Client, Event, GroupMessage, Protocol};

pub(crate) mod log;
pub(crate) mod peer;

/// For steps that take milliseconds: some ten times what a slow machine needs.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(20);

/// Runs a test body on a thread of its own and fails if it is not through in time.
pub(crate) fn within<T: Send + 'static>(
    limit: Duration,
    body: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (tx, rx) = mpsc::channel();
    let name = thread::current().name().unwrap_or("test").to_owned();
    let worker =
        thread::Builder::new().name(name).spawn(move || drop(tx.send(body()))).expect("thread");
    match rx.recv_timeout(limit) {
        Ok(value) => {
            worker.join().expect("joined");
            value
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(worker.join().expect_err("panicked"))
        }
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("watchdog: not finished within {limit:?}"),
    }
}

/// Waits for a condition that another thread brings about.
pub(crate) fn eventually(what: &str, condition: impl FnMut() -> bool) {
    eventually_within(WATCHDOG, what, condition);
}

pub(crate) fn eventually_within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < end, "watchdog: never {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn emulator() -> Emulator {
    Emulator::start().expect("emulator")
}

/// With an event handler that accepts everything.
pub(crate) fn emulator_with_handler() -> Emulator {
    Emulator::builder().event_handler(|_| EventAnswer::Nothing).start().expect("emulator")
}

pub(crate) fn client(emulator: &Emulator) -> Client {
    Client::connect(emulator.url("hub")).expect("connect")
}

/// All subprotocols of this build, for a loop; a failed test shows which one it was at.
pub(crate) fn protocols() -> impl Iterator<Item = Protocol> {
    Protocol::ALL.iter().copied().inspect(|protocol| println!("over {}", protocol.name()))
}

/// The forms in which the emulator writes JSON, for tests in which text passes: escaped as the
/// service does, and plain. All other tests run with the first, which is the default.
pub(crate) fn forms() -> impl Iterator<Item = EmulatorBuilder> {
    [false, true].into_iter().map(|plain| {
        println!("{}", if plain { "plain JSON" } else { "JSON as the service writes it" });
        Emulator::builder().plain_json(plain)
    })
}

/// All subprotocols of this build, those of JSON with each of the [`forms`].
pub(crate) fn protocols_and_forms() -> impl Iterator<Item = (Protocol, EmulatorBuilder)> {
    protocols().flat_map(|protocol| {
        let count = if protocol.is_text() { 2 } else { 1 };
        forms().take(count).map(move |form| (protocol, form))
    })
}

/// Those from whose sessions a lost link can be recovered, or the others.
pub(crate) fn reliable_protocols(reliable: bool) -> impl Iterator<Item = Protocol> {
    protocols().filter(move |protocol| protocol.is_reliable() == reliable)
}

pub(crate) fn client_over(emulator: &Emulator, protocol: Protocol) -> Client {
    Client::builder(emulator.url("hub")).protocol(protocol).connect().expect("connect")
}

/// Whether the subprotocol tells who sent a group message.
pub(crate) fn tells_sender(protocol: Protocol) -> bool {
    protocol.is_text()
}

/// The next group message; lifecycle events are skipped.
pub(crate) fn next_group_message(client: &Client) -> GroupMessage {
    loop {
        match client.recv_timeout(WATCHDOG).expect("queue open") {
            Some(Event::GroupMessage(message)) => return message,
            Some(_) => {}
            None => panic!("watchdog: no group message"),
        }
    }
}

pub(crate) fn next_event(client: &Client) -> Event {
    client.recv_timeout(WATCHDOG).expect("queue open").expect("watchdog: no event")
}

/// A peer that does what a closure says with each connection, on a thread each.
pub(crate) struct Fake {
    pub(crate) port: u16,
}

impl Fake {
    pub(crate) fn start(script: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("address").port();
        let script = std::sync::Arc::new(script);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let script = std::sync::Arc::clone(&script);
                thread::spawn(move || script(stream));
            }
        });
        Self { port }
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://127.0.0.1:{}/client/hubs/hub?access_token=SECRET-TOKEN", self.port)
    }
}

/// Reads an HTTP request's head.
pub(crate) fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

/// Answers the upgrade by hand; `extra` are further header lines, each with its line end. Returns the
/// head of the request.
pub(crate) fn upgrade_by_hand(stream: &mut TcpStream, extra: &str) -> String {
    let head = read_head(stream);
    let key = header(&head, "Sec-WebSocket-Key").unwrap_or("");
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{extra}\r\n"
    );
    stream.write_all(answer.as_bytes()).expect("write");
    head
}

pub(crate) const RELIABLE: &str = "Sec-WebSocket-Protocol: json.reliable.webpubsub.azure.v1\r\n";

/// Swallows what comes until the peer goes away.
pub(crate) fn hold(mut stream: TcpStream) {
    let mut buf = [0; 4096];
    while matches!(stream.read(&mut buf), Ok(n) if n > 0) {}
}

/// Everything that could be shown to a person about an error.
pub(crate) fn shown(error: &webpubsub::Error) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = std::error::Error::source(error);
    while let Some(e) = source {
        text.push_str(&format!(" {e} {e:?}"));
        source = e.source();
    }
    text
}

/// How many threads of this process have this name. Linux cuts names at 15 bytes.
pub(crate) fn threads_named(name: &str) -> usize {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0 };
    let comm = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).ok();
    tasks.flatten().filter_map(comm).filter(|c| c.trim() == name).count()
}
