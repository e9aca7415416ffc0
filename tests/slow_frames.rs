//! A frame that arrives slowly stops no timer: peers that send a byte every 150 ms.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use webpubsub::{Client, ErrorKind, Event, KeepAlive, Publish, Recovery};

use crate::support::peer::{self, Heard};
use crate::support::{Fake, WATCHDOG, eventually, next_event, threads_named, within};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Sends a frame of 1 MiB, a byte every 150 ms, until the client goes away.
fn drip(mut stream: TcpStream) {
    let mut next = vec![0x81, 127];
    next.extend((1u64 << 20).to_be_bytes());
    // A minute; every test is through before.
    for _ in 0..400 {
        if stream.write_all(&next).is_err() {
            break;
        }
        next = b"x".to_vec();
        thread::sleep(ms(150));
    }
}

#[test]
fn the_limit_of_the_connected_message_holds() {
    let fake = Fake::start(|mut stream| {
        peer::upgrade(&mut stream);
        drip(stream);
    });
    let builder =
        Client::builder(fake.url()).connect_step_timeout(ms(400)).connect_timeout(ms(8000));
    let start = Instant::now();
    let error = within(WATCHDOG, || builder.connect().expect_err("no `connected`"));
    assert_eq!(error.kind(), ErrorKind::SessionStart, "{error}");
    assert!(start.elapsed() < ms(1500), "{:?}", start.elapsed());
}

#[test]
fn the_limit_of_connecting_covers_all_steps_together() {
    let fake = Fake::start(|mut stream| {
        thread::sleep(ms(900));
        peer::upgrade(&mut stream);
        drip(stream);
    });
    let builder =
        Client::builder(fake.url()).connect_step_timeout(ms(2000)).connect_timeout(ms(1200));
    let start = Instant::now();
    let error = within(WATCHDOG, || builder.connect().expect_err("no `connected`"));
    assert_eq!(error.kind(), ErrorKind::SessionStart, "{error}");
    let took = start.elapsed();
    assert!(took >= ms(1200) && took < ms(2000), "{took:?}");
}

#[test]
fn a_recovery_try_is_cut_at_its_limit() {
    let tries = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&tries);
    let fake = Fake::start(move |mut stream| {
        if !peer::upgrade(&mut stream) {
            stream.write_all(&peer::connected()).expect("write");
            return;
        }
        if seen.fetch_add(1, SeqCst) < 2 {
            return drip(stream);
        }
        stream.write_all(&peer::pong()).expect("write");
        crate::support::hold(stream);
    });
    let recovery = Recovery::new().attempt_interval(ms(20)).attempt_timeout(ms(300));
    let client = Client::builder(fake.url()).recovery(recovery).connect().expect("connect");
    let lost = Instant::now();
    while tries.load(SeqCst) < 3 && lost.elapsed() < ms(3000) {
        thread::sleep(ms(5));
    }
    assert_eq!(tries.load(SeqCst), 3, "tries within 3 s");
    assert!(matches!(next_event(&client), Event::Connected(_)));
    assert!(matches!(next_event(&client), Event::Recovering(_)));
    assert!(matches!(next_event(&client), Event::Recovered(_)));
}

#[test]
fn a_recovery_try_that_gets_on_is_not_cut() {
    let tries = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&tries);
    let fake = Fake::start(move |mut stream| {
        if !peer::upgrade(&mut stream) {
            stream.write_all(&peer::connected()).expect("write");
            return;
        }
        seen.fetch_add(1, SeqCst);
        // The first replayed message, over a slow line.
        for part in peer::message(1, &"x".repeat(4096)).chunks(512) {
            stream.write_all(part).expect("write");
            thread::sleep(ms(200));
        }
        stream.write_all(&peer::pong()).expect("write");
        crate::support::hold(stream);
    });
    let recovery = Recovery::new().attempt_interval(ms(20)).attempt_timeout(ms(800));
    let client = Client::builder(fake.url()).recovery(recovery).connect().expect("connect");
    assert!(matches!(next_event(&client), Event::Connected(_)));
    assert!(matches!(next_event(&client), Event::Recovering(_)));
    assert!(matches!(next_event(&client), Event::ServerMessage(_)));
    assert!(matches!(next_event(&client), Event::Recovered(_)));
    assert_eq!(tries.load(SeqCst), 1);
}

#[test]
fn deadlines_pings_acks_and_stop_keep_their_times() {
    const NAME: &str = "slow-frames";
    let heard = Heard::default();
    let ears = heard.clone();
    let fake = Fake::start(move |mut stream| {
        peer::open(&mut stream);
        ears.listen(&stream);
        stream.write_all(&peer::message(1, "x")).expect("write");
        drip(stream);
    });
    let client = Client::builder(fake.url())
        .keep_alive(Some(KeepAlive::new().ping_after(ms(50)).dead_after(ms(60_000))))
        .close_timeout(ms(500))
        .name(NAME)
        .connect()
        .expect("connect");
    let start = Instant::now();
    let call = client.start(Publish::new("g", "x").timeout(ms(300))).expect("start");
    let outcome = call.receiver().recv_timeout(ms(2000)).expect("told within 2 s");
    assert!(outcome.expect_err("no ack").is_timeout());
    let took = start.elapsed();
    assert!(took >= ms(300) && took < ms(700), "a deadline of 300 ms: {took:?}");
    thread::sleep(ms(1200).saturating_sub(start.elapsed()));
    let acks = heard.times("sequenceAck");
    assert!(acks.first().is_some_and(|at| *at - start < ms(1000)), "no sequence ack within 1 s");
    let pings = heard.times("ping").len();
    assert!(pings >= 5, "{pings} pings in 1.2 s");
    let start = Instant::now();
    client.close().expect("close");
    assert!(start.elapsed() < ms(1500), "close: {:?}", start.elapsed());
    eventually("thread gone", || threads_named(NAME) == 0);
}
