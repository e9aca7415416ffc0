//! Calls of the app server by clients, with an answer (preview).
//!
//! The event handler answers them like events: on the reader's thread, while everything else of the
//! session waits. That an invocation holds up its session at the real service is an assumption.
//!
//! Invariants: an answer has no number, and is lost with the transport on which the call came; each
//! call that came is handed out once, whatever its id, because nothing detects repeats.

use super::events::{EmulatedEvent, EventAnswer};
use super::inbound::Started;
use super::receive::{From, INTERNAL_ERROR, named};
use super::server_session::Running;
use super::service::Service;
use crate::message::{Metadata, Payload};
use crate::protocol::{Downstream, Invoke, InvokeResponse, NamedError};

impl Service {
    /// To the event handler; without one the call fails.
    pub(super) fn invoke(&mut self, from: From<'_>, invoke: Invoke<'static>) -> Started {
        self.counters.count().invocations += 1;
        self.notes.debug(|| format!("invocation: {}, {:?}", from.id, invoke.event));
        let id = invoke.invocation_id.into_owned();
        if !self.settings.has_handler {
            self.respond(from, failed(id, "InternalServerError", INTERNAL_ERROR));
            return None;
        }
        let session = self.sessions.get_mut(from.id)?;
        let link = session.outbox.as_ref()?.link;
        let payload = invoke.payload.unwrap_or_else(|| Payload::from(""));
        let event = EmulatedEvent {
            metadata: Metadata::of(invoke.metadata.map(std::borrow::Cow::into_owned)),
            invocation_id: Some(id.clone()),
            ..session.emulated(&invoke.event, payload)
        };
        session.running = Some(Running::Invocation { id, link });
        Some(Box::new(event))
    }

    /// Sends what the event handler answered, if the link on which the call came is still there.
    pub(super) fn settle_invocation(
        &mut self,
        from: From<'_>,
        id: String,
        link: u64,
        answer: EventAnswer,
    ) {
        let response = match answer {
            EventAnswer::Nothing => done(id, None),
            EventAnswer::Message(payload) => done(id, Some(payload)),
            EventAnswer::MessageWithMetadata(payload, metadata) => {
                InvokeResponse { metadata, ..done(id, Some(payload)) }
            }
            EventAnswer::Failure => failed(id, "InternalServerError", INTERNAL_ERROR),
            EventAnswer::Error { name, message } => failed(id, &name, &message),
        };
        if self.session_on(from.id, link).is_some() {
            self.respond(from, response);
        }
    }

    pub(super) fn cancel_invocation(&mut self, from: From<'_>, id: &str) {
        self.counters.count().invocations_cancelled += 1;
        self.notes.debug(|| format!("invocation given up: {}, {id:?}", from.id));
    }

    fn respond(&mut self, from: From<'_>, response: InvokeResponse) {
        let message = Downstream::InvokeResponse(Box::new(response));
        if self.plan.preview.take_lost_response() {
            self.notes.debug(|| format!("fault: an answer to {} is lost", from.id));
        } else if self.plan.preview.hold_responses {
            if let Some(session) = self.sessions.get_mut(from.id)
                && let Some(frame) = session.encode(&message)
            {
                session.held_responses.push(frame);
            }
        } else {
            self.reply(from, &message);
        }
    }

    /// Ends the fault of held answers.
    pub(super) fn release_responses(&mut self) {
        self.plan.preview.hold_responses = false;
        self.release_frames(|session| &mut session.held_responses);
    }
}

fn done(invocation_id: String, payload: Option<Payload>) -> InvokeResponse {
    InvokeResponse {
        invocation_id,
        success: true,
        payload,
        error: None,
        metadata: Metadata::default(),
    }
}

fn failed(invocation_id: String, name: &str, message: &str) -> InvokeResponse {
    let error: NamedError = named(name, message);
    InvokeResponse { success: false, error: Some(error), ..done(invocation_id, None) }
}
