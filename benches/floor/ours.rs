//! The client's side of the same work.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use webpubsub::{Client, ClientBuilder, Event, PendingAck, Protocol, Publish, TlsConfig};

use super::cases::{BATCH, WINDOW, protocol_for};
use super::floor::{LOOK, SEND_EVERY, percentiles, rate};
use super::support::numbers::percentile;
use super::support::peer::Peer;

fn builder(peer: &Peer, protocol: Protocol) -> ClientBuilder {
    let builder = Client::builder(peer.url()).protocol(protocol);
    if peer.pem.is_empty() {
        return builder;
    }
    builder.tls(TlsConfig::new().root_certificate_pem(peer.pem.clone()))
}

fn connect(peer: &Peer) -> Client {
    builder(peer, Protocol::ReliableJson).connect().expect("connect")
}

pub(crate) fn round_trip(peer: &Peer, size: usize, length: Duration) -> Vec<f64> {
    let client = connect(peer);
    let data = "x".repeat(size);
    percentiles(length, &mut || {
        let start = Instant::now();
        client.publish("bench", data.as_str()).expect("an ack");
        start.elapsed()
    })
}

pub(crate) fn pipelined(peer: &Peer, size: usize, length: Duration) -> f64 {
    let client = connect(peer);
    let data = "x".repeat(size);
    let mut window: VecDeque<PendingAck> = VecDeque::with_capacity(WINDOW);
    let mut sent = 0;
    let start = Instant::now();
    while start.elapsed() < length {
        for _ in 0..LOOK {
            if window.len() == WINDOW
                && let Some(oldest) = window.pop_front()
            {
                oldest.wait().expect("an ack");
            }
            window.push_back(client.start(Publish::new("bench", data.as_str())).expect("sent"));
            sent += 1;
        }
    }
    for pending in window {
        pending.wait().expect("an ack");
    }
    f64::from(sent) / start.elapsed().as_secs_f64()
}

/// Sends a batch with acks.
fn start_batch(client: &Client, data: &[&str; BATCH]) -> Vec<PendingAck> {
    client.start_all(data.iter().map(|d| Publish::new("bench", *d))).expect("sent")
}

/// Sends a batch that nobody waits for.
fn fire_batch(client: &Client, data: &[&str; BATCH]) {
    client.fire_and_forget_all(data.iter().map(|d| Publish::new("bench", *d))).expect("sent");
}

pub(crate) fn pipelined_batches(peer: &Peer, size: usize, length: Duration) -> f64 {
    let client = connect(peer);
    let data = "x".repeat(size);
    let batch = [data.as_str(); BATCH];
    let mut window: VecDeque<Vec<PendingAck>> = VecDeque::with_capacity(WINDOW / BATCH);
    let mut sent = 0;
    let start = Instant::now();
    while start.elapsed() < length {
        if window.len() == WINDOW / BATCH {
            for pending in window.pop_front().into_iter().flatten() {
                pending.wait().expect("an ack");
            }
        }
        window.push_back(start_batch(&client, &batch));
        sent += BATCH;
    }
    for pending in window.into_iter().flatten() {
        pending.wait().expect("an ack");
    }
    sent as f64 / start.elapsed().as_secs_f64()
}

pub(crate) fn fire_batches(peer: &Peer, size: usize, length: Duration) -> f64 {
    let client = connect(peer);
    let data = "x".repeat(size);
    let batch = [data.as_str(); BATCH];
    let mut sent = 0;
    let start = Instant::now();
    while start.elapsed() < length {
        fire_batch(&client, &batch);
        sent += BATCH;
    }
    client.publish("bench", "").expect("an ack");
    sent as f64 / start.elapsed().as_secs_f64()
}

/// Fire and forget, one by one, by so many threads.
pub(crate) fn callers(peer: &Peer, callers: usize, size: usize, length: Duration) -> f64 {
    let client = connect(peer);
    let data = "x".repeat(size);
    let sent = AtomicU64::new(0);
    let start = Instant::now();
    let send = || {
        while start.elapsed() < length {
            for _ in 0..LOOK {
                client.fire_and_forget(Publish::new("bench", data.as_str())).expect("sent");
            }
            sent.fetch_add(LOOK, Ordering::Relaxed);
        }
    };
    if callers == 1 {
        send();
    } else {
        thread::scope(|scope| (0..callers).for_each(|_| drop(scope.spawn(send))));
    }
    client.publish("bench", "").expect("an ack");
    sent.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
}

pub(crate) fn receive(peer: &Peer, flood: &str, size: usize, length: Duration) -> f64 {
    let client = builder(peer, protocol_for(flood)).connect().expect("connect");
    client.fire_and_forget(Publish::new(format!("flood/{flood}/{size}"), "")).expect("sent");
    let events = client.events();
    rate(length, &mut || {
        loop {
            match events.recv().expect("an event") {
                Event::GroupMessage(message) => break drop(black_box(message)),
                Event::Stopped(why) => panic!("{}", why.cause),
                _ => {}
            }
        }
    })
}

pub(crate) fn receive_on_reader(peer: &Peer, size: usize, length: Duration) -> f64 {
    let client = builder(peer, Protocol::Json).event_queue(None).connect().expect("connect");
    client.fire_and_forget(Publish::new(format!("flood/plain/{size}"), "")).expect("sent");
    thread::sleep(length / 5);
    let (start, before) = (Instant::now(), client.stats().messages_in);
    thread::sleep(length);
    (client.stats().messages_in - before) as f64 / start.elapsed().as_secs_f64()
}

/// One thread sends now and then, another one drains the queue.
pub(crate) fn send_while_receiving(peer: &Peer, size: usize, length: Duration) -> f64 {
    let client = builder(peer, Protocol::Json).connect().expect("connect");
    client.fire_and_forget(Publish::new(format!("flood/mixed/{size}"), "")).expect("sent");
    let events = client.events().clone();
    let drain = thread::spawn(move || events.iter().map(black_box).count());
    let data = "x".repeat(size);
    let mut samples = Vec::new();
    let end = Instant::now() + length * 2;
    while Instant::now() < end {
        thread::sleep(SEND_EVERY);
        let start = Instant::now();
        client.fire_and_forget(Publish::new("bench", data.as_str())).expect("sent");
        samples.push(start.elapsed());
    }
    drop(client);
    assert!(drain.join().expect("the draining thread") > 0);
    percentile(&mut samples, 0.99)
}
