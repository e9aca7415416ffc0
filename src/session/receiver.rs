//! What becomes of that which arrives: duplicates, sequence acks, the proof of a recovery, signs of
//! life, and what waits while the event queue has no room.
//!
//! The reader thread owns the [`Receiver`] and feeds it: bytes, frames, control frames, events of
//! the session, and the time. What the session must be told comes out as [`Input`]s; what the link
//! must carry is asked for ([`Receiver::take_sequence_ack`], [`Receiver::take_ping`],
//! [`Receiver::take_end`]). Pure and without a lock, like the session.
//!
//! Invariants:
//! - what enters the queue does so in arrival order, lifecycle events included;
//! - only what is in the queue (or was dropped by its policy) is acknowledged;
//! - while a recovery is not proved, nothing is acknowledged;
//! - a full queue stops no timer, and what is read beyond its bound is bounded itself.

use std::time::{Duration, Instant};

use super::bug::Bug;
use super::delivery::{Arrived, Counts, Delivered, Delivery, EventQueue};
use super::keep_alive::{KeepAlive, KeepAliveConfig, Silence};
use super::replay::Replay;
use super::streams::StreamNews;
use super::{Answer, Identity, Loss, Session};
use crate::error::{Error, ErrorKind};
use crate::message::Event;
use crate::protocol::{Downstream, Malformed};

/// This many messages are gathered at most before they are handed over, however much is buffered:
/// after as many a sequence ack is due.
const GATHER_MOST: usize = 200;
/// Fewer acks: their callers have the next call ready, and the service waits for it.
const ACKS_MOST: usize = 32;

/// What the session is told.
#[derive(Debug)]
pub(crate) enum Input {
    /// An ack: whether the call succeeded, and the service's name and message for the error.
    Ack {
        id: u64,
        success: bool,
        error: Option<(String, String)>,
    },
    /// The answer to the invocation of this id, or why it cannot be read.
    Answer {
        id: String,
        answer: Answer,
    },
    /// What the service says about a stream of this client.
    Stream {
        id: String,
        news: StreamNews,
    },
    Connected(Identity),
    /// The service announces a disconnect, with this text.
    Disconnecting(Option<String>),
    /// The first frame on a recovery link came, and it is no Close.
    Proved,
    /// The replay after a recovery is over.
    Recovered {
        replayed: u64,
    },
    /// A recovery link brings nothing.
    Stalled,
    Stop(Error),
}

impl<W> Session<W> {
    pub(crate) fn input(&mut self, now: Instant, input: Input) {
        match input {
            Input::Ack { id, success, error } => self.ack(now, id, success, error),
            Input::Answer { id, answer } => self.answer(now, &id, answer),
            Input::Stream { id, news } => self.stream_news(now, &id, news),
            Input::Connected(identity) => self.connected(now, identity),
            Input::Disconnecting(message) => self.service_said(message),
            Input::Proved => self.proved(now),
            Input::Recovered { replayed } => self.recovered(now, replayed),
            Input::Stalled => self.recovery_stalled(now),
            Input::Stop(error) => self.stop(error),
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Receiver {
    keep_alive_config: KeepAliveConfig,
    keep_alive: KeepAlive,
    delivery: Delivery,
    /// A recovery whose replay is not over.
    replay: Option<Replay>,
    /// What came in one read and is not handed over yet.
    gathered: Vec<Arrived>,
    acks: usize,
    inputs: Vec<Input>,
    ping: bool,
    end: Option<Loss>,
    /// There is no link, so nothing of it is awaited.
    no_link: bool,
    closing: bool,
    /// The peer has ended the stream: what is left of it is what the system holds.
    stream_ended: bool,
}

impl Receiver {
    pub(crate) fn new(keep_alive: KeepAliveConfig, now: Instant) -> Self {
        Self {
            keep_alive_config: keep_alive,
            keep_alive: KeepAlive::new(keep_alive, now),
            delivery: Delivery::default(),
            replay: None,
            gathered: Vec::new(),
            acks: 0,
            inputs: Vec::new(),
            ping: false,
            end: None,
            no_link: false,
            closing: false,
            stream_ended: false,
        }
    }

    // --- the link ------------------------------------------------------------------------------

    /// A new link. `recovery`: it is to recover the session, and must bring something until then;
    /// each later stretch of the given length too.
    pub(crate) fn linked(&mut self, now: Instant, recovery: Option<(Instant, Duration)>) {
        self.keep_alive = KeepAlive::new(self.keep_alive_config, now);
        self.no_link = false;
        self.stream_ended = false;
        self.ping = false;
        self.end = None;
        let replayed = self.replay.take().map_or(0, |replay| replay.replayed());
        match recovery {
            Some((until, stretch)) => {
                self.replay = Some(Replay::new(now, until, stretch, replayed));
            }
            // What is still to be acknowledged belongs to the session that is over.
            None => self.delivery.new_connection(),
        }
    }

    /// The link is gone: its timers rest until there is another. (Else one that is due would wake
    /// the reader again and again.)
    pub(crate) fn link_gone(&mut self) {
        self.no_link = true;
    }

    /// Whether more may be read from the link.
    pub(crate) fn may_read(&self) -> bool {
        self.stream_ended || self.delivery.may_read(self.closing) || Bug::UnboundedHold.is_on()
    }

    /// The peer has ended the stream behind what is not read yet. That is bounded by the system's
    /// buffer, so all of it is read: a Close frame may be in there.
    pub(crate) fn stream_ended(&mut self) {
        self.stream_ended = true;
    }

    /// The client closes: the peer's Close is worth reading on for.
    pub(crate) fn closing(&mut self) {
        self.closing = true;
    }

    /// The socket brought bytes.
    pub(crate) fn bytes(&mut self, now: Instant, n: usize) {
        self.keep_alive.heard(now);
        if let Some(replay) = &mut self.replay {
            replay.bytes(n);
        }
    }

    /// The peer took data that it had let wait.
    pub(crate) fn moved(&mut self, at: Instant) {
        self.keep_alive.moved(at);
    }

    // --- frames --------------------------------------------------------------------------------

    /// A data frame of a PubSub client. True: [`hand_over`](Self::hand_over) before the next one.
    pub(crate) fn frame(
        &mut self,
        now: Instant,
        decoded: Result<Downstream, Malformed>,
        size: usize,
    ) -> bool {
        match decoded {
            Ok(Downstream::GroupMessage(m)) => {
                self.prove(now);
                let id = m.sequence_id;
                self.gather(Event::GroupMessage(m), id, size)
            }
            Ok(Downstream::ServerMessage(m)) => {
                self.prove(now);
                let id = m.sequence_id;
                self.gather(Event::ServerMessage(m), id, size)
            }
            Ok(Downstream::Ack { ack_id, success, error }) => {
                self.prove(now);
                let error = error.map(|e| (e.name, e.message.unwrap_or_default()));
                self.inputs.push(Input::Ack { id: ack_id, success, error });
                self.acks += 1;
                self.acks >= ACKS_MOST
            }
            Ok(Downstream::Connected { connection_id, user_id, reconnection_token }) => {
                self.inputs.push(Input::Connected(Identity {
                    connection_id: connection_id.into(),
                    user_id: user_id.map(Into::into),
                    token: reconnection_token,
                }));
                // After it: it says whether the session is ours or another.
                self.prove(now);
                true
            }
            Ok(Downstream::Disconnected { message }) => {
                self.prove(now);
                self.inputs.push(Input::Disconnecting(message));
                true
            }
            Ok(Downstream::Pong) => {
                self.prove(now);
                self.end_replay();
                true
            }
            Ok(Downstream::InvokeResponse(mut response)) => {
                self.prove(now);
                let id = std::mem::take(&mut response.invocation_id);
                self.inputs.push(Input::Answer { id, answer: Ok(response) });
                self.acks += 1;
                self.acks >= ACKS_MOST
            }
            // They are merged as they come, however often, so they count as received at once.
            Ok(
                Downstream::GroupStateSnapshot { sequence_id: id, .. }
                | Downstream::GroupStateUpdate { sequence_id: id, .. },
            ) => {
                self.prove(now);
                self.gathered.push(Arrived { message: None, id, size });
                self.gathered.len() >= GATHER_MOST
            }
            Ok(Downstream::StreamAck { stream_id: id, expected_sequence_id }) => {
                self.stream(now, id, StreamNews::Ack(expected_sequence_id))
            }
            Ok(Downstream::StreamNack { stream_id: id, expected_sequence_id, name, .. }) => {
                self.stream(now, id, StreamNews::Nack { expected: expected_sequence_id, name })
            }
            Ok(Downstream::StreamClosed { stream_id: id, error }) => {
                self.stream(now, id, StreamNews::Closed(error))
            }
            Ok(other) => self.unreadable(now, other.sequence_id(), size),
            Err(malformed) => {
                let (number, why) = (malformed.sequence_id, malformed.why);
                let urgent = self.unreadable(now, number, size);
                if let Some(id) = malformed.invocation_id {
                    self.inputs.push(Input::Answer { id, answer: Err(why) });
                }
                urgent
            }
        }
    }

    /// A message of the simple client; as [`frame`](Self::frame).
    pub(crate) fn raw(&mut self, message: Event, size: usize) -> bool {
        self.gather(message, None, size)
    }

    /// A WebSocket ping or pong; as [`frame`](Self::frame).
    pub(crate) fn control_frame(&mut self, now: Instant) -> bool {
        self.prove(now)
    }

    /// A message about a stream that this client publishes.
    fn stream(&mut self, now: Instant, id: String, news: StreamNews) -> bool {
        self.prove(now);
        self.inputs.push(Input::Stream { id, news });
        self.acks += 1;
        self.acks >= ACKS_MOST
    }

    fn gather(&mut self, message: Event, id: Option<u64>, size: usize) -> bool {
        self.gathered.push(Arrived { message: Some(message), id, size });
        self.gathered.len() >= GATHER_MOST
    }

    /// A frame that is not delivered still counts for the service, in its place among the others.
    fn unreadable(&mut self, now: Instant, id: Option<u64>, size: usize) -> bool {
        self.prove(now);
        self.delivery.counts.malformed += 1;
        self.gathered.push(Arrived { message: None, id, size });
        true
    }

    /// On a recovery link the first frame, whatever it is, shows that the session is ours again.
    fn prove(&mut self, now: Instant) -> bool {
        let proved = self.replay.as_mut().is_some_and(|replay| replay.prove(now));
        if proved {
            self.inputs.push(Input::Proved);
        }
        proved
    }

    fn end_replay(&mut self) {
        // Without a proof there is nothing to end: the pong itself would have been one.
        if let Some(replay) = self.replay.take() {
            self.inputs.push(Input::Recovered { replayed: replay.replayed() });
        }
    }

    // --- into the queue ------------------------------------------------------------------------

    /// Puts what was gathered into the queue, or holds it. Then the session is to be told
    /// ([`take_inputs`](Self::take_inputs)).
    pub(crate) fn hand_over(&mut self, now: Instant, queue: &mut impl EventQueue) {
        self.delivery.busy(now, queue);
        let mut gathered = std::mem::take(&mut self.gathered);
        for arrived in gathered.drain(..) {
            let id = arrived.id;
            if let (Some(_), Some(replay)) = (id, &mut self.replay) {
                replay.count();
            }
            match self.delivery.deliver(now, queue, arrived) {
                Delivered::Yes => {}
                Delivered::Stop => self.inputs.push(Input::Stop(queue_full())),
                Delivered::Wild => {
                    let seen = self.delivery.sequence.seen();
                    self.end.get_or_insert_with(|| wild_id(id, seen));
                }
            }
        }
        // Its memory serves again.
        self.gathered = gathered;
    }

    /// An event of the session: it enters the queue, behind what is held.
    pub(crate) fn event(&mut self, now: Instant, event: Event, queue: &mut impl EventQueue) {
        if matches!(event, Event::Connected(_)) {
            self.delivery.new_connection();
            // What is left of a replay is none of the new connection.
            self.replay = None;
        }
        self.delivery.event(now, event, queue);
    }

    // --- time ----------------------------------------------------------------------------------

    /// The next instant at which [`tick`](Self::tick) or an acknowledgment is due.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        let look = self.delivery.next_look();
        if self.no_link {
            return look;
        }
        let ack = self.delivery.sequence.next_wake().filter(|_| self.may_acknowledge());
        let replay = self.replay.as_ref().map(Replay::next_wake);
        [ack, replay, look, self.keep_alive.next_wake()].into_iter().flatten().min()
    }

    /// Does what is due. `excused_until`: until when silence since the given instant proves
    /// nothing, because the service may run an event handler.
    pub(crate) fn tick(
        &mut self,
        now: Instant,
        queue: &mut impl EventQueue,
        excused_until: impl FnOnce(Instant) -> Option<Instant>,
    ) {
        self.delivery.tick(now, queue);
        if !self.no_link {
            self.watch_replay(now);
            self.watch_silence(now, excused_until);
        }
    }

    fn watch_replay(&mut self, now: Instant) {
        let Some(replay) = &mut self.replay else { return };
        if now < replay.next_wake() {
            return;
        }
        if replay.is_proved() {
            self.end_replay();
        } else if replay.is_stalled(now) {
            self.inputs.push(Input::Stalled);
            // The next link brings its own limit.
            replay.rest();
        }
    }

    fn watch_silence(
        &mut self,
        now: Instant,
        excused_until: impl FnOnce(Instant) -> Option<Instant>,
    ) {
        match self.keep_alive.due(now, excused_until) {
            None => {}
            Some(Silence::Ping) => {
                self.ping = true;
                if !self.may_read() {
                    // Nothing is read, so silence proves nothing; the ping shows our own life.
                    self.keep_alive.heard(now);
                }
            }
            Some(Silence::Dead) if !self.may_read() => self.keep_alive.heard(now),
            Some(Silence::Dead) => {
                self.end.get_or_insert_with(|| {
                    Loss::of(Error::new(
                        ErrorKind::Disconnected,
                        "the peer showed no sign of life within the keep-alive limit",
                    ))
                });
            }
        }
    }

    // --- what comes out ------------------------------------------------------------------------

    /// A call has started, which raises the bound of the queue: the next tick looks for room.
    pub(crate) fn look_now(&mut self, now: Instant) {
        self.delivery.look_now(now);
    }

    /// What the session must be told, in order.
    pub(crate) fn take_inputs(&mut self) -> std::vec::Drain<'_, Input> {
        self.acks = 0;
        self.inputs.drain(..)
    }

    pub(crate) fn has_inputs(&self) -> bool {
        !self.inputs.is_empty()
    }

    fn may_acknowledge(&self) -> bool {
        self.replay.as_ref().is_none_or(Replay::is_proved) || Bug::AckUnproved.is_on()
    }

    /// The sequence id to acknowledge now. `room`: whether the link takes more data. A peer that
    /// leaves everything unread gets no more acknowledgments; a later one covers them.
    pub(crate) fn take_sequence_ack(&mut self, now: Instant, room: bool) -> Option<u64> {
        let may_acknowledge = self.may_acknowledge();
        let sequence = &mut self.delivery.sequence;
        if !may_acknowledge || sequence.next_wake().is_none_or(|at| now < at) {
            return None;
        }
        if !room {
            sequence.put_off(now);
            return None;
        }
        sequence.take_ack(now)
    }

    /// A ping must leave.
    pub(crate) fn take_ping(&mut self) -> bool {
        std::mem::take(&mut self.ping)
    }

    /// The link is at its end, by our own judgment.
    pub(crate) fn take_end(&mut self) -> Option<Loss> {
        self.end.take()
    }

    /// The queue is full, and by that much that it may be why the connection suffers.
    pub(crate) fn is_behind(&self) -> bool {
        self.delivery.is_behind()
    }

    /// The queue is at its bound: something is held, or was dropped and is not reported yet.
    pub(crate) fn is_full(&self) -> bool {
        self.delivery.is_full()
    }

    /// Messages and bytes that are held.
    #[cfg(test)]
    pub(crate) fn held(&self) -> (usize, usize) {
        self.delivery.held()
    }

    /// What is gathered counts as delivered, until its ids are looked at.
    pub(crate) fn counts(&self) -> Counts {
        let gathered = self.gathered.iter().filter(|arrived| arrived.message.is_some()).count();
        let counts = self.delivery.counts;
        Counts { messages: counts.messages + gathered as u64, ..counts }
    }
}

fn queue_full() -> Error {
    Error::new(ErrorKind::QueueFull, "the event queue is full and its policy is to stop the client")
}

fn wild_id(id: Option<u64>, seen: u64) -> Loss {
    let id = id.unwrap_or_default();
    let error = Error::new(
        ErrorKind::Disconnected,
        format!("the service sent the sequence id {id} after {seen}, which cannot be true"),
    );
    // A recovery would bring it again.
    Loss { violation: true, ..Loss::of(error) }
}
