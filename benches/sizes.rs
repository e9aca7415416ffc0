//! Sizes on the wire and costs of the codecs, JSON against protobuf, as a table in Markdown:
//! `cargo bench --features protobuf --bench sizes`.
//!
//! What a client does for one message is measured: write a publication, read a group message. The
//! payload is not parsed. The best of several runs counts, since everything else is noise.

use std::hint::black_box;
use std::time::{Duration, Instant};

use webpubsub::__codecs::{
    Decoder, Downstream, Frame, SendContent, Upstream, decode_upstream, encode_downstream,
    encode_upstream,
};
use webpubsub::{Payload, Protocol, RawJson};

const RUNS: u32 = 9;
const RUN: Duration = Duration::from_millis(30);
const PROTOCOLS: [Protocol; 2] = [Protocol::ReliableJson, Protocol::ReliableProtobuf];

fn main() {
    println!("| payload | size | JSON, bytes | protobuf, bytes | JSON, µs | protobuf, µs |");
    println!("| --- | --- | --- | --- | --- | --- |");
    type Make = fn(usize) -> Payload;
    let kinds: [(&str, Make); 3] = [("text", text), ("JSON", json), ("binary", binary)];
    for (name, make) in kinds {
        for (size, shown) in [
            (16, "16 B"),
            (256, "256 B"),
            (4 << 10, "4 KiB"),
            (64 << 10, "64 KiB"),
            (256 << 10, "256 KiB"),
        ] {
            let payload = make(size);
            assert_eq!(payload.as_bytes().len(), size);
            let [json, protobuf] = PROTOCOLS.map(|protocol| measure(protocol, &payload));
            println!(
                "| {name} | {shown} | {} | {} | {} | {} |",
                json.bytes,
                protobuf.bytes,
                micros(json.cost),
                micros(protobuf.cost)
            );
        }
    }
}

fn micros(cost: Duration) -> String {
    let micros = cost.as_nanos() as f64 / 1000.0;
    if micros < 10.0 { format!("{micros:.2}") } else { format!("{micros:.0}") }
}

/// Log lines: words, now and then a character that JSON escapes.
fn text(size: usize) -> Payload {
    let line = "the quick brown fox said \"jump\" and jumped over the lazy dog at 12:34:56\n";
    Payload::from(line.chars().cycle().take(size).collect::<String>())
}

/// An array of readings, padded with spaces to the size.
fn json(size: usize) -> Payload {
    let reading = r#"{"sensor":"attic","celsius":21.5,"ok":true},"#;
    let whole = (size - 4) / reading.len();
    let mut text = format!("[{}0]", reading.repeat(whole));
    text.extend(std::iter::repeat_n(' ', size - text.len()));
    RawJson::new(text).expect("JSON").into()
}

fn binary(size: usize) -> Payload {
    Payload::from((0..size).map(|i| (i * 31) as u8).collect::<Vec<_>>())
}

struct Measured {
    /// Of the frame that a receiver gets.
    bytes: usize,
    /// Writing a publication and reading a group message.
    cost: Duration,
}

fn measure(protocol: Protocol, payload: &Payload) -> Measured {
    let up = r#"{"type":"sendToGroup","group":"room-1","ackId":12345,"noEcho":true,"data":0}"#;
    let up = decode_upstream(Protocol::Json, &Frame::Text(up.into())).expect("a publication");
    let Upstream::SendToGroup(mut publication) = up else { unreachable!() };
    publication.content = SendContent::Payload(payload.clone());
    let up = Upstream::SendToGroup(publication);

    let down = r#"{"type":"message","from":"group","group":"room-1","fromUserId":"user-1",
                   "sequenceId":12345,"data":0}"#;
    let down = Decoder::new(Protocol::Json).decode(&Frame::Text(down.into())).expect("a message");
    let Downstream::GroupMessage(mut message) = down else { unreachable!() };
    message.payload = payload.clone();
    let frame = encode_downstream(protocol, &Downstream::GroupMessage(message)).expect("a frame");

    let mut decoder = Decoder::new(protocol);
    let write = best(|| drop(black_box(encode_upstream(protocol, black_box(&up)))));
    let read = best(|| drop(black_box(decoder.decode(black_box(&frame)))));
    Measured { bytes: frame.as_bytes().len(), cost: write + read }
}

fn best(mut work: impl FnMut()) -> Duration {
    let mut run = || {
        let (start, mut count) = (Instant::now(), 0);
        while start.elapsed() < RUN {
            for _ in 0..16 {
                work();
            }
            count += 16;
        }
        start.elapsed() / count
    };
    (0..RUNS).map(|_| run()).min().unwrap_or_default()
}
