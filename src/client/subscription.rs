//! A subscription: one group's messages in a queue of their own.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};

use super::config::QueueConfig;
use super::handle::Client;
use super::pending::{PendingAck, Registration};
use super::queue::Queue;
use super::queues::Route;
use super::request::sealed::{Internal, PendingCall as _};
use super::request::{Parts, rule};
use super::shared::{LONGEST, Shared};
use super::wake::may_block;
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Event, GroupMessage};
use crate::protocol::rules;
use crate::session::{Call, CallKind, Joined, Key};

/// What to subscribe to, with options; a group's name is enough where one is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a request does nothing until a client subscribes"]
pub struct Subscribe {
    group: Arc<str>,
    queue: QueueConfig,
    timeout: Option<Duration>,
}

impl Subscribe {
    /// A subscription of this group.
    pub fn new(group: impl AsRef<str>) -> Self {
        Self { group: group.as_ref().into(), queue: QueueConfig::new(), timeout: None }
    }

    fn check(&self) -> Result<()> {
        self.queue.check().map_err(|e| Error::invalid(e.to_string()))
    }

    /// The bounds of its queue and what happens at them. Default: as [`QueueConfig::new`].
    pub fn queue(mut self, queue: QueueConfig) -> Self {
        self.queue = queue;
        self
    }

    /// The deadline of the join, for [`Client::subscribe`]; a subscription in the background waits for a
    /// connection as long as it takes. Default:
    /// [`ClientBuilder::call_timeout`](crate::ClientBuilder::call_timeout).
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }
}

impl From<&str> for Subscribe {
    fn from(group: &str) -> Self {
        Self::new(group)
    }
}

impl From<String> for Subscribe {
    fn from(group: String) -> Self {
        Self::new(group)
    }
}

impl From<&String> for Subscribe {
    fn from(group: &String) -> Self {
        Self::new(group)
    }
}

/// The messages of one group, in a queue of their own; made by [`Client::subscribe`].
///
/// Several subscriptions of a group each get every message, and none of these enters
/// [`Client::events`]. Besides messages the queue shows, where it happened, what may be missing
/// ([`Event::Connected`] with `gap_possible`, [`Event::Lagged`]), and last [`Event::Stopped`], whose
/// cause says why nothing more comes.
///
#[cfg_attr(feature = "emulator", doc = "```")]
#[cfg_attr(not(feature = "emulator"), doc = "```ignore")]
/// # use webpubsub::{Client, emulator::Emulator};
/// # fn main() -> webpubsub::Result<()> {
/// # let emulator = Emulator::start()?;
/// # let client = Client::connect(emulator.url("chat"))?;
/// let prices = client.subscribe("prices")?; // joined when this returns
/// client.publish("prices", "12.50")?;
/// for message in prices.messages() {
///     println!("{}", message?.payload);
/// #   break;
/// }
/// # client.close() }
/// ```
///
/// # Threads
/// `Send + Sync`. Clone the [`receiver`](Self::receiver) to share the work among threads: each event
/// goes to one of them. A queue that is full holds up all others of the client behind it, unless its
/// [`Overflow`](crate::Overflow) says otherwise: choose `DropNewest` for a component that may fall
/// behind.
///
/// # What drop does
/// It ends the subscription without waiting. When nothing else holds the group (no other
/// subscription, no [`Client::join_group`]), the client's thread leaves it; what still comes until
/// then is discarded. A subscription does not keep its client alive.
#[must_use = "dropping it ends the subscription"]
pub struct Subscription {
    shared: Arc<Shared>,
    group: Arc<str>,
    id: u64,
    events: Receiver<Event>,
    end: Arc<OnceLock<Error>>,
    ended: bool,
}

impl Client {
    /// Subscribes to a group: its messages come to a queue of their own. Blocks until the service has
    /// acked the join, at most until its deadline. The queue exists before the join is sent, so
    /// nothing behind the ack is missed. After a new connection the group is joined again.
    ///
    /// # Errors
    /// As [`call`](Self::call); `Refused` with `Forbidden` if the token lacks the role.
    pub fn subscribe(&self, group: impl Into<Subscribe>) -> Result<Subscription> {
        let (subscription, join) = self.shared().subscribe(&group.into())?;
        // If that fails, the drop of the subscription takes everything back.
        join.wait()?;
        Ok(subscription)
    }

    /// The same without waiting: the group is joined when there is a connection, whenever that is. If
    /// the service refuses, [`Event::JoinFailed`] and the subscription's
    /// [`Event::Stopped`] say so.
    ///
    /// # Errors
    /// `InvalidRequest`, `Closed`, or what ended the client.
    pub fn subscribe_in_background(&self, group: impl Into<Subscribe>) -> Result<Subscription> {
        self.shared().subscribe_in_background(&group.into())
    }
}

impl Subscription {
    /// The group's messages alone, without the gaps. The last item is the error that ended the
    /// subscription, unless the program itself ended it. Blocks for each item.
    pub fn messages(&self) -> Messages<'_> {
        Messages { subscription: self, over: false }
    }

    /// Blocks until the next event.
    ///
    /// # Errors
    /// At the end of the queue: what ended the subscription.
    pub fn recv(&self) -> Result<Event> {
        may_block()?;
        self.events.recv().map_err(|_| self.end_error())
    }

    /// Blocks for at most `limit`; `None` if no event came.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn recv_timeout(&self, limit: Duration) -> Result<Option<Event>> {
        may_block()?;
        match self.events.recv_timeout(limit) {
            Ok(event) => Ok(Some(event)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(self.end_error()),
        }
    }

    /// Does not block; `None` if the queue is empty.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn try_recv(&self) -> Result<Option<Event>> {
        match self.events.try_recv() {
            Ok(event) => Ok(Some(event)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(self.end_error()),
        }
    }

    /// All events up to the end; blocks for each. `for event in &subscription` is the same.
    pub fn iter(&self) -> crossbeam_channel::Iter<'_, Event> {
        self.events.iter()
    }

    /// The queue itself, for `select!`. Clones share it: each event goes to one of them.
    #[must_use]
    pub fn receiver(&self) -> &Receiver<Event> {
        &self.events
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.group
    }

    /// Ends the subscription, and blocks until the group is left if nothing else holds it, at most
    /// for the call timeout. What is in the queue can still be read from clones of the receiver.
    ///
    /// # Errors
    /// `Timeout`, or what ended the client. The subscription has ended in any case.
    pub fn unsubscribe(mut self) -> Result<()> {
        self.ended = true;
        let limit = self.shared.config.call_timeout;
        match self.shared.unsubscribe(&self.group, self.id, true) {
            Some(leave) => leave.outcome_within(limit),
            None => Ok(()),
        }
    }

    fn end_error(&self) -> Error {
        self.end.get().cloned().unwrap_or_else(|| self.shared.end_error())
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.unsubscribe(&self.group, self.id, false);
        }
    }
}

impl<'a> IntoIterator for &'a Subscription {
    type Item = Event;
    type IntoIter = crossbeam_channel::Iter<'a, Event>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("group", &self.group)
            .field("unread", &self.events.len())
            // Its causes may quote a URL provider of the program.
            .field("ended", &self.end.get().map(Error::kind))
            .finish_non_exhaustive()
    }
}

/// The messages of a subscription; see [`Subscription::messages`].
#[derive(Debug)]
pub struct Messages<'a> {
    subscription: &'a Subscription,
    over: bool,
}

impl Iterator for Messages<'_> {
    type Item = Result<GroupMessage>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.over {
            match self.subscription.recv() {
                Ok(Event::GroupMessage(message)) => return Some(Ok(message)),
                Ok(Event::Stopped(stopped)) => {
                    self.over = true;
                    return (!stopped.cause.is_closed()).then_some(Err(stopped.cause));
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.over = true;
                    return Some(Err(error));
                }
                Err(_) => self.over = true,
            }
        }
        None
    }
}

impl Shared {
    /// Starts a subscription and the join of its group.
    fn subscribe(self: &Arc<Self>, spec: &Subscribe) -> Result<(Subscription, PendingAck)> {
        spec.check()?;
        let (subscription, route) = self.new_subscription(spec);
        let note = || self.routes.add(&spec.group, route);
        match self.hold_group(&spec.group, spec.timeout, note) {
            Ok(join) => Ok((subscription, join)),
            Err(refused) => Err(subscription.never_began(refused)),
        }
    }

    /// Starts the join of a group that one more subscription holds. `note`, which leaves word for the
    /// reader, runs under the session's lock, before the join is sent.
    pub(super) fn hold_group(
        self: &Arc<Self>,
        group: &Arc<str>,
        timeout: Option<Duration>,
        note: impl FnOnce(),
    ) -> Result<PendingAck> {
        let now = Instant::now();
        let mut call = Parts::join(group).with_timeout(timeout).prepare(self, now)?;
        call.kind = CallKind::Subscribe(Arc::clone(group));
        let (deadline, size) = (call.deadline, call.frame.as_bytes().len());
        let (begun, after) = self.with_place(now, deadline, size, true, |session, now| {
            if let Some(refused) = session.refuses(call.key, &call.kind) {
                return Err(refused);
            }
            session.subscribed(group);
            note();
            Ok(self.register(session, now, call))
        })?;
        self.finish(after, now);
        begun
    }

    fn subscribe_in_background(self: &Arc<Self>, spec: &Subscribe) -> Result<Subscription> {
        spec.check()?;
        rule("group name", rules::group(&spec.group))?;
        let now = Instant::now();
        let join = self.membership(Parts::join(&spec.group), now)?;
        let (subscription, route) = self.new_subscription(spec);
        let (refused, after) = self.step(|session| {
            let refused = session.refuses(Key::Ack(join.ack_id), &CallKind::Message);
            if refused.is_none() {
                session.subscribed(&spec.group);
                self.routes.add(&spec.group, route);
                session.want(now, &spec.group, join);
            }
            refused
        });
        self.finish(after, now);
        match refused {
            None => Ok(subscription),
            Some(refused) => Err(subscription.never_began(refused)),
        }
    }

    fn new_subscription(self: &Arc<Self>, spec: &Subscribe) -> (Subscription, Route) {
        let asked = Arc::new(true.into());
        let (calls, hook) = (Arc::clone(&self.calls), self.hook.clone());
        let (queue, events) = Queue::new(Some(spec.queue.clone()), calls, asked, hook);
        let (id, end) = (self.routes.next_id(), Arc::default());
        let route = Route::new(id, queue, Arc::clone(&end));
        let group = Arc::clone(&spec.group);
        let shared = Arc::clone(self);
        (Subscription { shared, group, id, events, end, ended: false }, route)
    }

    /// Ends a subscription. If the group is to be left, the leave is on its way; it can be waited
    /// for.
    fn unsubscribe(self: &Arc<Self>, group: &Arc<str>, id: u64, wait: bool) -> Option<PendingAck> {
        self.release_group(group, wait, |leave| self.routes.remove(group, id, leave))
    }

    /// A subscription that held the group ends. `note` leaves word for the reader, with the id of the
    /// leave if the group is to be left; it runs under the session's lock.
    pub(super) fn release_group(
        self: &Arc<Self>,
        group: &Arc<str>,
        wait: bool,
        note: impl FnOnce(Option<u64>),
    ) -> Option<PendingAck> {
        let now = Instant::now();
        let (mut leave, mut leave_id) = (None, None);
        let ((), after) = self.step(|session| {
            session.unsubscribed(now, group, || {
                let message = self.membership(Parts::leave(group), now).ok()?;
                leave_id = Some(message.ack_id);
                let waiter = wait.then(|| {
                    let key = Key::Ack(message.ack_id);
                    let registration = Registration::new(Arc::clone(self), key, now + LONGEST);
                    let (pending, waiter) = PendingAck::register(registration, Internal);
                    leave = Some(pending);
                    waiter
                });
                Some((message, waiter))
            });
            note(leave_id);
        });
        self.finish(after, now);
        // It takes the note, and ends the queue: clones of it may be read on.
        self.waker.wake();
        leave
    }

    /// A join or leave of our own: an id and a frame.
    pub(super) fn membership(&self, parts: Parts<'_>, now: Instant) -> Result<Joined> {
        let Call { key, frame, .. } = parts.prepare(self, now)?;
        match key {
            Key::Ack(ack_id) => Ok(Joined { ack_id, frame }),
            Key::Unacked(_) | Key::Invocation(_) => {
                Err(Error::new(ErrorKind::Internal, "a join without an ack id"))
            }
        }
    }
}

impl Subscription {
    /// There is nothing to take back.
    fn never_began(mut self, refused: Error) -> Error {
        self.ended = true;
        refused
    }
}
