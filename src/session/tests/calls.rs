//! Calls and their acks on a connection that holds.

use super::*;
use crate::error::ErrorKind;
use crate::session::tests::scenario::{LONG, frame};
use crate::session::{Call, CallKind, Key, Output};

fn publication(s: &Scenario, key: Key, text: &str) -> Call<u64> {
    Call::new(key, CallKind::Message, frame(text), s.now + LONG)
}

#[test]
fn an_ack_completes_its_call() {
    let mut s = Scenario::connected();
    s.call(1);
    assert_eq!(s.take(), ["send msg#1"]);
    s.ack(1);
    assert_eq!(s.take(), ["done 1 ok"]);
    assert_eq!(s.session.pending(), 0);
}

#[test]
fn v01_the_waiter_stands_before_the_frame_can_leave() {
    let mut s = Scenario::connected();
    let mut call = publication(&s, Key::Ack(1), "msg#1");
    call.waiter = Some(1);
    s.session.call(s.now, call);
    // The ack comes before the caller has even taken the order to send.
    s.ack(1);
    assert_eq!(s.take(), ["send msg#1", "done 1 ok"]);
}

#[test]
fn j06_a_refusal_is_returned_at_once_and_never_retried() {
    let mut s = Scenario::connected();
    for (id, name, maybe) in
        [(1, "Forbidden", false), (2, "InternalServerError", true), (3, "Novelty", true)]
    {
        s.call(id);
        s.take();
        s.refuse(id, name);
        assert_eq!(s.take(), [format!("done {id} Refused")]);
        assert_eq!(s.error(id).service_error_name(), Some(name));
        assert_eq!(s.error(id).may_have_been_delivered(), maybe);
    }
    s.recover();
    s.advance(secs(60));
    assert_eq!(s.only("send"), [""; 0]);
}

#[test]
fn a_refusal_without_an_error_object_is_a_refusal() {
    let mut s = Scenario::connected();
    s.call(1);
    s.session.ack(s.now, 1, false, None);
    s.prove(); // takes the outputs
    assert_eq!(s.kind(1), ErrorKind::Refused);
    assert_eq!(s.error(1).to_string(), "the service refused the call");
}

#[test]
fn duplicate_is_success_and_says_so() {
    let mut s = Scenario::connected();
    s.call(1);
    s.refuse(1, "Duplicate");
    assert!(matches!(s.result(1), Ok(ack) if ack.duplicate && ack.ack_id == 1));
}

#[test]
fn unknown_and_repeated_acks_are_ignored() {
    let mut s = Scenario::connected();
    s.ack(99);
    s.call(1);
    s.ack(1);
    s.refuse(1, "Duplicate");
    assert_eq!(s.take(), ["send msg#1", "done 1 ok"]);
}

#[test]
fn an_ack_cannot_mean_a_call_that_is_not_written_yet() {
    let mut s = Scenario::connected_with(|c| c.max_in_flight = 1);
    let first = publication(&s, Key::Ack(7), "msg#7");
    s.session.call(s.now, first);
    let deadline = s.session.calls.get(Key::Ack(7)).expect("call 7").deadline;
    s.session.withdraw(s.now, Key::Ack(7), deadline);
    s.call(1);
    s.call(7); // waits behind call 1
    s.refuse(7, "Forbidden"); // of the first call 7
    assert!(s.pending(7));
    s.ack(1);
    s.refuse(7, "Duplicate");
    assert_eq!(
        s.take(),
        ["send msg#7", "send msg#1", "done 1 ok", "send msg#7", "done 7 duplicate"]
    );
}

#[test]
fn withdrawing_says_whether_the_call_was_written() {
    let mut s = Scenario::connected_with(|c| c.max_in_flight = 1);
    s.call(1);
    s.call(2);
    assert_eq!(s.withdraw(2), Some(false));
    assert_eq!(s.withdraw(1), Some(true));
    assert_eq!(s.withdraw(1), None);
    s.ack(1);
    s.ack(2);
    assert_eq!(
        s.take(),
        ["send msg#1", "done 2 Timeout", "done 1 Timeout"],
        "late acks are ignored"
    );
}

#[test]
fn c02_a_call_that_was_given_up_leaves_nothing_behind() {
    let mut s = Scenario::connected();
    for id in 0..20 {
        s.call(id);
        s.withdraw(id);
    }
    assert_eq!(s.session.pending(), 0);
    s.take();
    s.recover();
    assert_eq!(s.take(), [""; 0], "and is never sent again");
}

#[test]
fn an_ack_after_which_a_call_is_withdrawn_wins() {
    let mut s = Scenario::connected();
    s.call(1);
    s.ack(1);
    assert_eq!(s.withdraw(1), None, "its result is on its way");
    assert!(s.result(1).is_ok());
}

#[test]
fn an_id_in_use_is_refused_without_sending() {
    let mut s = Scenario::connected();
    s.call(1);
    s.take();
    let mut call = publication(&s, Key::Ack(1), "other");
    call.waiter = Some(2);
    s.session.call(s.now, call);
    let Some(Output::Complete { waiter: 2, result: Err(error) }) = s.session.output() else {
        panic!("the second call must fail")
    };
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert!(s.session.output().is_none());
    assert!(s.session.refuses(Key::Ack(1), &CallKind::Message).is_some());
    s.ack(1);
    assert!(
        s.session.refuses(Key::Ack(1), &CallKind::Message).is_none(),
        "free again after its end"
    );
}

#[test]
fn calls_beyond_the_cap_wait_in_order() {
    let mut s = Scenario::connected_with(|c| c.max_in_flight = 2);
    (1..=5).for_each(|id| s.call(id));
    assert_eq!(s.take(), ["send msg#1", "send msg#2"]);
    s.ack(2);
    assert_eq!(s.take(), ["done 2 ok", "send msg#3"]);
    s.withdraw(4);
    s.withdraw(1);
    assert_eq!(s.take(), ["done 4 Timeout", "done 1 Timeout", "send msg#5"]);
}

#[test]
fn bytes_in_flight_are_capped_and_one_large_call_still_goes() {
    let big = |s: &mut Scenario, id: u64, len: usize| {
        let text = format!("{:x<1$}", format!("#{id} "), len);
        s.new_call(Key::Ack(id), CallKind::Message, &text, LONG);
    };
    let mut s = Scenario::connected_with(|c| c.max_in_flight_bytes = 100);
    big(&mut s, 1, 60);
    big(&mut s, 2, 40);
    big(&mut s, 3, 1);
    big(&mut s, 4, 500);
    assert_eq!(s.only("send").len(), 2);
    s.ack(1);
    assert_eq!(s.only("send").len(), 1);
    s.ack(2);
    assert_eq!(s.only("send").len(), 0, "500 bytes do not fit beside one");
    s.ack(3);
    assert_eq!(s.only("send").len(), 1, "but they go alone");
    big(&mut s, 5, 1);
    assert_eq!(s.only("send").len(), 0);
    s.ack(4);
    assert_eq!(s.only("send").len(), 1);
}

#[test]
fn calls_that_are_issued_again_count_once() {
    let mut s = Scenario::connected_with(|c| c.max_in_flight_bytes = 25);
    s.join(1, "some-group"); // 17 bytes
    for id in ["c2", "c3", "c4"] {
        s.renew(id);
        assert_eq!(s.only("send"), ["send join some-group#1"]);
    }
    s.call(2);
    s.call(3);
    assert_eq!(s.only("send"), ["send msg#2"], "5 bytes fit beside it, 10 do not");
}

#[test]
fn fire_and_forget_goes_at_once_and_behind_calls_that_wait() {
    let mut s = Scenario::connected_with(|c| c.max_in_flight = 1);
    assert_eq!(s.fire(10), Ok(true));
    s.call(1);
    assert_eq!(s.fire(11), Ok(true), "calls in flight do not hold it back");
    s.call(2);
    assert_eq!(s.fire(12), Ok(false));
    s.call(3);
    assert_eq!(s.take(), ["send fire#10", "send msg#1", "send fire#11"]);
    s.ack(1);
    assert_eq!(s.take(), ["done 1 ok", "send msg#2", "send fire#12", "done 12 ok"]);
    s.ack(2);
    assert_eq!(s.take(), ["done 2 ok", "send msg#3"]);
}

#[test]
fn fire_and_forget_is_marked_as_unwaited_and_calls_are_not() {
    let mut s = Scenario::connected_with(|c| c.max_in_flight = 1);
    let unwaited = |s: &mut Scenario| match s.session.output() {
        Some(Output::Send { unwaited, .. }) => unwaited,
        other => panic!("{other:?}"),
    };
    let fire = publication(&s, Key::Unacked(0), "fire");
    assert!(matches!(s.session.fire(s.now, fire), Ok(None)));
    assert!(unwaited(&mut s));
    for (key, text) in [(Key::Ack(1), "a"), (Key::Ack(2), "b"), (Key::Unacked(3), "c")] {
        let call = publication(&s, key, text);
        s.session.call(s.now, call);
    }
    assert!(!unwaited(&mut s));
    s.session.ack(s.now, 1, true, None);
    assert!(!unwaited(&mut s));
    s.session.ack(s.now, 2, true, None);
    assert!(unwaited(&mut s), "also if it had to wait");
}

#[test]
fn c08_calls_before_the_connection_wait_for_it() {
    let mut s = Scenario::new();
    s.call(1);
    assert_eq!(s.fire(2), Ok(false));
    s.start();
    s.call(3);
    s.linked();
    assert_eq!(s.take(), ["dial new"]);
    s.hello("c1", "t1");
    assert_eq!(
        s.take(),
        ["event Connected c1", "send msg#1", "send fire#2", "done 2 ok", "send msg#3"]
    );
}

#[test]
fn p11_a_deadline_covers_waiting_and_the_ack() {
    let mut s = Scenario::connected_with(|c| c.max_in_flight = 1);
    s.call_for(1, secs(3));
    s.call_for(2, secs(3));
    s.call_for(3, secs(9));
    s.take();
    s.advance(ms(2_999));
    assert_eq!(s.take(), [""; 0]);
    s.advance(ms(1));
    assert_eq!(s.take(), ["done 1 Timeout", "done 2 Timeout", "send msg#3"]);
    assert!(s.error(1).may_have_been_delivered());
    assert!(!s.error(2).may_have_been_delivered());
    s.advance(secs(6));
    assert_eq!(s.take(), ["done 3 Timeout"]);
    assert_eq!(s.session.next_wake(), None);
}

#[test]
fn a_deadline_holds_while_there_is_no_connection() {
    let mut s = Scenario::connected_with(|c| c.backoff_max = secs(1));
    s.lose(Some(1008));
    s.call_for(1, secs(10));
    for _ in 0..100 {
        s.advance(ms(200));
        s.dial_fails(None);
    }
    assert_eq!(s.kind(1), ErrorKind::Timeout);
    assert!(!s.error(1).may_have_been_delivered());
}
