//! Subscriptions of a program, as in `client::subscription`.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;

use super::Client;
use crate::client::{Overflow, Queue, QueueConfig, Route};
use crate::error::Result;
use crate::message::{Ack, Event};
use crate::protocol::{Upstream, encode_upstream};
use crate::session::{CallKind, HOLD_MESSAGES, Joined, Key};
use crate::simulation::checker::Checker;

pub(in crate::simulation) struct Listening {
    group: Arc<str>,
    id: u64,
    /// Until it begins.
    route: Option<Route>,
    /// Its number at the tap, once it has begun.
    number: Option<usize>,
    events: Receiver<Event>,
    received: u64,
    lagged: u64,
    /// The program has let go of it.
    dropped: bool,
    /// `Stopped` has been seen.
    ended: bool,
}

impl Listening {
    pub(super) fn is_unread(&self) -> bool {
        !self.events.is_empty()
    }

    fn is_live(&self) -> bool {
        self.number.is_some() && !self.dropped && !self.ended
    }
}

impl Client {
    /// Makes a subscription, which has not begun; its place among all of them.
    pub(in crate::simulation) fn prepare_subscription(
        &mut self,
        group: &str,
        overflow: Overflow,
    ) -> usize {
        let config = QueueConfig::new()
            .max_messages(self.setup.soft)
            .max_messages_during_calls(self.setup.hard)
            .overflow(overflow);
        let (calls, asked) = (Arc::clone(&self.calls), Arc::new(true.into()));
        let (queue, events) = Queue::new(Some(config), calls, asked, None);
        let id = self.routes.next_id();
        self.subscriptions.push(Listening {
            group: group.into(),
            id,
            route: Some(Route::new(id, queue, Arc::default())),
            number: None,
            events,
            received: 0,
            lagged: 0,
            dropped: false,
            ended: false,
        });
        self.subscriptions.len() - 1
    }

    /// Before its join is sent.
    pub(super) fn begin_subscription(&mut self, place: usize) {
        let subscription = &mut self.subscriptions[place];
        let Some(route) = subscription.route.take() else { return };
        self.session.subscribed(&subscription.group);
        self.routes.add(&subscription.group, route);
        subscription.number = Some(self.queue.add(&subscription.group));
    }

    pub(in crate::simulation) fn subscribe_in_background(
        &mut self,
        now: Duration,
        place: usize,
        check: &mut Checker,
    ) {
        let group = Arc::clone(&self.subscriptions[place].group);
        let ack_id = self.next_id();
        let join = Upstream::JoinGroup { group: (&*group).into(), ack_id: Some(ack_id) };
        let Ok(frame) = encode_upstream(self.setup.protocol, &join) else { return };
        if self.session.refuses(Key::Ack(ack_id), &CallKind::Message).is_none() {
            self.begin_subscription(place);
            self.session.want(self.at(now), &group, Joined { ack_id, frame });
        }
        self.applied(now, check);
    }

    /// The program ends one.
    pub(in crate::simulation) fn end_subscription(
        &mut self,
        now: Duration,
        oldest: bool,
        check: &mut Checker,
    ) {
        // One whose join a thread still waits for is not in the program's hands.
        let mut places = 0..self.subscriptions.len();
        let mine = |place: &usize| {
            self.subscriptions[*place].is_live() && !self.joining.values().any(|p| p == place)
        };
        let place = if oldest { places.find(mine) } else { places.rfind(mine) };
        if let Some(place) = place {
            self.drop_subscription(now, place, check);
        }
    }

    fn drop_subscription(&mut self, now: Duration, place: usize, check: &mut Checker) {
        let ack_id = self.next_id();
        let at = self.at(now);
        let subscription = &mut self.subscriptions[place];
        let Some(number) = subscription.number else { return };
        if std::mem::replace(&mut subscription.dropped, true) {
            return;
        }
        let group = Arc::clone(&subscription.group);
        let leave = Upstream::LeaveGroup { group: (&*group).into(), ack_id: Some(ack_id) };
        let Ok(frame) = encode_upstream(self.setup.protocol, &leave) else { return };
        let mut leave_id = None;
        self.session.unsubscribed(at, &group, || {
            leave_id = Some(ack_id);
            Some((Joined { ack_id, frame }, None))
        });
        if leave_id.is_some() {
            check.leaves(self.index, &group);
        }
        self.routes.remove(&group, subscription.id, leave_id);
        self.queue.remove(&group, number, leave_id);
        self.applied(now, check);
    }

    pub(super) fn completed(
        &mut self,
        now: Duration,
        token: usize,
        result: &Result<Ack>,
        check: &mut Checker,
    ) {
        check.completed(now, token, result);
        if let Some(place) = self.joining.remove(&token)
            && result.is_err()
        {
            self.failed_joins.push(place);
        }
    }

    pub(super) fn consume_subscriptions(
        &mut self,
        now: Duration,
        most: usize,
        check: &mut Checker,
    ) {
        let mut over = std::mem::take(&mut self.failed_joins);
        for (place, subscription) in self.subscriptions.iter_mut().enumerate() {
            let many = self.setup.hard.max(self.setup.soft) + 2 * HOLD_MESSAGES + super::READ / 20;
            if subscription.events.len() > many {
                check.fail(format!("{} events in a subscription", subscription.events.len()));
            }
            for event in subscription.events.try_iter().take(most) {
                if subscription.ended {
                    check.fail(format!("{event:?} after the end of a subscription"));
                }
                match event {
                    Event::GroupMessage(m) if m.group != subscription.group => {
                        check.fail(format!("a message of {} in {}", m.group, subscription.group));
                    }
                    Event::GroupMessage(m) => {
                        subscription.received += 1;
                        check.message(self.index, Some(place), &m.payload);
                    }
                    Event::Lagged(n) => subscription.lagged += n,
                    Event::Stopped(_) => {
                        subscription.ended = true;
                        over.push(place);
                    }
                    Event::Connected(c) if c.gap_possible => {}
                    other => check.fail(format!("{other:?} in a subscription")),
                }
            }
        }
        for place in over {
            self.drop_subscription(now, place, check);
        }
    }

    /// What the queues were due on this connection in all, and the event queue of that.
    pub(in crate::simulation) fn due(&self) -> (u64, u64) {
        (self.queue.total, self.queue.due_main)
    }

    /// All is quiet, and these are the client's groups at the service.
    pub(in crate::simulation) fn judge_subscriptions(
        &self,
        groups: &[String],
        check: &mut Checker,
    ) {
        let live = self.subscriptions.iter().enumerate().filter(|(_, one)| one.is_live());
        for (place, subscription) in live {
            let Listening { group, received, lagged, .. } = subscription;
            let due = subscription.number.map_or(0, |number| self.queue.due[number]);
            let what = format!("client {}: subscription {place} of {group}", self.index);
            if received + lagged != due {
                check.fail(format!("{what} received {received} and missed {lagged} of {due}"));
            }
            if !groups.iter().any(|name| **name == **group) {
                check.fail(format!("{what} is live, and the client is no member at the service"));
            }
        }
    }
}
