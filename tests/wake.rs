//! A program that acts only when `on_wake` has called it, as a user interface does.

use std::time::{Duration, Instant};

use webpubsub::crossbeam_channel::{Receiver, bounded};
use webpubsub::emulator::Emulator;
use webpubsub::{
    Client, ClientBuilder, ClientState, ErrorKind, Event, PendingAck, Publish, Recovery,
};

use crate::support::{WATCHDOG, emulator, within};

/// A builder whose closure puts one token into a channel that has room for one: as an event loop
/// that merges its wake-ups.
fn woken(emulator: &Emulator) -> (ClientBuilder, Receiver<()>) {
    let (wake, wakes) = bounded(1);
    let builder = Client::builder(emulator.url("hub")).on_wake(move || {
        let _ = wake.try_send(());
    });
    (builder, wakes)
}

/// Looks whenever it is woken, until the condition holds; a missing wake-up fails the test.
fn look_until(wakes: &Receiver<()>, what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + WATCHDOG;
    while !condition() {
        assert!(wakes.recv_deadline(end).is_ok(), "watchdog: no wake-up, never {what}");
    }
}

#[test]
fn every_message_is_seen_by_who_looks_only_when_woken() {
    within(WATCHDOG * 3, || {
        const MESSAGES: usize = 3_000;
        let emulator = emulator();
        let (builder, wakes) = woken(&emulator);
        let client = builder.connect().expect("connected");
        let room = client.subscribe("room").expect("joined");
        client.join_group("hall").expect("joined");
        let other = Client::connect(emulator.url("hub")).expect("connected");
        let publisher = std::thread::spawn(move || {
            for n in 0..MESSAGES {
                let group = if n % 3 == 0 { "hall" } else { "room" };
                other.fire_and_forget(Publish::new(group, n.to_string())).expect("sent");
                // Bursts and pauses of all kinds: the queues run empty again and again.
                if n % 7 == 0 {
                    std::thread::sleep(Duration::from_micros(n as u64 % 300));
                }
            }
            other.close().expect("flushed");
        });
        let mut received = 0;
        look_until(&wakes, "all", || {
            while let Ok(Some(event)) = room.try_recv() {
                received += usize::from(matches!(event, Event::GroupMessage(_)));
            }
            while let Ok(Some(event)) = client.try_recv() {
                received += usize::from(matches!(event, Event::GroupMessage(_)));
            }
            received == MESSAGES
        });
        publisher.join().expect("joined");
        client.close().expect("closed");
    });
}

#[test]
fn every_outcome_is_seen_by_who_looks_only_when_woken() {
    within(WATCHDOG * 3, || {
        const CALLS: usize = 2_000;
        let emulator = emulator();
        let (builder, wakes) = woken(&emulator);
        let client = builder.event_queue(None).connect().expect("connected");
        let mut calls: Vec<PendingAck> = Vec::new();
        let (mut started, mut acked) = (0, 0);
        look_until(&wakes, "all", || {
            calls.retain(|call| {
                let outcome = call.try_wait().expect("accepted");
                acked += usize::from(outcome.is_some());
                outcome.is_none()
            });
            while started < CALLS && calls.len() < 1 + started % 4 {
                calls.push(client.try_start(Publish::new("g", "x")).expect("room"));
                started += 1;
            }
            acked == CALLS
        });
        client.close().expect("closed");
    });
}

#[test]
fn each_state_is_seen() {
    within(WATCHDOG, || {
        let emulator = emulator();
        let (builder, wakes) = woken(&emulator);
        let recovery = Recovery::new().attempt_interval(Duration::from_millis(20));
        // Without a queue nothing but the state is there to be woken for.
        let builder = builder.event_queue(None).recovery(recovery);
        let client = builder.connect_in_background().expect("started");
        assert!(matches!(client.state(), ClientState::Connecting { attempt: 1, .. }));
        look_until(&wakes, "connected", || client.state().is_connected());
        emulator.faults().refuse_recoveries(3, 503);
        emulator.faults().drop_connections();
        let recovering = || matches!(client.state(), ClientState::Recovering { .. });
        look_until(&wakes, "recovering", recovering);
        look_until(&wakes, "recovered", || client.state().is_connected());
        emulator.faults().refuse_next_upgrades(1, 503, Some(1));
        emulator.faults().close_connections(1008, "policy");
        let waiting = || matches!(client.state(), ClientState::Waiting { .. });
        look_until(&wakes, "waiting", waiting);
        let other = client.clone();
        let closer = std::thread::spawn(move || other.close());
        look_until(&wakes, "stopped", || client.state().is_stopped());
        closer.join().expect("joined").expect("closed");
        assert_eq!(client.state().to_string(), "stopped: the client was closed");
    });
}

#[test]
fn room_after_a_would_block_wakes() {
    within(WATCHDOG, || {
        let emulator = emulator();
        let (builder, wakes) = woken(&emulator);
        let builder = builder.max_in_flight(1).max_pending_bytes(10_000).event_queue(None);
        let client = builder.connect().expect("connected");
        let publish =
            |bytes, limit| client.try_start(Publish::new("g", "x".repeat(bytes)).timeout(limit));
        emulator.faults().hold_acks(true);
        let _in_flight = publish(10, WATCHDOG).expect("room");
        let _waiting = publish(9_000, WATCHDOG).expect("room");
        // Nobody looks at its outcome, so no later one wakes.
        let _late = publish(10, Duration::from_millis(50)).expect("room");
        wakes.recv_timeout(WATCHDOG).expect("timed out");
        assert_eq!(publish(9_000, WATCHDOG).expect_err("full").kind(), ErrorKind::WouldBlock);
        while wakes.recv_timeout(Duration::from_millis(100)).is_ok() {}
        emulator.faults().hold_acks(false);
        wakes.recv_timeout(WATCHDOG).expect("woken");
        drop(publish(9_000, WATCHDOG).expect("room again"));
        client.drain(WATCHDOG).expect("acked");
        client.close().expect("closed");
    });
}

#[test]
fn a_call_that_only_its_deadline_ends_wakes() {
    within(WATCHDOG, || {
        let emulator = emulator();
        let (builder, wakes) = woken(&emulator);
        let client = builder.event_queue(None).connect().expect("connected");
        emulator.faults().hold_acks(true);
        let limit = Duration::from_millis(200);
        let call = client.try_start(Publish::new("g", "x").timeout(limit)).expect("room");
        look_until(&wakes, "timed out", || call.try_wait().is_err_and(|e| e.is_timeout()));
        // Withdrawn by a thread of the program: the client's own thread calls all the same.
        let call = client.try_start(Publish::new("g", "x")).expect("room");
        assert!(call.try_wait().expect("pending").is_none());
        let closing = std::thread::spawn({
            let client = client.clone();
            move || client.close()
        });
        look_until(&wakes, "cut off", || call.try_wait().is_err());
        assert!(closing.join().expect("joined").expect_err("cut off").is_closed());
    });
}

#[test]
fn in_the_closure_blocking_methods_are_refused() {
    within(WATCHDOG, || {
        let emulator = emulator();
        let (hand_over, clients) = bounded::<Client>(1);
        let (report, reports) = bounded(1);
        let client = Client::builder(emulator.url("hub"))
            .on_wake(move || {
                let Ok(client) = clients.try_recv() else { return };
                let limit = Duration::from_secs(5);
                let kinds = [
                    client.publish("g", "x").map(drop),
                    client.fire_and_forget(Publish::new("g", "x")),
                    client.subscribe("g").map(drop),
                    client.recv().map(drop),
                    client.recv_timeout(limit).map(drop),
                    client.wait_connected(limit),
                    client.drain(limit),
                    client.close(),
                ]
                .map(|outcome| outcome.expect_err("refused").kind());
                report.send((kinds, client.state().is_connected())).expect("awaited");
            })
            .connect()
            .expect("connected");
        hand_over.send(client.clone()).expect("room");
        client.join_group("room").expect("joined");
        client.publish("room", "an event for the queue").expect("sent");
        let (kinds, connected) = reports.recv_timeout(WATCHDOG).expect("called");
        assert_eq!(kinds, [ErrorKind::WouldBlock; 8]);
        assert!(connected);
        client.close().expect("closed");
    });
}

#[test]
fn a_panic_in_the_closure_stops_the_client_and_says_so() {
    within(WATCHDOG, || {
        let emulator = emulator();
        let client = Client::builder(emulator.url("hub"))
            .on_wake(|| panic!("on purpose"))
            .connect_in_background()
            .expect("started");
        let last = client.events().iter().last().expect("an event");
        let Event::Stopped(stopped) = last else { panic!("{last:?}") };
        assert_eq!(stopped.cause.kind(), ErrorKind::Internal);
        assert_eq!(stopped.cause.to_string(), "the closure of `on_wake` panicked");
        let error = client.publish("g", "x").expect_err("stopped");
        assert_eq!(error.kind(), ErrorKind::Internal);
    });
}
