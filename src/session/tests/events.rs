//! What a slow event handler, a dead link and a full event queue mean for calls.

use std::time::{Duration, Instant};

use super::*;
use crate::error::ErrorKind;
use crate::message::Event;
use crate::session::tests::scenario::frame;
use crate::session::{Call, CallKind, Key, Output, Unread};

/// How long from `from` silence is allowed, the peer being heard at `heard`.
fn allowed(s: &Scenario, from: Instant, heard: Instant) -> Option<Duration> {
    s.session.silence_allowed_until(heard).map(|at| at - from)
}

#[test]
fn silence_is_allowed_while_an_event_is_unacked() {
    let mut s = Scenario::connected();
    let base = s.now;
    s.call(1);
    assert_eq!(allowed(&s, base, base), None, "publications are answered at once");
    s.event_for(2, secs(30));
    assert_eq!(allowed(&s, base, base), Some(secs(60)), "a minute at least");
    s.event_for(3, secs(90));
    assert_eq!(allowed(&s, base, base), Some(secs(90)), "and the longest deadline");
    s.advance(secs(10));
    assert_eq!(allowed(&s, base, s.now), Some(secs(90)), "whatever was heard since");
    s.ack(3);
    assert_eq!(allowed(&s, base, s.now), Some(secs(60)));
    s.ack(2);
    assert_eq!(allowed(&s, base, s.now), None);
}

#[test]
fn an_event_that_waits_allows_no_silence() {
    let mut s = Scenario::connected_with(|c| c.max_in_flight = 1);
    let base = s.now;
    s.call(1);
    s.event_for(2, secs(300));
    assert_eq!(allowed(&s, base, base), None);
    s.advance(secs(5));
    s.ack(1);
    assert_eq!(allowed(&s, base, base), Some(secs(300)));
}

#[test]
fn an_event_whose_caller_gave_up_may_still_be_handled() {
    let mut s = Scenario::connected();
    let base = s.now;
    s.event_for(1, secs(5));
    s.advance(secs(5));
    assert_eq!(s.kind(1), ErrorKind::Timeout);
    assert_eq!(allowed(&s, base, s.now), Some(secs(60)));
    s.recover();
    assert_eq!(allowed(&s, base, s.now), None, "on another link it is not");
}

#[test]
fn fire_and_forget_events_allow_silence_until_something_comes() {
    let mut s = Scenario::connected();
    let base = s.now;
    let fire = |s: &mut Scenario, kind, limit| {
        assert_eq!(s.fire_for(9, kind, limit), Ok(true));
    };
    fire(&mut s, CallKind::Message, secs(90));
    assert_eq!(allowed(&s, base, base), None);
    fire(&mut s, CallKind::Event, secs(300));
    s.now += secs(10);
    fire(&mut s, CallKind::Event, secs(30));
    s.now += secs(10);
    fire(&mut s, CallKind::Event, secs(100));
    let ago = |s: &Scenario, n| s.now - secs(n);
    assert_eq!(allowed(&s, base, ago(&s, 20)), Some(secs(300)));
    assert_eq!(allowed(&s, base, ago(&s, 15)), Some(secs(120)));
    assert_eq!(allowed(&s, base, ago(&s, 0)), Some(secs(120)));
    assert_eq!(allowed(&s, base, s.now + ms(1)), None);
}

#[test]
fn events_are_sent_with_the_patience_that_they_need() {
    let mut s = Scenario::connected_with(|c| c.max_in_flight = 2);
    let sent = |s: &mut Scenario, key, kind, limit| {
        let call = Call::new(key, kind, frame("x"), s.now + limit);
        s.session.call(s.now, call);
        match s.session.output() {
            Some(Output::Send { patience, .. }) => patience.map(|at| at - s.now),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(sent(&mut s, Key::Ack(1), CallKind::Message, secs(99)), None);
    assert_eq!(sent(&mut s, Key::Ack(2), CallKind::Event, secs(99)), Some(secs(99)));
    assert_eq!(sent(&mut s, Key::Unacked(3), CallKind::Event, secs(9)), Some(secs(60)));
    // It counts anew from the writing on a recovered link.
    s.lose(None);
    s.linked();
    s.session.ack(s.now, 1, true, None);
    s.take();
    s.now += secs(50);
    s.session.proved(s.now);
    let Some(Output::Send { patience, .. }) = s.session.output() else { panic!() };
    assert_eq!(patience.map(|at| at - s.now), Some(secs(60)));
}

#[test]
fn on_a_link_that_is_known_to_be_dead_nothing_counts_as_written() {
    let mut s = Scenario::connected();
    s.call(1);
    s.take();
    s.session.suspend();
    assert!(!s.session.is_open());
    s.call(2);
    assert_eq!(s.fire(3), Ok(false));
    s.ack(1); // it was read before the end
    s.advance(secs(1));
    assert_eq!(s.take(), ["done 1 ok"]);
    assert_eq!(s.withdraw(2), Some(false));
    s.take();
    s.lose(None);
    assert_eq!(s.take(), ["event Recovering", "dial recover c1 t1"], "as from an open link");
    s.linked();
    s.prove();
    assert_eq!(s.take(), ["ping", "send fire#3", "done 3 ok"]);
}

#[test]
fn what_waits_on_a_dead_link_has_its_deadline() {
    let mut s = Scenario::connected();
    s.session.suspend();
    assert_eq!(s.fire_for(1, CallKind::Message, secs(3)), Ok(false));
    s.advance(secs(3));
    assert_eq!(s.take(), ["done 1 Timeout"]);
    assert!(!s.error(1).may_have_been_delivered());
}

#[test]
fn a_recovery_link_that_died_before_its_proof_is_a_failed_try() {
    let mut s = Scenario::connected();
    s.call(1);
    s.lose(None);
    s.linked();
    s.session.suspend();
    s.take();
    s.prove(); // of what had come before the end
    s.lose(None);
    assert_eq!(s.take(), [""; 0]);
    s.until_dial();
    s.linked();
    s.prove();
    assert_eq!(s.take(), ["dial recover c1 t1", "ping", "send msg#1"], "the new link is alive");
}

const FULL: &str = "the event queue is full (1234 unread), so reading from the connection";

#[test]
fn a_timeout_names_the_full_queue_behind_it() {
    let mut s = Scenario::connected_with(|c| c.max_in_flight = 1);
    (1..=3).for_each(|id| s.call_for(id, secs(3 * id)));
    s.session.queue_full(Some(Unread { group: None, messages: 1234 }));
    s.advance(secs(3));
    s.withdraw(2);
    s.session.queue_full(None);
    s.advance(secs(6));
    for id in [1, 2] {
        assert_eq!(s.kind(id), ErrorKind::Timeout);
        assert!(s.error(id).to_string().contains(FULL), "{}", s.error(id));
    }
    assert!(s.error(1).may_have_been_delivered());
    assert!(!s.error(3).to_string().contains("queue"), "{}", s.error(3));
}

#[test]
fn a_loss_names_the_full_queue_behind_it() {
    let mut s = Scenario::connected();
    s.call(1);
    s.session.queue_full(Some(Unread { group: None, messages: 1234 }));
    s.lose(Some(1001));
    let Event::Recovering(e) = s.last_event() else { panic!() };
    assert_eq!((e.cause.kind(), e.cause.close_code()), (ErrorKind::Disconnected, Some(1001)));
    assert!(e.cause.to_string().contains(FULL), "{}", e.cause);
    assert!(format!("{:#}", e.cause).ends_with("the link broke"), "{:#}", e.cause);
    s.linked();
    s.lose(Some(1008));
    let Event::Disconnected(e) = &s.events[s.events.len() - 2] else { panic!() };
    assert_eq!(e.cause.close_code(), Some(1008));
    assert!(e.cause.to_string().contains(FULL), "{}", e.cause);
    assert!(format!("{:#}", s.error(1)).contains(FULL), "{:#}", s.error(1));
}

#[test]
fn a_recovery_that_fails_names_the_queue_that_was_full_when_the_link_was_lost() {
    let mut s = Scenario::connected();
    s.call(1);
    s.session.queue_full(Some(Unread { group: None, messages: 1234 }));
    s.lose(None);
    // What was held for it is dropped with the link.
    s.session.queue_full(None);
    s.linked();
    s.lose(Some(1008));
    let Event::Disconnected(e) = &s.events[s.events.len() - 2] else { panic!() };
    for text in [format!("{:#}", e.cause), format!("{:#}", s.error(1))] {
        assert!(text.contains(FULL), "{text}");
    }
}
