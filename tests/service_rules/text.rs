//! JSON: what may stand in a frame, and how the service writes its own.

use std::net::TcpStream;

use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};
use webpubsub::emulator::{Emulator, EventAnswer};
use webpubsub::{
    Client, ClientAccess, ErrorKind, Event, Payload, Protocol, Publish, RawJson, Role, SendEvent,
};

use crate::support::{
    WATCHDOG, client_over, emulator, eventually, next_event, next_group_message, protocols,
    reliable_protocols,
};

const NOT_VALID: &str = "The client message is not a valid JSON protocol message.";

/// A client that sends what it is told.
struct Raw {
    socket: WebSocket<TcpStream>,
    /// The last ack id it used.
    ack_id: u64,
}

impl Raw {
    fn open(url: &str, subprotocol: Protocol) -> Self {
        let mut request = url.into_client_request().expect("URL");
        let name = subprotocol.name().parse().expect("header");
        request.headers_mut().insert("Sec-WebSocket-Protocol", name);
        let address = request.uri().authority().expect("authority").to_string();
        let stream = TcpStream::connect(address).expect("connect");
        stream.set_read_timeout(Some(WATCHDOG)).expect("timeout");
        let (socket, _) = tungstenite::client(request, stream).expect("upgrade");
        Self { socket, ack_id: 1000 }
    }

    /// A member of the group `g`, behind `connected` and the ack of the join.
    fn member(emulator: &Emulator, subprotocol: Protocol) -> Self {
        let mut raw = Self::open(&emulator.url("hub"), subprotocol);
        raw.read();
        raw.send(r#"{"type":"joinGroup","group":"g","ackId":1}"#);
        assert_eq!(raw.json()["success"], true);
        raw
    }

    fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).expect("send");
    }

    fn read(&mut self) -> String {
        match self.socket.read().expect("a frame") {
            Message::Text(text) => text.to_string(),
            other => panic!("{other:?}"),
        }
    }

    fn json(&mut self) -> Value {
        serde_json::from_str(&self.read()).expect("JSON")
    }

    /// The message that a publication brings back, and then its ack.
    fn publish(&mut self, fields: &str) -> Value {
        self.ack_id += 1;
        let id = self.ack_id;
        self.send(&format!(r#"{{"type":"sendToGroup","group":"g","ackId":{id},{fields}}}"#));
        let message = self.json();
        assert_eq!(message["type"], "message", "{fields}: {message}");
        assert_eq!(self.json(), json!({"type": "ack", "ackId": id, "success": true}), "{fields}");
        message
    }

    /// What comes next is the Close for malformed JSON.
    fn assert_refused(mut self, what: &str) {
        match self.socket.read().expect("a Close") {
            Message::Close(Some(close)) => {
                let close = (u16::from(close.code), close.reason.to_string());
                assert_eq!(close, (1007, NOT_VALID.to_owned()), "{what}");
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}

/// The emulator refuses this frame of a client, and the session is over.
fn refused(emulator: &Emulator, frame: &str) {
    for subprotocol in [Protocol::Json, Protocol::ReliableJson] {
        let mut raw = Raw::member(emulator, subprotocol);
        raw.send(frame);
        raw.assert_refused(frame);
        assert!(emulator.wait_until(WATCHDOG, |s| s.sessions == 0), "{frame}");
    }
}

fn nested(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

// --- null, protobuf, depth -----------------------------------------------------------------------

#[test]
fn json_null_as_data_ends_the_session() {
    let emulator = emulator();
    for frame in [
        r#"{"type":"sendToGroup","group":"g","ackId":2,"dataType":"json","data":null}"#,
        r#"{"type":"sendToGroup","group":"g","data": null }"#,
        r#"{"type":"sendToGroup","group":"g","dataType":"text","data":null}"#,
        r#"{"type":"event","event":"e","ackId":2,"dataType":"json","data":null}"#,
        r#"{"type":"event","event":"e","data":null}"#,
    ] {
        refused(&emulator, frame);
    }
    let mut raw = Raw::member(&emulator, Protocol::Json);
    assert_eq!(raw.publish(r#""dataType":"json","data":[null]"#)["data"], json!([null]));
    assert_eq!(raw.publish(r#""dataType":"json","data":"null""#)["data"], "null");
}

#[test]
fn the_client_refuses_to_send_null() {
    for protocol in protocols() {
        let emulator = emulator();
        let client = client_over(&emulator, protocol);
        client.join_group("g").expect("join");
        let json = |text: &str| Payload::from(RawJson::new(text).expect("JSON"));
        for null in [
            json("null"),
            json(" \t\r\nnull\n "),
            Value::Null.into(),
            Payload::from_json(&None::<u8>).expect("JSON"),
            Payload::from_json(&()).expect("JSON"),
        ] {
            for error in [
                client.publish("g", null.clone()).expect_err("null"),
                client.start(Publish::new("g", null.clone())).expect_err("null"),
                client.fire_and_forget(Publish::new("g", null.clone())).expect_err("null"),
                client.send_event("e", null.clone()).expect_err("null"),
                client.fire_and_forget_all([SendEvent::new("e", null.clone())]).expect_err("null"),
                client.start_all([Publish::new("g", null.clone())]).expect_err("null"),
            ] {
                assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
                assert!(!error.may_have_been_delivered());
                let text = error.to_string();
                assert!(text.contains("`null`") && text.contains(r#"{"value":null}"#), "{text}");
            }
        }
        for good in [json(r#"{"value":null}"#), Payload::from("null"), json("\"null\"")] {
            client.publish("g", good.clone()).expect("send");
            assert_eq!(next_group_message(&client).payload, good);
        }
        assert_eq!(client.stats().reconnects + client.stats().recoveries, 0);
    }
}

#[test]
fn null_that_the_service_delivers_is_handed_out_and_acknowledged() {
    for protocol in protocols() {
        let emulator = Emulator::builder()
            .event_handler(|_| EventAnswer::Message(Value::Null.into()))
            .start()
            .expect("emulator");
        let client = client_over(&emulator, protocol);
        client.join_group("g").expect("join");
        assert!(matches!(next_event(&client), Event::Connected(_)));
        emulator.send_to_group("hub", "g", Value::Null).expect("sent");
        emulator.send_to_all("hub", Value::Null).expect("sent");
        client.send_event("e", "x").expect("event");
        let Event::GroupMessage(message) = next_event(&client) else { panic!("no message") };
        assert_eq!(message.json::<Option<u8>>().expect("JSON"), None);
        for _ in 0..2 {
            let Event::ServerMessage(message) = next_event(&client) else { panic!("no message") };
            assert_eq!(message.json::<Value>().expect("JSON"), Value::Null);
        }
        eventually("acknowledged", || emulator.connections("hub")[0].unacked == 0);
        let (client, emulator) = (client.stats(), emulator.stats());
        assert_eq!(emulator.sequence_acks > 0, protocol.is_reliable());
        assert_eq!((client.malformed, client.recoveries, client.reconnects), (0, 0, 0));
        assert_eq!(emulator.connections_opened, 1);
    }
}

#[test]
fn protobuf_data_over_json_is_taken_unless_the_emulator_is_told_to_refuse_it() {
    let data = r#""dataType":"protobuf","data":"CgFhEgFi""#;
    let emulator = emulator();
    let mut raw = Raw::member(&emulator, Protocol::Json);
    let message = raw.publish(data);
    assert_eq!((&message["dataType"], &message["data"]), (&json!("protobuf"), &json!("CgFhEgFi")));

    let strict = Emulator::builder().refuse_protobuf_over_json(true).start().expect("emulator");
    refused(&strict, &format!(r#"{{"type":"sendToGroup","group":"g",{data}}}"#));
    refused(&strict, &format!(r#"{{"type":"event","event":"e",{data}}}"#));
    Raw::member(&strict, Protocol::Json).publish(r#""dataType":"binary","data":"CgFhEgFi""#);
}

#[cfg(feature = "protobuf")]
#[test]
fn protobuf_data_over_protobuf_is_never_refused() {
    let strict = Emulator::builder().refuse_protobuf_over_json(true).start().expect("emulator");
    let client = client_over(&strict, Protocol::Protobuf);
    client.join_group("g").expect("join");
    client.publish("g", Payload::Protobuf(Vec::new().into())).expect("send");
    assert!(matches!(next_group_message(&client).payload, Payload::Protobuf(_)));
}

#[test]
fn json_may_nest_64_deep_with_the_object_of_the_frame() {
    let emulator = emulator();
    let data = |depth: usize| format!(r#""dataType":"json","data":{}"#, nested(depth));
    let mut raw = Raw::member(&emulator, Protocol::Json);
    for depth in [62, 63] {
        assert_eq!(raw.publish(&data(depth))["data"].to_string(), nested(depth));
    }
    let brackets = format!(r#""data":["{0}\"{0}\\",["{0}"]]"#, "[{".repeat(100));
    raw.publish(&brackets);
    drop(raw);
    assert!(emulator.wait_until(WATCHDOG, |s| s.sessions == 0));
    for depth in [64, 65, 200, 100_000] {
        refused(&emulator, &format!(r#"{{"type":"sendToGroup","group":"g",{}}}"#, data(depth)));
    }
    refused(&emulator, &format!(r#"{{"type":"event","event":"e",{}}}"#, data(64)));
    refused(&emulator, &format!(r#"{{"type":"ping","unknown":{}}}"#, nested(64)));
}

#[test]
fn the_client_refuses_json_data_that_nests_deeper_than_63() {
    for protocol in protocols() {
        let emulator = emulator();
        let client = client_over(&emulator, protocol);
        client.join_group("g").expect("join");
        let json = |text: String| Payload::from(RawJson::new(text).expect("JSON"));
        let objects = format!("{}0{}", r#"{"a":"#.repeat(64), "}".repeat(64));
        for deep in [json(nested(64)), json(nested(100_000)), json(objects)] {
            for error in [
                client.publish("g", deep.clone()).expect_err("too deep"),
                client.send_event("e", deep.clone()).expect_err("too deep"),
                client.fire_and_forget(Publish::new("g", deep.clone())).expect_err("too deep"),
            ] {
                assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
                assert!(error.to_string().contains("63"), "{error}");
            }
        }
        let deepest = json(nested(63));
        client.publish("g", deepest.clone()).expect("send");
        assert_eq!(next_group_message(&client).payload, deepest);
        assert_eq!(client.stats().reconnects + client.stats().recoveries, 0);
    }
}

// --- leniency --------------------------------------------------------------------------------------

#[test]
fn of_repeated_keys_the_last_counts() {
    let emulator = emulator();
    let mut raw = Raw::member(&emulator, Protocol::Json);
    raw.send(r#"{"type":"nope","type":"ping"}"#);
    assert_eq!(raw.json()["type"], "pong");
    raw.send(r#"{"type":"joinGroup","group":"","group":"h","ackId":"x","ackId":3}"#);
    assert_eq!(raw.json(), json!({"type": "ack", "ackId": 3, "success": true}));
    let message = raw
        .publish(r#""dataType":"text","data":1,"data":"x","metadata":{"k":"1","a":"b","k":"2"}"#);
    assert_eq!(message["data"], "x");
    assert_eq!(message["metadata"], json!({"a": "b", "k": "2"}));
    // Repeated keys inside data are left to the receiver.
    raw.send(r#"{"type":"sendToGroup","group":"g","data":{"a":1,"a":2}}"#);
    assert!(raw.read().contains(r#""data":{"a":1,"a":2}"#));
    drop(raw);
    assert!(emulator.wait_until(WATCHDOG, |s| s.sessions == 0));
    refused(&emulator, r#"{"type":"joinGroup","group":"g","group":""}"#);
}

#[test]
fn metadata_and_ttl_of_null_are_absent() {
    let emulator = emulator();
    let mut raw = Raw::member(&emulator, Protocol::Json);
    let message = raw.publish(r#""dataType":"text","data":"x","metadata":null,"ttlSeconds":null"#);
    assert_eq!((&message["data"], message.get("metadata")), (&json!("x"), None));
}

#[test]
fn a_ping_with_an_ack_id_of_a_wrong_type_ends_the_session() {
    let emulator = emulator();
    let mut raw = Raw::member(&emulator, Protocol::Json);
    for good in ["5", "null"] {
        raw.send(&format!(r#"{{"type":"ping","ackId":{good}}}"#));
        assert_eq!(raw.json(), json!({"type": "pong"}));
    }
    drop(raw);
    assert!(emulator.wait_until(WATCHDOG, |s| s.sessions == 0));
    for bad in [r#""x""#, "-1", "1.0", "true"] {
        refused(&emulator, &format!(r#"{{"type":"ping","ackId":{bad}}}"#));
    }
}

// --- how the service writes ------------------------------------------------------------------------

/// What a member without a user id, or of that one, is sent: `connected` and its own echo.
fn as_written(emulator: &Emulator, user: Option<&str>, subprotocol: Protocol) -> (String, String) {
    let access = ClientAccess::new().role(Role::send()).group("é");
    let access = user.into_iter().fold(access, ClientAccess::user_id);
    let mut raw = Raw::open(&emulator.url_for("hub", &access).expect("url"), subprotocol);
    let connected = raw.read();
    raw.send(r#"{"type":"sendToGroup","group":"é","dataType":"text","data":"é✓🎉 <>&'+/\"\\\u0000\n","metadata":{"k'":"<"}}"#);
    (connected, raw.read())
}

#[test]
fn json_is_escaped_to_ascii_and_ends_with_the_sequence_id() {
    let (connected, message) =
        as_written(&emulator(), Some("ünï \"q\" 🎉"), Protocol::ReliableJson);
    let start = r#"{"type":"system","event":"connected","userId":"\u00FCn\u00EF \u0022q\u0022 \uD83C\uDF89","connectionId":""#;
    assert!(connected.starts_with(start), "{connected}");
    let expected = concat!(
        r#"{"type":"message","from":"group","group":"\u00E9","#,
        r#""fromUserId":"\u00FCn\u00EF \u0022q\u0022 \uD83C\uDF89","dataType":"text","#,
        r#""data":"\u00E9\u2713\uD83C\uDF89 \u003C\u003E\u0026\u0027\u002B/\u0022\\\u0000\n","#,
        r#""metadata":{"k\u0027":"\u003C"},"sequenceId":1}"#,
    );
    assert_eq!(message, expected);

    let plain = Emulator::builder().plain_json(true).start().expect("emulator");
    let (connected, message) = as_written(&plain, Some("ünï \"q\" 🎉"), Protocol::ReliableJson);
    let start = r#"{"type":"system","event":"connected","userId":"ünï \"q\" 🎉","connectionId":""#;
    assert!(connected.starts_with(start), "{connected}");
    let expected = concat!(
        r#"{"sequenceId":1,"type":"message","from":"group","group":"é","#,
        r#""fromUserId":"ünï \"q\" 🎉","dataType":"text","#,
        r#""data":"é✓🎉 <>&'+/\"\\\u0000\n","metadata":{"k'":"<"}}"#,
    );
    assert_eq!(message, expected);
}

#[test]
fn json_data_goes_through_as_it_was_written() {
    let emulator = emulator();
    for data in [r#"{"a" : [1.0, 1e400, -0, "\u00e9é<"]}"#, "9007199254740993", r#""\ud800""#] {
        let mut raw = Raw::member(&emulator, Protocol::Json);
        raw.send(&format!(
            r#"{{"type":"sendToGroup","group":"g","dataType":"json","data": {data} }}"#
        ));
        let message = raw.read();
        assert!(message.ends_with(&format!(r#""data":{data}}}"#)), "{message}");
    }
}

#[test]
fn a_user_id_is_null_if_there_is_none_and_the_client_reports_none() {
    for emulator in crate::support::forms().map(|form| form.start().expect("emulator")) {
        let (connected, message) = as_written(&emulator, None, Protocol::Json);
        assert!(connected.contains(r#""event":"connected","userId":null,"#), "{connected}");
        assert!(message.contains(r#","fromUserId":null,"dataType":"#), "{message}");
        for protocol in protocols() {
            let client = client_over(&emulator, protocol);
            let Event::Connected(connected) = next_event(&client) else { panic!("no event") };
            assert_eq!(connected.user_id, None);
            client.join_group("g").expect("join");
            client.publish("g", "x").expect("send");
            assert_eq!(next_group_message(&client).from_user_id, None);
        }
    }
}

#[test]
fn a_text_of_a_mebibyte_arrives_though_its_escapes_make_it_six() {
    let text = "<".repeat((1 << 20) - 200);
    for protocol in reliable_protocols(true) {
        let emulator = emulator();
        let client = Client::builder(emulator.url("hub")).protocol(protocol).connect();
        let client = client.expect("connect");
        client.join_group("g").expect("join");
        client.publish("g", text.as_str()).expect("send");
        assert_eq!(next_group_message(&client).text().expect("text"), text);
    }
}
