//! Signs of life.

use std::time::{Duration, Instant};

use super::{ms, secs};
use crate::session::keep_alive::{KeepAlive, KeepAliveConfig, Silence};

fn keep_alive(interval: Option<Duration>, now: Instant) -> KeepAlive {
    KeepAlive::new(KeepAliveConfig { interval, dead_after: secs(20) }, now)
}

/// No event handler runs.
fn due(k: &mut KeepAlive, now: Instant) -> Option<Silence> {
    k.due(now, |_| None)
}

#[test]
fn p05_silence_is_answered_with_a_ping_and_then_with_the_end() {
    let t = Instant::now();
    let mut k = keep_alive(Some(secs(10)), t);
    assert_eq!(k.next_wake(), Some(t + secs(10)));
    assert_eq!(due(&mut k, t + ms(9_999)), None);
    assert_eq!(due(&mut k, t + secs(10)), Some(Silence::Ping));
    assert_eq!(due(&mut k, t + secs(10)), None, "one ping");
    assert_eq!(k.next_wake(), Some(t + secs(20)));
    assert_eq!(due(&mut k, t + ms(19_999)), None);
    assert_eq!(due(&mut k, t + secs(20)), Some(Silence::Dead));
}

#[test]
fn anything_heard_is_a_sign_of_life() {
    let t = Instant::now();
    let mut k = keep_alive(Some(secs(10)), t);
    assert_eq!(due(&mut k, t + secs(10)), Some(Silence::Ping));
    k.heard(t + secs(19));
    assert_eq!(k.next_wake(), Some(t + secs(29)));
    assert_eq!(due(&mut k, t + secs(20)), None);
    assert_eq!(due(&mut k, t + secs(29)), Some(Silence::Ping));
}

#[test]
fn a_machine_that_slept_asks_before_it_gives_up() {
    let t = Instant::now();
    let mut k = keep_alive(Some(secs(10)), t);
    let woke = t + secs(3_600);
    assert_eq!(due(&mut k, woke), Some(Silence::Ping));
    assert_eq!(due(&mut k, woke + ms(9_999)), None);
    assert_eq!(due(&mut k, woke + secs(10)), Some(Silence::Dead));
}

#[test]
fn keep_alive_can_be_off() {
    let t = Instant::now();
    let mut k = keep_alive(None, t);
    assert_eq!((k.next_wake(), due(&mut k, t + secs(3_600))), (None, None));
}

#[test]
fn a_peer_that_makes_room_for_an_upload_is_alive_though_it_says_nothing() {
    let t = Instant::now();
    let mut k = keep_alive(Some(secs(10)), t);
    assert_eq!(due(&mut k, t + secs(10)), Some(Silence::Ping));
    k.moved(t + secs(15));
    assert_eq!(due(&mut k, t + secs(20)), Some(Silence::Ping));
    assert_eq!(due(&mut k, t + secs(30)), Some(Silence::Ping));
    assert_eq!(due(&mut k, t + ms(34_999)), None);
    assert_eq!(due(&mut k, t + secs(35)), Some(Silence::Dead));
}

#[test]
fn a_slow_event_handler_is_no_dead_peer_and_pings_go_on() {
    let t = Instant::now();
    let mut k = keep_alive(Some(secs(10)), t);
    // An event was written at 5 s, so silence proves nothing before 65 s.
    let excuse = |heard: Instant| {
        assert_eq!(heard, t);
        Some(t + secs(65))
    };
    for at in [10, 20, 30, 40, 50, 60] {
        assert_eq!(k.due(t + secs(at), excuse), Some(Silence::Ping), "{at}");
        assert_eq!(k.due(t + secs(at), excuse), None, "{at}");
    }
    assert_eq!(k.next_wake(), Some(t + secs(65)));
    assert_eq!(k.due(t + secs(65), excuse), Some(Silence::Dead));
}

#[test]
fn an_excuse_ends_when_something_is_heard() {
    let t = Instant::now();
    let mut k = keep_alive(Some(secs(10)), t);
    assert_eq!(due(&mut k, t + secs(10)), Some(Silence::Ping));
    assert_eq!(k.due(t + secs(20), |_| Some(t + secs(60))), Some(Silence::Ping));
    k.heard(t + secs(25));
    assert_eq!(due(&mut k, t + secs(35)), Some(Silence::Ping));
    assert_eq!(due(&mut k, t + secs(45)), Some(Silence::Dead));
}
