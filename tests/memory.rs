//! Bounded memory: a consumer that never drains its queue, under a flood of 200,000 messages.
//!
//! Each case runs in a process of its own (this test binary again, see [`child`]), so that nothing
//! else moves the figure. The flood comes from a hand-made peer that writes one small buffer over
//! and over, and what the client does not take stays in the kernel: what grows is the client.
//!
//! The bound is the one of `QueueConfig`: so many messages (a greater number while a
//! call is in flight), or so many bytes of frames. To it comes what an event takes beside its frame
//! ([`PER_EVENT`]) and a fixed allowance ([`ALLOWANCE`]) for thread stacks, buffers of the
//! connection and the allocator's own arenas.
#![cfg(target_os = "linux")]

use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use webpubsub::{Client, ClientBuilder, Event, Overflow, Publish, QueueConfig};

use crate::support::{
    Fake, RELIABLE, WATCHDOG, eventually, eventually_within, hold, upgrade_by_hand, within,
};

const MESSAGES: u64 = 200_000;
const DATA: usize = 256;
/// An event and its place in the channel, and the note of its size.
const PER_EVENT: u64 = 2 * size_of::<Event>() as u64;
const ALLOWANCE: u64 = 4 << 20;
/// An unbounded queue would take far more than any case here may.
const UNBOUNDED: u64 = MESSAGES * (DATA as u64 + size_of::<Event>() as u64);

const VARIABLE: &str = "WEBPUBSUB_TEST_MEMORY_CASE";

/// What one case is about: how the client is built, and what it may take.
struct Case {
    name: &'static str,
    build: fn(ClientBuilder) -> ClientBuilder,
    /// Start a call that will never be acked.
    call: bool,
    /// The most messages that may be in the queue; `None`: as many as come.
    messages: Option<u64>,
    ends: Ends,
}

/// What the flood comes to.
#[derive(Clone, Copy, PartialEq)]
enum Ends {
    /// The peer cannot write on.
    Blocked,
    /// The client has read everything.
    Taken,
    /// The client has stopped.
    Stopped,
}

const BYTES: usize = 4 << 20;

const CASES: [Case; 7] = [
    Case {
        name: "wait",
        build: |builder| builder,
        call: false,
        messages: Some(1024),
        ends: Ends::Blocked,
    },
    Case {
        name: "wait-in-flight",
        build: |builder| builder,
        call: true,
        messages: Some(16 * 1024),
        ends: Ends::Blocked,
    },
    Case {
        name: "wait-bytes",
        build: |builder| {
            builder.event_queue(Some(QueueConfig::new().max_messages(1 << 30).max_bytes(BYTES)))
        },
        call: false,
        messages: Some((BYTES / DATA) as u64),
        ends: Ends::Blocked,
    },
    Case {
        name: "drop-newest",
        build: |builder| {
            builder.event_queue(Some(QueueConfig::new().overflow(Overflow::DropNewest)))
        },
        call: false,
        messages: Some(1024),
        ends: Ends::Taken,
    },
    Case {
        name: "disconnect",
        build: |builder| builder.event_queue(Some(QueueConfig::new().overflow(Overflow::Stop))),
        call: false,
        messages: Some(1024),
        ends: Ends::Stopped,
    },
    Case {
        name: "no-queue",
        build: |builder| builder.event_queue(None),
        call: false,
        messages: Some(0),
        ends: Ends::Taken,
    },
    Case {
        name: "unbounded",
        build: |builder| {
            builder.event_queue(Some(QueueConfig::new().max_messages(1 << 30).max_bytes(1 << 40)))
        },
        call: false,
        messages: None,
        ends: Ends::Taken,
    },
];

#[test]
fn a_consumer_that_never_drains_stays_within_the_bound_when_the_reader_waits() {
    in_a_process("wait");
    in_a_process("wait-in-flight");
    in_a_process("wait-bytes");
}

#[test]
fn a_consumer_that_never_drains_stays_within_the_bound_when_messages_are_dropped() {
    in_a_process("drop-newest");
}

#[test]
fn a_consumer_that_never_drains_stays_within_the_bound_when_it_is_disconnected() {
    in_a_process("disconnect");
}

#[test]
fn without_a_queue_a_flood_takes_no_memory() {
    in_a_process("no-queue");
}

/// Otherwise the other tests would prove nothing.
#[test]
fn the_measurement_sees_a_queue_without_a_bound() {
    in_a_process("unbounded");
}

fn in_a_process(case: &'static str) {
    let done = within(WATCHDOG * 4, move || {
        let program = std::env::current_exe().expect("this program");
        let mut command = Command::new(program);
        command.args(["memory::child", "--exact", "--nocapture", "--test-threads=1"]);
        command.env(VARIABLE, case).output().expect("started")
    });
    let said = String::from_utf8_lossy(&done.stdout);
    let complained = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{case}: {}\n{said}\n{complained}", done.status);
    let figures = said.lines().find(|line| line.contains("grew by"));
    println!("{}", figures.expect("the child ran its case"));
}

/// Does nothing unless it is started by [`in_a_process`].
#[test]
fn child() {
    let Ok(name) = std::env::var(VARIABLE) else { return };
    let case = CASES.iter().find(|case| case.name == name).expect("a case of that name");
    measure(case);
}

fn measure(case: &Case) {
    let flood = Arc::new(Flood::default());
    let for_peer = Arc::clone(&flood);
    let peer = Fake::start(move |stream| for_peer.run(stream));
    let client = (case.build)(Client::builder(peer.url())).connect().expect("connect");
    // A queue that nobody asks for would drop what it has no room for.
    let _events = client.events();
    let call = case.call.then(|| client.start(Publish::new("g", "x")).expect("start"));

    let before = memory("VmRSS");
    flood.go.store(true, SeqCst);
    match case.ends {
        // Some hundred megabytes, on a machine that may be busy.
        Ends::Taken => {
            eventually_within(WATCHDOG * 3, "all read", || client.stats().messages_in == MESSAGES)
        }
        Ends::Blocked => eventually("blocked", || flood.blocked.load(SeqCst)),
        Ends::Stopped => eventually("stopped", || !client.state().is_connected()),
    }
    let grown = memory("VmHWM").saturating_sub(before);

    let (stats, frame) = (client.stats(), flood.frame.load(SeqCst));
    // A message is a slice of its read buffer, of which a short read leaves a part unused: twice.
    let bound = case.messages.map(|n| n * (2 * frame + PER_EVENT) + ALLOWANCE);
    let shown = bound.map_or("none".to_owned(), |bound| format!("{} KiB", bound >> 10));
    println!(
        "memory, {}: grew by {} KiB, bound {shown}; {} messages of {frame} B read, {} in the queue",
        case.name,
        grown >> 10,
        stats.messages_in,
        stats.queue_len,
    );
    match bound {
        Some(bound) => {
            assert!(bound < UNBOUNDED / 2, "a bound of {bound} B could not fail");
            assert!(grown <= bound, "{grown} B are more than {bound} B");
        }
        None => assert!(grown > UNBOUNDED / 2, "{grown} B: the measurement sees nothing"),
    }
    match (case.ends, case.messages) {
        (Ends::Blocked, _) => assert!(stats.messages_in < MESSAGES && stats.dropped == 0),
        // `Connected` has a place in the queue too.
        (Ends::Taken, Some(n)) if n > 0 => assert_eq!(stats.dropped, MESSAGES - n),
        _ => {}
    }
    drop(call);
}

/// A peer that floods one client once it is told to.
#[derive(Default)]
struct Flood {
    go: AtomicBool,
    /// The peer cannot write on: nothing was taken for a second.
    blocked: AtomicBool,
    /// The size of the last frame's text.
    frame: AtomicU64,
}

impl Flood {
    fn run(&self, mut stream: TcpStream) {
        upgrade_by_hand(&mut stream, RELIABLE);
        let connected = r#"{"type":"system","event":"connected","userId":null,"connectionId":"c","reconnectionToken":"t"}"#;
        let mut buffer = Vec::new();
        put(&mut buffer, connected);
        stream.write_all(&buffer).expect("write");
        eventually("told to go", || self.go.load(SeqCst));

        stream.set_write_timeout(Some(Duration::from_secs(1))).expect("timeout");
        let data = "x".repeat(DATA);
        let mut id = 0;
        while id < MESSAGES {
            buffer.clear();
            for _ in 0..100 {
                id += 1;
                let text = format!(
                    r#"{{"sequenceId":{id},"type":"message","from":"group","group":"g","dataType":"text","data":"{data}"}}"#
                );
                self.frame.store(text.len() as u64, SeqCst);
                put(&mut buffer, &text);
            }
            if let Err(error) = stream.write_all(&buffer) {
                self.blocked.store(error.kind() == std::io::ErrorKind::WouldBlock, SeqCst);
                break;
            }
        }
        // The connection stays up while the figures are taken.
        hold(stream);
    }
}

/// Appends a text frame of a server.
fn put(buffer: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).expect("short");
    buffer.push(0x81);
    if length < 126 {
        buffer.push(length as u8);
    } else {
        buffer.push(126);
        buffer.extend(length.to_be_bytes());
    }
    buffer.extend(text.as_bytes());
}

/// A figure of this process in bytes: `VmRSS` is what is resident now, `VmHWM` the peak of it.
fn memory(which: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix(which)?.strip_prefix(':'));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("a figure in KiB") << 10
}
