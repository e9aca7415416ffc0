//! Timers do not delay each other, and dialing delays none of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use webpubsub::emulator::{Emulator, Permission, StallAt};
use webpubsub::{Client, ClientBuilder, KeepAlive, Publish, QueueConfig, Reconnect, Recovery};

use crate::support::{emulator, eventually};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// How late the latest of many started calls is told that its time is up.
fn latest(client: &Client) -> Duration {
    let calls = (0..400).map(|i| {
        let limit = ms(100 + i);
        let due = Instant::now() + limit;
        (due, client.start(Publish::new("g", "x").timeout(limit)).expect("start"))
    });
    let calls: Vec<_> = calls.collect();
    // In the order of their deadlines.
    let late = calls.iter().map(|(due, call)| {
        let outcome = call.receiver().recv_timeout(ms(20_000)).expect("told");
        assert!(outcome.expect_err("no ack").is_timeout());
        due.elapsed()
    });
    late.max().expect("some")
}

#[test]
fn many_deadlines_are_kept_beside_other_timers() {
    let emulator = emulator();
    let busy = Client::builder(emulator.url("hub"))
        .keep_alive(Some(KeepAlive::new().ping_after(ms(7)).dead_after(ms(10_000))))
        .max_in_flight(1000)
        .event_queue(Some(QueueConfig::new().max_messages(10)))
        .connect()
        .expect("connect");
    busy.join_group("full").expect("join");
    emulator.faults().hold_acks(true);
    // What has no room is looked after by a timer of its own.
    for _ in 0..50 {
        emulator.send_to_group("hub", "full", "x").expect("sent");
    }
    // The machine may be busy, so the best of some.
    let late: Vec<_> = (0..3).map(|_| latest(&busy)).collect();
    assert!(late.iter().any(|late| *late <= ms(50)), "{late:?}");
}

/// Calls, `groups()` and `close()` do not wait for a dial that hangs.
fn lives_on(
    emulator: &Emulator,
    builder: ClientBuilder,
    hang: impl Fn(),
    hangs: impl Fn() -> bool,
) {
    let builder = builder
        .reconnect(Some(Reconnect::new().backoff(ms(10), ms(50))))
        .recovery(Recovery::new().attempt_interval(ms(20)));
    let client = builder.close_timeout(ms(500)).connect().expect("connect");
    let id = client.connection_id().expect("id");
    assert!(emulator.grant("hub", &id, Permission::JoinLeaveGroup, "g"));
    client.join_group("g").expect("join");
    hang();
    emulator.faults().drop_connections();
    eventually("hanging", hangs);
    thread::sleep(ms(50));

    let start = Instant::now();
    let call = client.start(Publish::new("g", "x").timeout(ms(300))).expect("start");
    assert_eq!(client.groups().len(), 1);
    assert!(start.elapsed() < ms(200), "`groups()`: {:?}", start.elapsed());
    let outcome = call.receiver().recv_timeout(ms(3000)).expect("told within 3 s");
    let took = start.elapsed();
    assert!(outcome.expect_err("no link").is_timeout());
    assert!(took >= ms(300) && took < ms(600), "a deadline of 300 ms: {took:?}");
    let start = Instant::now();
    client.close().expect("close");
    assert!(start.elapsed() < ms(1500), "close: {:?}", start.elapsed());
}

#[test]
fn a_dial_that_hangs_delays_nothing() {
    for at in [StallAt::Accept, StallAt::Upgrade, StallAt::Connected] {
        let emulator = emulator();
        let builder = Client::builder(emulator.url("hub"));
        let hang = || emulator.faults().stall(at, true);
        lives_on(&emulator, builder, hang, || emulator.stats().tcp_accepted > 1);
    }
}

#[test]
fn a_name_look_up_that_hangs_delays_nothing() {
    let emulator = Emulator::builder().allow_anonymous(true).start().expect("emulator");
    let url = emulator.url("hub");
    let url = url.split('?').next().expect("path").replace("127.0.0.1", "service.test");
    let address = SocketAddr::from(([127, 0, 0, 1], emulator.port()));
    let looked = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&looked);
    let builder = Client::builder(url).resolver(move |_, _| match seen.fetch_add(1, SeqCst) {
        0 => Ok(vec![address]),
        _ => loop {
            thread::park();
        },
    });
    lives_on(&emulator, builder, || {}, || looked.load(SeqCst) > 1);
}
