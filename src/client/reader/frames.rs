//! What the reader does with the frames that come: decode, gather, hand over, wait for room.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::select;

use super::super::queue::Room;
use super::super::stats::add;
use super::Reader;
use crate::error::{Error, ErrorKind};
use crate::message::{Event, Payload, ServerMessage};
use crate::protocol::{Downstream, Frame};
use crate::session::{Beat, Identity, RECOVERY_PONG, Verdict};

/// While the queue is full the reader looks again after so long, doubling up to the second.
const FULL_FIRST: Duration = Duration::from_micros(200);
const FULL_LAST: Duration = Duration::from_millis(10);

/// A full queue is worth a warning so often.
const WARN_EVERY: Duration = Duration::from_secs(10);

impl Reader {
    pub(super) fn is_handed_over(&self) -> bool {
        self.gathered.is_empty() && self.acks.is_empty()
    }

    /// Puts the gathered messages into the queue, or tells the gathered acks.
    pub(super) fn hand_over(&mut self) {
        self.tell_acks();
        let mut gathered = std::mem::take(&mut self.gathered);
        for (message, id, size) in gathered.drain(..) {
            self.message(message, id, size);
        }
        // Its memory serves again.
        self.gathered = gathered;
    }

    fn tell_acks(&mut self) {
        if self.acks.is_empty() {
            return;
        }
        let mut acks = std::mem::take(&mut self.acks);
        self.step(|session, now| {
            for (id, success, error) in acks.drain(..) {
                session.ack(now, id, success, error);
            }
        });
        self.acks = acks;
    }

    fn gather(&mut self, message: Event, id: Option<u64>, size: usize) {
        self.tell_acks();
        self.gathered.push((message, id, size));
    }

    pub(super) fn frame(&mut self, frame: &Frame) {
        let size = frame.as_bytes().len();
        add(&self.shared.counters.bytes_in, size as u64);
        let Some(decoder) = &mut self.decoder else {
            let payload = match frame.clone() {
                Frame::Text(text) => Payload::Text(text),
                Frame::Binary(bytes) => Payload::Binary(bytes),
            };
            let message = Event::ServerMessage(ServerMessage::new(payload));
            return self.gather(message, None, size);
        };
        let decoded = decoder.decode(frame);
        if !matches!(decoded, Ok(Downstream::Connected { .. })) {
            self.prove();
        }
        match decoded {
            Ok(Downstream::GroupMessage(m)) => {
                let id = m.sequence_id;
                self.gather(Event::GroupMessage(m), id, size);
            }
            Ok(Downstream::ServerMessage(m)) => {
                let id = m.sequence_id;
                self.gather(Event::ServerMessage(m), id, size);
            }
            Ok(Downstream::Ack { ack_id, success, error }) => {
                if !self.gathered.is_empty() {
                    self.hand_over();
                }
                let error = error.map(|e| (e.name, e.message.unwrap_or_default()));
                self.acks.push((ack_id, success, error));
            }
            Ok(other) => {
                self.hand_over();
                self.control(other, size);
            }
            Err(malformed) => {
                self.hand_over();
                log::warn!("a frame could not be read and was skipped: {}", malformed.why);
                add(&self.shared.counters.malformed, 1);
                self.count_id(malformed.sequence_id, size);
            }
        }
    }

    fn control(&mut self, message: Downstream, size: usize) {
        match message {
            Downstream::Pong => self.note_pong(),
            Downstream::Connected { connection_id, user_id, reconnection_token } => {
                let identity = Identity {
                    connection_id: connection_id.into(),
                    user_id: user_id.map(Into::into),
                    token: reconnection_token,
                };
                self.step(|session, now| session.connected(now, identity));
                self.prove();
            }
            Downstream::Disconnected { message } => {
                self.step(|session, _| session.service_said(message));
            }
            other => {
                log::debug!("a frame of an unknown or unused kind was skipped");
                add(&self.shared.counters.malformed, 1);
                self.count_id(other.sequence_id(), size);
            }
        }
    }

    /// On a recovery link the first frame, whatever it is, shows that the session is ours again.
    pub(super) fn prove(&mut self) {
        if self.proof_until.take().is_some() {
            self.pong_until = Some(self.now + RECOVERY_PONG);
            self.step(|session, now| session.proved(now));
        }
    }

    pub(super) fn note_pong(&mut self) {
        self.shared.note_pong();
        if self.pong_until.take().is_some() {
            let replayed = self.inbox.take_replayed();
            self.step(|session, now| session.recovered(now, replayed));
        }
    }

    /// A frame that is not delivered still counts for the service.
    fn count_id(&mut self, id: Option<u64>, size: usize) {
        if let Some(id) = id {
            self.inbox.check(id);
            self.handled(size);
        }
    }

    fn message(&mut self, message: Event, id: Option<u64>, size: usize) {
        if id.is_some_and(|id| self.inbox.check(id) == Verdict::Duplicate) {
            add(&self.shared.counters.duplicates, 1);
            return self.handled(size);
        }
        add(&self.shared.counters.messages_in, 1);
        if self.wait_for_room() {
            self.queue.push(message, size);
            let high = self.queue.high_water() as u64;
            self.shared.counters.queue_high_water.store(high, Ordering::Relaxed);
        } else if self.queue.note_dropped() {
            add(&self.shared.counters.dropped, 1);
            self.warn_full("messages are dropped");
        }
        if id.is_some() {
            self.handled(size);
        }
    }

    fn handled(&mut self, size: usize) {
        if let Some(id) = self.inbox.handled(size, self.now) {
            self.acknowledge(id);
        }
    }

    /// Waits while the queue is full, if that is its policy. False: drop the message.
    fn wait_for_room(&mut self) -> bool {
        let mut pause = None;
        let enters = loop {
            let shared = &self.shared;
            match self.queue.room(|| shared.lock().session.pending() > 0) {
                Room::Yes => break true,
                Room::Drop => break false,
                Room::Wait => {}
                Room::Disconnect => {
                    let error = Error::new(
                        ErrorKind::QueueFull,
                        "the event queue is full and its policy is to disconnect",
                    );
                    self.step(|session, _| session.stop(error));
                    break false;
                }
            }
            if pause.is_none() && self.shared.lock().session.pending() > 0 {
                self.warn_full("nothing is read, acks included, until somebody takes events");
            }
            // The first time only the flag is raised: a call that came in between is seen by
            // another look, one that comes later nudges.
            self.shared.reader_waits.store(true, Ordering::SeqCst);
            if let Some(pause) = pause
                && self.pause(pause)
            {
                break false;
            }
            pause = Some(pause.map_or(FULL_FIRST, |p: Duration| (p * 2).min(FULL_LAST)));
        };
        if pause.is_some() {
            self.shared.reader_waits.store(false, Ordering::SeqCst);
        }
        enters
    }

    /// Now and then: a consumer that is too slow fills the queue again and again.
    fn warn_full(&mut self, what: &str) {
        if self.warned.is_none_or(|at| self.now.duration_since(at) >= WARN_EVERY) {
            self.warned = Some(self.now);
            log::warn!("the event queue is full: {what}");
        }
    }

    /// One wait for room. True if the client is ending.
    fn pause(&mut self, pause: Duration) -> bool {
        if let Some(link) = self.link() {
            link.flush_deferred();
        }
        select! {
            recv(self.shared.stop.receiver()) -> _ => {}
            recv(self.shared.nudged()) -> _ => {}
            default(pause) => {}
        }
        // We do not listen now, so silence proves nothing; but we go on showing life ourselves.
        let now = Instant::now();
        self.now = now;
        if matches!(self.keep_alive.due(now), Some(Beat::Ping))
            && let Some(link) = self.link()
        {
            self.shared.append_ping(&link);
            link.flush(now);
            self.keep_alive.heard(now);
        }
        if let Some(id) = self.inbox.due(now) {
            self.acknowledge(id);
        }
        if self.session_wake.is_some_and(|at| at <= now) {
            self.tick();
        }
        self.link_cut || self.shared.lock().session.ended().is_some()
    }
}
