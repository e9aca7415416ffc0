//! Writing what the service sends, for the emulator.

use super::super::super::{Downstream, Frame, GroupStateItem, InvokeResponse, JsonForm};
use super::super::write::{Writer, map_size, payload_size};
use crate::message::{GroupMessage, Payload};
use crate::secret::Secret;

/// Writes a frame.
pub(in super::super::super) fn encode(form: JsonForm, message: &Downstream) -> Frame {
    let mut w = Writer::new(form, variable_size(message));
    if form == JsonForm::Plain {
        w.opt_plain("sequenceId", message.sequence_id());
    }
    match message {
        Downstream::Connected { connection_id, user_id, reconnection_token } => {
            w.str("type", "system").str("event", "connected");
            w.str_or_null("userId", user_id.as_deref()).str("connectionId", connection_id);
            w.opt_str("reconnectionToken", reconnection_token.as_ref().map(Secret::expose));
        }
        Downstream::Disconnected { message } => {
            w.str("type", "system").str("event", "disconnected");
            w.opt_str("message", message.as_deref());
        }
        Downstream::Ack { ack_id, success, error } => {
            w.str("type", "ack").plain("ackId", ack_id).plain("success", success);
            w.error(error.as_ref().filter(|_| !success));
        }
        Downstream::GroupMessage(m) => group_message(&mut w, m, Some(&m.payload)),
        Downstream::ServerMessage(m) => {
            w.str("type", "message").str("from", "server").payload(&m.payload);
            w.map("metadata", m.metadata.entries());
        }
        Downstream::Pong => {
            w.str("type", "pong");
        }
        Downstream::InvokeResponse(m) => {
            w.str("type", "invokeResponse");
            response_fields(&mut w, m);
        }
        Downstream::CancelInvocation { invocation_id } => {
            w.str("type", "cancelInvocation").str("invocationId", invocation_id);
        }
        Downstream::GroupStateSnapshot { group, items, .. } => {
            group_state(w.str("type", "groupStateSnapshot"), group, items);
        }
        Downstream::GroupStateUpdate { group, items, .. } => {
            group_state(w.str("type", "groupStateUpdate"), group, items);
        }
        Downstream::Unknown { what, .. } => unknown_again(&mut w, what),
        stream => stream_control(&mut w, stream),
    }
    if form == JsonForm::Service {
        w.opt_plain("sequenceId", message.sequence_id());
    }
    w.finish()
}

fn variable_size(message: &Downstream) -> usize {
    match message {
        Downstream::GroupMessage(m) => {
            let stream = m.stream.as_ref().map_or(0, |s| s.stream_id.len() + 128);
            let user = m.from_user_id.as_ref().map_or(0, |u| u.len());
            let names = m.group.len() + user;
            names + payload_size(&m.payload) + map_size(m.metadata.entries()) + stream
        }
        Downstream::ServerMessage(m) => payload_size(&m.payload) + map_size(m.metadata.entries()),
        Downstream::InvokeResponse(m) => response_size(m),
        Downstream::GroupStateSnapshot { items, .. }
        | Downstream::GroupStateUpdate { items, .. } => {
            items.iter().map(|item| 128 + map_size(item.state.as_ref())).sum()
        }
        Downstream::Connected { .. } => 512, // the token
        _ => 0,
    }
}

/// The last message of a stream without a payload.
#[cfg_attr(not(feature = "emulator"), allow(dead_code))]
pub(in super::super::super) fn encode_bare_end(form: JsonForm, m: &GroupMessage) -> Frame {
    let mut w = Writer::new(form, 0);
    if form == JsonForm::Plain {
        w.opt_plain("sequenceId", m.sequence_id);
    }
    group_message(&mut w, m, None);
    if form == JsonForm::Service {
        w.opt_plain("sequenceId", m.sequence_id);
    }
    w.finish()
}

fn group_message(w: &mut Writer, m: &GroupMessage, payload: Option<&Payload>) {
    w.str("type", "message").str("from", "group").str("group", &m.group);
    w.str_or_null("fromUserId", m.from_user_id.as_deref());
    if let Some(payload) = payload {
        w.payload(payload);
    }
    w.map("metadata", m.metadata.entries());
    let Some(part) = &m.stream else { return };
    w.object("stream", |w| {
        w.str("streamId", &part.stream_id).plain("streamSequenceId", part.stream_sequence_id);
        w.opt_plain("endOfStream", part.end_of_stream.then_some(true));
        if let Some(error) = &part.error {
            w.object("error", |w| {
                w.str("name", &error.name).opt_str("message", error.message.as_deref());
                w.opt_str("userErrorCode", error.user_error_code.as_deref());
            });
        }
    });
}

/// The same both ways, so far as anybody knows.
pub(in super::super) fn response_fields(w: &mut Writer, m: &InvokeResponse) {
    w.str("invocationId", &m.invocation_id).plain("success", m.success);
    if let Some(payload) = &m.payload {
        w.payload(payload);
    }
    w.error(m.error.as_ref().filter(|_| !m.success)).map("metadata", m.metadata.entries());
}

pub(in super::super) fn response_size(m: &InvokeResponse) -> usize {
    m.payload.as_ref().map_or(0, payload_size) + map_size(m.metadata.entries())
}

fn group_state(w: &mut Writer, group: &str, items: &[GroupStateItem]) {
    w.str("group", group).array("items", items, |w, item| {
        w.str("connectionId", &item.connection_id).opt_str("userId", item.user_id.as_deref());
        w.map("state", item.state.as_ref()).plain("updatedAt", item.updated_at);
    });
}

/// Makes a frame that reads as the same `what`, so that an emulator can send what is unknown.
fn unknown_again(w: &mut Writer, what: &str) {
    match what.split_once(' ') {
        Some(("from", from)) => w.str("type", "message").str("from", from),
        Some(("event", event)) => w.str("type", "system").str("event", event),
        Some(("dataType", name)) => {
            w.str("type", "message").str("from", "server").str("dataType", name)
        }
        Some(("type", kind)) => w.str("type", kind),
        _ => w.str("type", what),
    };
}

fn stream_control(w: &mut Writer, message: &Downstream) {
    match message {
        Downstream::StreamAck { stream_id, expected_sequence_id } => {
            w.str("type", "streamAck").str("streamId", stream_id);
            w.plain("expectedSequenceId", expected_sequence_id);
        }
        Downstream::StreamNack { stream_id, expected_sequence_id, name, message } => {
            w.str("type", "streamNack").str("streamId", stream_id);
            w.plain("expectedSequenceId", expected_sequence_id);
            w.str("name", name).opt_str("message", message.as_deref());
        }
        Downstream::StreamClosed { stream_id, error } => {
            w.str("type", "streamClosed").str("streamId", stream_id).error(error.as_ref());
        }
        _ => {}
    }
}
