//! What the service says: close codes, `disconnected`, refusals, and what is never retried.

use super::*;
use crate::error::{Error, ErrorKind};
use crate::message::{Disconnected, Event};
use crate::session::Loss;
use crate::session::tests::scenario::{loss, loss_by};

fn disconnected(s: &Scenario) -> &Disconnected {
    let found = s.events.iter().rev().find_map(|e| match e {
        Event::Disconnected(d) => Some(d),
        _ => None,
    });
    found.expect("a Disconnected event")
}

#[test]
fn codes_that_end_the_session_lead_to_a_new_connection() {
    for code in [1000, 1008, 1011] {
        let mut s = Scenario::connected();
        s.call(1);
        s.take();
        s.lose(Some(code));
        let expected = ["event Disconnected", "done 1 OutcomeUnknown", "event Reconnecting 1"];
        assert_eq!(s.take(), expected, "{code}");
        assert_eq!(disconnected(&s).cause.close_code(), Some(code));
        assert_eq!(disconnected(&s).maybe_lost, 1);
        assert_eq!(&*disconnected(&s).connection_id, "c1");
        s.until_dial();
        assert_eq!(s.take(), ["dial new"]);
    }
}

#[test]
fn a_broken_rule_fails_what_was_in_flight_and_is_never_repeated() {
    for code in [1002, 1003, 1007, 1009] {
        let mut s = Scenario::connected_with(|c| {
            c.resend_on_new_connection = true;
            c.max_in_flight = 2;
        });
        s.join(1, "bad");
        s.call(2);
        s.call(3);
        s.take();
        s.lose(Some(code));
        let expected =
            ["event Disconnected", "done 1 Refused", "done 2 Refused", "event Reconnecting 1"];
        assert_eq!(s.take(), expected, "{code}");
        assert_eq!(s.error(2).close_code(), Some(code));
        assert!(s.error(2).may_have_been_delivered());
        assert!(s.error(2).service_error_name().is_none());
        s.until_dial();
        s.linked();
        s.hello("c2", "t2");
        assert_eq!(s.take(), ["dial new", "event Connected c2", "send msg#3"], "only what waited");
    }
}

#[test]
fn a_broken_rule_does_not_cost_the_groups_that_are_being_joined_again() {
    let mut s = Scenario::connected();
    s.join(1, "a");
    s.ack(1);
    s.renew("c2");
    s.lose(Some(1007));
    s.take();
    s.until_dial();
    s.linked();
    s.hello("c3", "t3");
    assert_eq!(s.take(), ["dial new", "event Connected c3", "send join a#1"]);
}

#[test]
fn other_codes_and_no_code_are_worth_a_recovery() {
    for code in [None, Some(1001), Some(1006), Some(1012), Some(1013), Some(3000), Some(4999)] {
        let mut s = Scenario::connected();
        s.lose(code);
        assert_eq!(s.take(), ["event Recovering", "dial recover c1 t1"], "{code:?}");
        let Event::Recovering(e) = s.last_event() else { panic!("{:?}", s.last_event()) };
        assert_eq!((&*e.connection_id, e.cause.close_code()), ("c1", code));
    }
}

#[test]
fn c04_a_message_beyond_our_limits_is_not_fetched_again_by_a_recovery() {
    let mut s = Scenario::connected();
    s.lose_with(Loss { violation: true, ..loss() });
    assert_eq!(s.take(), ["event Disconnected", "event Reconnecting 1"]);
}

#[test]
fn a_session_that_ends_with_an_error_of_ours_reports_it_and_makes_a_new_connection() {
    for proving in [false, true] {
        let mut s = Scenario::connected();
        s.call(1);
        if proving {
            s.lose(None);
            s.linked();
        }
        s.take();
        let error = Error::new(ErrorKind::Disconnected, "the sequence id 7000000 cannot be right");
        s.lose_with(Loss { violation: true, ..Loss::of(error) });
        let expected = ["event Disconnected", "done 1 OutcomeUnknown", "event Reconnecting 1"];
        assert_eq!(s.take(), expected);
        let cause = format!("{:#}", disconnected(&s).cause);
        assert!(cause.contains("7000000 cannot be right"), "{cause}");
        s.until_dial();
        assert_eq!(s.take(), ["dial new"]);
    }
}

#[test]
fn what_the_service_said_before_it_closed_is_reported_once() {
    let mut s = Scenario::connected();
    s.session.service_said(Some("closed by the app".into()));
    s.lose_with(Loss { reason: "bye".into(), ..loss_by(Some(1000)) });
    let e = disconnected(&s);
    assert_eq!(e.service_message.as_deref(), Some("closed by the app"));
    assert_eq!(e.reason, "bye");
    s.until_dial();
    s.linked();
    s.hello("c2", "t2");
    s.lose(Some(1000));
    assert_eq!(disconnected(&s).service_message, None);
}

#[test]
fn what_the_service_said_in_a_failed_attempt_is_not_blamed_for_a_later_loss() {
    let mut s = Scenario::connected();
    s.lose(Some(1008));
    s.until_dial();
    s.linked();
    s.session.service_said(Some("not you".into()));
    s.lose(Some(1008));
    s.until_dial();
    s.linked();
    s.hello("c2", "t2");
    s.lose(Some(1000));
    assert_eq!(disconnected(&s).service_message, None);
}

#[test]
fn what_the_service_said_before_a_failed_recovery_is_reported_with_its_end() {
    let mut s = Scenario::connected();
    s.session.service_said(Some("service reload".into()));
    s.lose(Some(1001));
    s.linked();
    s.lose(Some(1008));
    assert_eq!(disconnected(&s).service_message.as_deref(), Some("service reload"));
}

#[test]
fn what_the_service_said_before_a_recovery_is_not_blamed_for_a_later_loss() {
    let mut s = Scenario::connected();
    s.session.service_said(Some("service reload".into()));
    s.recover();
    s.lose(Some(1000));
    assert_eq!(disconnected(&s).service_message, None);
}

#[test]
fn a_session_refused_by_1008_later_in_the_recovery_gives_way_to_a_new_connection() {
    let mut s = Scenario::connected();
    s.call(1);
    s.lose(Some(1001));
    s.dial_fails(None);
    s.take();
    s.until_dial();
    s.linked();
    s.take();
    s.lose(Some(1008));
    let expected = ["event Disconnected", "done 1 OutcomeUnknown", "event Reconnecting 1"];
    assert_eq!(s.take(), expected);
    let e = disconnected(&s);
    assert_eq!((&*e.connection_id, e.cause.close_code()), ("c1", Some(1008)));
    assert!(e.cause.to_string().contains("could not be recovered"), "{}", e.cause);
    assert!(std::error::Error::source(&e.cause).is_some(), "how the link was lost");
}

#[test]
fn a_recovery_refused_by_http_is_a_failed_try() {
    for status in [400, 401, 403, 404, 405, 410, 426, 429, 500, 502, 503] {
        let mut s = Scenario::connected();
        s.call(1);
        s.lose(Some(1012));
        s.take();
        s.dial_fails(Some(status));
        assert_eq!(s.take(), [""; 0], "{status}");
        let pause = s.until_dial();
        assert!(ms(800) <= pause && pause <= ms(1_200), "{status}: {pause:?}");
        s.linked();
        s.prove();
        assert_eq!(s.take(), ["dial recover c1 t1", "ping", "send msg#1"], "{status}");
    }
}

#[test]
fn a_recovery_refused_by_http_to_the_end_gives_way_to_a_new_connection() {
    for status in [400, 401, 403, 404, 405, 410, 426] {
        let mut s = Scenario::connected();
        s.lose(Some(1012));
        while s.events.len() < 4 {
            s.dial_fails(Some(status));
            let at = s.session.next_wake().expect("a next try");
            s.advance(at - s.now);
        }
        assert_eq!(s.elapsed(), secs(30), "{status}");
        let cause = &disconnected(&s).cause;
        assert_eq!(cause.close_code(), Some(1012), "the code of the loss");
        assert_eq!(cause.to_string(), "the lost connection could not be recovered: refused");
        assert!(format!("{cause:#}").ends_with("the link broke"), "{cause:#}");
        s.take();
        s.until_dial();
        assert_eq!(s.take(), ["dial new"]);
        s.dial_fails(Some(status));
        assert_eq!(s.take(), ["cut", "event Stopped"], "a fixed URL is refused for good");
    }
}

#[test]
fn redirects_and_a_subprotocol_not_granted_are_never_retried() {
    let redirect = || Error::new(ErrorKind::Upgrade, "moved").with_http_status(302);
    let subprotocol = || Error::new(ErrorKind::Subprotocol, "not granted");
    for error in [redirect(), subprotocol()] {
        let mut s = Scenario::connected_with(|c| c.url_provider = true);
        s.call(1);
        s.lose(None);
        s.take();
        s.dial_fails_with(error.clone());
        let expected = ["event Disconnected", "done 1 OutcomeUnknown", "cut", "event Stopped"];
        assert_eq!(s.take(), expected, "during a recovery");
        assert!(matches!(s.last_event(), Event::Stopped(e) if e.cause.kind() == error.kind()));

        let mut s = Scenario::connected_with(|c| c.url_provider = true);
        s.lose(Some(1008));
        s.until_dial();
        s.take();
        s.dial_fails_with(error);
        assert_eq!(s.take(), ["cut", "event Stopped"], "during a reconnect");
    }
}

#[test]
fn a_second_connection_on_a_link_in_use_ends_it_with_a_pause() {
    let mut s = Scenario::connected();
    s.hello("c2", "t2");
    assert_eq!(s.take(), ["cut", "event Disconnected", "event Reconnecting 1"]);
    // However often a peer does so, each time costs it a new connection.
    s.until_dial();
    s.linked();
    s.hello("c3", "t3");
    s.take();
    s.hello("c4", "t4");
    assert_eq!(s.take(), ["cut", "event Disconnected", "event Reconnecting 1"]);
}
