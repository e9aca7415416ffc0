//! Random messages, each as a JSON frame (which gives the message) and as the fields that its
//! protobuf form must have, in the names of `webpubsub.proto`. The two are written side by side
//! here, so neither codec is asked what the other should do.

use data_encoding::BASE64;
use serde_json::{Map, Value, json};

use crate::fuzz_decode::Random;

pub(super) struct Case {
    /// The message in the JSON subprotocol.
    pub(super) json: Value,
    /// The same in protobuf.
    pub(super) fields: Value,
}

type Object = Map<String, Value>;

/// Puts one value into both forms; what is null is left out.
struct Both<'a> {
    json: &'a mut Object,
    fields: &'a mut Object,
}

impl Both<'_> {
    fn put(&mut self, json_name: &str, name: &str, value: Value) {
        self.put_both(json_name, value.clone(), name, value);
    }

    fn put_both(&mut self, json_name: &str, json: Value, name: &str, value: Value) {
        if !json.is_null() {
            self.json.insert(json_name.to_owned(), json);
        }
        if !value.is_null() {
            self.fields.insert(name.to_owned(), value);
        }
    }

    /// A 64-bit number: a number in JSON, a decimal string in `fields`.
    fn number(&mut self, json_name: &str, name: &str, number: Option<u64>) {
        let text = number.map(|n| n.to_string());
        self.put_both(json_name, json!(number), name, json!(text));
    }

    fn payload(&mut self, random: &mut Random) {
        let (kind, data, fields) = random.payload();
        self.json.insert("dataType".into(), json!(kind));
        self.put_both("data", data, "data", fields);
    }
}

fn both(fill: impl FnOnce(&mut Both<'_>)) -> (Value, Value) {
    let (mut json, mut fields) = (Object::new(), Object::new());
    fill(&mut Both { json: &mut json, fields: &mut fields });
    (Value::Object(json), Value::Object(fields))
}

/// A message `name` of the root, which is `kind` in JSON.
fn case(kind: &str, name: &str, fill: impl FnOnce(&mut Both<'_>)) -> Case {
    let (mut json, fields) = both(fill);
    json["type"] = json!(kind);
    let mut root = Object::new();
    root.insert(name.to_owned(), fields);
    Case { json, fields: Value::Object(root) }
}

impl Random {
    fn yes(&mut self) -> bool {
        self.below(2) == 0
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.yes() { Some(make(self)) } else { None }
    }

    /// Any number of 64 bits; small and extreme ones are likelier.
    fn number(&mut self) -> u64 {
        let edges = [0, 1, 127, 128, u64::from(u32::MAX), 1 << 53, 1 << 63, u64::MAX];
        match self.below(3) {
            0 => edges[self.below(edges.len())],
            1 => self.next() >> self.below(64),
            _ => self.next(),
        }
    }

    fn text(&mut self) -> String {
        const PIECES: [&str; 12] =
            ["a", "Z9", " ", "é", "漢", "🚀", "\0", "\"", "\\", "\n", "{}", "\u{2028}"];
        let length = [0, 1, 3, 20, 200][self.below(5)];
        (0..length).map(|_| PIECES[self.below(PIECES.len())]).collect()
    }

    /// Text that is not blank.
    fn name(&mut self) -> String {
        self.text() + "n"
    }

    fn bytes(&mut self) -> Vec<u8> {
        (0..self.below(200)).map(|_| self.next() as u8).collect()
    }

    /// Metadata within the rules, not empty: in protobuf no entry and no map are the same.
    fn metadata(&mut self) -> Value {
        let entry = |random: &mut Self, i| {
            let value = ["", "v", "some ASCII text"][random.below(3)];
            (format!("key-{i}"), json!(value))
        };
        let entries = (0..1 + self.below(3)).map(|i| entry(self, i));
        Value::Object(entries.collect())
    }

    fn state(&mut self) -> Value {
        let count = self.below(4);
        let entries = (0..count).map(|i| (format!("{i}{}", self.text()), json!(self.text())));
        Value::Object(entries.collect())
    }

    /// `dataType`, `data` and the payload's fields.
    fn payload(&mut self) -> (&'static str, Value, Value) {
        match self.below(4) {
            0 => {
                let text = self.text();
                ("text", json!(text), json!({"text": text}))
            }
            1 => {
                let leaf = json!([self.number(), self.text(), null, true]);
                let value = if self.yes() { leaf } else { json!({self.text(): leaf}) };
                let text = value.to_string();
                ("json", value, json!({"json": text}))
            }
            2 => {
                let base64 = BASE64.encode(&self.bytes());
                ("binary", json!(base64), json!({"binary": base64}))
            }
            _ => {
                let url = format!("type.googleapis.com/{}", "x".repeat(self.below(60)));
                let value = self.bytes();
                let fields = json!({"type_url": url, "value": BASE64.encode(&value)});
                ("protobuf", json!(BASE64.encode(&any(&url, &value))), json!({"any": fields}))
            }
        }
    }
}

/// A serialized `google.protobuf.Any`.
fn any(url: &str, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (tag, content) in [(0x0a, url.as_bytes()), (0x12, value)] {
        match content.len() {
            0 => continue,
            len @ ..128 => out.extend([tag, len as u8]),
            len => out.extend([tag, len as u8 | 0x80, (len >> 7) as u8]),
        }
        out.extend(content);
    }
    out
}

pub(super) const UP_KINDS: usize = 12;

pub(super) fn up(random: &mut Random, kind: usize) -> Case {
    let group_call = |random: &mut Random, json: &str, name: &str| {
        case(json, name, |b| {
            b.put("group", "group", json!(random.name()));
            b.number("ackId", "ack_id", random.maybe(Random::number));
        })
    };
    match kind {
        0 => group_call(random, "joinGroup", "join"),
        1 => group_call(random, "leaveGroup", "leave"),
        2 => group_call(random, "subscribeGroupState", "sub_state"),
        3 => group_call(random, "unsubscribeGroupState", "unsub_state"),
        4 => case("setGroupState", "set_state", |b| {
            b.put("group", "group", json!(random.name()));
            b.number("ackId", "ack_id", random.maybe(Random::number));
            let state = random.maybe(Random::state);
            let fields = state.as_ref().map(|entries| json!({"entries": entries}));
            b.put_both("state", json!(state), "state", json!(fields));
        }),
        5 | 6 => send(random, kind == 6),
        7 => case("event", "event", |b| {
            b.put("event", "event", json!(format!("e.{}", random.below(1000))));
            b.number("ackId", "ack_id", random.maybe(Random::number));
            b.put("metadata", "metadata", json!(random.maybe(Random::metadata)));
            b.payload(random);
        }),
        8 => case("sequenceAck", "seq_ack", |b| {
            b.number("sequenceId", "sequence_id", Some(random.number()));
        }),
        9 => case("ping", "ping", |_| {}),
        10 => case("streamData", "stream_data", |b| {
            b.put("streamId", "stream_id", json!(random.name()));
            if random.yes() {
                b.number("streamSequenceId", "stream_sequence_id", Some(random.number().max(1)));
                b.payload(random);
            }
        }),
        _ => case("streamEnd", "stream_end", |b| {
            b.put("streamId", "stream_id", json!(random.name()));
            if random.yes() {
                let (json, fields) = both(|b| {
                    b.put("message", "message", json!(random.maybe(Random::name)));
                    b.put("userErrorCode", "user_error_code", json!(random.maybe(Random::name)));
                });
                b.put_both("error", json, "error", fields);
            }
        }),
    }
}

fn send(random: &mut Random, stream: bool) -> Case {
    case("sendToGroup", "send", |b| {
        b.put("group", "group", json!(random.name()));
        b.number("ackId", "ack_id", random.maybe(Random::number));
        b.put("noEcho", "no_echo", json!(random.maybe(|_| true)));
        b.put("ttlSeconds", "ttl_seconds", json!(random.maybe(|r| r.below(301))));
        b.put("metadata", "metadata", json!(random.maybe(Random::metadata)));
        if !stream {
            return b.payload(random);
        }
        let (json, fields) = both(|b| {
            b.put("streamId", "stream_id", json!(random.name()));
            let timeout = random.maybe(|r| 1 + (r.next() as u32 >> 1));
            b.put("idleTimeoutMs", "idle_timeout_ms", json!(timeout));
        });
        b.put_both("stream", json, "stream", fields);
    })
}

pub(super) const DOWN_KINDS: usize = 11;

pub(super) fn down(random: &mut Random, kind: usize) -> Case {
    match kind {
        0 => system(random, "connected"),
        1 => system(random, "disconnected"),
        2 => case("ack", "ack", |b| {
            let success = random.yes();
            b.number("ackId", "ack_id", Some(random.number()));
            b.put("success", "success", json!(success));
            if !success && random.yes() {
                let error = named_error(random);
                b.put("error", "error", error);
            }
        }),
        3 | 4 => group_message(random, kind == 4),
        5 => case("message", "data", |b| {
            b.put("from", "from", json!("server"));
            b.number("sequenceId", "sequence_id", random.maybe(Random::number));
            b.put("metadata", "metadata", json!(random.maybe(Random::metadata)));
            b.payload(random);
        }),
        6 => case("pong", "pong", |_| {}),
        7 => case("streamAck", "stream_ack", |b| {
            b.put("streamId", "stream_id", json!(random.name()));
            b.number("expectedSequenceId", "expected_sequence_id", Some(random.number()));
        }),
        8 => case("streamNack", "stream_nack", |b| {
            b.put("streamId", "stream_id", json!(random.name()));
            b.number("expectedSequenceId", "expected_sequence_id", Some(random.number()));
            b.put("name", "name", json!(random.name()));
            b.put("message", "message", json!(random.maybe(Random::name)));
        }),
        9 => case("streamClosed", "stream_closed", |b| {
            b.put("streamId", "stream_id", json!(random.name()));
            let error = random.maybe(named_error);
            b.put("error", "error", json!(error));
        }),
        _ => group_state(random),
    }
}

fn named_error(random: &mut Random) -> Value {
    let (json, _) = both(|b| {
        b.put("name", "name", json!(random.name()));
        b.put("message", "message", json!(random.maybe(Random::name)));
    });
    json
}

fn system(random: &mut Random, event: &str) -> Case {
    let (mut json, fields) = both(|b| {
        if event == "connected" {
            b.put("connectionId", "connection_id", json!(random.name()));
            b.put("userId", "user_id", json!(random.maybe(Random::name)));
            b.put("reconnectionToken", "reconnection_token", json!(random.maybe(Random::name)));
        } else {
            b.put("message", "reason", json!(random.maybe(Random::name)));
        }
    });
    json["type"] = json!("system");
    json["event"] = json!(event);
    Case { json, fields: json!({"system": {event: fields}}) }
}

fn group_message(random: &mut Random, stream: bool) -> Case {
    case("message", "data", |b| {
        b.put("from", "from", json!("group"));
        b.put("group", "group", json!(random.name()));
        // Has no form in protobuf.
        b.put_both("fromUserId", json!(random.maybe(Random::name)), "", Value::Null);
        b.number("sequenceId", "sequence_id", random.maybe(Random::number));
        b.put("metadata", "metadata", json!(random.maybe(Random::metadata)));
        b.payload(random);
        if !stream {
            return;
        }
        let (json, fields) = both(|b| {
            b.put("streamId", "stream_id", json!(random.name()));
            b.number("streamSequenceId", "stream_sequence_id", Some(random.number()));
            b.put("endOfStream", "end_of_stream", json!(random.maybe(|_| true)));
            if random.yes() {
                let (json, fields) = both(|b| {
                    b.put("name", "name", json!(random.name()));
                    b.put("message", "message", json!(random.maybe(Random::name)));
                    b.put("userErrorCode", "user_error_code", json!(random.maybe(Random::name)));
                });
                b.put_both("error", json, "error", fields);
            }
        });
        b.put_both("stream", json, "stream", fields);
    })
}

fn group_state(random: &mut Random) -> Case {
    let snapshot = random.yes();
    let kind = if snapshot { "groupStateSnapshot" } else { "groupStateUpdate" };
    case(kind, if snapshot { "state_snapshot" } else { "state_update" }, |b| {
        b.put("group", "group", json!(random.name()));
        b.number("sequenceId", "sequence_id", random.maybe(Random::number));
        let item = |random: &mut Random| {
            both(|b| {
                b.put("connectionId", "connection_id", json!(random.name()));
                b.put("userId", "user_id", json!(random.maybe(Random::name)));
                let state = random.maybe(Random::state);
                let fields = state.as_ref().map(|entries| json!({"entries": entries}));
                b.put_both("state", json!(state), "state", json!(fields));
                let at = random.number() as i64;
                b.put_both("updatedAt", json!(at), "updated_at", json!(at.to_string()));
            })
        };
        let (json, fields): (Vec<_>, Vec<_>) = (0..random.below(4)).map(|_| item(random)).unzip();
        b.put_both("items", json!(json), "items", json!(fields));
    })
}
