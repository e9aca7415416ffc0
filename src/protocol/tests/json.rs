//! What is particular to JSON.

use proptest::collection::vec;
use proptest::prelude::*;

use super::messages::{downstream, text};
use super::{downstream_again, upstream_again};
use crate::message::{Metadata, RawJson, Text};
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
        for form in [JsonForm::Plain, JsonForm::Service] {
            let frame = encode_downstream_as(form, Protocol::Json, &message).unwrap();
            let value: serde_json::Value = serde_json::from_slice(frame.as_bytes()).unwrap();
            prop_assert!(value.is_object());
        }
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
        r#"{"type":"sendToGroup","group":"g","metadata":[],"data":1}"#,
        r#"{"type":"sendToGroup","group":"g","data":null}"#,
        r#"{"type":"sendToGroup","group":"g","dataType":"json","data": null }"#,
        r#"{"type":"sendToGroup","group":"g","dataType":"text","data":null}"#,
        r#"{"type":"sendToGroup","group":"g","data":null,"metadata":{"a":"1"}}"#,
        r#"{"type":"event","event":"a","dataType":"json","data":null}"#,
        r#"{"type":"invoke","invocationId":"1","target":"event","event":"a","dataType":"json","data":null}"#,
        r#"{"type":"streamData","streamId":"s","streamSequenceId":1,"dataType":"json","data":null}"#,
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
fn of_a_repeated_key_the_last_counts_upstream() {
    let frame = r#"{"type":1,"type":"sendToGroup","group":" ","group":"g","ackId":"x","ackId":1,"ackId":2,
        "dataType":"text","data":null,"data":"x","metadata":{"k":"1","k":"2"},"ttlSeconds":-1,"ttlSeconds":1}"#;
    let metadata = Entries::from([("k".to_owned(), "2".to_owned())]);
    let expected = SendToGroup {
        ack_id: Some(2),
        ttl_seconds: Some(1),
        metadata: Some(Cow::Owned(metadata)),
        ..SendToGroup::new("g", "x")
    };
    assert_eq!(up(frame), Ok(Upstream::SendToGroup(expected)));
    assert!(up(r#"{"type":"joinGroup","group":"g","group":""}"#).is_err());
    assert!(up(r#"{"type":"ping","type":"nope"}"#).is_err());
    assert_eq!(up(r#"{"\u0074ype":"ping"}"#), Ok(Upstream::Ping));
}

#[test]
fn null_is_absent_upstream_where_the_service_says_so() {
    let frame = r#"{"type":"sendToGroup","group":"g","ackId":null,"metadata":null,"ttlSeconds":null,"dataType":"text","data":"x"}"#;
    let expected = SendToGroup::new("g", "x");
    assert_eq!(up(frame), Ok(Upstream::SendToGroup(expected)));
}

#[test]
fn an_ack_id_is_checked_in_every_kind_of_message() {
    for kind in ["ping", "sequenceAck\",\"sequenceId\":1,\"x\":\""] {
        for good in ["null", "0", "18446744073709551615"] {
            assert!(up(&format!(r#"{{"type":"{kind}","ackId":{good}}}"#)).is_ok(), "{good}");
        }
        for bad in ["\"x\"", "\"1\"", "-1", "1.0", "true", "[]", "18446744073709551616"] {
            assert!(up(&format!(r#"{{"type":"{kind}","ackId":{bad}}}"#)).is_err(), "{bad}");
        }
    }
}

#[test]
fn frames_nest_64_deep_upstream_in_fields_of_any_name() {
    for field in ["data", "state", "unknown"] {
        let nested = |depth: usize| {
            let value = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            // Of a repeated key the earlier ones count for the depth too.
            up(&format!(r#"{{"type":"sendToGroup","group":"g","{field}":{value},"data":1}}"#))
        };
        assert!(nested(63).is_ok(), "{field}");
        assert!(nested(64).is_err(), "{field}");
        assert!(nested(200_000).is_err(), "{field}");
    }
}

#[test]
fn the_service_escapes_text_to_ascii_and_writes_the_number_last() {
    let text = "azAZ09 ~/{}[]:,.#%=?^_|\u{0}\u{8}\t\n\u{b}\u{c}\r\u{1f}\"\\&'+<>`\u{7f}\u{80}é漢\u{2028}\u{ffff}🎉";
    let escaped = concat!(
        r"azAZ09 ~/{}[]:,.#%=?^_|\u0000\b\t\n\u000B\f\r\u001F",
        r"\u0022\\\u0026\u0027\u002B\u003C\u003E\u0060\u007F\u0080\u00E9\u6F22\u2028\uFFFF\uD83C\uDF89",
    );
    let written = |message: &Downstream| {
        let frame = encode_downstream_as(JsonForm::Service, Protocol::Json, message).unwrap();
        String::from_utf8(frame.as_bytes().to_vec()).unwrap()
    };
    let mut message = GroupMessage::new("<g>", text);
    message.from_user_id = Some("ü".into());
    message.sequence_id = Some(7);
    message.metadata = Metadata::from_iter([("k'", "é")]);
    let expected = [
        r#"{"type":"message","from":"group","group":"\u003Cg\u003E","fromUserId":"\u00FC","dataType":"text","data":""#,
        escaped,
        r#"","metadata":{"k\u0027":"\u00E9"},"sequenceId":7}"#,
    ];
    let message = Downstream::GroupMessage(message);
    assert_eq!(written(&message), expected.concat());
    assert_eq!(down(&written(&message)), Ok(message));
    // JSON data goes through as it was written, binary data needs no escapes.
    let json = RawJson::new("[ \"é<\\u00e9\" ]").unwrap();
    let expected = r#"{"type":"message","from":"server","dataType":"json","data":[ "é<\u00e9" ]}"#;
    assert_eq!(written(&Downstream::ServerMessage(ServerMessage::new(json))), expected);
    let bytes: &[u8] = &[0xfb, 0xef, 0xbe];
    let expected = r#"{"type":"message","from":"server","dataType":"binary","data":"++++"}"#;
    assert_eq!(written(&Downstream::ServerMessage(ServerMessage::new(bytes))), expected);
}

#[test]
fn a_user_is_null_if_there_is_none_and_an_empty_one_is_read_as_none() {
    let connected = |user_id: Option<&str>| Downstream::Connected {
        connection_id: "c".into(),
        user_id: user_id.map(Into::into),
        reconnection_token: None,
    };
    let said = |user_id: Option<&str>| {
        let mut message = GroupMessage::new("g", "x");
        message.from_user_id = user_id.map(Into::into);
        Downstream::GroupMessage(message)
    };
    for form in [JsonForm::Plain, JsonForm::Service] {
        for (user, text) in [(None, "null"), (Some(""), r#""""#), (Some("u"), r#""u""#)] {
            for (key, with, read) in [
                ("userId", connected(user), connected(user.filter(|u| !u.is_empty()))),
                ("fromUserId", said(user), said(user.filter(|u| !u.is_empty()))),
            ] {
                let frame = encode_downstream_as(form, Protocol::Json, &with).unwrap();
                let text = format!(r#""{key}":{text},"#);
                assert!(String::from_utf8_lossy(frame.as_bytes()).contains(&text), "{frame:?}");
                assert_eq!(Decoder::new(Protocol::Json).decode(&frame), Ok(read));
            }
        }
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
