//! Publishing streams, against the emulator over real sockets. Tests whose names begin with `s` show
//! a defect of the JavaScript client (1.1.0) to be absent here.

mod faults;
mod links;
mod random;
mod writer;

use std::time::Duration;

use webpubsub::emulator::{Emulator, EmulatorBuilder};
use webpubsub::{
    Client, Error, ErrorKind, Event, GroupMessage, OpenStream, Protocol, StreamWriter, Subscription,
};

use crate::support::{WATCHDOG, client, client_over, protocols};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A member of the group `g`, who sees the fragments as ordinary messages.
struct Viewer {
    _client: Client,
    messages: Subscription,
}

/// How a stream ended, as its subscribers see it.
#[derive(Debug, PartialEq)]
enum End {
    InOrder,
    /// The name of the error, or the publisher's own code.
    Error(String),
}

impl Viewer {
    fn new(emulator: &Emulator) -> Self {
        let client = client(emulator);
        let messages = client.subscribe("g").expect("subscribed");
        Self { _client: client, messages }
    }

    fn next(&self) -> GroupMessage {
        loop {
            match self.messages.recv_timeout(WATCHDOG).expect("open") {
                Some(Event::GroupMessage(message)) => return message,
                Some(_) => {}
                None => panic!("watchdog: no fragment"),
            }
        }
    }

    /// The fragments of the stream to its end: each once and in order, or this fails.
    fn see(&self, stream_id: &str) -> (Vec<String>, End) {
        let mut seen = Vec::new();
        loop {
            let message = self.next();
            let Some(part) = message.stream().cloned() else { continue };
            if part.stream_id != stream_id {
                continue;
            }
            assert_eq!(part.stream_sequence_id, seen.len() as u64 + 1, "{seen:?}");
            if part.end_of_stream {
                let code = part.error.map(|e| e.user_error_code.unwrap_or(e.name));
                return (seen, code.map_or(End::InOrder, End::Error));
            }
            seen.push(String::from_utf8_lossy(message.payload.as_bytes()).into_owned());
        }
    }

    /// All of a stream that has ended as the publisher wanted.
    fn see_all(&self, stream_id: &str) -> Vec<String> {
        let (seen, end) = self.see(stream_id);
        assert_eq!(end, End::InOrder);
        seen
    }
}

/// An emulator, a subscriber and a publisher.
struct Scene {
    emulator: Emulator,
    viewer: Viewer,
    client: Client,
}

impl Scene {
    fn over(protocol: Protocol) -> Self {
        Self::with(protocol, Emulator::builder())
    }

    fn with(protocol: Protocol, builder: EmulatorBuilder) -> Self {
        let emulator = builder.start().expect("emulator");
        let viewer = Viewer::new(&emulator);
        let client = client_over(&emulator, protocol);
        Self { emulator, viewer, client }
    }

    fn open(&self) -> StreamWriter {
        self.client.open_stream("g").expect("accepted")
    }

    fn open_with(&self, change: impl FnOnce(OpenStream) -> OpenStream) -> StreamWriter {
        self.client.open_stream(change(OpenStream::new("g"))).expect("accepted")
    }

    /// The link of the publisher alone.
    fn drop_link(&self) {
        let id = self.client.connection_id().expect("connected");
        assert!(self.emulator.faults().drop_connection(&id));
    }
}

fn send_numbers(stream: &mut StreamWriter, numbers: std::ops::RangeInclusive<u32>) {
    for number in numbers {
        stream.send(number.to_string()).expect("taken");
    }
}

fn numbers(to: u32) -> Vec<String> {
    (1..=to).map(|n| n.to_string()).collect()
}

fn refused_with(error: &Error, name: &str) {
    assert_eq!((error.kind(), error.service_error_name()), (ErrorKind::Refused, Some(name)));
}

#[test]
fn a_stream_from_its_start_to_its_end() {
    for protocol in protocols() {
        let scene = Scene::over(protocol);
        let mut stream = scene.open();
        assert_eq!((stream.stream_id().len(), stream.acked()), (36, 0));
        send_numbers(&mut stream, 1..=100);
        stream.wait_acked(WATCHDOG).expect("acknowledged");
        assert_eq!(stream.acked(), 100);
        send_numbers(&mut stream, 101..=1000);
        let id = stream.stream_id().to_owned();
        stream.finish().expect("published");
        assert_eq!(scene.viewer.see_all(&id), numbers(1000));
        // An empty one, of an id that was used.
        let empty = scene.open_with(|open| open.stream_id(&id));
        empty.finish().expect("published");
        assert!(scene.viewer.see_all(&id).is_empty());
        let stats = scene.emulator.stats();
        assert_eq!((stats.streams_opened, stats.streams_closed), (2, 2));
        assert_eq!(scene.client.stats().malformed, 0, "answers to streams can be read");
        scene.client.close().expect("closed");
    }
}

#[test]
fn fragments_keep_the_kind_of_their_payload() {
    for protocol in protocols() {
        let scene = Scene::over(protocol);
        let mut stream = scene.open();
        let json = webpubsub::Payload::from_json(&[1, 2]).expect("JSON");
        let bytes = webpubsub::Payload::from(&b"\x00\xff"[..]);
        for payload in ["text".into(), json, bytes, "".into()] {
            stream.send(payload.clone()).expect("taken");
            assert_eq!(scene.viewer.next().payload, payload);
        }
        stream.finish().expect("published");
    }
}

#[test]
fn the_end_with_an_error_reaches_subscribers() {
    for protocol in protocols() {
        let scene = Scene::over(protocol);
        let mut stream = scene.open_with(|open| open.stream_id("s"));
        send_numbers(&mut stream, 1..=2);
        stream.abort("gave up", "E42").expect("aborted");
        let (seen, end) = scene.viewer.see("s");
        assert_eq!((seen, end), (numbers(2), End::Error("E42".into())));
        // Neither text nor code.
        scene.open_with(|open| open.stream_id("s")).abort("", "").expect("aborted");
        assert_eq!(scene.viewer.see("s").1, End::Error("UserError".into()));
        assert_eq!(scene.emulator.stats().streams_closed, 2);
    }
}

#[test]
fn a_dropped_writer_aborts_its_stream_without_waiting() {
    for protocol in protocols() {
        let scene = Scene::over(protocol);
        let mut stream = scene.open_with(|open| open.stream_id("s"));
        send_numbers(&mut stream, 1..=3);
        drop(stream);
        assert_eq!(scene.viewer.see("s"), (numbers(3), End::Error("Dropped".into())));
        // The service answers nothing.
        let stream = scene.open_with(|open| open.stream_id("t"));
        scene.emulator.faults().freeze(true);
        let start = std::time::Instant::now();
        drop(stream);
        assert!(start.elapsed() < ms(1000), "{:?}", start.elapsed());
        scene.emulator.faults().freeze(false);
        assert_eq!(scene.viewer.see("t").1, End::Error("Dropped".into()));
    }
}

#[test]
fn the_close_of_the_client_aborts_its_streams() {
    for protocol in protocols() {
        let scene = Scene::over(protocol);
        let mut stream = scene.open_with(|open| open.stream_id("s"));
        send_numbers(&mut stream, 1..=3);
        scene.client.close().expect("closed");
        assert_eq!(scene.viewer.see("s"), (numbers(3), End::Error("Closed".into())));
        assert!(stream.send("late").expect_err("closed").is_closed());
        assert!(stream.wait_acked(WATCHDOG).expect_err("closed").is_closed());
        assert!(stream.finish().expect_err("closed").is_closed());
        assert!(scene.client.open_stream("g").expect_err("closed").is_closed());
    }
}
