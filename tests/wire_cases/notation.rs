//! What may stand in braces in a case, and protobuf messages as text.

use serde_json::Value;

/// Replaces what stands in double braces; `value` knows the names of this moment.
///
/// `{{x*5}}` repeats, `{{1..3 "k#"}}` counts (`"k1","k2","k3"`), `{{U+000A}}` is a character and
/// `{{hex ff}}` bytes.
pub(super) fn expand(text: &str, value: &dyn Fn(&str) -> Option<String>) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), text);
    while let Some((before, after)) = rest.split_once("{{") {
        // Of three braces the first is itself.
        let (before, after) = match after.strip_prefix('{') {
            Some(after) => (format!("{before}{{"), after),
            None => (before.to_owned(), after),
        };
        let (inside, behind) =
            after.split_once("}}").unwrap_or_else(|| panic!("no }}}} in {text}"));
        out.extend_from_slice(before.as_bytes());
        let bytes = value(inside).map(String::into_bytes).or_else(|| constant(inside));
        out.extend(bytes.unwrap_or_else(|| panic!("what is {{{{{inside}}}}} in {text}?")));
        rest = behind;
    }
    out.extend_from_slice(rest.as_bytes());
    out
}

fn constant(inside: &str) -> Option<Vec<u8>> {
    if let Some(code) = inside.strip_prefix("U+") {
        let code = u32::from_str_radix(code, 16).ok().and_then(char::from_u32)?;
        return Some(code.to_string().into_bytes());
    }
    if let Some(hex) = inside.strip_prefix("hex ") {
        return bytes(hex);
    }
    if let Some((range, text)) = inside.split_once(' ') {
        let counted = range_of(range)?.map(|n| text.replace('#', &n.to_string()));
        return Some(counted.collect::<Vec<_>>().join(",").into_bytes());
    }
    let (text, times) = inside.rsplit_once('*')?;
    Some(text.repeat(times.parse().ok()?).into_bytes())
}

/// `1..3`, both ends included.
pub(super) fn range_of(text: &str) -> Option<std::ops::RangeInclusive<u32>> {
    let (first, last) = text.split_once("..")?;
    Some(first.parse().ok()?..=last.parse().ok()?)
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    data_encoding::HEXLOWER.decode(hex.as_bytes()).ok()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    format!("<{}>", data_encoding::HEXLOWER.encode(bytes))
}

// --- protobuf --------------------------------------------------------------------------------

/// The fields of a message: number, name, and what a length-delimited value holds.
type Schema = [(u64, &'static str, Holds)];

#[derive(Clone, Copy)]
enum Holds {
    Text,
    Bytes,
    Message(&'static Schema),
    /// A varint.
    Number,
}
use Holds::{Bytes, Message, Number, Text};

const GROUP: &Schema = &[(1, "group", Text), (2, "ackId", Number)];
const ANY: &Schema = &[(1, "type_url", Text), (2, "value", Bytes)];
const DATA: &Schema =
    &[(1, "text", Text), (2, "binary", Bytes), (3, "protobuf", Message(ANY)), (4, "json", Text)];
const METADATA: &Schema = &[(1, "key", Text), (2, "value", Text)];
const SEND: &Schema = &[
    (1, "group", Text),
    (2, "ackId", Number),
    (3, "data", Message(DATA)),
    (4, "noEcho", Number),
    (5, "ttlSeconds", Number),
    (6, "metadata", Message(METADATA)),
    (7, "stream", Message(&[(1, "streamId", Text)])),
];
const EVENT: &Schema = &[
    (1, "event", Text),
    (2, "data", Message(DATA)),
    (3, "ackId", Number),
    (4, "metadata", Message(METADATA)),
];
const UP: &Schema = &[
    (1, "sendToGroup", Message(SEND)),
    (5, "event", Message(EVENT)),
    (6, "joinGroup", Message(GROUP)),
    (7, "leaveGroup", Message(GROUP)),
    (8, "sequenceAck", Message(&[(1, "sequenceId", Number)])),
    (9, "ping", Message(&[])),
];

const ERROR: &Schema = &[(1, "name", Text), (2, "message", Text)];
const ACK: &Schema = &[(1, "ackId", Number), (2, "success", Number), (3, "error", Message(ERROR))];
const MESSAGE: &Schema = &[
    (1, "from", Text),
    (2, "group", Text),
    (3, "data", Message(DATA)),
    (4, "sequenceId", Number),
    (5, "metadata", Message(METADATA)),
];
const CONNECTED: &Schema =
    &[(1, "connectionId", Text), (2, "userId", Text), (3, "reconnectionToken", Text)];
const SYSTEM: &Schema =
    &[(1, "connected", Message(CONNECTED)), (2, "disconnected", Message(&[(2, "reason", Text)]))];
const DOWN: &Schema = &[
    (1, "ack", Message(ACK)),
    (2, "data", Message(MESSAGE)),
    (3, "system", Message(SYSTEM)),
    (4, "pong", Message(&[])),
];

/// The service's message as text, e.g. `{ack:{ackId:1,success:1}}`; in hex if it is no protobuf.
pub(super) fn read(message: &[u8]) -> String {
    fields(message, DOWN).unwrap_or_else(|| hex(message))
}

fn fields(mut rest: &[u8], schema: &Schema) -> Option<String> {
    let mut out = Vec::new();
    while !rest.is_empty() {
        let key = take_varint(&mut rest)?;
        let known = schema.iter().find(|(number, ..)| *number == key >> 3);
        let name = known.map_or_else(|| (key >> 3).to_string(), |(_, name, _)| (*name).to_owned());
        let value = match key & 7 {
            0 => take_varint(&mut rest)?.to_string(),
            2 => {
                let length = usize::try_from(take_varint(&mut rest)?).ok()?;
                let (value, behind) = rest.split_at_checked(length)?;
                rest = behind;
                match known.map(|(.., holds)| *holds) {
                    Some(Text) => Value::from(std::str::from_utf8(value).ok()?).to_string(),
                    Some(Message(schema)) => fields(value, schema)?,
                    _ => hex(value),
                }
            }
            _ => return None,
        };
        out.push(format!("{name}:{value}"));
    }
    Some(format!("{{{}}}", out.join(",")))
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, behind) = rest.split_first()?;
        *rest = behind;
        value |= u64::from(first & 0x7f) << shift;
        if *first < 0x80 {
            return Some(value);
        }
    }
    None
}

/// The bytes of a client's message in the same notation, or of `<hex>`. A field that has no name is
/// written by its number.
pub(super) fn write(text: &str) -> Vec<u8> {
    let (value, rest) = write_value(text, Message(UP)).unwrap_or_else(|| panic!("what is {text}?"));
    assert_eq!(rest, "", "behind the message in {text}");
    value
}

/// A value with a length, and what follows it.
fn write_value(text: &str, holds: Holds) -> Option<(Vec<u8>, &str)> {
    if let Some(hex) = text.strip_prefix('<') {
        let (hex, rest) = hex.split_once('>')?;
        return Some((bytes(hex)?, rest));
    }
    if text.starts_with('"') {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<String>();
        let value = values.next()?.ok()?;
        return Some((value.into_bytes(), &text[values.byte_offset()..]));
    }
    let schema = if let Message(schema) = holds { schema } else { &[] };
    let (mut out, mut rest) = (Vec::new(), text.strip_prefix('{')?);
    loop {
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((out, rest));
        }
        let (name, value) = rest.strip_prefix(',').unwrap_or(rest).split_once(':')?;
        let known = schema.iter().find(|(_, known, _)| *known == name);
        let number = known.map_or_else(|| name.parse().ok(), |(number, ..)| Some(*number))?;
        if value.starts_with(|c: char| c.is_ascii_digit()) {
            let end = value.find(|c: char| !c.is_ascii_digit())?;
            put_varint(&mut out, number << 3);
            put_varint(&mut out, value[..end].parse().ok()?);
            rest = &value[end..];
        } else {
            let (value, behind) = write_value(value, known.map_or(Bytes, |(.., holds)| *holds))?;
            put_varint(&mut out, number << 3 | 2);
            put_varint(&mut out, value.len() as u64);
            out.extend(value);
            rest = behind;
        }
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[test]
fn a_message_is_written_by_its_notation() {
    let text = r#"{joinGroup:{group:"é",ackId:300},99:1,42:<00ff>}"#;
    let bytes = b"\x32\x07\x0a\x02\xc3\xa9\x10\xac\x02\x98\x06\x01\xd2\x02\x02\x00\xff";
    assert_eq!(write(text), bytes);
    assert_eq!(write("<ffff>"), [0xff, 0xff]);
    assert!(write("{}").is_empty());
}

#[test]
fn a_message_is_read_into_its_notation() {
    let bytes = b"\x0a\x0a\x08\xac\x02\x1a\x05\x0a\x03a\"b\xd2\x02\x01\x00";
    assert_eq!(read(bytes), r#"{ack:{ackId:300,error:{name:"a\"b"}},42:<00>}"#);
    assert_eq!(read(b"\xff\xff"), "<ffff>");
    assert_eq!(read(b"\x0a\x05\x08"), "<0a0508>");
}

#[test]
fn braces_are_expanded() {
    let value = |name: &str| (name == "old.id").then(|| "7".to_owned());
    let expand = |text: &str| expand(text, &value);
    assert_eq!(expand("a{{x*3}}{{]*2}}}"), b"axxx]]}");
    assert_eq!(expand("{{{1..3 p#}}}"), b"{p1,p2,p3}");
    assert_eq!(expand("{{U+00E9}}{{hex ff00}}{{old.id}}"), b"\xc3\xa9\xff\x007");
}
