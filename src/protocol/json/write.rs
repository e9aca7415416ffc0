//! Writing: one JSON object into one string, without an intermediate value.

use std::fmt::{Display, Write as _};

use data_encoding::BASE64;

use super::super::{Frame, JsonForm, NamedError};
use crate::message::{Entries, Payload, Text};

/// Room for the keys and the short values of any message.
const ENVELOPE: usize = 192;

/// Writes the fields of an object in the order of the calls.
pub(super) struct Writer {
    out: String,
    form: JsonForm,
}

impl Writer {
    /// `variable` is about how many bytes the values of open length take.
    pub(super) fn new(form: JsonForm, variable: usize) -> Self {
        let mut out = String::with_capacity(ENVELOPE + variable);
        out.push('{');
        Self { out, form }
    }

    pub(super) fn finish(mut self) -> Frame {
        self.out.push('}');
        Frame::Text(Text::from(self.out))
    }

    /// `key` is one of our own and needs no escapes.
    fn key(&mut self, key: &str) {
        self.out.push_str(if self.out.ends_with('{') { "\"" } else { ",\"" });
        self.out.push_str(key);
        self.out.push_str("\":");
    }

    pub(super) fn str(&mut self, key: &str, value: &str) -> &mut Self {
        self.key(key);
        self.quote(value);
        self
    }

    /// A string, or `null` if there is none.
    pub(super) fn str_or_null(&mut self, key: &str, value: Option<&str>) -> &mut Self {
        match value {
            Some(value) => self.str(key, value),
            None => self.plain(key, "null"),
        }
    }

    fn quote(&mut self, text: &str) {
        match self.form {
            JsonForm::Plain => quote(&mut self.out, text),
            JsonForm::Service => quote_as_service(&mut self.out, text),
        }
    }

    pub(super) fn opt_str(&mut self, key: &str, value: Option<&str>) -> &mut Self {
        if let Some(value) = value {
            self.str(key, value);
        }
        self
    }

    /// A number or a boolean.
    pub(super) fn plain(&mut self, key: &str, value: impl Display) -> &mut Self {
        self.key(key);
        let _ = write!(self.out, "{value}"); // a String takes everything
        self
    }

    pub(super) fn opt_plain(&mut self, key: &str, value: Option<impl Display>) -> &mut Self {
        if let Some(value) = value {
            self.plain(key, value);
        }
        self
    }

    pub(super) fn object(&mut self, key: &str, fields: impl FnOnce(&mut Self)) -> &mut Self {
        self.key(key);
        self.element(fields)
    }

    fn element(&mut self, fields: impl FnOnce(&mut Self)) -> &mut Self {
        self.out.push('{');
        fields(self);
        self.out.push('}');
        self
    }

    pub(super) fn array<T>(
        &mut self,
        key: &str,
        items: &[T],
        fields: impl Fn(&mut Self, &T),
    ) -> &mut Self {
        self.key(key);
        self.out.push('[');
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                self.out.push(',');
            }
            self.element(|w| fields(w, item));
        }
        self.out.push(']');
        self
    }

    pub(super) fn map(&mut self, key: &str, map: Option<&Entries>) -> &mut Self {
        let Some(map) = map else { return self };
        self.key(key);
        let mut before = '{';
        for (key, value) in map {
            self.out.push(before);
            self.quote(key);
            self.out.push(':');
            self.quote(value);
            before = ',';
        }
        self.out.push_str(if map.is_empty() { "{}" } else { "}" });
        self
    }

    pub(super) fn payload(&mut self, payload: &Payload) -> &mut Self {
        match payload {
            Payload::Text(text) => self.str("dataType", "text").str("data", text),
            Payload::Json(json) => {
                self.str("dataType", "json").key("data");
                self.out.push_str(json.as_str());
                self
            }
            Payload::Binary(bytes) => self.str("dataType", "binary").base64("data", bytes),
            Payload::Protobuf(bytes) => self.str("dataType", "protobuf").base64("data", bytes),
        }
    }

    fn base64(&mut self, key: &str, bytes: &[u8]) -> &mut Self {
        self.key(key);
        self.out.push('"');
        BASE64.encode_append(bytes, &mut self.out);
        self.out.push('"');
        self
    }

    pub(super) fn error(&mut self, error: Option<&NamedError>) -> &mut Self {
        if let Some(error) = error {
            self.object("error", |w| {
                w.str("name", &error.name).opt_str("message", error.message.as_deref());
            });
        }
        self
    }
}

/// About how many bytes a payload takes.
pub(super) fn payload_size(payload: &Payload) -> usize {
    match payload {
        Payload::Text(text) => text.len() + text.len() / 16,
        Payload::Json(json) => json.as_str().len(),
        Payload::Binary(bytes) | Payload::Protobuf(bytes) => BASE64.encode_len(bytes.len()),
    }
}

/// About how many bytes a map takes.
pub(super) fn map_size(map: Option<&Entries>) -> usize {
    map.map_or(0, |map| map.iter().map(|(k, v)| k.len() + v.len() + 6).sum())
}

/// Appends a JSON string literal with no more escapes than JSON requires.
fn quote(out: &mut String, text: &str) {
    let must = |b: u8| b < 0x20 || b == b'"' || b == b'\\';
    out.push('"');
    let mut rest = text;
    while let Some(at) = first(rest.as_bytes(), must) {
        out.push_str(&rest[..at]);
        match rest.as_bytes()[at] {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            control => {
                let _ = write!(out, "\\u{control:04x}");
            }
        }
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
    out.push('"');
}

/// Appends a JSON string literal as .NET writes it by default: what is not printable ASCII, and what
/// HTML or JavaScript could take for its own, is escaped by its UTF-16 units.
fn quote_as_service(out: &mut String, text: &str) {
    let must = |b: u8| {
        let html =
            (b == b'"') | (b == b'&') | (b == b'\'') | (b == b'+') | (b == b'<') | (b == b'>');
        !(0x20..0x7f).contains(&b) | html | (b == b'\\') | (b == b'`')
    };
    out.push('"');
    let mut rest = text;
    // All bytes of a character beyond ASCII are escaped, so the first of them is found.
    while let Some(at) = first(rest.as_bytes(), must) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let Some(escaped) = rest.chars().next() else { break };
        match escaped {
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            other => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04X}");
                }
            }
        }
        rest = &rest[escaped.len_utf8()..];
    }
    out.push_str(rest);
    out.push('"');
}

/// The first byte that `must` be escaped. Looks at whole blocks first: a fold without an early exit
/// is compiled to vector instructions.
fn first(bytes: &[u8], must: impl Fn(u8) -> bool) -> Option<usize> {
    let mut start = 0;
    for block in bytes.chunks(32) {
        if block.iter().fold(false, |any, &b| any | must(b)) {
            return block.iter().position(|&b| must(b)).map(|at| start + at);
        }
        start += block.len();
    }
    None
}
