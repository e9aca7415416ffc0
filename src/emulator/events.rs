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
}

/// What an event handler answers.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum EventAnswer {
    /// Success, and nothing for the client (HTTP 204).
    Nothing,
    /// Success, and a message for the sender. It is sent before the ack.
    Message(Payload),
    /// The same with metadata. A simple client gets the bare payload.
    MessageWithMetadata(Payload, Metadata),
    /// Failure (HTTP 500): the error `InternalServerError` for a PubSub client, Close 1011 for a
    /// simple one; see also
    /// [`failed_event_closes_connection`](super::EmulatorBuilder::failed_event_closes_connection).
    Failure,
}

/// A closure in the role of the app server's event handler.
pub(super) type Handler = dyn Fn(&EmulatedEvent) -> EventAnswer + Send + Sync;
