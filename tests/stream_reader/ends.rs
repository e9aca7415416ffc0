//! How streams end, and for whom.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use webpubsub::emulator::Emulator;
use webpubsub::{Client, ErrorKind, SubscribeStreams};

use super::{Publisher, complete, failed, ms, next, none, numbers, rest};
use crate::support::{WATCHDOG, client, client_over, emulator, eventually, protocols, within};

#[test]
fn s14_a_gap_and_a_repetition_end_their_stream_alone() {
    for protocol in protocols() {
        let emulator = emulator();
        let client = client_over(&emulator, protocol);
        let streams = client.subscribe_streams("g").expect("subscribe");
        let mut publisher = Publisher::new(&emulator);
        for (id, fault) in [("gap", true), ("twice", false)] {
            publisher.start(id);
            publisher.part(id, 1);
            publisher.sync();
            match fault {
                true => emulator.faults().skip_next_fragments(1),
                false => emulator.faults().repeat_next_fragments(1),
            }
            (2..=5).for_each(|n| publisher.part(id, n));
            publisher.end(id);
        }
        publisher.whole("fine", 3);
        let (parts, error) = rest(&mut next(&streams));
        let error = error.expect("a gap");
        assert_eq!((parts, error.kind()), (numbers(1..=1), ErrorKind::StreamFailed));
        assert!(error.to_string().contains("3 came where 2 was to come"), "{error}");
        assert_eq!((error.service_error_name(), error.user_error_code()), (None, None));
        let (parts, error) = rest(&mut next(&streams));
        let error = error.expect("a repetition");
        assert_eq!((parts, error.kind()), (numbers(1..=2), ErrorKind::StreamFailed));
        assert!(error.to_string().contains("2 came where 3 was to come"), "{error}");
        assert_eq!(complete(&mut next(&streams)), numbers(1..=3));
        assert!(none(&streams));
    }
}

#[test]
fn the_error_of_the_last_message_is_the_readers() {
    for protocol in protocols() {
        let emulator = emulator();
        let client = client_over(&emulator, protocol);
        let streams = client.subscribe_streams("g").expect("subscribe");
        let mut publisher = Publisher::new(&emulator);
        for id in ["abort", "broken", "idle"] {
            publisher.start(id);
            publisher.part(id, 1);
        }
        publisher.abort("abort", "gave up", "E42");
        publisher.sync();
        let faults = emulator.faults();
        assert!(faults.fail_stream(&publisher.id, "broken", "InternalServerError", "broken"));
        emulator.advance_clock(Duration::from_secs(301));
        publisher.start("cut");
        publisher.part("cut", 1);
        publisher.sync();
        drop(publisher);
        for (id, name, code) in [
            ("abort", "UserError", Some("E42")),
            ("broken", "InternalServerError", None),
            ("idle", "IdleTimeout", None),
            ("cut", "Cancelled", None),
        ] {
            let mut stream = next(&streams);
            assert_eq!(stream.stream_id(), id);
            let (parts, error) = rest(&mut stream);
            let error = error.expect("an error");
            assert_eq!((parts, error.kind()), (numbers(1..=1), ErrorKind::StreamFailed), "{id}");
            assert_eq!(error.service_error_name(), Some(name));
            assert_eq!(error.user_error_code(), code);
            assert!(error.to_string().contains(name) && error.to_string().contains(id), "{error}");
        }
    }
}

#[test]
fn s16_an_end_without_payload_or_data_type_is_read_and_acknowledged() {
    for bare in [false, true] {
        for protocol in protocols() {
            let emulator =
                Emulator::builder().stream_end_without_payload(bare).start().expect("emulator");
            let client = client_over(&emulator, protocol);
            let streams = client.subscribe_streams("g").expect("subscribe");
            let mut publisher = Publisher::new(&emulator);
            publisher.whole("a", 2);
            publisher.whole("empty", 0);
            assert_eq!(complete(&mut next(&streams)), numbers(1..=2));
            assert_eq!(complete(&mut next(&streams)), [""; 0]);
            eventually("acknowledged", || {
                emulator.connections("hub").iter().all(|c| c.unacked == 0)
            });
        }
    }
}

#[test]
fn s16_a_null_and_an_end_with_payload_belong_to_the_stream() {
    let emulator = emulator();
    let client = client(&emulator);
    let streams = client.subscribe_streams("g").expect("subscribe");
    let id = client.connection_id().expect("connected");
    let mut number = 0;
    let mut raw = |data_type: &str, data: Value, stream: Value| {
        number += 1;
        let message = json!({"type": "message", "from": "group", "group": "g", "stream": stream,
            "dataType": data_type, "data": data, "sequenceId": number});
        assert_eq!(emulator.faults().send_raw_text(Some(&id), &message.to_string()), 1);
    };
    raw("json", Value::Null, json!({"streamId": "s", "streamSequenceId": 1}));
    raw("text", json!(""), json!({"streamId": "s", "streamSequenceId": 2}));
    let last = json!({"streamId": "s", "streamSequenceId": 3, "endOfStream": true});
    raw("text", json!("bye"), last);
    assert_eq!(complete(&mut next(&streams)), ["null", "", "bye"]);
}

#[test]
fn s17_a_quiet_stream_lives_and_only_a_limit_that_is_asked_for_ends_it() {
    let emulator = emulator();
    let client = client(&emulator);
    let patient = client.subscribe_streams("g").expect("subscribe");
    let strict = SubscribeStreams::new("g").silence_timeout(Some(ms(200)));
    let strict = client.subscribe_streams(strict).expect("subscribe");
    let mut publisher = Publisher::new(&emulator);
    publisher.start("a");
    publisher.part("a", 1);
    let (mut patient, mut strict) = (next(&patient), next(&strict));
    let began = Instant::now();
    let error = failed(&mut strict);
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(began.elapsed() > ms(100), "not at once");
    for _ in 0..4 {
        // Quiet for the service's idle time, but for keepalives, of which subscribers see nothing.
        emulator.advance_clock(Duration::from_secs(200));
        publisher.send(&json!({"type": "streamData", "streamId": "a"}));
        publisher.sync();
    }
    publisher.part("a", 2);
    publisher.end("a");
    assert_eq!(complete(&mut patient), numbers(1..=2));
}

#[test]
fn a_close_ends_all_with_its_cause() {
    let emulator = emulator();
    let client = client(&emulator);
    let streams = client.subscribe_streams("g").expect("subscribe");
    let mut publisher = Publisher::new(&emulator);
    publisher.start("a");
    publisher.part("a", 1);
    let mut a = next(&streams);
    client.close().expect("close");
    let (parts, error) = rest(&mut a);
    assert_eq!(parts, numbers(1..=1));
    assert!(error.expect("no orderly end").is_closed() && !a.is_complete());
    assert!(streams.recv().expect_err("over").is_closed());
    assert!(streams.iter().next().is_none());
    assert!(client.subscribe_streams("g").expect_err("closed").is_closed());
    let all = client.subscribe_streams(SubscribeStreams::all_groups());
    assert!(all.expect_err("closed").is_closed());
}

#[test]
fn what_ends_the_client_ends_its_streams() {
    let emulator = emulator();
    let client = Client::builder(emulator.url("hub")).reconnect(None).connect().expect("connect");
    let streams = client.subscribe_streams("g").expect("subscribe");
    let mut publisher = Publisher::new(&emulator);
    publisher.start("a");
    publisher.part("a", 1);
    let mut a = next(&streams);
    let id = client.connection_id().expect("connected");
    assert!(emulator.faults().close_connection(&id, 1008, "no more"));
    assert_eq!(failed(&mut a).kind(), ErrorKind::Disconnected);
    let error = within(WATCHDOG, move || streams.recv().expect_err("over"));
    assert_eq!(error.close_code(), Some(1008));
}
