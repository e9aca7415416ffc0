//! Where the parts of streams go: in each stream subscription of their group, to a queue of the stream.
//!
//! The reader owns this, as a part of [`Queues`](super::queues::Queues). A stream subscription that has
//! the group takes all of the group's streams, so that their parts enter no other queue, whether it
//! reads a stream or ignores it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::config::{Overflow, QueueConfig};
use super::queue::Queue;
use super::queues::Routes;
use super::stream_reader::{Ending, StreamReader};
use super::wake::WakeHook;
use crate::error::{Error, ErrorKind};
use crate::message::{GroupMessage, Payload, StreamFailure};
use crate::session::{Bound, ReaderConfig, Room, StreamArrived, StreamEnd, StreamReaders, Unread};

/// What a stream subscription has asked for.
#[derive(Debug, Clone)]
pub(crate) struct StreamConfig {
    pub(crate) from_start: bool,
    pub(crate) silence_timeout: Option<Duration>,
    pub(crate) max_streams: usize,
    /// Of each stream.
    pub(crate) queue: QueueConfig,
}

/// What the queues of all streams share with the client.
#[derive(Debug, Clone, Default)]
pub(crate) struct Common {
    pub(crate) calls: Arc<AtomicUsize>,
    pub(crate) routes: Arc<Routes>,
    pub(crate) hook: Option<Arc<WakeHook>>,
}

/// One stream subscription.
#[derive(Debug)]
pub(crate) struct StreamRoute {
    id: u64,
    /// `None`: all groups.
    group: Option<Arc<str>>,
    config: StreamConfig,
    streams: StreamReaders,
    open: HashMap<u64, Open>,
    /// Streams that the program has not taken.
    new: Sender<StreamReader>,
    end: Arc<OnceLock<Error>>,
    /// Not later than the end of the first silence that is too long.
    look_at: Option<Instant>,
    common: Common,
    asked: Arc<AtomicBool>,
}

/// A stream that is being read.
#[derive(Debug)]
struct Open {
    group: Arc<str>,
    id: String,
    parts: Queue<Payload>,
    end: Ending,
}

/// The stream subscriptions.
#[derive(Debug, Default)]
pub(super) struct StreamQueues {
    routes: Vec<StreamRoute>,
    /// Parts that nobody gets, because a subscription has no room for another stream.
    turned_away: u64,
}

impl StreamRoute {
    /// Also the queue of its new streams.
    pub(crate) fn new(
        id: u64,
        group: Option<Arc<str>>,
        config: StreamConfig,
        end: Arc<OnceLock<Error>>,
        common: Common,
    ) -> (Self, Receiver<StreamReader>) {
        let (new, receiver) = unbounded();
        let streams = StreamReaders::new(ReaderConfig {
            from_start: config.from_start,
            silence_timeout: config.silence_timeout,
            max_streams: config.max_streams,
        });
        let (open, asked) = (HashMap::new(), Arc::new(true.into()));
        let route =
            Self { id, group, config, streams, open, new, end, look_at: None, common, asked };
        (route, receiver)
    }

    fn has(&self, group: &str) -> bool {
        self.group.as_deref().is_none_or(|own| own == group)
    }

    fn push(&mut self, now: Instant, message: &GroupMessage, size: Option<usize>) {
        // Streams that nobody takes count too, also when they are over.
        let room = self.new.len() < self.config.max_streams;
        let Some(arrived) = self.streams.message(now, message, room) else { return };
        let StreamArrived { stream, is_new, part, end } = arrived;
        if is_new {
            self.begin(now, stream, message);
        }
        if let Some(part) = part
            && let Some(open) = self.open.get_mut(&stream)
        {
            match open.parts.room(Bound::Normal) {
                // A gap is worse than an end, and as one it would be seen.
                Room::Drop | Room::Stop => {
                    self.streams.ignore(stream);
                    return self.finish(stream, |open| Some(open.queue_full()));
                }
                // One that waits had its say in `room`, unless the connection is over.
                Room::Yes | Room::Wait | Room::Discard => open.parts.push(part, size),
            }
        }
        if let Some(end) = end {
            self.finish(stream, |open| open.error_of(end));
        }
    }

    /// Shows the program a stream.
    fn begin(&mut self, now: Instant, stream: u64, message: &GroupMessage) {
        let Common { calls, routes, hook } = self.common.clone();
        let (asked, config) = (Arc::clone(&self.asked), Some(self.config.queue.clone()));
        let (parts, receiver) = Queue::new(config, calls, asked, hook);
        let id = message.stream.as_ref().map(|part| part.stream_id.clone()).unwrap_or_default();
        let (group, end) = (Arc::clone(&message.group), Ending::default());
        let from = message.from_user_id.clone();
        let reader = StreamReader::new(
            (self.id, stream),
            Arc::clone(&group),
            id.clone(),
            from,
            receiver,
            Arc::clone(&end),
            routes,
        );
        self.open.insert(stream, Open { group, id, parts, end });
        if let Some(limit) = self.config.silence_timeout {
            self.look_at.get_or_insert(now + limit);
        }
        // If nobody is there to take it, its drop leaves a note, and it is ignored.
        let _ = self.new.send(reader);
        if self.new.len() <= 1 {
            self.request_wake();
        }
    }

    /// Ends a stream for its reader. What is in its queue can still be read.
    fn finish(&mut self, stream: u64, why: impl FnOnce(&Open) -> Option<Error>) {
        if let Some(open) = self.open.remove(&stream) {
            // Before the queue goes, whose end shows that this is set.
            let _ = open.end.set(why(&open));
            drop(open);
            self.request_wake();
        }
    }

    fn finish_all(&mut self, streams: Vec<u64>, why: impl Fn(&Open) -> Error) {
        streams.into_iter().for_each(|stream| self.finish(stream, |open| Some(why(open))));
    }

    /// The subscription ends, and its streams with it.
    fn stop(mut self, cause: &Error) {
        let _ = self.end.set(cause.clone());
        let streams = self.open.keys().copied().collect();
        self.finish_all(streams, |_| cause.clone());
        let Self { new, common, .. } = self;
        drop(new);
        if let Some(hook) = &common.hook {
            hook.request();
        }
    }

    fn request_wake(&self) {
        if let Some(hook) = &self.common.hook {
            hook.request();
        }
    }

    fn tick(&mut self, now: Instant, held: bool) {
        if self.look_at.is_none_or(|at| now < at) {
            return;
        }
        if held {
            self.streams.excuse(now);
        }
        let silent = self.streams.tick(now);
        self.finish_all(silent, Open::silent);
        self.look_at = self.streams.next_wake();
    }
}

impl StreamQueues {
    /// Whether a stream subscription has the streams of this group.
    pub(super) fn have(&self, group: &str) -> bool {
        self.routes.iter().any(|route| route.has(group))
    }

    pub(super) fn add(&mut self, route: StreamRoute) {
        self.routes.push(route);
    }

    pub(super) fn remove(&mut self, id: u64) {
        self.stop_those(&stream_subscription_ended(), |route| route.id == id);
    }

    /// The program has thrown a reader away.
    pub(super) fn ignore(&mut self, id: u64, stream: u64) {
        if let Some(route) = self.routes.iter_mut().find(|route| route.id == id)
            && route.open.remove(&stream).is_some()
        {
            route.streams.ignore(stream);
        }
    }

    pub(super) fn turned_away(&self) -> u64 {
        self.turned_away
    }

    /// Whether a part of a stream may enter. One queue that waits holds up all, or messages would
    /// change places.
    pub(super) fn room(&mut self, bound: Bound, message: &GroupMessage) -> Room {
        for route in &mut self.routes {
            if route.config.queue.overflow == Overflow::Wait
                && route.has(&message.group)
                && let Some(stream) = route.streams.current(message)
                && let Some(open) = route.open.get_mut(&stream)
                && open.parts.room(bound) == Room::Wait
            {
                return Room::Wait;
            }
        }
        Room::Yes
    }

    pub(super) fn push(&mut self, now: Instant, message: &GroupMessage, size: Option<usize>) {
        for route in self.routes.iter_mut().filter(|route| route.has(&message.group)) {
            route.push(now, message, size);
            self.turned_away += route.streams.take_turned_away();
        }
    }

    /// The stream that makes others wait.
    pub(super) fn unread(&mut self) -> Option<Unread> {
        let open = self.routes.iter_mut().flat_map(|route| route.open.values_mut());
        let mut waits = open.filter_map(|Open { group, parts, .. }| {
            let full = parts.room(Bound::Normal) == Room::Wait;
            full.then(|| Unread { group: Some(Arc::clone(group)), messages: parts.len() })
        });
        waits.next()
    }

    /// The client has left the group: no last message comes of its streams.
    pub(super) fn left(&mut self, group: &str) {
        for route in &mut self.routes {
            let streams = route.streams.left(group);
            route.finish_all(streams, Open::left);
        }
    }

    /// The connection is over: what is published until the group is joined again is missing.
    pub(super) fn disconnected(&mut self, cause: &Error) {
        for route in &mut self.routes {
            let streams = route.streams.new_connection();
            route.finish_all(streams, |open| open.disconnected(cause));
        }
    }

    pub(super) fn join_failed(&mut self, group: &str, error: &Error) {
        self.stop_those(error, |route| route.group.as_deref() == Some(group));
    }

    /// The client has ended.
    pub(super) fn stopped(&mut self, cause: &Error) {
        self.stop_those(cause, |_| true);
    }

    fn stop_those(&mut self, cause: &Error, which: impl Fn(&StreamRoute) -> bool) {
        self.routes.extract_if(.., |route| which(route)).for_each(|route| route.stop(cause));
    }

    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.routes.iter().filter_map(|route| route.look_at).min()
    }

    /// `held`: what has come may be held for want of room.
    pub(super) fn tick(&mut self, now: Instant, held: bool) {
        self.routes.iter_mut().for_each(|route| route.tick(now, held));
    }
}

impl Open {
    fn error(&self, kind: ErrorKind, what: &str) -> Error {
        Error::new(kind, format!("the stream `{}` of the group `{}` {what}", self.id, self.group))
    }

    fn error_of(&self, end: StreamEnd) -> Option<Error> {
        match end {
            StreamEnd::Complete => None,
            StreamEnd::Failed(failure) => Some(self.failed(failure)),
            StreamEnd::OutOfOrder { expected, came } if came > expected => {
                let what = format!("lacks parts: {came} came where {expected} was to come");
                Some(self.error(ErrorKind::StreamFailed, &what))
            }
            StreamEnd::OutOfOrder { expected, came } => {
                let what = format!("repeats itself: {came} came where {expected} was to come");
                Some(self.error(ErrorKind::StreamFailed, &what))
            }
        }
    }

    fn failed(&self, failure: StreamFailure) -> Error {
        let StreamFailure { name, message, user_error_code } = failure;
        let mut what = format!("was ended with the error {name}");
        if let Some(text) = message.filter(|text| !text.is_empty()) {
            what.extend([": ", &text]);
        }
        let error = self.error(ErrorKind::StreamFailed, &what).with_service_name(name);
        error.with_user_error_code(user_error_code)
    }

    fn queue_full(&self) -> Error {
        let what = "has more unread parts than its queue holds; read it faster, or choose a larger \
                    queue or `Overflow::Wait`";
        self.error(ErrorKind::QueueFull, what)
    }

    fn silent(&self) -> Error {
        self.error(ErrorKind::Timeout, "has brought nothing within its silence timeout")
    }

    fn left(&self) -> Error {
        self.error(ErrorKind::StreamFailed, "is not received any more: the client left the group")
    }

    fn disconnected(&self, cause: &Error) -> Error {
        let what = "may lack parts: the connection was lost for good";
        self.error(ErrorKind::Disconnected, what).with_source(cause.clone())
    }
}

fn stream_subscription_ended() -> Error {
    Error::new(ErrorKind::Closed, "the stream subscription was ended")
}

#[cfg(test)]
mod tests;
