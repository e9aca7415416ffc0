//! A lost link whose session the service still has.

use super::*;
use crate::error::{Error, ErrorKind};
use crate::message::Event;
use crate::session::tests::scenario::{identity, loss};
use crate::session::{Dial, Loss, Output};

fn refused_for_now(status: u16, retry_after: Option<u64>) -> Error {
    Error::new(ErrorKind::Upgrade, "not now")
        .with_http_status(status)
        .with_retry_after(retry_after.map(secs))
}

#[test]
fn c01_unacked_calls_are_sent_again_identical_and_under_the_same_ids() {
    let mut s = Scenario::connected();
    (1..=4).for_each(|id| s.call(id));
    s.ack(2);
    s.take();
    s.lose(None);
    s.call(5);
    assert_eq!(s.fire(6), Ok(false));
    s.linked();
    assert_eq!(s.take(), ["event Recovering", "dial recover c1 t1", "ping"]);
    s.prove();
    let expected =
        ["send msg#1", "send msg#3", "send msg#4", "send msg#5", "send fire#6", "done 6 ok"];
    assert_eq!(s.take(), expected, "in order, before what is new");
    s.refuse(1, "Duplicate");
    s.ack(3);
    assert_eq!(s.take(), ["done 1 duplicate", "done 3 ok"], "acks were lost with the link");
    s.pong(0);
    assert_eq!(s.take(), ["event Recovered 0"]);
}

#[test]
fn v02_calls_of_a_lost_session_fail_when_it_is_known_to_be_over_not_at_their_deadline() {
    let mut s = Scenario::connected();
    s.call(1);
    s.lose(None);
    s.linked();
    s.advance(secs(1));
    s.lose(Some(1008));
    assert_eq!(s.kind(1), ErrorKind::OutcomeUnknown);
    assert!(s.error(1).may_have_been_delivered());
    assert!(std::error::Error::source(s.error(1)).is_some());
    assert_eq!(s.elapsed(), secs(1));
}

#[test]
fn the_first_try_comes_at_once_and_the_others_about_a_second_apart() {
    for seed in 0..50 {
        let mut s = Scenario::seeded(seed, |_| {});
        s.start();
        s.linked();
        s.hello("c1", "t1");
        s.take();
        s.lose(None);
        for _ in 0..5 {
            assert_eq!(s.only("dial"), ["dial recover c1 t1"]);
            s.dial_fails(None);
            let pause = s.until_dial();
            assert!(ms(800) <= pause && pause <= ms(1_200), "seed {seed}: {pause:?}");
        }
    }
}

#[test]
fn the_pause_counts_from_the_start_of_the_last_try() {
    let mut s = Scenario::connected();
    s.lose(None);
    s.take();
    s.now += secs(3); // dialing took so long
    s.dial_fails(None);
    assert_eq!(s.until_dial(), secs(0));
}

#[test]
fn j09_each_try_is_limited_to_five_seconds_and_all_of_them_to_the_window() {
    let mut s = Scenario::connected();
    s.session.lost(s.now, loss());
    let until = |s: &mut Scenario| loop {
        let output = s.session.output().expect("a dial");
        if let Output::Dial(Dial { until, recover: Some(_) }) = output {
            break until - s.now;
        }
    };
    assert_eq!(until(&mut s), secs(5));
    s.now += secs(28);
    s.session.dial_failed(s.now, Error::new(ErrorKind::Connect, "no"));
    s.session.tick(s.now);
    assert_eq!(until(&mut s), secs(2), "the window ends at 30 s");
}

#[test]
fn in_the_31st_second_the_session_is_given_up() {
    let mut s = Scenario::connected();
    s.call(1);
    s.take();
    s.lose(None);
    let mut tries = 0;
    while s.pending(1) {
        tries += s.only("dial").len();
        s.dial_fails(Some(503));
        let at = s.session.next_wake().expect("a next try");
        s.advance(at - s.now);
        assert!(s.elapsed() <= secs(30));
    }
    assert_eq!(s.elapsed(), secs(30));
    assert!((25..=38).contains(&tries), "{tries} tries");
    let expected = ["event Disconnected", "done 1 OutcomeUnknown", "event Reconnecting 1"];
    assert_eq!(s.take(), expected);
}

#[test]
fn a_recovery_link_that_makes_no_progress_is_cut_and_tried_again() {
    let mut s = Scenario::connected();
    s.call(1);
    s.lose(None);
    s.advance(secs(2));
    s.linked();
    s.take();
    assert!(
        s.session.next_wake().is_some_and(|at| at > s.now + secs(60)),
        "the receiver watches it"
    );
    s.advance(secs(5));
    s.stalled();
    assert_eq!(s.take(), ["cut"]);
    s.stalled();
    assert_eq!(s.until_dial(), secs(0), "the last try began 7 s ago");
    assert_eq!(s.take(), ["dial recover c1 t1"]);
    s.linked();
    s.prove();
    s.stalled();
    assert_eq!(s.take(), ["ping", "send msg#1"], "the proof came first");
}

#[test]
fn a_replay_that_comes_slowly_may_outlast_the_window() {
    let mut s = Scenario::connected();
    s.lose(None);
    s.linked();
    s.advance(secs(45));
    s.prove();
    s.pong(0);
    assert_eq!(s.only("event"), ["event Recovering", "event Recovered 0"]);
}

#[test]
fn a_silent_service_cannot_stretch_the_window() {
    let mut s = Scenario::connected();
    s.lose(None);
    s.take();
    for _ in 0..10 {
        s.linked();
        s.advance(secs(5));
        s.stalled();
        s.advance(ms(1));
    }
    assert_eq!(s.only("event")[..2], ["event Disconnected", "event Reconnecting 1"]);
}

#[test]
fn a_link_lost_while_it_is_proved_is_one_more_failed_try() {
    let mut s = Scenario::connected();
    s.call(1);
    s.lose(None);
    s.linked();
    s.take();
    s.lose(Some(1006));
    assert_eq!(s.take(), [""; 0], "neither an event nor a hurry");
    let pause = s.until_dial();
    assert!(ms(800) <= pause && pause <= ms(1_200), "{pause:?}");
    s.linked();
    s.prove();
    assert_eq!(s.take(), ["dial recover c1 t1", "ping", "send msg#1"]);
}

#[test]
fn p04_failures_of_every_kind_keep_the_recovery_going() {
    let mut s = Scenario::connected();
    s.lose(None);
    for status in [None, Some(429), Some(500), Some(502), Some(503), None] {
        assert_eq!(s.only("dial"), ["dial recover c1 t1"]);
        s.dial_fails(status);
        s.until_dial();
    }
    s.linked();
    s.prove();
    s.pong(4);
    assert_eq!(s.only("event"), ["event Recovered 4"]);
    assert_eq!(s.session.counts.recoveries, 1);
}

#[test]
fn retry_after_is_honoured_within_the_window() {
    let mut s = Scenario::connected();
    s.lose(None);
    s.take();
    s.dial_fails_with(refused_for_now(429, Some(7)));
    assert_eq!(s.until_dial(), secs(7));
    s.dial_fails_with(refused_for_now(503, Some(0)));
    s.take();
    let pause = s.until_dial();
    assert!(ms(800) <= pause && pause <= ms(1_200), "{pause:?}");
}

#[test]
fn retry_after_beyond_the_window_is_honoured_by_the_new_connection() {
    let mut s = Scenario::connected();
    s.lose(None);
    s.take();
    s.dial_fails_with(refused_for_now(429, Some(45)));
    assert_eq!(s.until_dial(), secs(45));
    assert_eq!(s.take(), ["event Disconnected", "event Reconnecting 1", "dial new"]);
}

#[test]
fn connected_may_come_after_a_recovery_and_brings_a_new_token() {
    let mut s = Scenario::connected();
    s.lose(None);
    s.linked();
    s.hello("c1", "t2");
    s.prove();
    s.pong(0);
    assert_eq!(s.only("event"), ["event Recovering", "event Recovered 0"], "no second Connected");
    s.advance(secs(2));
    s.lose(None);
    assert_eq!(s.only("dial"), ["dial recover c1 t2"]);
    s.linked();
    s.prove();
    s.session.connected(s.now, identity("c1", None)); // without one the old token stays
    s.pong(0);
    s.advance(secs(2));
    s.lose(None);
    assert_eq!(s.only("dial"), ["dial recover c1 t2"]);
}

#[test]
fn another_connection_id_after_a_recovery_is_a_new_connection() {
    let mut s = Scenario::connected();
    s.join(1, "a");
    s.ack(1);
    s.call(2);
    s.lose(None);
    s.call(3);
    s.linked();
    s.take();
    s.hello("c2", "t2");
    s.prove();
    s.pong(9);
    let expected = [
        "event Disconnected",
        "done 2 OutcomeUnknown",
        "event Connected c2",
        "send join a#1",
        "send msg#3",
    ];
    assert_eq!(s.take(), expected);
    assert!(matches!(s.last_event(), Event::Connected(e) if e.gap_possible));
    s.lose(None);
    assert_eq!(s.only("dial"), ["dial recover c2 t2"]);
}

#[test]
fn recovered_comes_with_the_pong_and_the_count() {
    let mut s = Scenario::connected();
    s.lose(None);
    s.linked();
    assert!(s.session.is_proving());
    s.prove();
    s.prove();
    assert!(!s.session.is_proving());
    s.take();
    s.pong(12);
    s.pong(0);
    assert_eq!(s.take(), ["event Recovered 12"], "once");
    assert_eq!(s.session.next_wake(), None);
}

#[test]
fn a_link_lost_between_acceptance_and_pong_starts_a_new_window_but_not_at_once() {
    let mut s = Scenario::connected();
    s.call(1);
    s.take();
    s.lose(None);
    s.advance(secs(3));
    s.dial_fails(None);
    s.until_dial();
    s.linked();
    s.prove();
    assert_eq!(s.only("send"), ["send msg#1"]);
    s.lose_with(Loss { unsent: 3, ..loss() });
    assert_eq!(s.take(), ["event Recovering"], "each loss is reported by one event");
    assert!(matches!(s.last_event(), Event::Recovering(e) if e.unsent == 3));
    let lost_at = s.now;
    let pause = s.until_dial();
    assert!(ms(800) <= pause && pause <= ms(1_200), "no storm of recoveries: {pause:?}");
    while s.pending(1) {
        s.dial_fails(None);
        let at = s.session.next_wake().expect("a next try");
        s.advance(at - s.now);
    }
    assert_eq!(s.now - lost_at, secs(30));
    let Some(Event::Disconnected(e)) = s.events.iter().rev().nth(1) else { panic!() };
    assert_eq!(e.maybe_lost, 1, "the call; what Recovering has told is not told again");
}

#[test]
fn a_link_lost_right_after_the_pong_is_not_dialed_without_a_pause() {
    let mut s = Scenario::connected();
    for round in 0..3 {
        s.lose(None);
        if round > 0 {
            let pause = s.until_dial();
            assert!(ms(700) <= pause && pause <= ms(1_200), "no storm of recoveries: {pause:?}");
        }
        s.linked();
        s.prove();
        s.advance(ms(50));
        s.pong(0);
        s.take();
    }
    // A link that held gets its first try at once again.
    s.advance(secs(3));
    s.lose(None);
    assert_eq!(s.take(), ["event Recovering", "dial recover c1 t1"]);
}

#[test]
fn a_session_over_between_acceptance_and_pong_is_never_called_recovered() {
    let mut s = Scenario::connected();
    s.lose(None);
    s.linked();
    s.prove();
    s.take();
    s.lose(Some(1000));
    s.pong(0);
    assert_eq!(s.take(), ["event Disconnected", "event Reconnecting 1"]);
    assert_eq!(s.session.counts.recoveries, 0);
}

#[test]
fn unsent_fire_and_forget_frames_are_reported_by_recovering_only() {
    let mut s = Scenario::connected();
    s.lose_with(Loss { unsent: 2, ..loss() });
    assert!(matches!(s.last_event(), Event::Recovering(e) if e.unsent == 2));
    s.linked();
    s.lose(Some(1008));
    let Event::Disconnected(e) = &s.events[s.events.len() - 2] else { panic!() };
    assert_eq!(e.maybe_lost, 0);
}

#[test]
fn a_call_after_which_a_thousand_others_were_written_is_not_sent_again() {
    let mut s = Scenario::connected();
    s.call(0);
    s.call(1);
    for id in 2..=1_000 {
        s.call(id);
        s.ack(id);
    }
    s.take();
    s.lose(None);
    s.linked();
    s.take();
    s.prove();
    assert_eq!(s.take(), ["send msg#1", "done 0 OutcomeUnknown"]);
    assert!(s.error(0).may_have_been_delivered());
    assert!(std::error::Error::source(s.error(0)).is_some());
}

#[test]
fn calls_that_end_during_a_recovery_are_not_sent_again() {
    let mut s = Scenario::connected();
    s.call_for(1, secs(2));
    s.call(2);
    s.call(3);
    s.lose(None);
    s.dial_fails(None);
    s.take();
    assert_eq!(s.withdraw(2), Some(true));
    s.advance(secs(2));
    s.linked();
    s.prove();
    let expected = ["done 2 Timeout", "dial recover c1 t1", "done 1 Timeout", "ping", "send msg#3"];
    assert_eq!(s.take(), expected);
    assert!(s.error(1).may_have_been_delivered());
}

#[test]
fn the_cap_holds_over_a_recovery() {
    let mut s = Scenario::connected_with(|c| c.max_in_flight = 2);
    (1..=4).for_each(|id| s.call(id));
    s.lose(None);
    s.linked();
    s.take();
    s.prove();
    assert_eq!(s.take(), ["send msg#1", "send msg#2"]);
    s.ack(1);
    assert_eq!(s.take(), ["done 1 ok", "send msg#3"]);
}

#[test]
fn v06_a_recovery_joins_no_group_again() {
    let mut s = Scenario::connected();
    s.join(1, "a");
    s.ack(1);
    s.recover();
    s.lose(None);
    s.linked();
    s.prove();
    s.pong(0);
    assert_eq!(s.only("send"), [""; 0]);
}

#[test]
fn joins_and_leaves_in_flight_are_sent_again_on_recovery() {
    let mut s = Scenario::connected();
    s.join(1, "a");
    s.leave(2, "b");
    s.take();
    s.lose(None);
    s.linked();
    s.prove();
    assert_eq!(s.only("send"), ["send join a#1", "send leave b#2"]);
}
