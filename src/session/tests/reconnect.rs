//! New connections after a session is over: backoff, URL providers, groups, calls.

use super::*;
use crate::error::{Error, ErrorKind};
use crate::message::Event;

/// The delays of `n` attempts that all fail.
fn delays(s: &mut Scenario, n: usize) -> Vec<std::time::Duration> {
    s.lose(Some(1008));
    let mut delays = Vec::new();
    for _ in 0..n {
        s.take();
        delays.push(s.until_dial());
        s.dial_fails(None);
    }
    delays
}

#[test]
fn v05_the_backoff_grows_to_its_cap_with_full_jitter() {
    let (mut low, mut high) = (false, false);
    for seed in 0..100 {
        let mut s = Scenario::seeded(seed, |_| {});
        s.start();
        s.linked();
        s.hello("c1", "t1");
        for (n, delay) in delays(&mut s, 12).into_iter().enumerate() {
            let ceiling = secs(30.min(1 << n));
            assert!(delay <= ceiling, "seed {seed}, attempt {n}: {delay:?}");
            low |= n > 6 && delay < secs(3);
            high |= n > 6 && delay > secs(27);
        }
    }
    assert!(low && high, "the jitter is a full one");
}

#[test]
fn p06_attempts_go_on_without_end_and_are_numbered() {
    let mut s = Scenario::connected();
    delays(&mut s, 500);
    assert_eq!(s.take(), ["dial new", "event Reconnecting 501"]);
    let Event::Reconnecting(e) = s.last_event() else { panic!() };
    assert!(e.delay <= secs(30));
    let delay = e.delay;
    assert_eq!(s.until_dial(), delay, "the delay that was announced");
}

#[test]
fn the_number_of_attempts_can_be_limited() {
    let mut s = Scenario::connected_with(|c| c.max_reconnect_attempts = Some(2));
    s.call(1);
    s.lose(Some(1008));
    s.call(2);
    s.take();
    s.until_dial();
    s.dial_fails(None);
    s.until_dial();
    s.take();
    s.dial_fails(Some(502));
    assert_eq!(s.take(), ["done 2 Upgrade", "cut", "event Stopped"]);
    assert_eq!(s.session.ended().and_then(Error::http_status), Some(502));

    let mut s = Scenario::connected_with(|c| c.max_reconnect_attempts = Some(0));
    s.lose(Some(1008));
    assert_eq!(s.take(), ["event Disconnected", "cut", "event Stopped"]);
}

#[test]
fn attempts_count_from_one_after_each_loss() {
    let mut s = Scenario::connected();
    delays(&mut s, 3);
    s.until_dial();
    s.linked();
    s.hello("c2", "t2");
    s.take();
    s.lose(Some(1008));
    assert_eq!(s.only("event"), ["event Disconnected", "event Reconnecting 1"]);
}

#[test]
fn only_a_stable_connection_resets_the_backoff() {
    // After seven losses the ceiling is 30 s, so that a mean tells which ceiling holds.
    let mean = |lived: u64| {
        let mut total = secs(0);
        for seed in 0..40 {
            let mut s = Scenario::seeded(seed, |_| {});
            s.start();
            s.linked();
            s.hello("c1", "t1");
            delays(&mut s, 7);
            s.until_dial();
            s.linked();
            s.hello("c2", "t2");
            s.advance(secs(lived));
            s.take();
            s.lose(Some(1008));
            total += s.until_dial();
        }
        total / 40
    };
    assert!(mean(59) > secs(9));
    assert!(mean(60) < secs(1));
}

#[test]
fn p13_a_backoff_of_zero_is_fine() {
    let mut s = Scenario::connected_with(|c| {
        c.backoff_min = secs(0);
        c.backoff_max = secs(0);
    });
    assert_eq!(delays(&mut s, 5), [secs(0); 5]);
}

#[test]
fn retry_after_is_a_lower_bound_within_reason() {
    let mut s = Scenario::connected();
    s.lose(Some(1008));
    s.until_dial();
    for (asked, waits) in [(90, secs(90)), (u64::MAX, secs(3600))] {
        let error = Error::new(ErrorKind::Upgrade, "busy").with_http_status(429);
        s.dial_fails_with(error.with_retry_after(Some(secs(asked))));
        assert_eq!(s.until_dial(), waits);
    }
}

#[test]
fn a_fixed_url_that_is_refused_stops_the_client() {
    for status in [400, 401, 403, 404, 405, 410, 426] {
        let mut s = Scenario::connected();
        s.lose(Some(1008));
        s.until_dial();
        s.take();
        s.dial_fails(Some(status));
        assert_eq!(s.take(), ["cut", "event Stopped"], "{status}");
    }
}

#[test]
fn what_may_pass_by_itself_is_tried_again() {
    for status in [408, 425, 429, 500, 503] {
        let mut s = Scenario::connected();
        s.lose(Some(1008));
        s.until_dial();
        s.take();
        s.dial_fails(Some(status));
        assert_eq!(s.take(), ["event Reconnecting 2"], "{status}");
    }
}

#[test]
fn a_url_provider_is_asked_again_and_given_up_after_three_refusals_in_a_row() {
    let mut s = Scenario::connected_with(|c| c.url_provider = true);
    s.lose(Some(1008));
    let mut fail = |status, expected: &[&str]| {
        s.take();
        s.until_dial();
        s.take();
        s.dial_fails(status);
        assert_eq!(s.take(), expected);
    };
    fail(Some(401), &["event Reconnecting 2"]);
    fail(Some(403), &["event Reconnecting 3"]);
    fail(Some(503), &["event Reconnecting 4"]); // another error ends the row
    fail(Some(401), &["event Reconnecting 5"]);
    fail(Some(404), &["event Reconnecting 6"]);
    fail(Some(400), &["cut", "event Stopped"]);
}

#[test]
fn a_success_ends_the_row_of_refusals() {
    let mut s = Scenario::connected_with(|c| c.url_provider = true);
    for round in 0..3 {
        s.lose(Some(1008));
        for _ in 0..2 {
            s.take();
            s.until_dial();
            s.dial_fails(Some(401));
        }
        s.take();
        s.until_dial();
        s.linked();
        s.hello(&format!("again{round}"), "t");
        assert!(s.session.is_open());
    }
}

#[test]
fn connected_that_does_not_come_is_one_more_failed_attempt() {
    let mut s = Scenario::connected();
    s.lose(Some(1008));
    s.until_dial();
    s.linked();
    s.take();
    s.advance(ms(9_999));
    assert_eq!(s.take(), [""; 0]);
    s.advance(ms(1));
    assert_eq!(s.take(), ["cut", "event Reconnecting 2"]);
    s.until_dial();
    s.linked();
    s.take();
    s.lose(None);
    assert_eq!(s.take(), ["event Reconnecting 3"]);
}

#[test]
fn c06_groups_are_joined_again_before_waiting_calls_and_do_not_delay_connected() {
    let mut s = Scenario::connected();
    s.join(1, "a");
    s.join(2, "b");
    s.join(3, "c");
    s.leave(4, "c");
    (1..=4).for_each(|id| s.ack(id));
    s.lose(Some(1008));
    s.call(5);
    s.take();
    s.until_dial();
    s.linked();
    s.hello("c2", "t2");
    let expected =
        ["dial new", "event Connected c2", "send join a#1", "send join b#2", "send msg#5"];
    assert_eq!(s.take(), expected);
    s.ack(1);
    s.ack(5);
    s.advance(secs(29));
    assert_eq!(s.take(), ["done 5 ok"], "rejoins are nobody's calls");
    s.advance(secs(1));
    assert_eq!(s.take(), ["event JoinFailed b"], "a lost ack holds nothing back");
    assert!(matches!(s.last_event(), Event::JoinFailed(e) if e.error.is_timeout()));
}

#[test]
fn a_refused_rejoin_is_reported_and_not_tried_again() {
    let mut s = Scenario::connected();
    s.join(1, "a");
    s.ack(1);
    s.renew("c2");
    s.take();
    s.refuse(1, "Forbidden");
    assert_eq!(s.take(), ["event JoinFailed a"]);
    assert!(matches!(s.last_event(), Event::JoinFailed(e) if e.error.is_refused()));
    s.renew("c3");
    assert_eq!(s.only("send"), [""; 0]);
}

#[test]
fn rejoins_survive_losses_until_they_succeed() {
    let mut s = Scenario::connected_with(|c| c.max_in_flight = 1);
    for (id, group) in [(1, "a"), (2, "b"), (3, "c")] {
        s.join(id, group);
        s.ack(id);
    }
    s.lose(Some(1008));
    s.take();
    s.until_dial();
    s.linked();
    s.hello("c2", "t2");
    assert_eq!(s.only("send"), ["send join a#1"], "the cap holds for rejoins too");
    s.lose(None);
    s.linked();
    s.prove();
    s.pong(0);
    assert_eq!(s.only("send"), ["send join a#1"], "recovered like any call");
    s.lose(Some(1008));
    for _ in 0..60 {
        s.advance(secs(1));
        s.dial_fails(None);
    }
    assert!(!s.only("event").contains(&"event JoinFailed b".into()), "none has had its chance");
    s.until_dial();
    s.linked();
    s.hello("c3", "t3");
    (1..=3).for_each(|id| s.ack(id));
    assert_eq!(s.only("send"), ["send join a#1", "send join b#2", "send join c#3"]);
}

#[test]
fn rejoining_can_be_off() {
    let mut s = Scenario::connected_with(|c| c.rejoin = false);
    s.join(1, "a");
    s.ack(1);
    s.renew("c2");
    assert_eq!(s.only("send"), [""; 0]);
    assert_eq!(s.session.groups().count(), 0);
}

#[test]
fn a_rejoin_whose_id_is_taken_by_a_call_is_reported() {
    let mut s = Scenario::connected();
    s.join(1, "a");
    s.ack(1);
    s.lose(Some(1008));
    s.call(1); // the program chose the id itself
    s.take();
    s.until_dial();
    s.linked();
    s.hello("c2", "t2");
    let expected = ["dial new", "event Connected c2", "event JoinFailed a", "send msg#1"];
    assert_eq!(s.take(), expected);
}

#[test]
fn joins_and_leaves_in_flight_are_issued_again_and_other_calls_fail() {
    let mut s = Scenario::connected();
    s.join(1, "old");
    s.ack(1);
    s.call(2);
    s.join(3, "a");
    s.leave(4, "old");
    s.call(5);
    s.take();
    s.lose(Some(1011));
    s.join(6, "b");
    let expected = [
        "event Disconnected",
        "done 2 OutcomeUnknown",
        "done 5 OutcomeUnknown",
        "event Reconnecting 1",
    ];
    assert_eq!(s.take(), expected);
    s.until_dial();
    s.linked();
    s.hello("c2", "t2");
    let expected = ["send join old#1", "send join a#3", "send leave old#4", "send join b#6"];
    assert_eq!(s.only("send"), expected);
    [1, 3, 4, 6].into_iter().for_each(|id| s.ack(id));
    assert!([3, 4, 6].into_iter().all(|id| s.result(id).is_ok()));
    assert_eq!(s.session.groups().map(|g| &**g).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn a_join_that_waits_to_be_issued_again_may_have_been_delivered() {
    let mut s = Scenario::connected();
    s.join(1, "a");
    s.lose(Some(1008));
    s.join(2, "b");
    assert_eq!(s.withdraw(1), Some(true));
    assert_eq!(s.withdraw(2), Some(false));
}

#[test]
fn resending_on_a_new_connection_is_opt_in_and_keeps_order_and_ids() {
    let mut s = Scenario::connected_with(|c| c.resend_on_new_connection = true);
    (1..=3).for_each(|id| s.call(id));
    s.ack(2);
    s.lose(Some(1008));
    s.call(4);
    let log = s.take();
    assert!(!log.iter().any(|line| line.contains("OutcomeUnknown")), "{log:?}");
    s.until_dial();
    s.linked();
    s.hello("c2", "t2");
    assert_eq!(s.only("send"), ["send msg#1", "send msg#3", "send msg#4"]);
}

#[test]
fn what_is_refused_on_its_second_connection_may_have_been_executed_on_the_first() {
    let mut s = Scenario::connected_with(|c| c.resend_on_new_connection = true);
    s.call(1);
    s.renew("c2");
    s.call(2);
    s.refuse(1, "Forbidden");
    s.refuse(2, "Forbidden");
    assert!(s.error(1).may_have_been_delivered());
    assert!(!s.error(2).may_have_been_delivered());
}

#[test]
fn waiting_calls_go_out_in_order_once_there_is_a_connection() {
    let mut s = Scenario::connected();
    s.lose(Some(1008));
    (1..=3).for_each(|id| s.call(id));
    assert_eq!(s.fire(4), Ok(false));
    s.call(5);
    s.withdraw(2);
    s.take();
    s.until_dial();
    s.linked();
    assert_eq!(s.take(), ["dial new"], "not before `connected`");
    s.hello("c2", "t2");
    let expected = [
        "event Connected c2",
        "send msg#1",
        "send msg#3",
        "send fire#4",
        "done 4 ok",
        "send msg#5",
    ];
    assert_eq!(s.take(), expected);
}

#[test]
fn a_new_connection_forgets_how_many_ids_the_old_one_saw() {
    let mut s = Scenario::connected();
    for id in 1..=1_500 {
        s.call(id);
        s.ack(id);
    }
    s.renew("c2");
    s.call(2_000);
    s.lose(None);
    s.linked();
    s.take();
    s.prove();
    assert_eq!(s.take(), ["send msg#2000"]);
}

#[test]
fn a_new_connection_is_recovered_under_its_own_identity() {
    let mut s = Scenario::connected();
    s.renew("c2");
    assert_eq!(s.session.counts.reconnects, 1);
    s.take();
    s.lose(None);
    assert_eq!(s.take(), ["event Recovering", "dial recover c2 t"]);
}

#[test]
fn a_proxys_refusal_is_a_network_failure_and_not_the_services_word() {
    let mut s = Scenario::connected();
    s.lose(Some(1008));
    for status in [407, 403, 404, 302] {
        s.until_dial();
        s.dial_fails_with(Error::new(ErrorKind::Proxy, "no").with_http_status(status));
        assert!(!s.session.is_stopped(), "{status}");
    }
}
