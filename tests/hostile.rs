//! Hostile peers: what comes without end stops no timer and takes no memory.
#![cfg(target_os = "linux")]

use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use webpubsub::{Client, Event, Publish, QueueConfig};

use crate::support::log::{log_of_threads, logged_by};
use crate::support::peer::{self, Heard};
use crate::support::{Fake, WATCHDOG, next_event, within};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// What a peer sends without end.
#[derive(Clone, Copy)]
struct Flood {
    name: &'static str,
    /// What is sent once, before it.
    begin: fn() -> Vec<u8>,
    /// What is sent over and over; `n` counts from 0.
    again: fn(n: u64) -> Vec<u8>,
}

const MESSAGES: Flood = Flood {
    name: "messages",
    begin: Vec::new,
    again: |n| (0..100).flat_map(|i| peer::message(2 + n * 100 + i, "x")).collect(),
};
const PINGS: Flood = Flood {
    name: "pings",
    begin: Vec::new,
    again: |_| peer::frame(0x89, &[b'x'; 125]).repeat(100),
};
const UNKNOWN: Flood = Flood {
    name: "unknown frames",
    begin: Vec::new,
    again: |_| peer::text(r#"{"type":"news","data":"x"}"#).repeat(100),
};
const EMPTY_FRAGMENTS: Flood = Flood {
    name: "empty fragments",
    begin: || peer::frame(0x01, b""),
    again: |_| peer::frame(0x00, b"").repeat(5000),
};
const BIG_FRAGMENTS: Flood = Flood {
    name: "big fragments",
    begin: || peer::frame(0x01, b"x"),
    again: |_| peer::frame(0x00, &[b'x'; 65536]),
};
const FLOODS: [Flood; 5] = [MESSAGES, PINGS, UNKNOWN, EMPTY_FRAGMENTS, BIG_FRAGMENTS];

impl Flood {
    /// Until the client goes away.
    fn run(&self, stream: &mut TcpStream) {
        let mut next = (self.begin)();
        // A peer whose client is stuck must not hold the test.
        stream.set_write_timeout(Some(WATCHDOG)).expect("timeout");
        for n in 0.. {
            if stream.write_all(&next).is_err() {
                break;
            }
            next = (self.again)(n);
        }
    }
}

/// What a flood must not delay.
fn keeps_its_times(flood: Flood) {
    let heard = Heard::default();
    let ears = heard.clone();
    let fake = Fake::start(move |mut stream| {
        peer::open(&mut stream);
        ears.listen(&stream);
        stream.write_all(&peer::message(1, "x")).expect("write");
        flood.run(&mut stream);
    });
    log_of_threads();
    let builder = Client::builder(fake.url()).event_queue(None).close_timeout(ms(500));
    let client = builder.name(flood.name).connect().expect("connect");
    let start = Instant::now();
    let call = client.start(Publish::new("g", "x").timeout(ms(500))).expect("start");
    let outcome = call.receiver().recv_timeout(ms(3000));
    let took = start.elapsed();
    let error = outcome.unwrap_or_else(|_| panic!("{}: not told within 3 s", flood.name));
    assert!(error.expect_err("no ack").is_timeout());
    assert!(took >= ms(500) && took < ms(1500), "{}: a deadline of 500 ms: {took:?}", flood.name);
    thread::sleep(ms(1500).saturating_sub(start.elapsed()));
    let acks = heard.times("sequenceAck");
    assert!(
        acks.first().is_some_and(|at| *at < start + ms(1500)),
        "{}: no sequence ack within 1.5 s",
        flood.name
    );
    let start = Instant::now();
    client.close().expect("close");
    assert!(start.elapsed() < ms(2000), "{}: close: {:?}", flood.name, start.elapsed());
    // At most one line a second, however many frames there are.
    let lines = logged_by(flood.name, "").len();
    assert!(lines <= 4, "{}: {lines} lines", flood.name);
}

#[test]
fn steady_traffic_stops_no_timer() {
    for flood in [MESSAGES, PINGS, UNKNOWN, EMPTY_FRAGMENTS] {
        keeps_its_times(flood);
    }
}

#[test]
fn a_sequence_id_that_cannot_be_true_ends_the_session() {
    let fake = Fake::start(|mut stream| {
        assert!(!peer::upgrade(&mut stream), "the session is over, so it is not recovered");
        stream.write_all(&peer::connected()).expect("write");
        stream.write_all(&peer::message(1, "x")).expect("write");
        stream.write_all(&peer::message(2_000_000_000, "x")).expect("write");
        crate::support::hold(stream);
    });
    let client = Client::connect(fake.url()).expect("connect");
    assert!(matches!(next_event(&client), Event::Connected(_)));
    assert!(matches!(next_event(&client), Event::ServerMessage(_)));
    let event = client.recv_timeout(ms(3000)).expect("open");
    let Some(Event::Disconnected(lost)) = event else { panic!("{event:?}") };
    let text = lost.cause.to_string();
    assert!(text.contains("sequence id 2000000000"), "{text}");
    assert!(matches!(next_event(&client), Event::Reconnecting(_)));
}

// --- memory, each case in a process of its own -------------------------------------------------

const VARIABLE: &str = "WEBPUBSUB_TEST_HOSTILE_PEER";
const MOST: u64 = 16 << 20;

/// Two at a time: each keeps a core or more busy, and then waits for its close.
fn in_processes(seconds: u64) {
    let (some, others) = FLOODS.split_at(FLOODS.len() / 2);
    thread::scope(|scope| {
        scope.spawn(|| some.iter().for_each(|flood| in_a_process(flood.name, seconds)));
        others.iter().for_each(|flood| in_a_process(flood.name, seconds));
    });
}

fn in_a_process(flood: &'static str, seconds: u64) {
    let done = within(WATCHDOG * 4, move || {
        let program = std::env::current_exe().expect("this program");
        let mut command = Command::new(program);
        command.args(["hostile::child", "--exact", "--nocapture", "--test-threads=1"]);
        command.env(VARIABLE, format!("{seconds} {flood}")).output().expect("started")
    });
    let said = String::from_utf8_lossy(&done.stdout);
    let complained = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{flood}: {}\n{said}\n{complained}", done.status);
    println!("{}", said.lines().find(|line| line.contains("grew by")).expect("a figure"));
}

#[test]
fn a_peer_that_sends_without_end_and_never_reads_takes_no_memory() {
    in_processes(3);
}

#[test]
#[ignore = "takes two and a half minutes"]
fn nor_does_it_in_half_a_minute() {
    in_processes(30);
}

/// Does nothing unless it is started by [`in_processes`].
#[test]
fn child() {
    let Ok(case) = std::env::var(VARIABLE) else { return };
    let (seconds, name) = case.split_once(' ').expect("two words");
    let flood = FLOODS.into_iter().find(|flood| flood.name == name).expect("a flood");
    measure(flood, Duration::from_secs(seconds.parse().expect("a number")));
}

fn measure(flood: Flood, time: Duration) {
    let fake = Fake::start(move |mut stream| {
        peer::open(&mut stream);
        thread::sleep(ms(200));
        flood.run(&mut stream);
    });
    let builder = Client::builder(fake.url())
        .event_queue(Some(QueueConfig::new().overflow(webpubsub::Overflow::DropNewest)));
    // What is put together of fragments may be as large as this.
    let client = builder.max_message_bytes(2 << 20).connect().expect("connect");
    let before = memory("VmRSS");
    let start = Instant::now();
    // Somebody is writing all the time, which the peer never lets come to an end.
    let writer = client.clone();
    thread::spawn(move || {
        let body = "x".repeat(500_000);
        while start.elapsed() < time {
            let _ = writer.fire_and_forget(Publish::new("g", body.as_str()).timeout(ms(5000)));
        }
    });
    let mut latest = Duration::ZERO;
    while start.elapsed() < time {
        let started = Instant::now();
        let limit = ms(300);
        if let Ok(call) = client.start(Publish::new("g", "x").timeout(limit)) {
            call.receiver().recv_timeout(WATCHDOG).expect("told").expect_err("no ack");
        }
        latest = latest.max(started.elapsed().saturating_sub(limit));
    }
    let grown = memory("VmHWM").saturating_sub(before);
    let closing = Instant::now();
    let _ = client.close();
    let closed = closing.elapsed();
    println!(
        "{}: grew by {} KiB; {} MiB read; a call was {latest:?} late; closed in {closed:?}",
        flood.name,
        grown >> 10,
        client.stats().bytes_in >> 20,
    );
    assert!(grown <= MOST, "{grown} B are more than {MOST} B");
    assert!(latest < ms(1000), "a call was told {latest:?} late");
    // The peer does not answer the Close, so all of the two seconds is used.
    assert!(closed < ms(3500), "close took {closed:?}");
}

/// A figure of this process in bytes: `VmRSS` is what is resident now, `VmHWM` the peak of it.
fn memory(which: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix(which)?.strip_prefix(':'));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("a figure in KiB") << 10
}
