//! Reading: what both directions need.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use bytes::Bytes;
use data_encoding::BASE64;
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::super::{Frame, Malformed};
use crate::message::{Payload, RawJson, Text};

/// Why a frame is malformed. Never quotes the frame, which may hold data and tokens.
pub(super) type Why = Cow<'static, str>;

/// A string that borrows from the frame unless it has escapes. Missing, null and empty are the
/// same. (serde copies what it reads into an `Option<Cow<str>>`.)
#[derive(Default)]
pub(super) struct Str<'a>(Cow<'a, str>);

impl Str<'_> {
    pub(super) fn some(&self) -> Option<&str> {
        if self.0.is_empty() { None } else { Some(&self.0) }
    }

    pub(super) fn owned(self) -> Option<String> {
        if self.0.is_empty() { None } else { Some(self.0.into_owned()) }
    }

    /// The string, or `missing` as the reason.
    pub(super) fn need(&self, missing: &'static str) -> Result<&str, Why> {
        self.some().ok_or(Cow::Borrowed(missing))
    }
}

impl Deref for Str<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Str<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_option(StrVisitor).map(Self)
    }
}

struct StrVisitor;

impl<'de> Visitor<'de> for StrVisitor {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or null")
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(""))
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_str(self)
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

/// Any value as it was written, or nothing if the field is missing. Unlike in
/// `Option<&RawValue>`, a null is a value.
#[derive(Default, Clone, Copy)]
pub(super) struct Raw<'a>(Option<&'a RawValue>);

impl<'a> Raw<'a> {
    /// The JSON text, if the field is there.
    pub(super) fn json(self) -> Option<&'a str> {
        self.0.map(RawValue::get)
    }

    /// The JSON text, if the field is there and not null.
    pub(super) fn not_null(self) -> Option<&'a str> {
        self.json().filter(|json| *json != "null")
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        <&RawValue>::deserialize(from).map(|raw| Self(Some(raw)))
    }
}

/// The text of a frame.
pub(super) fn text(frame: &Frame) -> Result<&Text, Malformed> {
    match frame {
        Frame::Text(text) => Ok(text),
        Frame::Binary(_) => Err(Malformed {
            wrong_frame_kind: true,
            ..Malformed::new("a binary frame in a JSON subprotocol")
        }),
    }
}

/// Reads a JSON object into a struct.
pub(super) fn object<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, Why> {
    // serde also reads an array into a struct, by position.
    if !json.trim_start_matches([' ', '\t', '\n', '\r']).starts_with('{') {
        return Err("not a JSON object".into());
    }
    serde_json::from_str(json).map_err(|e| {
        Cow::Borrowed(match e.classify() {
            Category::Data => "a field is missing, repeated or of the wrong type",
            _ => "not valid JSON",
        })
    })
}

/// The values of `dataType`.
#[derive(Clone, Copy)]
pub(super) enum DataType {
    Text,
    Json,
    Binary,
    Protobuf,
}

impl DataType {
    /// Ignores case: the .NET client writes `Json`.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        Some(match () {
            () if is("text") => Self::Text,
            () if is("json") => Self::Json,
            () if is("binary") => Self::Binary,
            () if is("protobuf") => Self::Protobuf,
            () => return None,
        })
    }
}

/// Builds a payload from `data`, which is a slice of `frame`.
pub(super) fn payload(frame: &Text, kind: DataType, data: &str) -> Result<Payload, Why> {
    Ok(match kind {
        DataType::Text => Payload::Text(match string(data)? {
            Cow::Borrowed(text) => frame.share(text),
            Cow::Owned(text) => Text::from(text),
        }),
        DataType::Json => Payload::Json(RawJson::trusted(frame.share(data))),
        DataType::Binary => Payload::Binary(base64(data)?),
        DataType::Protobuf => Payload::Protobuf(base64(data)?),
    })
}

fn base64(data: &str) -> Result<Bytes, Why> {
    let text = string(data)?;
    let bytes = BASE64.decode(text.as_bytes()).map_err(|_| "the data is not valid base64")?;
    Ok(Bytes::from(bytes))
}

/// A JSON string literal's text; a slice of it if it has no escapes.
fn string(literal: &str) -> Result<Cow<'_, str>, Why> {
    match literal.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(plain) if memchr::memchr(b'\\', plain.as_bytes()).is_none() => {
            Ok(Cow::Borrowed(plain))
        }
        Some(_) => serde_json::from_str(literal)
            .map(Cow::Owned)
            .map_err(|_| "the data is not valid Unicode".into()),
        None => Err("the data is not a string".into()),
    }
}
