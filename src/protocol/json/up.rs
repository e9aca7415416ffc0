//! Client to service.
//!
//! Decoding is as strict as the service: it refuses what would end a connection there, and of a
//! repeated key the last counts. Null counts as absent for `ackId`, `ttlSeconds`, `metadata` and
//! `state`, where the service is known to do so, and inside streams and invocation answers, where
//! nothing is known.

mod encode;

pub(in super::super) use encode::encode;

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::super::{
    Frame, Invoke, InvokeResponse, Malformed, NamedError, SendContent, SendEvent, SendToGroup,
    StreamEndError, Upstream, rules,
};
use super::read::{DataType, Raw, Str, Why, object, payload, text};
use crate::message::{Entries, Metadata, Payload, Text};

/// Every field of every message, unread: which of them count depends on `type`.
#[derive(Default)]
struct Fields<'a> {
    /// Whether any field nests too deep, known ones or not.
    too_deep: bool,
    r#type: Raw<'a>,
    group: Raw<'a>,
    ack_id: Raw<'a>,
    no_echo: Raw<'a>,
    ttl_seconds: Raw<'a>,
    metadata: Raw<'a>,
    data_type: Raw<'a>,
    data: Raw<'a>,
    stream: Raw<'a>,
    event: Raw<'a>,
    invocation_id: Raw<'a>,
    target: Raw<'a>,
    success: Raw<'a>,
    error: Raw<'a>,
    sequence_id: Raw<'a>,
    stream_id: Raw<'a>,
    stream_sequence_id: Raw<'a>,
    state: Raw<'a>,
}

impl<'a> Fields<'a> {
    fn slot(&mut self, key: &str) -> Option<&mut Raw<'a>> {
        Some(match key {
            "type" => &mut self.r#type,
            "group" => &mut self.group,
            "ackId" => &mut self.ack_id,
            "noEcho" => &mut self.no_echo,
            "ttlSeconds" => &mut self.ttl_seconds,
            "metadata" => &mut self.metadata,
            "dataType" => &mut self.data_type,
            "data" => &mut self.data,
            "stream" => &mut self.stream,
            "event" => &mut self.event,
            "invocationId" => &mut self.invocation_id,
            "target" => &mut self.target,
            "success" => &mut self.success,
            "error" => &mut self.error,
            "sequenceId" => &mut self.sequence_id,
            "streamId" => &mut self.stream_id,
            "streamSequenceId" => &mut self.stream_sequence_id,
            "state" => &mut self.state,
            _ => return None,
        })
    }
}

/// Not derived, because a derived one refuses a key that is repeated.
impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Fields::default();
                while let Some((key, value)) = from.next_entry::<Str<'de>, Raw<'de>>()? {
                    let depth = value.json().map_or(Ok(()), rules::json_depth);
                    fields.too_deep |= depth.is_err();
                    if let Some(slot) = fields.slot(&key) {
                        *slot = value;
                    }
                }
                Ok(fields)
            }
        }
        from.deserialize_map(FieldsVisitor)
    }
}

/// Reads a frame.
pub(in super::super) fn decode(frame: &Frame) -> Result<Upstream<'static>, Malformed> {
    let text = text(frame)?;
    object::<Fields<'_>>(text).and_then(|f| build(text, &f)).map_err(Malformed::new)
}

/// Of a publication of our own.
pub(in super::super) fn group_of(frame: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Publication {
        group: String,
    }
    serde_json::from_str(frame).ok().map(|Publication { group }| group)
}

fn build(text: &Text, f: &Fields<'_>) -> Result<Upstream<'static>, Why> {
    if f.too_deep {
        return Err("the frame nests more than 64 objects and arrays in each other".into());
    }
    let mut kind: String = need(f.r#type, "type")?;
    kind.make_ascii_lowercase();
    // Looked at whatever the kind is, even if that has none.
    let ack_id = nullable(f.ack_id, "ackId")?;
    Ok(match kind.as_str() {
        "joingroup" => Upstream::JoinGroup { group: group(f)?, ack_id },
        "leavegroup" => Upstream::LeaveGroup { group: group(f)?, ack_id },
        "sendtogroup" => Upstream::SendToGroup(send_to_group(text, f, ack_id)?),
        "event" => Upstream::Event(send_event(text, f, ack_id)?),
        "invoke" => Upstream::Invoke(invoke(text, f)?),
        "invokeresponse" => Upstream::InvokeResponse(invoke_response(text, f)?),
        "cancelinvocation" => {
            Upstream::CancelInvocation { invocation_id: invocation_id(f)?.into() }
        }
        "sequenceack" => Upstream::SequenceAck { sequence_id: need(f.sequence_id, "sequenceId")? },
        "ping" => Upstream::Ping,
        "streamdata" => stream_data(text, f)?,
        "streamend" => {
            let stream_id = stream_id(f.stream_id)?;
            Upstream::StreamEnd { stream_id, error: end_error(f.error)? }
        }
        "setgroupstate" => {
            Upstream::SetGroupState { group: group(f)?, ack_id, state: nullable(f.state, "state")? }
        }
        "subscribegroupstate" => Upstream::SubscribeGroupState { group: group(f)?, ack_id },
        "unsubscribegroupstate" => Upstream::UnsubscribeGroupState { group: group(f)?, ack_id },
        _ => return Err("unknown type".into()),
    })
}

/// The value of a field, if the field is there; null is a wrong type.
fn get<'a, T: Deserialize<'a>>(raw: Raw<'a>, name: &str) -> Result<Option<T>, Why> {
    let parse = |json| {
        serde_json::from_str(json)
            .map_err(|_| Cow::Owned(format!("{name} is of the wrong type or out of range")))
    };
    raw.json().map(parse).transpose()
}

fn nullable<'a, T: Deserialize<'a>>(raw: Raw<'a>, name: &str) -> Result<Option<T>, Why> {
    if raw.not_null().is_some() { get(raw, name) } else { Ok(None) }
}

fn need<'a, T: Deserialize<'a>>(raw: Raw<'a>, name: &str) -> Result<T, Why> {
    get(raw, name)?.ok_or_else(|| format!("{name} is missing").into())
}

fn group(f: &Fields<'_>) -> Result<Cow<'static, str>, Why> {
    let group: String = need(f.group, "group")?;
    rules::group(&group)?;
    Ok(group.into())
}

fn event_name(f: &Fields<'_>) -> Result<Cow<'static, str>, Why> {
    let event: String = need(f.event, "event")?;
    rules::event(&event)?;
    Ok(event.into())
}

fn invocation_id(f: &Fields<'_>) -> Result<String, Why> {
    let id: String = need(f.invocation_id, "invocationId")?;
    rules::invocation_id(&id)?;
    Ok(id)
}

fn stream_id(raw: Raw<'_>) -> Result<Cow<'static, str>, Why> {
    let id: String = need(raw, "streamId")?;
    rules::stream_id(&id)?;
    Ok(id.into())
}

fn metadata(f: &Fields<'_>) -> Result<Option<Cow<'static, Entries>>, Why> {
    let Some(map) = nullable(f.metadata, "metadata")? else { return Ok(None) };
    rules::metadata(&map)?;
    Ok(Some(Cow::Owned(map)))
}

/// The payload, if there is `data`.
fn data(text: &Text, f: &Fields<'_>) -> Result<Option<Payload>, Why> {
    let kind = match get::<String>(f.data_type, "dataType")? {
        None => DataType::Json,
        Some(name) => DataType::from_name(&name).ok_or("unknown dataType")?,
    };
    let Some(data) = f.data.json() else { return Ok(None) };
    rules::json_is_not_null(data)?;
    payload(text, kind, data).map(Some)
}

/// The payload of a message that must have one. Metadata alone will do: its text is then empty.
fn data_or_metadata(text: &Text, f: &Fields<'_>, metadata: bool) -> Result<Payload, Why> {
    match data(text, f)? {
        Some(payload) => Ok(payload),
        None if metadata => Ok(Payload::from("")),
        None => Err("data is missing".into()),
    }
}

fn send_to_group(
    text: &Text,
    f: &Fields<'_>,
    ack_id: Option<u64>,
) -> Result<SendToGroup<'static>, Why> {
    let metadata = metadata(f)?;
    let ttl_seconds = nullable(f.ttl_seconds, "ttlSeconds")?;
    if let Some(ttl) = ttl_seconds {
        rules::ttl_seconds(ttl)?;
    }
    let content = match f.stream.not_null() {
        Some(_) if f.data.json().is_some() || f.data_type.json().is_some() => {
            return Err("the start of a stream has no data".into());
        }
        Some(stream) => stream_start(stream)?,
        None => SendContent::Payload(data_or_metadata(text, f, metadata.is_some())?),
    };
    Ok(SendToGroup {
        group: group(f)?,
        ack_id,
        no_echo: get(f.no_echo, "noEcho")?.unwrap_or(false),
        ttl_seconds,
        metadata,
        content,
    })
}

fn stream_start(json: &str) -> Result<SendContent<'static>, Why> {
    #[derive(Deserialize, Default)]
    #[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
    struct Start<'a> {
        stream_id: Raw<'a>,
        idle_timeout_ms: Option<u32>,
    }
    let start: Start<'_> = object(json)?;
    if let Some(ms) = start.idle_timeout_ms {
        rules::idle_timeout_ms(ms)?;
    }
    let stream_id = stream_id(start.stream_id)?;
    Ok(SendContent::Stream { stream_id, idle_timeout_ms: start.idle_timeout_ms })
}

fn send_event(text: &Text, f: &Fields<'_>, ack_id: Option<u64>) -> Result<SendEvent<'static>, Why> {
    if f.stream.not_null().is_some() {
        return Err("an event cannot start a stream".into());
    }
    let metadata = metadata(f)?;
    Ok(SendEvent {
        event: event_name(f)?,
        ack_id,
        payload: data_or_metadata(text, f, metadata.is_some())?,
        metadata,
    })
}

fn invoke(text: &Text, f: &Fields<'_>) -> Result<Invoke<'static>, Why> {
    if need::<String>(f.target, "target")? != "event" {
        return Err("target is not `event`".into());
    }
    if f.data.json().is_some() != f.data_type.json().is_some() {
        return Err("dataType and data go together".into());
    }
    Ok(Invoke {
        invocation_id: invocation_id(f)?.into(),
        event: event_name(f)?,
        metadata: metadata(f)?,
        payload: data(text, f)?,
    })
}

fn invoke_response(text: &Text, f: &Fields<'_>) -> Result<InvokeResponse, Why> {
    #[derive(Deserialize)]
    struct Body {
        name: String,
        message: Option<String>,
    }
    let success: bool = need(f.success, "success")?;
    let error = match f.error.not_null() {
        Some(json) if !success => Some(object(json)?),
        _ => None,
    };
    let error = error.map(|Body { name, message }| NamedError { name, message: full(message) });
    let invocation_id = invocation_id(f)?;
    let metadata = Metadata::of(metadata(f)?.map(Cow::into_owned));
    Ok(InvokeResponse { invocation_id, success, payload: data(text, f)?, error, metadata })
}

fn stream_data(text: &Text, f: &Fields<'_>) -> Result<Upstream<'static>, Why> {
    let stream_id = stream_id(f.stream_id)?;
    let stream_sequence_id = get(f.stream_sequence_id, "streamSequenceId")?;
    let payload = data(text, f)?;
    if stream_sequence_id == Some(0) {
        return Err("streamSequenceId starts at 1".into());
    }
    if stream_sequence_id.is_some() != payload.is_some()
        || (payload.is_none() && f.data_type.json().is_some())
    {
        return Err("streamSequenceId, dataType and data go together".into());
    }
    Ok(Upstream::StreamData { stream_id, stream_sequence_id, payload })
}

fn end_error(raw: Raw<'_>) -> Result<Option<StreamEndError>, Why> {
    #[derive(Deserialize, Default)]
    #[serde(default, rename_all = "camelCase")]
    struct Body {
        message: Option<String>,
        user_error_code: Option<String>,
    }
    let Some(json) = raw.not_null() else { return Ok(None) };
    let Body { message, user_error_code } = object(json)?;
    Ok(Some(StreamEndError { message: full(message), user_error_code: full(user_error_code) }))
}

/// An empty string counts as absent.
fn full(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}
