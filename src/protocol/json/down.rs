//! Service to client.

mod encode;

pub(in super::super) use encode::{encode, encode_bare_end};
pub(super) use encode::{response_fields, response_size};

use std::borrow::Cow;

use serde::Deserialize;

use super::super::{
    Downstream, Frame, GroupStateItem, InvokeResponse, Malformed, NamedError, Names,
};
use super::read::{DataType, Raw, Str, Why, object, payload, text};
use crate::message::{
    Entries, GroupMessage, Metadata, Payload, ServerMessage, StreamFailure, StreamPart, Text,
};
use crate::secret::Secret;

/// The fields of messages and acks, which come by the thousand. Of other kinds only the kind and
/// the number are read here; a second look at the frame reads the rest. (Each field costs time in
/// every frame, whether it is there or not.) What may be of another form in a kind that we do not
/// know stays raw until then.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct Flat<'a> {
    #[serde(rename = "type")]
    kind: Str<'a>,
    from: Str<'a>,
    sequence_id: Option<u64>,
    group: Str<'a>,
    from_user_id: Str<'a>,
    data_type: Str<'a>,
    data: Raw<'a>,
    metadata: Raw<'a>,
    stream: Raw<'a>,
    ack_id: Option<u64>,
    success: Option<bool>,
    error: Raw<'a>,
}

/// The fields of all other kinds.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct Rare<'a> {
    event: Str<'a>,
    connection_id: Str<'a>,
    user_id: Str<'a>,
    reconnection_token: Str<'a>,
    message: Str<'a>,
    invocation_id: Str<'a>,
    stream_id: Str<'a>,
    expected_sequence_id: Option<u64>,
    name: Str<'a>,
    group: Str<'a>,
    items: Raw<'a>,
}

/// Reads a frame.
pub(in super::super) fn decode(names: &mut Names, frame: &Frame) -> Result<Downstream, Malformed> {
    let text = text(frame)?;
    let flat: Flat<'_> = match object(text) {
        Ok(flat) => flat,
        Err(why) => return second_look(names, text, why),
    };
    let sequence_id = flat.sequence_id;
    build(names, text, flat).map_err(|why| malformed(text, sequence_id, why))
}

/// Which invocation a frame answers is looked for only when nothing else is left of it.
#[cold]
fn malformed(text: &Text, sequence_id: Option<u64>, why: Why) -> Malformed {
    #[derive(Deserialize, Default)]
    #[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
    struct Probe<'a> {
        r#type: Raw<'a>,
        invocation_id: Raw<'a>,
    }
    let probe: Probe<'_> = object(text).unwrap_or_default();
    let answers = &*lenient::<Str<'_>>(probe.r#type) == "invokeResponse";
    let invocation_id = lenient::<Str<'_>>(probe.invocation_id).owned().filter(|_| answers);
    Malformed { sequence_id, invocation_id, ..Malformed::new(why) }
}

/// A frame with a field of the wrong type may still be of a kind that we do not know, and still
/// tells its number.
fn second_look(names: &mut Names, text: &Text, why: Why) -> Result<Downstream, Malformed> {
    #[derive(Deserialize, Default)]
    #[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
    struct Probe<'a> {
        r#type: Raw<'a>,
        from: Raw<'a>,
        data_type: Raw<'a>,
        sequence_id: Raw<'a>,
    }
    let Ok(probe) = object::<Probe<'_>>(text) else { return Err(Malformed::new(why)) };
    let flat = Flat {
        kind: lenient(probe.r#type),
        from: lenient(probe.from),
        data_type: lenient(probe.data_type),
        sequence_id: lenient(probe.sequence_id),
        ..Flat::default()
    };
    let sequence_id = flat.sequence_id;
    match build(names, text, flat) {
        Ok(known @ (Downstream::Unknown { .. } | Downstream::Pong)) => Ok(known),
        _ => Err(malformed(text, sequence_id, why)),
    }
}

/// The value, or none if it is of another type.
fn lenient<'a, T: Deserialize<'a> + Default>(raw: Raw<'a>) -> T {
    raw.json().and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
}

fn build(names: &mut Names, text: &Text, flat: Flat<'_>) -> Result<Downstream, Why> {
    match &*flat.kind {
        "message" => message(names, text, flat),
        "ack" => ack(flat),
        "pong" => Ok(Downstream::Pong),
        "" => Err("type is missing".into()),
        _ => rare(text, flat),
    }
}

fn rare(text: &Text, flat: Flat<'_>) -> Result<Downstream, Why> {
    let sequence_id = flat.sequence_id;
    if &*flat.kind == "invokeResponse" {
        return invoke_response(text, flat);
    }
    let more = || object::<Rare<'_>>(text);
    Ok(match &*flat.kind {
        "system" => match more() {
            Ok(more) => return system(more, sequence_id),
            Err(why) => unknown_event(text, sequence_id).ok_or(why)?,
        },
        "streamAck" => {
            let more = more()?;
            Downstream::StreamAck {
                expected_sequence_id: expected(&more)?,
                stream_id: more.stream_id.need("streamId is missing")?.into(),
            }
        }
        "streamNack" => {
            let more = more()?;
            Downstream::StreamNack {
                stream_id: more.stream_id.need("streamId is missing")?.into(),
                expected_sequence_id: expected(&more)?,
                name: more.name.need("name is missing")?.into(),
                message: more.message.owned(),
            }
        }
        "streamClosed" => Downstream::StreamClosed {
            stream_id: more()?.stream_id.need("streamId is missing")?.into(),
            error: named_error(flat.error)?,
        },
        "cancelInvocation" => Downstream::CancelInvocation {
            invocation_id: more()?.invocation_id.need("invocationId is missing")?.into(),
        },
        "groupStateSnapshot" => {
            let (group, items) = group_state_parts(&more()?)?;
            Downstream::GroupStateSnapshot { group, items, sequence_id }
        }
        "groupStateUpdate" => {
            let (group, items) = group_state_parts(&more()?)?;
            Downstream::GroupStateUpdate { group, items, sequence_id }
        }
        other => unknown("type", other, sequence_id),
    })
}

/// A system event that we do not know may have fields of other types.
fn unknown_event(text: &Text, sequence_id: Option<u64>) -> Option<Downstream> {
    #[derive(Deserialize, Default)]
    #[serde(default, bound(deserialize = "'de: 'a"))]
    struct Probe<'a> {
        event: Raw<'a>,
    }
    let event: Str<'_> = lenient(object::<Probe<'_>>(text).ok()?.event);
    let known = matches!(&*event, "" | "connected" | "disconnected");
    (!known).then(|| unknown("event", &event, sequence_id))
}

fn group_state_parts(more: &Rare<'_>) -> Result<(String, Vec<GroupStateItem>), Why> {
    Ok((more.group.need("group is missing")?.into(), state_items(more.items)?))
}

fn unknown(field: &str, value: &str, sequence_id: Option<u64>) -> Downstream {
    // It goes to logs, so not all of it if it is long.
    const SHOWN: usize = 64;
    let shown: String = value.chars().take(SHOWN).collect();
    Downstream::Unknown { what: format!("{field} {shown}"), sequence_id }
}

fn system(more: Rare<'_>, sequence_id: Option<u64>) -> Result<Downstream, Why> {
    match &*more.event {
        "connected" => Ok(Downstream::Connected {
            connection_id: more.connection_id.need("connectionId is missing")?.into(),
            user_id: more.user_id.owned(),
            reconnection_token: more.reconnection_token.owned().map(Secret::new),
        }),
        "disconnected" => Ok(Downstream::Disconnected { message: more.message.owned() }),
        "" => Err("event is missing".into()),
        other => Ok(unknown("event", other, sequence_id)),
    }
}

fn ack(flat: Flat<'_>) -> Result<Downstream, Why> {
    let ack_id = flat.ack_id.ok_or("ackId is missing")?;
    let success = flat.success.ok_or("success is missing")?;
    let error = if success { None } else { lenient_error(flat.error) };
    Ok(Downstream::Ack { ack_id, success, error })
}

fn message(names: &mut Names, text: &Text, flat: Flat<'_>) -> Result<Downstream, Why> {
    let from_group = match &*flat.from {
        "group" => true,
        "server" => false,
        "" => return Err("from is missing".into()),
        other => return Ok(unknown("from", other, flat.sequence_id)),
    };
    let Some(kind) = data_type(&flat) else {
        return Ok(unknown("dataType", &flat.data_type, flat.sequence_id));
    };
    let stream = if from_group { stream_part(flat.stream)? } else { None };
    let payload = match flat.data.json() {
        Some(data) => payload(text, kind, data)?,
        // The last message of a stream may have none.
        None if stream.as_ref().is_some_and(|s| s.end_of_stream) => Payload::from(""),
        None => return Err("data is missing".into()),
    };
    let metadata = Metadata::of(string_map(flat.metadata)?);
    let sequence_id = flat.sequence_id;
    if !from_group {
        return Ok(Downstream::ServerMessage(ServerMessage { payload, sequence_id, metadata }));
    }
    Ok(Downstream::GroupMessage(GroupMessage {
        group: names.intern(flat.group.need("group is missing")?),
        from_user_id: flat.from_user_id.some().map(|user| names.intern(user)),
        payload,
        sequence_id,
        metadata,
        stream,
    }))
}

fn data_type(flat: &Flat<'_>) -> Option<DataType> {
    flat.data_type.some().map_or(Some(DataType::Json), DataType::from_name)
}

fn stream_part(raw: Raw<'_>) -> Result<Option<Box<StreamPart>>, Why> {
    #[derive(Deserialize, Default)]
    #[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
    struct Part<'a> {
        stream_id: Str<'a>,
        stream_sequence_id: Option<u64>,
        end_of_stream: Option<bool>,
        error: Raw<'a>,
    }
    let Some(json) = raw.not_null() else { return Ok(None) };
    let part: Part<'_> = object(json)?;
    Ok(Some(Box::new(StreamPart {
        stream_id: part.stream_id.need("streamId is missing")?.into(),
        stream_sequence_id: part.stream_sequence_id.ok_or("streamSequenceId is missing")?,
        end_of_stream: part.end_of_stream.unwrap_or(false),
        error: match part.error.not_null() {
            None => None,
            Some(json) => {
                let ErrorBody { name, message, user_error_code } = object(json)?;
                Some(StreamFailure {
                    name: name.owned().unwrap_or_default(),
                    message: message.owned(),
                    user_error_code: user_error_code.owned(),
                })
            }
        },
    })))
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct ErrorBody<'a> {
    name: Str<'a>,
    message: Str<'a>,
    user_error_code: Str<'a>,
}

/// An error without a name is kept: it still ends somebody's waiting.
fn named_error(raw: Raw<'_>) -> Result<Option<NamedError>, Why> {
    let Some(json) = raw.not_null() else { return Ok(None) };
    let body: ErrorBody<'_> = object(json)?;
    Ok(Some(NamedError {
        name: body.name.owned().unwrap_or_default(),
        message: body.message.owned(),
    }))
}

/// The error of an ack or of an invocation's answer, whatever its form: a call must not wait in vain
/// because of it. A string alone is the message, and fields of other types are absent.
fn lenient_error(raw: Raw<'_>) -> Option<NamedError> {
    #[derive(Deserialize, Default)]
    #[serde(default, bound(deserialize = "'de: 'a"))]
    struct Probe<'a> {
        name: Raw<'a>,
        message: Raw<'a>,
    }
    if let Ok(error) = named_error(raw) {
        return error;
    }
    let alone: Str<'_> = lenient(raw);
    let probe: Probe<'_> = raw.json().and_then(|json| object(json).ok()).unwrap_or_default();
    Some(NamedError {
        name: lenient::<Str<'_>>(probe.name).owned().unwrap_or_default(),
        message: alone.owned().or(lenient::<Str<'_>>(probe.message).owned()),
    })
}

fn string_map(raw: Raw<'_>) -> Result<Option<Entries>, Why> {
    raw.not_null().map(object).transpose()
}

fn expected(more: &Rare<'_>) -> Result<u64, Why> {
    more.expected_sequence_id.ok_or(Cow::Borrowed("expectedSequenceId is missing"))
}

/// Whatever answers a call must end it, so what is missing is a failure, and what cannot be read is
/// malformed with the call's id.
fn invoke_response(text: &Text, flat: Flat<'_>) -> Result<Downstream, Why> {
    let more: Rare<'_> = object(text)?;
    let invocation_id = more.invocation_id.need("invocationId is missing")?.into();
    let kind = data_type(&flat).ok_or("the dataType is unknown")?;
    let success = flat.success.unwrap_or(false);
    let payload = flat.data.json().map(|data| payload(text, kind, data)).transpose()?;
    let error = if success { None } else { lenient_error(flat.error) };
    let metadata = Metadata::of(string_map(flat.metadata)?);
    let response = InvokeResponse { invocation_id, success, payload, error, metadata };
    Ok(Downstream::InvokeResponse(Box::new(response)))
}

fn state_items(raw: Raw<'_>) -> Result<Vec<GroupStateItem>, Why> {
    let json = raw.not_null().ok_or("items is missing")?;
    let items: Vec<Raw<'_>> = serde_json::from_str(json).map_err(|_| "items is not an array")?;
    items.into_iter().map(state_item).collect()
}

fn state_item(raw: Raw<'_>) -> Result<GroupStateItem, Why> {
    #[derive(Deserialize, Default)]
    #[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
    struct Item<'a> {
        connection_id: Str<'a>,
        user_id: Str<'a>,
        state: Raw<'a>,
        updated_at: Option<i64>,
    }
    let item: Item<'_> = object(raw.json().unwrap_or_default())?;
    Ok(GroupStateItem {
        connection_id: item.connection_id.need("connectionId is missing")?.into(),
        user_id: item.user_id.owned(),
        state: string_map(item.state)?,
        updated_at: item.updated_at.ok_or("updatedAt is missing")?,
    })
}
