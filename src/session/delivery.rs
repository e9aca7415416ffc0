//! From the receiver into the event queue: what has no room is held, in arrival order.
//!
//! Only what is in the queue, or was dropped by its policy, is acknowledged. Lifecycle events stay in
//! their places behind the messages that came before them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bug::Bug;
use super::hold::{Held, Hold};
use super::sequence::{Sequence, Verdict};
use crate::message::Event;

/// While something is held the queue's room is looked at again after this long, doubling;
const LOOK_FIRST: Duration = Duration::from_micros(200);
/// up to this long. (A channel cannot signal that it has room.)
const LOOK_LAST: Duration = Duration::from_millis(10);
/// Until a queue that dropped messages has room again it is looked at this often.
const LOOK_LAGGED: Duration = Duration::from_millis(250);

/// The event queue and those of subscriptions, as the receiver sees them.
pub(crate) trait EventQueue {
    /// Whether this message may enter.
    fn room(&mut self, bound: Bound, message: &Event) -> Room;
    /// Puts an event in. `size`: the bytes that a message keeps alive; `None` for a lifecycle
    /// event, which always enters.
    fn push(&mut self, event: Event, size: Option<usize>);
    /// This message is dropped, although no policy says so. True if a subscription will report it.
    fn drop_message(&mut self, _message: &Event) -> bool {
        false
    }
    /// Whether it goes to the event queue, and not to subscriptions.
    fn enters_event_queue(&mut self, _event: &Event) -> bool {
        true
    }
    /// A subscription has dropped messages and not reported them yet.
    fn owes_report(&self) -> bool {
        false
    }
    /// Reports them where there is room for it.
    fn report(&mut self) {}
}

/// What is unread where there is no room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unread {
    /// The subscription's group; `None`: the event queue.
    pub(crate) group: Option<Arc<str>>,
    pub(crate) messages: usize,
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

/// What has become of messages so far.
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
#[derive(Debug, Default)]
pub(super) struct Delivery {
    pub(super) sequence: Sequence,
    hold: Hold,
    /// Messages dropped since the last event that entered.
    lagged: u64,
    /// When the queue's room is looked at next, and the pause that led there.
    look: Option<(Instant, Duration)>,
    pub(super) counts: Counts,
}

/// What has come, on its way to the queue.
#[derive(Debug)]
pub(super) struct Arrived {
    /// `None`: a frame that could not be read, which still counts for the service.
    pub(super) message: Option<Event>,
    pub(super) id: Option<u64>,
    pub(super) size: usize,
}

/// How a delivery went, where the receiver must do something about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivered {
    Yes,
    /// The queue is full and its policy is to stop the client.
    Stop,
    /// The sequence id cannot be true.
    Wild,
}

impl Delivery {
    /// A new connection numbers from 1, and what is left to acknowledge is of the old one.
    pub(super) fn new_connection(&mut self) {
        self.sequence = Sequence::default();
    }

    /// Whether more may be read from the link.
    pub(super) fn may_read(&self, closing: bool) -> bool {
        self.hold.has_room(closing)
    }

    /// The queue is full, and by that much that it may be why the connection suffers.
    pub(super) fn is_behind(&self) -> bool {
        self.hold.is_nearly_full()
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> (usize, usize) {
        self.hold.weight()
    }

    /// Something is held, or was dropped and is not reported yet.
    pub(super) fn is_full(&self) -> bool {
        !self.hold.is_empty() || self.lagged > 0
    }

    pub(super) fn next_look(&self) -> Option<Instant> {
        self.look.map(|(at, _)| at)
    }

    pub(super) fn look_now(&mut self, now: Instant) {
        if let Some((at, _)) = &mut self.look {
            *at = now;
        }
    }

    /// More has come: a consumer that keeps pace is not made to wait for the next look.
    pub(super) fn busy(&mut self, now: Instant, queue: &mut impl EventQueue) {
        if !self.hold.is_empty() {
            self.move_held(now, queue);
            self.look = self.look.map(|_| (now + LOOK_FIRST, LOOK_FIRST));
        }
    }

    /// Puts one into the queue, or holds it.
    pub(super) fn deliver(
        &mut self,
        now: Instant,
        queue: &mut impl EventQueue,
        arrived: Arrived,
    ) -> Delivered {
        let Arrived { message, id, size } = arrived;
        match id.map_or(Verdict::New, |id| self.sequence.check(id)) {
            Verdict::New => {}
            Verdict::Duplicate if Bug::DeliverDuplicates.is_on() => {}
            Verdict::Duplicate => {
                self.counts.duplicates += 1;
                self.sequence.handed(0, size, now);
                return Delivered::Yes;
            }
            Verdict::Wild => return Delivered::Wild,
        }
        let Some(event) = message else {
            match (id, self.hold.is_empty()) {
                (Some(id), true) => self.sequence.handed(id, size, now),
                (Some(id), false) => self.hold.push(Held::Skipped { id, size }),
                (None, _) => {}
            }
            return Delivered::Yes;
        };
        self.counts.messages += 1;
        let room = match self.hold.is_empty() {
            true => queue.room(Bound::Normal, &event),
            false => Room::Wait,
        };
        match room {
            Room::Yes => {
                self.put(queue, event, Some(size));
                if queue.owes_report() {
                    self.look.get_or_insert((now + LOOK_LAGGED, LOOK_LAGGED));
                }
            }
            Room::Wait => {
                if let (true, Some(id)) = (Bug::AckHeld.is_on(), id) {
                    self.sequence.handed(id, size, now);
                }
                self.hold.push(Held::Message { event, id, size });
                // The present look may be the far one for dropped messages.
                let first = (now + LOOK_FIRST, LOOK_FIRST);
                self.look = Some(self.look.map_or(first, |look| look.min(first)));
                return Delivered::Yes;
            }
            Room::Drop => self.drop_one(now),
            Room::Discard => {}
            Room::Stop => return Delivered::Stop,
        }
        if let Some(id) = id {
            self.sequence.handed(id, size, now);
        }
        Delivered::Yes
    }

    fn drop_one(&mut self, now: Instant) {
        self.lagged += 1;
        self.counts.dropped += 1;
        self.look.get_or_insert((now + LOOK_LAGGED, LOOK_LAGGED));
    }

    /// Behind the note of what the event queue has dropped before, if it goes there too.
    fn put(&mut self, queue: &mut impl EventQueue, event: Event, size: Option<usize>) {
        if self.lagged > 0 && queue.enters_event_queue(&event) {
            queue.push(Event::Lagged(std::mem::take(&mut self.lagged)), None);
        }
        queue.push(event, size);
    }

    /// Moves what is held into the queue as far as it has room. True if something moved.
    fn move_held(&mut self, now: Instant, queue: &mut impl EventQueue) -> bool {
        let mut moved = false;
        while let Some(front) = self.hold.front() {
            if let Held::Message { event, .. } = front
                && queue.room(Bound::Normal, event) == Room::Wait
            {
                return moved;
            }
            self.move_one(now, queue);
            moved = true;
        }
        self.look_for_reports(now, queue);
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

    /// A lifecycle event. It always enters, behind what is held.
    pub(super) fn event(&mut self, now: Instant, event: Event, queue: &mut impl EventQueue) {
        match &event {
            Event::Recovering(_) => {
                // The service sends again what is not acknowledged, so also what is held: without
                // the rewind that would count as repeated, and be lost.
                self.counts.messages -= self.hold.drop_numbered();
                if !Bug::NoRewind.is_on() {
                    self.sequence.rewind();
                }
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
            let enters = match front {
                Held::Message { event, .. } => {
                    matches!(why, Event::Stopped(_))
                        || queue.room(Bound::LastCall, event) == Room::Yes
                }
                _ => true,
            };
            if enters {
                self.move_one(now, queue);
            } else if let Some(Held::Message { event, .. }) = self.hold.pop()
                && !queue.drop_message(&event)
            {
                self.drop_one(now);
            }
        }
    }

    /// Looks for room when that is due.
    pub(super) fn tick(&mut self, now: Instant, queue: &mut impl EventQueue) {
        let Some((at, pause)) = self.look else { return };
        if now < at {
            return;
        }
        if !self.hold.is_empty() {
            let moved = self.move_held(now, queue);
            if !self.hold.is_empty() {
                let next = if moved { LOOK_FIRST } else { (pause * 2).min(LOOK_LAST) };
                self.look = Some((now + next, next));
            }
        } else {
            self.report_drops(now, queue);
        }
    }

    fn report_drops(&mut self, now: Instant, queue: &mut impl EventQueue) {
        if queue.owes_report() {
            queue.report();
        }
        if self.lagged > 0 {
            let lagged = Event::Lagged(self.lagged);
            if queue.room(Bound::Normal, &lagged) == Room::Yes {
                self.lagged = 0;
                queue.push(lagged, None);
            }
        }
        self.look_for_reports(now, queue);
    }

    /// What was dropped and is not reported yet is looked after.
    fn look_for_reports(&mut self, now: Instant, queue: &impl EventQueue) {
        let owed = self.lagged > 0 || queue.owes_report();
        self.look = owed.then_some((now + LOOK_LAGGED, LOOK_LAGGED));
    }
}
