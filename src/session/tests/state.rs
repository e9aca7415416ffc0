//! What the session says that it is doing.

use super::*;
use crate::state::ClientState;

fn state(s: &Scenario) -> ClientState {
    s.session.state(s.now)
}

#[test]
fn a_first_connection_in_the_background() {
    let mut s = Scenario::with(|c| c.background = true);
    assert!(matches!(state(&s), ClientState::Connecting { attempt: 1, .. }));
    s.start();
    let began = s.now;
    s.advance(ms(5));
    assert!(
        matches!(state(&s), ClientState::Connecting { attempt: 1, since, .. } if since == began)
    );
    s.dial_fails(Some(503));
    let ClientState::Waiting { attempt: 2, until, cause, .. } = state(&s) else {
        panic!("{:?}", state(&s))
    };
    assert_eq!(cause.http_status(), Some(503));
    s.advance(until - s.now);
    let again = s.now;
    s.advance(ms(1));
    s.linked();
    assert!(
        matches!(state(&s), ClientState::Connecting { attempt: 2, since, .. } if since == again),
        "`connected` is still awaited"
    );
    s.hello("c1", "t1");
    assert!(matches!(state(&s), ClientState::Connected { since, .. } if since == s.now));
}

#[test]
fn a_recovery_is_one_state_from_the_loss_to_its_proof() {
    let mut s = Scenario::connected();
    s.advance(secs(5));
    s.lose(None);
    let lost = s.now;
    let recovering =
        |s: &Scenario| matches!(state(s), ClientState::Recovering { since, .. } if since == lost);
    assert!(recovering(&s), "dialing");
    s.dial_fails(None);
    assert!(recovering(&s), "waiting");
    s.advance(secs(2));
    s.linked();
    assert!(recovering(&s), "not proved");
    s.session.proved(s.now);
    assert!(matches!(state(&s), ClientState::Connected { since, .. } if since == s.now));
}

#[test]
fn attempts_count_anew_after_a_loss_for_good() {
    let mut s = Scenario::connected();
    s.lose(Some(1008));
    assert!(matches!(state(&s), ClientState::Waiting { attempt: 1, .. }), "{:?}", state(&s));
    s.advance(secs(2));
    assert!(matches!(state(&s), ClientState::Connecting { attempt: 1, .. }));
}

#[test]
fn a_client_that_is_closed_is_stopped_at_once() {
    let mut s = Scenario::connected();
    s.session.close(s.now);
    assert!(!s.session.is_stopped(), "its Close is still to be answered");
    assert!(matches!(state(&s), ClientState::Stopped(cause) if cause.is_closed()));
}
