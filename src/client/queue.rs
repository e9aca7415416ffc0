//! The event queue: an unbounded channel with one producer, the reader, who keeps the bounds.
//!
//! The bounds hold for messages; lifecycle events always enter. A bounded channel would either
//! lose acks (which come over the same connection) or block the reader that must read them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::config::{Overflow, QueueConfig};
use super::wake::WakeHook;
use crate::message::{Event, Payload};
use crate::session::{Bound, HOLD_BYTES, HOLD_MESSAGES, Room};

/// A program that never asks for the event queue leaves this many events in it; well above the default
/// bound of messages.
const MOST_UNASKED: usize = 4096;

/// One of this many messages looks at the channel's length.
const LOOK_EVERY: usize = 64;

/// What a queue holds.
pub(crate) trait Item {
    /// Nothing follows it.
    fn is_last(&self) -> bool {
        false
    }
}

impl Item for Event {
    fn is_last(&self) -> bool {
        matches!(self, Self::Stopped(_))
    }
}

/// A part of a stream.
impl Item for Payload {}

#[derive(Debug)]
pub(crate) struct Queue<T = Event> {
    events: Sender<T>,
    /// For its length only.
    receiver: Receiver<T>,
    limits: QueueConfig,
    /// Without a queue all messages and events are discarded.
    off: bool,
    /// How many calls have not ended.
    calls: Arc<AtomicUsize>,
    /// The program has asked for what comes here.
    asked: Arc<AtomicBool>,
    /// The sizes of the last `receiver.len()` events, oldest first; `None` for lifecycle events,
    /// which do not count.
    sizes: VecDeque<Option<usize>>,
    messages: usize,
    bytes: usize,
    /// When `sizes` is this long, it is compared with the channel again.
    look_at: usize,
    high_water: usize,
    /// The last item is in: nothing follows it.
    ended: bool,
    /// Asked for a call when an event enters the empty queue.
    hook: Option<Arc<WakeHook>>,
}

impl<T: Item> Queue<T> {
    /// `None`: no queue. `asked`: whether the program has asked for what comes here.
    pub(crate) fn new(
        config: Option<QueueConfig>,
        calls: Arc<AtomicUsize>,
        asked: Arc<AtomicBool>,
        hook: Option<Arc<WakeHook>>,
    ) -> (Self, Receiver<T>) {
        let (events, receiver) = unbounded();
        let queue = Self {
            events,
            receiver: receiver.clone(),
            off: config.is_none(),
            limits: config.unwrap_or_default(),
            calls,
            asked,
            sizes: VecDeque::new(),
            messages: 0,
            bytes: 0,
            look_at: LOOK_EVERY,
            high_water: 0,
            ended: false,
            hook,
        };
        (queue, receiver)
    }

    /// The events that nobody has taken.
    pub(crate) fn len(&self) -> usize {
        self.receiver.len()
    }

    /// The most events that were in the queue, as far as it was looked at.
    pub(crate) fn high_water(&self) -> usize {
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

    /// Lifecycle events always enter, so if nobody has asked for them the oldest give way.
    fn forget_unasked(&mut self) {
        if self.sizes.len() >= MOST_UNASKED
            && !self.asked.load(Ordering::Relaxed)
            && let Some(size) = self.sizes.pop_front()
        {
            let _ = self.receiver.try_recv();
            if let Some(size) = size {
                self.messages -= 1;
                self.bytes -= size;
            }
        }
    }

    fn is_full(&self, bound: Bound) -> bool {
        let hard = self.limits.max_messages_during_calls.max(self.limits.max_messages);
        match bound {
            Bound::LastCall => {
                self.messages >= hard.saturating_add(HOLD_MESSAGES)
                    || self.bytes >= self.limits.max_bytes.saturating_add(HOLD_BYTES)
            }
            Bound::Normal if self.bytes >= self.limits.max_bytes || self.messages >= hard => true,
            // The soft bound yields while a call is in flight: its ack comes behind the messages.
            Bound::Normal => {
                self.messages >= self.limits.max_messages
                    && (self.limits.overflow != Overflow::Wait
                        || self.calls.load(Ordering::Relaxed) == 0)
            }
        }
    }
}

impl<T: Item> Queue<T> {
    /// Whether a message may enter.
    pub(crate) fn room(&mut self, bound: Bound) -> Room {
        if self.off || self.ended {
            return Room::Discard;
        }
        // Asking the channel for its length disturbs the receiver, so it is done now and then, and
        // at the bounds.
        if self.sizes.len() >= self.look_at
            || self.messages >= self.limits.max_messages
            || self.bytes >= self.limits.max_bytes
        {
            self.forget_taken();
            self.look_at = self.sizes.len() + LOOK_EVERY;
        }
        match self.limits.overflow {
            _ if !self.is_full(bound) => Room::Yes,
            // Nobody has asked for it, so nobody may ever read it.
            Overflow::Wait if !self.asked.load(Ordering::Relaxed) => Room::Drop,
            Overflow::Wait => Room::Wait,
            Overflow::DropNewest => Room::Drop,
            Overflow::Stop => Room::Stop,
        }
    }

    /// See [`EventQueue::push`](crate::session::EventQueue::push).
    pub(crate) fn push(&mut self, event: T, size: Option<usize>) {
        if self.off || self.ended {
            return;
        }
        self.ended = event.is_last();
        match size {
            Some(size) => {
                self.messages += 1;
                self.bytes += size;
            }
            None => {
                self.forget_taken();
                self.forget_unasked();
            }
        }
        self.sizes.push_back(size);
        // The receiver lives as long as this queue.
        let _ = self.events.send(event);
        // Looked at afterwards: a reader of the queue that has found it empty in between is woken for
        // this event, and one that has not is still to find it.
        if let Some(hook) = &self.hook
            && self.receiver.len() <= 1
        {
            hook.request();
        }
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

    fn queue(overflow: Overflow) -> (Queue, Receiver<Event>, Arc<AtomicUsize>) {
        let calls = Arc::new(AtomicUsize::new(0));
        let config =
            QueueConfig { max_messages: 2, max_messages_during_calls: 4, max_bytes: 100, overflow };
        let (queue, events) =
            Queue::new(Some(config), Arc::clone(&calls), Arc::new(true.into()), None);
        (queue, events, calls)
    }

    fn room(q: &mut Queue) -> Room {
        q.room(Bound::Normal)
    }

    #[test]
    fn the_soft_bound_yields_to_calls_in_flight_and_the_hard_bound_does_not() {
        let (mut q, events, calls) = queue(Overflow::Wait);
        for _ in 0..2 {
            assert_eq!(room(&mut q), Room::Yes);
            q.push(message(), Some(1));
        }
        assert_eq!(room(&mut q), Room::Wait);
        calls.store(1, Ordering::Relaxed);
        assert_eq!(room(&mut q), Room::Yes);
        q.push(message(), Some(1));
        q.push(message(), Some(1));
        assert_eq!(room(&mut q), Room::Wait);
        assert_eq!(q.room(Bound::LastCall), Room::Yes);
        calls.store(0, Ordering::Relaxed);
        events.try_iter().take(3).count();
        assert_eq!(room(&mut q), Room::Yes);
    }

    #[test]
    fn the_byte_bound_counts_what_is_still_in_the_queue() {
        let (mut q, events, calls) = queue(Overflow::Wait);
        calls.store(1, Ordering::Relaxed);
        q.push(message(), Some(99));
        assert_eq!(room(&mut q), Room::Yes);
        q.push(message(), Some(1));
        assert_eq!(room(&mut q), Room::Wait);
        assert!(events.try_recv().is_ok());
        assert_eq!(room(&mut q), Room::Yes);
    }

    #[test]
    fn the_last_call_is_bounded_too() {
        let (mut q, _events, _) = queue(Overflow::Wait);
        for _ in 0..4 + HOLD_MESSAGES {
            assert_eq!(q.room(Bound::LastCall), Room::Yes);
            q.push(message(), Some(0));
        }
        assert_eq!(q.room(Bound::LastCall), Room::Wait);
        let (mut q, _events, _) = queue(Overflow::Wait);
        q.push(message(), Some(100 + HOLD_BYTES));
        assert_eq!(q.room(Bound::LastCall), Room::Wait);
    }

    #[test]
    fn a_queue_without_bounds_never_fills() {
        let most = usize::MAX;
        let config = QueueConfig::new().max_messages(most).max_bytes(most);
        let (mut q, _events) =
            Queue::new(Some(config), Arc::default(), Arc::new(true.into()), None);
        q.push(message(), Some(1));
        assert_eq!((room(&mut q), q.room(Bound::LastCall)), (Room::Yes, Room::Yes));
    }

    #[test]
    fn lifecycle_events_always_enter_and_do_not_count() {
        let (mut q, _events, _) = queue(Overflow::Wait);
        for _ in 0..10 {
            q.push(Event::Lagged(1), None);
        }
        assert_eq!(room(&mut q), Room::Yes);
        q.push(message(), Some(1));
        q.push(message(), Some(1));
        assert_eq!(room(&mut q), Room::Wait);
    }

    #[test]
    fn what_nobody_has_asked_for_is_bounded() {
        let asked = Arc::new(AtomicBool::new(false));
        let (mut q, events) =
            Queue::new(Some(QueueConfig::new()), Arc::default(), Arc::clone(&asked), None);
        for n in 0..2 * MOST_UNASKED as u64 {
            q.push(Event::Lagged(n), None);
        }
        assert_eq!(events.len(), MOST_UNASKED);
        assert!(matches!(events.recv(), Ok(Event::Lagged(n)) if n == MOST_UNASKED as u64));
        asked.store(true, Ordering::Relaxed);
        for n in 0..10 {
            q.push(Event::Lagged(n), None);
        }
        assert_eq!(events.len(), MOST_UNASKED + 9);
    }

    #[test]
    fn each_policy_has_its_answer() {
        for (overflow, answer) in [
            (Overflow::Wait, Room::Wait),
            (Overflow::DropNewest, Room::Drop),
            (Overflow::Stop, Room::Stop),
        ] {
            let (mut q, _events, calls) = queue(overflow);
            q.push(message(), Some(1));
            q.push(message(), Some(1));
            assert_eq!(room(&mut q), answer);
            calls.store(1, Ordering::Relaxed);
            let waits = overflow == Overflow::Wait;
            assert_eq!(room(&mut q), if waits { Room::Yes } else { answer });
        }
    }

    #[test]
    fn nothing_follows_stopped() {
        let (mut q, events, _) = queue(Overflow::DropNewest);
        q.push(Event::Stopped(Stopped { cause: Error::closed() }), None);
        // A message that was gathered before the stop comes too late.
        assert_eq!(room(&mut q), Room::Discard);
        q.push(Event::Lagged(1), None);
        assert_eq!(events.try_iter().count(), 1);
    }
}
