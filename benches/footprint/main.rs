//! What a client costs beside time on the wire: memory, threads, wake-ups, connecting, starting,
//! the size of a program, the crates in its tree, allocations.
//!
//! ```sh
//! cargo bench --bench footprint
//! cargo bench --bench footprint -- --quick
//! cargo bench --bench footprint -- memory --transport wss
//! ```
//!
//! Peers run in processes of their own, and so does what is weighed, so that only clients count.
//! What is read from `/proc` is skipped where there is none.

#[path = "../support/mod.rs"]
mod support;

mod child;
mod program;

use std::alloc::System;
use std::hint::black_box;
use std::time::{Duration, Instant};

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use webpubsub::{Client, Event, Protocol, Publish, TlsConfig};

use support::args::Args;
use support::numbers::{median, min_max, note_machine, show};
use support::peer::{Peer, Target, be_the_peer_if_asked};
use support::raw::Raw;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() {
    be_the_peer_if_asked();
    child::be_the_child_if_asked();
    let Some(args) = Args::parse() else { return };
    note_machine();
    for transport in args.transports() {
        let peer = Peer::start(transport);
        if args.wants("memory") || args.wants("threads") {
            child::run("memory", if args.quick { 100 } else { 500 }, &peer);
        }
        if args.wants("idle_wake_ups") {
            child::run("idle", if args.quick { 2 } else { 10 }, &peer);
        }
        if args.wants("connect") {
            child::run("connect", if args.quick { 10 } else { 50 }, &peer);
        }
        if args.wants("allocations") {
            allocations(&peer, if args.quick { 20_000 } else { 200_000 });
        }
    }
    if ["program", "crates", "start"].iter().any(|part| args.wants(part)) {
        program::measure(&args);
    }
    child::tidy_up();
    note_machine();
}

/// A line of the same form as those of the floor; `limit` is the most that is allowed.
pub(crate) fn line(
    name: &str,
    transport: &str,
    floor: Option<f64>,
    ours: f64,
    unit: &str,
    limit: Option<f64>,
) {
    let or_none = |value: Option<f64>| value.map_or("-".into(), show);
    println!(
        "metric={name} transport={transport} floor={} ours={} unit={unit} ratio={} target={} {}",
        or_none(floor),
        show(ours),
        floor.map_or("-".into(), |floor| format!("{:.2}", ours / floor)),
        limit.map_or("-".into(), |limit| format!("<={}", show(limit))),
        if limit.is_none_or(|limit| ours <= limit) { "ok" } else { "short" },
    );
}

pub(crate) fn spread(name: &str, transport: &str, values: &[f64]) {
    let (min, max) = min_max(values);
    println!("spread metric={name} transport={transport} min={} max={}", show(min), show(max));
}

fn connect(peer: &Peer) -> Client {
    let builder = Client::builder(peer.url());
    let pem = &peer.pem;
    let builder = if pem.is_empty() {
        builder
    } else {
        builder.tls(TlsConfig::new().root_certificate_pem(pem))
    };
    builder.connect().expect("connect")
}

/// Each time a new client with default options; the first of them bears what later ones share.
fn connecting(peer: &Target, times: usize) {
    let (mut floor, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..times {
        let start = Instant::now();
        drop(Raw::connect(peer, Protocol::ReliableJson));
        floor.push(start.elapsed().as_secs_f64() * 1e6);
        let start = Instant::now();
        let client = Client::connect(peer.url()).expect("connect");
        ours.push(start.elapsed().as_secs_f64() * 1e6);
        drop(client);
    }
    let transport = peer.transport.name();
    line("connect_first", transport, Some(floor[0]), ours[0], "us", None);
    line("connect", transport, Some(median(&floor)), median(&ours), "us", None);
    spread("connect", transport, &ours);
}

/// How often memory is asked for, per message. Blocks that many messages share (the channel's, the
/// read buffer) make fractions.
fn allocations(peer: &Peer, messages: u64) {
    let transport = peer.transport.name();
    for (flood, name, limit) in [
        ("reliable", "allocations_received_names_repeat", 1.0),
        ("users", "allocations_received_users_differ", 2.0),
    ] {
        let client = connect(peer);
        client.fire_and_forget(Publish::new(format!("flood/{flood}/256"), "")).expect("sent");
        let events = client.events();
        let receive = |count: u64| {
            let mut received = 0;
            while received < count {
                if let Event::GroupMessage(m) = events.recv().expect("an event") {
                    drop(black_box(m));
                    received += 1;
                }
            }
        };
        receive(messages / 10);
        line(name, transport, None, count(messages, || receive(messages)), "per_msg", Some(limit));
    }
    // Both have warmed up by then.
    let client = connect(peer);
    let data = "x".repeat(256);
    let sends = messages / 10;
    let fire = || {
        for _ in 0..sends {
            client.fire_and_forget(Publish::new("bench", data.as_str())).expect("sent");
        }
        client.publish("bench", "").expect("an ack");
    };
    let wait = || {
        for _ in 0..sends {
            client.publish("bench", data.as_str()).expect("an ack");
        }
    };
    fire();
    line("allocations_fire_and_forget", transport, None, count(sends, fire), "per_msg", None);
    line("allocations_send_and_ack", transport, None, count(sends, wait), "per_msg", None);
}

fn count(messages: u64, work: impl FnOnce()) -> f64 {
    let region = Region::new(ALLOCATOR);
    work();
    let change = region.change();
    (change.allocations + change.reallocations) as f64 / messages as f64
}

/// What a second process has to say, in its own time.
pub(crate) const PATIENCE: Duration = Duration::from_millis(300);
