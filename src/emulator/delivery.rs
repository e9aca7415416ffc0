//! Messages on their way to sessions: numbering, replay buffers, limits.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::builder::Limits;
use super::outbox::Out;
use super::server_session::ServerSession;
use super::service::Service;
use super::stats::Tally;
use crate::message::{GroupMessage, Metadata, Payload, ServerMessage, StreamPart};
use crate::protocol::{Downstream, Frame, Protocol};

/// A message on its way to receivers.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    /// Group and sender's user; none for a message of the server.
    pub(super) group: Option<(Arc<str>, Option<Arc<str>>)>,
    pub(super) payload: Payload,
    pub(super) metadata: Metadata,
    /// When its `ttlSeconds` are over, by the emulator's clock. That it is dropped then is an
    /// assumption for messages of clients.
    pub(super) expires: Option<Duration>,
    /// Of a stream.
    pub(super) stream: Option<Box<StreamPart>>,
    /// Written without its payload; the end of a stream only.
    pub(super) bare: bool,
}

impl Delivery {
    pub(super) fn from_server(payload: Payload) -> Self {
        let metadata = Metadata::default();
        Self { group: None, payload, metadata, expires: None, stream: None, bare: false }
    }

    pub(super) fn to_group(group: Arc<str>, user: Option<Arc<str>>, payload: Payload) -> Self {
        Self { group: Some((group, user)), ..Self::from_server(payload) }
    }

    pub(super) fn payload_size(&self) -> usize {
        match &self.payload {
            Payload::Text(text) => text.len(),
            Payload::Json(json) => json.as_str().len(),
            Payload::Binary(bytes) | Payload::Protobuf(bytes) => bytes.len(),
        }
    }

    fn frame(&self, session: &ServerSession, sequence_id: Option<u64>) -> Option<Frame> {
        let (payload, metadata) = (self.payload.clone(), self.metadata.clone());
        let message = match &self.group {
            None => Downstream::ServerMessage(ServerMessage { payload, sequence_id, metadata }),
            Some((group, user)) => Downstream::GroupMessage(GroupMessage {
                group: Arc::clone(group),
                from_user_id: user.clone(),
                payload,
                sequence_id,
                metadata,
                stream: self.stream.clone(),
            }),
        };
        match &message {
            Downstream::GroupMessage(end) if self.bare => session.encode_bare_end(end),
            message => session.encode(message),
        }
    }

    /// What a simple client gets: the bare payload, and nothing at the end of a stream.
    fn raw_frame(&self) -> Option<Frame> {
        if self.stream.as_ref().is_some_and(|part| part.end_of_stream) {
            return None;
        }
        Some(match &self.payload {
            Payload::Text(text) => Frame::Text(text.clone()),
            Payload::Json(json) => Frame::Text(json.clone().into_text()),
            Payload::Binary(bytes) | Payload::Protobuf(bytes) => Frame::Binary(bytes.clone()),
        })
    }
}

impl Service {
    /// To every member of the group, but for one if `except` says so. Returns how many.
    pub(super) fn publish(
        &mut self,
        now: Duration,
        hub: &str,
        delivery: &Delivery,
        except: Option<&str>,
    ) -> usize {
        let Some((group, _)) = &delivery.group else { return 0 };
        let members = self.hubs.get(hub).and_then(|h| h.groups.get(group));
        let to: Vec<Arc<str>> = members.into_iter().flatten().cloned().collect();
        let to = to.iter().filter(|id| except != Some(&***id));
        let count = self.deliver_all(now, to, delivery);
        self.note_sent(hub, format_args!("group {group:?}"), delivery, count);
        count
    }

    pub(super) fn send_to_all(&mut self, now: Duration, hub: &str, delivery: &Delivery) -> usize {
        let to = self.members(hub);
        let count = self.deliver_all(now, to.iter(), delivery);
        self.note_sent(hub, format_args!("all"), delivery, count);
        count
    }

    pub(super) fn send_to_user(
        &mut self,
        now: Duration,
        hub: &str,
        user: &str,
        delivery: &Delivery,
    ) -> usize {
        let to = self.members(hub);
        let of_user = to.iter().filter(|id| {
            self.sessions.get(&***id).is_some_and(|s| s.user.as_deref() == Some(user))
        });
        let to: Vec<&Arc<str>> = of_user.collect();
        let count = self.deliver_all(now, to.into_iter(), delivery);
        self.note_sent(hub, format_args!("user {user:?}"), delivery, count);
        count
    }

    pub(super) fn send_to_connection(
        &mut self,
        now: Duration,
        hub: &str,
        id: &str,
        delivery: &Delivery,
    ) -> usize {
        match self.sessions.get(id) {
            Some(s) if *s.hub == *hub => {
                let id = Arc::clone(&s.id);
                let count = self.deliver_all(now, [&id].into_iter(), delivery);
                self.note_sent(hub, format_args!("connection {id}"), delivery, count);
                count
            }
            _ => 0,
        }
    }

    fn note_sent(&mut self, hub: &str, to: fmt::Arguments<'_>, delivery: &Delivery, count: usize) {
        let size = delivery.payload.as_bytes().len();
        self.notes
            .debug(|| format!("sent to {to} of hub {hub:?}: {size} bytes, {count} receivers"));
    }

    pub(super) fn members(&self, hub: &str) -> Vec<Arc<str>> {
        self.hubs.get(hub).map(|h| h.members.iter().cloned().collect()).unwrap_or_default()
    }

    fn deliver_all<'a>(
        &mut self,
        now: Duration,
        to: impl Iterator<Item = &'a Arc<str>>,
        delivery: &Delivery,
    ) -> usize {
        let mut count = 0;
        // Frames without a number are the same for all receivers of a subprotocol.
        let mut encoded: Vec<(Protocol, Frame)> = Vec::new();
        for id in to {
            count += 1;
            if !self.deliver(now, id, delivery, &mut encoded) {
                self.overflow(id);
            }
        }
        count
    }

    /// False if a queue of the session is full.
    fn deliver(
        &mut self,
        now: Duration,
        id: &str,
        delivery: &Delivery,
        encoded: &mut Vec<(Protocol, Frame)>,
    ) -> bool {
        let Self { sessions, settings, counters, touched, .. } = self;
        let limits = &settings.limits;
        let Some(session) = sessions.get_mut(id) else { return true };
        let reliable = session.kind.is_reliable();
        let frame = match session.kind.protocol() {
            None => delivery.raw_frame(),
            Some(_) if reliable => delivery.frame(session, Some(session.replay.next_id())),
            Some(protocol) => match encoded.iter().find(|(p, _)| *p == protocol) {
                Some((_, frame)) => Some(frame.clone()),
                None => {
                    let frame = delivery.frame(session, None);
                    encoded.extend(frame.clone().map(|f| (protocol, f)));
                    frame
                }
            },
        };
        // Nothing for a receiver in whose subprotocol the message has no form: bytes that a JSON
        // client called protobuf, and that are none.
        let Some(frame) = frame else { return true };
        keep_and_push(session, limits, (counters, touched), now, frame, delivery.expires)
    }

    /// A message of another kind that has a number, to one session.
    pub(super) fn send_numbered(&mut self, id: &str, message: impl Fn(Option<u64>) -> Downstream) {
        let Self { sessions, settings, counters, touched, .. } = self;
        let Some(session) = sessions.get_mut(id) else { return };
        let number = session.kind.is_reliable().then(|| session.replay.next_id());
        let Some(frame) = session.encode(&message(number)) else { return };
        let tallies = (counters, touched);
        if !keep_and_push(session, &settings.limits, tallies, self.now, frame, None) {
            self.overflow(id);
        }
    }
}

/// False if a queue of the session is full.
fn keep_and_push(
    session: &mut ServerSession,
    limits: &Limits,
    (counters, touched): (&mut Tally, &mut Vec<u64>),
    now: Duration,
    frame: Frame,
    expires: Option<Duration>,
) -> bool {
    let reliable = session.kind.is_reliable();
    if reliable {
        let size = frame.as_bytes().len();
        let replay = &mut session.replay;
        replay.drop_expired(now);
        if replay.len() >= limits.unacked_messages || replay.bytes() + size > limits.unacked_bytes {
            return false;
        }
        replay.keep(frame.clone(), expires);
        let most = &mut counters.count().unacked_high_water;
        *most = (replay.len() as u64).max(*most);
    }
    session.messages += 1;
    if let Some(outbox) = &session.outbox {
        let load = outbox.push(Out::Frame(frame));
        touched.push(outbox.link);
        return limits.allow(reliable, load);
    }
    true
}
