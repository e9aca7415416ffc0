use super::*;
use Entry::{Answer, Disconnected, Lagged, Reconnecting, Recovered, Recovering, Stopped};

const FIRST: Entry = Entry::Connected { gap_possible: false };
const AGAIN: Entry = Entry::Connected { gap_possible: true };
const LOST: Entry = Disconnected { maybe_lost: 1 };
const LAG: Entry = Lagged { count: 1 };

fn m(n: usize) -> Entry {
    Entry::Message { publisher: 0, n }
}

/// Six messages, number 2 with an unknown outcome, the last one sent after the faults.
fn sent() -> Sent {
    let mut fates = vec![Fate::Acked; 6];
    fates[2] = Fate::Unknown;
    Sent { fates, calm_from: 5 }
}

fn complaints(log: &[Entry]) -> usize {
    delivery(log, &[sent()], true).len()
}

#[test]
fn an_unbroken_subscriber_must_have_all_that_was_acked_once_and_in_order() {
    assert_eq!(complaints(&[FIRST, m(0), m(1), m(3), m(4), m(5)]), 0);
    assert_eq!(complaints(&[FIRST, m(0), m(1), m(2), m(3), m(4), m(5)]), 0);
    assert_eq!(complaints(&[FIRST, m(1), m(3), m(4), m(5)]), 1, "the first is missing");
    assert_eq!(complaints(&[FIRST, m(0), m(1), m(3), m(5)]), 1, "one is missing");
    assert_eq!(complaints(&[FIRST, m(0), m(1), m(3), m(4)]), 1, "the last is missing");
    assert_eq!(complaints(&[FIRST, m(0), m(1), m(3), m(3), m(4), m(5)]), 1, "twice");
    assert_eq!(complaints(&[FIRST, m(0), m(1), m(3), m(4), m(5), m(2)]), 1, "late");
    assert_eq!(complaints(&[FIRST]), 5);
    assert!(complaints(&[FIRST, m(0), m(1), m(3), m(4), m(5), m(6)]) > 0, "never sent");
}

#[test]
fn a_lost_session_excuses_a_hole_at_its_end_and_nowhere_else() {
    assert_eq!(complaints(&[FIRST, m(0), AGAIN, m(4), m(5)]), 0);
    assert_eq!(complaints(&[FIRST, AGAIN, m(5)]), 0);
    assert_eq!(complaints(&[FIRST, m(0), AGAIN, m(3), m(5)]), 1, "inside the second");
    assert_eq!(complaints(&[FIRST, m(1), AGAIN, m(4), m(5)]), 1, "inside the first");
    assert_eq!(complaints(&[FIRST, m(0), m(1), AGAIN, m(1), m(3), m(4), m(5)]), 1, "twice");
    assert_eq!(complaints(&[FIRST, m(0), AGAIN, m(4)]), 1, "after the faults");
    assert_eq!(complaints(&[FIRST, m(0), AGAIN]), 1, "after the faults");
}

#[test]
fn lagged_excuses_as_many_as_it_says_where_it_stands() {
    assert_eq!(complaints(&[FIRST, m(0), m(1), LAG, m(4), m(5)]), 0);
    assert_eq!(complaints(&[FIRST, m(0), m(1), m(3), m(4), LAG]), 0, "even after the faults");
    assert_eq!(complaints(&[FIRST, m(0), LAG, m(4), m(5)]), 1, "two are missing");
    assert_eq!(complaints(&[FIRST, m(0), LAG, m(1), m(4), m(5)]), 1, "elsewhere");
    assert_eq!(complaints(&[FIRST, m(0), LAG, LAG, m(4), m(5)]), 0);
}

#[test]
fn a_consumer_that_waits_lags_only_where_a_session_ends() {
    for good in [&[FIRST, m(0), Stopped][..], &[FIRST, m(0), LAG, Recovering, LOST, AGAIN, m(1)]] {
        assert!(lagged_only_at_ends(good), "{good:?}");
    }
    for bad in [&[FIRST, LAG, Stopped][..], &[FIRST, LOST, AGAIN, LAG, m(1), Stopped]] {
        assert!(!lagged_only_at_ends(bad), "{bad:?}");
    }
}

#[test]
fn what_was_not_acked_may_come_late_in_plain_subprotocols_but_once() {
    let plain = |log: &[Entry]| delivery(log, &[sent()], false).len();
    assert_eq!(plain(&[FIRST, m(0), m(1), m(3), m(4), m(2), m(5)]), 0);
    assert_eq!(plain(&[FIRST, m(0), m(1), m(2), m(3), m(4), m(2), m(5)]), 1, "twice");
    assert_eq!(plain(&[FIRST, m(0), m(3), m(1), m(4), m(5)]), 1, "acked and late");
}

#[test]
fn answers_come_once_and_with_their_acks() {
    let mut events = sent();
    events.fates[4] = Fate::AckedDuplicate;
    let wrong = |log: &[Entry]| answers(log, &events).len();
    let all = [0, 3, 1, 5, 4].map(|n| Answer { n });
    assert_eq!(wrong(&all), 0);
    assert_eq!(wrong(&all[..4]), 1, "the ack came again, and so does the answer");
    assert_eq!(wrong(&[&[FIRST, AGAIN], &all[..4]].concat()), 0, "lost with the session");
    assert_eq!(wrong(&[&all[..], &all[..1]].concat()), 1, "twice");
    assert_eq!(wrong(&all[1..]), 1, "missing");
}

#[test]
fn the_grammar_is_kept() {
    for good in [
        &[FIRST, Stopped][..],
        &[FIRST, m(0), Recovering, m(1), Recovered, m(2), LOST, Reconnecting, AGAIN, Stopped],
        &[FIRST, Recovering, LOST, Reconnecting, Reconnecting, Stopped],
        &[FIRST, Recovering, m(0), Recovering, m(1), Recovered, Stopped],
        &[FIRST, Answer { n: 0 }, LAG, Recovering, LAG, LOST, Stopped],
    ] {
        assert_eq!(grammar(good), Ok(()), "{good:?}");
    }
    for bad in [
        &[][..],
        &[FIRST],
        &[AGAIN, Stopped],
        &[FIRST, FIRST, Stopped],
        &[FIRST, Stopped, Stopped],
        &[FIRST, Stopped, m(0)],
        &[FIRST, Recovered, Stopped],
        &[FIRST, LOST, m(0), AGAIN, Stopped],
        &[FIRST, LOST, LAG, AGAIN, Stopped],
        &[FIRST, Recovering, AGAIN, Stopped],
        &[FIRST, Entry::Strange, Stopped],
    ] {
        assert!(grammar(bad).is_err(), "{bad:?}");
    }
    assert!(lost_session(&[FIRST, LOST, AGAIN]) && !lost_session(&[FIRST, Recovering]));
    assert_eq!(losses(&[FIRST, Recovering, Recovering, Recovered]), 2);
    assert_eq!(reported_lost(&[FIRST, LOST, Reconnecting, AGAIN, LOST]), 2);
    assert_eq!(lagged(&[FIRST, LAG, LAG]), 2);
}
