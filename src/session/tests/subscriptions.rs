//! What holds a group: the program's own joins, and subscriptions.

use std::sync::Arc;

use super::*;
use crate::session::groups::{Joined, Unsubscribed};
use crate::session::tests::scenario::{LONG, frame};
use crate::session::{CallKind, Key};

impl Scenario {
    /// A subscription whose join is a call.
    fn subscribe(&mut self, id: u64, group: &str) {
        let group: Arc<str> = group.into();
        self.session.subscribed(&group);
        self.new_call(
            Key::Ack(id),
            CallKind::Subscribe(group.clone()),
            &format!("join {group}#{id}"),
            LONG,
        );
    }

    /// One that waits for a connection if need be.
    fn subscribe_in_background(&mut self, id: u64, group: &str) {
        let group: Arc<str> = group.into();
        self.session.subscribed(&group);
        let join = Joined { ack_id: id, frame: frame(&format!("join {group}#{id}")) };
        self.session.want(self.now, &group, join);
        self.drain();
    }

    fn unsubscribe(&mut self, id: u64, group: &str) -> Unsubscribed {
        let group: Arc<str> = group.into();
        let leave =
            || Some((Joined { ack_id: id, frame: frame(&format!("leave {group}#{id}")) }, None));
        let found = self.session.unsubscribed(self.now, &group, leave);
        self.drain();
        found
    }

    fn groups(&self) -> Vec<String> {
        self.session.groups().map(ToString::to_string).collect()
    }
}

#[test]
fn the_last_subscription_that_ends_leaves_the_group() {
    let mut s = Scenario::connected();
    s.subscribe(1, "a");
    s.subscribe(2, "a");
    s.ack(1);
    s.ack(2);
    s.take();
    assert_eq!(s.unsubscribe(3, "a"), Unsubscribed::Subscribed);
    assert_eq!(s.take(), [""; 0]);
    assert_eq!(s.unsubscribe(4, "a"), Unsubscribed::Leave);
    assert_eq!(s.take(), ["send leave a#4"]);
    assert_eq!(s.groups(), ["a"], "until the service has acked");
    s.ack(4);
    assert_eq!(s.take(), ["released a"]);
    assert_eq!(s.groups(), [""; 0]);
}

#[test]
fn a_group_that_the_program_has_joined_too_is_not_left() {
    let mut s = Scenario::connected();
    s.join(1, "a");
    s.subscribe(2, "a");
    // Neither the join under way nor the acked one lets go of it.
    s.subscribe(3, "a");
    assert_eq!(s.unsubscribe(9, "a"), Unsubscribed::Subscribed);
    assert_eq!(s.unsubscribe(9, "a"), Unsubscribed::Joined);
    s.ack(1);
    s.ack(2);
    s.ack(3);
    s.subscribe(4, "a");
    assert_eq!(s.unsubscribe(9, "a"), Unsubscribed::Joined);
    assert!(s.session.refuses(Key::Ack(8), &CallKind::Leave("a".into())).is_none());
    s.subscribe(5, "a");
    assert!(s.session.refuses(Key::Ack(8), &CallKind::Leave("a".into())).is_some());
}

#[test]
fn a_refused_join_leaves_nothing_to_leave() {
    let mut s = Scenario::connected();
    s.subscribe(1, "a");
    s.refuse(1, "Forbidden");
    s.take();
    assert_eq!(s.unsubscribe(2, "a"), Unsubscribed::Over);
    assert_eq!(s.take(), [""; 0]);
}

#[test]
fn a_join_that_was_given_up_is_left_because_it_may_be_carried_out() {
    let mut s = Scenario::connected();
    s.subscribe(1, "a");
    s.advance(LONG);
    s.take();
    assert_eq!(s.unsubscribe(2, "a"), Unsubscribed::Leave);
    assert_eq!(s.only("send"), ["send leave a#2"]);
}

#[test]
fn a_subscription_in_the_background_joins_when_there_is_a_connection() {
    let mut s = Scenario::connected();
    s.lose(None);
    s.take();
    s.subscribe_in_background(1, "a");
    s.subscribe_in_background(2, "a");
    assert_eq!(s.only("send"), [""; 0]);
    s.linked();
    s.prove();
    assert_eq!(s.only("send"), ["send join a#1"], "once for both");
    s.ack(1);
    assert_eq!(s.groups(), ["a"]);
    s.subscribe_in_background(3, "a");
    assert_eq!(s.only("send"), [""; 0], "it is joined");
}

#[test]
fn a_subscription_behind_a_leave_joins_behind_it() {
    let mut s = Scenario::connected();
    s.subscribe(1, "a");
    s.ack(1);
    s.take();
    assert_eq!(s.unsubscribe(2, "a"), Unsubscribed::Leave);
    s.subscribe_in_background(3, "a");
    assert_eq!(s.only("send"), ["send leave a#2", "send join a#3"]);
    // Whatever the order of the acks.
    s.ack(3);
    s.ack(2);
    assert_eq!(s.groups(), ["a"]);
}

#[test]
fn what_ended_while_there_was_no_connection_is_not_joined_on_a_new_one() {
    let mut s = Scenario::connected();
    s.subscribe(1, "a");
    s.subscribe(2, "b");
    s.ack(1);
    s.ack(2);
    s.lose(Some(1008));
    s.take();
    assert_eq!(s.unsubscribe(3, "a"), Unsubscribed::Over, "there is no session to leave it on");
    s.until_dial();
    s.linked();
    s.hello("c2", "t2");
    let joins: Vec<_> = s.only("send join");
    assert_eq!(joins, ["send join b#2"]);
    assert_eq!(s.groups(), ["b"]);
}

#[test]
fn a_leave_under_way_ends_with_its_connection() {
    let mut s = Scenario::connected();
    s.subscribe(1, "a");
    s.ack(1);
    assert_eq!(s.unsubscribe(2, "a"), Unsubscribed::Leave);
    s.take();
    s.lose(Some(1008));
    assert_eq!(s.only("released"), ["released a"]);
    s.until_dial();
    s.linked();
    s.hello("c2", "t2");
    assert_eq!(s.only("send"), [""; 0]);
    assert_eq!(s.groups(), [""; 0]);
}

#[test]
fn a_subscription_behind_a_leave_of_the_program_joins_behind_it_on_a_new_connection_too() {
    let mut s = Scenario::connected();
    s.lose(Some(1008));
    s.leave(1, "a");
    s.subscribe_in_background(2, "a");
    s.take();
    s.until_dial();
    s.linked();
    s.hello("c2", "t2");
    assert_eq!(s.only("send"), ["send leave a#1", "send join a#2"]);
    s.ack(1);
    s.ack(2);
    assert_eq!(s.groups(), ["a"]);
}

#[test]
fn a_leave_that_was_given_up_does_not_undo_a_subscription() {
    let mut s = Scenario::connected();
    s.join(1, "a");
    s.ack(1);
    s.leave(2, "a");
    s.advance(LONG);
    s.take();
    s.subscribe_in_background(3, "a");
    assert_eq!(s.only("send"), ["send join a#3"], "the leave may still be carried out");
    s.ack(2);
    s.ack(3);
    assert_eq!(s.groups(), ["a"]);
}
