//! The messages on the wire, proto3. Names are ours; numbers and types are the service's.
//!
//! Strings that hold a payload, or a name that is interned, are declared as `bytes`: on the wire
//! the two are the same, and `Bytes` is a slice of the frame where `String` would be a copy. Who
//! reads them checks that they are UTF-8. A packed `Any` is `bytes` for the same reason, and because
//! its serialized form is what users get.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::{Message, Oneof};

type Strings = BTreeMap<String, String>;

// --- both ways ---------------------------------------------------------------------------------

#[derive(Clone, PartialEq, Message)]
pub(super) struct Nothing {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Payload {
    #[prost(oneof = "Value", tags = "1, 2, 3, 4")]
    pub(super) value: Option<Value>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Value {
    /// A string.
    #[prost(bytes = "bytes", tag = "1")]
    Text(Bytes),
    #[prost(bytes = "bytes", tag = "2")]
    Binary(Bytes),
    /// An [`Any`].
    #[prost(bytes = "bytes", tag = "3")]
    Any(Bytes),
    /// A string.
    #[prost(bytes = "bytes", tag = "4")]
    Json(Bytes),
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Any {
    /// A string.
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) type_url: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct State {
    #[prost(btree_map = "string, string", tag = "1")]
    pub(super) entries: Strings,
}

// --- client to service -------------------------------------------------------------------------

#[derive(Clone, PartialEq, Message)]
pub(super) struct Up {
    // 2, 3, 4 and 12 were never published.
    #[prost(oneof = "UpKind", tags = "1, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17")]
    pub(super) kind: Option<UpKind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum UpKind {
    #[prost(message, tag = "1")]
    Publish(Publish),
    #[prost(message, tag = "5")]
    Event(Event),
    #[prost(message, tag = "6")]
    Join(GroupCall),
    #[prost(message, tag = "7")]
    Leave(GroupCall),
    #[prost(message, tag = "8")]
    SequenceAck(SequenceAck),
    #[prost(message, tag = "9")]
    Ping(Nothing),
    #[prost(message, tag = "10")]
    Invoke(Invoke),
    #[prost(message, tag = "11")]
    Cancel(Cancel),
    #[prost(message, tag = "13")]
    StreamData(StreamData),
    #[prost(message, tag = "14")]
    StreamEnd(StreamEnd),
    #[prost(message, tag = "15")]
    SetState(SetState),
    #[prost(message, tag = "16")]
    Subscribe(GroupCall),
    #[prost(message, tag = "17")]
    Unsubscribe(GroupCall),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GroupCall {
    #[prost(string, tag = "1")]
    pub(super) group: String,
    #[prost(uint64, optional, tag = "2")]
    pub(super) ack_id: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Publish {
    #[prost(string, tag = "1")]
    pub(super) group: String,
    #[prost(uint64, optional, tag = "2")]
    pub(super) ack_id: Option<u64>,
    #[prost(message, optional, tag = "3")]
    pub(super) data: Option<Payload>,
    #[prost(bool, optional, tag = "4")]
    pub(super) no_echo: Option<bool>,
    #[prost(uint32, optional, tag = "5")]
    pub(super) ttl_seconds: Option<u32>,
    #[prost(btree_map = "string, string", tag = "6")]
    pub(super) metadata: Strings,
    #[prost(message, optional, tag = "7")]
    pub(super) stream: Option<StreamStart>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StreamStart {
    #[prost(string, tag = "1")]
    pub(super) stream_id: String,
    #[prost(uint32, optional, tag = "2")]
    pub(super) idle_timeout_ms: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Event {
    #[prost(string, tag = "1")]
    pub(super) event: String,
    #[prost(message, optional, tag = "2")]
    pub(super) data: Option<Payload>,
    #[prost(uint64, optional, tag = "3")]
    pub(super) ack_id: Option<u64>,
    #[prost(btree_map = "string, string", tag = "4")]
    pub(super) metadata: Strings,
    /// Has a number, but is refused.
    #[prost(message, optional, tag = "5")]
    pub(super) stream: Option<StreamStart>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Invoke {
    #[prost(string, tag = "1")]
    pub(super) event: String,
    #[prost(string, tag = "2")]
    pub(super) invocation_id: String,
    #[prost(message, optional, tag = "3")]
    pub(super) data: Option<Payload>,
    #[prost(btree_map = "string, string", tag = "4")]
    pub(super) metadata: Strings,
    /// Has a number, but is refused.
    #[prost(message, optional, tag = "5")]
    pub(super) stream: Option<StreamStart>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Cancel {
    #[prost(string, tag = "1")]
    pub(super) invocation_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SequenceAck {
    #[prost(uint64, tag = "1")]
    pub(super) sequence_id: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StreamData {
    #[prost(string, tag = "1")]
    pub(super) stream_id: String,
    #[prost(uint64, optional, tag = "2")]
    pub(super) stream_sequence_id: Option<u64>,
    #[prost(message, optional, tag = "3")]
    pub(super) data: Option<Payload>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StreamEnd {
    #[prost(string, tag = "1")]
    pub(super) stream_id: String,
    #[prost(message, optional, tag = "2")]
    pub(super) error: Option<EndError>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct EndError {
    #[prost(string, optional, tag = "1")]
    pub(super) message: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(super) user_error_code: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SetState {
    #[prost(string, tag = "1")]
    pub(super) group: String,
    #[prost(uint64, optional, tag = "2")]
    pub(super) ack_id: Option<u64>,
    #[prost(message, optional, tag = "3")]
    pub(super) state: Option<State>,
}

// --- service to client -------------------------------------------------------------------------

#[derive(Clone, PartialEq, Message)]
pub(super) struct Down {
    #[prost(oneof = "DownKind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10")]
    pub(super) kind: Option<DownKind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum DownKind {
    #[prost(message, tag = "1")]
    Ack(Ack),
    #[prost(message, tag = "2")]
    Data(Data),
    #[prost(message, tag = "3")]
    System(System),
    #[prost(message, tag = "4")]
    Pong(Nothing),
    #[prost(message, tag = "5")]
    InvokeResponse(InvokeResponse),
    #[prost(message, tag = "6")]
    StreamAck(StreamAck),
    #[prost(message, tag = "7")]
    StreamNack(StreamNack),
    #[prost(message, tag = "8")]
    StreamClosed(StreamClosed),
    #[prost(message, tag = "9")]
    StateUpdate(States),
    #[prost(message, tag = "10")]
    StateSnapshot(States),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct NamedError {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) message: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Ack {
    #[prost(uint64, tag = "1")]
    pub(super) ack_id: u64,
    #[prost(bool, tag = "2")]
    pub(super) success: bool,
    #[prost(message, optional, tag = "3")]
    pub(super) error: Option<NamedError>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Data {
    /// A string.
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) from: Bytes,
    /// A string.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(super) group: Option<Bytes>,
    #[prost(message, optional, tag = "3")]
    pub(super) data: Option<Payload>,
    #[prost(uint64, optional, tag = "4")]
    pub(super) sequence_id: Option<u64>,
    #[prost(btree_map = "string, string", tag = "5")]
    pub(super) metadata: Strings,
    #[prost(message, optional, boxed, tag = "6")]
    pub(super) stream: Option<Box<StreamInfo>>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StreamInfo {
    #[prost(string, tag = "1")]
    pub(super) stream_id: String,
    #[prost(uint64, tag = "2")]
    pub(super) stream_sequence_id: u64,
    #[prost(bool, optional, tag = "3")]
    pub(super) end_of_stream: Option<bool>,
    #[prost(message, optional, tag = "4")]
    pub(super) error: Option<StreamError>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StreamError {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) message: String,
    #[prost(string, tag = "3")]
    pub(super) user_error_code: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct System {
    #[prost(oneof = "SystemKind", tags = "1, 2")]
    pub(super) kind: Option<SystemKind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum SystemKind {
    #[prost(message, tag = "1")]
    Connected(Connected),
    #[prost(message, tag = "2")]
    Disconnected(Disconnected),
}

/// Its token must not be printed: `Debug` is written by hand.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(super) struct Connected {
    #[prost(string, tag = "1")]
    pub(super) connection_id: String,
    #[prost(string, tag = "2")]
    pub(super) user_id: String,
    #[prost(string, optional, tag = "3")]
    pub(super) reconnection_token: Option<String>,
}

impl std::fmt::Debug for Connected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connected").finish_non_exhaustive()
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Disconnected {
    // 1 is not used.
    #[prost(string, tag = "2")]
    pub(super) reason: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct InvokeResponse {
    #[prost(string, tag = "1")]
    pub(super) invocation_id: String,
    #[prost(bool, tag = "2")]
    pub(super) success: bool,
    #[prost(message, optional, tag = "3")]
    pub(super) data: Option<Payload>,
    #[prost(message, optional, tag = "4")]
    pub(super) error: Option<NamedError>,
    #[prost(btree_map = "string, string", tag = "5")]
    pub(super) metadata: Strings,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StreamAck {
    #[prost(string, tag = "1")]
    pub(super) stream_id: String,
    #[prost(uint64, tag = "2")]
    pub(super) expected_sequence_id: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StreamNack {
    #[prost(string, tag = "1")]
    pub(super) stream_id: String,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(string, tag = "3")]
    pub(super) message: String,
    #[prost(uint64, tag = "4")]
    pub(super) expected_sequence_id: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StreamClosed {
    #[prost(string, tag = "1")]
    pub(super) stream_id: String,
    #[prost(message, optional, tag = "2")]
    pub(super) error: Option<NamedError>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct States {
    #[prost(string, tag = "1")]
    pub(super) group: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) items: Vec<StateItem>,
    #[prost(uint64, optional, tag = "3")]
    pub(super) sequence_id: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StateItem {
    #[prost(string, tag = "1")]
    pub(super) connection_id: String,
    #[prost(string, optional, tag = "2")]
    pub(super) user_id: Option<String>,
    #[prost(message, optional, tag = "3")]
    pub(super) state: Option<State>,
    #[prost(int64, tag = "4")]
    pub(super) updated_at: i64,
}

// --- a second look -----------------------------------------------------------------------------

/// What can be told of a [`Down`] that cannot be read as a whole. prost checks only the wire form of
/// fields that it does not know.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Remains {
    #[prost(message, optional, tag = "2")]
    pub(super) data: Option<DataNumber>,
    #[prost(message, optional, tag = "5")]
    pub(super) invoke_response: Option<ResponseId>,
    #[prost(message, optional, tag = "9")]
    pub(super) state_update: Option<StatesNumber>,
    #[prost(message, optional, tag = "10")]
    pub(super) state_snapshot: Option<StatesNumber>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DataNumber {
    #[prost(uint64, optional, tag = "4")]
    pub(super) sequence_id: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StatesNumber {
    #[prost(uint64, optional, tag = "3")]
    pub(super) sequence_id: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ResponseId {
    #[prost(string, tag = "1")]
    pub(super) invocation_id: String,
}
