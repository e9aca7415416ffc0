//! Random messages of every kind, within the rules.

use std::sync::Arc;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::super::*;
use crate::message::{Metadata, RawJson, StreamFailure, StreamPart};

/// Any text, with all the characters that need care in JSON.
pub(super) fn text() -> impl Strategy<Value = String> {
    let odd =
        prop::sample::select(vec!['"', '\\', '\0', '\n', '\u{7f}', '\u{2028}', '🚀', ' ', '/']);
    vec(prop_oneof![any::<char>(), odd], 0..80).prop_map(String::from_iter)
}

/// Text that is neither empty nor blank, as names are.
fn name() -> impl Strategy<Value = String> {
    text().prop_map(|text| format!("{text}x"))
}

fn shared(text: impl Strategy<Value = String>) -> impl Strategy<Value = Arc<str>> {
    text.prop_map(Arc::from)
}

fn cow() -> impl Strategy<Value = Cow<'static, str>> {
    name().prop_map(Cow::Owned)
}

fn ascii(range: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    vec(prop::sample::select(b"abcXYZ019-_.".to_vec()), range)
        .prop_map(|bytes| bytes.into_iter().map(char::from).collect())
}

fn event() -> impl Strategy<Value = Cow<'static, str>> {
    ascii(0..128).prop_map(|tail| Cow::Owned(format!("e{tail}")))
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(1), Just(1 << 53), Just(u64::MAX), any::<u64>()]
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((text(), inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        text().prop_map(Payload::from),
        json().prop_map(|v| Payload::Json(RawJson::trusted(v.to_string().into()))),
        vec(any::<u8>(), 0..100).prop_map(Payload::from),
        any_message().prop_map(Payload::Protobuf),
    ]
}

/// What a client may send: no null.
fn sent() -> impl Strategy<Value = Payload> {
    let null =
        |payload: &Payload| matches!(payload, Payload::Json(json) if json.as_str() == "null");
    payload().prop_map(move |payload| if null(&payload) { Payload::from("null") } else { payload })
}

/// A serialized `google.protobuf.Any`, made by hand: its two fields, each shorter than 128 bytes.
fn any_message() -> impl Strategy<Value = Bytes> {
    (ascii(0..100), vec(any::<u8>(), 0..100)).prop_map(|(url, value)| {
        let mut out = vec![0x0a, url.len() as u8];
        out.extend(url.into_bytes());
        out.extend([0x12, value.len() as u8]);
        out.extend(value);
        Bytes::from(out)
    })
}

fn map() -> impl Strategy<Value = Entries> {
    btree_map(text(), text(), 0..4)
}

/// Metadata within the rules.
fn metadata() -> impl Strategy<Value = Option<Cow<'static, Entries>>> {
    option::of(btree_map(ascii(1..20), ascii(0..20), 0..4).prop_map(Cow::Owned))
}

fn error() -> impl Strategy<Value = NamedError> {
    (text(), option::of(name())).prop_map(|(name, message)| NamedError { name, message })
}

fn invoke_response() -> impl Strategy<Value = InvokeResponse> {
    (name(), option::of(sent()), option::of(error()), any::<bool>(), metadata()).prop_map(
        |(invocation_id, payload, error, success, metadata)| InvokeResponse {
            invocation_id,
            success,
            payload,
            error: error.filter(|_| !success),
            metadata: Metadata::of(metadata.map(Cow::into_owned)),
        },
    )
}

fn send_to_group() -> impl Strategy<Value = Upstream<'static>> {
    let content = prop_oneof![
        3 => sent().prop_map(SendContent::Payload),
        1 => (cow(), option::of(1..=u32::MAX)).prop_map(|(stream_id, idle_timeout_ms)| {
            SendContent::Stream { stream_id, idle_timeout_ms }
        }),
    ];
    let head = (cow(), option::of(number()), any::<bool>(), option::of(0..=300u32));
    (head, metadata(), content).prop_map(|(head, metadata, content)| {
        let (group, ack_id, no_echo, ttl_seconds) = head;
        Upstream::SendToGroup(SendToGroup {
            group,
            ack_id,
            no_echo,
            ttl_seconds,
            metadata,
            content,
        })
    })
}

fn upstream_call() -> impl Strategy<Value = Upstream<'static>> {
    (0..6, cow(), option::of(number()), option::of(map())).prop_map(
        |(kind, group, ack_id, state)| match kind {
            0 => Upstream::JoinGroup { group, ack_id },
            1 => Upstream::LeaveGroup { group, ack_id },
            2 => Upstream::SetGroupState { group, ack_id, state },
            3 => Upstream::SubscribeGroupState { group, ack_id },
            4 => Upstream::UnsubscribeGroupState { group, ack_id },
            _ => Upstream::CancelInvocation { invocation_id: group },
        },
    )
}

fn upstream_other() -> impl Strategy<Value = Upstream<'static>> {
    let end_error = (option::of(name()), option::of(name()))
        .prop_map(|(message, user_error_code)| StreamEndError { message, user_error_code });
    prop_oneof![
        (event(), option::of(number()), metadata(), sent()).prop_map(
            |(event, ack_id, metadata, payload)| {
                Upstream::Event(SendEvent { event, ack_id, metadata, payload })
            }
        ),
        (cow(), event(), metadata(), option::of(sent())).prop_map(
            |(invocation_id, event, metadata, payload)| {
                Upstream::Invoke(Invoke { invocation_id, event, metadata, payload })
            }
        ),
        invoke_response().prop_map(Upstream::InvokeResponse),
        number().prop_map(|sequence_id| Upstream::SequenceAck { sequence_id }),
        Just(Upstream::Ping),
        (cow(), option::of((1..=u64::MAX, sent()))).prop_map(|(stream_id, part)| {
            let (stream_sequence_id, payload) = part.unzip();
            Upstream::StreamData { stream_id, stream_sequence_id, payload }
        }),
        (cow(), option::of(end_error))
            .prop_map(|(stream_id, error)| Upstream::StreamEnd { stream_id, error }),
    ]
}

pub(super) fn upstream() -> impl Strategy<Value = Upstream<'static>> {
    prop_oneof![send_to_group(), upstream_call(), upstream_other()]
}

fn stream_part() -> impl Strategy<Value = StreamPart> {
    let failure = (text(), option::of(name()), option::of(name())).prop_map(
        |(name, message, user_error_code)| StreamFailure { name, message, user_error_code },
    );
    (name(), number(), any::<bool>(), option::of(failure)).prop_map(
        |(stream_id, stream_sequence_id, end_of_stream, error)| StreamPart {
            stream_id,
            stream_sequence_id,
            end_of_stream,
            error,
        },
    )
}

fn message() -> impl Strategy<Value = Downstream> {
    let sender = option::of((shared(name()), option::of(shared(name()))));
    let metadata = option::of(map()).prop_map(Metadata::of);
    let extras = (metadata, option::of(stream_part().prop_map(Box::new)));
    (sender, payload(), option::of(number()), extras).prop_map(
        |(sender, payload, sequence_id, (metadata, stream))| match sender {
            None => Downstream::ServerMessage(ServerMessage { payload, sequence_id, metadata }),
            Some((group, from_user_id)) => Downstream::GroupMessage(GroupMessage {
                group,
                from_user_id,
                payload,
                sequence_id,
                metadata,
                stream,
            }),
        },
    )
}

fn group_state() -> impl Strategy<Value = Downstream> {
    let item = (name(), option::of(name()), option::of(map()), any::<i64>()).prop_map(
        |(connection_id, user_id, state, updated_at)| GroupStateItem {
            connection_id,
            user_id,
            state,
            updated_at,
        },
    );
    (any::<bool>(), name(), vec(item, 0..4), option::of(number())).prop_map(
        |(snapshot, group, items, sequence_id)| match snapshot {
            true => Downstream::GroupStateSnapshot { group, items, sequence_id },
            false => Downstream::GroupStateUpdate { group, items, sequence_id },
        },
    )
}

fn control() -> impl Strategy<Value = Downstream> {
    prop_oneof![
        (name(), option::of(name()), option::of(name())).prop_map(
            |(connection_id, user_id, token)| {
                let reconnection_token = token.map(Secret::new);
                Downstream::Connected { connection_id, user_id, reconnection_token }
            }
        ),
        option::of(name()).prop_map(|message| Downstream::Disconnected { message }),
        (number(), any::<bool>(), option::of(error())).prop_map(|(ack_id, success, error)| {
            Downstream::Ack { ack_id, success, error: error.filter(|_| !success) }
        }),
        Just(Downstream::Pong),
        invoke_response().prop_map(|m| Downstream::InvokeResponse(Box::new(m))),
        name().prop_map(|invocation_id| Downstream::CancelInvocation { invocation_id }),
        (name(), number()).prop_map(|(stream_id, expected_sequence_id)| Downstream::StreamAck {
            stream_id,
            expected_sequence_id
        }),
        (name(), number(), error().prop_filter("a name", |e| !e.name.is_empty())).prop_map(
            |(stream_id, expected_sequence_id, NamedError { name, message })| {
                Downstream::StreamNack { stream_id, expected_sequence_id, name, message }
            }
        ),
        (name(), option::of(error()))
            .prop_map(|(stream_id, error)| Downstream::StreamClosed { stream_id, error }),
        (
            prop::sample::select(vec!["type", "from", "event", "dataType"]),
            ascii(0..50),
            option::of(number())
        )
            .prop_map(|(field, name, sequence_id)| Downstream::Unknown {
                what: format!("{field} new{name}"),
                sequence_id
            }),
    ]
}

pub(super) fn downstream() -> impl Strategy<Value = Downstream> {
    prop_oneof![message(), group_state(), control()]
}
