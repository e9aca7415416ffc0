//! What arrives: order, which stream a part belongs to, streams as bytes.

use std::io::Read as _;

use serde_json::json;
use webpubsub::{ClientAccess, Error, ErrorKind, Event, Payload, Role, SubscribeStreams};

use super::{Publisher, complete, next, none, numbers};
use crate::support::{
    WATCHDOG, client, client_over, emulator, eventually, next_group_message, protocols,
    tells_sender, within,
};

#[test]
fn parts_come_in_order_and_streams_do_not_mix() {
    for protocol in protocols() {
        let emulator = emulator();
        let client = client_over(&emulator, protocol);
        let streams = client.subscribe_streams("g").expect("subscribe");
        let mut publisher = Publisher::new(&emulator);
        for id in ["a", "b", "c"] {
            publisher.start(id);
        }
        for n in 1..=50 {
            for id in ["a", "b", "c"] {
                publisher.part(id, n);
            }
        }
        for id in ["c", "a", "b"] {
            publisher.end(id);
        }
        for id in ["a", "b", "c"] {
            let mut stream = next(&streams);
            assert_eq!((stream.stream_id(), stream.group()), (id, "g"));
            assert_eq!(stream.from_user_id(), None);
            assert_eq!(complete(&mut stream), numbers(1..=50));
        }
        assert!(none(&streams));
        assert_eq!(streams.group(), Some("g"));
    }
}

#[test]
fn a_for_loop_takes_all_parts_and_last_the_error() {
    let emulator = emulator();
    let client = client(&emulator);
    let streams = client.subscribe_streams("g").expect("subscribe");
    let mut publisher = Publisher::new(&emulator);
    publisher.whole("a", 3);
    publisher.start("b");
    publisher.part("b", 1);
    publisher.abort("b", "gave up", "E42");
    let texts = within(WATCHDOG, move || {
        let streams = (&streams).into_iter().take(2);
        streams
            .map(|stream| {
                stream
                    .into_iter()
                    .map(|part| match part {
                        Ok(part) => part.to_string(),
                        Err(error) => format!("{:?}", error.kind()),
                    })
                    .collect::<Vec<_>>()
            })
            .collect::<Vec<_>>()
    });
    assert_eq!(texts, [vec!["1", "2", "3"], vec!["1", "StreamFailed"]]);
}

#[test]
fn who_publishes_is_known_where_the_subprotocol_says_it() {
    for protocol in protocols() {
        let emulator = emulator();
        let client = client_over(&emulator, protocol);
        let streams = client.subscribe_streams("g").expect("subscribe");
        let access = ClientAccess::new().user_id("ann").role(Role::send());
        let url = emulator.url_for("hub", &access).expect("URL");
        let mut publisher = Publisher::at(&url);
        publisher.whole("a", 1);
        let stream = next(&streams);
        assert_eq!(stream.from_user_id(), tells_sender(protocol).then_some("ann"));
    }
}

#[test]
fn a_stream_met_in_the_middle_is_read_from_there_or_ignored() {
    let emulator = emulator();
    let client = client(&emulator);
    let mut publisher = Publisher::new(&emulator);
    publisher.start("a");
    publisher.part("a", 1);
    publisher.sync();
    let any = client.subscribe_streams("g").expect("subscribe");
    let whole = SubscribeStreams::new("g").from_start();
    let whole = client.subscribe_streams(whole).expect("subscribe");
    (2..=4).for_each(|n| publisher.part("a", n));
    publisher.end("a");
    publisher.whole("b", 2);
    assert_eq!(complete(&mut next(&any)), numbers(2..=4));
    assert_eq!(complete(&mut next(&any)), numbers(1..=2));
    let mut b = next(&whole);
    assert_eq!((b.stream_id().to_owned(), complete(&mut b)), ("b".into(), numbers(1..=2)));
    assert!(none(&whole));
}

#[test]
fn an_id_may_come_again_and_is_another_stream_in_another_group() {
    let emulator = emulator();
    let client = client(&emulator);
    let streams = client.subscribe_streams("g").expect("subscribe");
    let all = client.subscribe_streams(SubscribeStreams::all_groups()).expect("subscribe");
    client.join_group("h").expect("join");
    let (mut one, mut two) = (Publisher::new(&emulator), Publisher::new(&emulator));
    one.whole("a", 2);
    one.whole("a", 3);
    one.start("b");
    one.sync();
    two.start_in("h", "b");
    for n in 1..=3 {
        one.part("b", n);
        two.part("b", n);
    }
    one.end("b");
    two.end("b");
    for count in [2, 3, 3] {
        assert_eq!(complete(&mut next(&streams)), numbers(1..=count));
    }
    assert!(none(&streams));
    assert_eq!(all.group(), None);
    for count in [2, 3] {
        assert_eq!(complete(&mut next(&all)), numbers(1..=count));
    }
    let (mut b, mut c) = (next(&all), next(&all));
    let mut groups = [b.group().to_owned(), c.group().to_owned()];
    groups.sort();
    assert_eq!(groups, ["g", "h"]);
    assert_eq!((complete(&mut b), complete(&mut c)), (numbers(1..=3), numbers(1..=3)));
}

#[test]
fn a_stream_is_read_as_bytes() {
    for protocol in protocols() {
        let emulator = emulator();
        let client = client_over(&emulator, protocol);
        let streams = client.subscribe_streams("g").expect("subscribe");
        let mut publisher = Publisher::new(&emulator);
        publisher.start("a");
        publisher.data("a", 1, "text", &json!("grüße "));
        publisher.data("a", 2, "text", &json!(""));
        publisher.data("a", 3, "binary", &json!("AAH/"));
        publisher.data("a", 4, "json", &json!({"a": 1}));
        publisher.end("a");
        let mut expected = "grüße ".as_bytes().to_vec();
        expected.extend([0, 1, 255]);
        expected.extend(br#"{"a":1}"#);
        let mut a = next(&streams);
        let read = within(WATCHDOG, move || {
            let mut bytes = Vec::new();
            a.read_to_end(&mut bytes).expect("all of it");
            assert_eq!(a.read(&mut [0; 8]).expect("the end stays"), 0);
            bytes
        });
        assert_eq!(read, expected);

        publisher.start("b");
        publisher.data("b", 1, "text", &json!("0123456789"));
        let mut b = next(&streams);
        let mut few = [0; 4];
        b.read_exact(&mut few).expect("some");
        assert_eq!(&few, b"0123");
        let left = b.recv_timeout(WATCHDOG).expect("open").expect("what is left");
        assert_eq!(left, Payload::from(b"456789"));
        publisher.abort("b", "no more", "7");
        let error = within(WATCHDOG, move || b.read(&mut few).expect_err("failed"));
        let inner = error.get_ref().and_then(|e| e.downcast_ref::<Error>()).expect("ours");
        assert_eq!((inner.kind(), inner.user_error_code()), (ErrorKind::StreamFailed, Some("7")));
    }
}

#[test]
fn s19_parts_enter_no_other_queue_and_without_a_stream_subscription_they_are_messages() {
    for protocol in protocols() {
        let emulator = emulator();
        let client = client_over(&emulator, protocol);
        let streams = client.subscribe_streams("g").expect("subscribe");
        let messages = client.subscribe("g").expect("subscribe");
        let mut publisher = Publisher::new(&emulator);
        publisher.whole("a", 3);
        assert_eq!(complete(&mut next(&streams)), numbers(1..=3));
        client.publish("g", "plain").expect("ack");
        match messages.recv_timeout(WATCHDOG).expect("open") {
            Some(Event::GroupMessage(message)) => assert_eq!(message.stream(), None),
            other => panic!("{other:?}"),
        }
        assert!(client.events().try_iter().all(|event| matches!(event, Event::Connected(_))));
        drop(streams);
        drop(messages);
        eventually("left", || client.groups().is_empty());

        client.join_group("g").expect("join");
        publisher.whole("b", 1);
        let (first, last) = (next_group_message(&client), next_group_message(&client));
        let stream = first.stream().expect("its place in the stream");
        assert_eq!((&*stream.stream_id, stream.stream_sequence_id), ("b", 1));
        assert!(last.stream().expect("its place in the stream").end_of_stream);
    }
}
