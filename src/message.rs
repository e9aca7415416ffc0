//! What users hold: payloads, received messages and lifecycle events.
//!
//! Received payloads are refcounted slices of the frame they came in, so taking an [`Event`] from
//! the queue, cloning it or passing it to another thread copies no bytes.

mod event;
mod metadata;
#[cfg_attr(not(feature = "preview"), allow(dead_code, unreachable_pub))]
mod reply;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};
use tungstenite::Utf8Bytes;

use crate::error::{Error, ErrorKind, Result};

pub(crate) use event::OneLine;
pub use event::{
    Connected, Disconnected, Event, JoinFailed, Reconnecting, Recovered, Recovering, Stopped,
};
pub(crate) use metadata::Entries;
pub use metadata::Metadata;
#[cfg_attr(not(feature = "preview"), allow(unreachable_pub))]
pub use reply::Reply;

/// Immutable UTF-8 text, cheap to clone. Dereferences to `str`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Text(Utf8Bytes);

impl Text {
    /// Text from bytes, if they are UTF-8. No copy.
    #[must_use]
    pub fn from_utf8(bytes: Bytes) -> Option<Self> {
        Utf8Bytes::try_from(bytes).ok().map(Self)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The text's bytes, without a copy.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0.into()
    }

    /// A part of this text that shares its memory. `part` must be a slice of `self`.
    pub(crate) fn share(&self, part: &str) -> Self {
        let whole: &Bytes = self.0.as_ref();
        // `slice_ref` panics on a foreign slice and cannot share an empty one.
        let (start, len) = (whole.as_ptr() as usize, whole.len());
        let at = part.as_ptr() as usize;
        if part.is_empty() || at < start || at + part.len() > start + len {
            return Self::from(part);
        }
        let slice = whole.slice(at - start..at - start + part.len());
        Self::from_utf8(slice).unwrap_or_else(|| Self::from(part))
    }

    pub(crate) fn from_inner(inner: Utf8Bytes) -> Self {
        Self(inner)
    }
}

impl std::ops::Deref for Text {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// As a string.
impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

impl From<&str> for Text {
    fn from(s: &str) -> Self {
        Self(Utf8Bytes::from(s))
    }
}

impl From<String> for Text {
    fn from(s: String) -> Self {
        Self(Utf8Bytes::from(s))
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

/// One JSON value as the text it was written in, known to be valid JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawJson(Text);

impl RawJson {
    /// Takes over JSON text.
    ///
    /// Sending it has limits of its own, see [`Payload::Json`].
    ///
    /// # Errors
    /// [`ErrorKind::Payload`] if it is not exactly one JSON value.
    pub fn new(text: impl Into<Text>) -> Result<Self> {
        let text = text.into();
        serde_json::from_str::<&serde_json::value::RawValue>(&text).map_err(|e| {
            Error::new(ErrorKind::Payload, "the text is not one JSON value").with_source(e)
        })?;
        Ok(Self(text))
    }

    /// For text that a JSON parser or writer has just vouched for.
    pub(crate) fn trusted(text: Text) -> Self {
        Self(text)
    }

    /// The JSON text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The JSON text, without a copy.
    #[must_use]
    pub fn into_text(self) -> Text {
        self.0
    }
}

/// As the JSON value that it is, for `serde_json` and what is made for its raw values.
impl Serialize for RawJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::from_str::<&serde_json::value::RawValue>(&self.0)
            .map_err(serde::ser::Error::custom)?
            .serialize(serializer)
    }
}

/// The data of a message.
///
/// `&str` and `String` become [`Payload::Text`], bytes become [`Payload::Binary`], a
/// `serde_json::Value` or [`Payload::from_json`] becomes [`Payload::Json`].
///
/// A received payload is a slice of its read buffer (8 KiB by default), which it keeps alive: copy
/// (`to_string`, `to_vec`) what you store for long.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Payload {
    /// UTF-8 text.
    Text(Text),
    /// One JSON value, kept as raw text and parsed on demand.
    ///
    /// Two kinds of value can be received but not sent: a bare `null`, because the service closes
    /// the connection of a client that sends it, and some clients in other languages fail when they
    /// receive it; and a value that nests more than 63 objects and arrays in each other. The client
    /// refuses both with [`ErrorKind::InvalidRequest`]. A null inside an object or array is fine.
    Json(RawJson),
    /// Bytes (base64 inside the JSON subprotocols).
    Binary(Bytes),
    /// A serialized `google.protobuf.Any`; see `Payload::pack` (feature `protobuf`).
    Protobuf(Bytes),
}

impl Payload {
    /// Serializes a value to JSON.
    ///
    /// `None` and `()` become a bare `null`, which the client refuses to send (see
    /// [`Payload::Json`]): put an [`Option`] into a struct or a map.
    ///
    /// # Errors
    /// [`ErrorKind::Payload`] if the value cannot be written as JSON.
    pub fn from_json<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        let text = serde_json::to_string(value).map_err(|e| {
            Error::new(ErrorKind::Payload, "the value cannot be written as JSON").with_source(e)
        })?;
        Ok(Self::Json(RawJson::trusted(Text::from(text))))
    }

    /// The text of a [`Payload::Text`].
    ///
    /// # Errors
    /// [`ErrorKind::Payload`] for every other kind.
    pub fn text(&self) -> Result<&str> {
        match self {
            Self::Text(t) => Ok(t),
            other => Err(other.mismatch("text")),
        }
    }

    /// Parses a [`Payload::Json`].
    ///
    /// JSON that was sent as text is text: parse [`text`](Self::text) with `serde_json` then.
    ///
    /// # Errors
    /// [`ErrorKind::Payload`] for every other kind, or if the value does not fit `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        match self {
            Self::Json(raw) => serde_json::from_str(raw.as_str()).map_err(|e| {
                Error::new(ErrorKind::Payload, "the JSON payload does not fit the type asked for")
                    .with_source(e)
            }),
            // Data that was sent as a string stays text, even if it looks like JSON.
            Self::Text(_) => Err(Error::new(
                ErrorKind::Payload,
                "the payload is text, not JSON: parse `text()` with `serde_json::from_str`, or \
                 have the sender send JSON (`Payload::from_json`, or `dataType` `json`)",
            )),
            other => Err(other.mismatch("JSON")),
        }
    }

    /// The bytes of any payload: of the text, of the JSON text, of the binary data, or of the
    /// serialized `Any`.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(t) => t.as_bytes(),
            Self::Json(j) => j.as_str().as_bytes(),
            Self::Binary(b) | Self::Protobuf(b) => b,
        }
    }

    /// The same bytes, without a copy.
    pub(crate) fn into_bytes(self) -> Bytes {
        match self {
            Self::Text(text) => text.into_bytes(),
            Self::Json(json) => json.into_text().into_bytes(),
            Self::Binary(bytes) | Self::Protobuf(bytes) => bytes,
        }
    }

    pub(crate) fn mismatch(&self, wanted: &str) -> Error {
        Error::new(ErrorKind::Payload, format!("the payload is {}, not {wanted}", self.kind_name()))
    }

    fn kind_name(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Json(_) => "JSON",
            Self::Binary(_) => "binary",
            Self::Protobuf(_) => "protobuf",
        }
    }
}

/// Text and JSON as they are; of bytes only how many.
impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(t) => f.write_str(t),
            Self::Json(j) => f.write_str(j.as_str()),
            Self::Binary(b) | Self::Protobuf(b) => {
                write!(f, "<{} bytes of {} data>", b.len(), self.kind_name())
            }
        }
    }
}

impl From<&str> for Payload {
    fn from(s: &str) -> Self {
        Self::Text(s.into())
    }
}
impl From<String> for Payload {
    fn from(s: String) -> Self {
        Self::Text(s.into())
    }
}
impl From<&String> for Payload {
    fn from(s: &String) -> Self {
        Self::Text(s.as_str().into())
    }
}
impl From<Text> for Payload {
    fn from(t: Text) -> Self {
        Self::Text(t)
    }
}
impl From<RawJson> for Payload {
    fn from(j: RawJson) -> Self {
        Self::Json(j)
    }
}
/// `Value::Null` becomes a payload that the client refuses to send; see [`Payload::Json`].
impl From<serde_json::Value> for Payload {
    fn from(v: serde_json::Value) -> Self {
        Self::Json(RawJson::trusted(Text::from(v.to_string())))
    }
}
impl From<Vec<u8>> for Payload {
    fn from(b: Vec<u8>) -> Self {
        Self::Binary(b.into())
    }
}
impl From<&[u8]> for Payload {
    fn from(b: &[u8]) -> Self {
        Self::Binary(Bytes::copy_from_slice(b))
    }
}
impl<const N: usize> From<&[u8; N]> for Payload {
    fn from(b: &[u8; N]) -> Self {
        Self::Binary(Bytes::copy_from_slice(b))
    }
}
impl From<Bytes> for Payload {
    fn from(b: Bytes) -> Self {
        Self::Binary(b)
    }
}

/// A message that somebody published to a group.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct GroupMessage {
    /// The group.
    pub group: Arc<str>,
    /// The sender's user id, where the subprotocol carries it and the sender has one.
    pub from_user_id: Option<Arc<str>>,
    /// The data.
    pub payload: Payload,
    /// The number of this message on its connection (reliable subprotocols only).
    pub sequence_id: Option<u64>,
    /// Metadata, empty if the sender gave none.
    pub metadata: Metadata,
    pub(crate) stream: Option<Box<StreamPart>>,
}

/// A message from the service side: the app server, or an event handler's answer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ServerMessage {
    /// The data.
    pub payload: Payload,
    /// The number of this message on its connection (reliable subprotocols only).
    pub sequence_id: Option<u64>,
    /// Metadata, empty if the sender gave none.
    pub metadata: Metadata,
}

impl GroupMessage {
    /// The place in a stream, if the message is part of one that nothing else of the program reads
    /// (feature `preview`).
    #[cfg(feature = "preview")]
    #[must_use]
    pub fn stream(&self) -> Option<&StreamPart> {
        self.stream.as_deref()
    }

    /// A message as a program's own tests may need one; set further fields as you like.
    pub fn new(group: impl Into<Arc<str>>, payload: impl Into<Payload>) -> Self {
        Self {
            group: group.into(),
            from_user_id: None,
            payload: payload.into(),
            sequence_id: None,
            metadata: Metadata::default(),
            stream: None,
        }
    }
}

impl ServerMessage {
    /// A message as a program's own tests may need one; set further fields as you like.
    pub fn new(payload: impl Into<Payload>) -> Self {
        Self { payload: payload.into(), sequence_id: None, metadata: Metadata::default() }
    }
}

macro_rules! payload_shortcuts {
    ($($t:ty),*) => {$(
        impl $t {
            /// The text of the payload; see [`Payload::text`].
            ///
            /// # Errors
            /// [`ErrorKind::Payload`] if the payload is not text.
            pub fn text(&self) -> Result<&str> {
                self.payload.text()
            }

            /// The payload parsed from JSON; see [`Payload::json`].
            ///
            /// # Errors
            /// [`ErrorKind::Payload`] if the payload is not JSON or does not fit `T`.
            pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
                self.payload.json()
            }
        }
    )*};
}
payload_shortcuts!(GroupMessage, ServerMessage);

/// Where a group message stands in a stream (preview).
#[cfg_attr(not(feature = "preview"), allow(unreachable_pub))]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamPart {
    /// The stream's id, chosen by its publisher.
    pub stream_id: String,
    /// 1, 2, 3 … within the stream.
    pub stream_sequence_id: u64,
    /// The last message of the stream.
    pub end_of_stream: bool,
    /// Why the stream failed, on its last message only.
    pub error: Option<StreamFailure>,
}

/// Why a stream ended early (preview).
#[cfg_attr(not(feature = "preview"), allow(unreachable_pub))]
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct StreamFailure {
    /// The service's name for it, such as `UserError` or `IdleTimeout`.
    pub name: String,
    /// Text.
    pub message: Option<String>,
    /// The publisher's own code, with `UserError` only.
    pub user_error_code: Option<String>,
}

/// The service's confirmation of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ack {
    /// The id under which the service ran the call, at most once.
    pub ack_id: u64,
    /// The service had run this id before: the first ack was lost with a link, and the call was
    /// sent again with the same id. It took effect once.
    pub duplicate: bool,
}

impl Ack {
    /// An ack as a program's own tests may need one; it is no duplicate.
    #[must_use]
    pub fn new(ack_id: u64) -> Self {
        Self { ack_id, duplicate: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_kinds_are_strict_and_say_so() {
        let p = Payload::from("hi");
        assert_eq!(p.text().unwrap(), "hi");
        let e = Payload::from(vec![1u8]).text().unwrap_err();
        assert_eq!(e.to_string(), "the payload is binary, not text");
        let j = Payload::from_json(&[1, 2]).unwrap();
        assert_eq!(j.json::<Vec<u8>>().unwrap(), [1, 2]);
        assert!(j.json::<String>().is_err());
        assert!(RawJson::new("{} {}").is_err());
    }

    #[test]
    fn text_and_raw_json_serialize_as_what_they_are() {
        let json = RawJson::new(r#"{"b": 1, "a": [1.50, null]}"#).expect("JSON");
        let pair = (Text::from("a \"b\""), json);
        let written = serde_json::to_string(&pair).expect("serialized");
        assert_eq!(written, r#"["a \"b\"",{"b": 1, "a": [1.50, null]}]"#);
        let value = serde_json::to_value(&pair).expect("serialized");
        assert_eq!(value[1]["a"][0], 1.5);
    }

    #[test]
    fn shared_text_is_the_same_memory() {
        let whole = Text::from(String::from("hello world"));
        let part = whole.share(&whole.as_str()[6..]);
        assert_eq!(part, "world");
        assert_eq!(part.as_ptr(), whole.as_str()[6..].as_ptr());
        assert_eq!(whole.share("elsewhere"), "elsewhere");
    }
}
