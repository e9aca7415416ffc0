//! Preview features beside what they are built like: a stream beside plain publications, an invocation
//! beside an event; through the same emulator and by the same client.
//!
//! ```sh
//! cargo bench --bench preview
//! cargo bench --bench preview -- --quick
//! ```
//!
//! Streams and publications are confirmed to the last byte: a stream by its end, publications by an ack
//! each, up to 256 of them under way. Invocations and events go one at a time. The emulator is part of this process and does its share of the work, so only the
//! ratio says something. It acknowledges a stream after 16 fragments; the service's pace is not
//! known.

#[path = "support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use webpubsub::emulator::{Emulator, EventAnswer};
use webpubsub::{Bytes, Client, Event, Payload, Protocol, Publish};

use support::args::Args;
use support::numbers::{median, min_max, note_machine, show};

/// Of each kind, one after the other in turn.
const ROUNDS: usize = 7;

fn main() {
    let Some(args) = Args::parse() else { return };
    note_machine();
    let length =
        Duration::from_secs_f64(args.seconds.unwrap_or(if args.quick { 0.05 } else { 0.5 }));
    let builder = Emulator::builder().record_frames(0);
    let builder = builder.event_handler(|event| EventAnswer::Message(event.payload.clone()));
    let emulator = builder.start().expect("emulator");
    for protocol in [Protocol::ReliableJson, Protocol::ReliableProtobuf] {
        let client = Client::builder(emulator.url("hub")).protocol(protocol).connect();
        let client = client.expect("connected");
        let kind = if protocol.is_text() { "json" } else { "protobuf" };
        for size in [256, 64 * 1024] {
            let name = format!("streams/{kind}/{size}");
            if args.wants(&name) {
                compare(&name, &client, size, length);
            }
        }
        let name = format!("invocations/{kind}/round_trip");
        if args.wants(&name) {
            compare_invocations(&name, &client, length);
        }
        client.close().expect("closed");
    }
    note_machine();
}

fn compare(name: &str, client: &Client, size: usize, length: Duration) {
    let payload = Payload::Binary(Bytes::from(vec![7; size]));
    let (mut streams, mut plain, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let stream = by_stream(client, &payload, length);
        let publications = by_publications(client, &payload, length);
        streams.push(stream);
        plain.push(publications);
        ratios.push(stream / publications);
    }
    let (least, most) = min_max(&ratios);
    println!(
        "{name} stream={}/s publications={}/s ratio={:.2} ({least:.2} to {most:.2})",
        show(median(&streams)),
        show(median(&plain)),
        median(&ratios),
    );
}

/// Fragments per second.
fn by_stream(client: &Client, payload: &Payload, length: Duration) -> f64 {
    let start = Instant::now();
    let mut stream = client.open_stream("bench").expect("accepted");
    let mut count = 0_u32;
    while count == 0 || start.elapsed() < length {
        stream.send(payload.clone()).expect("taken");
        count += 1;
    }
    stream.finish().expect("published");
    f64::from(count) / start.elapsed().as_secs_f64()
}

/// Publications per second.
fn by_publications(client: &Client, payload: &Payload, length: Duration) -> f64 {
    let start = Instant::now();
    let mut first = true;
    let requests = std::iter::from_fn(|| {
        let more = std::mem::take(&mut first) || start.elapsed() < length;
        more.then(|| Publish::new("bench", payload.clone()))
    });
    let count = client.call_all(requests).expect("acknowledged");
    count as f64 / start.elapsed().as_secs_f64()
}

/// An invocation ends with the handler's answer, an event with an ack behind the message that is the
/// answer.
fn compare_invocations(name: &str, client: &Client, length: Duration) {
    let (mut invocations, mut events, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let invocation = round_trip(length, || drop(client.invoke("echo", "x").expect("answered")));
        let event = round_trip(length, || {
            client.send_event("echo", "x").expect("acknowledged");
            while !matches!(client.recv().expect("the answer"), Event::ServerMessage(_)) {}
        });
        invocations.push(invocation);
        events.push(event);
        ratios.push(invocation / event);
    }
    let (least, most) = min_max(&ratios);
    println!(
        "{name} invocation={} us event={} us ratio={:.2} ({least:.2} to {most:.2})",
        show(median(&invocations)),
        show(median(&events)),
        median(&ratios),
    );
}

/// The median, in microseconds.
fn round_trip(length: Duration, mut call: impl FnMut()) -> f64 {
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.is_empty() || start.elapsed() < length {
        let before = Instant::now();
        call();
        times.push(before.elapsed().as_secs_f64() * 1e6);
    }
    median(&times)
}
