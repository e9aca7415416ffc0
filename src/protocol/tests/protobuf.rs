//! What is particular to protobuf.

use prost::encoding::encode_varint;

use crate::error::ErrorKind;
use crate::message::{Payload, RawJson, Text};
use crate::protocol::*;

/// A length-delimited field.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    encode_varint(content.len() as u64, &mut out);
    [&out, content].concat()
}

/// A field that holds a number below 128.
fn number(field: u8, value: u8) -> Vec<u8> {
    vec![field << 3, value]
}

fn binary(parts: &[Vec<u8>]) -> Frame {
    Frame::Binary(parts.concat().into())
}

fn down(parts: &[Vec<u8>]) -> Result<Downstream, Malformed> {
    Decoder::new(Protocol::ReliableProtobuf).decode(&binary(parts))
}

fn up(parts: &[Vec<u8>]) -> Result<Upstream<'static>, Malformed> {
    decode_upstream(Protocol::ReliableProtobuf, &binary(parts))
}

/// A message from the server with this payload field.
fn server_message(payload: &[u8]) -> Vec<u8> {
    field(2, &[field(1, b"server"), field(3, payload)].concat())
}

#[test]
fn every_payload_is_a_slice_of_its_frame() {
    let any = [field(1, b"type.googleapis.com/a.B"), field(2, b"123")].concat();
    for (number, data) in [(1, &b"hello"[..]), (2, b"\xff\x00"), (3, &any), (4, b"{\"a\":[1]}")] {
        let frame = Bytes::from(server_message(&field(number, data)));
        let range = frame.as_ptr_range();
        let message = Decoder::new(Protocol::Protobuf).decode(&Frame::Binary(frame)).unwrap();
        let Downstream::ServerMessage(m) = message else { panic!("{message:?}") };
        assert_eq!(m.payload.as_bytes(), data);
        assert!(range.contains(&m.payload.as_bytes().as_ptr()), "{number}");
    }
    // And so is what a server takes from a client.
    let frame = Bytes::from(field(1, &[field(1, b"g"), field(3, &field(2, b"12345"))].concat()));
    let range = frame.as_ptr_range();
    let message = decode_upstream(Protocol::Protobuf, &Frame::Binary(frame)).unwrap();
    let Upstream::SendToGroup(m) = message else { panic!("{message:?}") };
    let SendContent::Payload(payload) = m.content else { panic!("{:?}", m.content) };
    assert!(range.contains(&payload.as_bytes().as_ptr()));
}

#[test]
fn names_that_repeat_are_the_same_memory() {
    let frame = binary(&[field(
        2,
        &[field(1, b"group"), field(2, b"room"), field(3, &field(1, b"x"))].concat(),
    )]);
    let mut decoder = Decoder::new(Protocol::Protobuf);
    let groups = [(); 2].map(|()| match decoder.decode(&frame) {
        Ok(Downstream::GroupMessage(m)) => m.group,
        other => panic!("{other:?}"),
    });
    assert!(std::sync::Arc::ptr_eq(&groups[0], &groups[1]));
}

#[test]
fn a_malformed_message_still_tells_its_number() {
    let good = field(3, &field(1, b"x"));
    for parts in [
        // No group, no sender, and a sender that is not UTF-8.
        [field(1, b"group"), good.clone(), number(4, 7)].concat(),
        [good.clone(), number(4, 7)].concat(),
        [field(1, b"\xff"), good.clone(), number(4, 7)].concat(),
        // Data that is not UTF-8, not JSON, no `Any`.
        [field(1, b"server"), field(3, &field(1, b"\xff")), number(4, 7)].concat(),
        [field(1, b"server"), field(3, &field(4, b"{")), number(4, 7)].concat(),
        [field(1, b"server"), field(3, &field(3, b"\xff")), number(4, 7)].concat(),
        // Fields of the wrong type, before and after the number.
        [number(1, 1), good.clone(), number(4, 7)].concat(),
        [number(4, 7), field(1, b"server"), number(3, 1)].concat(),
    ] {
        assert_eq!(down(&[field(2, &parts)]).unwrap_err().sequence_id, Some(7), "{parts:?}");
    }
    for states in [9, 10] {
        let parts = [field(1, b"g"), field(2, &field(2, b"u")), number(3, 7)].concat();
        assert_eq!(down(&[field(states, &parts)]).unwrap_err().sequence_id, Some(7));
        let parts = [number(1, 1), number(3, 7)].concat();
        assert_eq!(down(&[field(states, &parts)]).unwrap_err().sequence_id, Some(7));
    }
    let no_number = field(2, &[number(1, 1), field(4, b"7")].concat());
    assert_eq!(down(&[no_number]).unwrap_err().sequence_id, None);
}

#[test]
fn a_malformed_answer_still_tells_its_invocation() {
    for parts in [
        // Data that is not UTF-8, not JSON, and of a kind that nobody knows.
        [field(1, b"7"), field(3, &field(1, b"\xff"))].concat(),
        [field(1, b"7"), field(3, &field(4, b"{"))].concat(),
        [field(1, b"7"), field(3, &field(9, b"later"))].concat(),
        // Fields of the wrong type.
        [field(1, b"7"), field(2, b"yes")].concat(),
        [number(3, 1), field(1, b"7")].concat(),
    ] {
        let malformed = down(&[field(5, &parts)]).unwrap_err();
        assert_eq!(malformed.invocation_id.as_deref(), Some("7"), "{parts:?}");
    }
    assert_eq!(down(&[field(5, &number(2, 1))]).unwrap_err().invocation_id, None);
}

#[test]
fn what_is_new_is_unknown_and_keeps_its_number() {
    let unknown =
        |what: &str, sequence_id| Ok(Downstream::Unknown { what: what.to_owned(), sequence_id });
    assert_eq!(down(&[]), unknown("type (new)", None));
    assert_eq!(down(&[field(11, b"later")]), unknown("type (new)", None));
    assert_eq!(down(&[field(3, &field(9, b""))]), unknown("event (new)", None));
    let from = [field(1, b"hub"), number(4, 9)].concat();
    assert_eq!(down(&[field(2, &from)]), unknown("from hub", Some(9)));
    for data in [field(3, b""), field(3, &field(15, b"later"))] {
        let message = [field(1, b"server"), data, number(4, 9)].concat();
        assert_eq!(down(&[field(2, &message)]), unknown("dataType (new)", Some(9)));
    }
}

#[test]
fn json_that_came_as_text_is_text() {
    let message = down(&[server_message(&field(1, b"{\"a\":1}"))]).unwrap();
    let Downstream::ServerMessage(m) = message else { panic!("{message:?}") };
    assert_eq!(m.payload, Payload::from("{\"a\":1}"));
}

#[test]
fn text_frames_are_the_wrong_kind() {
    let frame = Frame::Text(Text::from("J\u{0}"));
    assert!(decode_upstream(Protocol::Protobuf, &frame).unwrap_err().wrong_frame_kind);
    assert!(Decoder::new(Protocol::Protobuf).decode(&frame).unwrap_err().wrong_frame_kind);
}

#[test]
fn the_upstream_reader_refuses_what_the_service_refuses() {
    let (group, text) = (field(1, b"g"), field(3, &field(1, b"x")));
    let start = |more: Vec<u8>| field(7, &more);
    let entry = |key: &[u8], value: &[u8]| field(6, &[field(1, key), field(2, value)].concat());
    for (why, parts) in [
        ("no kind", vec![]),
        ("a new kind", vec![field(2, b"x")]),
        ("no group", vec![field(6, b"")]),
        ("a blank group", vec![field(6, &field(1, b" "))]),
        ("a group that is not UTF-8", vec![field(6, &field(1, b"\xff"))]),
        ("no data", vec![field(1, &group)]),
        ("empty data", vec![field(1, &[&group[..], &field(3, b"")].concat())]),
        ("empty data in spite of metadata", {
            vec![field(1, &[&group[..], &field(3, b""), &entry(b"k", b"v")].concat())]
        }),
        ("no JSON", vec![field(1, &[&group[..], &field(3, &field(4, b"{"))].concat())]),
        ("no text", vec![field(1, &[&group[..], &field(3, &field(1, b"\xff"))].concat())]),
        ("no Any", vec![field(1, &[&group[..], &field(3, &field(3, b"\xff"))].concat())]),
        ("a ttl of 301", vec![field(1, &[&group[..], &text, &[0x28, 0xad, 0x02]].concat())]),
        ("a bad key", vec![field(1, &[&group[..], &text, &entry(b"a b", b"")].concat())]),
        ("a stream with data", {
            vec![field(1, &[&group[..], &text, &start(field(1, b"s"))].concat())]
        }),
        ("a stream without id", vec![field(1, &[&group[..], &start(vec![])].concat())]),
        ("an idle timeout of 0", {
            let start = start([field(1, b"s"), number(2, 0)].concat());
            vec![field(1, &[&group[..], &start].concat())]
        }),
        ("a bad event name", {
            vec![field(5, &[field(1, b"1a"), field(2, &field(1, b"x"))].concat())]
        }),
        ("an event without data", vec![field(5, &field(1, b"e"))]),
        ("an event that starts a stream", {
            let event = [field(1, b"e"), field(2, &field(1, b"x")), field(5, &field(1, b"s"))];
            vec![field(5, &event.concat())]
        }),
        ("data of the number 0", {
            vec![field(13, &[field(1, b"s"), number(2, 0), text.clone()].concat())]
        }),
        ("a number without data", vec![field(13, &[field(1, b"s"), number(2, 1)].concat())]),
        ("data without a number", vec![field(13, &[field(1, b"s"), text.clone()].concat())]),
    ] {
        assert!(up(&parts).is_err(), "{why}");
    }
}

#[test]
fn a_reason_never_quotes_the_frame() {
    for parts in [
        field(2, &[field(1, b"server"), field(3, &field(4, b"secret"))].concat()),
        field(3, &field(1, &[field(3, b"secret\xff")].concat())),
    ] {
        assert!(!format!("{:?}", down(&[parts]).unwrap_err()).contains("secret"));
    }
}

#[test]
fn what_has_no_form_is_refused_with_an_error_that_says_so() {
    let cancel = Downstream::CancelInvocation { invocation_id: "1".into() };
    let error = encode_downstream(Protocol::Protobuf, &cancel).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert!(error.to_string().contains("`cancelInvocation` has no form in the"), "{error}");
}

#[test]
fn messages_are_written_as_documented() {
    let json = RawJson::new(r#"{"a":[1,null]}"#).unwrap();
    let message = Upstream::SendToGroup(SendToGroup {
        group: "g1".into(),
        ack_id: Some(5),
        no_echo: false,
        ttl_seconds: None,
        metadata: None,
        content: SendContent::Payload(json.into()),
    });
    let frame = encode_upstream(Protocol::Protobuf, &message).unwrap();
    assert_eq!(
        frame,
        Frame::Binary(Bytes::from_static(b"\n\x18\n\x02g1\x10\x05\x1a\x10\"\x0e{\"a\":[1,null]}"))
    );
}
