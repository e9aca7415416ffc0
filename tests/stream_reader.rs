//! Streams that a client reads, over real sockets. The publisher is a raw link. Tests whose names begin
//! with `s` show a defect of the JavaScript client to be absent.

mod bounds;
mod ends;
mod groups;
mod parts;
mod waiting;

use std::time::Duration;

use serde_json::{Value, json};
use webpubsub::emulator::Emulator;
use webpubsub::{
    Client, Error, Overflow, Protocol, QueueConfig, Reconnect, Recovery, StreamReader,
    StreamSubscription,
};

use crate::service_rules::calls::{PLAIN, Socket, dial, read, send};
use crate::support::WATCHDOG;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A raw connection that publishes streams.
struct Publisher {
    socket: Socket,
    id: String,
}

impl Publisher {
    fn new(emulator: &Emulator) -> Self {
        Self::at(&emulator.url("hub"))
    }

    fn at(url: &str) -> Self {
        let mut socket = dial(url, PLAIN);
        let connected = read(&mut socket);
        Self { socket, id: connected["connectionId"].as_str().expect("id").to_owned() }
    }

    /// Starts a stream of the group `g`.
    fn start(&mut self, id: &str) {
        self.start_in("g", id);
    }

    fn start_in(&mut self, group: &str, id: &str) {
        let stream = json!({"streamId": id});
        self.send(&json!({"type": "sendToGroup", "group": group, "stream": stream}));
    }

    fn part(&mut self, id: &str, number: u64) {
        self.data(id, number, "text", &json!(number.to_string()));
    }

    fn data(&mut self, id: &str, number: u64, data_type: &str, data: &Value) {
        self.send(&json!({"type": "streamData", "streamId": id, "streamSequenceId": number,
            "dataType": data_type, "data": data}));
    }

    /// A stream of `count` parts of the group `g`, from its start to its end.
    fn whole(&mut self, id: &str, count: u64) {
        self.start(id);
        (1..=count).for_each(|number| self.part(id, number));
        self.end(id);
    }

    fn end(&mut self, id: &str) {
        self.send(&json!({"type": "streamEnd", "streamId": id}));
    }

    fn abort(&mut self, id: &str, message: &str, code: &str) {
        let error = json!({"message": message, "userErrorCode": code});
        self.send(&json!({"type": "streamEnd", "streamId": id, "error": error}));
    }

    fn send(&mut self, message: &Value) {
        send(&mut self.socket, message);
    }

    /// The service has taken all that was sent.
    fn sync(&mut self) {
        self.send(&json!({"type": "ping"}));
        while read(&mut self.socket)["type"] != "pong" {}
    }
}

fn next(streams: &StreamSubscription) -> StreamReader {
    streams.recv_timeout(WATCHDOG).expect("open").expect("watchdog: no stream")
}

fn none(streams: &StreamSubscription) -> bool {
    matches!(streams.try_recv(), Ok(None))
}

/// The next part, which is text.
fn part(stream: &mut StreamReader) -> String {
    let part = stream.recv_timeout(WATCHDOG).expect("a part").expect("watchdog: no part");
    part.text().expect("text").to_owned()
}

/// All parts up to the orderly end, or to the error.
fn rest(stream: &mut StreamReader) -> (Vec<String>, Option<Error>) {
    let mut parts = Vec::new();
    loop {
        match stream.recv_timeout(WATCHDOG) {
            Ok(Some(part)) => parts.push(part.to_string()),
            Ok(None) => panic!("watchdog: neither a part nor the end after {parts:?}"),
            Err(_) if stream.is_complete() => {
                assert!(matches!(stream.recv(), Ok(None)), "the end in order");
                return (parts, None);
            }
            Err(error) => {
                let again = stream.recv().expect_err("the same again");
                assert_eq!(again.to_string(), error.to_string());
                return (parts, Some(error));
            }
        }
    }
}

fn complete(stream: &mut StreamReader) -> Vec<String> {
    let (parts, error) = rest(stream);
    assert!(error.is_none(), "{error:?}");
    parts
}

fn failed(stream: &mut StreamReader) -> Error {
    rest(stream).1.expect("an error")
}

fn numbers(range: std::ops::RangeInclusive<u64>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

fn member_of(emulator: &Emulator) -> Vec<String> {
    emulator.connections("hub").into_iter().flat_map(|connection| connection.groups).collect()
}

/// With quick attempts to come back.
fn quick(emulator: &Emulator, protocol: Protocol) -> Client {
    Client::builder(emulator.url("hub"))
        .protocol(protocol)
        .reconnect(Some(Reconnect::new().backoff(ms(1), ms(20))))
        .recovery(Recovery::new().attempt_interval(ms(10)))
        .connect()
        .expect("connect")
}

fn small(overflow: Overflow) -> QueueConfig {
    QueueConfig::new().max_messages(2).max_messages_during_calls(2).overflow(overflow)
}
