//! Where what arrives goes: to the event queue, or to the queues of a group's subscriptions. Parts of
//! streams first go to the group's stream subscriptions, if it has any.
//!
//! The reader owns the queues. Subscriptions come and go on other threads, which leave a note
//! ([`Routes`]) that the reader takes before it looks at the next message. A note is left under the
//! session's lock, before the join is sent, so no message behind the join's ack is missed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use super::queue::Queue;
use super::stream_queues::{StreamQueues, StreamRoute};
use crate::error::{Error, ErrorKind};
use crate::message::{Event, GroupMessage, Stopped};
use crate::session::{Bound, EventQueue, Room, Unread};

/// Notes for the reader.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    /// Whether there are any; so the reader takes no lock for a message.
    changed: AtomicBool,
    changes: Mutex<Vec<Change>>,
    next_id: AtomicU64,
}

#[derive(Debug)]
enum Change {
    Add(Arc<str>, Route),
    /// `leave`: the group is about to be left, under this ack id.
    Remove {
        group: Arc<str>,
        id: u64,
        leave: Option<u64>,
    },
    AddStreams(Box<StreamRoute>),
    /// The same of a stream subscription; without a group it has all.
    RemoveStreams {
        group: Option<Arc<str>>,
        id: u64,
        leave: Option<u64>,
    },
    /// The program has thrown this stream of a subscription away.
    IgnoreStream {
        id: u64,
        stream: u64,
    },
}

/// A group with subscriptions, or that is being left after the last one.
#[derive(Debug, Default)]
struct Group {
    routes: Vec<Route>,
    /// The ack id of the leave that has not ended. What comes until then is for nobody: not for the
    /// subscriptions that have ended, nor for one whose join is behind the leave.
    leave: Option<u64>,
}

/// One subscription's queue.
#[derive(Debug)]
pub(crate) struct Route {
    id: u64,
    queue: Queue,
    end: Arc<OnceLock<Error>>,
    /// Messages dropped since the last event that entered.
    lagged: u64,
}

impl Route {
    pub(crate) fn new(id: u64, queue: Queue, end: Arc<OnceLock<Error>>) -> Self {
        Self { id, queue, end, lagged: 0 }
    }

    fn put(&mut self, event: Event, size: Option<usize>) {
        if self.lagged > 0 {
            self.queue.push(Event::Lagged(std::mem::take(&mut self.lagged)), None);
        }
        self.queue.push(event, size);
    }

    fn stop(&mut self, cause: &Error) {
        let _ = self.end.set(cause.clone());
        self.put(Event::Stopped(Stopped { cause: cause.clone() }), None);
    }
}

impl Routes {
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn add(&self, group: &Arc<str>, route: Route) {
        self.note(Change::Add(Arc::clone(group), route));
    }

    pub(crate) fn remove(&self, group: &Arc<str>, id: u64, leave: Option<u64>) {
        self.note(Change::Remove { group: Arc::clone(group), id, leave });
    }

    pub(crate) fn add_streams(&self, route: StreamRoute) {
        self.note(Change::AddStreams(Box::new(route)));
    }

    pub(crate) fn remove_streams(&self, group: Option<&Arc<str>>, id: u64, leave: Option<u64>) {
        self.note(Change::RemoveStreams { group: group.cloned(), id, leave });
    }

    pub(crate) fn ignore_stream(&self, id: u64, stream: u64) {
        self.note(Change::IgnoreStream { id, stream });
    }

    fn note(&self, change: Change) {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).push(change);
        self.changed.store(true, Ordering::Release);
    }

    fn take(&self) -> Vec<Change> {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, as in `note`: a note behind this one raises the flag again.
        self.changed.store(false, Ordering::Relaxed);
        std::mem::take(&mut changes)
    }
}

/// The event queue and those of the subscriptions.
#[derive(Debug)]
pub(crate) struct Queues {
    main: Queue,
    groups: HashMap<Arc<str>, Group>,
    /// How many of them are being left.
    leaving: usize,
    routes: Arc<Routes>,
    /// Some subscription has dropped messages and not said so.
    owes_report: bool,
    dropped: u64,
    streams: StreamQueues,
    /// The time of the reader's round.
    now: Instant,
}

impl Queues {
    pub(crate) fn new(main: Queue, routes: Arc<Routes>, now: Instant) -> Self {
        Self {
            main,
            groups: HashMap::new(),
            leaving: 0,
            routes,
            owes_report: false,
            dropped: 0,
            streams: StreamQueues::default(),
            now,
        }
    }

    /// A round of the reader begins. A subscription that has ended shows that from now on, though
    /// nothing may arrive.
    pub(crate) fn round(&mut self, now: Instant) {
        self.now = now;
        self.take_changes();
    }

    /// The next instant at which `tick` has something to do.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        self.streams.next_wake()
    }

    /// Ends streams that are silent for too long. `held`: what has come may be held for want of room.
    pub(crate) fn tick(&mut self, held: bool) {
        self.streams.tick(self.now, held);
    }

    pub(super) fn main(&self) -> &Queue {
        &self.main
    }

    /// Messages that subscriptions have dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped + self.streams.turned_away()
    }

    /// The queue that makes others wait, if it is not the event queue, and how much is unread there.
    pub(crate) fn unread(&mut self) -> Unread {
        for (group, Group { routes, .. }) in &mut self.groups {
            for Route { queue, .. } in routes {
                if queue.room(Bound::Normal) == Room::Wait {
                    return Unread { group: Some(Arc::clone(group)), messages: queue.len() };
                }
            }
        }
        let main = Unread { group: None, messages: self.main.len() };
        self.streams.unread().unwrap_or(main)
    }

    /// Whether this is the ack of a leave behind a group's last subscription.
    pub(crate) fn awaits_leave(&mut self, ack_id: u64) -> bool {
        self.take_changes();
        self.leaving > 0 && self.groups.values().any(|group| group.leave == Some(ack_id))
    }

    /// That leave has ended, or the program's own one is carried out.
    pub(crate) fn released(&mut self, name: &str, ack_id: u64) {
        self.take_changes();
        self.streams.left(name);
        // Behind it there may be another one by now.
        if let Some(group) = self.groups.get_mut(name).filter(|group| group.leave == Some(ack_id)) {
            group.leave = None;
            self.leaving -= 1;
            self.forget_unused(name);
        }
    }

    fn forget_unused(&mut self, name: &str) {
        let unused = |group: &Group| group.routes.is_empty() && group.leave.is_none();
        if self.groups.get(name).is_some_and(unused) {
            self.groups.remove(name);
        }
    }

    pub(super) fn take_changes(&mut self) {
        if !self.routes.changed.load(Ordering::Acquire) {
            return;
        }
        for change in self.routes.take() {
            match change {
                Change::Add(group, route) => {
                    self.groups.entry(group).or_default().routes.push(route);
                }
                Change::Remove { group, id, leave } => self.remove(&group, id, leave),
                Change::AddStreams(route) => self.streams.add(*route),
                Change::RemoveStreams { group, id, leave } => {
                    self.streams.remove(id);
                    if let Some(group) = group {
                        self.leave(&group, leave);
                    }
                }
                Change::IgnoreStream { id, stream } => self.streams.ignore(id, stream),
            }
        }
    }

    fn remove(&mut self, name: &Arc<str>, id: u64, leave: Option<u64>) {
        let group = self.groups.entry(Arc::clone(name)).or_default();
        group.routes.retain_mut(|route| {
            if route.id == id {
                // Clones of its receiver may be read on.
                route.stop(&Error::new(ErrorKind::Closed, "the subscription was ended"));
            }
            route.id != id
        });
        self.leave(name, leave);
    }

    /// One of the group's subscriptions has gone. `leave`: the group is about to be left.
    fn leave(&mut self, name: &Arc<str>, leave: Option<u64>) {
        let group = self.groups.entry(Arc::clone(name)).or_default();
        if leave.is_some() && std::mem::replace(&mut group.leave, leave).is_none() {
            self.leaving += 1;
        }
        self.forget_unused(name);
    }

    /// The queues that the message is for, if its group has subscriptions or is being left.
    fn subscribed(&mut self, event: &Event) -> Option<&mut [Route]> {
        match event {
            Event::GroupMessage(m) if !self.groups.is_empty() => {
                let group = self.groups.get_mut(&*m.group)?;
                Some(if group.leave.is_some() { &mut [] } else { &mut group.routes })
            }
            _ => None,
        }
    }

    /// The event as a part of a stream whose group has stream subscriptions.
    fn stream_part<'a>(&self, event: &'a Event) -> Option<&'a GroupMessage> {
        match event {
            Event::GroupMessage(m) if m.stream.is_some() && self.streams.have(&m.group) => Some(m),
            _ => None,
        }
    }

    fn is_being_left(&self, name: &str) -> bool {
        self.groups.get(name).is_some_and(|group| group.leave.is_some())
    }

    fn push_to_subscriptions(&mut self, event: &Event, size: Option<usize>) {
        let Some(routes) = self.subscribed(event) else { return };
        let (mut dropped, mut stopped) = (0, false);
        for route in routes {
            match route.queue.room(Bound::Normal) {
                Room::Drop => {
                    route.lagged += 1;
                    dropped += 1;
                }
                Room::Stop => {
                    route.stop(&queue_full());
                    stopped = true;
                }
                // One that waits had its say in `room`, unless the connection is over.
                Room::Yes | Room::Wait | Room::Discard => route.put(event.clone(), size),
            }
        }
        if let (true, Event::GroupMessage(message)) = (stopped, event)
            && let Some(group) = self.groups.get_mut(&*message.group)
        {
            // The handle is still there, and gives the group up when it is dropped.
            group.routes.retain(|route| route.end.get().is_none());
            // If it was the last one, the program's own join gets the messages again.
            self.forget_unused(&message.group);
        }
        self.dropped += dropped;
        self.owes_report |= dropped > 0;
    }

    /// What subscriptions hear of the lifecycle: where messages may be missing, and the end.
    fn tell_subscriptions(&mut self, event: &Event) {
        match event {
            Event::Connected(connected) if connected.gap_possible => {
                for route in self.groups.values_mut().flat_map(|group| &mut group.routes) {
                    route.put(event.clone(), None);
                }
            }
            Event::JoinFailed(failed) => {
                let group = self.groups.get_mut(&failed.group);
                for mut route in group.into_iter().flat_map(|group| group.routes.drain(..)) {
                    route.stop(&failed.error);
                }
                self.forget_unused(&failed.group);
                self.streams.join_failed(&failed.group, &failed.error);
            }
            Event::Disconnected(disconnected) => self.streams.disconnected(&disconnected.cause),
            Event::Stopped(stopped) => {
                self.streams.stopped(&stopped.cause);
                let groups = std::mem::take(&mut self.groups).into_values();
                for mut route in groups.flat_map(|group| group.routes) {
                    route.stop(&stopped.cause);
                }
                self.leaving = 0;
            }
            _ => {}
        }
    }
}

impl EventQueue for Queues {
    fn room(&mut self, bound: Bound, event: &Event) -> Room {
        self.take_changes();
        if let Some(part) = self.stream_part(event) {
            return match self.is_being_left(&part.group) {
                true => Room::Discard,
                false => self.streams.room(bound, part),
            };
        }
        let Some(routes) = self.subscribed(event) else { return self.main.room(bound) };
        if routes.is_empty() {
            return Room::Discard;
        }
        // One queue that waits holds up all, or messages would change places.
        match routes.iter_mut().any(|route| route.queue.room(bound) == Room::Wait) {
            true => Room::Wait,
            false => Room::Yes,
        }
    }

    fn push(&mut self, event: Event, size: Option<usize>) {
        self.take_changes();
        if size.is_none() {
            self.tell_subscriptions(&event);
        } else if let Some(part) = self.stream_part(&event) {
            if !self.is_being_left(&part.group) {
                self.streams.push(self.now, part, size);
            }
            return;
        } else if self.subscribed(&event).is_some() {
            return self.push_to_subscriptions(&event, size);
        }
        self.main.push(event, size);
    }

    fn drop_message(&mut self, event: &Event) -> bool {
        if self.stream_part(event).is_some() {
            // Its stream ends with what follows: the connection is over.
            return true;
        }
        let Some(routes) = self.subscribed(event) else { return false };
        let count = routes.len() as u64;
        routes.iter_mut().for_each(|route| route.lagged += 1);
        self.dropped += count;
        self.owes_report |= count > 0;
        true
    }

    fn enters_event_queue(&mut self, event: &Event) -> bool {
        self.subscribed(event).is_none()
    }

    fn owes_report(&self) -> bool {
        self.owes_report
    }

    fn report(&mut self) {
        self.owes_report = false;
        let routes = self.groups.values_mut().flat_map(|group| &mut group.routes);
        for route in routes.filter(|route| route.lagged > 0) {
            match route.queue.room(Bound::Normal) {
                Room::Yes => {
                    let lagged = std::mem::take(&mut route.lagged);
                    route.queue.push(Event::Lagged(lagged), None);
                }
                _ => self.owes_report = true,
            }
        }
    }
}

fn queue_full() -> Error {
    Error::new(
        ErrorKind::QueueFull,
        "the subscription's queue is full and its policy is to stop; read it faster, or choose \
         another `Overflow`",
    )
}
