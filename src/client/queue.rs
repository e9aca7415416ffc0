//! The event queue: an unbounded channel with one producer, the reader, who keeps the bounds.
//!
//! The bounds hold for messages; lifecycle events always enter. A bounded channel would either
//! lose acks (which come over the same connection) or block the reader that must read them.

use std::collections::VecDeque;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::message::Event;

/// What happens to messages when the event queue is full. See
/// [`ClientBuilder::queue_messages`](crate::ClientBuilder::queue_messages).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Overflow {
    /// The reader stops reading until there is room, so the service feels it. Nothing is lost,
    /// but a reliable consumer that falls some 2000 messages behind loses its session to the
    /// service's own limit of 1000 unacknowledged messages.
    #[default]
    Wait,
    /// New messages are dropped and counted; [`Event::Lagged`] stands where they would have been.
    DropNewest,
    /// The client stops; [`Event::Stopped`] tells why.
    Disconnect,
}

/// The bounds of the event queue.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// Messages, while no call is in flight.
    pub(super) soft: usize,
    /// Messages, while a call is in flight: its ack must be read.
    pub(super) hard: usize,
    pub(super) bytes: usize,
    pub(super) overflow: Overflow,
    /// Without a queue all messages and events are discarded.
    pub(super) off: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            soft: 1024,
            hard: 16 * 1024,
            bytes: 64 * 1024 * 1024,
            overflow: Overflow::Wait,
            off: false,
        }
    }
}

/// Of so many messages one looks at the channel's length.
const LOOK_EVERY: usize = 64;

#[derive(Debug)]
pub(super) struct Queue {
    events: Sender<Event>,
    /// For its length only.
    receiver: Receiver<Event>,
    limits: Limits,
    /// The sizes of the last `receiver.len()` events, oldest first; `None` for lifecycle events,
    /// which do not count.
    sizes: VecDeque<Option<usize>>,
    messages: usize,
    bytes: usize,
    /// When `sizes` is so long, it is compared with the channel again.
    look_at: usize,
    high_water: usize,
    /// Messages dropped since the last one that entered.
    lagged: u64,
    /// `Stopped` is in: nothing follows it.
    ended: bool,
}

/// What to do with a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Room {
    Yes,
    /// Ask again later.
    Wait,
    Drop,
    Disconnect,
}

impl Queue {
    pub(super) fn new(limits: Limits) -> (Self, Receiver<Event>) {
        let (events, receiver) = unbounded();
        let queue = Self {
            events,
            receiver: receiver.clone(),
            limits,
            sizes: VecDeque::new(),
            messages: 0,
            bytes: 0,
            look_at: LOOK_EVERY,
            high_water: 0,
            lagged: 0,
            ended: false,
        };
        (queue, receiver)
    }

    /// Whether a message may enter; `in_flight` tells whether a call is.
    pub(super) fn room(&mut self, in_flight: impl FnOnce() -> bool) -> Room {
        if self.limits.off || self.ended {
            return Room::Drop;
        }
        // Asking the channel for its length disturbs the receiver, so it is done now and then, and
        // at the bounds.
        if self.sizes.len() >= self.look_at
            || self.messages >= self.limits.soft
            || self.bytes >= self.limits.bytes
        {
            self.forget_taken();
            self.look_at = self.sizes.len() + LOOK_EVERY;
        }
        let len = self.messages;
        let full = self.bytes >= self.limits.bytes
            || len >= self.limits.hard.max(self.limits.soft)
            || (len >= self.limits.soft
                && (self.limits.overflow != Overflow::Wait || !in_flight()));
        match self.limits.overflow {
            _ if !full => Room::Yes,
            Overflow::Wait => Room::Wait,
            Overflow::DropNewest => Room::Drop,
            Overflow::Disconnect => Room::Disconnect,
        }
    }

    /// The most events that were in the queue, as far as it was looked at.
    pub(super) fn high_water(&self) -> usize {
        self.high_water
    }

    fn forget_taken(&mut self) {
        let len = self.receiver.len();
        while self.sizes.len() > len {
            if let Some(size) = self.sizes.pop_front().flatten() {
                self.messages -= 1;
                self.bytes -= size;
            }
        }
        self.high_water = self.high_water.max(len);
    }

    /// Puts a message in, behind the note of those dropped before it. `size`: the bytes that it
    /// keeps alive.
    pub(super) fn push(&mut self, message: Event, size: usize) {
        if self.lagged > 0 {
            let lagged = std::mem::take(&mut self.lagged);
            self.push_event(Event::Lagged(lagged));
        }
        self.sizes.push_back(Some(size));
        self.messages += 1;
        self.bytes += size;
        // The receiver lives as long as this queue.
        let _ = self.events.send(message);
    }

    /// True if the drop is one to count: without a queue nothing is missed.
    pub(super) fn note_dropped(&mut self) -> bool {
        if self.limits.off {
            return false;
        }
        self.lagged += 1;
        true
    }

    pub(super) fn push_event(&mut self, event: Event) {
        if self.limits.off || self.ended {
            return;
        }
        if self.lagged > 0 && !matches!(event, Event::Lagged(_)) {
            let lagged = std::mem::take(&mut self.lagged);
            self.push_event(Event::Lagged(lagged));
        }
        self.ended = matches!(event, Event::Stopped(_));
        self.forget_taken();
        self.sizes.push_back(None);
        let _ = self.events.send(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::message::{ServerMessage, Stopped};

    fn message() -> Event {
        Event::ServerMessage(ServerMessage::new("x"))
    }

    fn queue(overflow: Overflow) -> (Queue, Receiver<Event>) {
        Queue::new(Limits { soft: 2, hard: 4, bytes: 100, overflow, off: false })
    }

    #[test]
    fn the_soft_bound_yields_to_calls_in_flight_and_the_hard_bound_does_not() {
        let (mut q, events) = queue(Overflow::Wait);
        for _ in 0..2 {
            assert_eq!(q.room(|| false), Room::Yes);
            q.push(message(), 1);
        }
        assert_eq!(q.room(|| false), Room::Wait);
        assert_eq!(q.room(|| true), Room::Yes);
        q.push(message(), 1);
        q.push(message(), 1);
        assert_eq!(q.room(|| true), Room::Wait);
        events.try_iter().take(3).count();
        assert_eq!(q.room(|| false), Room::Yes);
    }

    #[test]
    fn the_byte_bound_counts_what_is_still_in_the_queue() {
        let (mut q, events) = queue(Overflow::Wait);
        q.push(message(), 99);
        assert_eq!(q.room(|| false), Room::Yes);
        q.push(message(), 1);
        assert_eq!(q.room(|| true), Room::Wait);
        assert!(events.try_recv().is_ok());
        assert_eq!(q.room(|| true), Room::Yes);
    }

    #[test]
    fn lifecycle_events_always_enter_and_do_not_count() {
        let (mut q, _events) = queue(Overflow::Wait);
        for _ in 0..10 {
            q.push_event(Event::Lagged(1));
        }
        assert_eq!(q.room(|| false), Room::Yes);
        q.push(message(), 1);
        q.push(message(), 1);
        assert_eq!(q.room(|| false), Room::Wait);
    }

    #[test]
    fn nothing_follows_stopped() {
        let (mut q, events) = queue(Overflow::DropNewest);
        for _ in 0..3 {
            match q.room(|| false) {
                Room::Yes => q.push(message(), 1),
                _ => assert!(q.note_dropped()),
            }
        }
        q.push_event(Event::Stopped(Stopped { cause: Error::closed() }));
        let all: Vec<_> = events.try_iter().collect();
        assert!(matches!(all[..], [_, _, Event::Lagged(1), Event::Stopped(_)]));
        // There is room again, but a message that was gathered before the stop comes too late.
        assert_eq!(q.room(|| false), Room::Drop);
        q.push_event(Event::Lagged(1));
        assert!(events.is_empty());
    }

    #[test]
    fn dropped_messages_are_noted_where_they_would_have_been() {
        let (mut q, events) = queue(Overflow::DropNewest);
        q.push(message(), 1);
        q.push(message(), 1);
        assert_eq!(q.room(|| true), Room::Drop);
        assert!(q.note_dropped() && q.note_dropped());
        assert!(events.try_recv().is_ok());
        q.push(message(), 1);
        let rest: Vec<_> = events.try_iter().collect();
        assert!(matches!(
            rest[..],
            [Event::ServerMessage(_), Event::Lagged(2), Event::ServerMessage(_)]
        ));
    }
}
