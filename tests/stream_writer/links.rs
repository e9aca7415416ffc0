//! Links that are lost at each point of a stream: recovered, or followed by a new connection.

use std::thread;
use std::time::Instant;

use webpubsub::Protocol;

use super::*;
use crate::support::{eventually, reliable_protocols};

#[test]
fn a_link_that_is_lost_before_the_start_is_accepted_fails_the_stream_and_ends_it_there() {
    for protocol in reliable_protocols(true) {
        let scene = Scene::over(protocol);
        scene.emulator.faults().hold_stream_acks(true);
        thread::scope(|scope| {
            let opening = scope.spawn(|| scene.client.open_stream("g").map(drop));
            assert!(scene.emulator.wait_until(WATCHDOG, |stats| stats.streams_opened == 1));
            scene.drop_link();
            let error = opening.join().expect("no panic").expect_err("lost");
            assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}");
        });
        // No orphan stays until its idle time.
        assert!(scene.emulator.wait_until(WATCHDOG, |stats| stats.streams_closed == 1));
        scene.emulator.faults().hold_stream_acks(false);
        scene.open().finish().expect("another is accepted");
    }
}

/// The start is the first frame, the fragments are the next five, the end is the seventh.
#[test]
fn s04_s09_a_recovered_link_loses_nothing_wherever_it_was_cut() {
    for protocol in reliable_protocols(true) {
        for cut_behind in 1..=7 {
            let scene = Scene::over(protocol);
            scene.emulator.faults().drop_after_frames(cut_behind);
            let mut stream = scene.open_with(|open| open.stream_id("s"));
            send_numbers(&mut stream, 1..=5);
            stream.finish().unwrap_or_else(|e| panic!("cut behind {cut_behind}: {e:?}"));
            assert_eq!(scene.viewer.see_all("s"), numbers(5));
        }
    }
}

#[test]
fn s09_an_end_whose_answer_was_lost_with_the_link_is_a_success() {
    for protocol in reliable_protocols(true) {
        let scene = Scene::over(protocol);
        let mut stream = scene.open_with(|open| open.stream_id("s"));
        send_numbers(&mut stream, 1..=5);
        stream.wait_acked(WATCHDOG).expect("acknowledged");
        scene.emulator.faults().lose_next_stream_closes(1);
        scene.emulator.faults().drop_after_frames(1);
        stream.finish().expect("only that end can have ended it");
        assert_eq!(scene.viewer.see_all("s"), numbers(5));
        assert_eq!(scene.client.stats().recoveries, 1);
    }
}

#[test]
fn acks_that_are_lost_with_the_link_are_made_up_for() {
    for protocol in reliable_protocols(true) {
        let scene = Scene::over(protocol);
        let mut stream = scene.open_with(|open| open.stream_id("s"));
        scene.emulator.faults().hold_stream_acks(true);
        send_numbers(&mut stream, 1..=5);
        let taken = scene.emulator.wait_until(WATCHDOG, |stats| stats.stream_fragments == 5);
        assert!(taken, "{:?}", scene.emulator.stats());
        scene.emulator.faults().refuse_recoveries(1, 503);
        scene.drop_link();
        scene.emulator.faults().hold_stream_acks(false);
        // Without a link it takes what the window holds.
        send_numbers(&mut stream, 6..=9);
        stream.finish().expect("published");
        assert_eq!(scene.viewer.see_all("s"), numbers(9));
    }
}

#[test]
fn a_new_connection_ends_it_and_says_what_is_certain() {
    for protocol in protocols() {
        let scene = Scene::over(protocol);
        let mut stream = scene.open_with(|open| open.stream_id("s"));
        send_numbers(&mut stream, 1..=3);
        stream.wait_acked(WATCHDOG).expect("acknowledged");
        scene.emulator.faults().hold_stream_acks(true);
        send_numbers(&mut stream, 4..=5);
        assert!(scene.emulator.wait_until(WATCHDOG, |stats| stats.stream_fragments == 5));
        scene.emulator.faults().recovery_closes_1008(1);
        scene.drop_link();
        let error = stream.wait_acked(WATCHDOG).expect_err("lost");
        assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
        assert!(error.to_string().contains("up to fragment 3"), "{error}");
        assert_eq!(stream.acked(), 3);
        assert_eq!(stream.send("6").expect_err("lost").kind(), ErrorKind::OutcomeUnknown);
        assert_eq!(stream.finish().expect_err("lost").kind(), ErrorKind::OutcomeUnknown);
        assert_eq!(scene.viewer.see("s"), (numbers(5), End::Error("Cancelled".into())));
        scene.emulator.faults().hold_stream_acks(false);
        scene.client.wait_connected(WATCHDOG).expect("connected");
        scene.open().finish().expect("a new one on the new connection");
        scene.emulator.faults().recovery_closes_1008(0);
    }
}

#[test]
fn a_stream_that_was_idle_for_too_long_during_a_loss_is_not_found() {
    for protocol in reliable_protocols(true) {
        let scene = Scene::over(protocol);
        let mut stream =
            scene.open_with(|open| open.stream_id("s").idle_timeout(Duration::from_secs(10)));
        scene.emulator.faults().refuse_recoveries(1, 503);
        scene.drop_link();
        scene.emulator.advance_clock(Duration::from_secs(15));
        assert_eq!(scene.viewer.see("s").1, End::Error("IdleTimeout".into()));
        // Nothing is sent by the program: the keep-alive after the recovery finds out.
        let mut failed = None;
        eventually("told", || {
            failed = stream.send("1").err();
            failed.is_some()
        });
        refused_with(&failed.expect("told"), "StreamNotFound");
        assert_eq!(stream.acked(), 0);
    }
}

#[test]
fn without_a_connection_the_start_waits_for_one() {
    let scene = Scene::over(Protocol::ReliableJson);
    scene.emulator.faults().refuse_recoveries(1, 503);
    scene.drop_link();
    eventually("noticed", || {
        !matches!(scene.client.state(), webpubsub::ClientState::Connected { .. })
    });
    let start = Instant::now();
    let error =
        scene.client.open_stream(OpenStream::new("g").timeout(ms(100))).expect_err("no connection");
    assert!(error.is_timeout() && !error.may_have_been_delivered(), "{error}");
    assert!(start.elapsed() < ms(900), "{:?}", start.elapsed());
    scene.open().finish().expect("after the recovery");
}
