//! Membership follows the order in which joins and leaves were written.

use super::*;
use crate::error::ErrorKind;

fn groups(s: &Scenario) -> Vec<String> {
    s.session.groups().map(|g| g.to_string()).collect()
}

/// What is sent on the next connection.
fn joined_again(s: &mut Scenario) -> Vec<String> {
    s.renew("next");
    s.only("send")
}

#[test]
fn groups_follow_the_acks_of_joins_and_leaves() {
    let mut s = Scenario::connected();
    s.join(1, "a");
    s.join(2, "b");
    s.join(3, "c");
    s.ack(1);
    s.refuse(2, "Forbidden");
    s.refuse(3, "Duplicate");
    assert_eq!(groups(&s), ["a", "c"]);
    s.leave(4, "a");
    assert_eq!(groups(&s), ["a", "c"]);
    s.ack(4);
    s.leave(5, "c");
    s.refuse(5, "InternalServerError");
    assert_eq!(groups(&s), ["c"]);
}

#[test]
fn acks_in_another_order_than_the_calls_change_nothing() {
    let mut s = Scenario::connected();
    s.join(1, "a");
    s.leave(2, "a");
    s.ack(2);
    s.ack(1);
    assert_eq!(groups(&s), [""; 0]);
    assert_eq!(joined_again(&mut s), [""; 0]);

    let mut s = Scenario::connected();
    s.leave(1, "a");
    s.join(2, "a");
    s.ack(2);
    s.ack(1);
    assert_eq!(groups(&s), ["a"]);
    assert_eq!(joined_again(&mut s), ["send join a#2"]);
}

#[test]
fn only_what_succeeded_decides() {
    let mut s = Scenario::connected();
    s.join(1, "a");
    s.leave(2, "a");
    s.refuse(2, "Forbidden");
    s.ack(1);
    assert_eq!(groups(&s), ["a"]);
}

#[test]
fn every_order_of_the_acks_of_four_calls_ends_the_same() {
    let orders: Vec<[u64; 4]> = (0..256u64)
        .map(|n| [n % 4 + 1, n / 4 % 4 + 1, n / 16 % 4 + 1, n / 64 + 1])
        .filter(|o| (1..=4).all(|id| o.contains(&id)))
        .collect();
    assert_eq!(orders.len(), 24);
    for order in orders {
        let mut s = Scenario::connected();
        s.join(1, "a");
        s.leave(2, "a");
        s.join(3, "a");
        s.leave(4, "a");
        order.into_iter().for_each(|id| s.ack(id));
        assert_eq!(groups(&s), [""; 0], "{order:?}");
        s.join(5, "a");
        s.ack(5);
        assert_eq!(groups(&s), ["a"], "{order:?}");
    }
}

#[test]
fn the_late_ack_of_a_call_that_was_given_up_counts() {
    let mut s = Scenario::connected();
    s.join(1, "a");
    s.withdraw(1);
    assert_eq!(groups(&s), [""; 0]);
    s.ack(1);
    assert_eq!(groups(&s), ["a"]);
    s.leave(2, "a");
    s.withdraw(2);
    s.refuse(2, "Forbidden");
    assert_eq!(groups(&s), ["a"]);
    s.leave(3, "a");
    s.withdraw(3);
    s.ack(3);
    assert_eq!(groups(&s), [""; 0]);
    assert_eq!(joined_again(&mut s), [""; 0]);
}

#[test]
fn a_late_ack_decides_nothing_about_what_was_written_after() {
    let mut s = Scenario::connected();
    s.join(1, "a");
    s.withdraw(1);
    s.leave(2, "a");
    s.ack(2);
    s.ack(1);
    assert_eq!(groups(&s), [""; 0]);
}

#[test]
fn late_acks_are_those_of_the_same_connection() {
    let mut s = Scenario::connected();
    s.join(1, "a");
    s.withdraw(1);
    s.recover();
    s.ack(1);
    assert_eq!(groups(&s), ["a"], "a recovered connection is the same one");
    s.join(2, "b");
    s.withdraw(2);
    s.renew("c2");
    s.ack(2); // what the service counts as 2 now is something else
    assert_eq!(groups(&s), ["a"]);
}

#[test]
fn a_call_that_waited_when_it_was_given_up_has_no_ack() {
    let mut s = Scenario::connected_with(|c| c.max_in_flight = 1);
    s.call(1);
    s.join(2, "a");
    s.withdraw(2);
    s.ack(2);
    assert_eq!(groups(&s), [""; 0]);
}

#[test]
fn a_thousand_calls_that_were_given_up_are_remembered() {
    let mut s = Scenario::connected();
    for id in 0..1_001 {
        s.join(id, &format!("g{id}"));
        s.withdraw(id);
    }
    (0..1_001).for_each(|id| s.ack(id));
    assert_eq!(groups(&s).len(), 1_000);
    assert!(!groups(&s).contains(&"g0".to_owned()));
}

#[test]
fn a_rejoin_and_a_leave_behind_it_whose_acks_are_swapped() {
    let mut s = Scenario::connected();
    s.join(1, "a");
    s.ack(1);
    s.renew("c2");
    s.leave(2, "a");
    s.take();
    s.ack(2);
    s.ack(1);
    assert_eq!(groups(&s), [""; 0]);
    assert_eq!(joined_again(&mut s), [""; 0]);
}

#[test]
fn a_rejoin_that_fails_behind_the_leave_of_its_group_is_no_news() {
    let mut s = Scenario::connected();
    s.join(1, "a");
    s.ack(1);
    s.renew("c2");
    s.leave(2, "a");
    s.take();
    s.ack(2);
    s.refuse(1, "Forbidden");
    assert_eq!(s.take(), ["released a", "done 2 ok"]);
}

#[test]
fn the_queues_learn_of_a_leave_that_is_carried_out_also_late() {
    let mut s = Scenario::connected();
    s.join(1, "a");
    s.ack(1);
    s.leave(2, "a");
    s.take();
    s.refuse(2, "InternalServerError");
    assert_eq!(s.take(), ["done 2 Refused"]);
    s.leave(3, "a");
    s.ack(3);
    assert_eq!(s.only("released"), ["released a"]);
    s.join(4, "a");
    s.ack(4);
    s.leave(5, "a");
    s.advance(secs(30));
    assert_eq!(s.only("released"), [""; 0]);
    s.ack(5);
    assert_eq!(s.only("released"), ["released a"]);
}

#[test]
fn the_late_ack_of_a_rejoin_counts_too() {
    let mut s = Scenario::connected();
    s.join(1, "a");
    s.ack(1);
    s.renew("c2");
    s.advance(secs(30));
    assert_eq!(s.only("event")[1..], ["event JoinFailed a"]);
    assert_eq!(groups(&s), [""; 0]);
    s.ack(1);
    assert_eq!(groups(&s), ["a"]);
}

#[test]
fn a_join_that_was_left_again_is_not_issued_again_on_a_new_connection() {
    let mut s = Scenario::connected();
    s.join(1, "a");
    s.leave(2, "a");
    s.join(3, "b");
    s.leave(4, "c");
    s.join(5, "c");
    s.ack(2);
    s.ack(5);
    // The acks of 1, 3 and 4 are lost with the connection. Where a later call has been acked, the
    // service has carried out the earlier one too, and it must not undo the later one.
    assert_eq!(joined_again(&mut s), ["send join c#5", "send join b#3"]);
    assert_eq!(s.kind(1), ErrorKind::OutcomeUnknown);
    assert_eq!(s.kind(4), ErrorKind::OutcomeUnknown);
    s.ack(5);
    s.ack(3);
    assert_eq!(groups(&s), ["b", "c"]);
}
