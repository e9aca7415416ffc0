//! States in groups over the life of connections: what is set and asked for again, and what is not.

use std::sync::Arc;

use super::*;
use crate::error::ErrorKind;
use crate::session::groups::{Joined, Unsubscribed};
use crate::session::tests::scenario::{LONG, frame, secs};
use crate::session::{CallKind, Key};

impl Scenario {
    fn set(&mut self, id: u64, group: &str) {
        let kind = CallKind::SetState(group.into());
        self.new_call(Key::Ack(id), kind, &format!("set {group}#{id}"), LONG);
    }

    fn clear(&mut self, id: u64, group: &str) {
        let kind = CallKind::ClearState(group.into());
        self.new_call(Key::Ack(id), kind, &format!("clear {group}#{id}"), LONG);
    }

    /// The join has the id, the request the next one.
    fn watch(&mut self, id: u64, group: &str) {
        let name: Arc<str> = group.into();
        let text = format!("watch {group}#{}", id + 1);
        self.session.watched(&name, Joined { ack_id: id + 1, frame: frame(&text) });
        let join = CallKind::Subscribe(Arc::clone(&name));
        self.new_call(Key::Ack(id), join, &format!("join {group}#{id}"), LONG);
        self.new_call(Key::Ack(id + 1), CallKind::WatchState(name), &text, LONG);
    }

    fn unwatch(&mut self, id: u64, group: &str) {
        let name: Arc<str> = group.into();
        let joined = |what: &str, ack_id| Joined {
            ack_id,
            frame: frame(&format!("{what} {group}#{ack_id}")),
        };
        let leave = || Some((joined("leave", id), None));
        let found = self.session.unsubscribed(self.now, &name, leave);
        self.session.unwatched(self.now, &name, found, joined("unwatch", id + 1));
        self.drain();
    }

    fn acks(&mut self, ids: impl IntoIterator<Item = u64>) {
        ids.into_iter().for_each(|id| self.ack(id));
        self.take();
    }
}

#[test]
fn what_was_set_and_watched_follows_its_join_on_a_new_connection() {
    let mut s = Scenario::connected();
    s.watch(1, "a");
    s.join(3, "b");
    s.set(4, "b");
    s.set(5, "a");
    assert_eq!(
        s.take(),
        ["send join a#1", "send watch a#2", "send join b#3", "send set b#4", "send set a#5"]
    );
    s.acks([1, 2, 3, 4, 5]);
    s.renew("c2");
    let again =
        ["send join a#1", "send set a#5", "send watch a#2", "send join b#3", "send set b#4"];
    assert_eq!(s.only("send"), again);
    s.acks([1, 2, 3, 4, 5]);
    // The same once more, and nothing where the session is recovered.
    s.recover();
    s.renew("c3");
    assert_eq!(s.only("send"), again);
}

#[test]
fn a_recovered_session_keeps_both() {
    let mut s = Scenario::connected();
    s.watch(1, "a");
    s.set(3, "a");
    s.acks([1, 2, 3]);
    s.lose(None);
    s.linked();
    s.prove();
    assert_eq!(s.only("send"), [""; 0]);
}

#[test]
fn what_was_cleared_refused_or_left_is_not_set_again() {
    let mut s = Scenario::connected();
    for (id, group) in [(1, "cleared"), (2, "left"), (3, "refused")] {
        s.join(id, group);
        s.ack(id);
    }
    s.set(11, "cleared");
    s.set(12, "left");
    s.set(13, "refused");
    s.acks([11, 12]);
    s.refuse(13, "Forbidden");
    assert!(s.error(13).to_string().contains("must be a member of the group, and the access"));
    assert!(s.error(13).to_string().contains("webpubsub.setGroupState.refused"));
    s.clear(14, "cleared");
    s.leave(15, "left");
    s.join(16, "left");
    s.acks([14, 15, 16]);
    s.renew("c2");
    assert_eq!(s.only("send"), ["send join cleared#1", "send join left#16", "send join refused#3"]);
}

#[test]
fn a_set_under_way_is_sent_again_behind_what_was_set_before() {
    let mut s = Scenario::connected();
    s.join(1, "a");
    s.set(2, "a");
    s.acks([1, 2]);
    s.set(3, "a");
    s.clear(4, "a");
    s.renew("c2");
    assert_eq!(s.only("send"), ["send join a#1", "send set a#2", "send set a#3", "send clear a#4"]);
    s.acks([1, 2, 3, 4]);
    assert!(s.result(3).is_ok() && s.result(4).is_ok());
    s.renew("c3");
    assert_eq!(s.only("send"), ["send join a#1"]);
}

#[test]
fn a_set_that_a_later_one_has_overtaken_is_not_sent_again() {
    let mut s = Scenario::connected();
    s.join(1, "a");
    s.set(2, "a");
    s.set(3, "a");
    s.acks([1, 3]); // that of 2 is lost
    s.renew("c2");
    assert_eq!(s.only("send"), ["send join a#1", "send set a#3"]);
    assert_eq!(s.kind(2), ErrorKind::OutcomeUnknown);
}

#[test]
fn a_request_under_way_is_sent_once_on_the_new_connection() {
    let mut s = Scenario::connected();
    s.watch(1, "a");
    s.acks([1]);
    s.renew("c2");
    assert_eq!(s.only("send"), ["send join a#1", "send watch a#2"]);
    s.acks([1, 2]);
    assert!(s.result(2).is_ok());
}

#[test]
fn what_a_new_connection_does_not_take_is_reported() {
    let mut s = Scenario::connected();
    s.watch(1, "a");
    s.set(3, "a");
    s.acks([1, 2, 3]);
    s.renew("c2");
    s.ack(1);
    s.take();
    s.refuse(3, "Forbidden");
    s.refuse(2, "Forbidden");
    assert_eq!(s.take(), ["state lost a Refused", "watch lost a Refused"]);
    // Given up, except that the watch is still there until its handle goes.
    s.renew("c3");
    assert_eq!(s.only("send"), ["send join a#1", "send watch a#2"]);
    // Nor is the silence of the service waited out for ever.
    s.ack(1);
    s.take();
    s.advance(secs(60));
    assert_eq!(s.only("watch"), ["watch lost a Timeout"]);
}

#[test]
fn a_group_that_is_not_joined_again_takes_no_state() {
    let mut s = Scenario::connected_with(|config| config.rejoin = false);
    s.join(1, "a");
    s.set(2, "a");
    s.acks([1, 2]);
    s.renew("c2");
    assert_eq!(s.only("send"), [""; 0]);
    s.join(3, "a");
    s.acks([3]);
    s.renew("c3");
    assert_eq!(s.only("send"), [""; 0]);
}

#[test]
fn the_last_watch_of_a_group_ends_it_at_the_service() {
    let mut s = Scenario::connected();
    s.watch(1, "a");
    s.watch(3, "a");
    s.acks([1, 2, 3, 4]);
    s.unwatch(5, "a");
    assert_eq!(s.take(), [""; 0]);
    s.unwatch(7, "a");
    // Nothing else holds the group.
    assert_eq!(s.take(), ["send leave a#7"]);
    s.acks([7]);

    s.join(9, "b");
    s.watch(10, "b");
    s.acks([9, 10, 11]);
    s.unwatch(12, "b");
    assert_eq!(s.take(), ["send unwatch b#13"]);
    s.acks([13]);
    s.renew("c2");
    assert_eq!(s.only("send"), ["send join b#10"]);
}

#[test]
fn without_a_session_there_is_nothing_to_end_at_the_service() {
    let mut s = Scenario::connected();
    s.join(1, "b");
    s.watch(2, "b");
    s.acks([1, 2, 3]);
    s.lose(Some(1008));
    s.unwatch(4, "b");
    s.take();
    s.until_dial();
    s.linked();
    s.hello("c2", "t");
    assert_eq!(s.only("send"), ["send join b#2"]);
}

#[test]
fn while_a_watch_holds_a_group_it_cannot_be_left() {
    let mut s = Scenario::connected();
    s.watch(1, "a");
    s.acks([1, 2]);
    s.leave(3, "a");
    assert_eq!(s.kind(3), ErrorKind::InvalidRequest);
    assert!(s.error(3).to_string().contains("a watch of its states"));
    assert_eq!(s.session.unsubscribed(s.now, &"a".into(), || None), Unsubscribed::Leave);
}
