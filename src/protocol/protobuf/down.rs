//! Service to client.

use bytes::Bytes;
use prost::Message;

use super::super::{
    Downstream, Frame, GroupStateItem, InvokeResponse, Malformed, NamedError, Names,
};
use super::wire::{self, Down, DownKind, Remains, SystemKind};
use super::{NOT_PROTOBUF, Why, bytes, frame, full, need, no_form, payload, text};
use crate::error::Result;
use crate::message::{
    Entries, GroupMessage, Metadata, Payload, ServerMessage, StreamFailure, StreamPart,
};
use crate::secret::Secret;

/// What is said about a message, system event or payload of a number that we do not know. JSON
/// frames name theirs; here the number is all there would be, and prost skips it.
const NEW: &str = "(new)";

/// Reads a frame.
pub(in super::super) fn decode(names: &mut Names, frame: &Frame) -> Result<Downstream, Malformed> {
    let bytes = bytes(frame)?;
    let down = Down::decode(bytes.clone()).map_err(|_| second_look(bytes, NOT_PROTOBUF.into()))?;
    let Some(kind) = down.kind else { return Ok(unknown("type", NEW, None)) };
    build(names, kind).map_err(|why| second_look(bytes, why))
}

/// A message with a bad field still tells its number, or which invocation it answers, if that is
/// before what cannot be skipped.
#[cold]
fn second_look(bytes: &Bytes, why: Why) -> Malformed {
    let mut remains = Remains::default();
    // What was read before an error stays.
    let _ = remains.merge(bytes.clone());
    let data = remains.data.and_then(|m| m.sequence_id);
    let states = [remains.state_update, remains.state_snapshot];
    let number = data.or_else(|| states.into_iter().flatten().find_map(|m| m.sequence_id));
    Malformed {
        // A number that could not be read itself leaves a 0; real ones start at 1.
        sequence_id: number.filter(|id| *id > 0),
        invocation_id: remains.invoke_response.and_then(|m| full(m.invocation_id)),
        ..Malformed::new(why)
    }
}

fn unknown(field: &str, value: &str, sequence_id: Option<u64>) -> Downstream {
    // It goes to logs, so not all of it if it is long.
    const SHOWN: usize = 64;
    let shown: String = value.chars().take(SHOWN).collect();
    Downstream::Unknown { what: format!("{field} {shown}"), sequence_id }
}

fn build(names: &mut Names, kind: DownKind) -> Result<Downstream, Why> {
    Ok(match kind {
        DownKind::Ack(m) => {
            let error = m.error.filter(|_| !m.success).map(named_error);
            Downstream::Ack { ack_id: m.ack_id, success: m.success, error }
        }
        DownKind::Data(m) => return message(names, m),
        DownKind::System(m) => return system(m),
        DownKind::Pong(_) => Downstream::Pong,
        DownKind::InvokeResponse(m) => Downstream::InvokeResponse(Box::new(invoke_response(m)?)),
        DownKind::StreamAck(m) => Downstream::StreamAck {
            stream_id: stream_id(m.stream_id)?,
            expected_sequence_id: m.expected_sequence_id,
        },
        DownKind::StreamNack(m) => {
            need(&m.name, "the name is missing")?;
            Downstream::StreamNack {
                stream_id: stream_id(m.stream_id)?,
                expected_sequence_id: m.expected_sequence_id,
                name: m.name,
                message: full(m.message),
            }
        }
        DownKind::StreamClosed(m) => Downstream::StreamClosed {
            stream_id: stream_id(m.stream_id)?,
            error: m.error.map(named_error),
        },
        DownKind::StateUpdate(m) => {
            let (group, items, sequence_id) = states(m)?;
            Downstream::GroupStateUpdate { group, items, sequence_id }
        }
        DownKind::StateSnapshot(m) => {
            let (group, items, sequence_id) = states(m)?;
            Downstream::GroupStateSnapshot { group, items, sequence_id }
        }
    })
}

fn stream_id(id: String) -> Result<String, Why> {
    need(&id, "the stream id is missing")?;
    Ok(id)
}

/// An error without a name is kept: it still ends somebody's waiting.
fn named_error(error: wire::NamedError) -> NamedError {
    NamedError { name: error.name, message: full(error.message) }
}

fn system(m: wire::System) -> Result<Downstream, Why> {
    Ok(match m.kind {
        None => unknown("event", NEW, None),
        Some(SystemKind::Connected(m)) => {
            need(&m.connection_id, "the connection id is missing")?;
            Downstream::Connected {
                connection_id: m.connection_id,
                user_id: full(m.user_id),
                reconnection_token: m.reconnection_token.and_then(full).map(Secret::new),
            }
        }
        Some(SystemKind::Disconnected(m)) => Downstream::Disconnected { message: full(m.reason) },
    })
}

fn message(names: &mut Names, m: wire::Data) -> Result<Downstream, Why> {
    let sequence_id = m.sequence_id;
    let from_group = match text(&m.from)? {
        "group" => true,
        "server" => false,
        "" => return Err("from is missing".into()),
        other => return Ok(unknown("from", other, sequence_id)),
    };
    let stream = m.stream.filter(|_| from_group).map(|part| stream_part(*part)).transpose()?;
    let payload = match m.data {
        Some(data) => payload::read(data)?,
        // The last message of a stream may have none.
        None if stream.as_ref().is_some_and(|s| s.end_of_stream) => Some(Payload::from("")),
        None => None,
    };
    let Some(payload) = payload else { return Ok(unknown("dataType", NEW, sequence_id)) };
    let metadata = Metadata::of(Some(m.metadata).filter(|map| !map.is_empty()));
    if !from_group {
        return Ok(Downstream::ServerMessage(ServerMessage { payload, sequence_id, metadata }));
    }
    let group = need(text(&m.group.unwrap_or_default())?, "the group is missing")
        .map(|group| names.intern(group))?;
    Ok(Downstream::GroupMessage(GroupMessage {
        group,
        from_user_id: None, // has no field
        payload,
        sequence_id,
        metadata,
        stream: stream.map(Box::new),
    }))
}

fn stream_part(part: wire::StreamInfo) -> Result<StreamPart, Why> {
    Ok(StreamPart {
        stream_id: stream_id(part.stream_id)?,
        stream_sequence_id: part.stream_sequence_id,
        end_of_stream: part.end_of_stream.unwrap_or(false),
        error: part.error.map(|error| StreamFailure {
            name: error.name,
            message: full(error.message),
            user_error_code: full(error.user_error_code),
        }),
    })
}

fn invoke_response(m: wire::InvokeResponse) -> Result<InvokeResponse, Why> {
    need(&m.invocation_id, "the invocation id is missing")?;
    let payload = |data| payload::read(data)?.ok_or_else(|| Why::from("data of no known kind"));
    Ok(InvokeResponse {
        invocation_id: m.invocation_id,
        success: m.success,
        payload: m.data.map(payload).transpose()?,
        error: m.error.filter(|_| !m.success).map(named_error),
        metadata: Metadata::of(Some(m.metadata).filter(|map| !map.is_empty())),
    })
}

type States = (String, Vec<GroupStateItem>, Option<u64>);

fn states(m: wire::States) -> Result<States, Why> {
    need(&m.group, "the group is missing")?;
    let items = m.items.into_iter().map(|item| {
        need(&item.connection_id, "the connection id is missing")?;
        Ok(GroupStateItem {
            connection_id: item.connection_id,
            user_id: item.user_id.and_then(full),
            state: item.state.map(|state| state.entries),
            updated_at: item.updated_at,
        })
    });
    Ok((m.group, items.collect::<Result<_, Why>>()?, m.sequence_id))
}

/// Writes a frame.
pub(in super::super) fn encode(message: &Downstream) -> Result<Frame> {
    let kind = match message {
        Downstream::Connected { connection_id, user_id, reconnection_token } => {
            write_system(SystemKind::Connected(wire::Connected {
                connection_id: connection_id.clone(),
                user_id: user_id.clone().unwrap_or_default(),
                reconnection_token: reconnection_token.as_ref().map(|t| t.expose().to_owned()),
            }))
        }
        Downstream::Disconnected { message } => {
            let reason = message.clone().unwrap_or_default();
            write_system(SystemKind::Disconnected(wire::Disconnected { reason }))
        }
        Downstream::Ack { ack_id, success, error } => DownKind::Ack(wire::Ack {
            ack_id: *ack_id,
            success: *success,
            error: error.as_ref().filter(|_| !success).map(write_error),
        }),
        Downstream::GroupMessage(m) => write_group_message(m, Some(&m.payload))?,
        Downstream::ServerMessage(m) => DownKind::Data(wire::Data {
            from: Bytes::from_static(b"server"),
            data: Some(payload::write(&m.payload)?),
            sequence_id: m.sequence_id,
            metadata: write_map(m.metadata.entries()),
            ..wire::Data::default()
        }),
        Downstream::Pong => DownKind::Pong(wire::Nothing {}),
        Downstream::InvokeResponse(m) => DownKind::InvokeResponse(wire::InvokeResponse {
            invocation_id: m.invocation_id.clone(),
            success: m.success,
            data: m.payload.as_ref().map(payload::write).transpose()?,
            error: m.error.as_ref().filter(|_| !m.success).map(write_error),
            metadata: write_map(m.metadata.entries()),
        }),
        Downstream::CancelInvocation { .. } => return Err(no_form("cancelInvocation")),
        Downstream::GroupStateSnapshot { group, items, sequence_id } => {
            DownKind::StateSnapshot(write_states(group, items, *sequence_id))
        }
        Downstream::GroupStateUpdate { group, items, sequence_id } => {
            DownKind::StateUpdate(write_states(group, items, *sequence_id))
        }
        Downstream::Unknown { what, sequence_id } => {
            return Ok(frame(&Down { kind: unknown_again(what, *sequence_id) }));
        }
        Downstream::StreamAck { stream_id, expected_sequence_id } => {
            DownKind::StreamAck(wire::StreamAck {
                stream_id: stream_id.clone(),
                expected_sequence_id: *expected_sequence_id,
            })
        }
        Downstream::StreamNack { stream_id, expected_sequence_id, name, message } => {
            DownKind::StreamNack(wire::StreamNack {
                stream_id: stream_id.clone(),
                name: name.clone(),
                message: message.clone().unwrap_or_default(),
                expected_sequence_id: *expected_sequence_id,
            })
        }
        Downstream::StreamClosed { stream_id, error } => {
            let error = error.as_ref().map(write_error);
            DownKind::StreamClosed(wire::StreamClosed { stream_id: stream_id.clone(), error })
        }
    };
    Ok(frame(&Down { kind: Some(kind) }))
}

/// The last message of a stream without a payload.
#[cfg_attr(not(feature = "emulator"), allow(dead_code))]
pub(in super::super) fn encode_bare_end(message: &GroupMessage) -> Result<Frame> {
    Ok(frame(&Down { kind: Some(write_group_message(message, None)?) }))
}

fn write_group_message(m: &GroupMessage, payload: Option<&Payload>) -> Result<DownKind> {
    Ok(DownKind::Data(wire::Data {
        from: Bytes::from_static(b"group"),
        group: Some(Bytes::copy_from_slice(m.group.as_bytes())),
        data: payload.map(payload::write).transpose()?,
        sequence_id: m.sequence_id,
        metadata: write_map(m.metadata.entries()),
        stream: m.stream.as_deref().map(|part| Box::new(write_part(part))),
    }))
}

fn write_system(kind: SystemKind) -> DownKind {
    DownKind::System(wire::System { kind: Some(kind) })
}

fn write_error(error: &NamedError) -> wire::NamedError {
    let message = error.message.clone().unwrap_or_default();
    wire::NamedError { name: error.name.clone(), message }
}

fn write_map(map: Option<&Entries>) -> Entries {
    map.cloned().unwrap_or_default()
}

fn write_part(part: &StreamPart) -> wire::StreamInfo {
    wire::StreamInfo {
        stream_id: part.stream_id.clone(),
        stream_sequence_id: part.stream_sequence_id,
        end_of_stream: part.end_of_stream.then_some(true),
        error: part.error.as_ref().map(|error| wire::StreamError {
            name: error.name.clone(),
            message: error.message.clone().unwrap_or_default(),
            user_error_code: error.user_error_code.clone().unwrap_or_default(),
        }),
    }
}

fn write_states(group: &str, items: &[GroupStateItem], sequence_id: Option<u64>) -> wire::States {
    let items = items.iter().map(|item| wire::StateItem {
        connection_id: item.connection_id.clone(),
        user_id: item.user_id.clone(),
        state: item.state.clone().map(|entries| wire::State { entries }),
        updated_at: item.updated_at,
    });
    wire::States { group: group.to_owned(), items: items.collect(), sequence_id }
}

/// A frame that reads as unknown in the same way, so that an emulator can send what is unknown.
fn unknown_again(what: &str, sequence_id: Option<u64>) -> Option<DownKind> {
    let data = |from: &str| {
        let from = Bytes::copy_from_slice(from.as_bytes());
        Some(DownKind::Data(wire::Data { from, sequence_id, ..wire::Data::default() }))
    };
    match what.split_once(' ') {
        Some(("from", from)) => data(from),
        Some(("dataType", _)) => data("server"),
        Some(("event", _)) => Some(DownKind::System(wire::System { kind: None })),
        _ => None,
    }
}
