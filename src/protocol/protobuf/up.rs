//! Client to service.
//!
//! Decoding is as strict as the service: it refuses what would end a connection there. A map has no
//! presence in protobuf, so metadata without entries is no metadata.

use std::borrow::Cow;

use prost::Message;

use super::super::{
    Frame, Invoke, Malformed, SendContent, SendEvent, SendToGroup, StreamEndError, Upstream, rules,
};
use super::wire::{self, Up, UpKind};
use super::{NOT_PROTOBUF, Why, bytes, frame, full, no_form, payload};
use crate::error::Result;
use crate::message::{Entries, Payload};

type Str = Cow<'static, str>;

/// Reads a frame.
pub(in super::super) fn decode(frame: &Frame) -> Result<Upstream<'static>, Malformed> {
    let up = Up::decode(bytes(frame)?.clone()).map_err(|_| Malformed::new(NOT_PROTOBUF))?;
    let kind = up.kind.ok_or_else(|| Malformed::new("no message of a known kind"))?;
    build(kind).map_err(Malformed::new)
}

/// Of a publication of our own.
pub(in super::super) fn group_of(frame: &bytes::Bytes) -> Option<String> {
    match Up::decode(frame.clone()).ok()?.kind? {
        UpKind::Publish(publication) => Some(publication.group),
        _ => None,
    }
}

fn build(kind: UpKind) -> Result<Upstream<'static>, Why> {
    Ok(match kind {
        UpKind::Publish(m) => Upstream::SendToGroup(publish(m)?),
        UpKind::Event(m) => Upstream::Event(event(m)?),
        UpKind::Join(m) => Upstream::JoinGroup { group: group(m.group)?, ack_id: m.ack_id },
        UpKind::Leave(m) => Upstream::LeaveGroup { group: group(m.group)?, ack_id: m.ack_id },
        UpKind::SequenceAck(m) => Upstream::SequenceAck { sequence_id: m.sequence_id },
        UpKind::Ping(_) => Upstream::Ping,
        UpKind::Invoke(m) => Upstream::Invoke(invoke(m)?),
        UpKind::Cancel(m) => {
            Upstream::CancelInvocation { invocation_id: invocation_id(m.invocation_id)? }
        }
        UpKind::StreamData(m) => stream_data(m)?,
        UpKind::StreamEnd(m) => Upstream::StreamEnd {
            stream_id: stream_id(m.stream_id)?,
            error: m.error.map(|e| StreamEndError {
                message: e.message.and_then(full),
                user_error_code: e.user_error_code.and_then(full),
            }),
        },
        UpKind::SetState(m) => Upstream::SetGroupState {
            group: group(m.group)?,
            ack_id: m.ack_id,
            state: m.state.map(|state| state.entries),
        },
        UpKind::Subscribe(m) => {
            Upstream::SubscribeGroupState { group: group(m.group)?, ack_id: m.ack_id }
        }
        UpKind::Unsubscribe(m) => {
            Upstream::UnsubscribeGroupState { group: group(m.group)?, ack_id: m.ack_id }
        }
    })
}

fn group(name: String) -> Result<Str, Why> {
    rules::group(&name)?;
    Ok(name.into())
}

fn stream_id(id: String) -> Result<Str, Why> {
    rules::stream_id(&id)?;
    Ok(id.into())
}

fn invocation_id(id: String) -> Result<Str, Why> {
    rules::invocation_id(&id)?;
    Ok(id.into())
}

fn metadata(map: Entries) -> Result<Option<Cow<'static, Entries>>, Why> {
    rules::metadata(&map)?;
    Ok(Some(map).filter(|map| !map.is_empty()).map(Cow::Owned))
}

fn data(data: wire::Payload) -> Result<Payload, Why> {
    payload::read(data)?.ok_or_else(|| "data of no known kind".into())
}

/// The payload of a message that must have one. Metadata alone will do: its text is then empty.
fn data_or_metadata(
    wire: Option<wire::Payload>,
    metadata: Option<&Cow<'_, Entries>>,
) -> Result<Payload, Why> {
    match wire {
        Some(wire) => data(wire),
        None if metadata.is_some() => Ok(Payload::from("")),
        None => Err("data is missing".into()),
    }
}

fn publish(m: wire::Publish) -> Result<SendToGroup<'static>, Why> {
    let metadata = metadata(m.metadata)?;
    if let Some(ttl) = m.ttl_seconds {
        rules::ttl_seconds(ttl)?;
    }
    let content = match (m.stream, m.data) {
        (Some(_), Some(_)) => return Err("the start of a stream has no data".into()),
        (Some(start), None) => {
            if let Some(ms) = start.idle_timeout_ms {
                rules::idle_timeout_ms(ms)?;
            }
            let stream_id = stream_id(start.stream_id)?;
            SendContent::Stream { stream_id, idle_timeout_ms: start.idle_timeout_ms }
        }
        (None, data) => SendContent::Payload(data_or_metadata(data, metadata.as_ref())?),
    };
    Ok(SendToGroup {
        group: group(m.group)?,
        ack_id: m.ack_id,
        no_echo: m.no_echo.unwrap_or(false),
        ttl_seconds: m.ttl_seconds,
        metadata,
        content,
    })
}

fn event(m: wire::Event) -> Result<SendEvent<'static>, Why> {
    if m.stream.is_some() {
        return Err("an event cannot start a stream".into());
    }
    rules::event(&m.event)?;
    let metadata = metadata(m.metadata)?;
    Ok(SendEvent {
        event: m.event.into(),
        ack_id: m.ack_id,
        payload: data_or_metadata(m.data, metadata.as_ref())?,
        metadata,
    })
}

fn invoke(m: wire::Invoke) -> Result<Invoke<'static>, Why> {
    if m.stream.is_some() {
        return Err("an invocation cannot start a stream".into());
    }
    rules::event(&m.event)?;
    Ok(Invoke {
        invocation_id: invocation_id(m.invocation_id)?,
        event: m.event.into(),
        metadata: metadata(m.metadata)?,
        payload: m.data.map(data).transpose()?,
    })
}

fn stream_data(m: wire::StreamData) -> Result<Upstream<'static>, Why> {
    let stream_id = stream_id(m.stream_id)?;
    if m.stream_sequence_id == Some(0) {
        return Err("the stream sequence id starts at 1".into());
    }
    if m.stream_sequence_id.is_some() != m.data.is_some() {
        return Err("the stream sequence id and the data go together".into());
    }
    let payload = m.data.map(data).transpose()?;
    Ok(Upstream::StreamData { stream_id, stream_sequence_id: m.stream_sequence_id, payload })
}

/// Writes a frame.
pub(in super::super) fn encode(message: &Upstream<'_>) -> Result<Frame> {
    let kind = match message {
        Upstream::JoinGroup { group, ack_id } => UpKind::Join(group_call(group, *ack_id)),
        Upstream::LeaveGroup { group, ack_id } => UpKind::Leave(group_call(group, *ack_id)),
        Upstream::SendToGroup(m) => UpKind::Publish(write_publish(m)?),
        Upstream::Event(m) => UpKind::Event(wire::Event {
            event: m.event.to_string(),
            data: Some(payload::write(&m.payload)?),
            ack_id: m.ack_id,
            metadata: write_map(m.metadata.as_deref()),
            stream: None,
        }),
        Upstream::Invoke(m) => UpKind::Invoke(wire::Invoke {
            event: m.event.to_string(),
            invocation_id: m.invocation_id.to_string(),
            data: m.payload.as_ref().map(payload::write).transpose()?,
            metadata: write_map(m.metadata.as_deref()),
            stream: None,
        }),
        Upstream::InvokeResponse(_) => return Err(no_form("invokeResponse")),
        Upstream::CancelInvocation { invocation_id } => {
            UpKind::Cancel(wire::Cancel { invocation_id: invocation_id.to_string() })
        }
        Upstream::SequenceAck { sequence_id } => {
            UpKind::SequenceAck(wire::SequenceAck { sequence_id: *sequence_id })
        }
        Upstream::Ping => UpKind::Ping(wire::Nothing {}),
        Upstream::StreamData { stream_id, stream_sequence_id, payload } => {
            UpKind::StreamData(wire::StreamData {
                stream_id: stream_id.to_string(),
                stream_sequence_id: *stream_sequence_id,
                data: payload.as_ref().map(payload::write).transpose()?,
            })
        }
        Upstream::StreamEnd { stream_id, error } => UpKind::StreamEnd(wire::StreamEnd {
            stream_id: stream_id.to_string(),
            error: error.as_ref().map(|error| wire::EndError {
                message: error.message.clone(),
                user_error_code: error.user_error_code.clone(),
            }),
        }),
        Upstream::SetGroupState { group, ack_id, state } => UpKind::SetState(wire::SetState {
            group: group.to_string(),
            ack_id: *ack_id,
            state: state.clone().map(|entries| wire::State { entries }),
        }),
        Upstream::SubscribeGroupState { group, ack_id } => {
            UpKind::Subscribe(group_call(group, *ack_id))
        }
        Upstream::UnsubscribeGroupState { group, ack_id } => {
            UpKind::Unsubscribe(group_call(group, *ack_id))
        }
    };
    Ok(frame(&Up { kind: Some(kind) }))
}

fn group_call(group: &str, ack_id: Option<u64>) -> wire::GroupCall {
    wire::GroupCall { group: group.to_owned(), ack_id }
}

fn write_map(map: Option<&Entries>) -> Entries {
    map.cloned().unwrap_or_default()
}

fn write_publish(m: &SendToGroup<'_>) -> Result<wire::Publish> {
    let (data, stream) = match &m.content {
        SendContent::Payload(payload) => (Some(payload::write(payload)?), None),
        SendContent::Stream { stream_id, idle_timeout_ms } => {
            let stream_id = stream_id.to_string();
            (None, Some(wire::StreamStart { stream_id, idle_timeout_ms: *idle_timeout_ms }))
        }
    };
    Ok(wire::Publish {
        group: m.group.to_string(),
        ack_id: m.ack_id,
        data,
        no_echo: m.no_echo.then_some(true),
        ttl_seconds: m.ttl_seconds,
        metadata: write_map(m.metadata.as_deref()),
        stream,
    })
}
