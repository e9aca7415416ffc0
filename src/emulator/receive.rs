//! What the service does with a client's messages.
//!
//! Acks and pongs go to the sender's own outbox and do not touch it: the thread that reads for a
//! connection looks into its outbox after every message anyway.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::delivery::Delivery;
use super::events::{EmulatedEvent, EventAnswer};
use super::inbound::Started;
use super::outbox::Out;
use super::server_session::{Kind, Running, ServerSession};
use super::service::Service;
use super::streams::Start;
use crate::message::{GroupMessage, Metadata, Payload};
use crate::protocol::{
    Downstream, Frame, NamedError, SendContent, SendEvent, SendToGroup, Upstream, encode_bare_end,
    encode_downstream_as,
};

const NOT_AUTHORIZED: &str = "The connection is not authorized for raw sendToGroup mode.";
/// For an event that failed or found no handler: the text of the error, or the reason of the Close.
pub(super) const INTERNAL_ERROR: &str = "Internal server error";

/// Whose message it is, and when it is carried out.
#[derive(Debug, Clone, Copy)]
pub(super) struct From<'a> {
    pub(super) id: &'a Arc<str>,
    pub(super) now: Duration,
}

impl Service {
    /// One message of a PubSub client.
    pub(super) fn message(&mut self, from: From<'_>, message: Upstream<'static>) -> Started {
        match message {
            Upstream::JoinGroup { group, ack_id } => self.membership(from, &group, ack_id, true),
            Upstream::LeaveGroup { group, ack_id } => self.membership(from, &group, ack_id, false),
            Upstream::SendToGroup(send) => self.send_to_group(from, send),
            Upstream::Event(event) => return self.event(from, event),
            Upstream::SequenceAck { sequence_id } => self.sequence_ack(from, sequence_id),
            Upstream::Ping => {
                self.counters.count().pings += 1;
                if !self.plan.silent_pings {
                    self.reply(from, &Downstream::Pong);
                }
            }
            Upstream::Invoke(invoke) => return self.invoke(from, invoke),
            Upstream::CancelInvocation { invocation_id } => {
                self.cancel_invocation(from, &invocation_id);
            }
            Upstream::StreamData { stream_id, stream_sequence_id, payload } => {
                self.stream_data(from, &stream_id, stream_sequence_id.zip(payload));
            }
            Upstream::StreamEnd { stream_id, error } => self.stream_end(from, &stream_id, error),
            Upstream::SetGroupState { group, ack_id, state } => {
                self.set_group_state(from, &group, ack_id, state);
            }
            Upstream::SubscribeGroupState { group, ack_id } => {
                self.follow_group_state(from, &group, ack_id);
            }
            Upstream::UnsubscribeGroupState { group, ack_id } => {
                self.unfollow_group_state(from, &group, ack_id);
            }
            // Nothing asks a client.
            Upstream::InvokeResponse(_) => {}
        }
        None
    }

    /// A frame of a simple client.
    pub(super) fn raw(&mut self, from: From<'_>, frame: Frame) -> Started {
        let payload = match frame {
            Frame::Text(text) => Payload::Text(text),
            Frame::Binary(bytes) => Payload::Binary(bytes),
        };
        let session = self.sessions.get(from.id)?;
        match &session.kind {
            Kind::SimpleGroup { group, no_echo } if session.grants.may_send(group) => {
                let except = no_echo.then_some(&**from.id);
                let (hub, group) = (Arc::clone(&session.hub), Arc::clone(group));
                let delivery = Delivery::to_group(group, session.user.clone(), payload);
                self.publish(from.now, &hub, &delivery, except);
                self.counters.count().publications += 1;
                None
            }
            Kind::SimpleGroup { .. } => {
                self.close(from.id, 1008, NOT_AUTHORIZED);
                None
            }
            _ => {
                let event = session.emulated("message", payload);
                self.hand_out(from, event, None)
            }
        }
    }

    // --- the kinds of messages ---------------------------------------------------------------

    fn membership(&mut self, from: From<'_>, group: &str, ack_id: Option<u64>, join: bool) {
        if !self.begin(from, ack_id) {
            return;
        }
        let allowed = self.sessions.get(from.id).is_some_and(|s| s.grants.may_join_leave(group));
        let outcome = match (allowed, join) {
            (false, _) => Err(forbidden(if join { "join" } else { "leave" }, group)),
            (true, true) => {
                self.join(from.id, group);
                Ok(())
            }
            (true, false) => {
                self.leave(from.id, group);
                Ok(())
            }
        };
        self.finish(from, ack_id, outcome);
    }

    fn send_to_group(&mut self, from: From<'_>, send: SendToGroup<'static>) {
        let payload = match send.content {
            SendContent::Payload(payload) => payload,
            SendContent::Stream { stream_id, idle_timeout_ms } => {
                let start = Start {
                    group: send.group.as_ref().into(),
                    stream_id: stream_id.as_ref().into(),
                    no_echo: send.no_echo,
                    idle_timeout_ms,
                };
                return self.start_stream(from, send.ack_id, start);
            }
        };
        if !self.begin(from, send.ack_id) {
            return;
        }
        let Some(session) = self.sessions.get(from.id) else { return };
        let outcome = if session.grants.may_send(&send.group) {
            let hub = Arc::clone(&session.hub);
            let delivery = Delivery {
                group: Some((send.group.as_ref().into(), session.user.clone())),
                payload,
                metadata: Metadata::of(send.metadata.map(Cow::into_owned)),
                expires: send
                    .ttl_seconds
                    .filter(|ttl| *ttl > 0)
                    .map(|ttl| from.now + Duration::from_secs(ttl.into())),
                stream: None,
                bare: false,
            };
            self.publish(from.now, &hub, &delivery, send.no_echo.then_some(&**from.id));
            self.counters.count().publications += 1;
            Ok(())
        } else {
            Err(forbidden("send to", &send.group))
        };
        self.finish(from, send.ack_id, outcome);
    }

    fn event(&mut self, from: From<'_>, event: SendEvent<'static>) -> Started {
        if !self.begin(from, event.ack_id) {
            return None;
        }
        let session = self.sessions.get(from.id)?;
        let mut emulated = session.emulated(&event.event, event.payload);
        emulated.metadata = Metadata::of(event.metadata.map(Cow::into_owned));
        self.hand_out(from, emulated, event.ack_id)
    }

    /// To the event handler; without one the event fails.
    fn hand_out(&mut self, from: From<'_>, event: EmulatedEvent, ack_id: Option<u64>) -> Started {
        self.counters.count().events += 1;
        let size = event.payload.as_bytes().len();
        self.notes.debug(|| format!("event: {}, {:?}, {size} bytes", from.id, event.event));
        if self.settings.has_handler {
            self.sessions.get_mut(from.id)?.running = Some(Running::Event { ack_id });
            return Some(Box::new(event));
        }
        self.event_failed(from, ack_id);
        None
    }

    /// Carries out what the event handler answered.
    pub(super) fn settle_event(
        &mut self,
        from: From<'_>,
        ack_id: Option<u64>,
        answer: EventAnswer,
    ) {
        let (payload, metadata) = match answer {
            EventAnswer::Failure | EventAnswer::Error { .. } => {
                return self.event_failed(from, ack_id);
            }
            EventAnswer::Nothing => return self.finish(from, ack_id, Ok(())),
            EventAnswer::Message(payload) => (payload, Metadata::default()),
            EventAnswer::MessageWithMetadata(payload, metadata) => (payload, metadata),
        };
        let hub = self.sessions.get(from.id).map(|s| Arc::clone(&s.hub));
        if let Some(hub) = hub {
            let delivery = Delivery { metadata, ..Delivery::from_server(payload) };
            self.send_to_connection(from.now, &hub, from.id, &delivery);
        }
        self.finish(from, ack_id, Ok(()));
    }

    /// A simple client gets no acks, so a Close has to say it.
    fn event_failed(&mut self, from: From<'_>, ack_id: Option<u64>) {
        self.notes.debug(|| format!("event failed: {}", from.id));
        let simple = self.sessions.get(from.id).is_some_and(|s| s.kind.protocol().is_none());
        if simple || self.settings.failed_event_closes_connection {
            self.close(from.id, 1011, INTERNAL_ERROR);
        } else {
            self.finish(from, ack_id, Err(named("InternalServerError", INTERNAL_ERROR)));
        }
    }

    fn sequence_ack(&mut self, from: From<'_>, sequence_id: u64) {
        self.counters.count().sequence_acks += 1;
        let keep = self.plan.duplicate_replay;
        if let Some(session) = self.sessions.get_mut(from.id) {
            session.replay.release(sequence_id, keep);
        }
    }

    // --- acks --------------------------------------------------------------------------------

    /// Before carrying out a request: false if it must not be (again).
    pub(super) fn begin(&mut self, from: From<'_>, ack_id: Option<u64>) -> bool {
        let Some(ack_id) = ack_id else { return true };
        if self.plan.take_drop_before_execution() {
            self.cut_behind_queue(from);
            return false;
        }
        let Some(session) = self.sessions.get(from.id) else { return false };
        if session.acked.contains(ack_id) {
            self.counters.count().duplicates += 1;
            let text = format!("Message with ack-id: {ack_id} has been processed");
            self.ack(from, Some(ack_id), Err(named("Duplicate", &text)));
            return false;
        }
        true
    }

    /// After a request was carried out or refused.
    pub(super) fn finish(
        &mut self,
        from: From<'_>,
        ack_id: Option<u64>,
        outcome: Result<(), NamedError>,
    ) {
        if let (Some(ack_id), Some(session)) = (ack_id, self.sessions.get_mut(from.id)) {
            if outcome.is_ok() {
                session.acked.insert(ack_id);
                let count = self.executions.count(&session.id, ack_id);
                let most = &mut self.counters.count().max_executions;
                *most = u64::from(count).max(*most);
            } else {
                self.counters.count().failed_acks += 1;
            }
        }
        if let Err(NamedError { name, message }) = &outcome {
            let text = message.as_deref().unwrap_or_default();
            self.notes.debug(|| format!("call failed: {}, {name}: {text:?}", from.id));
        }
        self.ack(from, ack_id, outcome);
    }

    /// Sends an ack, if one is wanted and no fault is in the way.
    fn ack(&mut self, from: From<'_>, ack_id: Option<u64>, outcome: Result<(), NamedError>) {
        let Some(ack_id) = ack_id else { return };
        self.counters.count().acks += 1;
        let message = Downstream::Ack { ack_id, success: outcome.is_ok(), error: outcome.err() };
        if self.plan.take_lost_ack() {
            self.notes.debug(|| format!("fault: the ack {ack_id} of {} is lost", from.id));
            return;
        }
        if self.plan.take_drop_before_ack() {
            return self.cut_behind_queue(from);
        }
        if self.plan.hold_acks {
            if let Some(session) = self.sessions.get_mut(from.id)
                && let Some(frame) = session.encode(&message)
            {
                session.held_acks.push(frame);
            }
            return;
        }
        self.reply(from, &message);
        if self.plan.take_drop_after_ack() {
            self.cut_behind_queue(from);
        }
    }

    /// Queues something for the session's transport; without one it is lost.
    pub(super) fn reply(&mut self, from: From<'_>, message: &Downstream) {
        if let Some(session) = self.sessions.get(from.id)
            && let Some(frame) = session.encode(message)
        {
            self.queue_frame(from.id, frame);
        }
    }

    /// The fault "cut here": what is queued still leaves, and nothing more is taken from the
    /// client.
    fn cut_behind_queue(&mut self, from: From<'_>) {
        self.notes.debug(|| format!("fault: {} is cut", from.id));
        if let Some(outbox) = self.detach(from.now, from.id) {
            outbox.push(Out::Cut);
            self.touch_outbox(&outbox);
        }
    }

    pub(super) fn after_message(&mut self, from: From<'_>) {
        if self.plan.take_frame_drop() {
            self.cut_behind_queue(from);
        }
    }

    /// Ends the fault of held acks.
    pub(super) fn release_acks(&mut self) {
        self.plan.hold_acks = false;
        self.release_frames(|session| &mut session.held_acks);
    }

    /// Sends what a fault held back.
    pub(super) fn release_frames(&mut self, which: impl Fn(&mut ServerSession) -> &mut Vec<Frame>) {
        let mut held = Vec::new();
        for session in self.sessions.values_mut() {
            let frames = std::mem::take(which(session));
            if let (Some(outbox), false) = (&session.outbox, frames.is_empty()) {
                self.touched.push(outbox.link);
                held.push((Arc::clone(&session.id), frames));
            }
        }
        for (id, frames) in held {
            for frame in frames {
                self.queue_frame(&id, frame);
            }
        }
    }
}

impl ServerSession {
    /// None if the message has no form in the session's subprotocol.
    pub(super) fn encode(&self, message: &Downstream) -> Option<Frame> {
        encode_downstream_as(self.json, self.kind.protocol()?, message).ok()
    }

    /// The last message of a stream, without its payload.
    pub(super) fn encode_bare_end(&self, message: &GroupMessage) -> Option<Frame> {
        encode_bare_end(self.json, self.kind.protocol()?, message).ok()
    }

    pub(super) fn emulated(&self, event: &str, payload: Payload) -> EmulatedEvent {
        EmulatedEvent {
            hub: self.hub.to_string(),
            connection_id: self.id.to_string(),
            user_id: self.user.as_deref().map(Into::into),
            event: event.into(),
            payload,
            metadata: Metadata::default(),
            invocation_id: None,
        }
    }
}

pub(super) fn named(name: &str, message: &str) -> NamedError {
    NamedError { name: name.into(), message: Some(message.into()) }
}

pub(super) fn forbidden(what: &str, group: &str) -> NamedError {
    let text = format!("The client does not have permission to {what} group '{group}'.");
    named("Forbidden", &text)
}
