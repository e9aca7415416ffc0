//! The first connection, closing, stopping, and clients that do not reconnect.

use super::*;
use crate::error::{Error, ErrorKind};
use crate::message::Event;
use crate::session::Loss;
use crate::session::tests::scenario::{identity, loss_by};

#[test]
fn the_first_connection_is_reported_when_the_service_says_connected() {
    let mut s = Scenario::new();
    s.start();
    assert_eq!(s.take(), ["dial new"]);
    s.linked();
    assert_eq!(s.take(), [""; 0], "the upgrade alone is no connection");
    assert!(!s.session.is_open());
    s.hello("c1", "t1");
    assert_eq!(s.take(), ["event Connected c1"]);
    assert!(matches!(s.last_event(), Event::Connected(e) if !e.gap_possible));
    assert_eq!(s.session.next_wake(), None, "an idle connection asks for no wake-up");
    assert_eq!(s.session.counts.reconnects, 0);
}

#[test]
fn a_second_start_does_nothing() {
    let mut s = Scenario::connected();
    s.start();
    assert_eq!(s.take(), [""; 0]);
}

#[test]
fn p16_a_failed_first_connection_stops_with_its_error_and_tries_nothing_more() {
    for status in [None, Some(401), Some(429), Some(503)] {
        let mut s = Scenario::with(|c| c.url_provider = true);
        s.start();
        s.dial_fails(status);
        assert_eq!(s.take(), ["dial new", "cut", "event Stopped"], "{status:?}");
        assert_eq!(s.session.ended().and_then(Error::http_status), status);
        assert!(s.session.is_stopped());
        s.advance(secs(600));
        s.linked();
        s.hello("c1", "t1");
        assert_eq!(s.take(), [""; 0], "what comes too late is ignored");
    }
}

#[test]
fn in_the_background_the_first_connection_is_tried_again() {
    let mut s = Scenario::with(|c| c.background = true);
    s.start();
    s.dial_fails(Some(503));
    assert!(matches!(s.last_event(), Event::Reconnecting(e) if e.attempt == 2));
    s.advance(secs(2));
    s.linked();
    s.hello("c1", "t1");
    assert!(matches!(s.last_event(), Event::Connected(e) if !e.gap_possible));

    let mut s = Scenario::with(|c| {
        c.background = true;
        c.auto_reconnect = false;
    });
    s.start();
    s.dial_fails(None);
    assert!(s.session.is_stopped(), "one attempt");
    let mut s = Scenario::with(|c| c.background = true);
    s.start();
    s.dial_fails(Some(401));
    assert!(s.session.is_stopped(), "a fixed URL that is refused");
}

#[test]
fn connected_that_never_comes_ends_the_first_attempt_in_time() {
    let mut s = Scenario::new();
    s.start();
    s.linked();
    s.take();
    s.advance(ms(9_999));
    assert_eq!(s.take(), [""; 0]);
    s.advance(ms(1));
    assert_eq!(s.take(), ["cut", "cut", "event Stopped"]);
    assert_eq!(s.session.ended().map(Error::kind), Some(ErrorKind::SessionStart));
}

#[test]
fn the_limit_of_the_whole_attempt_holds_for_the_connected_message_too() {
    let mut s = Scenario::with(|c| c.connect_timeout = secs(12));
    s.start();
    s.advance(secs(8)); // dialing
    s.linked();
    s.take();
    s.advance(secs(4));
    assert_eq!(s.only("event"), ["event Stopped"]);
}

#[test]
fn a_link_lost_before_the_first_connected_is_a_failed_attempt() {
    let mut s = Scenario::new();
    s.start();
    s.linked();
    s.take();
    s.lose(Some(1008));
    assert_eq!(s.take(), ["cut", "event Stopped"]);
    let error = s.session.ended().expect("ended");
    assert_eq!((error.kind(), error.close_code()), (ErrorKind::SessionStart, Some(1008)));
}

#[test]
fn close_when_open_says_goodbye_and_waits_for_the_peer() {
    let mut s = Scenario::connected();
    s.call(1);
    s.take();
    s.close();
    assert_eq!(s.take(), ["done 1 Closed", "close 1000"]);
    assert!(s.error(1).may_have_been_delivered());
    s.close();
    s.lose(Some(1000));
    assert_eq!(s.take(), ["cut", "event Stopped"]);
    assert!(matches!(s.last_event(), Event::Stopped(e) if e.cause.is_closed()));
    s.stop();
    assert_eq!(s.take(), [""; 0]);
}

#[test]
fn close_gives_up_a_peer_that_does_not_answer() {
    let mut s = Scenario::connected();
    s.close();
    s.take();
    s.advance(ms(1_999));
    assert_eq!(s.take(), [""; 0]);
    s.advance(ms(1));
    assert_eq!(s.take(), ["cut", "event Stopped"]);
}

#[test]
fn j15_close_while_opening_ignores_a_connected_that_comes_after() {
    let mut s = Scenario::new();
    s.start();
    s.linked();
    s.close();
    s.hello("c1", "t1");
    assert_eq!(s.take(), ["dial new", "close 1000"]);
    s.lose(None);
    assert_eq!(s.take(), ["cut", "event Stopped"]);
}

#[test]
fn close_before_the_start_opens_nothing() {
    let mut s = Scenario::new();
    s.close();
    s.start();
    assert_eq!(s.take(), ["cut", "event Stopped"]);
}

#[test]
fn j01_close_while_dialing_stops_however_the_dialing_ends() {
    for ends_well in [true, false] {
        for recovering in [true, false] {
            let mut s = Scenario::connected();
            s.lose(if recovering { None } else { Some(1008) });
            if !recovering {
                s.until_dial();
            }
            s.close();
            s.take();
            if ends_well {
                s.linked();
            } else {
                s.dial_fails(None);
            }
            assert_eq!(s.take(), ["cut", "event Stopped"]);
            assert!(matches!(s.last_event(), Event::Stopped(e) if e.cause.is_closed()));
        }
    }
}

#[test]
fn p07_close_while_waiting_for_the_next_attempt_is_never_forgotten() {
    let mut s = Scenario::connected();
    s.lose(Some(1008));
    s.call(1);
    s.close();
    assert_eq!(s.only("done"), ["done 1 Closed"]);
    assert!(!s.error(1).may_have_been_delivered());
    s.advance(secs(60));
    assert_eq!(s.take(), ["cut", "event Stopped"], "no attempt after close");
}

#[test]
fn j01_close_while_a_recovery_is_being_proved() {
    let mut s = Scenario::connected();
    s.call(1);
    s.lose(None);
    s.linked();
    s.take();
    s.close();
    assert_eq!(s.take(), ["done 1 Closed", "close 1000"]);
    s.prove();
    s.pong(3);
    assert_eq!(s.take(), [""; 0], "nothing is sent again, nothing is recovered");
    s.lose(None);
    assert_eq!(s.take(), ["cut", "event Stopped"]);
}

#[test]
fn close_between_acceptance_and_pong() {
    let mut s = Scenario::connected();
    s.lose(None);
    s.linked();
    s.prove();
    s.take();
    s.close();
    s.pong(0);
    s.advance(secs(2));
    assert_eq!(s.take(), ["close 1000", "cut", "event Stopped"]);
}

#[test]
fn after_close_and_after_stop_calls_are_refused() {
    let mut s = Scenario::connected();
    s.close();
    s.call(1);
    assert_eq!(s.kind(1), ErrorKind::Closed);
    assert!(!s.error(1).may_have_been_delivered());
    assert_eq!(s.fire(2), Err(ErrorKind::Closed));
    s.lose(None);
    s.call(3);
    assert_eq!(s.kind(3), ErrorKind::Closed);
    assert_eq!(s.session.pending(), 0);
}

#[test]
fn calls_after_a_stop_learn_why_the_client_stopped() {
    let mut s = Scenario::connected_with(|c| c.auto_reconnect = false);
    s.lose(Some(1008));
    s.call(1);
    assert_eq!(s.kind(1), ErrorKind::Disconnected);
    assert!(std::error::Error::source(s.error(1)).is_some());
    assert_eq!(s.fire(2), Err(ErrorKind::Disconnected));
}

#[test]
fn the_reader_can_stop_everything_with_its_own_cause() {
    let mut s = Scenario::connected();
    s.call(1);
    s.take();
    s.session.stop(Error::new(ErrorKind::QueueFull, "full"));
    s.advance(secs(1));
    s.call(2);
    assert_eq!(s.take(), ["done 1 QueueFull", "cut", "event Stopped", "done 2 QueueFull"]);
    assert!(s.error(1).may_have_been_delivered());
}

#[test]
fn without_auto_reconnect_the_end_of_the_session_is_the_end() {
    let mut s = Scenario::connected_with(|c| c.auto_reconnect = false);
    s.call(1);
    s.join(2, "a");
    s.take();
    s.lose(Some(1000));
    let expected = [
        "event Disconnected",
        "done 1 OutcomeUnknown",
        "done 2 Disconnected",
        "cut",
        "event Stopped",
    ];
    assert_eq!(s.take(), expected);
    assert!(s.error(2).may_have_been_delivered());
}

#[test]
fn without_auto_reconnect_a_session_is_recovered_all_the_same() {
    let mut s = Scenario::connected_with(|c| c.auto_reconnect = false);
    s.lose(None);
    s.linked();
    s.prove();
    s.pong(0);
    let expected =
        ["event Recovering", "dial recover c1 t1", "ping", "event Recovered 0"].map(String::from);
    assert_eq!(s.take(), expected);
    s.advance(secs(2));
    s.lose(None);
    s.linked();
    s.take();
    s.lose(Some(1008));
    assert_eq!(s.take(), ["event Disconnected", "cut", "event Stopped"]);
}

#[test]
fn without_auto_reconnect_a_replaced_connection_is_the_end_too() {
    let mut s = Scenario::connected_with(|c| c.auto_reconnect = false);
    s.lose(None);
    s.linked();
    s.take();
    s.hello("c2", "t2");
    assert_eq!(s.take(), ["event Disconnected", "cut", "event Stopped"]);
}

#[test]
fn a_simple_client_is_connected_by_the_upgrade_and_never_recovers() {
    let mut s = Scenario::with(|c| {
        c.simple = true;
        c.recoverable = false;
    });
    s.start();
    s.linked();
    assert_eq!(s.take(), ["dial new", "event Connected "]);
    assert_eq!(s.fire(1), Ok(true));
    assert_eq!(s.take(), ["send fire#1"]);
    s.lose_with(Loss { unsent: 2, reason: "why".into(), ..loss_by(Some(1011)) });
    assert_eq!(s.take(), ["event Disconnected", "event Reconnecting 1"]);
    let Event::Disconnected(e) = &s.events[1] else { panic!("{:?}", s.events) };
    assert_eq!((&*e.connection_id, e.cause.close_code()), ("", Some(1011)));
    assert_eq!((e.reason.as_str(), e.maybe_lost), ("why", 2));
    s.until_dial();
    s.linked();
    assert_eq!(s.take(), ["dial new", "event Connected "]);
    assert!(matches!(s.last_event(), Event::Connected(e) if e.gap_possible));
}

#[test]
fn a_client_of_a_protocol_without_recovery_makes_a_new_connection() {
    let mut s = Scenario::with(|c| c.recoverable = false);
    s.start();
    s.linked();
    s.session.connected(s.now, identity("c1", None));
    s.call(1);
    s.take();
    s.lose(None);
    let expected = ["event Disconnected", "done 1 OutcomeUnknown", "event Reconnecting 1"];
    assert_eq!(s.take(), expected);
    s.until_dial();
    assert_eq!(s.take(), ["dial new"]);
}

#[test]
fn without_a_reconnection_token_there_is_nothing_to_recover_with() {
    let mut s = Scenario::new();
    s.start();
    s.linked();
    s.session.connected(s.now, identity("c1", None));
    s.take();
    s.lose(None);
    assert_eq!(
        s.only("event"),
        ["event Connected c1", "event Disconnected", "event Reconnecting 1"]
    );
}

#[test]
fn limits_too_long_for_the_clock_are_long_ones() {
    let mut s = Scenario::connected_with(|c| {
        c.connect_timeout = std::time::Duration::MAX;
        c.step_timeout = std::time::Duration::MAX;
        c.recovery_window = std::time::Duration::MAX;
        c.backoff_max = std::time::Duration::MAX;
        c.backoff_min = std::time::Duration::MAX;
        c.call_timeout = std::time::Duration::MAX;
        c.close_timeout = std::time::Duration::MAX;
    });
    s.join(1, "a");
    s.ack(1);
    s.recover();
    s.renew("c2");
    s.close();
    assert!(s.session.next_wake().is_some());
}

#[test]
fn calls_in_flight_and_their_echoes_leave_half_of_what_a_plain_link_may_hold() {
    // The service cuts a plain link with 1000 unsent frames.
    let mut s = Scenario::connected_with(|c| c.recoverable = false);
    (0..2_000).for_each(|id| s.call(id));
    let in_flight = s.only("send").len();
    assert_eq!(in_flight, 256);
    assert!(2 * in_flight <= 1_000 - 400);
}

#[test]
fn a_slow_dial_leaves_less_time_for_connected_and_never_more() {
    let mut s = Scenario::new();
    s.start();
    s.now += secs(25);
    s.linked();
    s.take();
    assert_eq!(s.session.next_wake().map(|at| at - s.now), Some(secs(5)));
    s.advance(secs(5));
    assert_eq!(s.only("event"), ["event Stopped"]);
    assert_eq!(s.elapsed(), secs(30), "30 s in all");
}
