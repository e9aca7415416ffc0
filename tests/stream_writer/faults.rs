//! What the service refuses, delays, loses or never says.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

use webpubsub::emulator::Emulator;
use webpubsub::{ClientAccess, Protocol};

use super::*;
use crate::support::{eventually, within};

#[test]
fn a_refused_start_has_the_name_of_the_service() {
    for protocol in protocols() {
        let builder = Emulator::builder().limits(|limits| limits.streams_per_connection = 1);
        let scene = Scene::with(protocol, builder);
        let url = scene.emulator.url_for("hub", &ClientAccess::new()).expect("URL");
        let client = Client::builder(url).protocol(protocol).connect().expect("connected");
        let error = client.open_stream("g").expect_err("no role");
        refused_with(&error, "Forbidden");
        assert!(error.is_refused() && error.to_string().contains("Forbidden"), "{error}");

        scene.emulator.faults().refuse_next_stream_starts(1);
        let error = scene.client.open_stream("g").expect_err("refused");
        refused_with(&error, "InternalServerError");

        let first = scene.open();
        let error = scene.client.open_stream("g").expect_err("one too many");
        refused_with(&error, "BadRequest");
        first.finish().expect("nothing happened to it");
        scene.open().finish().expect("there is a place again");
    }
}

#[test]
fn s02_a_nack_does_not_accept_the_start() {
    let scene = Scene::over(Protocol::ReliableJson);
    scene.emulator.faults().ignore_next_stream_starts(1);
    let nack =
        r#"{"type":"streamNack","streamId":"s","expectedSequenceId":1,"name":"TransientError"}"#;
    thread::scope(|scope| {
        let open = OpenStream::new("g").stream_id("s").timeout(ms(500));
        let opening = scope.spawn(|| scene.client.open_stream(open).map(drop));
        let id = scene.client.connection_id().expect("connected");
        while !opening.is_finished() {
            scene.emulator.faults().send_raw_text(Some(&id), nack);
            thread::sleep(ms(20));
        }
        assert!(opening.join().expect("no panic").expect_err("no answer").is_timeout());
    });
}

#[test]
fn s03_a_start_without_an_answer_has_a_limit() {
    for protocol in protocols() {
        let scene = Scene::over(protocol);
        scene.emulator.faults().ignore_next_stream_starts(1);
        let start = Instant::now();
        let error =
            scene.client.open_stream(OpenStream::new("g").timeout(ms(100))).expect_err("no answer");
        assert!(error.is_timeout(), "{error}");
        assert!((ms(100)..ms(2000)).contains(&start.elapsed()), "{:?}", start.elapsed());
        // The service has taken the start and only the answer is lost: the stream does not stay.
        scene.emulator.faults().lose_next_stream_acks(1);
        scene.client.open_stream(OpenStream::new("g").timeout(ms(100))).expect_err("no answer");
        assert!(scene.emulator.wait_until(WATCHDOG, |stats| stats.streams_closed == 1));
        scene.open().finish().expect("another is accepted");
    }
}

#[test]
fn s01_refused_fragments_are_sent_again() {
    for protocol in protocols() {
        let scene = Scene::over(protocol);
        scene.emulator.faults().refuse_next_fragments(2, 3);
        let mut stream = scene.open_with(|open| open.stream_id("s"));
        // Those behind the refused one come out of turn: `InvalidSequenceId`.
        send_numbers(&mut stream, 1..=50);
        stream.wait_acked(WATCHDOG).expect("acknowledged");
        stream.finish().expect("published");
        assert_eq!(scene.viewer.see_all("s"), numbers(50));
        let stats = scene.emulator.stats();
        assert!(stats.stream_nacks > 3, "{stats:?}");
    }
}

#[test]
fn s24_the_end_waits_until_the_last_fragment_is_accepted() {
    for protocol in protocols() {
        let scene = Scene::over(protocol);
        let mut stream = scene.open_with(|open| open.stream_id("s"));
        scene.emulator.faults().refuse_next_fragments(3, 2);
        send_numbers(&mut stream, 1..=3);
        stream.finish().expect("published");
        assert_eq!(scene.viewer.see_all("s"), numbers(3));
    }
}

#[test]
fn without_acks_the_oldest_fragment_is_sent_again_and_published_once() {
    for protocol in protocols() {
        let scene = Scene::over(protocol);
        let mut stream = scene.open_with(|open| open.stream_id("s"));
        scene.emulator.faults().lose_next_stream_acks(1);
        send_numbers(&mut stream, 1..=3);
        let error = stream.wait_acked(ms(100)).expect_err("the ack is lost");
        assert!(error.is_timeout() && error.may_have_been_delivered(), "{error}");
        assert_eq!(stream.acked(), 0);
        stream.wait_acked(WATCHDOG).expect("the probe brings another");
        assert_eq!(stream.acked(), 3);
        stream.finish().expect("published");
        assert_eq!(scene.viewer.see_all("s"), numbers(3));
    }
}

#[test]
fn s07_a_full_window_blocks_until_there_is_an_ack() {
    for protocol in protocols() {
        let scene = Scene::over(protocol);
        let bounds: [fn(OpenStream) -> OpenStream; 2] =
            [|open| open.max_unacked_fragments(4), |open| open.max_unacked_bytes(500)];
        for bound in bounds {
            let mut stream = scene.open_with(bound);
            let id = stream.stream_id().to_owned();
            scene.emulator.faults().hold_stream_acks(true);
            let taken = Arc::new(AtomicU32::new(0));
            let counter = Arc::clone(&taken);
            let publisher = thread::spawn(move || {
                for number in 1..=20 {
                    stream.send(number.to_string()).expect("taken");
                    counter.store(number, Ordering::SeqCst);
                }
                stream.finish()
            });
            eventually("some are taken", || taken.load(Ordering::SeqCst) >= 3);
            thread::sleep(ms(100));
            assert!(taken.load(Ordering::SeqCst) < 20, "the window has no bound");
            scene.emulator.faults().hold_stream_acks(false);
            publisher.join().expect("no panic").expect("published");
            assert_eq!(scene.viewer.see_all(&id), numbers(20));
        }
    }
}

#[test]
fn s11_a_fragment_that_found_no_room_is_not_sent_later_and_a_stall_ends_the_stream() {
    for protocol in protocols() {
        let scene = Scene::over(protocol);
        let mut stream = scene
            .open_with(|open| open.stream_id("s").max_unacked_fragments(1).stall_timeout(ms(300)));
        scene.emulator.faults().hold_stream_acks(true);
        stream.send("1").expect("taken");
        let start = Instant::now();
        let error = stream.send("2").expect_err("no room");
        assert!(error.is_timeout(), "{error}");
        assert!((ms(200)..ms(3000)).contains(&start.elapsed()), "{:?}", start.elapsed());
        scene.emulator.faults().hold_stream_acks(false);
        assert_eq!(scene.viewer.see("s"), (numbers(1), End::Error("Timeout".into())));
        // s12: who asks later gets the first cause.
        for later in [stream.send("3"), stream.wait_acked(WATCHDOG), stream.finish()] {
            assert_eq!(later.expect_err("failed").to_string(), error.to_string());
        }
    }
}

#[test]
fn s08_the_end_is_reported_when_the_service_has_confirmed_it() {
    for protocol in protocols() {
        let scene = Scene::over(protocol);
        for abort in [false, true] {
            let stream = scene.open_with(|open| open.timeout(ms(300)));
            scene.emulator.faults().lose_next_stream_closes(1);
            let ended = if abort { stream.abort("", "E") } else { stream.finish() };
            let error = ended.expect_err("no confirmation");
            assert!(error.is_timeout() && error.may_have_been_delivered(), "{error}");
        }
    }
}

#[test]
fn s12_a_stream_that_the_service_ends_fails_with_its_name_each_time() {
    for protocol in protocols() {
        let scene = Scene::over(protocol);
        let mut stream = scene.open_with(|open| open.stream_id("s"));
        send_numbers(&mut stream, 1..=2);
        stream.wait_acked(WATCHDOG).expect("acknowledged");
        let id = scene.client.connection_id().expect("connected");
        assert!(scene.emulator.faults().fail_stream(&id, "s", "InternalServerError", "broken"));
        eventually("told", || stream.send("3").is_err());
        for _ in 0..2 {
            let error = stream.send("4").expect_err("ended");
            refused_with(&error, "InternalServerError");
            assert!(error.may_have_been_delivered() && error.to_string().contains("broken"));
        }
        assert_eq!(stream.acked(), 2);
        refused_with(&stream.finish().expect_err("ended"), "InternalServerError");
        scene.open_with(|open| open.stream_id("s")).finish().expect("the id is free again");
    }
}

#[test]
fn s10_keep_alives_come_by_themselves() {
    for protocol in protocols() {
        let scene = Scene::over(protocol);
        let mut stream = scene.open_with(|open| open.idle_timeout(ms(600)));
        let came = scene.emulator.wait_until(WATCHDOG, |stats| stats.stream_keepalives >= 6);
        assert!(came, "{:?}", scene.emulator.stats());
        stream.send("1").expect("it is alive");
        stream.finish().expect("published");
    }
}

#[test]
fn an_idle_stream_is_ended_by_the_service() {
    for protocol in protocols() {
        let scene = Scene::over(protocol);
        let mut stream = scene.open_with(|open| open.stream_id("s"));
        send_numbers(&mut stream, 1..=2);
        stream.wait_acked(WATCHDOG).expect("acknowledged");
        scene.emulator.advance_clock(Duration::from_secs(301));
        assert_eq!(scene.viewer.see("s"), (numbers(2), End::Error("IdleTimeout".into())));
        let ended = || scene.emulator.stats().streams_closed == 1;
        eventually("ended", ended);
        refused_with(&stream.finish().expect_err("ended"), "IdleTimeout");
    }
}

/// A member that is not read: the service's answers come behind its own fragments.
#[test]
fn the_echo_of_a_stream_does_not_hold_up_its_acks() {
    within(WATCHDOG * 2, || {
        for protocol in protocols() {
            let scene = Scene::over(protocol);
            let own = scene.client.subscribe("g").expect("subscribed");
            let mut stream = scene.open_with(|open| open.stream_id("s"));
            // More than a queue holds while nothing is under way.
            send_numbers(&mut stream, 1..=3000);
            stream.finish().expect("published");
            drop(own);
        }
    });
}
