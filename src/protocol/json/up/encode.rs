//! Writing what a client sends.

use super::super::super::{Frame, JsonForm, SendContent, SendToGroup, StreamEndError, Upstream};
use super::super::down::{response_fields, response_size};
use super::super::write::{Writer, map_size, payload_size};
use crate::message::Payload;

/// Writes a frame.
pub(in super::super::super) fn encode(message: &Upstream<'_>) -> Frame {
    let mut w = Writer::new(JsonForm::Plain, variable_size(message));
    match message {
        Upstream::JoinGroup { group, ack_id } => group_call(&mut w, "joinGroup", group, *ack_id),
        Upstream::LeaveGroup { group, ack_id } => group_call(&mut w, "leaveGroup", group, *ack_id),
        Upstream::SendToGroup(m) => write_send(&mut w, m),
        Upstream::Event(m) => {
            w.str("type", "event").str("event", &m.event).opt_plain("ackId", m.ack_id);
            w.map("metadata", m.metadata.as_deref()).payload(&m.payload);
        }
        Upstream::Invoke(m) => {
            w.str("type", "invoke").str("invocationId", &m.invocation_id);
            w.str("target", "event").str("event", &m.event);
            w.map("metadata", m.metadata.as_deref());
            opt_payload(&mut w, m.payload.as_ref());
        }
        Upstream::InvokeResponse(m) => {
            w.str("type", "invokeResponse");
            response_fields(&mut w, m);
        }
        Upstream::CancelInvocation { invocation_id } => {
            w.str("type", "cancelInvocation").str("invocationId", invocation_id);
        }
        Upstream::SequenceAck { sequence_id } => {
            w.str("type", "sequenceAck").plain("sequenceId", sequence_id);
        }
        Upstream::Ping => {
            w.str("type", "ping");
        }
        Upstream::StreamData { stream_id, stream_sequence_id, payload } => {
            w.str("type", "streamData").str("streamId", stream_id);
            w.opt_plain("streamSequenceId", *stream_sequence_id);
            opt_payload(&mut w, payload.as_ref());
        }
        Upstream::StreamEnd { stream_id, error } => {
            w.str("type", "streamEnd").str("streamId", stream_id);
            write_end_error(&mut w, error.as_ref());
        }
        Upstream::SetGroupState { group, ack_id, state } => {
            group_call(&mut w, "setGroupState", group, *ack_id);
            w.map("state", state.as_ref());
        }
        Upstream::SubscribeGroupState { group, ack_id } => {
            group_call(&mut w, "subscribeGroupState", group, *ack_id);
        }
        Upstream::UnsubscribeGroupState { group, ack_id } => {
            group_call(&mut w, "unsubscribeGroupState", group, *ack_id);
        }
    }
    w.finish()
}

fn variable_size(message: &Upstream<'_>) -> usize {
    match message {
        Upstream::SendToGroup(m) => {
            let payload = match &m.content {
                SendContent::Payload(payload) => payload_size(payload),
                SendContent::Stream { stream_id, .. } => stream_id.len(),
            };
            m.group.len() + payload + map_size(m.metadata.as_deref())
        }
        Upstream::Event(m) => payload_size(&m.payload) + map_size(m.metadata.as_deref()),
        Upstream::Invoke(m) => {
            m.payload.as_ref().map_or(0, payload_size) + map_size(m.metadata.as_deref())
        }
        Upstream::StreamData { payload, .. } => payload.as_ref().map_or(0, payload_size),
        Upstream::SetGroupState { group, state, .. } => group.len() + map_size(state.as_ref()),
        Upstream::InvokeResponse(m) => response_size(m),
        _ => 0,
    }
}

fn group_call(w: &mut Writer, kind: &str, group: &str, ack_id: Option<u64>) {
    w.str("type", kind).str("group", group).opt_plain("ackId", ack_id);
}

fn write_send(w: &mut Writer, m: &SendToGroup<'_>) {
    group_call(w, "sendToGroup", &m.group, m.ack_id);
    w.opt_plain("noEcho", m.no_echo.then_some(true));
    w.opt_plain("ttlSeconds", m.ttl_seconds).map("metadata", m.metadata.as_deref());
    match &m.content {
        SendContent::Payload(payload) => w.payload(payload),
        SendContent::Stream { stream_id, idle_timeout_ms } => w.object("stream", |w| {
            w.str("streamId", stream_id).opt_plain("idleTimeoutMs", *idle_timeout_ms);
        }),
    };
}

fn opt_payload(w: &mut Writer, payload: Option<&Payload>) {
    if let Some(payload) = payload {
        w.payload(payload);
    }
}

fn write_end_error(w: &mut Writer, error: Option<&StreamEndError>) {
    if let Some(error) = error {
        w.object("error", |w| {
            w.opt_str("message", error.message.as_deref());
            w.opt_str("userErrorCode", error.user_error_code.as_deref());
        });
    }
}
