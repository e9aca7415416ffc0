//! The wire messages of the service and their codecs. Pure: no socket, thread, lock or clock.
//!
//! [`Upstream`] is what a client sends, [`Downstream`] what the service sends; both directions can
//! be encoded and decoded, because the emulator is the other end. This is the layer below
//! [`Client`](crate::Client): most programs never need it.
//!
//! Invariants: decoding never panics, whatever the bytes; a kind that this version does not know
//! is a value ([`Downstream::Unknown`]), not an error; JSON payloads stay raw text; a frame that
//! cannot be read still tells its sequence id if that much could be read, because the service
//! counts it, and which invocation it answers, because a caller waits for that.

// Half of it serves the emulator and this package's own tests. With the feature that shows the
// module to those tests all of this is checked.
#![cfg_attr(not(feature = "__codecs"), allow(dead_code, unreachable_pub))]
// Pure: see `clippy.toml`.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod json;
mod names;
#[cfg(feature = "protobuf")]
mod protobuf;
pub(crate) mod rules;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;

use crate::error::Result;
use crate::message::{Entries, GroupMessage, Metadata, Payload, ServerMessage, Text};
use crate::secret::Secret;
use names::Names;

pub use rules::MAX_MESSAGE;

/// The service's subprotocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Protocol {
    /// `json.webpubsub.azure.v1`: acks, but a lost connection is lost.
    Json,
    /// `json.reliable.webpubsub.azure.v1`: a dropped connection is recovered without losing or
    /// repeating a message.
    #[default]
    ReliableJson,
    /// `protobuf.webpubsub.azure.v1`: acks, but a lost connection is lost. Payloads travel without
    /// base64; receivers do not learn who sent a message.
    #[cfg(feature = "protobuf")]
    Protobuf,
    /// `protobuf.reliable.webpubsub.azure.v1`: as [`Protocol::Protobuf`], with recovery.
    #[cfg(feature = "protobuf")]
    ReliableProtobuf,
}

impl Protocol {
    /// All that this build supports.
    pub const ALL: &'static [Self] = &[
        Self::Json,
        Self::ReliableJson,
        #[cfg(feature = "protobuf")]
        Self::Protobuf,
        #[cfg(feature = "protobuf")]
        Self::ReliableProtobuf,
    ];

    /// The name in `Sec-WebSocket-Protocol`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json.webpubsub.azure.v1",
            Self::ReliableJson => "json.reliable.webpubsub.azure.v1",
            #[cfg(feature = "protobuf")]
            Self::Protobuf => "protobuf.webpubsub.azure.v1",
            #[cfg(feature = "protobuf")]
            Self::ReliableProtobuf => "protobuf.reliable.webpubsub.azure.v1",
        }
    }

    /// The protocol of that name, ignoring case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|p| p.name().eq_ignore_ascii_case(name))
    }

    /// Whether its frames are text (JSON) and not binary (protobuf).
    #[must_use]
    pub const fn is_text(self) -> bool {
        matches!(self, Self::Json | Self::ReliableJson)
    }

    /// Whether a dropped connection can be recovered.
    #[must_use]
    pub fn is_reliable(self) -> bool {
        match self {
            Self::ReliableJson => true,
            #[cfg(feature = "protobuf")]
            Self::ReliableProtobuf => true,
            _ => false,
        }
    }
}

/// The content of one WebSocket data message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A text message.
    Text(Text),
    /// A binary message.
    Binary(Bytes),
}

impl Frame {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(t) => t.as_bytes(),
            Self::Binary(b) => b,
        }
    }
}

/// What a client sends.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs)] // the fields are the protocol's own
pub enum Upstream<'a> {
    /// Join a group.
    JoinGroup { group: Cow<'a, str>, ack_id: Option<u64> },
    /// Leave a group.
    LeaveGroup { group: Cow<'a, str>, ack_id: Option<u64> },
    /// Publish to a group, or start a stream to it.
    SendToGroup(SendToGroup<'a>),
    /// Send an event to the app server.
    Event(SendEvent<'a>),
    /// Call the app server and wait for its answer (preview).
    Invoke(Invoke<'a>),
    /// The answer to a call by the service; nothing asks for it yet, and it has no protobuf form.
    InvokeResponse(InvokeResponse),
    /// Give up a call (preview).
    CancelInvocation { invocation_id: Cow<'a, str> },
    /// All numbered messages up to this one have arrived (reliable subprotocols).
    SequenceAck { sequence_id: u64 },
    /// Keep-alive; answered by [`Downstream::Pong`].
    Ping,
    /// A fragment of a stream, or its keep-alive if it has neither number nor payload (preview).
    StreamData {
        stream_id: Cow<'a, str>,
        stream_sequence_id: Option<u64>,
        payload: Option<Payload>,
    },
    /// The end of a stream (preview).
    StreamEnd { stream_id: Cow<'a, str>, error: Option<StreamEndError> },
    /// Set or clear this connection's state in a group (preview).
    SetGroupState { group: Cow<'a, str>, ack_id: Option<u64>, state: Option<Entries> },
    /// Follow the states in a group (preview).
    SubscribeGroupState { group: Cow<'a, str>, ack_id: Option<u64> },
    /// Stop following (preview).
    UnsubscribeGroupState { group: Cow<'a, str>, ack_id: Option<u64> },
}

/// See [`Upstream::SendToGroup`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs)]
pub struct SendToGroup<'a> {
    pub group: Cow<'a, str>,
    pub ack_id: Option<u64>,
    pub no_echo: bool,
    pub ttl_seconds: Option<u32>,
    pub metadata: Option<Cow<'a, Entries>>,
    pub content: SendContent<'a>,
}

impl<'a> SendToGroup<'a> {
    /// A publication without options.
    pub fn new(group: impl Into<Cow<'a, str>>, payload: impl Into<Payload>) -> Self {
        Self {
            group: group.into(),
            ack_id: None,
            no_echo: false,
            ttl_seconds: None,
            metadata: None,
            content: SendContent::Payload(payload.into()),
        }
    }
}

/// What a publication carries.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum SendContent<'a> {
    Payload(Payload),
    /// The start of a stream (preview).
    Stream {
        stream_id: Cow<'a, str>,
        idle_timeout_ms: Option<u32>,
    },
}

/// See [`Upstream::Event`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs)]
pub struct SendEvent<'a> {
    pub event: Cow<'a, str>,
    pub ack_id: Option<u64>,
    pub metadata: Option<Cow<'a, Entries>>,
    pub payload: Payload,
}

impl<'a> SendEvent<'a> {
    /// An event without options.
    pub fn new(event: impl Into<Cow<'a, str>>, payload: impl Into<Payload>) -> Self {
        Self { event: event.into(), ack_id: None, metadata: None, payload: payload.into() }
    }
}

/// See [`Upstream::Invoke`]. `target`, which JSON has and protobuf has not, is always `event`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs)]
pub struct Invoke<'a> {
    pub invocation_id: Cow<'a, str>,
    pub event: Cow<'a, str>,
    pub metadata: Option<Cow<'a, Entries>>,
    pub payload: Option<Payload>,
}

impl<'a> Invoke<'a> {
    /// A call without metadata and payload.
    pub fn new(invocation_id: impl Into<Cow<'a, str>>, event: impl Into<Cow<'a, str>>) -> Self {
        Self {
            invocation_id: invocation_id.into(),
            event: event.into(),
            metadata: None,
            payload: None,
        }
    }
}

/// See [`Upstream::StreamEnd`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct StreamEndError {
    pub message: Option<String>,
    pub user_error_code: Option<String>,
}

/// An error as the service names it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct NamedError {
    pub name: String,
    pub message: Option<String>,
}

/// The answer to an invocation (preview).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs)]
pub struct InvokeResponse {
    pub invocation_id: String,
    /// A response that does not say counts as a failure.
    pub success: bool,
    pub payload: Option<Payload>,
    pub error: Option<NamedError>,
    pub metadata: Metadata,
}

/// One member's state in a group (preview).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs)]
pub struct GroupStateItem {
    pub connection_id: String,
    pub user_id: Option<String>,
    pub state: Option<Entries>,
    /// Milliseconds since 1970.
    pub updated_at: i64,
}

/// What the service sends.
///
/// Optional strings that came as null or empty count as absent.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Downstream {
    Connected {
        connection_id: String,
        user_id: Option<String>,
        reconnection_token: Option<Secret>,
    },
    Disconnected {
        message: Option<String>,
    },
    Ack {
        ack_id: u64,
        success: bool,
        error: Option<NamedError>,
    },
    GroupMessage(GroupMessage),
    ServerMessage(ServerMessage),
    Pong,
    /// Boxed, because the size of a message costs time in every other kind.
    InvokeResponse(Box<InvokeResponse>),
    /// Has no protobuf form.
    CancelInvocation {
        invocation_id: String,
    },
    StreamAck {
        stream_id: String,
        expected_sequence_id: u64,
    },
    StreamNack {
        stream_id: String,
        expected_sequence_id: u64,
        name: String,
        message: Option<String>,
    },
    StreamClosed {
        stream_id: String,
        error: Option<NamedError>,
    },
    GroupStateSnapshot {
        group: String,
        items: Vec<GroupStateItem>,
        sequence_id: Option<u64>,
    },
    GroupStateUpdate {
        group: String,
        items: Vec<GroupStateItem>,
        sequence_id: Option<u64>,
    },
    /// A `type`, `from`, system `event` or `dataType` that this version does not know.
    Unknown {
        what: String,
        sequence_id: Option<u64>,
    },
}

impl Downstream {
    /// The number of the message, for the kinds that have one.
    #[must_use]
    pub fn sequence_id(&self) -> Option<u64> {
        match self {
            Self::GroupMessage(m) => m.sequence_id,
            Self::ServerMessage(m) => m.sequence_id,
            Self::GroupStateSnapshot { sequence_id, .. }
            | Self::GroupStateUpdate { sequence_id, .. }
            | Self::Unknown { sequence_id, .. } => *sequence_id,
            _ => None,
        }
    }
}

/// Why a frame could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Malformed {
    /// A short text for people; never holds payload or secrets.
    pub why: Cow<'static, str>,
    /// The frame was of the wrong kind (binary for JSON, text for protobuf); a server answers 1003
    /// instead of 1007.
    pub wrong_frame_kind: bool,
    /// The sequence id, if that much could be read.
    pub sequence_id: Option<u64>,
    /// Of the answer to an invocation, if that much could be read: the call ends all the same.
    pub invocation_id: Option<String>,
}

impl Malformed {
    pub(crate) fn new(why: impl Into<Cow<'static, str>>) -> Self {
        Self { why: why.into(), wrong_frame_kind: false, sequence_id: None, invocation_id: None }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Malformed {}

/// Reads [`Downstream`] frames of one connection. Keeps the names it has seen, so that a group or
/// user that repeats costs no allocation.
#[derive(Debug)]
pub struct Decoder {
    protocol: Protocol,
    names: Names,
}

impl Decoder {
    /// A decoder for one subprotocol.
    #[must_use]
    pub fn new(protocol: Protocol) -> Self {
        Self { protocol, names: Names::default() }
    }

    /// Reads one frame.
    ///
    /// # Errors
    /// [`Malformed`] says why; drop the frame and go on, the connection is still good.
    pub fn decode(&mut self, frame: &Frame) -> Result<Downstream, Malformed> {
        match self.protocol {
            Protocol::Json | Protocol::ReliableJson => {
                json::decode_downstream(&mut self.names, frame)
            }
            #[cfg(feature = "protobuf")]
            Protocol::Protobuf | Protocol::ReliableProtobuf => {
                protobuf::decode_downstream(&mut self.names, frame)
            }
        }
    }
}

/// Writes what a client sends.
///
/// # Errors
/// None in the JSON subprotocols. In the protobuf ones
/// [`ErrorKind::InvalidRequest`](crate::ErrorKind::InvalidRequest) for what has no form there: the
/// client's answer to an invocation, and a [`Payload::Protobuf`] that is not a serialized
/// `google.protobuf.Any`.
pub fn encode_upstream(protocol: Protocol, message: &Upstream<'_>) -> Result<Frame> {
    match protocol {
        Protocol::Json | Protocol::ReliableJson => Ok(json::encode_upstream(message)),
        #[cfg(feature = "protobuf")]
        Protocol::Protobuf | Protocol::ReliableProtobuf => protobuf::encode_upstream(message),
    }
}

/// Reads what a client sent, strictly, as a server does.
///
/// # Errors
/// [`Malformed`] where the service would close the connection.
pub fn decode_upstream(protocol: Protocol, frame: &Frame) -> Result<Upstream<'static>, Malformed> {
    match protocol {
        Protocol::Json | Protocol::ReliableJson => json::decode_upstream(frame),
        #[cfg(feature = "protobuf")]
        Protocol::Protobuf | Protocol::ReliableProtobuf => protobuf::decode_upstream(frame),
    }
}

/// The group of a publication that [`encode_upstream`] has written, in either kind of subprotocol.
pub(crate) fn group_of(frame: &Frame) -> Option<String> {
    match frame {
        Frame::Text(text) => json::group_of(text),
        #[cfg(feature = "protobuf")]
        Frame::Binary(bytes) => protobuf::group_of(bytes),
        #[cfg(not(feature = "protobuf"))]
        Frame::Binary(_) => None,
    }
}

/// How JSON frames of the service are written; both forms mean the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(not(feature = "emulator"), allow(dead_code))]
pub(crate) enum JsonForm {
    /// UTF-8 with no more escapes than JSON requires, `sequenceId` first.
    Plain,
    /// As the service writes it: escaped to plain ASCII, `sequenceId` last.
    #[default]
    Service,
}

/// Writes what the service sends. JSON is written with no more escapes than it requires, where the
/// service writes plain ASCII; the meaning is the same.
///
/// # Errors
/// None in the JSON subprotocols. In the protobuf ones
/// [`ErrorKind::InvalidRequest`](crate::ErrorKind::InvalidRequest) for what has no form there: the
/// service's own end of an invocation, and a [`Payload::Protobuf`] that is not a serialized
/// `google.protobuf.Any`.
pub fn encode_downstream(protocol: Protocol, message: &Downstream) -> Result<Frame> {
    encode_downstream_as(JsonForm::Plain, protocol, message)
}

/// The last message of a stream in its other form, without a payload.
///
/// # Errors
/// None.
#[cfg_attr(not(feature = "emulator"), allow(dead_code))]
pub(crate) fn encode_bare_end(
    form: JsonForm,
    protocol: Protocol,
    message: &GroupMessage,
) -> Result<Frame> {
    match protocol {
        Protocol::Json | Protocol::ReliableJson => Ok(json::encode_bare_end(form, message)),
        #[cfg(feature = "protobuf")]
        Protocol::Protobuf | Protocol::ReliableProtobuf => protobuf::encode_bare_end(message),
    }
}

/// The same, with JSON in the given form.
pub(crate) fn encode_downstream_as(
    form: JsonForm,
    protocol: Protocol,
    message: &Downstream,
) -> Result<Frame> {
    match protocol {
        Protocol::Json | Protocol::ReliableJson => Ok(json::encode_downstream(form, message)),
        #[cfg(feature = "protobuf")]
        Protocol::Protobuf | Protocol::ReliableProtobuf => protobuf::encode_downstream(message),
    }
}
