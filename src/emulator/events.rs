//! The event handler: what it is asked and what it may answer.

use crate::message::{Metadata, Payload};

/// An event of a client, as the app server would get it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct EmulatedEvent {
    /// The hub.
    pub hub: String,
    /// Who sent it.
    pub connection_id: String,
    /// The sender's user id.
    pub user_id: Option<String>,
    /// The event's name; `message` for a frame of a simple client.
    pub event: String,
    /// The data.
    pub payload: Payload,
    /// Metadata, empty if the sender gave none.
    pub metadata: Metadata,
    /// Set if the sender waits for the answer (preview): the id of its invocation, unique among those
    /// that the connection has under way. Whether the real service tells its event handler is not
    /// known. The data of an invocation without any is an empty text.
    pub invocation_id: Option<String>,
}

/// What an event handler answers.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum EventAnswer {
    /// Success, and nothing for the client (HTTP 204); an answer without data to an invocation.
    Nothing,
    /// Success, and a message for the sender. It is sent before the ack. To an invocation it is the
    /// answer.
    Message(Payload),
    /// The same with metadata. A simple client gets the bare payload.
    MessageWithMetadata(Payload, Metadata),
    /// Failure (HTTP 500): the error `InternalServerError` for a PubSub client, Close 1011 for a
    /// simple one; see also
    /// [`failed_event_closes_connection`](super::EmulatorBuilder::failed_event_closes_connection).
    Failure,
    /// The same, and an invocation learns this name and text; how the service names its errors is not
    /// known.
    Error {
        /// Such as `BadRequest`.
        name: String,
        /// For people.
        message: String,
    },
}

/// A closure in the role of the app server's event handler.
pub(super) type Handler = dyn Fn(&EmulatedEvent) -> EventAnswer + Send + Sync;
