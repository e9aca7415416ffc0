//! Invocations, streams and group state.

use std::time::Duration;

use data_encoding::BASE64;
use serde_json::{Value, json};
use tungstenite::Message;
use webpubsub::__codecs::{Decoder, Downstream, Frame};
use webpubsub::emulator::{Emulator, EventAnswer};
use webpubsub::{ClientAccess, Payload, Protocol, Role};

use super::calls::{PLAIN, RELIABLE, Socket, dial, is_alive, open, read, recover, send};

/// A client that may do everything with groups, their states included.
fn member(emulator: &Emulator, subprotocol: &str, group: &str) -> (Socket, Value) {
    let access = ClientAccess::new().user_id("u").role(Role::join_leave()).role(Role::send());
    let access = access.role(Role::set_group_state()).role(Role::get_group_state());
    let mut socket = dial(&emulator.url_for("hub", &access).expect("URL"), subprotocol);
    let connected = read(&mut socket);
    send(&mut socket, &json!({"type": "joinGroup", "group": group, "ackId": 1000}));
    assert_eq!(read(&mut socket)["success"], true);
    (socket, connected)
}

#[test]
fn an_invocation_without_a_handler_fails_under_its_id() {
    let emulator = Emulator::start().expect("emulator");
    for subprotocol in [PLAIN, RELIABLE] {
        let (mut socket, _) = open(&emulator, subprotocol);
        send(
            &mut socket,
            &json!({"type": "invoke", "invocationId": "i", "target": "event", "event": "e"}),
        );
        let error = json!({"name": "InternalServerError", "message": "Internal server error"});
        let failed = json!({"type": "invokeResponse", "invocationId": "i", "success": false,
            "error": error});
        assert_eq!(read(&mut socket), failed);
    }
}

#[test]
fn a_stream_is_accepted_passed_on_and_closed() {
    let emulator = Emulator::start().expect("emulator");
    let (mut reader, _) = member(&emulator, RELIABLE, "g");
    let (mut socket, _) = open(&emulator, PLAIN);
    let stream = json!({"streamId": "s"});
    send(&mut socket, &json!({"type": "sendToGroup", "group": "g", "stream": stream}));
    let accepted = json!({"type": "streamAck", "streamId": "s", "expectedSequenceId": 1});
    assert_eq!(read(&mut socket), accepted);
    let fragment = json!({"type": "streamData", "streamId": "s", "streamSequenceId": 1,
        "dataType": "text", "data": "x"});
    send(&mut socket, &fragment);
    // By its time, with nothing else to wake the service up.
    let done = json!({"type": "streamAck", "streamId": "s", "expectedSequenceId": 2});
    assert_eq!(read(&mut socket), done);
    send(&mut socket, &json!({"type": "streamEnd", "streamId": "s"}));
    assert_eq!(read(&mut socket), json!({"type": "streamClosed", "streamId": "s"}));
    let first = json!({"type": "message", "from": "group", "group": "g", "fromUserId": null,
        "dataType": "text", "data": "x", "stream": {"streamId": "s", "streamSequenceId": 1},
        "sequenceId": 1});
    assert_eq!(read(&mut reader), first);
    let last = json!({"type": "message", "from": "group", "group": "g", "fromUserId": null,
        "dataType": "text", "data": "", "sequenceId": 2,
        "stream": {"streamId": "s", "streamSequenceId": 2, "endOfStream": true}});
    assert_eq!(read(&mut reader), last);
}

#[test]
fn states_go_to_those_who_follow_them() {
    let emulator = Emulator::start().expect("emulator");
    let (mut reader, _) = member(&emulator, RELIABLE, "g");
    let (mut setter, connected) = member(&emulator, PLAIN, "g");
    send(&mut reader, &json!({"type": "subscribeGroupState", "group": "g", "ackId": 1}));
    assert_eq!(read(&mut reader), json!({"type": "ack", "ackId": 1, "success": true}));
    let none = json!({"type": "groupStateSnapshot", "group": "g", "items": [], "sequenceId": 1});
    assert_eq!(read(&mut reader), none);
    let state = json!({"type": "setGroupState", "group": "g", "ackId": 1, "state": {"k": "v"}});
    send(&mut setter, &state);
    assert_eq!(read(&mut setter), json!({"type": "ack", "ackId": 1, "success": true}));
    let mut update = read(&mut reader);
    assert!(update["items"][0]["updatedAt"].take().as_i64().expect("time") > 1_700_000_000_000);
    let item = json!({"connectionId": connected["connectionId"], "userId": "u",
        "state": {"k": "v"}, "updatedAt": null});
    let expected = json!({"type": "groupStateUpdate", "group": "g", "items": [item],
        "sequenceId": 2});
    assert_eq!(update, expected);
}

/// The frames are those of the service's schema, written by another program.
#[test]
fn the_same_in_protobuf() {
    let emulator = Emulator::builder()
        .event_handler(|event| match event.invocation_id.as_deref() {
            Some("1") if event.event == "add" => {
                EventAnswer::Message(Payload::from_json(&3).expect("JSON"))
            }
            _ => EventAnswer::Failure,
        })
        .start()
        .expect("emulator");
    let access = ClientAccess::new().role(Role::join_leave()).role(Role::send());
    let access = access.role(Role::set_group_state()).role(Role::get_group_state());
    let access = access.group("chat-room").group("g1");
    let url = emulator.url_for("hub", &access).expect("URL");
    let mut socket = dial(&url, "protobuf.webpubsub.azure.v1");
    let mut decoder = Decoder::new(Protocol::Protobuf);
    let mut next = |socket: &mut Socket| match socket.read().expect("a frame") {
        Message::Binary(bytes) => decoder.decode(&Frame::Binary(bytes)).expect("a message"),
        other => panic!("{other:?}"),
    };
    let up = |socket: &mut Socket, base64: &str| {
        let bytes = BASE64.decode(base64.as_bytes()).expect("base64");
        socket.send(Message::binary(bytes)).expect("send");
    };
    let Downstream::Connected { connection_id, .. } = next(&mut socket) else {
        panic!("connected")
    };

    up(&mut socket, "UhEKA2FkZBIBMRoHIgVbMSwyXQ=="); // invoke `add`, id 1, [1,2]
    match socket.read().expect("a frame") {
        Message::Binary(bytes) => assert_eq!(BASE64.encode(&bytes), "KgoKATEQARoDIgEz"),
        other => panic!("{other:?}"),
    }

    up(&mut socket, "Cg4KAmcxOggKA3MtMRCsAg=="); // start of `s-1` to `g1`, idle for 300 ms
    let ack = |expected_sequence_id| Downstream::StreamAck {
        stream_id: "s-1".into(),
        expected_sequence_id,
    };
    assert_eq!(next(&mut socket), ack(1));
    up(&mut socket, "ahIKA3MtMRABGgkiB3siYSI6MX0="); // fragment 1, {"a":1}
    let Downstream::GroupMessage(message) = next(&mut socket) else { panic!("a fragment") };
    assert_eq!(message.payload.as_bytes(), br#"{"a":1}"#);
    assert_eq!(message.stream().map(|part| part.stream_sequence_id), Some(1));
    assert_eq!(next(&mut socket), ack(2));
    // It is quiet then, and the time does the rest.
    let Downstream::GroupMessage(message) = next(&mut socket) else { panic!("the end") };
    let part = message.stream().expect("a stream");
    assert_eq!(
        (part.stream_sequence_id, part.error.as_ref().expect("an error").name.clone()),
        (2, "IdleTimeout".into())
    );
    let Downstream::StreamClosed { error, .. } = next(&mut socket) else { panic!("closed") };
    assert_eq!(error.expect("an error").name, "IdleTimeout");

    up(&mut socket, "ggENCgljaGF0LXJvb20QAw=="); // follow `chat-room`, ack 3
    let done = |ack_id| Downstream::Ack { ack_id, success: true, error: None };
    assert_eq!(next(&mut socket), done(3));
    let Downstream::GroupStateSnapshot { items, .. } = next(&mut socket) else {
        panic!("a snapshot")
    };
    assert!(items.is_empty());
    for (frame, state, ack_id) in [
        ("eiMKCWNoYXQtcm9vbRABGhQKEgoIYWN0aXZpdHkSBnR5cGluZw==", Some("typing"), 1),
        ("eg0KCWNoYXQtcm9vbRAC", None, 2),
    ] {
        up(&mut socket, frame);
        let Downstream::GroupStateUpdate { items, .. } = next(&mut socket) else {
            panic!("an update")
        };
        let activity = items[0].state.as_ref().map(|state| &*state["activity"]);
        assert_eq!((&items[0].connection_id, activity), (&connection_id, state));
        assert_eq!(next(&mut socket), done(ack_id));
    }
}

#[test]
fn other_messages_pass_an_answer_that_is_late_and_one_that_is_lost_never_comes() {
    let emulator =
        Emulator::builder().event_handler(|_| EventAnswer::Nothing).start().expect("emulator");
    let (mut socket, _) = open(&emulator, RELIABLE);
    let invoke =
        |id: &str| json!({"type": "invoke", "invocationId": id, "target": "event", "event": "e"});
    emulator.faults().lose_next_invocation_responses(1);
    emulator.faults().hold_invocation_responses(true);
    for id in ["lost", "late"] {
        send(&mut socket, &invoke(id));
    }
    assert!(is_alive(&mut socket));
    emulator.faults().hold_invocation_responses(false);
    let response = json!({"type": "invokeResponse", "invocationId": "late", "success": true});
    assert_eq!(read(&mut socket), response);
    send(&mut socket, &json!({"type": "cancelInvocation", "invocationId": "lost"}));
    assert!(is_alive(&mut socket));
    let stats = emulator.stats();
    assert_eq!((stats.invocations, stats.invocations_cancelled), (2, 1));
}

/// Nothing else goes on that would make the emulator look at its clock.
#[test]
fn subscribers_hear_in_time_of_a_publisher_that_does_not_come_back() {
    let emulator = Emulator::start().expect("emulator");
    let (mut reader, _) = member(&emulator, RELIABLE, "g");
    send(&mut reader, &json!({"type": "subscribeGroupState", "group": "g"}));
    assert_eq!(read(&mut reader)["type"], "groupStateSnapshot");
    let (mut socket, connected) = member(&emulator, RELIABLE, "g");
    let id = connected["connectionId"].as_str().expect("id");
    send(&mut socket, &json!({"type": "sendToGroup", "group": "g", "stream": {"streamId": "s"}}));
    assert_eq!(read(&mut socket)["type"], "streamAck");
    send(&mut socket, &json!({"type": "setGroupState", "group": "g", "state": {"k": "v"}}));
    assert_eq!(read(&mut reader)["type"], "groupStateUpdate");
    assert_eq!(emulator.group_states("hub", "g")[id]["k"], "v");
    assert!(emulator.faults().drop_connection(id));
    emulator.advance_clock(Duration::from_secs(30));
    let end = read(&mut reader);
    assert_eq!(end["stream"]["error"]["name"], "Cancelled");
    let cleared = read(&mut reader);
    assert_eq!(
        (&cleared["items"][0]["connectionId"], cleared["items"][0].get("state")),
        (&connected["connectionId"], None)
    );
    assert!(emulator.group_states("hub", "g").is_empty());
}

#[test]
fn a_stream_that_the_service_ends_and_one_whose_end_is_lost() {
    let emulator = Emulator::start().expect("emulator");
    let (mut reader, _) = member(&emulator, PLAIN, "g");
    let (mut socket, connected) = open(&emulator, RELIABLE);
    let id = connected["connectionId"].as_str().expect("id");
    let start = json!({"type": "sendToGroup", "group": "g", "stream": {"streamId": "s"}});
    send(&mut socket, &start);
    assert_eq!(read(&mut socket)["type"], "streamAck");
    assert!(emulator.faults().fail_stream(id, "s", "InternalServerError", "broken"));
    let error = json!({"name": "InternalServerError", "message": "broken"});
    assert_eq!(read(&mut socket), json!({"type": "streamClosed", "streamId": "s", "error": error}));
    assert_eq!(read(&mut reader)["stream"]["error"], error);

    send(&mut socket, &start);
    assert_eq!(read(&mut socket)["type"], "streamAck");
    emulator.faults().lose_next_stream_closes(1);
    emulator.faults().drop_after_frames(1);
    send(&mut socket, &json!({"type": "streamEnd", "streamId": "s"}));
    assert!(socket.read().is_err(), "the cut");
    let mut socket = recover(&emulator, &connected);
    send(&mut socket, &json!({"type": "streamEnd", "streamId": "s"}));
    assert_eq!(read(&mut socket)["error"]["name"], "StreamNotFound");
    assert_eq!(read(&mut reader)["stream"]["endOfStream"], true);
}
