//! What is particular to JSON.

use proptest::collection::vec;
use proptest::prelude::*;

use super::messages::{downstream, text};
use super::{downstream_again, upstream_again};
use crate::message::Text;
use crate::protocol::*;

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

proptest! {
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
    for other in [r#""message":{"text":"x"}"#, r#""group":{"id":1}"#, r#""userId":[]"#] {
        let frame = format!(r#"{{"type":"system","event":"later",{other},"sequenceId":9}}"#);
        let what = "event later".to_owned();
        assert_eq!(down(&frame).unwrap(), Downstream::Unknown { what, sequence_id: Some(9) });
        let known = frame.replace("later", "connected");
        assert_eq!(down(&known).unwrap_err().sequence_id, Some(9));
    }
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

#[test]
fn a_refusal_is_one_whatever_the_form_of_its_error() {
    for (error, name, message) in [
        (r#"{"name":"Forbidden","message":"no"}"#, "Forbidden", Some("no")),
        (r#""Forbidden""#, "", Some("Forbidden")),
        (r#"{"name":403,"message":"no"}"#, "", Some("no")),
        (r#"{"name":"Forbidden","message":["no"]}"#, "Forbidden", None),
        (r#"{"name":{"error":{"name":"Forbidden"}}}"#, "", None),
        (r#"{"name":"Forbidden","name":"Forbidden"}"#, "", None),
        (r#"["Forbidden"]"#, "", None),
        ("403", "", None),
        ("false", "", None),
        ("{}", "", None),
    ] {
        let frame = format!(r#"{{"type":"ack","ackId":7,"success":false,"error":{error}}}"#);
        let expected = NamedError { name: name.into(), message: message.map(Into::into) };
        let expected = Downstream::Ack { ack_id: 7, success: false, error: Some(expected) };
        assert_eq!(down(&frame), Ok(expected), "{error}");
        let frame = frame.replace("false,", "true,");
        assert!(matches!(down(&frame), Ok(Downstream::Ack { success: true, .. })), "{error}");
    }
    let none = Downstream::Ack { ack_id: 7, success: false, error: None };
    let frame = r#"{"type":"ack","ackId":7,"success":false,"error":null}"#;
    assert_eq!(down(frame), Ok(none));
}
