//! Requests: what waits for what, how a call is taken back, and what the end of a client cuts off.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

use webpubsub::{
    AnyRequest, Client, ClientAccess, ErrorKind, JoinGroup, LeaveGroup, Publish, Role, SendEvent,
};

use crate::support::{
    WATCHDOG, client, client_over, emulator, eventually, next_group_message, protocols, within,
};

/// No call that must not wait takes that long, even on a busy machine.
const SHORT: Duration = Duration::from_secs(2);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn only_a_call_that_is_not_written_can_be_cancelled() {
    for protocol in protocols() {
        let emulator = emulator();
        let builder = Client::builder(emulator.url("hub")).protocol(protocol).max_in_flight(1);
        let client = builder.connect().expect("connect");
        let id = client.connection_id().expect("connected");
        emulator.faults().hold_acks(true);
        let written = client.start(Publish::new("g", "1")).expect("start");
        let waiting = client.start(JoinGroup::new("g")).expect("start");
        eventually("carried out", || emulator.executions(&id, written.ack_id()) == 1);

        assert!(!written.cancel(), "it is written");
        assert!(waiting.cancel() && !waiting.cancel(), "once");
        let error = waiting.try_wait().expect_err("cancelled");
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert!(!error.may_have_been_delivered());

        emulator.faults().hold_acks(false);
        written.wait().expect("ack");
        assert!(!written.cancel(), "it has ended");
        client.publish("g", "2").expect("ack");
        assert_eq!(emulator.executions(&id, waiting.ack_id()), 0);
        assert_eq!(client.groups(), []);
    }
}

#[test]
fn a_start_does_not_wait_for_a_peer_that_takes_nothing() {
    let emulator = emulator();
    // Small, so that what fills the sockets is encoded in no time.
    let builder = Client::builder(emulator.url("hub")).socket_buffer_size(4096);
    let client = builder.connect().expect("connect");
    emulator.faults().freeze(true);
    let body = "x".repeat(50_000);
    let start = Instant::now();
    // More than the sockets take.
    let calls: Vec<_> =
        (0..40).map(|_| client.start(Publish::new("g", &*body)).expect("start")).collect();
    assert!(start.elapsed() < SHORT, "{:?}", start.elapsed());
    assert!(calls.iter().all(|call| call.try_wait().expect("no failure").is_none()));
    emulator.faults().freeze(false);
    for call in calls {
        call.wait().expect("ack");
    }
}

#[test]
fn at_the_bounds_of_what_is_pending_start_waits_and_try_start_does_not() {
    let emulator = emulator();
    let builder = Client::builder(emulator.url("hub")).max_in_flight(1).max_pending_calls(3);
    let client = builder.connect().expect("connect");
    emulator.faults().hold_acks(true);
    let first = client.start(Publish::new("g", "1")).expect("start");
    let rest = client.start_all([Publish::new("g", "2"), Publish::new("g", "3")]).expect("start");

    let start = Instant::now();
    let error = client.try_start(Publish::new("g", "4")).expect_err("no room");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert!(error.to_string().contains("max_pending_calls"), "{error}");
    assert!(start.elapsed() < SHORT);
    let error = client.start(Publish::new("g", "5").timeout(ms(50))).expect_err("no room");
    assert!(error.is_timeout() && !error.may_have_been_delivered(), "{error}");

    thread::scope(|s| {
        let waiting = s.spawn(|| client.start(Publish::new("g", "6")).expect("room").wait());
        // A place that becomes free is taken by the one that waits.
        assert!(rest[1].cancel());
        emulator.faults().hold_acks(false);
        waiting.join().expect("no panic").expect("ack");
    });
    first.wait().expect("ack");
    assert_eq!(emulator.stats().publications, 3);
}

#[test]
fn bytes_that_wait_to_be_written_are_bounded_too() {
    let emulator = emulator();
    let builder = Client::builder(emulator.url("hub")).max_in_flight(1).max_pending_bytes(1000);
    let client = builder.connect().expect("connect");
    emulator.faults().hold_acks(true);
    let written = client.start(Publish::new("g", "x".repeat(5000))).expect("start");
    let large = client.try_start(Publish::new("g", "x".repeat(5000))).expect("one of any size");
    let error = client.try_start(Publish::new("g", "x")).expect_err("no room");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert!(large.cancel());
    let small = client.try_start(Publish::new("g", "x")).expect("room again");
    emulator.faults().hold_acks(false);
    written.wait().expect("ack");
    small.wait().expect("ack");
}

#[test]
fn a_client_that_ends_ends_the_wait_for_room() {
    let emulator = emulator();
    let builder = Client::builder(emulator.url("hub")).max_pending_calls(1);
    let client = builder.connect().expect("connect");
    emulator.faults().hold_acks(true);
    let _held = client.start(Publish::new("g", "1")).expect("start");
    let other = client.clone();
    let waiting = thread::spawn(move || other.start(Publish::new("g", "2")));
    thread::sleep(ms(50));
    let _ = client.close();
    let error = within(SHORT, || waiting.join().expect("no panic")).expect_err("closed");
    assert!(error.is_closed(), "{error}");
}

#[test]
fn many_calls_are_pipelined_in_order_and_held_by_the_window_only() {
    for protocol in protocols() {
        let emulator = emulator();
        let client = client_over(&emulator, protocol);
        client.join_group("g").expect("join");
        let most_ahead = Cell::new(0);
        let requests = (0..2000).map(|n| {
            let ahead = client.stats().calls_pending;
            most_ahead.set(most_ahead.get().max(ahead));
            Publish::new("g", format!("{n}"))
        });
        assert_eq!(client.call_all(requests).expect("all acked"), 2000);
        assert!(most_ahead.get() <= 256, "{}", most_ahead.get());
        for n in 0..2000 {
            let message = next_group_message(&client);
            assert_eq!(message.text().expect("text"), format!("{n}"));
        }
    }
}

#[test]
fn the_first_failure_ends_a_row_of_calls_once_those_under_way_have_ended() {
    let emulator = emulator();
    let client = client(&emulator);
    let taken = Cell::new(0);
    let requests = (0..100).map(|n| {
        taken.set(n);
        Publish::new(if n == 10 { "" } else { "g" }, "x")
    });
    let error = client.call_all(requests).expect_err("a bad one");
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert_eq!((taken.get(), emulator.stats().publications), (10, 10));
    assert_eq!(client.stats().calls_pending, 0);
}

#[test]
fn requests_of_several_kinds_can_go_together() {
    let emulator = webpubsub::emulator::Emulator::builder()
        .event_handler(|_| webpubsub::emulator::EventAnswer::Nothing)
        .start()
        .expect("emulator");
    let client = client(&emulator);
    let requests: [AnyRequest; 4] = [
        JoinGroup::new("g").into(),
        Publish::new("g", "hello").into(),
        LeaveGroup::new("g").into(),
        SendEvent::new("e", "x").into(),
    ];
    assert_eq!(client.call_all(requests).expect("all acked"), 4);
    assert_eq!(next_group_message(&client).text().expect("text"), "hello");
    assert_eq!((client.groups().len(), emulator.stats().events), (0, 1));
}

#[test]
fn draining_waits_for_every_outcome_and_says_how_many_are_left() {
    let emulator = emulator();
    let client = client(&emulator);
    emulator.faults().hold_acks(true);
    let calls = (0..3).map(|_| Publish::new("g", "x"));
    drop(client.start_all(calls).expect("start"));
    let error = client.drain(ms(30)).expect_err("three are left");
    assert!(error.is_timeout() && error.to_string().contains("3 calls"), "{error}");
    thread::scope(|s| {
        let drain = s.spawn(|| client.drain(WATCHDOG));
        emulator.faults().hold_acks(false);
        drain.join().expect("no panic").expect("all have ended");
    });
    client.close().expect("nothing is cut off");
}

#[test]
fn closing_says_how_many_calls_it_cut_off() {
    let emulator = emulator();
    let builder = Client::builder(emulator.url("hub")).max_in_flight(2);
    let client = builder.connect().expect("connect");
    emulator.faults().hold_acks(true);
    drop(client.start_all((0..5).map(|_| Publish::new("g", "x"))).expect("start"));
    let error = client.close().expect_err("calls were cut off");
    assert!(error.is_closed() && error.may_have_been_delivered());
    let text = error.to_string();
    assert!(text.contains("5 calls: 3 not sent, 2 that may have been executed"), "{text}");
    client.close().expect("the first one has reported it");
}

#[test]
fn asking_for_an_outcome_never_waits_not_even_at_the_deadline() {
    let emulator = emulator();
    let client = client(&emulator);
    emulator.faults().hold_acks(true);
    let call = client.start(Publish::new("g", "x").timeout(ms(20))).expect("start");
    let (mut longest, end) = (Duration::ZERO, Instant::now() + WATCHDOG);
    let error = loop {
        let start = Instant::now();
        let outcome = call.try_wait();
        longest = longest.max(start.elapsed());
        match outcome {
            Ok(None) => assert!(Instant::now() < end, "watchdog"),
            Ok(Some(_)) => panic!("acked"),
            Err(error) => break error,
        }
    };
    assert!(error.is_timeout(), "{error}");
    assert!(longest < SHORT, "{longest:?}");
}

#[test]
fn many_calls_end_at_the_first_failure_that_is_known() {
    let emulator = emulator();
    let access = ClientAccess::new().role(Role::send_to_group("allowed"));
    let client = Client::connect(emulator.url_for("hub", &access).expect("url")).expect("connect");
    let mut taken = 0;
    // Slow, as lines of standard input are.
    let requests = (0..200).map(|n| {
        taken += 1;
        thread::sleep(Duration::from_millis(5));
        Publish::new(if n == 0 { "forbidden" } else { "allowed" }, "x")
    });
    let error = client.call_all(requests).expect_err("forbidden");
    assert_eq!(error.service_error_name(), Some("Forbidden"));
    assert!(taken < 100, "{taken} requests were taken");
}
