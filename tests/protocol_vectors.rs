//! The project's test frames, `tests/vectors.json`, or those in the file that the environment
//! variable `WEBPUBSUB_VECTORS` names: every frame must be read as the file says, and must mean the
//! same after it was written and read again.
//!
//! In a meaning, 64-bit numbers are decimal strings, and what is absent is left out.

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::path::PathBuf;

use data_encoding::BASE64;
use serde_json::{Map, Value, json};
use webpubsub::__codecs::{
    Decoder, Downstream, Frame, GroupStateItem, InvokeResponse, NamedError, SendContent, SendEvent,
    SendToGroup, Upstream, decode_upstream, encode_downstream, encode_upstream,
};
use webpubsub::{
    Bytes, GroupMessage, Metadata, Payload, Protocol, ServerMessage, StreamPart, Text,
};

/// Reads the file.
pub(crate) fn load() -> Vec<Value> {
    let path = std::env::var_os("WEBPUBSUB_VECTORS").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors.json")),
        PathBuf::from,
    );
    let shown = path.display();
    let file = std::fs::read(&path).unwrap_or_else(|e| panic!("cannot read {shown}: {e}"));
    serde_json::from_slice(&file).unwrap_or_else(|e| panic!("{shown} is not a JSON array: {e}"))
}

/// The bytes of a vector's frame.
pub(crate) fn frame_bytes(vector: &Value) -> Vec<u8> {
    let frame = field(vector, "frame");
    match field(vector, "encoding") {
        "text" => frame.as_bytes().to_vec(),
        "base64" => BASE64.decode(frame.as_bytes()).expect("base64"),
        other => panic!("unknown encoding {other}"),
    }
}

fn field<'a>(vector: &'a Value, name: &str) -> &'a str {
    vector[name].as_str().unwrap_or_else(|| panic!("no `{name}` in {vector}"))
}

fn frame(vector: &Value) -> Frame {
    let bytes = Bytes::from(frame_bytes(vector));
    match field(vector, "encoding") {
        "text" => Frame::Text(Text::from_utf8(bytes).expect("UTF-8")),
        _ => Frame::Binary(bytes),
    }
}

#[test]
fn vectors() {
    let mut checked: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut skipped: BTreeMap<String, usize> = BTreeMap::new();
    let mut failures = Vec::new();
    for vector in load() {
        let (subprotocol, direction) = (field(&vector, "subprotocol"), field(&vector, "direction"));
        let protocol = Protocol::from_name(subprotocol);
        if protocol.is_none() && !subprotocol.is_empty() {
            *skipped.entry(subprotocol.to_owned()).or_default() += 1;
            continue;
        }
        *checked.entry((subprotocol.to_owned(), direction.to_owned())).or_default() += 1;
        // A panic must not hide which frame it was, nor the frames after it.
        let outcome = catch_unwind(|| match (protocol, direction) {
            (Some(protocol), "down") if protocol.is_text() => check_down(protocol, &vector)
                .and_then(|()| check_down(protocol, &escaped(&vector)))
                .map_err(|why| format!("{why} (perhaps in its escaped form)")),
            (Some(protocol), "down") => check_down(protocol, &vector),
            (Some(protocol), "up") => check_up(protocol, &vector),
            (None, _) => check_simple(&vector),
            (_, other) => Err(format!("unknown direction {other}")),
        });
        let outcome = outcome.unwrap_or_else(|_| Err("panicked, see above".to_owned()));
        failures.extend(outcome.err().map(|why| format!("{}: {why}", field(&vector, "name"))));
    }
    for ((subprotocol, direction), count) in &checked {
        let name = if subprotocol.is_empty() { "(simple client)" } else { subprotocol };
        println!("checked: {count} frames of {name} {direction}");
    }
    for (subprotocol, count) in &skipped {
        println!("skipped: {count} frames of {subprotocol}, which this build does not know");
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
    assert!(!checked.is_empty(), "no frame was checked");
}

fn check_down(protocol: Protocol, vector: &Value) -> Result<(), String> {
    let mut decoder = Decoder::new(protocol);
    let decoded = decoder.decode(&frame(vector));
    let meaning = &vector["meaning"];
    let message = match decoded {
        Ok(message) => message,
        Err(why) if meaning["kind"] == "malformed" => {
            let number = decimal(why.sequence_id);
            meaning.get("sequenceId").map_or(Ok(()), |wanted| same(&number, wanted))?;
            return same(&json!(why.invocation_id), &meaning["invocationId"]);
        }
        Err(why) => return Err(format!("malformed: {why}")),
    };
    let mut got = downstream(&message);
    if meaning.get("data").is_none() && got["stream"]["endOfStream"] == true && is_empty(&got) {
        // The end of a stream without data is given to users as an empty text.
        got.as_object_mut().and_then(|fields| fields.remove("data"));
    }
    same(&got, meaning)?;
    let written = encode_downstream(protocol, &message).map_err(|e| e.to_string())?;
    match decoder.decode(&written) {
        Ok(again) if again == message => Ok(()),
        other => Err(format!("written as {written:?} and read as {other:?}")),
    }
}

/// The same with all that strings hold written as `\uXXXX`, keys included. A service may write any
/// part of them so.
fn escaped(vector: &Value) -> Value {
    let mut out = String::new();
    let mut chars = field(vector, "frame").chars();
    let mut inside = false;
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                inside = !inside;
                out.push(c);
            }
            '\\' if inside => {
                out.push(c);
                let kind = chars.next();
                let digits = if kind == Some('u') { 4 } else { 0 };
                out.extend(kind.into_iter().chain(chars.by_ref().take(digits)));
            }
            c if inside => {
                let units = c.encode_utf16(&mut [0; 2]).to_vec();
                out.extend(units.iter().map(|unit| format!("\\u{unit:04X}")));
            }
            c => out.push(c),
        }
    }
    let mut vector = vector.clone();
    vector["frame"] = out.into();
    vector
}

fn is_empty(meaning: &Value) -> bool {
    meaning["data"] == json!({"type": "text", "text": ""})
}

fn check_up(protocol: Protocol, vector: &Value) -> Result<(), String> {
    let meaning = &vector["meaning"];
    let message = match decode_upstream(protocol, &frame(vector)) {
        Ok(message) => message,
        Err(_) if meaning["kind"] == "malformed" => return Ok(()),
        Err(why) => return Err(format!("malformed: {why}")),
    };
    same(&upstream(&message), meaning)?;
    let written = encode_upstream(protocol, &message).map_err(|e| e.to_string())?;
    match decode_upstream(protocol, &written) {
        Ok(again) if again == message => Ok(()),
        other => Err(format!("written as {written:?} and read as {other:?}")),
    }
}

/// The simple client has no envelope: the frame is the payload.
fn check_simple(vector: &Value) -> Result<(), String> {
    let payload = match frame(vector) {
        Frame::Text(text) => Payload::Text(text),
        Frame::Binary(bytes) => Payload::Binary(bytes),
    };
    let got = match field(vector, "direction") {
        "up" => json!({"kind": "event", "event": "message", "data": data(&payload)}),
        _ => json!({"kind": "serverMessage", "data": data(&payload)}),
    };
    same(&got, &vector["meaning"])
}

/// `why` is for people.
fn same(got: &Value, meaning: &Value) -> Result<(), String> {
    let mut wanted = meaning.clone();
    wanted.as_object_mut().and_then(|fields| fields.remove("why"));
    if *got == wanted { Ok(()) } else { Err(format!("got {got}, not {wanted}")) }
}

/// Builds an object, leaving out what is null or an empty string.
fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let present = fields.into_iter().filter(|(_, value)| !value.is_null() && *value != "");
    Value::Object(present.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}

fn decimal(number: impl Into<Option<u64>>) -> Value {
    json!(number.into().map(|n| n.to_string()))
}

fn data(payload: &Payload) -> Value {
    match payload {
        Payload::Text(text) => json!({"type": "text", "text": text.as_str()}),
        Payload::Json(raw) => {
            let value: Value = serde_json::from_str(raw.as_str()).expect("JSON");
            json!({"type": "json", "json": value})
        }
        Payload::Binary(bytes) => json!({"type": "binary", "base64": BASE64.encode(bytes)}),
        Payload::Protobuf(bytes) => json!({"type": "protobuf", "base64": BASE64.encode(bytes)}),
        other => panic!("a new kind of payload: {other:?}"),
    }
}

fn opt_data(payload: Option<&Payload>) -> Value {
    payload.map_or(Value::Null, data)
}

fn named_error(error: Option<&NamedError>) -> Value {
    error.map_or(Value::Null, |e| object([("name", json!(e.name)), ("message", json!(e.message))]))
}

fn invoke_response(m: &InvokeResponse) -> Value {
    object([
        ("kind", json!("invokeResponse")),
        ("invocationId", json!(m.invocation_id)),
        ("success", json!(m.success)),
        ("data", opt_data(m.payload.as_ref())),
        ("error", named_error(m.error.as_ref())),
        ("metadata", metadata(&m.metadata)),
    ])
}

fn upstream(message: &Upstream<'_>) -> Value {
    match message {
        Upstream::JoinGroup { group, ack_id } => group_call("joinGroup", group, *ack_id, None),
        Upstream::LeaveGroup { group, ack_id } => group_call("leaveGroup", group, *ack_id, None),
        Upstream::SendToGroup(m) => send_to_group(m),
        Upstream::Event(m) => send_event(m),
        Upstream::Invoke(m) => object([
            ("kind", json!("invoke")),
            ("invocationId", json!(m.invocation_id)),
            ("target", json!("event")),
            ("event", json!(m.event)),
            ("metadata", json!(m.metadata.as_deref())),
            ("data", opt_data(m.payload.as_ref())),
        ]),
        Upstream::InvokeResponse(m) => invoke_response(m),
        Upstream::CancelInvocation { invocation_id } => {
            json!({"kind": "cancelInvocation", "invocationId": invocation_id})
        }
        Upstream::SequenceAck { sequence_id } => {
            json!({"kind": "sequenceAck", "sequenceId": decimal(*sequence_id)})
        }
        Upstream::Ping => json!({"kind": "ping"}),
        Upstream::StreamData { stream_id, stream_sequence_id, payload } => object([
            ("kind", json!("streamData")),
            ("streamId", json!(stream_id)),
            ("streamSequenceId", decimal(*stream_sequence_id)),
            ("data", opt_data(payload.as_ref())),
        ]),
        Upstream::StreamEnd { stream_id, error } => {
            let error = error.as_ref().map_or(Value::Null, |e| {
                object([("message", json!(e.message)), ("userErrorCode", json!(e.user_error_code))])
            });
            let kind = json!("streamEnd");
            object([("kind", kind), ("streamId", json!(stream_id)), ("error", error)])
        }
        Upstream::SetGroupState { group, ack_id, state } => {
            group_call("setGroupState", group, *ack_id, state.as_ref())
        }
        Upstream::SubscribeGroupState { group, ack_id } => {
            group_call("subscribeGroupState", group, *ack_id, None)
        }
        Upstream::UnsubscribeGroupState { group, ack_id } => {
            group_call("unsubscribeGroupState", group, *ack_id, None)
        }
        other => panic!("a new kind of message: {other:?}"),
    }
}

fn group_call(
    kind: &str,
    group: &str,
    ack_id: Option<u64>,
    state: Option<&BTreeMap<String, String>>,
) -> Value {
    object([
        ("kind", json!(kind)),
        ("group", json!(group)),
        ("ackId", decimal(ack_id)),
        ("state", json!(state)),
    ])
}

fn send_to_group(m: &SendToGroup<'_>) -> Value {
    let (payload, stream) = match &m.content {
        SendContent::Payload(payload) => (data(payload), Value::Null),
        SendContent::Stream { stream_id, idle_timeout_ms } => (
            Value::Null,
            object([("streamId", json!(stream_id)), ("idleTimeoutMs", json!(idle_timeout_ms))]),
        ),
    };
    object([
        ("kind", json!("sendToGroup")),
        ("group", json!(m.group)),
        ("ackId", decimal(m.ack_id)),
        ("noEcho", json!(m.no_echo)),
        ("ttlSeconds", json!(m.ttl_seconds)),
        ("metadata", json!(m.metadata.as_deref())),
        ("data", payload),
        ("stream", stream),
    ])
}

fn send_event(m: &SendEvent<'_>) -> Value {
    object([
        ("kind", json!("event")),
        ("event", json!(m.event)),
        ("ackId", decimal(m.ack_id)),
        ("metadata", json!(m.metadata.as_deref())),
        ("data", data(&m.payload)),
    ])
}

fn downstream(message: &Downstream) -> Value {
    match message {
        Downstream::Connected { connection_id, user_id, reconnection_token } => object([
            ("kind", json!("connected")),
            ("connectionId", json!(connection_id)),
            ("userId", json!(user_id)),
            ("reconnectionToken", json!(reconnection_token.as_ref().map(|t| t.expose()))),
        ]),
        Downstream::Disconnected { message } => {
            object([("kind", json!("disconnected")), ("message", json!(message))])
        }
        Downstream::Ack { ack_id, success, error } => object([
            ("kind", json!("ack")),
            ("ackId", decimal(*ack_id)),
            ("success", json!(success)),
            ("error", named_error(error.as_ref())),
        ]),
        Downstream::GroupMessage(m) => group_message(m),
        Downstream::ServerMessage(m) => server_message(m),
        Downstream::Pong => json!({"kind": "pong"}),
        Downstream::InvokeResponse(m) => invoke_response(m),
        Downstream::CancelInvocation { invocation_id } => {
            json!({"kind": "cancelInvocation", "invocationId": invocation_id})
        }
        Downstream::GroupStateSnapshot { group, items, sequence_id } => {
            group_state("groupStateSnapshot", group, items, *sequence_id)
        }
        Downstream::GroupStateUpdate { group, items, sequence_id } => {
            group_state("groupStateUpdate", group, items, *sequence_id)
        }
        Downstream::Unknown { sequence_id, .. } => {
            object([("kind", json!("ignored")), ("sequenceId", decimal(*sequence_id))])
        }
        stream => stream_control(stream),
    }
}

fn stream_control(message: &Downstream) -> Value {
    match message {
        Downstream::StreamAck { stream_id, expected_sequence_id } => json!({
            "kind": "streamAck",
            "streamId": stream_id,
            "expectedSequenceId": decimal(*expected_sequence_id),
        }),
        Downstream::StreamNack { stream_id, expected_sequence_id, name, message } => object([
            ("kind", json!("streamNack")),
            ("streamId", json!(stream_id)),
            ("expectedSequenceId", decimal(*expected_sequence_id)),
            ("name", json!(name)),
            ("message", json!(message)),
        ]),
        Downstream::StreamClosed { stream_id, error } => object([
            ("kind", json!("streamClosed")),
            ("streamId", json!(stream_id)),
            ("error", named_error(error.as_ref())),
        ]),
        other => panic!("a new kind of message: {other:?}"),
    }
}

fn metadata(metadata: &Metadata) -> Value {
    if metadata.is_empty() { Value::Null } else { metadata.iter().collect() }
}

fn group_message(m: &GroupMessage) -> Value {
    object([
        ("kind", json!("groupMessage")),
        ("group", json!(&*m.group)),
        ("fromUserId", json!(m.from_user_id.as_deref())),
        ("sequenceId", decimal(m.sequence_id)),
        ("metadata", metadata(&m.metadata)),
        ("stream", m.stream().map_or(Value::Null, stream_part)),
        ("data", data(&m.payload)),
    ])
}

fn stream_part(part: &StreamPart) -> Value {
    let error = part.error.as_ref().map_or(Value::Null, |e| {
        object([
            ("name", json!(e.name)),
            ("message", json!(e.message)),
            ("userErrorCode", json!(e.user_error_code)),
        ])
    });
    object([
        ("streamId", json!(part.stream_id)),
        ("streamSequenceId", decimal(part.stream_sequence_id)),
        ("endOfStream", json!(part.end_of_stream)),
        ("error", error),
    ])
}

fn server_message(m: &ServerMessage) -> Value {
    object([
        ("kind", json!("serverMessage")),
        ("sequenceId", decimal(m.sequence_id)),
        ("metadata", metadata(&m.metadata)),
        ("data", data(&m.payload)),
    ])
}

fn group_state(
    kind: &str,
    group: &str,
    items: &[GroupStateItem],
    sequence_id: Option<u64>,
) -> Value {
    let items = items.iter().map(|item| {
        object([
            ("connectionId", json!(item.connection_id)),
            ("userId", json!(item.user_id)),
            ("state", json!(item.state)),
            ("updatedAt", json!(item.updated_at.to_string())),
        ])
    });
    object([
        ("kind", json!(kind)),
        ("group", json!(group)),
        ("sequenceId", decimal(sequence_id)),
        ("items", Value::Array(items.collect())),
    ])
}
