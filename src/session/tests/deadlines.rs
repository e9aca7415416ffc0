//! One deadline per call, and deadlines first: whatever happens, what is overdue has failed before
//! anything is sent.

use super::*;
use crate::error::ErrorKind;
use crate::session::{CallKind, Key};

#[test]
fn nothing_overdue_is_sent_on_a_new_connection() {
    let mut s = Scenario::connected_with(|c| c.resend_on_new_connection = true);
    s.call_for(1, secs(10));
    s.lose(Some(1008));
    s.call_for(2, secs(10));
    s.call(3);
    assert_eq!(s.fire_for(4, CallKind::Message, secs(10)), Ok(false));
    s.until_dial();
    s.take();
    s.now += secs(10); // nobody has ticked
    s.linked();
    let overdue = ["done 1 Timeout", "done 2 Timeout", "done 4 Timeout"];
    assert_eq!(s.take(), overdue);
    assert!(s.error(1).may_have_been_delivered(), "on the old connection");
    assert!(!s.error(2).may_have_been_delivered());
    assert!(!s.error(4).may_have_been_delivered());
    s.hello("c2", "t2");
    assert_eq!(s.take(), ["event Connected c2", "send msg#3"]);
}

#[test]
fn connected_sends_nothing_overdue() {
    let mut s = Scenario::connected();
    s.lose(Some(1008));
    s.call_for(1, secs(10));
    s.until_dial();
    s.linked();
    s.take();
    s.now += secs(10);
    s.hello("c2", "t2");
    assert_eq!(s.take(), ["done 1 Timeout", "event Connected c2"]);
}

#[test]
fn the_link_of_a_simple_client_sends_nothing_overdue() {
    let mut s = Scenario::with(|c| {
        c.simple = true;
        c.recoverable = false;
    });
    s.start();
    assert_eq!(s.fire_for(1, CallKind::Event, secs(10)), Ok(false));
    s.now += secs(10);
    s.linked();
    assert_eq!(s.take(), ["dial new", "done 1 Timeout", "event Connected "]);
}

#[test]
fn a_proof_sends_nothing_overdue() {
    let mut s = Scenario::connected();
    s.call_for(1, secs(2));
    s.call(2);
    s.lose(None);
    s.call_for(3, secs(2));
    s.linked();
    s.take();
    s.now += secs(2);
    s.prove();
    assert_eq!(s.take(), ["done 1 Timeout", "done 3 Timeout", "send msg#2"]);
    assert!(s.error(1).may_have_been_delivered());
    assert!(!s.error(3).may_have_been_delivered());
}

#[test]
fn an_ack_admits_nothing_overdue_and_counts_itself() {
    let mut s = Scenario::connected_with(|c| c.max_in_flight = 1);
    s.call_for(1, secs(2));
    s.call_for(2, secs(2));
    s.call(3);
    s.take();
    s.now += secs(3);
    s.ack(1); // it was on its way while the reader was busy
    assert_eq!(s.take(), ["done 1 ok", "done 2 Timeout", "send msg#3"]);
}

#[test]
fn a_withdrawal_admits_nothing_overdue() {
    let mut s = Scenario::connected_with(|c| c.max_in_flight = 1);
    s.call(1);
    s.call_for(2, secs(2));
    s.call(3);
    s.take();
    s.now += secs(3);
    s.withdraw(1);
    assert_eq!(s.take(), ["done 2 Timeout", "done 1 Timeout", "send msg#3"]);
}

#[test]
fn a_new_call_goes_behind_what_the_deadlines_of_others_make_room_for() {
    let mut s = Scenario::connected_with(|c| c.max_in_flight = 1);
    s.call_for(1, secs(2));
    s.call_for(2, secs(2));
    s.call(3);
    s.take();
    s.now += secs(2);
    s.call(4);
    assert_eq!(s.take(), ["done 1 Timeout", "done 2 Timeout", "send msg#3"]);
    s.ack(3);
    assert_eq!(s.take(), ["done 3 ok", "send msg#4"]);
}

#[test]
fn an_id_is_free_again_when_its_call_is_overdue() {
    let mut s = Scenario::connected();
    s.call_for(1, secs(2));
    s.now += secs(2);
    s.session.make_room(s.now);
    assert!(s.session.refuses(Key::Ack(1), &CallKind::Message).is_none());
}

#[test]
fn a_call_that_comes_too_late_is_never_sent() {
    let mut s = Scenario::connected();
    s.call_for(1, secs(0));
    assert_eq!(s.take(), ["done 1 Timeout"]);
    assert!(!s.error(1).may_have_been_delivered());
    assert_eq!(s.fire_for(2, CallKind::Message, secs(0)), Err(ErrorKind::Timeout));
    assert_eq!(s.take(), [""; 0]);
    assert_eq!(s.session.pending(), 0);
}

#[test]
fn a_loss_and_a_failed_dial_fail_what_is_overdue_by_its_deadline() {
    let mut s = Scenario::connected();
    s.call_for(1, secs(2));
    s.call_for(2, secs(4));
    s.take();
    s.now += secs(2);
    s.lose(Some(1008));
    assert_eq!(s.take()[..2], ["done 1 Timeout", "event Disconnected"]);

    let mut s = Scenario::connected();
    s.lose(None);
    s.call_for(1, secs(2));
    s.now += secs(2);
    s.take();
    s.dial_fails(None);
    assert_eq!(s.take(), ["done 1 Timeout"]);
}

#[test]
fn the_next_wake_up_is_known_from_the_start_of_a_call() {
    let mut s = Scenario::connected();
    let base = s.now;
    let next = |s: &Scenario| s.session.next_wake().map(|at| at - base);
    s.call_for(1, secs(30));
    assert_eq!(next(&s), Some(secs(30)));
    s.call_for(2, ms(500));
    assert_eq!(next(&s), Some(ms(500)));
    s.event_for(3, ms(700));
    s.ack(2);
    s.advance(ms(500)); // a wake-up for a call that has ended
    assert_eq!(next(&s), Some(ms(700)));
    s.ack(3);
    s.ack(1);
    assert_eq!(next(&s), None, "an idle client is not woken");
}

#[test]
fn deadlines_of_calls_that_ended_do_not_pile_up() {
    let mut s = Scenario::connected();
    s.call_for(0, secs(600)); // so that the table is never empty
    for id in 1..=100_000 {
        s.call_for(id, secs(30));
        s.ack(id);
    }
    let (mut ticks, end) = (0, s.now + secs(599));
    while let Some(at) = s.session.next_wake().filter(|at| *at <= end) {
        s.now = at;
        s.session.tick(s.now);
        ticks += 1;
    }
    assert_eq!(ticks, 1, "one wake-up finds that they have all ended");
}

#[test]
fn a_hundred_thousand_deadlines_cost_no_scan_each() {
    let mut s = Scenario::connected();
    s.lose(Some(1008));
    s.now += secs(1);
    for id in 0..100_000 {
        s.call_for(id, secs(10) + std::time::Duration::from_micros(id));
    }
    // Each has its own instant. A scan for each would take minutes.
    let began = std::time::Instant::now();
    for _ in 0..100_000 {
        s.now += std::time::Duration::from_micros(1);
        s.session.make_room(s.now + secs(10));
    }
    assert_eq!(s.session.pending(), 0);
    assert!(began.elapsed() < secs(20));
}

#[test]
fn a_rejoin_has_no_deadline_while_there_is_no_link() {
    let mut s = Scenario::connected();
    s.join(1, "a");
    s.ack(1);
    s.renew("c2");
    s.advance(secs(20));
    s.take();
    s.lose(None);
    s.advance(secs(15)); // 35 s since the rejoin was sent
    s.dial_fails(None);
    s.until_dial();
    s.linked();
    s.prove();
    s.pong(0);
    assert_eq!(s.only("event"), ["event Recovering", "event Recovered 0"]);
    s.advance(secs(29));
    assert_eq!(s.only("event"), [""; 0]);
    s.advance(secs(1));
    assert_eq!(s.only("event"), ["event JoinFailed a"], "30 s since it was sent again");
}

#[test]
fn an_overdue_rejoin_is_not_sent_by_a_caller_and_reported_by_the_reader() {
    let mut s = Scenario::connected_with(|c| c.max_in_flight = 1);
    for (id, group) in [(1, "a"), (2, "b")] {
        s.join(id, group);
        s.ack(id);
    }
    s.renew("c2");
    s.call_for(3, secs(60));
    s.take();
    s.now += secs(30);
    s.call(4); // callers must not cause events
    s.withdraw(4);
    assert_eq!(s.take(), ["done 4 Timeout"]);
    s.advance(secs(0));
    assert_eq!(s.take(), ["event JoinFailed a", "event JoinFailed b", "send msg#3"]);
}
