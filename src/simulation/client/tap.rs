//! Between the receiver and the queues: a second, much simpler opinion on what each queue gets.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::client::Queues;
use crate::message::Event;
use crate::session::{Bound, EventQueue, Room, Unread};

/// Counts what each queue is due.
pub(super) struct Tap {
    queues: Queues,
    /// Numbered messages are contiguous on a connection.
    reliable: bool,
    groups: BTreeMap<Arc<str>, Group>,
    /// By the numbers of the subscriptions.
    pub(super) due: Vec<u64>,
    /// Since the last `Connected`: to the event queue, and in all.
    pub(super) due_main: u64,
    pub(super) total: u64,
    pub(super) violation: Option<String>,
    /// The last question was about a message that is dropped or discarded, and so is counted already;
    /// it may be pushed all the same.
    counted: bool,
}

#[derive(Default)]
struct Group {
    subscriptions: Vec<usize>,
    leave: Option<u64>,
}

impl Tap {
    pub(super) fn new(queues: Queues, reliable: bool) -> Self {
        Self {
            queues,
            reliable,
            groups: BTreeMap::new(),
            due: Vec::new(),
            due_main: 0,
            total: 0,
            violation: None,
            counted: false,
        }
    }

    /// A subscription begins; its number.
    pub(super) fn add(&mut self, group: &Arc<str>) -> usize {
        let number = self.due.len();
        self.due.push(0);
        self.groups.entry(Arc::clone(group)).or_default().subscriptions.push(number);
        number
    }

    pub(super) fn remove(&mut self, group: &str, number: usize, leave: Option<u64>) {
        if let Some(group) = self.groups.get_mut(group) {
            group.subscriptions.retain(|other| *other != number);
            group.leave = leave.or(group.leave);
        }
    }

    pub(super) fn awaits_leave(&mut self, ack_id: u64) -> bool {
        self.queues.awaits_leave(ack_id)
    }

    pub(super) fn released(&mut self, group: &str, ack_id: u64) {
        self.queues.released(group, ack_id);
        if let Some(group) = self.groups.get_mut(group)
            && group.leave == Some(ack_id)
        {
            group.leave = None;
        }
    }

    pub(super) fn unread(&mut self) -> Unread {
        self.queues.unread()
    }

    fn count(&mut self, event: &Event) {
        let (group, id) = match event {
            Event::GroupMessage(m) => (self.groups.get(&*m.group), m.sequence_id),
            Event::ServerMessage(m) => (None, m.sequence_id),
            _ => return,
        };
        self.total += 1;
        if self.reliable && id != Some(self.total) {
            let text = format!("message {id:?} is handed over instead of {}", self.total);
            self.violation.get_or_insert(text);
        }
        match group {
            Some(Group { leave: Some(_), .. }) => {}
            Some(Group { subscriptions, .. }) if !subscriptions.is_empty() => {
                subscriptions.iter().for_each(|number| self.due[*number] += 1);
            }
            _ => self.due_main += 1,
        }
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::Connected(_) => (self.total, self.due_main) = (0, 0),
            Event::JoinFailed(failed) => {
                if let Some(group) = self.groups.get_mut(&failed.group) {
                    group.subscriptions.clear();
                }
            }
            Event::Stopped(_) => self.groups.clear(),
            _ => {}
        }
    }
}

impl EventQueue for Tap {
    fn room(&mut self, bound: Bound, message: &Event) -> Room {
        let room = self.queues.room(bound, message);
        self.counted = bound == Bound::Normal && matches!(room, Room::Drop | Room::Discard);
        if self.counted {
            self.count(message);
        }
        room
    }

    fn push(&mut self, event: Event, size: Option<usize>) {
        match size {
            Some(_) if std::mem::take(&mut self.counted) => {}
            Some(_) => self.count(&event),
            None => self.note(&event),
        }
        self.queues.push(event, size);
    }

    fn drop_message(&mut self, message: &Event) -> bool {
        if !std::mem::take(&mut self.counted) {
            self.count(message);
        }
        self.queues.drop_message(message)
    }

    fn enters_event_queue(&mut self, event: &Event) -> bool {
        self.queues.enters_event_queue(event)
    }

    fn owes_report(&self) -> bool {
        self.queues.owes_report()
    }

    fn report(&mut self) {
        self.queues.report();
    }
}
