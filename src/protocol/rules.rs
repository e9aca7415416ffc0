//! What the service accepts as names and values.
//!
//! The service answers a breach by closing the connection, and with it the session. So the client
//! checks the same rules before it sends, and each text says the rule. The texts never quote the
//! value: it may be somebody's data.

use std::borrow::Cow;

use crate::message::Entries;

/// The largest message in either direction, in bytes of the WebSocket message: 1 MiB.
pub const MAX_MESSAGE: usize = 1 << 20;

const MAX_GROUP: usize = 1024;
const MAX_EVENT: usize = 128;
const MAX_TTL_SECONDS: u32 = 300;
const MAX_METADATA_KEY: usize = 256;
const MAX_METADATA_VALUE: usize = 1024;
const MAX_METADATA: usize = 8192;
const MAX_GROUP_STATE: usize = 512;
/// Objects and arrays that may stand in each other, the object that a JSON frame is included.
const MAX_DEPTH: usize = 64;

/// `Ok`, or the rule that was broken.
pub(crate) type Check = Result<(), Cow<'static, str>>;

/// The name of a group: not blank, at most 1024 UTF-16 units. The one rule for all: requests,
/// tokens, the URL of a simple client, the app server's calls.
///
/// Blank is what has no character but white space (Unicode's `White_Space`), so a byte order mark,
/// a zero-width space or a control character is a name.
pub(crate) fn group(name: &str) -> Check {
    if name.chars().all(char::is_whitespace) {
        return Err("a group name must not be empty or blank".into());
    }
    if is_longer_than_a_group(name) {
        return Err("a group name must have at most 1024 characters (UTF-16 units)".into());
    }
    Ok(())
}

/// Whether a group name or pattern is too long. The service counts UTF-16 units.
pub(crate) fn is_longer_than_a_group(text: &str) -> bool {
    // Only a longer UTF-8 text can have more units.
    text.len() > MAX_GROUP && text.encode_utf16().count() > MAX_GROUP
}

/// The name of an event: a letter, then up to 127 of letters, digits, `_`, `.` and `-`.
pub(crate) fn event(name: &str) -> Check {
    let bytes = name.as_bytes();
    let tail = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.len() <= MAX_EVENT
        && bytes.iter().all(tail)
    {
        return Ok(());
    }
    Err("an event name must be an ASCII letter followed by at most 127 ASCII letters, digits, \
         `_`, `.` or `-`"
        .into())
}

/// Metadata: HTTP token keys of 1 to 256 bytes, ASCII values up to 1024 bytes, 8192 bytes in all.
pub(crate) fn metadata(metadata: &Entries) -> Check {
    let mut total = 0;
    for (key, value) in metadata {
        if !(1..=MAX_METADATA_KEY).contains(&key.len()) || !key.bytes().all(is_token) {
            return Err("a metadata key must be 1 to 256 characters of an HTTP token: ASCII \
                        letters, digits and !#$%&'*+-.^_`|~"
                .into());
        }
        if value.len() > MAX_METADATA_VALUE || !value.is_ascii() {
            return Err("a metadata value must be ASCII of at most 1024 bytes".into());
        }
        total += key.len() + value.len();
    }
    if total > MAX_METADATA {
        return Err(format!(
            "the keys and values of metadata must have at most 8192 bytes in all, not {total}"
        )
        .into());
    }
    Ok(())
}

/// The state of one connection in a group: 512 bytes, keys and values together.
pub(crate) fn group_state(state: &Entries) -> Check {
    let total: usize = state.iter().map(|(key, value)| key.len() + value.len()).sum();
    if total > MAX_GROUP_STATE {
        return Err(format!(
            "the keys and values of a group state must have at most {MAX_GROUP_STATE} bytes in all, \
             not {total}"
        )
        .into());
    }
    Ok(())
}

/// The time to live of a message: at most 300 seconds.
pub(crate) fn ttl_seconds(seconds: u32) -> Check {
    if seconds > MAX_TTL_SECONDS {
        return Err(format!("ttlSeconds must be at most 300, not {seconds}").into());
    }
    Ok(())
}

/// The id of a stream: not empty.
pub(crate) fn stream_id(id: &str) -> Check {
    if id.is_empty() { Err("a stream id must not be empty".into()) } else { Ok(()) }
}

/// The id of an invocation: not empty.
pub(crate) fn invocation_id(id: &str) -> Check {
    if id.is_empty() { Err("an invocation id must not be empty".into()) } else { Ok(()) }
}

/// The idle timeout of a stream: above 0.
pub(crate) fn idle_timeout_ms(ms: u32) -> Check {
    if ms == 0 { Err("idleTimeoutMs must be above 0".into()) } else { Ok(()) }
}

/// A JSON value that is sent as data. `json` is valid JSON.
pub(crate) fn json_data(json: &str) -> Check {
    json_is_not_null(json)?;
    json_depth(json)
}

/// The service closes the connection of whoever sends null, though it delivers one.
pub(crate) fn json_is_not_null(json: &str) -> Check {
    if trim_start(json).starts_with("null") {
        return Err("JSON data must not be `null`, over which the service closes the connection; \
                    send an object that holds it, such as {\"value\":null}"
            .into());
    }
    Ok(())
}

/// A value inside the object of a frame. `json` is valid JSON.
pub(crate) fn json_depth(json: &str) -> Check {
    if nests_deeper(json, MAX_DEPTH - 1) {
        return Err("JSON data must not nest more than 63 objects and arrays in each other".into());
    }
    Ok(())
}

fn trim_start(json: &str) -> &str {
    json.trim_start_matches([' ', '\t', '\n', '\r'])
}

/// Cheap for a text or a number, and where there are few brackets.
fn nests_deeper(json: &str, limit: usize) -> bool {
    let bytes = trim_start(json).as_bytes();
    // Each level takes two brackets.
    if bytes.len() < 2 * (limit + 1) || !matches!(bytes[0], b'{' | b'[') {
        return false;
    }
    // Counted by vector instructions, unlike what follows. `[` and `{` differ in this one bit.
    let opening = bytes.iter().filter(|b| *b | 0x20 == b'{').count();
    if opening <= limit {
        return false;
    }
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'{' | b'[' if depth == limit => return true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => at = after_string(bytes, at),
            _ => {}
        }
    }
    false
}

/// The place behind the string literal whose first quote is just before `at`.
fn after_string(bytes: &[u8], mut at: usize) -> usize {
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found + 1;
        if bytes[at - 1] == b'"' {
            return at;
        }
        at += 1; // what the backslash escapes
    }
    bytes.len()
}

fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_names_are_not_blank_and_bounded() {
        assert!(group("größe/日本 🚀").is_ok());
        assert!(group("").is_err());
        assert!(group(" \u{3000}\n\u{a0}\u{85}").is_err());
        for name in ["\u{feff}", "\u{200b}", "\u{1}", "\0", " a b ", "a/b*?"] {
            assert!(group(name).is_ok(), "{name:?}");
        }
        assert!(group(&"é".repeat(1024)).is_ok());
        assert!(group(&"é".repeat(1025)).is_err());
        assert!(group(&"🚀".repeat(512)).is_ok());
        assert!(group(&"🚀".repeat(513)).is_err());
    }

    #[test]
    fn event_names_follow_the_pattern() {
        for good in ["a", "order.new", "A-1_b", &"x".repeat(128)] {
            assert!(event(good).is_ok(), "{good}");
        }
        for bad in ["", "1a", ".a", "a b", "é", "a/b", &"x".repeat(129)] {
            assert!(event(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn json_data_is_not_null() {
        for null in ["null", " null", "\r\n\tnull "] {
            assert!(json_data(null).is_err(), "{null:?}");
        }
        for good in ["0", "false", "\"null\"", "\"\"", "[null]", "{\"null\":null}", " {}"] {
            assert!(json_data(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn json_data_nests_63_deep() {
        let nested = |depth: usize, inner: &str| {
            format!(" {}{inner}{}", "[{\"a\":".repeat(depth / 2), "}]".repeat(depth / 2))
        };
        assert!(json_data(&nested(62, "[]")).is_ok());
        assert!(json_data(&nested(64, "0")).is_err());
        assert!(json_data(&"[".repeat(200_000)).is_err(), "without recursion");
        // What stands side by side or in strings does not nest.
        assert!(json_data(&format!("[{}0]", "[[]],".repeat(1000))).is_ok());
        assert!(json_data(&format!("[[\"{}\"]]", "[".repeat(100))).is_ok());
        assert!(json_data(&format!("\"{}\"", "[".repeat(100))).is_ok());
        for string in [r#""\\""#, r#""\"[""#, r#""[\\\"[[""#, r#""\u005b\u0022[""#, r#""é\\""#] {
            let full = nested(62, &format!("[{string},{string},{string}]"));
            assert!(serde_json::from_str::<&serde_json::value::RawValue>(&full).is_ok());
            assert!(json_data(&full).is_ok(), "{string}");
            let deeper = nested(62, &format!("[{string},[{string}]]"));
            assert!(json_data(&deeper).is_err(), "{string}");
        }
        // It is called with valid JSON only, and must not panic all the same.
        for odd in ["", " ", &"[\"\\".repeat(100), &"]".repeat(200), &"[\"".repeat(101)] {
            let _ = json_data(odd);
        }
    }

    #[test]
    fn a_group_state_is_bounded_in_all() {
        let state = |value: usize| Entries::from([("é".into(), "v".repeat(value))]);
        assert!(group_state(&state(510)).is_ok());
        let why = group_state(&state(511)).unwrap_err();
        assert!(why.contains("at most 512 bytes in all, not 513"), "{why}");
        assert!(group_state(&Entries::new()).is_ok());
    }

    #[test]
    fn metadata_is_bounded_by_entry_and_in_all() {
        let one = |k: &str, v: &str| Entries::from([(k.into(), v.into())]);
        assert!(metadata(&one(&"k".repeat(256), &"v".repeat(1024))).is_ok());
        assert!(metadata(&one("", "v")).is_err());
        assert!(metadata(&one("a b", "v")).is_err());
        assert!(metadata(&one(&"k".repeat(257), "")).is_err());
        assert!(metadata(&one("k", "é")).is_err());
        assert!(metadata(&one("k", &"v".repeat(1025))).is_err());
        let mut full: Entries = (0..8).map(|i| (format!("key{i}"), "v".repeat(1020))).collect();
        assert!(metadata(&full).is_ok());
        full.insert("x".into(), String::new());
        assert!(metadata(&full).is_err());
    }
}
