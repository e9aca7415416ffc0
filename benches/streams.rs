//! A stream beside plain publications, through the same emulator and by the same client.
//!
//! ```sh
//! cargo bench --bench streams
//! cargo bench --bench streams -- --quick
//! ```
//!
//! Both are confirmed to the last byte: a stream by its end, publications by an ack each, up to 256
//! of them under way. The emulator is part of this process and does its share of the work, so only the
//! ratio says something. It acknowledges a stream after 16 fragments; the service's pace is not
//! known.

#[path = "support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use webpubsub::emulator::Emulator;
use webpubsub::{Bytes, Client, Payload, Protocol, Publish};

use support::args::Args;
use support::numbers::{median, min_max, note_machine, show};

/// Of each kind, one after the other in turn.
const ROUNDS: usize = 7;

fn main() {
    let Some(args) = Args::parse() else { return };
    note_machine();
    let length =
        Duration::from_secs_f64(args.seconds.unwrap_or(if args.quick { 0.05 } else { 0.5 }));
    let emulator = Emulator::builder().record_frames(0).start().expect("emulator");
    for protocol in [Protocol::ReliableJson, Protocol::ReliableProtobuf] {
        let client = Client::builder(emulator.url("hub")).protocol(protocol).connect();
        let client = client.expect("connected");
        for size in [256, 64 * 1024] {
            let kind = if protocol.is_text() { "json" } else { "protobuf" };
            let name = format!("streams/{kind}/{size}");
            if args.wants(&name) {
                compare(&name, &client, size, length);
            }
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
