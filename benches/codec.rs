//! Decoding and encoding, per kind and size of message, for every subprotocol of this build.
//!
//! ```sh
//! cargo bench --bench codec
//! cargo bench --bench codec -- decode_downstream     # one group
//! ```
//!
//! Reliable and plain forms of a subprotocol share their codec; both are here, since what is
//! numbered has one field more.

use std::fmt;

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use webpubsub::__codecs::{
    Decoder, Downstream, Frame, SendEvent, Upstream, decode_upstream, encode_downstream,
    encode_upstream,
};
use webpubsub::{Bytes, Payload, Protocol, Text};

fn main() {
    // `cargo test --all-targets` starts benches too; there is nothing to test in them.
    if std::env::args().any(|arg| arg == "--bench") {
        divan::main();
    }
}

#[derive(Clone, Copy)]
enum Data {
    Text,
    /// Every tenth character needs an escape.
    Escaped,
    Json,
    Binary,
}

#[derive(Clone, Copy)]
enum What {
    Ack,
    Group(Data, usize),
    Server(Data, usize),
}

/// One row of a table.
#[derive(Clone, Copy)]
struct Row {
    protocol: Protocol,
    what: What,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.protocol.name().trim_end_matches(".webpubsub.azure.v1");
        let (kind, data, size) = match self.what {
            What::Ack => return write!(f, "{name} ack"),
            What::Group(data, size) => ("group", data, size),
            What::Server(data, size) => ("server", data, size),
        };
        let data = match data {
            Data::Text => "text",
            Data::Escaped => "escaped",
            Data::Json => "json",
            Data::Binary => "binary",
        };
        write!(f, "{name} {kind} {data} {size} B")
    }
}

fn rows() -> Vec<Row> {
    let whats = [
        What::Ack,
        What::Group(Data::Text, 16),
        What::Group(Data::Text, 256),
        What::Group(Data::Text, 4096),
        What::Group(Data::Text, 65_536),
        What::Group(Data::Escaped, 256),
        What::Group(Data::Escaped, 65_536),
        What::Group(Data::Json, 256),
        What::Group(Data::Json, 65_536),
        What::Group(Data::Binary, 256),
        What::Group(Data::Binary, 65_536),
        What::Server(Data::Text, 256),
    ];
    let all = |protocol: &Protocol| whats.map(|what| Row { protocol: *protocol, what });
    Protocol::ALL.iter().flat_map(all).collect()
}

fn payload(data: Data, size: usize) -> Payload {
    match data {
        Data::Text => Payload::from("x".repeat(size)),
        Data::Escaped => Payload::from("123456789\"".repeat(size.div_ceil(10))),
        Data::Json => {
            let items: Vec<_> = (0..size / 16).map(|n| format!("{{\"key\":\"{n:05}\"}}")).collect();
            Payload::Json(webpubsub::RawJson::new(format!("[{}]", items.join(","))).expect("JSON"))
        }
        Data::Binary => Payload::Binary(Bytes::from(vec![7; size])),
    }
}

/// As the service would send it. Messages cannot be built from outside, so JSON goes first.
fn downstream(row: Row) -> Downstream {
    let id = if row.protocol.is_reliable() { r#""sequenceId":1234567,"# } else { "" };
    let text = match row.what {
        What::Ack => r#"{"type":"ack","ackId":1234567,"success":true}"#.into(),
        What::Group(data, size) => format!(
            r#"{{{id}"type":"message","from":"group","group":"bench","fromUserId":"user-1",{}}}"#,
            fields(&payload(data, size)),
        ),
        What::Server(data, size) => {
            format!(r#"{{{id}"type":"message","from":"server",{}}}"#, fields(&payload(data, size)),)
        }
    };
    let frame = Frame::Text(Text::from(text));
    Decoder::new(Protocol::ReliableJson).decode(&frame).expect("a message")
}

/// The members of a JSON message that hold the payload, by way of what a client would send.
fn fields(payload: &Payload) -> String {
    let message = SendEvent::new("e", payload.clone());
    let frame = encode_upstream(Protocol::Json, &Upstream::Event(message)).expect("JSON");
    let text = String::from_utf8_lossy(frame.as_bytes()).into_owned();
    let at = text.find("\"dataType\"").expect("the payload");
    text[at..text.len() - 1].to_owned()
}

/// What a client sends: the same payload, or the counterpart of the ack.
fn upstream(row: Row) -> Frame {
    match row.what {
        What::Ack => encode(row.protocol, &Upstream::SequenceAck { sequence_id: 1_234_567 }),
        What::Group(data, size) => publication(row.protocol, "sendToGroup", "group", data, size),
        What::Server(data, size) => publication(row.protocol, "event", "event", data, size),
    }
}

fn publication(protocol: Protocol, kind: &str, key: &str, data: Data, size: usize) -> Frame {
    let fields = fields(&payload(data, size));
    let text = format!(r#"{{"type":"{kind}","{key}":"bench","ackId":1234567,{fields}}}"#);
    let message = decode_upstream(Protocol::Json, &Frame::Text(Text::from(text))).expect("JSON");
    encode(protocol, &message)
}

fn encode(protocol: Protocol, message: &Upstream<'_>) -> Frame {
    encode_upstream(protocol, message).expect("a frame")
}

fn bytes_of(frame: &Frame) -> BytesCount {
    BytesCount::new(frame.as_bytes().len())
}

/// What the client does with all that comes in.
#[divan::bench(args = rows())]
fn decode_downstream(bencher: Bencher<'_, '_>, row: Row) {
    let frame = encode_downstream(row.protocol, &downstream(row)).expect("a frame");
    let mut decoder = Decoder::new(row.protocol);
    bencher.counter(bytes_of(&frame)).bench_local(|| decoder.decode(black_box(&frame)));
}

/// What the client does with all that goes out.
#[divan::bench(args = rows())]
fn encode_up(bencher: Bencher<'_, '_>, row: Row) {
    let frame = upstream(row);
    let message = decode_upstream(row.protocol, &frame).expect("a message");
    bencher
        .counter(bytes_of(&frame))
        .bench_local(|| encode_upstream(row.protocol, black_box(&message)));
}

/// The emulator's side.
#[divan::bench(args = rows())]
fn encode_down(bencher: Bencher<'_, '_>, row: Row) {
    let message = downstream(row);
    let frame = encode_downstream(row.protocol, &message).expect("a frame");
    bencher
        .counter(bytes_of(&frame))
        .bench_local(|| encode_downstream(row.protocol, black_box(&message)));
}

/// The emulator's side.
#[divan::bench(args = rows())]
fn decode_up(bencher: Bencher<'_, '_>, row: Row) {
    let frame = upstream(row);
    bencher
        .counter(bytes_of(&frame))
        .bench_local(|| decode_upstream(row.protocol, black_box(&frame)));
}

/// Names that never repeat: the decoder's set of them grows and starts afresh.
#[divan::bench(args = Protocol::ALL.iter().map(|p| p.name()))]
fn decode_new_users(bencher: Bencher<'_, '_>, name: &str) {
    let protocol = Protocol::from_name(name).unwrap_or_default();
    let frames: Vec<Frame> = (0..10_000)
        .map(|n| {
            let text = format!(
                r#"{{"type":"message","from":"group","group":"bench","fromUserId":"user-{n}","dataType":"text","data":"hello"}}"#
            );
            let frame = Frame::Text(Text::from(text));
            let message = Decoder::new(Protocol::Json).decode(&frame).expect("a message");
            encode_downstream(protocol, &message).expect("a frame")
        })
        .collect();
    let mut decoder = Decoder::new(protocol);
    let mut at = 0;
    bencher.bench_local(|| {
        at = (at + 1) % frames.len();
        decoder.decode(black_box(&frames[at]))
    });
}
