//! Streams: one client publishes numbered fragments to a group, and the service confirms them
//! (preview).
//!
//! Where the sources are silent: a refused start gets `streamClosed`, also if its id is that of a
//! stream that goes on; a repeated fragment is answered by an ack and does not count as activity; a
//! keepalive gets no answer; the role is looked at again with each fragment; no ack precedes
//! `streamClosed`; after an abort that has no error; the idle time runs on while the link is lost;
//! subscribers of a stream whose session ended get `Cancelled`; a simple client gets the fragments as
//! plain frames and nothing at the end.
//!
//! Invariants: a stream belongs to a session and ends with it; what it tells its publisher has no
//! number and is lost with the transport; each stream has one entry among the timers, which is never
//! later than what is due next.

use std::sync::Arc;
use std::time::Duration;

use super::delivery::Delivery;
use super::receive::{From, forbidden, named};
use super::server_session::ServerSession;
use super::service::Service;
use crate::message::{Payload, StreamFailure, StreamPart};
use crate::protocol::{Downstream, NamedError, StreamEndError};

/// A stream that a session publishes.
#[derive(Debug)]
pub(super) struct Stream {
    group: Arc<str>,
    no_echo: bool,
    idle: Duration,
    /// The number of the next fragment.
    expected: u64,
    /// Fragments accepted since the last ack.
    unacked: usize,
    ack_at: Option<Duration>,
    /// A fault holds an ack back.
    ack_held: bool,
    idle_at: Duration,
    /// When it is looked at next.
    timer: Option<Duration>,
}

impl Stream {
    fn due(&self) -> Duration {
        self.ack_at.map_or(self.idle_at, |ack_at| ack_at.min(self.idle_at))
    }
}

/// What the publisher asks for.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) group: Arc<str>,
    pub(super) stream_id: Arc<str>,
    pub(super) no_echo: bool,
    pub(super) idle_timeout_ms: Option<u32>,
}

impl Service {
    /// The start of a stream. With an ack id it also gets an ack.
    pub(super) fn start_stream(&mut self, from: From<'_>, ack_id: Option<u64>, start: Start) {
        if !self.begin(from, ack_id) {
            return;
        }
        if self.plan.preview.take_ignored_start() {
            return self.notes.debug(|| format!("fault: {} starts a stream in vain", from.id));
        }
        let id = Arc::clone(&start.stream_id);
        let outcome = self.accept_stream(from, start);
        match &outcome {
            Ok(()) => {
                self.counters.count().streams_opened += 1;
                self.notes.debug(|| format!("stream: {}, {id:?}", from.id));
                self.ack_stream(from.id, &id);
                self.schedule(from.id, &id);
            }
            Err(error) => self.tell_closed(from.id, &id, Some(error.clone())),
        }
        self.finish(from, ack_id, outcome);
    }

    fn accept_stream(&mut self, from: From<'_>, start: Start) -> Result<(), NamedError> {
        let limits = &self.settings.limits;
        let idle = start
            .idle_timeout_ms
            .map_or(limits.stream_idle_timeout, |ms| Duration::from_millis(ms.into()));
        if self.plan.preview.take_refused_start() {
            return Err(named("InternalServerError", "The emulator was told to refuse this."));
        }
        let Some(session) = self.sessions.get_mut(from.id) else { return Ok(()) };
        if !session.grants.may_send(&start.group) {
            return Err(forbidden("send to", &start.group));
        }
        if session.streams.contains_key(&start.stream_id) {
            let text = format!("The stream '{}' is active already.", start.stream_id);
            return Err(named("BadRequest", &text));
        }
        if session.streams.len() >= limits.streams_per_connection {
            return Err(named("BadRequest", "The connection has too many active streams."));
        }
        let stream = Stream {
            group: start.group,
            no_echo: start.no_echo,
            idle,
            expected: 1,
            unacked: 0,
            ack_at: None,
            ack_held: false,
            idle_at: from.now.saturating_add(idle),
            timer: None,
        };
        session.streams.insert(start.stream_id, stream);
        Ok(())
    }

    /// A fragment, or without one the sign that the stream goes on.
    pub(super) fn stream_data(
        &mut self,
        from: From<'_>,
        stream_id: &str,
        fragment: Option<(u64, Payload)>,
    ) {
        let Some(session) = self.sessions.get_mut(from.id) else { return };
        let Some((id, stream)) = session.stream(stream_id) else {
            return self.tell_closed(from.id, stream_id, Some(not_found(stream_id)));
        };
        let Some((number, payload)) = fragment else {
            stream.idle_at = from.now.saturating_add(stream.idle);
            self.counters.count().stream_keepalives += 1;
            return;
        };
        let (group, expected) = (Arc::clone(&stream.group), stream.expected);
        if !session.grants.may_send(&group) {
            self.fail_stream(from.id, &id, forbidden("send to", &group));
            return;
        }
        if number < expected {
            return self.ack_stream(from.id, &id);
        }
        if number > expected {
            let text = format!("Expected the stream sequence id {expected}, not {number}.");
            return self.nack(from.id, &id, expected, "InvalidSequenceId", &text);
        }
        if self.plan.preview.take_refused_fragment(number) {
            let text = "The emulator was told to refuse this.";
            return self.nack(from.id, &id, expected, "TransientError", text);
        }
        self.accept_fragment(from, &id, payload);
    }

    fn accept_fragment(&mut self, from: From<'_>, id: &Arc<str>, payload: Payload) {
        let limits = &self.settings.limits;
        let Some(session) = self.sessions.get_mut(from.id) else { return };
        let Some((_, stream)) = session.stream(id) else { return };
        let number = stream.expected;
        stream.expected += 1;
        stream.unacked += 1;
        stream.idle_at = from.now.saturating_add(stream.idle);
        let full = stream.unacked >= limits.stream_ack_every;
        let first = stream.ack_at.is_none();
        if first {
            stream.ack_at = Some(from.now.saturating_add(limits.stream_ack_delay));
        }
        let except = stream.no_echo.then_some(from.id);
        let part = StreamPart {
            stream_id: id.to_string(),
            stream_sequence_id: number,
            end_of_stream: false,
            error: None,
        };
        let to_group = Delivery::to_group(Arc::clone(&stream.group), session.user.clone(), payload);
        let delivery = Delivery { stream: Some(Box::new(part)), ..to_group };
        let hub = Arc::clone(&session.hub);
        self.counters.count().stream_fragments += 1;
        for _ in 0..self.plan.preview.take_copies() {
            self.publish(from.now, &hub, &delivery, except.map(|id| &**id));
        }
        if full {
            self.ack_stream(from.id, id);
        } else if first {
            self.schedule(from.id, id);
        }
    }

    /// The publisher's end of a stream, for an error if there is one.
    pub(super) fn stream_end(
        &mut self,
        from: From<'_>,
        stream_id: &str,
        error: Option<StreamEndError>,
    ) {
        let failure = error.map(|error| StreamFailure {
            name: "UserError".into(),
            message: error.message,
            user_error_code: error.user_error_code,
        });
        if !self.end_stream(from.id, stream_id, failure, None) {
            self.tell_closed(from.id, stream_id, Some(not_found(stream_id)));
        }
    }

    /// The service ends a stream; publisher and subscribers get the error. False if there is no such
    /// stream.
    pub(super) fn fail_stream(&mut self, id: &str, stream_id: &str, error: NamedError) -> bool {
        let failure = failure(&error.name, error.message.as_deref());
        self.end_stream(id, stream_id, Some(failure), Some(error))
    }

    fn end_stream(
        &mut self,
        id: &str,
        stream_id: &str,
        failure: Option<StreamFailure>,
        closed: Option<NamedError>,
    ) -> bool {
        let Some(session) = self.sessions.get_mut(id) else { return false };
        let Some((stream_id, stream)) = session.streams.remove_entry(stream_id) else {
            return false;
        };
        let (publisher, hub) = (Arc::clone(&session.id), Arc::clone(&session.hub));
        let user = session.user.clone();
        self.forget_timer(&publisher, &stream_id, &stream);
        self.publish_end(&publisher, &hub, user, &stream_id, &stream, failure);
        self.tell_closed(id, &stream_id, closed);
        true
    }

    /// The last message of a stream.
    fn publish_end(
        &mut self,
        publisher: &str,
        hub: &str,
        user: Option<Arc<str>>,
        stream_id: &str,
        stream: &Stream,
        failure: Option<StreamFailure>,
    ) {
        self.counters.count().streams_closed += 1;
        self.notes.debug(|| {
            let why = failure.as_ref().map_or("", |failure| &failure.name);
            format!("end of stream: {publisher}, {stream_id:?} {why}")
        });
        let part = StreamPart {
            stream_id: stream_id.to_owned(),
            stream_sequence_id: stream.expected,
            end_of_stream: true,
            error: failure,
        };
        let to_group = Delivery::to_group(Arc::clone(&stream.group), user, Payload::from(""));
        let bare = self.settings.stream_end_without_payload;
        let delivery = Delivery { stream: Some(Box::new(part)), bare, ..to_group };
        self.publish(self.now, hub, &delivery, stream.no_echo.then_some(publisher));
    }

    /// The session is over, and nobody can go on with its streams.
    pub(super) fn cancel_streams(&mut self, session: &ServerSession) {
        for (stream_id, stream) in &session.streams {
            self.forget_timer(&session.id, stream_id, stream);
            let cancelled = failure("Cancelled", Some("The publisher's connection has ended."));
            let user = session.user.clone();
            self.publish_end(&session.id, &session.hub, user, stream_id, stream, Some(cancelled));
        }
    }

    // --- time --------------------------------------------------------------------------------

    /// Sees to it that the stream is looked at when something of it is due.
    fn schedule(&mut self, id: &Arc<str>, stream_id: &Arc<str>) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some((_, stream)) = session.stream(stream_id) else { return };
        let due = stream.due();
        if stream.timer.is_some_and(|timer| timer <= due) {
            return;
        }
        let old = stream.timer.replace(due);
        let mut key = (due, Arc::clone(id), Arc::clone(stream_id));
        self.stream_timers.insert(key.clone());
        if let Some(old) = old {
            key.0 = old;
            self.stream_timers.remove(&key);
        }
        if self.stream_timers.first().is_some_and(|first| first.0 == due) {
            self.reports.look_again();
        }
    }

    fn forget_timer(&mut self, id: &Arc<str>, stream_id: &Arc<str>, stream: &Stream) {
        if let Some(at) = stream.timer {
            self.stream_timers.remove(&(at, Arc::clone(id), Arc::clone(stream_id)));
        }
    }

    /// Looks at the stream whose time has come first.
    pub(super) fn fire_stream_timer(&mut self) {
        let Some((at, id, stream_id)) = self.stream_timers.pop_first() else { return };
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some((_, stream)) = session.stream(&stream_id) else { return };
        stream.timer = None;
        let (acks, idle) = (stream.ack_at.is_some_and(|ack_at| ack_at <= at), stream.idle_at <= at);
        if acks {
            self.ack_stream(&id, &stream_id);
        }
        if idle {
            let error = named("IdleTimeout", "Nothing came for the stream in its idle time.");
            self.fail_stream(&id, &stream_id, error);
        } else {
            self.schedule(&id, &stream_id);
        }
    }

    // --- what the publisher gets -------------------------------------------------------------

    /// Everything so far is accepted.
    fn ack_stream(&mut self, id: &str, stream_id: &Arc<str>) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some((_, stream)) = session.stream(stream_id) else { return };
        let expected_sequence_id = stream.expected;
        (stream.unacked, stream.ack_at) = (0, None);
        if self.plan.preview.hold_stream_acks {
            stream.ack_held = true;
            return;
        }
        stream.ack_held = false;
        if self.plan.preview.take_lost_stream_ack() {
            return self.notes.debug(|| format!("fault: a stream's ack to {id} is lost"));
        }
        self.counters.count().stream_acks += 1;
        let stream_id = stream_id.to_string();
        self.tell(id, &Downstream::StreamAck { stream_id, expected_sequence_id });
    }

    fn nack(&mut self, id: &str, stream_id: &str, expected: u64, name: &str, text: &str) {
        self.counters.count().stream_nacks += 1;
        let nack = Downstream::StreamNack {
            stream_id: stream_id.to_owned(),
            expected_sequence_id: expected,
            name: name.into(),
            message: Some(text.into()),
        };
        self.tell(id, &nack);
    }

    fn tell_closed(&mut self, id: &str, stream_id: &str, error: Option<NamedError>) {
        if self.plan.preview.take_lost_stream_close() {
            return self.notes.debug(|| format!("fault: `streamClosed` to {id} is lost"));
        }
        self.tell(id, &Downstream::StreamClosed { stream_id: stream_id.to_owned(), error });
    }

    /// Not only on behalf of the client's own message, so its writer is woken.
    fn tell(&mut self, id: &str, message: &Downstream) {
        let Some(session) = self.sessions.get(id) else { return };
        let Some(frame) = session.encode(message) else { return };
        self.touched.extend(session.outbox.as_ref().map(|outbox| outbox.link));
        self.queue_frame(id, frame);
    }

    /// Ends the fault of held acks of streams: each gets one, for everything so far.
    pub(super) fn release_stream_acks(&mut self) {
        self.plan.preview.hold_stream_acks = false;
        let held = self.sessions.values().flat_map(|session| {
            let streams = session.streams.iter().filter(|(_, stream)| stream.ack_held);
            streams.map(|(stream_id, _)| (Arc::clone(&session.id), Arc::clone(stream_id)))
        });
        for (id, stream_id) in held.collect::<Vec<_>>() {
            self.ack_stream(&id, &stream_id);
        }
    }
}

impl ServerSession {
    fn stream(&mut self, stream_id: &str) -> Option<(Arc<str>, &mut Stream)> {
        let id = Arc::clone(self.streams.get_key_value(stream_id)?.0);
        Some((id, self.streams.get_mut(stream_id)?))
    }
}

fn not_found(stream_id: &str) -> NamedError {
    named("StreamNotFound", &format!("The stream '{stream_id}' does not exist."))
}

fn failure(name: &str, message: Option<&str>) -> StreamFailure {
    StreamFailure { name: name.into(), message: message.map(Into::into), user_error_code: None }
}
