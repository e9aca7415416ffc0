//! The writer as programs use it: bad input, `std::io::Write`, threads, other messages beside it.

use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use webpubsub::emulator::Emulator;
use webpubsub::{Payload, Protocol};

use super::*;
use crate::support::{emulator, eventually, within};

#[test]
fn s05_s06_a_fragment_that_is_not_valid_is_refused_uses_no_number_and_the_stream_goes_on() {
    for protocol in protocols() {
        let scene = Scene::over(protocol);
        let mut stream = scene.open_with(|open| open.stream_id("s"));
        stream.send("1").expect("taken");
        let null = Payload::from_json(&()).expect("null");
        let mut bad = vec![null, Payload::from("x".repeat(1 << 20))];
        if !protocol.is_text() {
            bad.push(Payload::Protobuf(webpubsub::Bytes::from_static(b"\xff")));
        }
        for payload in bad {
            let error = stream.send(payload).expect_err("not valid");
            assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
            assert!(!error.may_have_been_delivered());
        }
        send_numbers(&mut stream, 2..=3);
        stream.finish().expect("published");
        assert_eq!(scene.viewer.see_all("s"), numbers(3));
        assert_eq!(scene.client.stats().recoveries, 0, "the connection is the same");
    }
}

#[test]
fn bad_options_are_refused_before_anything_is_sent() {
    let scene = Scene::over(Protocol::ReliableJson);
    let first = scene.open_with(|open| open.stream_id("s"));
    let open = || OpenStream::new("g");
    for (request, says) in [
        (OpenStream::new(" "), "group name"),
        (open().stream_id(""), "stream id"),
        (open().stream_id("s"), "in use"),
        (open().idle_timeout(Duration::ZERO), "idle timeout"),
        (open().idle_timeout(Duration::MAX), "49 days"),
        (open().stall_timeout(Duration::ZERO), "stall_timeout"),
        (open().max_unacked_fragments(0), "max_unacked_fragments"),
    ] {
        let error = scene.client.open_stream(request).expect_err("not valid");
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        assert!(error.to_string().contains(says), "{error}");
    }
    assert_eq!(scene.emulator.stats().streams_opened, 1);
    first.finish().expect("nothing happened to it");
    let limits = open().timeout(Duration::MAX).stall_timeout(Duration::MAX).max_unacked_bytes(0);
    let mut stream = scene.client.open_stream(limits).expect("long limits are limits");
    send_numbers(&mut stream, 1..=3);
    stream.wait_acked(Duration::MAX).expect("acknowledged");
    stream.finish().expect("published");
}

#[test]
fn an_abort_whose_text_is_too_long_aborts_all_the_same() {
    let scene = Scene::over(Protocol::ReliableJson);
    let stream = scene.open_with(|open| open.stream_id("s"));
    let error = stream.abort(&"x".repeat(1 << 20), "E").expect_err("too long");
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert_eq!(scene.viewer.see("s").1, End::Error("Dropped".into()));
}

#[test]
fn it_is_a_write_of_fragments_of_64_kib() {
    for protocol in protocols() {
        let scene = Scene::over(protocol);
        let mut stream = scene.open_with(|open| open.stream_id("s"));
        assert_eq!(stream.write(&[]).expect("nothing"), 0);
        let data: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
        stream.write_all(&data).expect("written");
        stream.flush().expect("alive");
        stream.finish().expect("published");
        let mut seen = Vec::new();
        for length in [65_536, 65_536, 65_536, 3_392] {
            let message = scene.viewer.next();
            let Payload::Binary(bytes) = &message.payload else { panic!("{message:?}") };
            assert_eq!(bytes.len(), length);
            seen.extend_from_slice(bytes);
        }
        assert!(seen == data, "other bytes");
        let last = scene.viewer.next().stream().cloned().expect("a stream");
        assert!(last.end_of_stream && last.stream_sequence_id == 5);
    }
}

#[test]
fn as_a_write_it_keeps_the_error() {
    let scene = Scene::over(Protocol::ReliableJson);
    let mut stream = scene.open();
    scene.client.close().expect("closed");
    for error in [stream.write(b"x").expect_err("closed"), stream.flush().expect_err("closed")] {
        assert_eq!(error.kind(), std::io::ErrorKind::NotConnected);
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        assert!(inner.is_some_and(Error::is_closed));
    }
}

#[test]
fn what_ends_the_client_ends_a_blocked_send_at_once() {
    within(WATCHDOG * 3, || {
        for protocol in protocols() {
            for dropped in [false, true] {
                let Scene { emulator, viewer: _viewer, client } = Scene::over(protocol);
                let open = OpenStream::new("g").max_unacked_fragments(1);
                let mut stream = client.open_stream(open).expect("accepted");
                emulator.faults().hold_stream_acks(true);
                stream.send("1").expect("taken");
                let blocked = thread::spawn(move || {
                    let error = stream.send("2").expect_err("closed");
                    (error, Instant::now())
                });
                thread::sleep(ms(50));
                assert!(!blocked.is_finished());
                let start = Instant::now();
                if dropped {
                    drop(client);
                } else {
                    client.close().expect("closed");
                }
                let (error, at) = blocked.join().expect("no panic");
                assert!(error.is_closed(), "{error}");
                assert!(at.saturating_duration_since(start) < ms(1000));
            }
        }
    });
}

/// Nothing that the program sends is taken by the peer any more.
#[test]
fn a_send_that_waits_for_the_link_ends_with_the_client_too() {
    within(WATCHDOG, || {
        let scene = Scene::over(Protocol::ReliableJson);
        let mut stream =
            scene.open_with(|open| open.max_unacked_bytes(1 << 30).max_unacked_fragments(100_000));
        scene.emulator.faults().freeze(true);
        let blocked = thread::spawn(move || {
            let data = "x".repeat(500_000);
            let error = loop {
                if let Err(error) = stream.send(data.as_str()) {
                    break error;
                }
            };
            (error, Instant::now())
        });
        thread::sleep(ms(500));
        assert!(!blocked.is_finished(), "memory without a bound, or an error");
        let start = Instant::now();
        let _ = scene.client.close();
        let (error, at) = blocked.join().expect("no panic");
        assert!(error.is_closed(), "{error}");
        assert!(at.saturating_duration_since(start) < ms(1000));
    });
}

#[test]
fn a_closure_of_on_wake_must_not_block_in_a_stream() {
    let emulator = emulator();
    let place: Arc<Mutex<Option<(Client, StreamWriter)>>> = Arc::default();
    let kinds = Arc::new(Mutex::new(Vec::new()));
    let (in_closure, told) = (Arc::clone(&place), Arc::clone(&kinds));
    let client = Client::builder(emulator.url("hub"))
        .on_wake(move || {
            let Some((client, mut stream)) = in_closure.lock().expect("no panic").take() else {
                return;
            };
            let mut kinds = told.lock().expect("no panic");
            let opened = client.open_stream("g").map(drop);
            let outcomes = [opened, stream.send("x"), stream.wait_acked(WATCHDOG), stream.finish()];
            kinds.extend(outcomes.map(|outcome| outcome.expect_err("refused").kind()));
        })
        .connect()
        .expect("connected");
    let stream = client.open_stream("g").expect("accepted");
    *place.lock().expect("no panic") = Some((client.clone(), stream));
    let ack = client.start(webpubsub::Publish::new("g", "x")).expect("started");
    eventually("woken", || !kinds.lock().expect("no panic").is_empty());
    ack.wait().expect("ack");
    assert_eq!(*kinds.lock().expect("no panic"), [ErrorKind::WouldBlock; 4]);
    client.close().expect("closed");
}

#[test]
fn streams_and_other_messages_go_side_by_side() {
    for protocol in protocols() {
        let scene = Scene::over(protocol);
        let mut one = scene.open_with(|open| open.stream_id("one").no_echo());
        let mut two = scene.open_with(|open| open.stream_id("two"));
        for number in 1..=100 {
            one.send(number.to_string()).expect("taken");
            two.send(number.to_string()).expect("taken");
            if number % 10 == 0 {
                scene.client.publish("g", "between").expect("ack");
            }
        }
        one.finish().expect("published");
        two.finish().expect("published");
        let (mut one, mut two) = (Vec::new(), Vec::new());
        while one.len() + two.len() < 200 {
            let message = scene.viewer.next();
            let Some(part) = message.stream() else { continue };
            if !part.end_of_stream {
                let seen = if part.stream_id == "one" { &mut one } else { &mut two };
                seen.push(message.text().expect("text").to_owned());
            }
        }
        assert_eq!((one, two), (numbers(100), numbers(100)));
    }
}

#[test]
fn a_stream_at_full_speed_does_not_starve_other_messages() {
    within(WATCHDOG * 2, || {
        let emulator = Emulator::start().expect("emulator");
        let client = client(&emulator);
        let mut stream = client.open_stream("logs").expect("accepted");
        let until = Instant::now() + ms(1000);
        let publisher = thread::spawn(move || {
            let data = vec![7; 64 * 1024];
            while Instant::now() < until {
                stream.write_all(&data).expect("written");
            }
            stream.finish()
        });
        let (mut calls, mut longest) = (0, Duration::ZERO);
        while Instant::now() < until {
            let start = Instant::now();
            client.fire_and_forget(webpubsub::Publish::new("other", "x")).expect("sent");
            client.publish("other", "x").expect("ack");
            longest = longest.max(start.elapsed());
            calls += 1;
        }
        publisher.join().expect("no panic").expect("published");
        assert!(calls >= 5 && longest < Duration::from_secs(5), "{calls} calls, {longest:?}");
    });
}
