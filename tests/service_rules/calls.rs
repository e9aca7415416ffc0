//! Events and what becomes of them; what a cut leaves of a call.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};
use webpubsub::Metadata;
use webpubsub::emulator::{Emulator, EventAnswer};

use crate::support::WATCHDOG;

pub(crate) const PLAIN: &str = "json.webpubsub.azure.v1";
pub(super) const RELIABLE: &str = "json.reliable.webpubsub.azure.v1";

pub(crate) type Socket = WebSocket<TcpStream>;

/// A simple client if the subprotocol is empty.
pub(crate) fn dial(url: &str, subprotocol: &str) -> Socket {
    let mut request = url.into_client_request().expect("request");
    if !subprotocol.is_empty() {
        let value = subprotocol.parse().expect("header");
        request.headers_mut().insert("Sec-WebSocket-Protocol", value);
    }
    let authority = request.uri().authority().expect("authority").as_str();
    let stream = TcpStream::connect(authority).expect("TCP");
    stream.set_read_timeout(Some(WATCHDOG)).expect("timeout");
    stream.set_nodelay(true).expect("no delay");
    tungstenite::client(request, stream).expect("upgrade").0
}

/// The socket and its `connected` message.
pub(super) fn open(emulator: &Emulator, subprotocol: &str) -> (Socket, Value) {
    let mut socket = dial(&emulator.url("hub"), subprotocol);
    let connected = read(&mut socket);
    assert_eq!(connected["event"], "connected");
    (socket, connected)
}

pub(crate) fn send(socket: &mut Socket, message: &Value) {
    socket.send(Message::text(message.to_string())).expect("send");
}

pub(crate) fn read(socket: &mut Socket) -> Value {
    match socket.read().expect("a message") {
        Message::Text(text) => serde_json::from_str(&text).expect("JSON"),
        other => panic!("{other:?}"),
    }
}

/// The Close that comes next.
pub(super) fn read_close(socket: &mut Socket) -> (u16, String) {
    match socket.read().expect("a Close") {
        Message::Close(Some(frame)) => (frame.code.into(), frame.reason.to_string()),
        other => panic!("{other:?}"),
    }
}

pub(super) fn text<'a>(message: &'a Value, field: &str) -> &'a str {
    message[field].as_str().expect(field)
}

pub(super) fn recover(emulator: &Emulator, connected: &Value) -> Socket {
    let (id, token) = (text(connected, "connectionId"), text(connected, "reconnectionToken"));
    recover_with(emulator, "hub", id, token)
}

pub(super) fn recover_with(emulator: &Emulator, hub: &str, id: &str, token: &str) -> Socket {
    let url = format!(
        "ws://127.0.0.1:{}/client/hubs/{hub}?awps_connection_id={id}&awps_reconnection_token={token}",
        emulator.port(),
    );
    dial(&url, RELIABLE)
}

pub(super) fn is_alive(socket: &mut Socket) -> bool {
    send(socket, &json!({"type": "ping"}));
    read(socket) == json!({"type": "pong"})
}

pub(super) fn event(name: &str, ack_id: u64) -> Value {
    json!({"type": "event", "event": name, "ackId": ack_id, "dataType": "text", "data": "x"})
}

fn failed(ack_id: u64) -> Value {
    let error = json!({"name": "InternalServerError", "message": "Internal server error"});
    json!({"type": "ack", "ackId": ack_id, "success": false, "error": error})
}

fn done(ack_id: u64) -> Value {
    json!({"type": "ack", "ackId": ack_id, "success": true})
}

/// An emulator whose event handler fails, if there is one.
fn failing(handler: bool, closes: Option<bool>) -> Emulator {
    let mut builder = Emulator::builder();
    if handler {
        builder = builder.event_handler(|event| match event.event.as_str() {
            "good" => EventAnswer::Nothing,
            _ => EventAnswer::Failure,
        });
    }
    if let Some(closes) = closes {
        builder = builder.failed_event_closes_connection(closes);
    }
    builder.start().expect("emulator")
}

#[test]
fn an_event_that_fails_or_has_no_handler_is_an_error_and_its_id_may_be_used_again() {
    for (handler, closes) in [(false, None), (true, None), (false, Some(false))] {
        let emulator = failing(handler, closes);
        for subprotocol in [PLAIN, RELIABLE] {
            let (mut socket, connected) = open(&emulator, subprotocol);
            send(&mut socket, &event("a.b_c-d", 1));
            assert_eq!(read(&mut socket), failed(1));
            send(&mut socket, &event("message", 1));
            assert_eq!(read(&mut socket), failed(1), "no `Duplicate`");
            send(&mut socket, &json!({"type": "event", "event": "e", "data": 1}));
            assert!(is_alive(&mut socket), "without an ack id nothing is said");
            assert_eq!(emulator.executions(text(&connected, "connectionId"), 1), 0);
        }
    }
}

#[test]
fn a_simple_client_is_closed_if_its_event_fails_or_has_no_handler() {
    for handler in [false, true] {
        let emulator = failing(handler, None);
        let mut socket = dial(&emulator.url("hub"), "");
        socket.send(Message::text("hi")).expect("send");
        assert_eq!(read_close(&mut socket), (1011, "Internal server error".into()));
    }
}

#[test]
fn a_failed_event_closes_a_pubsub_connection_where_that_is_asked_for() {
    for handler in [false, true] {
        let emulator = failing(handler, Some(true));
        for ack in [true, false] {
            let (mut socket, connected) = open(&emulator, RELIABLE);
            let mut bad = event("bad", 2);
            if !ack {
                bad.as_object_mut().expect("object").remove("ackId");
            }
            if handler {
                send(&mut socket, &event("good", 1));
                assert_eq!(read(&mut socket), done(1));
            }
            send(&mut socket, &bad);
            assert_eq!(read_close(&mut socket), (1011, "Internal server error".into()));
            assert_eq!(read_close(&mut recover(&emulator, &connected)).0, 1008, "session over");
        }
    }
}

#[test]
fn an_event_handlers_answer_may_carry_metadata() {
    let emulator = Emulator::builder()
        .event_handler(|event| {
            let metadata = Metadata::from_iter([("k", "v")]);
            EventAnswer::MessageWithMetadata(event.payload.clone(), metadata)
        })
        .start()
        .expect("emulator");
    for subprotocol in [PLAIN, RELIABLE] {
        let (mut socket, _) = open(&emulator, subprotocol);
        send(&mut socket, &event("e", 1));
        let answer = read(&mut socket);
        assert_eq!((&answer["from"], &answer["data"]), (&json!("server"), &json!("x")));
        assert_eq!(answer["metadata"], json!({"k": "v"}));
        assert_eq!(read(&mut socket), done(1), "behind the message");
    }
    let mut simple = dial(&emulator.url("hub"), "");
    simple.send(Message::text("x")).expect("send");
    assert_eq!(simple.read().expect("answer"), Message::text("x"));
}

/// `drop_after_frames` cuts behind the answers of the last frame, and nothing behind it is taken.
#[test]
fn a_connection_cut_after_a_frame_still_gets_its_answers() {
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    let emulator = Emulator::builder()
        .event_handler(move |event| {
            counted.fetch_add(1, SeqCst);
            EventAnswer::Message(event.payload.clone())
        })
        .start()
        .expect("emulator");
    for subprotocol in [PLAIN, RELIABLE] {
        let (mut socket, connected) = open(&emulator, subprotocol);
        let before = runs.load(SeqCst);
        emulator.faults().drop_after_frames(2);
        for ack_id in 1..=3 {
            // The last one may find the connection gone.
            let _ = socket.send(Message::text(event("e", ack_id).to_string()));
        }
        for ack_id in 1..=2 {
            assert_eq!(read(&mut socket)["data"], "x");
            assert_eq!(read(&mut socket), done(ack_id));
        }
        assert!(socket.read().is_err(), "the cut");
        let id = text(&connected, "connectionId");
        let executions: Vec<u32> = (1..=3).map(|ack| emulator.executions(id, ack)).collect();
        assert_eq!((runs.load(SeqCst) - before, executions), (2, vec![1, 1, 0]));
    }
}
