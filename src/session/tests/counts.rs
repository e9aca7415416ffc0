//! What the session counts.

use super::*;
use crate::error::{Error, ErrorKind};

/// Acked, refused, timed out, cut off.
fn counts(s: &Scenario) -> [u64; 4] {
    let counts = &s.session.counts;
    [counts.acked, counts.refused, counts.timed_out, counts.cut_off]
}

#[test]
fn each_call_of_the_program_is_counted_by_how_it_ended() {
    let mut s = Scenario::connected();
    s.call(1);
    s.ack(1);
    s.join(2, "g");
    s.ack(2);
    assert_eq!(counts(&s), [2, 0, 0, 0]);
    s.call(3);
    s.refuse(3, "Forbidden");
    s.call(4);
    s.refuse(4, "Duplicate");
    assert_eq!(counts(&s), [3, 1, 0, 0]);
    s.call_for(5, secs(1));
    s.advance(secs(1));
    s.ack(5);
    assert_eq!(counts(&s), [3, 1, 1, 0], "a late ack changes nothing");
    s.call(6);
    s.lose(Some(1008));
    s.drain();
    assert_eq!(s.kind(6), ErrorKind::OutcomeUnknown);
    assert_eq!(counts(&s), [3, 1, 1, 1]);
    s.renew("c2");
    let rejoined = counts(&s);
    assert_eq!(rejoined, [3, 1, 1, 1], "the rejoin is no call of the program");
    s.call(7);
    s.join(8, "h");
    s.close();
    assert_eq!(counts(&s), [3, 1, 1, 3]);
}

#[test]
fn a_connection_lasts_over_a_recovery_and_the_last_error_stays() {
    let mut s = Scenario::connected();
    let since = s.session.counts.connected_since;
    assert!(since.is_some() && s.session.counts.last_error.is_none());
    s.advance(secs(5));
    s.lose(None);
    assert_eq!(s.session.counts.connected_since, since, "while it is being recovered");
    let error = s.session.counts.last_error.clone().expect("the loss");
    assert_eq!(error.kind(), ErrorKind::Disconnected);
    s.dial_fails(Some(503));
    let status = |s: &Scenario| s.session.counts.last_error.as_ref().and_then(Error::http_status);
    assert_eq!(status(&s), Some(503), "a failed attempt");
    s.until_dial();
    s.linked();
    s.prove();
    s.pong(0);
    assert_eq!(s.session.counts.connected_since, since);
    assert_eq!(status(&s), Some(503), "it stays");
    s.lose(Some(1008));
    assert_eq!(s.session.counts.connected_since, None);
    let code = s.session.counts.last_error.as_ref().and_then(Error::close_code);
    assert_eq!(code, Some(1008));
    s.renew("c2");
    assert_eq!(s.session.counts.connected_since, Some(s.now));
    s.close();
    assert_eq!(s.session.counts.connected_since, None);
    assert!(s.session.counts.last_error.as_ref().is_some_and(|e| !e.is_closed()), "no failure");
}

#[test]
fn acks_measure_the_round_trip_but_not_those_of_events_and_repetitions() {
    let mut s = Scenario::connected();
    s.event_for(1, secs(30));
    s.advance(ms(50));
    s.ack(1);
    assert_eq!(s.session.counts.round_trip, None, "an event");
    s.call(2);
    s.call(3);
    s.advance(ms(7));
    s.ack(3);
    assert_eq!(s.session.counts.round_trip, None, "another call is measured");
    s.ack(2);
    assert_eq!(s.session.counts.round_trip, Some(ms(7)));
    s.call(4);
    s.lose(None);
    s.advance(ms(50));
    s.recover();
    s.ack(4);
    assert_eq!(s.session.counts.round_trip, Some(ms(7)), "a repetition");
    s.call_for(5, secs(1));
    s.advance(secs(1));
    s.call(6);
    s.advance(ms(9));
    s.ack(6);
    assert_eq!(s.session.counts.round_trip, Some(ms(9)), "the one before never ended");
}
