//! The group of a stream subscription, and the connection under it.

use webpubsub::{Client, ClientAccess, ErrorKind, Role, SubscribeStreams};

use super::{Publisher, complete, failed, member_of, next, numbers, part, quick};
use crate::support::{
    WATCHDOG, client, client_over, emulator, eventually, next_group_message, protocols,
    reliable_protocols,
};

#[test]
fn s15_a_new_connection_fails_open_streams_and_the_group_is_joined_again() {
    for protocol in protocols() {
        let emulator = emulator();
        let client = quick(&emulator, protocol);
        let streams = client.subscribe_streams("g").expect("subscribe");
        let mut publisher = Publisher::new(&emulator);
        publisher.start("a");
        publisher.part("a", 1);
        let mut a = next(&streams);
        assert_eq!(part(&mut a), "1");
        let id = client.connection_id().expect("connected");
        assert!(emulator.faults().close_connection(&id, 1000, ""));
        let error = failed(&mut a);
        assert_eq!(error.kind(), ErrorKind::Disconnected);
        assert!(std::error::Error::source(&error).is_some(), "it has its cause");
        eventually("joined again", || member_of(&emulator) == ["g"]);
        publisher.part("a", 2);
        publisher.part("a", 3);
        publisher.end("a");
        assert_eq!(complete(&mut next(&streams)), numbers(2..=3), "the same id, from the middle");
    }
}

#[test]
fn a_recovery_in_mid_stream_loses_and_repeats_nothing() {
    for protocol in reliable_protocols(true) {
        let emulator = emulator();
        let client = quick(&emulator, protocol);
        let streams = client.subscribe_streams("g").expect("subscribe");
        let mut publisher = Publisher::new(&emulator);
        publisher.start("a");
        for n in 1..=200 {
            publisher.part("a", n);
            if n % 40 == 0 {
                publisher.sync();
                let id = client.connection_id().expect("an id that stays");
                emulator.faults().drop_connection(&id);
            }
        }
        publisher.end("a");
        assert_eq!(complete(&mut next(&streams)), numbers(1..=200));
        assert!(emulator.stats().recoveries_accepted > 0);
    }
}

#[test]
fn an_own_leave_fails_the_streams_of_its_group() {
    for protocol in protocols() {
        let emulator = emulator();
        let client = client_over(&emulator, protocol);
        let all = client.subscribe_streams(SubscribeStreams::all_groups()).expect("subscribe");
        let mut publisher = Publisher::new(&emulator);
        for (n, group) in ["called", "dropped", "kept"].into_iter().enumerate() {
            match n {
                1 => {}
                _ => drop(client.join_group(group).expect("join")),
            }
        }
        let dropped = client.subscribe("dropped").expect("subscribe");
        for group in ["called", "dropped", "kept"] {
            publisher.start_in(group, group);
            publisher.part(group, 1);
        }
        let (mut called, mut gone, mut kept) = (next(&all), next(&all), next(&all));
        client.leave_group("called").expect("leave");
        assert_eq!(failed(&mut called).kind(), ErrorKind::StreamFailed);
        dropped.unsubscribe().expect("left");
        let error = failed(&mut gone);
        assert_eq!(error.kind(), ErrorKind::StreamFailed);
        assert!(error.to_string().contains("left the group"), "{error}");
        publisher.end("kept");
        assert_eq!(complete(&mut kept), numbers(1..=1));
    }
}

#[test]
fn the_last_holder_that_goes_leaves_the_group() {
    let emulator = emulator();
    let client = client(&emulator);
    let streams = client.subscribe_streams("g").expect("subscribe");
    let messages = client.subscribe("g").expect("subscribe");
    drop(messages);
    client.publish("g", "plain").expect("ack");
    assert_eq!(next_group_message(&client).text().expect("text"), "plain");
    assert_eq!(member_of(&emulator), ["g"]);
    let error = client.leave_group("g").expect_err("it is held");
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);

    let mut publisher = Publisher::new(&emulator);
    publisher.start("a");
    publisher.part("a", 1);
    let mut a = next(&streams);
    assert_eq!(part(&mut a), "1");
    streams.unsubscribe().expect("left");
    assert!(member_of(&emulator).is_empty() && client.groups().is_empty());
    assert_eq!(failed(&mut a).kind(), ErrorKind::Closed);

    drop(client.subscribe_streams("g").expect("subscribe"));
    eventually("left", || member_of(&emulator).is_empty() && client.groups().is_empty());
}

#[test]
fn the_end_of_a_subscription_reaches_who_waits_although_nothing_arrives() {
    let emulator = emulator();
    let client = client(&emulator);
    client.join_group("g").expect("join");
    let mut publisher = Publisher::new(&emulator);
    for spec in [SubscribeStreams::new("g"), SubscribeStreams::all_groups()] {
        let streams = client.subscribe_streams(spec).expect("subscribe");
        publisher.start("a");
        publisher.part("a", 1);
        let (mut a, receiver) = (next(&streams), streams.receiver().clone());
        assert_eq!(part(&mut a), "1");
        publisher.sync();
        // Else an ack that is due would wake the client's thread.
        eventually("acknowledged", || emulator.connections("hub").iter().all(|c| c.unacked == 0));
        drop(streams);
        assert!(matches!(receiver.recv_timeout(WATCHDOG), Err(e) if e.is_disconnected()));
        assert_eq!(failed(&mut a).kind(), ErrorKind::Closed);
        publisher.end("a");
        publisher.sync();
    }
    assert_eq!(member_of(&emulator), ["g"]);
}

#[test]
fn a_refused_join_is_the_callers_error_and_bad_names_are_refused_locally() {
    let emulator = emulator();
    let access = ClientAccess::new().role(Role::join_leave_group("mine"));
    let client = Client::connect(emulator.url_for("hub", &access).expect("URL")).expect("connect");
    let error = client.subscribe_streams("other").expect_err("forbidden");
    assert_eq!(error.service_error_name(), Some("Forbidden"));
    assert_eq!(client.subscribe_streams("").expect_err("blank").kind(), ErrorKind::InvalidRequest);
    drop(client.subscribe_streams("mine").expect("joined"));
    assert!(client.groups().len() <= 1);
}
