//! All kinds of clients in one group, and what each subprotocol does about a lost link.

use std::time::Duration;

use webpubsub::emulator::{Emulator, EventAnswer};
use webpubsub::{
    Client, ClientAccess, ClientBuilder, ErrorKind, Event, GroupMessage, KeepAlive, Payload,
    Protocol, Publish, RawJson, Reconnect, Recovery, Role, SimpleClient,
};

use crate::support::{
    WATCHDOG, client, client_over, emulator, emulator_with_handler, eventually, forms, next_event,
    next_group_message, protocols, protocols_and_forms, reliable_protocols, tells_sender,
};

/// Recovers and reconnects without long pauses.
fn quick(emulator: &Emulator, protocol: Protocol) -> ClientBuilder {
    let ms = Duration::from_millis;
    Client::builder(emulator.url("hub"))
        .protocol(protocol)
        .recovery(Recovery::new().give_up_after(Duration::from_secs(20)).attempt_interval(ms(10)))
        .reconnect(Some(Reconnect::new().backoff(ms(1), ms(20))))
}

/// One of every kind, and the odd ones.
fn payloads() -> Vec<Payload> {
    let any: &[u8] = b"\n\x1etype.googleapis.com/demo.Point\x12\x03\x08\x96\x01";
    vec![
        Payload::from("é 漢 🚀 \u{0} \"quoted\"\n <&'+`\\>"),
        Payload::from(""),
        Payload::from(r#"{"looks":"like JSON"}"#),
        RawJson::new(r#"{ "n" : 9007199254740993 }"#).expect("JSON").into(),
        Payload::from_json("a JSON string").expect("JSON"),
        Payload::from(vec![0u8, 255, 1]),
        Payload::from(Vec::new()),
        Payload::Protobuf(any.to_vec().into()),
        Payload::Protobuf(Vec::new().into()), // an empty `Any`
    ]
}

/// What a simple client gets: no envelope.
fn bare(payload: &Payload) -> Payload {
    match payload {
        Payload::Json(json) => Payload::from(json.as_str()),
        Payload::Protobuf(bytes) => Payload::Binary(bytes.clone()),
        other => other.clone(),
    }
}

fn next_bare(client: &SimpleClient) -> Payload {
    loop {
        match client.recv_timeout(WATCHDOG).expect("open").expect("watchdog: nothing came") {
            Event::ServerMessage(message) => return message.payload,
            Event::Connected(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
}

/// A member of the group `g` of each kind.
struct Members {
    pubsub: Vec<(Protocol, Client)>,
    simple: SimpleClient,
}

impl Members {
    fn new(emulator: &Emulator) -> Self {
        let url = |user: &str| {
            let access = ClientAccess::new().user_id(user).role(Role::send()).group("g");
            emulator.url_for("hub", &access).expect("url")
        };
        let connect = |protocol: Protocol| {
            let builder = Client::builder(url(protocol.name())).protocol(protocol);
            (protocol, builder.connect().expect("connect"))
        };
        let pubsub = protocols().map(connect).collect();
        let simple =
            SimpleClient::builder(url("simple")).publish_to("g").connect().expect("connect");
        // The upgrade is all that a simple client can see, perhaps a moment before the hub.
        eventually("all members", || emulator.connections("hub").len() == Protocol::ALL.len() + 1);
        Self { pubsub, simple }
    }

    /// Every member has this message next.
    fn all_get(&self, sent: &Payload, sender: &str) {
        for (protocol, member) in &self.pubsub {
            println!("{sent:?} from {sender} to {}", protocol.name());
            let GroupMessage { group, from_user_id, payload, sequence_id, .. } =
                next_group_message(member);
            assert_eq!(&payload, sent);
            assert_eq!(&*group, "g");
            assert_eq!(from_user_id.as_deref(), tells_sender(*protocol).then_some(sender));
            assert_eq!(sequence_id.is_some(), protocol.is_reliable());
        }
        println!("{sent:?} from {sender} to the simple client");
        assert_eq!(next_bare(&self.simple), bare(sent));
    }
}

#[test]
fn every_kind_of_client_understands_every_other_in_one_group() {
    for form in forms() {
        let emulator = form.start().expect("emulator");
        let members = Members::new(&emulator);
        for (protocol, sender) in &members.pubsub {
            for payload in payloads() {
                sender.publish("g", payload.clone()).expect("send");
                members.all_get(&payload, protocol.name());
            }
        }
        members.simple.send("raw").expect("send");
        members.all_get(&Payload::from("raw"), "simple");
        members.simple.send(vec![0u8, 255]).expect("send");
        members.all_get(&Payload::from(vec![0u8, 255]), "simple");
    }
}

#[test]
fn metadata_goes_from_every_subprotocol_to_every_other() {
    for form in forms() {
        let emulator = form.start().expect("emulator");
        let members = Members::new(&emulator);
        for (_, sender) in &members.pubsub {
            sender
                .call(Publish::new("g", "x").metadata("k", "<v'>").metadata("empty", ""))
                .expect("send");
            for (_, member) in &members.pubsub {
                let metadata = next_group_message(member).metadata;
                assert_eq!((metadata.get("K"), metadata.get("empty")), (Some("<v'>"), Some("")));
            }
        }
    }
}

#[test]
fn events_and_their_answers_keep_the_kind_of_their_payload() {
    for (protocol, form) in protocols_and_forms() {
        let emulator = form
            .event_handler(|event| EventAnswer::Message(event.payload.clone()))
            .start()
            .expect("emulator");
        let client = client_over(&emulator, protocol);
        assert!(matches!(next_event(&client), Event::Connected(_)));
        for payload in payloads() {
            client.send_event("echo", payload.clone()).expect("event");
            let Event::ServerMessage(answer) = next_event(&client) else { panic!("no answer") };
            assert_eq!(answer.payload, payload);
        }
    }
}

#[test]
fn a_lost_link_loses_and_repeats_nothing_if_the_subprotocol_is_reliable() {
    const MESSAGES: usize = 200;
    for protocol in reliable_protocols(true) {
        let emulator = emulator();
        emulator.faults().duplicate_replay(true);
        let member = quick(&emulator, protocol).connect().expect("connect");
        let sender = quick(&emulator, protocol).connect().expect("connect");
        let id = member.connection_id().expect("connected");
        member.join_group("g").expect("join");
        for i in 0..MESSAGES {
            if i % 50 == 25 {
                emulator.faults().drop_connections();
            }
            // A call just takes longer; it is executed once.
            sender.publish("g", format!("{i}")).expect("send");
        }
        let (mut got, mut recovered) = (Vec::new(), 0);
        while got.len() < MESSAGES {
            match next_event(&member) {
                Event::GroupMessage(m) => got.push(m.text().expect("text").to_owned()),
                Event::Recovered(_) => recovered += 1,
                Event::Connected(c) => assert!(!c.gap_possible),
                Event::Recovering(_) => {}
                other => panic!("unexpected {other:?}"),
            }
        }
        let wanted: Vec<_> = (0..MESSAGES).map(|i| i.to_string()).collect();
        assert_eq!(got, wanted);
        assert!(recovered >= 1 && member.stats().duplicates > 0, "{:?}", member.stats());
        assert_eq!(member.connection_id(), Some(id), "the same session");
        assert_eq!(emulator.stats().max_executions, 1);
        member.publish("g", "and on").expect("alive");
        loop {
            match next_event(&member) {
                Event::GroupMessage(m) => break assert_eq!(m.text().expect("text"), "and on"),
                Event::Recovering(_) | Event::Recovered(_) => {}
                other => panic!("unexpected {other:?}"),
            }
        }
    }
}

#[test]
fn a_call_whose_ack_is_lost_with_the_link_is_executed_once_if_the_subprotocol_is_reliable() {
    for protocol in reliable_protocols(true) {
        let emulator = emulator();
        let client = quick(&emulator, protocol).connect().expect("connect");
        client.join_group("g").expect("join");
        emulator.faults().drop_before_next_ack(1);
        let ack = client.publish("g", "once").expect("acked at last");
        assert!(ack.duplicate, "the service knew it");
        client.publish("g", "next").expect("ack");
        assert_eq!(next_group_message(&client).text().expect("text"), "once");
        assert_eq!(next_group_message(&client).text().expect("text"), "next");
    }
}

#[test]
fn what_arrived_is_acknowledged_so_the_services_buffer_never_fills() {
    const BATCH: usize = 500;
    for protocol in reliable_protocols(true) {
        let emulator = emulator();
        let (member, sender) = (client_over(&emulator, protocol), client(&emulator));
        member.join_group("g").expect("join");
        for _ in 0..5 {
            for i in 0..BATCH {
                sender.fire_and_forget(Publish::new("g", format!("{i}"))).expect("fire");
            }
            for i in 0..BATCH {
                assert_eq!(next_group_message(&member).text().expect("text"), i.to_string());
            }
            let unacked = || emulator.connections("hub").iter().map(|c| c.unacked).sum::<usize>();
            assert!(emulator.wait_until(WATCHDOG, |_| unacked() <= 200), "{}", unacked());
        }
        assert_eq!(member.stats().recoveries + member.stats().reconnects, 0);
        assert!(emulator.stats().sequence_acks >= 5);
    }
}

#[test]
fn a_lost_link_ends_the_session_if_the_subprotocol_is_plain_and_groups_come_back() {
    for protocol in reliable_protocols(false) {
        let emulator = emulator_with_handler();
        let client = quick(&emulator, protocol).connect().expect("connect");
        client.join_group("g").expect("join");
        assert!(matches!(next_event(&client), Event::Connected(_)));
        emulator.faults().drop_before_next_ack(1);
        let error = client.send_event("e", "x").expect_err("its ack is lost");
        assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
        assert!(error.may_have_been_delivered());
        let Event::Disconnected(lost) = next_event(&client) else { panic!("no loss") };
        assert_eq!(lost.maybe_lost, 1);
        assert!(matches!(next_event(&client), Event::Reconnecting(_)));
        let Event::Connected(again) = next_event(&client) else { panic!("no connection") };
        assert!(again.gap_possible);
        client.publish("g", "back").expect("send");
        assert_eq!(next_group_message(&client).text().expect("text"), "back");
    }
}

#[test]
fn a_quiet_connection_is_kept_by_pings() {
    for protocol in protocols() {
        let emulator = emulator_with_handler();
        let client = Client::builder(emulator.url("hub"))
            .protocol(protocol)
            .keep_alive(Some(
                KeepAlive::new().ping_after(Duration::from_millis(20)).dead_after(WATCHDOG),
            ))
            .connect()
            .expect("connect");
        eventually("answered", || client.stats().last_round_trip.is_some());
        assert!(emulator.stats().pings > 0);
        emulator.faults().silent_pings(true);
        client.send_event("e", "x").expect("alive");
    }
}

#[test]
fn malformed_and_unknown_frames_are_skipped() {
    let json = [
        "not json",
        "{}",
        "[]",
        r#"{"type":"teleport"}"#,
        r#"{"type":"ack"}"#,
        r#"{"type":"message","from":"hub","dataType":"text","data":"x"}"#,
        r#"{"type":"message","from":"group","dataType":"text","data":"x"}"#,
        r#"{"type":"system","event":"throttled"}"#,
    ];
    let protobuf = [
        &b"\xff"[..],
        b"",
        b"\x2a\x00",                               // a new kind
        b"\x0a\x02\x0a\x00",                       // an ack whose id is a string
        b"\x12\x0a\x0a\x03hub\x1a\x03\x0a\x01x",   // from an unknown side
        b"\x12\x0c\x0a\x05group\x1a\x03\x0a\x01x", // without a group
        b"\x1a\x02\x1a\x00",                       // a new system event
        b"\x12\x0a\x0a\x06server\x1a\x00",         // a new kind of payload
    ];
    for protocol in protocols() {
        let emulator = emulator();
        let client = client_over(&emulator, protocol);
        client.join_group("g").expect("join");
        for text in json {
            emulator.faults().send_raw_text(None, text);
        }
        for bytes in protobuf {
            emulator.faults().send_raw_binary(None, bytes);
        }
        client.publish("g", "good").expect("the connection lives on");
        assert_eq!(next_group_message(&client).text().expect("text"), "good");
        assert_eq!(client.stats().malformed, (json.len() + protobuf.len()) as u64);
    }
}

#[cfg(feature = "protobuf")]
mod typed {
    use webpubsub::prost::{Message, Name};

    use super::*;

    #[derive(Clone, PartialEq, Message)]
    #[prost(prost_path = "webpubsub::prost")]
    struct Telemetry {
        #[prost(string, tag = "1")]
        sensor: String,
        #[prost(uint32, repeated, tag = "2")]
        samples: Vec<u32>,
    }

    impl Name for Telemetry {
        const PACKAGE: &'static str = "demo";
        const NAME: &'static str = "Telemetry";
    }

    #[test]
    fn packed_messages_go_from_every_kind_of_client_to_every_other() {
        let emulator = emulator();
        let members = Members::new(&emulator);
        let message = Telemetry { sensor: "attic".into(), samples: vec![1, 300, 0] };
        for (_, sender) in &members.pubsub {
            sender.publish("g", Payload::pack(&message)).expect("send");
            for (_, member) in &members.pubsub {
                let got = next_group_message(member);
                assert_eq!(got.payload.message_name().as_deref(), Some("demo.Telemetry"));
                assert_eq!(got.unpack::<Telemetry>().expect("unpack"), message);
            }
            let bytes = next_bare(&members.simple);
            let any = Payload::Protobuf(bytes.as_bytes().to_vec().into());
            assert_eq!(any.unpack::<Telemetry>().expect("unpack"), message);
        }
    }

    #[test]
    fn bytes_that_are_no_any_are_refused_before_they_end_the_connection() {
        for protocol in [Protocol::Protobuf, Protocol::ReliableProtobuf] {
            let emulator = emulator();
            let client = client_over(&emulator, protocol);
            let nonsense = Payload::Protobuf(vec![255].into());
            for error in [
                client.publish("g", nonsense.clone()).expect_err("no Any"),
                client.send_event("e", nonsense.clone()).expect_err("no Any"),
                client.fire_and_forget(Publish::new("g", nonsense)).expect_err("no Any"),
            ] {
                assert_eq!(error.kind(), ErrorKind::InvalidRequest);
                assert!(error.to_string().contains("google.protobuf.Any"), "{error}");
            }
            assert_eq!(client.stats().calls_pending, 0);
            client.join_group("g").expect("the connection lives on");
        }
    }
}
