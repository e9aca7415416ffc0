//! Lines of standard output: messages as text or as JSON.

use std::borrow::Cow;
use std::io::{self, ErrorKind, Write as _};

use webpubsub::Payload;

use crate::Failure;

/// Prints a line; `false` if nobody reads any more, which is no failure.
pub(crate) fn print(mut line: String) -> Result<bool, Failure> {
    line.push('\n');
    let mut out = io::stdout().lock();
    match out.write_all(line.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Failure::new("standard output cannot be written", e)),
    }
}

/// A payload on one line: line breaks as `\n`, bytes as base64.
pub(crate) fn text(payload: &Payload) -> Cow<'_, str> {
    match payload {
        Payload::Text(text) if text.contains(['\n', '\r']) => {
            text.replace('\r', "\\r").replace('\n', "\\n").into()
        }
        Payload::Text(text) => text.as_str().into(),
        Payload::Json(json) => json_on_one_line(json.as_str()),
        other => base64(other.as_bytes()).into(),
    }
}

/// The members `dataType` and `data`, as the service's JSON subprotocol has them.
pub(crate) fn json_members(payload: &Payload) -> String {
    let (kind, data) = match payload {
        Payload::Text(text) => ("text", string(text).into()),
        // As it came: parsed and written again, large numbers would lose digits.
        Payload::Json(json) => ("json", json_on_one_line(json.as_str())),
        Payload::Protobuf(bytes) => ("protobuf", string(&base64(bytes)).into()),
        other => ("binary", string(&base64(other.as_bytes())).into()),
    };
    format!("\"dataType\":\"{kind}\",\"data\":{data}")
}

/// A JSON string.
pub(crate) fn string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A line break in JSON text stands between two tokens, where a space means the same.
fn json_on_one_line(json: &str) -> Cow<'_, str> {
    if json.contains(['\n', '\r']) { json.replace(['\n', '\r'], " ").into() } else { json.into() }
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let six = (bits >> (18 - 6 * i) & 0x3f) as usize;
            text.push(if i <= chunk.len() { char::from(ALPHABET[six]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use webpubsub::RawJson;

    use super::*;

    #[test]
    fn bytes_are_the_base64_of_the_standard() {
        // RFC 4648, section 10, and the two characters that base64url has not.
        for (bytes, expected) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foob", "Zm9vYg=="),
            (b"\xfb\xff\xbf", "+/+/"),
        ] {
            assert_eq!(base64(bytes), expected);
        }
    }

    #[test]
    fn every_payload_is_one_line() {
        let json = Payload::Json(RawJson::new("{\"a\":\n12345678901234567890123}").expect("JSON"));
        assert_eq!(text(&json), "{\"a\": 12345678901234567890123}");
        assert_eq!(
            json_members(&json),
            "\"dataType\":\"json\",\"data\":{\"a\": 12345678901234567890123}"
        );
        assert_eq!(text(&"a\r\nb".into()), "a\\r\\nb");
        assert_eq!(json_members(&"a\n\"b".into()), "\"dataType\":\"text\",\"data\":\"a\\n\\\"b\"");
        assert_eq!(text(&vec![1u8, 2].into()), "AQI=");
    }
}
