//! How cost grows: with the size of a message, the joined groups, the pending calls, the clients of
//! a process, the callers of a client.
//!
//! ```sh
//! cargo bench --bench growth
//! cargo bench --bench growth -- --quick
//! cargo bench --bench growth -- pending_calls
//! ```
//!
//! Each table has one row per step, with the cost of one unit (an operation, or a byte where the
//! size grows). A step whose unit costs more than [`TOLERANCE`] times that of the step before is
//! marked `worse`: the whole then grows faster than linearly. No number makes this fail.

#[path = "support/mod.rs"]
mod support;

use std::hint::black_box;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use webpubsub::{Client, Event, PendingAck, Publish};

use support::Transport;
use support::args::Args;
use support::numbers::{min_max, note_machine, show, sorted};
use support::peer::{Peer, be_the_peer_if_asked};

/// Measurements on a busy machine differ by as much from one to the next.
const TOLERANCE: f64 = 1.5;

fn main() {
    be_the_peer_if_asked();
    let Some(args) = Args::parse() else { return };
    note_machine();
    let length =
        Duration::from_secs_f64(args.seconds.unwrap_or(if args.quick { 0.02 } else { 0.2 }));
    let steps = |all: &[usize], quick: usize| {
        let most = if args.quick { quick } else { usize::MAX };
        all.iter().copied().filter(|n| *n <= most).collect::<Vec<_>>()
    };
    let mut peer = Peer::start(Transport::Ws);
    if args.wants("message_size") {
        message_size(
            &peer,
            &steps(&[16, 256, 4096, 65_536, 262_144, 1_000_000], usize::MAX),
            length,
        );
    }
    if args.wants("joined_groups") {
        joined_groups(&peer, &steps(&[1, 10, 100, 1000, 10_000], 1000), length);
    }
    if args.wants("pending_calls") {
        pending_calls(&mut peer, &steps(&[1, 10, 100, 1000, 10_000, 100_000], 10_000));
    }
    if args.wants("clients") {
        clients(&peer, &steps(&[1, 10, 100, 300, 1000], 100));
    }
    if args.wants("callers") {
        callers(&peer, &steps(&[1, 2, 4, 8, 16, 32], 8), length);
    }
    note_machine();
}

/// One column of a table, row by row.
struct Growth {
    table: &'static str,
    unit: &'static str,
    last: Option<f64>,
}

impl Growth {
    fn new(table: &'static str, unit: &'static str) -> Self {
        Self { table, unit, last: None }
    }

    fn row(&mut self, step: usize, cost: f64) {
        let factor = self.last.map_or(1.0, |last| cost / last);
        let verdict = if factor > TOLERANCE { "worse" } else { "ok" };
        println!(
            "growth table={} step={step} cost={} unit={} factor={factor:.2} {verdict}",
            self.table,
            show(cost),
            self.unit,
        );
        self.last = Some(cost);
    }
}

fn connect(peer: &Peer) -> Client {
    Client::builder(peer.url()).connect().expect("connect")
}

/// In nanoseconds: the best of five means, since what else the machine does can only add.
fn cost_of<R>(length: Duration, mut operation: impl FnMut() -> R) -> f64 {
    operation();
    let mut mean = || {
        let start = Instant::now();
        let mut count = 0_u32;
        while start.elapsed() < length / 5 || count == 0 {
            operation();
            count += 1;
        }
        nanos(start) / f64::from(count)
    };
    min_max(&[mean(), mean(), mean(), mean(), mean()]).0
}

fn nanos(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e9
}

/// The unit is a byte, so small messages, where the call itself costs most, come out dear.
fn message_size(peer: &Peer, sizes: &[usize], length: Duration) {
    let mut acked = Growth::new("message_size/acked", "ns/B");
    let mut fired = Growth::new("message_size/fire_and_forget", "ns/B");
    let mut received = Growth::new("message_size/received", "ns/B");
    for &size in sizes {
        let client = connect(peer);
        let data = "x".repeat(size);
        let send = || client.publish("bench", data.as_str()).expect("an ack");
        acked.row(size, cost_of(length, send) / size as f64);
        let fire = || client.fire_and_forget(Publish::new("bench", data.as_str())).expect("sent");
        let cost = cost_of(length, fire);
        client.publish("bench", "").expect("an ack");
        fired.row(size, cost / size as f64);
        received.row(size, cost_of(length, receiver(peer, size)) / size as f64);
    }
}

fn receiver(peer: &Peer, size: usize) -> impl FnMut() {
    let client = connect(peer);
    client.fire_and_forget(Publish::new(format!("flood/reliable/{size}"), "")).expect("sent");
    move || {
        while !matches!(black_box(client.recv()).expect("an event"), Event::GroupMessage(_)) {}
    }
}

fn joined_groups(peer: &Peer, counts: &[usize], length: Duration) {
    let mut join = Growth::new("joined_groups/join", "ns");
    let mut send = Growth::new("joined_groups/acked", "ns");
    let mut list = Growth::new("joined_groups/list_one", "ns");
    let client = connect(peer);
    for &count in counts {
        let have = client.groups().len();
        let mut joins = Vec::new();
        for n in have..count {
            let start = Instant::now();
            client.join_group(format!("group-{n}")).expect("an ack");
            joins.push(nanos(start));
        }
        join.row(count, sorted(&joins)[joins.len() / 4]);
        let group = format!("group-{}", count / 2);
        send.row(count, cost_of(length, || client.publish(&group, "x").expect("ack")));
        list.row(count, cost_of(length, || client.groups().len()) / count as f64);
    }
}

/// All are started before the first ack comes: up to 256 are written by then, the others wait.
fn pending_calls(peer: &mut Peer, counts: &[usize]) {
    let mut start_one = Growth::new("pending_calls/start", "ns");
    let mut end_one = Growth::new("pending_calls/ack", "ns");
    for &count in counts {
        let repeats = (1000 / count).clamp(3, 50);
        let (mut starts, mut ends) = (Vec::new(), Vec::new());
        for _ in 0..repeats {
            let client = connect(peer);
            peer.hold();
            // The peer must have read the order before it sees the calls.
            thread::sleep(Duration::from_millis(5));
            let start = Instant::now();
            let pending: Vec<PendingAck> = (0..count)
                .map(|_| client.start(Publish::new("bench", "x")).expect("started"))
                .collect();
            starts.push(nanos(start) / count as f64);
            let start = Instant::now();
            peer.release();
            for pending in &pending {
                pending.wait().expect("an ack");
            }
            ends.push(nanos(start) / count as f64);
        }
        start_one.row(count, min_max(&starts).0);
        end_one.row(count, min_max(&ends).0);
    }
}

fn clients(peer: &Peer, counts: &[usize]) {
    let mut dial = Growth::new("clients/connect", "ns");
    let mut send = Growth::new("clients/acked", "ns");
    let mut end = Growth::new("clients/close", "ns");
    for &count in counts {
        let mut clients = Vec::with_capacity(count);
        let start = Instant::now();
        while clients.len() < count {
            match Client::connect(peer.url()) {
                Ok(client) => clients.push(client),
                Err(e) => {
                    println!("# a limit of this system stops at {} clients: {e}", clients.len());
                    break;
                }
            }
        }
        let per_client = |start: Instant| nanos(start) / clients.len() as f64;
        dial.row(clients.len(), per_client(start));
        let rounds = (1000 / clients.len()).max(3);
        let round = |_| {
            let start = Instant::now();
            for client in &clients {
                client.publish("bench", "x").expect("an ack");
            }
            per_client(start)
        };
        send.row(clients.len(), min_max(&(0..rounds).map(round).collect::<Vec<_>>()).0);
        let start = Instant::now();
        clients.iter().for_each(|client| client.close().expect("closed"));
        end.row(clients.len(), per_client(start));
        if clients.len() < count {
            break;
        }
    }
}

/// The cost is time per operation of all callers together. The longest call tells how long one
/// who writes for others is kept: a writer leaves after 256 KiB if somebody can take over.
fn callers(peer: &Peer, counts: &[usize], length: Duration) {
    for (table, ack) in [("callers/fire_and_forget", false), ("callers/acked", true)] {
        let mut growth = Growth::new(table, "ns");
        for &count in counts {
            let client = connect(peer);
            let data = "x".repeat(256);
            let calls = Mutex::new((0_u64, Duration::ZERO));
            let start = Instant::now();
            let send = || {
                let (mut done, mut longest) = (0, Duration::ZERO);
                while start.elapsed() < length {
                    let start = Instant::now();
                    let request = Publish::new("bench", data.as_str());
                    if ack {
                        client.call(request).map(drop).expect("an ack");
                    } else {
                        client.fire_and_forget(request).expect("sent");
                    }
                    longest = longest.max(start.elapsed());
                    done += 1;
                }
                let mut all = calls.lock().expect("no panic");
                *all = (all.0 + done, all.1.max(longest));
            };
            thread::scope(|scope| (0..count).for_each(|_| drop(scope.spawn(send))));
            client.publish("bench", "").expect("an ack");
            let taken = nanos(start);
            let (done, longest) = *calls.lock().expect("no panic");
            growth.row(count, taken / done as f64);
            println!("longest table={table} step={count} us={}", show(longest.as_secs_f64() * 1e6));
        }
    }
}
