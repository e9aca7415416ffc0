//! Properties of the codecs: what is written is read back the same, and nothing panics.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::message::{RawJson, StreamFailure, StreamPart};

/// Any text, with all the characters that need care in JSON.
fn text() -> impl Strategy<Value = String> {
    let odd =
        prop::sample::select(vec!['"', '\\', '\0', '\n', '\u{7f}', '\u{2028}', '🚀', ' ', '/']);
    vec(prop_oneof![any::<char>(), odd], 0..80).prop_map(String::from_iter)
}

/// Text that is neither empty nor blank, as names are.
fn name() -> impl Strategy<Value = String> {
    text().prop_map(|text| format!("{text}x"))
}

fn shared(text: impl Strategy<Value = String>) -> impl Strategy<Value = Arc<str>> {
    text.prop_map(Arc::from)
}

fn cow() -> impl Strategy<Value = Cow<'static, str>> {
    name().prop_map(Cow::Owned)
}

fn ascii(range: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    vec(prop::sample::select(b"abcXYZ019-_.".to_vec()), range)
        .prop_map(|bytes| bytes.into_iter().map(char::from).collect())
}

fn event() -> impl Strategy<Value = Cow<'static, str>> {
    ascii(0..128).prop_map(|tail| Cow::Owned(format!("e{tail}")))
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(1), Just(1 << 53), Just(u64::MAX), any::<u64>()]
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((text(), inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn payload() -> impl Strategy<Value = Payload> {
    let bytes = || vec(any::<u8>(), 0..100).prop_map(Bytes::from);
    prop_oneof![
        text().prop_map(Payload::from),
        json().prop_map(|v| Payload::Json(RawJson::trusted(v.to_string().into()))),
        bytes().prop_map(Payload::Binary),
        bytes().prop_map(Payload::Protobuf),
    ]
}

fn map() -> impl Strategy<Value = Metadata> {
    btree_map(text(), text(), 0..4)
}

/// Metadata within the rules.
fn metadata() -> impl Strategy<Value = Option<Cow<'static, Metadata>>> {
    option::of(btree_map(ascii(1..20), ascii(0..20), 0..4).prop_map(Cow::Owned))
}

fn error() -> impl Strategy<Value = NamedError> {
    (text(), option::of(name())).prop_map(|(name, message)| NamedError { name, message })
}

fn invoke_response() -> impl Strategy<Value = InvokeResponse> {
    (name(), option::of(payload()), option::of(error()), any::<bool>()).prop_map(
        |(invocation_id, payload, error, success)| InvokeResponse {
            invocation_id,
            success,
            payload,
            error: error.filter(|_| !success),
        },
    )
}

fn send_to_group() -> impl Strategy<Value = Upstream<'static>> {
    let content = prop_oneof![
        3 => payload().prop_map(SendContent::Payload),
        1 => (cow(), option::of(1..=u32::MAX)).prop_map(|(stream_id, idle_timeout_ms)| {
            SendContent::Stream { stream_id, idle_timeout_ms }
        }),
    ];
    let head = (cow(), option::of(number()), any::<bool>(), option::of(0..=300u32));
    (head, metadata(), content).prop_map(|(head, metadata, content)| {
        let (group, ack_id, no_echo, ttl_seconds) = head;
        Upstream::SendToGroup(SendToGroup {
            group,
            ack_id,
            no_echo,
            ttl_seconds,
            metadata,
            content,
        })
    })
}

fn upstream_call() -> impl Strategy<Value = Upstream<'static>> {
    (0..6, cow(), option::of(number()), option::of(map())).prop_map(
        |(kind, group, ack_id, state)| match kind {
            0 => Upstream::JoinGroup { group, ack_id },
            1 => Upstream::LeaveGroup { group, ack_id },
            2 => Upstream::SetGroupState { group, ack_id, state },
            3 => Upstream::SubscribeGroupState { group, ack_id },
            4 => Upstream::UnsubscribeGroupState { group, ack_id },
            _ => Upstream::CancelInvocation { invocation_id: group },
        },
    )
}

fn upstream_other() -> impl Strategy<Value = Upstream<'static>> {
    let end_error = (option::of(name()), option::of(name()))
        .prop_map(|(message, user_error_code)| StreamEndError { message, user_error_code });
    prop_oneof![
        (event(), option::of(number()), metadata(), payload()).prop_map(
            |(event, ack_id, metadata, payload)| {
                Upstream::Event(SendEvent { event, ack_id, metadata, payload })
            }
        ),
        (cow(), event(), option::of(payload())).prop_map(|(invocation_id, event, payload)| {
            Upstream::Invoke { invocation_id, event, payload }
        }),
        invoke_response().prop_map(Upstream::InvokeResponse),
        number().prop_map(|sequence_id| Upstream::SequenceAck { sequence_id }),
        Just(Upstream::Ping),
        (cow(), option::of((1..=u64::MAX, payload()))).prop_map(|(stream_id, part)| {
            let (stream_sequence_id, payload) = part.unzip();
            Upstream::StreamData { stream_id, stream_sequence_id, payload }
        }),
        (cow(), option::of(end_error))
            .prop_map(|(stream_id, error)| Upstream::StreamEnd { stream_id, error }),
    ]
}

fn upstream() -> impl Strategy<Value = Upstream<'static>> {
    prop_oneof![send_to_group(), upstream_call(), upstream_other()]
}

fn stream_part() -> impl Strategy<Value = StreamPart> {
    let failure = (text(), option::of(name()), option::of(name())).prop_map(
        |(name, message, user_error_code)| StreamFailure { name, message, user_error_code },
    );
    (name(), number(), any::<bool>(), option::of(failure)).prop_map(
        |(stream_id, stream_sequence_id, end_of_stream, error)| StreamPart {
            stream_id,
            stream_sequence_id,
            end_of_stream,
            error,
        },
    )
}

fn message() -> impl Strategy<Value = Downstream> {
    let sender = option::of((shared(name()), option::of(shared(name()))));
    let extras =
        (option::of(map().prop_map(Box::new)), option::of(stream_part().prop_map(Box::new)));
    (sender, payload(), option::of(number()), extras).prop_map(
        |(sender, payload, sequence_id, (metadata, stream))| match sender {
            None => Downstream::ServerMessage(ServerMessage { payload, sequence_id, metadata }),
            Some((group, from_user_id)) => Downstream::GroupMessage(GroupMessage {
                group,
                from_user_id,
                payload,
                sequence_id,
                metadata,
                stream,
            }),
        },
    )
}

fn group_state() -> impl Strategy<Value = Downstream> {
    let item = (name(), option::of(name()), option::of(map()), any::<i64>()).prop_map(
        |(connection_id, user_id, state, updated_at)| GroupStateItem {
            connection_id,
            user_id,
            state,
            updated_at,
        },
    );
    (any::<bool>(), name(), vec(item, 0..4), option::of(number())).prop_map(
        |(snapshot, group, items, sequence_id)| match snapshot {
            true => Downstream::GroupStateSnapshot { group, items, sequence_id },
            false => Downstream::GroupStateUpdate { group, items, sequence_id },
        },
    )
}

fn control() -> impl Strategy<Value = Downstream> {
    prop_oneof![
        (name(), option::of(name()), option::of(name())).prop_map(
            |(connection_id, user_id, token)| {
                let reconnection_token = token.map(Secret::new);
                Downstream::Connected { connection_id, user_id, reconnection_token }
            }
        ),
        option::of(name()).prop_map(|message| Downstream::Disconnected { message }),
        (number(), any::<bool>(), option::of(error())).prop_map(|(ack_id, success, error)| {
            Downstream::Ack { ack_id, success, error: error.filter(|_| !success) }
        }),
        Just(Downstream::Pong),
        invoke_response().prop_map(Downstream::InvokeResponse),
        name().prop_map(|invocation_id| Downstream::CancelInvocation { invocation_id }),
        (name(), number()).prop_map(|(stream_id, expected_sequence_id)| Downstream::StreamAck {
            stream_id,
            expected_sequence_id
        }),
        (name(), number(), error().prop_filter("a name", |e| !e.name.is_empty())).prop_map(
            |(stream_id, expected_sequence_id, NamedError { name, message })| {
                Downstream::StreamNack { stream_id, expected_sequence_id, name, message }
            }
        ),
        (name(), option::of(error()))
            .prop_map(|(stream_id, error)| Downstream::StreamClosed { stream_id, error }),
        (
            prop::sample::select(vec!["type", "from", "event", "dataType"]),
            ascii(0..50),
            option::of(number())
        )
            .prop_map(|(field, name, sequence_id)| Downstream::Unknown {
                what: format!("{field} new{name}"),
                sequence_id
            }),
    ]
}

fn downstream() -> impl Strategy<Value = Downstream> {
    prop_oneof![message(), group_state(), control()]
}

/// JSON-like text made of the tokens that the protocol knows, mostly in the wrong places.
fn junk() -> impl Strategy<Value = String> {
    let field = prop::sample::select(vec![
        "type",
        "from",
        "event",
        "group",
        "data",
        "dataType",
        "sequenceId",
        "ackId",
        "success",
        "error",
        "stream",
        "items",
        "metadata",
        "streamId",
        "streamSequenceId",
        "state",
        "x",
    ]);
    let value = prop::sample::select(vec![
        "\"message\"",
        "\"group\"",
        "\"server\"",
        "\"system\"",
        "\"ack\"",
        "\"sendToGroup\"",
        "\"g\"",
        "\"event\"",
        "\"connected\"",
        "\"text\"",
        "\"json\"",
        "\"binary\"",
        "\"AQID\"",
        "\"\\ud800\"",
        "\"streamData\"",
        "\"setGroupState\"",
        "\"groupStateUpdate\"",
        "\"\"",
        "null",
        "true",
        "false",
        "0",
        "-1",
        "1.5",
        "1e400",
        "18446744073709551616",
        "[]",
        "{}",
        "[{}]",
        "[[],[]]",
        "{\"name\":1}",
        "{\"a\":\"b\",\"a\":\"c\"}",
        "{\"streamId\":\"s\",\"streamSequenceId\":1}",
    ]);
    let fields = vec((field, value), 0..6).prop_map(|fields| {
        let fields: Vec<_> = fields.iter().map(|(k, v)| format!("\"{k}\":{v}")).collect();
        format!("{{{}}}", fields.join(","))
    });
    prop_oneof![3 => fields, 1 => text()]
}

fn downstream_again(protocol: Protocol, message: &Downstream) -> Downstream {
    let frame = encode_downstream(protocol, message).unwrap();
    Decoder::new(protocol).decode(&frame).unwrap()
}

fn upstream_again(protocol: Protocol, message: &Upstream<'_>) -> Upstream<'static> {
    let frame = encode_upstream(protocol, message).unwrap();
    decode_upstream(protocol, &frame).unwrap()
}

proptest! {
    #[test]
    fn every_upstream_message_survives_the_wire(message in upstream()) {
        prop_assert_eq!(&upstream_again(Protocol::Json, &message), &message);
    }

    #[test]
    fn every_downstream_message_survives_the_wire(message in downstream()) {
        prop_assert_eq!(&downstream_again(Protocol::Json, &message), &message);
    }

    #[test]
    fn what_is_written_is_json(message in downstream()) {
        let frame = encode_downstream(Protocol::Json, &message).unwrap();
        let value: serde_json::Value = serde_json::from_slice(frame.as_bytes()).unwrap();
        prop_assert!(value.is_object());
    }

    #[test]
    fn junk_never_panics_and_what_it_means_survives_the_wire(junk in junk()) {
        let frame = Frame::Text(junk.into());
        if let Ok(message) = Decoder::new(Protocol::Json).decode(&frame) {
            prop_assert_eq!(&downstream_again(Protocol::Json, &message), &message);
        }
        if let Ok(message) = decode_upstream(Protocol::Json, &frame) {
            prop_assert_eq!(&upstream_again(Protocol::Json, &message), &message);
        }
    }
}

fn down(frame: &str) -> Result<Downstream, Malformed> {
    Decoder::new(Protocol::ReliableJson).decode(&Frame::Text(frame.into()))
}

fn up(frame: &str) -> Result<Upstream<'static>, Malformed> {
    decode_upstream(Protocol::ReliableJson, &Frame::Text(frame.into()))
}

#[test]
fn payloads_are_slices_of_their_frame() {
    for data in ["\"dataType\":\"text\",\"data\":\"hello\"", "\"data\":{\"a\":[1]}"] {
        let frame = Text::from(format!("{{\"type\":\"message\",\"from\":\"server\",{data}}}"));
        let range = frame.as_bytes().as_ptr_range();
        let message = Decoder::new(Protocol::Json).decode(&Frame::Text(frame)).unwrap();
        let Downstream::ServerMessage(m) = message else { panic!("{message:?}") };
        assert!(range.contains(&m.payload.as_bytes().as_ptr()), "{data}");
    }
}

#[test]
fn a_malformed_message_still_tells_its_number() {
    for frame in [
        r#"{"type":"message","from":"server","dataType":"text","data":1,"sequenceId":7}"#,
        r#"{"type":"message","from":"group","group":5,"data":1,"sequenceId":7}"#,
        r#"{"sequenceId":7,"type":"message","from":"group","group":"\ud800","data":1}"#,
        r#"{"sequenceId":7,"type":{}}"#,
        r#"{"sequenceId":7}"#,
        r#"{"sequenceId":7,"type":"message","from":"server","dataType":"binary","data":"AQI"}"#,
    ] {
        assert_eq!(down(frame).unwrap_err().sequence_id, Some(7), "{frame}");
    }
    assert_eq!(down(r#"{"sequenceId":"7","type":"message"}"#).unwrap_err().sequence_id, None);
}

#[test]
fn a_new_kind_is_unknown_even_if_its_fields_have_other_types() {
    let frame = r#"{"type":"later","group":{"id":1},"success":"maybe","sequenceId":9}"#;
    let what = "type later".to_owned();
    assert_eq!(down(frame).unwrap(), Downstream::Unknown { what, sequence_id: Some(9) });
    let frame = r#"{"type":"message","from":"hub","group":[],"sequenceId":9}"#;
    let what = "from hub".to_owned();
    assert_eq!(down(frame).unwrap(), Downstream::Unknown { what, sequence_id: Some(9) });
}

#[test]
fn an_array_is_not_read_by_position() {
    assert!(down(r#"["pong"]"#).is_err());
    assert!(down(r#"{"type":"streamClosed","streamId":"s","error":["a"]}"#).is_err());
    assert!(up(r#"["ping"]"#).is_err());
}

#[test]
fn the_error_of_a_successful_ack_is_not_looked_at() {
    let ack = down(r#"{"type":"ack","ackId":1,"success":true,"error":7}"#).unwrap();
    assert_eq!(ack, Downstream::Ack { ack_id: 1, success: true, error: None });
}

#[test]
fn a_reason_never_quotes_the_frame() {
    let frame = r#"{"type":"message","from":"server","data":1,"group":1,"userId":{"a":"secret"}}"#;
    assert!(!down(frame).unwrap_err().to_string().contains("secret"));
    assert!(
        !up(r#"{"type":"joinGroup","group":"g","ackId":"secret"}"#)
            .unwrap_err()
            .to_string()
            .contains("secret")
    );
}

#[test]
fn binary_frames_are_the_wrong_kind() {
    let frame = Frame::Binary(Bytes::from_static(b"{\"type\":\"ping\"}"));
    assert!(decode_upstream(Protocol::Json, &frame).unwrap_err().wrong_frame_kind);
    assert!(Decoder::new(Protocol::Json).decode(&frame).unwrap_err().wrong_frame_kind);
}

#[test]
fn the_upstream_reader_refuses_what_the_service_refuses() {
    for frame in [
        r#"{"type":"sendToGroup","group":"g","noEcho":null,"data":1}"#,
        r#"{"type":"sendToGroup","group":"g","ttlSeconds":301,"data":1}"#,
        r#"{"type":"sendToGroup","group":"g","metadata":{"a":"1","a":"2"},"data":1}"#,
        r#"{"type":"sendToGroup","group":"g","metadata":{"a b":"1"},"data":1}"#,
        r#"{"type":"sendToGroup","group":"g","metadata":{"a":1},"data":1}"#,
        r#"{"type":"sendToGroup","group":"g","dataType":"binary","data":"AQI"}"#,
        r#"{"type":"sendToGroup","group":"g","dataType":"text"}"#,
        r#"{"type":"sendToGroup","group":"g","stream":{"streamId":"s"},"data":1}"#,
        r#"{"type":"sendToGroup","group":"g","stream":{"streamId":""}}"#,
        r#"{"type":"sendToGroup","group":"g","stream":{"streamId":"s","idleTimeoutMs":0}}"#,
        r#"{"type":"event","event":"1a","data":1}"#,
        r#"{"type":"event","event":"a"}"#,
        r#"{"type":"invoke","invocationId":"1","target":"other","event":"a"}"#,
        r#"{"type":"invoke","invocationId":"1","target":"event","event":"a","data":1}"#,
        r#"{"type":"invoke","invocationId":"","target":"event","event":"a"}"#,
        r#"{"type":"streamData","streamId":"s","streamSequenceId":0,"data":1}"#,
        r#"{"type":"streamData","streamId":"s","streamSequenceId":1}"#,
        r#"{"type":"streamData","streamId":"s","data":1}"#,
        r#"{"type":"setGroupState","group":"g","state":{"a":1}}"#,
        r#"{"type":"sequenceAck"}"#,
    ] {
        assert!(up(frame).is_err(), "{frame}");
    }
}

#[test]
fn names_ignore_case_upstream() {
    let frame = r#"{"type":"SENDTOGROUP","group":"g","dataType":"Text","data":"x"}"#;
    assert!(matches!(up(frame), Ok(Upstream::SendToGroup(_))));
}

#[test]
fn messages_are_written_as_documented() {
    let message = Upstream::SendToGroup(SendToGroup {
        group: "g1".into(),
        ack_id: Some(3),
        no_echo: true,
        ttl_seconds: None,
        metadata: None,
        content: SendContent::Payload("hi".into()),
    });
    let Frame::Text(text) = encode_upstream(Protocol::Json, &message).unwrap() else { panic!() };
    let expected = r#"{"type":"sendToGroup","group":"g1","ackId":3,"noEcho":true,"dataType":"text","data":"hi"}"#;
    assert_eq!(text, expected);
}
