//! Streams that a client reads, over real sockets. The publisher is a raw link. Tests whose names begin
//! with `s` show a defect of the JavaScript client to be absent.

use std::io::Read as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use webpubsub::emulator::Emulator;
use webpubsub::{
    Client, ClientAccess, Error, ErrorKind, Event, Overflow, Payload, Protocol, QueueConfig,
    Reconnect, Recovery, Role, StreamReader, StreamSubscription, Subscribe, SubscribeStreams,
};

use crate::service_rules::calls::{PLAIN, Socket, open, read, send};
use crate::support::{
    WATCHDOG, client, client_over, emulator, eventually, next_group_message, protocols,
    reliable_protocols, tells_sender, within,
};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A raw connection that publishes streams.
struct Publisher {
    socket: Socket,
    id: String,
}

impl Publisher {
    fn new(emulator: &Emulator) -> Self {
        let (socket, connected) = open(emulator, PLAIN);
        Self { socket, id: connected["connectionId"].as_str().expect("id").to_owned() }
    }

    /// Starts a stream of the group `g`.
    fn start(&mut self, id: &str) {
        self.start_in("g", id);
    }

    fn start_in(&mut self, group: &str, id: &str) {
        let stream = json!({"streamId": id});
        self.send(&json!({"type": "sendToGroup", "group": group, "stream": stream}));
    }

    fn part(&mut self, id: &str, number: u64) {
        self.data(id, number, "text", &json!(number.to_string()));
    }

    fn data(&mut self, id: &str, number: u64, data_type: &str, data: &Value) {
        self.send(&json!({"type": "streamData", "streamId": id, "streamSequenceId": number,
            "dataType": data_type, "data": data}));
    }

    /// A stream of `count` parts of the group `g`, from its start to its end.
    fn whole(&mut self, id: &str, count: u64) {
        self.start(id);
        (1..=count).for_each(|number| self.part(id, number));
        self.end(id);
    }

    fn end(&mut self, id: &str) {
        self.send(&json!({"type": "streamEnd", "streamId": id}));
    }

    fn abort(&mut self, id: &str, message: &str, code: &str) {
        let error = json!({"message": message, "userErrorCode": code});
        self.send(&json!({"type": "streamEnd", "streamId": id, "error": error}));
    }

    fn send(&mut self, message: &Value) {
        send(&mut self.socket, message);
    }

    /// The service has taken all that was sent.
    fn sync(&mut self) {
        self.send(&json!({"type": "ping"}));
        while read(&mut self.socket)["type"] != "pong" {}
    }
}

fn next(streams: &StreamSubscription) -> StreamReader {
    streams.recv_timeout(WATCHDOG).expect("open").expect("watchdog: no stream")
}

fn none(streams: &StreamSubscription) -> bool {
    matches!(streams.try_recv(), Ok(None))
}

/// The next part, which is text.
fn part(stream: &mut StreamReader) -> String {
    let part = stream.recv_timeout(WATCHDOG).expect("a part").expect("watchdog: no part");
    part.text().expect("text").to_owned()
}

/// All parts up to the orderly end, or to the error.
fn rest(stream: &mut StreamReader) -> (Vec<String>, Option<Error>) {
    let mut parts = Vec::new();
    loop {
        match stream.recv_timeout(WATCHDOG) {
            Ok(Some(part)) => parts.push(part.to_string()),
            Ok(None) => panic!("watchdog: neither a part nor the end after {parts:?}"),
            Err(_) if stream.is_complete() => {
                assert!(matches!(stream.recv(), Ok(None)), "the end in order");
                return (parts, None);
            }
            Err(error) => {
                let again = stream.recv().expect_err("the same again");
                assert_eq!(again.to_string(), error.to_string());
                return (parts, Some(error));
            }
        }
    }
}

fn complete(stream: &mut StreamReader) -> Vec<String> {
    let (parts, error) = rest(stream);
    assert!(error.is_none(), "{error:?}");
    parts
}

fn failed(stream: &mut StreamReader) -> Error {
    rest(stream).1.expect("an error")
}

fn numbers(range: std::ops::RangeInclusive<u64>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

fn member_of(emulator: &Emulator) -> Vec<String> {
    emulator.connections("hub").into_iter().flat_map(|connection| connection.groups).collect()
}

/// With quick attempts to come back.
fn quick(emulator: &Emulator, protocol: Protocol) -> Client {
    Client::builder(emulator.url("hub"))
        .protocol(protocol)
        .reconnect(Some(Reconnect::new().backoff(ms(1), ms(20))))
        .recovery(Recovery::new().attempt_interval(ms(10)))
        .connect()
        .expect("connect")
}

fn small(overflow: Overflow) -> QueueConfig {
    QueueConfig::new().max_messages(2).max_messages_during_calls(2).overflow(overflow)
}

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
        let mut socket = crate::service_rules::calls::dial(&url, PLAIN);
        assert_eq!(read(&mut socket)["event"], "connected");
        let mut publisher = Publisher { socket, id: String::new() };
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
            assert_eq!(complete(&mut next(&streams)), numbers(1..=0));
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
fn s13_a_stream_that_is_not_read_is_bounded_and_the_others_and_the_acks_go_on() {
    for protocol in reliable_protocols(true) {
        let emulator = emulator();
        let client = client_over(&emulator, protocol);
        let spec = SubscribeStreams::new("g").queue(small(Overflow::Stop));
        let streams = client.subscribe_streams(spec).expect("subscribe");
        let mut publisher = Publisher::new(&emulator);
        publisher.start("slow");
        publisher.start("fast");
        publisher.part("slow", 1);
        publisher.part("fast", 1);
        let (mut slow, mut fast) = (next(&streams), next(&streams));
        assert_eq!(part(&mut fast), "1");
        // More than the service keeps without an ack.
        for n in 2..=2500 {
            publisher.part("slow", n);
            if n % 500 == 0 {
                publisher.sync();
            }
        }
        for n in 2..=50 {
            publisher.part("fast", n);
            assert_eq!(part(&mut fast), n.to_string());
        }
        eventually("acknowledged", || emulator.connections("hub").iter().all(|c| c.unacked == 0));
        assert_eq!(emulator.stats().overflows, 0);
        let (parts, error) = rest(&mut slow);
        assert_eq!(parts, numbers(1..=2));
        assert_eq!(error.expect("full").kind(), ErrorKind::QueueFull);
        publisher.end("slow");
        publisher.end("fast");
        assert_eq!(complete(&mut fast), numbers(1..=0));
        assert!(none(&streams));
        assert!(client.state().is_connected());
    }
}

#[test]
fn a_queue_that_waits_loses_nothing_and_holds_up_what_comes_behind() {
    let emulator = emulator();
    let client = client(&emulator);
    let spec = SubscribeStreams::new("g").queue(small(Overflow::Wait));
    let streams = client.subscribe_streams(spec).expect("subscribe");
    let other = client.subscribe("other").expect("subscribe");
    let mut publisher = Publisher::new(&emulator);
    publisher.start("a");
    (1..=10).for_each(|n| publisher.part("a", n));
    publisher.end("a");
    publisher.sync();
    client.publish("other", "behind").expect("acks are settled all the same");
    let mut a = next(&streams);
    assert!(matches!(other.recv_timeout(ms(100)), Ok(None)), "its place is behind the parts");
    assert_eq!(complete(&mut a), numbers(1..=10));
    assert!(matches!(other.recv_timeout(WATCHDOG), Ok(Some(Event::GroupMessage(_)))));
}

#[test]
fn s13_a_dropped_reader_throws_the_rest_away_and_holds_up_nothing() {
    let emulator = emulator();
    let client = client(&emulator);
    let spec = SubscribeStreams::new("g").queue(small(Overflow::Wait));
    let streams = client.subscribe_streams(spec).expect("subscribe");
    let mut publisher = Publisher::new(&emulator);
    publisher.start("a");
    (1..=10).for_each(|n| publisher.part("a", n));
    publisher.sync();
    drop(next(&streams));
    (11..=3000).for_each(|n| publisher.part("a", n));
    publisher.end("a");
    publisher.whole("b", 2);
    assert_eq!(complete(&mut next(&streams)), numbers(1..=2));
    assert!(none(&streams));
    eventually("acknowledged", || emulator.connections("hub").iter().all(|c| c.unacked == 0));
    publisher.whole("a", 1);
    assert_eq!(complete(&mut next(&streams)), numbers(1..=1));
}

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
        drop(streams);
        assert!(matches!(receiver.recv_timeout(WATCHDOG), Err(e) if e.is_disconnected()));
        assert_eq!(failed(&mut a).kind(), ErrorKind::Closed);
        publisher.end("a");
        publisher.sync();
    }
    assert_eq!(member_of(&emulator), ["g"]);
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
fn s18_ignored_streams_whose_end_never_comes_do_not_take_the_room_of_others() {
    let emulator = emulator();
    let client = client(&emulator);
    let mut publisher = Publisher::new(&emulator);
    let ids: Vec<_> = (0..20).map(|n| format!("old-{n}")).collect();
    for id in &ids {
        publisher.start(id);
        publisher.part(id, 1);
    }
    publisher.sync();
    let spec = SubscribeStreams::new("g").from_start().max_streams(2);
    let streams = client.subscribe_streams(spec).expect("subscribe");
    ids.iter().for_each(|id| publisher.part(id, 2));
    publisher.whole("new", 2);
    let mut stream = next(&streams);
    assert_eq!((stream.stream_id(), client.stats().dropped), ("new", 0));
    assert_eq!(complete(&mut stream), numbers(1..=2));
}

#[test]
fn more_streams_than_asked_for_are_thrown_away_and_counted() {
    let emulator = emulator();
    let client = client(&emulator);
    let spec = SubscribeStreams::new("g").max_streams(2);
    let streams = client.subscribe_streams(spec).expect("subscribe");
    let mut publisher = Publisher::new(&emulator);
    for id in ["a", "b", "c"] {
        publisher.start(id);
        publisher.part(id, 1);
    }
    let (mut a, _b) = (next(&streams), next(&streams));
    publisher.sync();
    eventually("counted", || client.stats().dropped == 1);
    publisher.end("c");
    publisher.end("a");
    assert_eq!(complete(&mut a), numbers(1..=1));
    publisher.whole("d", 1);
    let mut d = next(&streams);
    assert_eq!(complete(&mut d), numbers(1..=1));
    assert_eq!(d.stream_id(), "d");
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
            Some(Event::GroupMessage(message)) => assert_eq!(message.stream, None),
            other => panic!("{other:?}"),
        }
        assert!(client.events().try_iter().all(|event| matches!(event, Event::Connected(_))));
        drop(streams);
        drop(messages);
        eventually("left", || client.groups().is_empty());

        client.join_group("g").expect("join");
        publisher.whole("b", 1);
        let (first, last) = (next_group_message(&client), next_group_message(&client));
        let stream = first.stream.expect("its place in the stream");
        assert_eq!((&*stream.stream_id, stream.stream_sequence_id), ("b", 1));
        assert!(last.stream.expect("its place in the stream").end_of_stream);
    }
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
fn a_program_that_looks_only_when_woken_sees_streams_parts_and_ends() {
    let emulator = emulator();
    let (wake, wakes) = crossbeam_channel::bounded(1);
    let client = Client::builder(emulator.url("hub"))
        .on_wake(move || {
            let _ = wake.try_send(());
        })
        .connect()
        .expect("connect");
    let streams = client.subscribe_streams("g").expect("subscribe");
    let look_until = |what: &str, condition: &mut dyn FnMut() -> bool| {
        let end = Instant::now() + WATCHDOG;
        while !condition() {
            assert!(wakes.recv_deadline(end).is_ok(), "watchdog: no wake-up, never {what}");
        }
    };
    let mut publisher = Publisher::new(&emulator);
    for round in 0..20 {
        publisher.start("a");
        publisher.part("a", 1);
        let mut a = None;
        look_until("a stream", &mut || {
            a = a.take().or_else(|| streams.try_recv().expect("open"));
            a.is_some()
        });
        let mut a = a.expect("a stream");
        look_until("its part", &mut || a.try_recv().expect("open").is_some());
        publisher.part("a", 2);
        look_until("another part", &mut || a.try_recv().expect("open").is_some());
        match round % 2 {
            0 => publisher.end("a"),
            _ => publisher.abort("a", "", "E"),
        }
        look_until("the end", &mut || a.try_recv().is_err());
        assert_eq!(a.is_complete(), round % 2 == 0);
    }
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

#[test]
fn streams_are_read_by_threads_of_their_own() {
    let emulator = emulator();
    let client = client(&emulator);
    let streams = client.subscribe_streams("g").expect("subscribe");
    let parts = AtomicUsize::new(0);
    thread::scope(|s| {
        let parts = &parts;
        for _ in 0..4 {
            let streams = streams.receiver().clone();
            s.spawn(move || {
                for stream in streams {
                    parts.fetch_add(stream.into_iter().flatten().count(), Ordering::Relaxed);
                }
            });
        }
        let mut publisher = Publisher::new(&emulator);
        for n in 0..50 {
            publisher.whole(&n.to_string(), 10);
        }
        publisher.sync();
        eventually("all read", || parts.load(Ordering::Relaxed) == 500);
        streams.unsubscribe().expect("left");
    });
}

#[test]
fn other_queues_of_a_client_are_not_touched_by_a_full_stream() {
    let emulator = emulator();
    let client = client(&emulator);
    let spec = SubscribeStreams::new("g").queue(small(Overflow::DropNewest));
    let streams = client.subscribe_streams(spec).expect("subscribe");
    let room = client.subscribe(Subscribe::new("room")).expect("subscribe");
    let mut publisher = Publisher::new(&emulator);
    publisher.whole("a", 100);
    publisher.sync();
    client.publish("room", "through").expect("ack");
    assert!(matches!(room.recv_timeout(WATCHDOG), Ok(Some(Event::GroupMessage(_)))));
    assert_eq!(failed(&mut next(&streams)).kind(), ErrorKind::QueueFull, "no gap without a word");
    assert_eq!(client.stats().dropped, 0);
}
