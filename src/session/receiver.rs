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

use super::hold::{Held, Hold};
use super::keep_alive::{KeepAlive, KeepAliveConfig, Silence};
use super::replay::Replay;
use super::sequence::{Sequence, Verdict};
use super::{Identity, Loss, Session};
use crate::error::{Error, ErrorKind};
use crate::message::Event;
use crate::protocol::{Downstream, Malformed};

/// This many messages are gathered at most before they are handed over, however much is buffered:
/// after as many a sequence ack is due.
const GATHER_MOST: usize = 200;
/// Fewer acks: their callers have the next call ready, and the service waits for it.
const ACKS_MOST: usize = 32;

/// While something is held the queue's room is looked at again after this long, doubling;
const LOOK_FIRST: Duration = Duration::from_micros(200);
/// up to this long. (A channel cannot signal that it has room.)
const LOOK_LAST: Duration = Duration::from_millis(10);
/// Until a queue that dropped messages has room again it is looked at this often.
const LOOK_LAGGED: Duration = Duration::from_millis(250);

/// The event queue, as the receiver sees it.
pub(crate) trait EventQueue {
    /// Whether a message may enter.
    fn room(&mut self, bound: Bound) -> Room;
    /// Puts an event in. `size`: the bytes that a message keeps alive; `None` for a lifecycle
    /// event, which always enters.
    fn push(&mut self, event: Event, size: Option<usize>);
}

/// Which bound of the queue counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    Normal,
    /// The connection is lost for good, so what is held must enter now or never: above the normal
    /// bound by what may be held.
    LastCall,
}

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    Yes,
    /// The queue is full and its policy is to wait.
    Wait,
    /// It is full and its policy is to drop the newest.
    Drop,
    /// It is full and its policy is to stop the client.
    Stop,
    /// There is no queue (any more); nothing is missed.
    Discard,
}

/// What the session is told.
#[derive(Debug)]
pub(crate) enum Input {
    /// An ack: whether the call succeeded, and the service's name and message for the error.
    Ack {
        id: u64,
        success: bool,
        error: Option<(String, String)>,
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
            Input::Connected(identity) => self.connected(now, identity),
            Input::Disconnecting(message) => self.service_said(message),
            Input::Proved => self.proved(now),
            Input::Recovered { replayed } => self.recovered(now, replayed),
            Input::Stalled => self.recovery_stalled(now),
            Input::Stop(error) => self.stop(error),
        }
    }
}

/// What has arrived so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Group and server messages, repeated ones not counted.
    pub(crate) messages: u64,
    pub(crate) duplicates: u64,
    /// Messages that the queue's policy dropped.
    pub(crate) dropped: u64,
    /// Frames that could not be read, or are of an unknown kind.
    pub(crate) malformed: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Receiver {
    keep_alive_config: KeepAliveConfig,
    keep_alive: KeepAlive,
    /// Since the last sign of a pause in reading: nothing was read because too much is held.
    paused: bool,
    sequence: Sequence,
    /// A recovery whose replay is not over.
    replay: Option<Replay>,
    /// Messages that came in one read and are not handed over yet, with sequence ids and sizes.
    gathered: Vec<(Event, Option<u64>, usize)>,
    acks: usize,
    inputs: Vec<Input>,
    hold: Hold,
    /// Messages dropped since the last event that entered.
    lagged: u64,
    /// When the queue's room is looked at next, and the pause that led there.
    look: Option<(Instant, Duration)>,
    ping: bool,
    end: Option<Loss>,
    closing: bool,
    /// The peer has ended the stream: what is left of it is what the system holds.
    stream_ended: bool,
    pub(crate) counts: Counts,
}

impl Receiver {
    pub(crate) fn new(keep_alive: KeepAliveConfig, now: Instant) -> Self {
        Self {
            keep_alive_config: keep_alive,
            keep_alive: KeepAlive::new(keep_alive, now),
            paused: false,
            sequence: Sequence::default(),
            replay: None,
            gathered: Vec::new(),
            acks: 0,
            inputs: Vec::new(),
            hold: Hold::default(),
            lagged: 0,
            look: None,
            ping: false,
            end: None,
            closing: false,
            stream_ended: false,
            counts: Counts::default(),
        }
    }

    // --- the link ------------------------------------------------------------------------------

    /// A new link. `recovery`: it is to recover the session, and must bring something until then;
    /// each later stretch of the given length too.
    pub(crate) fn linked(&mut self, now: Instant, recovery: Option<(Instant, Duration)>) {
        self.keep_alive = KeepAlive::new(self.keep_alive_config, now);
        self.paused = false;
        self.stream_ended = false;
        self.ping = false;
        self.end = None;
        let replayed = self.replay.take().map_or(0, |replay| replay.replayed());
        match recovery {
            Some((until, stretch)) => {
                self.replay = Some(Replay::new(now, until, stretch, replayed));
            }
            // What is still to be acknowledged belongs to the session that is over.
            None => self.sequence = Sequence::default(),
        }
    }

    /// Whether more may be read from the link.
    pub(crate) fn may_read(&self) -> bool {
        self.stream_ended || self.hold.has_room(self.closing)
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
            Ok(other) => self.unreadable(now, other.sequence_id(), size),
            Err(malformed) => self.unreadable(now, malformed.sequence_id, size),
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

    fn gather(&mut self, message: Event, id: Option<u64>, size: usize) -> bool {
        self.gathered.push((message, id, size));
        self.gathered.len() >= GATHER_MOST
    }

    /// A frame that is not delivered still counts for the service, in its place among the others.
    fn unreadable(&mut self, now: Instant, id: Option<u64>, size: usize) -> bool {
        self.prove(now);
        self.counts.malformed += 1;
        if let Some(id) = id {
            self.gathered.push((Event::Lagged(0), Some(id), size));
        }
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
        if !self.hold.is_empty() {
            // A consumer that keeps pace is not made to wait for the next look.
            self.move_held(now, queue);
            self.look = self.look.map(|_| (now + LOOK_FIRST, LOOK_FIRST));
        }
        let mut gathered = std::mem::take(&mut self.gathered);
        for (event, id, size) in gathered.drain(..) {
            self.deliver(now, queue, event, id, size);
        }
        // Its memory serves again.
        self.gathered = gathered;
    }

    fn deliver(
        &mut self,
        now: Instant,
        queue: &mut impl EventQueue,
        event: Event,
        id: Option<u64>,
        size: usize,
    ) {
        if id.is_some_and(|id| !self.is_new(now, id, size)) {
            return;
        }
        if let (Event::Lagged(_), Some(id)) = (&event, id) {
            // Stands for a frame that could not be read.
            return match self.hold.is_empty() {
                true => self.sequence.handed(id, size, now),
                false => self.hold.push(Held::Skipped { id, size }),
            };
        }
        self.counts.messages += 1;
        let room = match self.hold.is_empty() {
            true => queue.room(Bound::Normal),
            false => Room::Wait,
        };
        match room {
            Room::Yes => self.put(queue, event, Some(size)),
            Room::Wait => {
                self.hold.push(Held::Message { event, id, size });
                self.look.get_or_insert((now + LOOK_FIRST, LOOK_FIRST));
                return;
            }
            Room::Drop => self.drop_one(now),
            Room::Discard => {}
            Room::Stop => {
                self.inputs.push(Input::Stop(queue_full()));
                return;
            }
        }
        if let Some(id) = id {
            self.sequence.handed(id, size, now);
        }
    }

    /// Whether a sequence id is new. A repeated one is acknowledged again, one that cannot be true
    /// ends the session.
    fn is_new(&mut self, now: Instant, id: u64, size: usize) -> bool {
        if let Some(replay) = &mut self.replay {
            replay.count();
        }
        match self.sequence.check(id) {
            Verdict::New => true,
            Verdict::Duplicate => {
                self.counts.duplicates += 1;
                self.sequence.handed(0, size, now);
                false
            }
            Verdict::Wild => {
                self.end.get_or_insert_with(|| wild_id(id, self.sequence.seen()));
                false
            }
        }
    }

    fn drop_one(&mut self, now: Instant) {
        self.lagged += 1;
        self.counts.dropped += 1;
        self.look.get_or_insert((now + LOOK_LAGGED, LOOK_LAGGED));
    }

    /// Behind the note of what was dropped before.
    fn put(&mut self, queue: &mut impl EventQueue, event: Event, size: Option<usize>) {
        if self.lagged > 0 {
            queue.push(Event::Lagged(std::mem::take(&mut self.lagged)), None);
        }
        queue.push(event, size);
    }

    /// Moves what is held into the queue as far as it has room. True if something moved.
    fn move_held(&mut self, now: Instant, queue: &mut impl EventQueue) -> bool {
        let mut moved = false;
        while let Some(front) = self.hold.front() {
            let is_message = matches!(front, Held::Message { .. });
            if is_message && queue.room(Bound::Normal) == Room::Wait {
                return moved;
            }
            self.move_one(now, queue);
            moved = true;
        }
        self.look = None;
        moved
    }

    fn move_one(&mut self, now: Instant, queue: &mut impl EventQueue) {
        match self.hold.pop() {
            Some(Held::Message { event, id, size }) => {
                self.put(queue, event, Some(size));
                if let Some(id) = id {
                    self.sequence.handed(id, size, now);
                }
            }
            Some(Held::Skipped { id, size }) => self.sequence.handed(id, size, now),
            Some(Held::Event(event)) => self.put(queue, event, None),
            None => {}
        }
    }

    /// An event of the session: it enters the queue, behind what is held.
    pub(crate) fn event(&mut self, now: Instant, event: Event, queue: &mut impl EventQueue) {
        match &event {
            // A new connection numbers from 1, and what is left of a replay is none of it.
            Event::Connected(_) => {
                self.sequence = Sequence::default();
                self.replay = None;
            }
            Event::Recovering(_) => {
                // The service sends again what is not acknowledged, so also what is held: without
                // the rewind that would count as repeated, and be lost.
                self.counts.messages -= self.hold.drop_numbered();
                self.sequence.rewind();
            }
            Event::Disconnected(_) | Event::Stopped(_) => self.release(now, queue, &event),
            _ => {}
        }
        if self.hold.is_empty() {
            self.put(queue, event, None);
        } else {
            self.hold.push(Held::Event(event));
        }
    }

    /// The connection is over: what is held enters the queue above its bound, since nobody sends it
    /// again.
    fn release(&mut self, now: Instant, queue: &mut impl EventQueue, why: &Event) {
        while let Some(front) = self.hold.front() {
            // A loss may come again and again while nobody takes events; an end comes once.
            let enters = !matches!(front, Held::Message { .. })
                || matches!(why, Event::Stopped(_))
                || queue.room(Bound::LastCall) == Room::Yes;
            if enters {
                self.move_one(now, queue);
            } else {
                self.hold.pop();
                self.drop_one(now);
            }
        }
    }

    // --- time ----------------------------------------------------------------------------------

    /// The next instant at which [`tick`](Self::tick) or an acknowledgment is due.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        let ack = self.sequence.next_wake().filter(|_| self.may_acknowledge());
        let replay = self.replay.as_ref().map(Replay::next_wake);
        let look = self.look.map(|(at, _)| at);
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
        if let Some((at, pause)) = self.look
            && at <= now
        {
            self.look_for_room(now, pause, queue);
        }
        self.watch_replay(now);
        self.watch_silence(now, excused_until);
    }

    fn look_for_room(&mut self, now: Instant, pause: Duration, queue: &mut impl EventQueue) {
        if !self.hold.is_empty() {
            let moved = self.move_held(now, queue);
            let next = if moved { LOOK_FIRST } else { (pause * 2).min(LOOK_LAST) };
            self.look = (!self.hold.is_empty()).then_some((now + next, next));
        } else if self.lagged > 0 && queue.room(Bound::Normal) != Room::Yes {
            self.look = Some((now + LOOK_LAGGED, LOOK_LAGGED));
        } else {
            self.look = None;
            if self.lagged > 0 {
                queue.push(Event::Lagged(std::mem::take(&mut self.lagged)), None);
            }
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

    /// What the session must be told, in order.
    pub(crate) fn take_inputs(&mut self) -> std::vec::Drain<'_, Input> {
        self.acks = 0;
        self.inputs.drain(..)
    }

    pub(crate) fn has_inputs(&self) -> bool {
        !self.inputs.is_empty()
    }

    fn may_acknowledge(&self) -> bool {
        self.replay.as_ref().is_none_or(Replay::is_proved)
    }

    /// The sequence id to acknowledge now.
    pub(crate) fn take_sequence_ack(&mut self, now: Instant) -> Option<u64> {
        self.may_acknowledge().then(|| self.sequence.take_ack(now)).flatten()
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
        self.hold.is_nearly_full()
    }

    /// The queue is at its bound: something is held, or was dropped and is not reported yet.
    pub(crate) fn is_full(&self) -> bool {
        !self.hold.is_empty() || self.lagged > 0
    }
}

fn queue_full() -> Error {
    Error::new(ErrorKind::QueueFull, "the event queue is full and its policy is to disconnect")
}

fn wild_id(id: u64, seen: u64) -> Loss {
    let error = Error::new(
        ErrorKind::Disconnected,
        format!("the service sent the sequence id {id} after {seen}, which cannot be true"),
    );
    // A recovery would bring it again.
    Loss { violation: true, ..Loss::of(error) }
}
