//! Subscriptions: who gets what, what a slow one does to the others, what holds a group.

use std::thread;
use std::time::{Duration, Instant};

use webpubsub::emulator::Emulator;
use webpubsub::{
    Client, ClientAccess, ErrorKind, Event, Overflow, Publish, QueueConfig, Reconnect, Recovery,
    Role, Subscribe, Subscription,
};

use crate::support::log::{log_of_threads, logged_by};
use crate::support::{
    WATCHDOG, client, client_over, emulator, eventually, next_group_message, protocols,
    reliable_protocols, within,
};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// The text of the next message; anything else in the queue fails the test.
fn next(subscription: &Subscription) -> String {
    match subscription.recv_timeout(WATCHDOG).expect("open") {
        Some(Event::GroupMessage(message)) => message.text().expect("text").to_owned(),
        other => panic!("{other:?}"),
    }
}

/// The groups of the only connection, as the service sees them.
fn member_of(emulator: &Emulator) -> Vec<String> {
    let connections = emulator.connections("hub");
    connections.into_iter().flat_map(|connection| connection.groups).collect()
}

fn small(overflow: Overflow) -> QueueConfig {
    QueueConfig::new().max_messages(2).max_messages_during_calls(2).overflow(overflow)
}

#[test]
fn every_subscription_of_a_group_gets_every_message_and_the_event_queue_none() {
    for protocol in protocols() {
        let emulator = emulator();
        let client = client_over(&emulator, protocol);
        let one = client.subscribe("g").expect("subscribe");
        let two = client.subscribe("g").expect("subscribe");
        let other = client.subscribe("h").expect("subscribe");
        for n in 0..100 {
            client.publish("g", n.to_string()).expect("ack");
        }
        client.publish("h", "h").expect("ack");
        for n in 0..100 {
            assert_eq!((next(&one), next(&two)), (n.to_string(), n.to_string()));
        }
        assert_eq!(next(&other), "h");
        assert!(matches!(client.try_recv(), Ok(Some(Event::Connected(_)))));
        assert!(matches!(client.try_recv(), Ok(None)), "no message of a subscribed group");
        assert_eq!(client.groups().len(), 2);
    }
}

#[test]
fn no_message_behind_the_ack_of_the_join_is_missed() {
    let emulator = emulator();
    let (client, publisher) = (client(&emulator), client(&emulator));
    thread::scope(|s| {
        let (done, stop) = std::sync::mpsc::channel::<()>();
        s.spawn(move || {
            let mut n = 0;
            while stop.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                publisher.publish("g", n.to_string()).expect("ack");
                n += 1;
            }
        });
        for _ in 0..50 {
            let subscription = client.subscribe("g").expect("subscribe");
            let first: u64 = next(&subscription).parse().expect("a number");
            let second: u64 = next(&subscription).parse().expect("a number");
            assert_eq!(second, first + 1);
        }
        drop(done);
    });
    // What came while a group was being left went nowhere.
    assert!(client.events().try_iter().all(|event| !matches!(event, Event::GroupMessage(_))));
}

#[test]
fn the_last_holder_that_goes_leaves_the_group() {
    for protocol in protocols() {
        let emulator = emulator();
        let client = client_over(&emulator, protocol);
        let one = client.subscribe("g").expect("subscribe");
        let two = client.subscribe("g").expect("subscribe");
        drop(one);
        client.publish("g", "still").expect("ack");
        assert_eq!(next(&two), "still");
        assert_eq!(member_of(&emulator), ["g"]);
        let error = client.leave_group("g").expect_err("it is held");
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);

        two.unsubscribe().expect("left");
        assert!(member_of(&emulator).is_empty(), "left when `unsubscribe` returns");
        assert!(client.groups().is_empty());

        drop(client.subscribe("g").expect("subscribe"));
        eventually("left", || member_of(&emulator).is_empty() && client.groups().is_empty());
    }
}

#[test]
fn a_group_that_the_program_joined_too_stays_joined_and_returns_to_the_event_queue() {
    let emulator = emulator();
    let client = client(&emulator);
    client.join_group("g").expect("join");
    let subscription = client.subscribe("g").expect("subscribe");
    client.publish("g", "1").expect("ack");
    assert_eq!(next(&subscription), "1");
    subscription.unsubscribe().expect("nothing to wait for");
    client.publish("g", "2").expect("ack");
    assert_eq!(next_group_message(&client).text().expect("text"), "2");
    assert_eq!(member_of(&emulator), ["g"]);
    client.leave_group("g").expect("leave");
    assert!(member_of(&emulator).is_empty());
}

#[test]
fn subscribing_anew_while_the_group_is_being_left_joins_behind_the_leave() {
    for protocol in protocols() {
        let emulator = emulator();
        let client = client_over(&emulator, protocol);
        for n in 0..50 {
            drop(client.subscribe("g").expect("subscribe"));
            let again = client.subscribe_in_background("g").expect("subscribe");
            eventually("joined", || {
                client.publish("g", n.to_string()).expect("ack");
                matches!(again.recv_timeout(ms(100)), Ok(Some(Event::GroupMessage(_))))
            });
            drop(again);
        }
        eventually("left", || member_of(&emulator).is_empty());
    }
}

#[test]
fn a_full_queue_that_waits_holds_up_the_others_and_one_that_drops_does_not() {
    let emulator = emulator();
    let client = client(&emulator);
    let newest = Subscribe::new("prices").queue(small(Overflow::DropNewest));
    let prices = client.subscribe(newest).expect("subscribe");
    let orders = client.subscribe("orders").expect("subscribe");
    for n in 0..10 {
        client.publish("prices", n.to_string()).expect("ack");
    }
    client.publish("orders", "a").expect("ack");
    assert_eq!(next(&orders), "a", "nobody is held up");
    assert_eq!((next(&prices), next(&prices)), ("0".into(), "1".into()));
    match prices.recv_timeout(WATCHDOG).expect("open") {
        Some(Event::Lagged(8)) => {}
        other => panic!("the drops are reported where there is room: {other:?}"),
    }
    assert_eq!(client.stats().dropped, 8);
    drop(prices);

    let slow = Subscribe::new("slow").queue(small(Overflow::Wait));
    let slow = client.subscribe(slow).expect("subscribe");
    for n in 0..4 {
        client.publish("slow", n.to_string()).expect("acks are settled all the same");
    }
    client.publish("orders", "b").expect("ack");
    assert!(matches!(orders.recv_timeout(ms(100)), Ok(None)), "its place is behind the others");
    assert_eq!(next(&slow), "0");
    assert_eq!(next(&slow), "1");
    assert_eq!(next(&orders), "b");
}

#[test]
fn a_queue_that_stops_ends_its_subscription_alone() {
    let emulator = emulator();
    let client = client(&emulator);
    let strict = Subscribe::new("g").queue(small(Overflow::Stop));
    let (strict, other) =
        (client.subscribe(strict).expect("subscribe"), client.subscribe("g").expect("subscribe"));
    for n in 0..5 {
        client.publish("g", n.to_string()).expect("ack");
    }
    for n in 0..5 {
        assert_eq!(next(&other), n.to_string());
    }
    let mut messages = strict.messages();
    assert!(messages.next().is_some_and(|m| m.is_ok()));
    assert!(messages.next().is_some_and(|m| m.is_ok()));
    let error = messages.next().expect("the end").expect_err("it stopped");
    assert_eq!(error.kind(), ErrorKind::QueueFull);
    assert!(messages.next().is_none());
    assert_eq!(strict.recv().expect_err("over").kind(), ErrorKind::QueueFull);
    client.publish("g", "6").expect("the client lives");
}

#[test]
fn a_refused_join_ends_the_subscription_and_is_an_event_if_no_call_waits() {
    let emulator = emulator();
    let access = ClientAccess::new().role(Role::join_leave_group("mine"));
    let url = emulator.url_for("hub", &access).expect("url");
    let client = Client::connect(url).expect("connect");
    let error = client.subscribe("other").expect_err("forbidden");
    assert_eq!(error.service_error_name(), Some("Forbidden"));
    let pending = client.subscribe_in_background("third").expect("no local error");
    let error = pending.messages().next().expect("an end").expect_err("forbidden");
    assert_eq!(error.service_error_name(), Some("Forbidden"));
    let failed = client.events().iter().find_map(|event| match event {
        Event::JoinFailed(failed) => Some(failed.group),
        _ => None,
    });
    assert_eq!(failed.as_deref(), Some("third"));
    drop(pending);
    assert_eq!(emulator.stats().failed_acks, 2, "there is nothing to leave");
}

#[test]
fn a_gap_shows_in_every_subscription_and_a_recovery_in_none() {
    for protocol in reliable_protocols(true) {
        let emulator = emulator();
        let client = Client::builder(emulator.url("hub"))
            .protocol(protocol)
            .reconnect(Some(Reconnect::new().backoff(ms(1), ms(20))))
            .recovery(Recovery::new().attempt_interval(ms(10)))
            .connect()
            .expect("connect");
        let subscription = client.subscribe("g").expect("subscribe");
        emulator.faults().drop_connections();
        emulator.send_to_group("hub", "g", "while away").expect("sent");
        assert_eq!(next(&subscription), "while away");

        emulator.faults().close_connections(1000, "");
        match subscription.recv_timeout(WATCHDOG).expect("open") {
            Some(Event::Connected(connected)) => assert!(connected.gap_possible),
            other => panic!("{other:?}"),
        }
        eventually("joined again", || member_of(&emulator) == ["g"]);
        emulator.send_to_group("hub", "g", "back").expect("sent");
        assert_eq!(next(&subscription), "back");
    }
}

#[test]
fn subscriptions_are_joined_again_even_where_other_groups_are_not() {
    let emulator = emulator();
    let reconnect = Reconnect::new().backoff(ms(1), ms(20)).rejoin_groups(false);
    let client =
        Client::builder(emulator.url("hub")).reconnect(Some(reconnect)).connect().expect("connect");
    client.join_group("joined").expect("join");
    let _subscription = client.subscribe("subscribed").expect("subscribe");
    emulator.faults().close_connections(1000, "");
    eventually("joined again", || member_of(&emulator) == ["subscribed"]);
    assert_eq!(client.groups(), ["subscribed".into()]);
}

#[test]
fn what_is_dropped_while_there_is_no_connection_is_left_or_not_joined_again() {
    for ends_session in [false, true] {
        let emulator = emulator();
        let client = Client::builder(emulator.url("hub"))
            .reconnect(Some(Reconnect::new().backoff(ms(1), ms(20))))
            .recovery(Recovery::new().attempt_interval(ms(10)))
            .connect()
            .expect("connect");
        let subscription = client.subscribe("g").expect("subscribe");
        let kept = client.subscribe("kept").expect("subscribe");
        emulator.faults().refuse_next_upgrades(20, 503, None);
        match ends_session {
            true => emulator.faults().close_connections(1000, ""),
            false => emulator.faults().drop_connections(),
        }
        eventually("away", || !client.state().is_connected());
        drop(subscription);
        emulator.faults().refuse_next_upgrades(0, 503, None);
        eventually("only one group", || member_of(&emulator) == ["kept"]);
        eventually("told", || client.groups() == ["kept".into()]);
        drop(kept);
    }
}

#[test]
fn the_end_of_the_client_is_the_end_of_its_subscriptions() {
    let emulator = emulator();
    let client = client(&emulator);
    let subscription = client.subscribe("g").expect("subscribe");
    let receiver = subscription.receiver().clone();
    client.publish("g", "last").expect("ack");
    client.close().expect("close");
    assert_eq!(next(&subscription), "last");
    assert!(subscription.messages().next().is_none(), "the program itself ended it");
    assert!(subscription.recv().expect_err("over").is_closed());
    assert!(receiver.try_recv().is_err());
    assert!(client.subscribe("h").expect_err("closed").is_closed());
    assert!(client.subscribe_in_background("h").expect_err("closed").is_closed());
}

#[test]
fn clones_of_the_receiver_see_the_end_and_share_the_work() {
    let emulator = emulator();
    let client = client(&emulator);
    let jobs = client.subscribe("jobs").expect("subscribe");
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let jobs = jobs.receiver().clone();
            thread::spawn(move || {
                jobs.iter().filter(|event| matches!(event, Event::GroupMessage(_))).count()
            })
        })
        .collect();
    client.call_all((0..1000).map(|n| Publish::new("jobs", n.to_string()))).expect("acks");
    jobs.unsubscribe().expect("left");
    let done: usize =
        within(WATCHDOG, || workers.into_iter().map(|w| w.join().expect("no panic")).sum());
    assert_eq!(done, 1000);
}

#[test]
fn clones_of_the_receiver_see_the_end_although_nothing_arrives() {
    let emulator = emulator();
    let client = client(&emulator);
    client.join_group("g").expect("join");
    let subscription = client.subscribe("g").expect("subscribe");
    let receiver = subscription.receiver().clone();
    drop(subscription);
    // The group stays joined, so there is no ack of a leave either.
    assert!(matches!(receiver.recv_timeout(ms(5000)), Ok(Event::Stopped(_))));
}

#[test]
fn an_event_queue_that_nobody_asked_for_makes_nobody_wait() {
    log_of_threads();
    let emulator = emulator();
    let queue = small(Overflow::Wait);
    let builder = Client::builder(emulator.url("hub")).event_queue(Some(queue)).name("unasked");
    let client = builder.connect().expect("connect");
    let subscription = client.subscribe("g").expect("subscribe");
    for n in 0..50 {
        emulator.send_to_all("hub", n.to_string()).expect("sent");
    }
    client.publish("g", "through").expect("ack");
    assert_eq!(next(&subscription), "through");
    let warnings = logged_by("unasked", "");
    let [warning] = &warnings[..] else { panic!("one warning: {warnings:?}") };
    assert!(warning.contains("nobody reads the event queue"), "{warning}");
    // Who asks late finds what there was room for, and how much there was not.
    let events = client.events();
    let seen: Vec<_> = std::iter::from_fn(|| events.recv_timeout(ms(1500)).ok()).collect();
    let lagged = seen.iter().find_map(|event| match event {
        Event::Lagged(count) => Some(*count),
        _ => None,
    });
    assert_eq!(lagged, Some(48), "{seen:?}");
}

#[test]
fn what_is_unsubscribed_ends_at_once_although_nothing_else_comes() {
    within(WATCHDOG, || {
        let emulator = emulator();
        let client = Client::connect(emulator.url("hub")).expect("connect");
        client.join_group("jobs").expect("joined");
        let jobs = client.subscribe("jobs").expect("joined");
        let receiver = jobs.receiver().clone();
        // The program's own join holds the group, so nothing is sent.
        jobs.unsubscribe().expect("ended");
        let last = receiver.recv_timeout(Duration::from_secs(2)).expect("an end");
        assert!(matches!(last, Event::Stopped(_)), "{last:?}");
        assert!(receiver.recv_timeout(Duration::from_secs(2)).is_err(), "disconnected");
        client.close().expect("closed");
    });
}

#[test]
fn a_queue_without_room_is_refused() {
    within(WATCHDOG, || {
        let emulator = emulator();
        let client = Client::connect(emulator.url("hub")).expect("connect");
        let none = || Subscribe::new("g").queue(QueueConfig::new().max_messages(0));
        for error in [client.subscribe(none()), client.subscribe_in_background(none())] {
            let error = error.expect_err("no room");
            assert_eq!(error.kind(), ErrorKind::InvalidRequest);
            assert!(error.to_string().contains("`QueueConfig::max_messages`"), "{error}");
        }
        client.close().expect("closed");
    });
}

#[test]
fn one_that_ends_between_two_connections_has_nothing_to_leave() {
    within(WATCHDOG, || {
        let emulator = emulator();
        let client = Client::connect(emulator.url("hub")).expect("connect");
        let group = client.subscribe("g").expect("joined");
        emulator.faults().refuse_next_upgrades(100, 503, Some(60));
        emulator.faults().close_connections(1008, "over");
        eventually("away", || client.connection_id().is_none());
        let start = Instant::now();
        group.unsubscribe().expect("nothing to leave");
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        client.close().expect("closed");
    });
}

#[test]
fn after_one_that_was_stopped_the_programs_own_join_gets_the_messages() {
    within(WATCHDOG, || {
        let emulator = emulator();
        let client = Client::connect(emulator.url("hub")).expect("connect");
        client.join_group("g").expect("joined");
        let queue = QueueConfig::new().max_messages(2).overflow(Overflow::Stop);
        let stopped = client.subscribe(Subscribe::new("g").queue(queue)).expect("joined");
        for n in 0..10 {
            client.publish("g", n.to_string()).expect("acked");
        }
        let kept = stopped.receiver().try_iter().filter(is_message).count();
        let came = client.events().try_iter().filter(is_message).count();
        assert_eq!((kept, came), (2, 7), "one was too many");
        client.close().expect("closed");
    });
}

fn is_message(event: &Event) -> bool {
    matches!(event, Event::GroupMessage(_))
}
