//! The simple client: raw frames, both modes, ping, close codes.

use std::time::{Duration, Instant};

use webpubsub::crossbeam_channel::bounded;
use webpubsub::emulator::{Emulator, EventAnswer};
use webpubsub::{Bytes, ClientAccess, ErrorKind, Event, Payload, Reconnect, Role, SimpleClient};

use crate::support::{WATCHDOG, client, emulator, eventually, next_group_message};

fn next_payload(client: &SimpleClient) -> Payload {
    loop {
        match client.recv_timeout(WATCHDOG).expect("open").expect("watchdog: nothing came") {
            Event::ServerMessage(message) => return message.payload,
            Event::Connected(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
}

#[test]
fn frames_become_events_and_answers_come_back() {
    let emulator = Emulator::builder()
        .event_handler(|event| {
            assert_eq!(event.event, "message");
            EventAnswer::Message(event.payload.clone())
        })
        .start()
        .expect("emulator");
    let client = SimpleClient::connect(emulator.url("hub")).expect("connect");
    client.send("héllo").expect("send");
    assert_eq!(next_payload(&client), Payload::from("héllo"));
    client.send(vec![0u8, 255]).expect("send");
    assert_eq!(next_payload(&client), Payload::from(vec![0u8, 255]));
    // What looks like the subprotocol is data like any other.
    let text = r#"{"type":"joinGroup","group":"g1"}"#;
    client.send(text).expect("send");
    assert_eq!(next_payload(&client), Payload::from(text));
    assert!(client.recv_timeout(Duration::from_millis(10)).expect("open").is_none());
    assert!(client.try_recv().expect("open").is_none());
}

#[test]
fn with_a_fixed_group_frames_are_published() {
    let emulator = emulator();
    let member = client(&emulator);
    member.join_group("room 1/ü").expect("join");
    let simple = SimpleClient::builder(emulator.url("hub"))
        .publish_to("room 1/ü")
        .connect()
        .expect("connect");
    simple.send("hi").expect("send");
    simple.send(Bytes::from_static(b"\x01")).expect("send");
    assert_eq!(next_group_message(&member).payload, Payload::from("hi"));
    assert_eq!(next_group_message(&member).payload, Payload::from(&b"\x01"[..]));
}

#[test]
fn members_get_text_and_json_as_text_and_bytes_as_binary() {
    let emulator = emulator();
    let access = ClientAccess::new().group("g");
    let simple =
        SimpleClient::connect(emulator.url_for("hub", &access).expect("url")).expect("connect");
    let sender = client(&emulator);
    sender.publish("g", "t").expect("send");
    sender.publish("g", serde_json::json!({"a": 1})).expect("send");
    sender.publish("g", vec![7u8]).expect("send");
    assert_eq!(next_payload(&simple), Payload::from("t"));
    assert_eq!(next_payload(&simple), Payload::from(r#"{"a":1}"#));
    assert_eq!(next_payload(&simple), Payload::from(vec![7u8]));
}

#[test]
fn json_goes_as_text_and_protobuf_as_binary() {
    let emulator = emulator();
    let member = client(&emulator);
    member.join_group("g").expect("join");
    let simple = SimpleClient::builder(emulator.url("hub")).publish_to("g").connect();
    let simple = simple.expect("connect");
    simple.send(serde_json::json!({"a": 1})).expect("send");
    simple.send(Payload::Protobuf(Bytes::from_static(b"\x0a\x01t"))).expect("send");
    simple.try_send("tried").expect("room");
    assert_eq!(next_group_message(&member).payload, Payload::from(r#"{"a":1}"#));
    assert_eq!(next_group_message(&member).payload, Payload::from(&b"\x0a\x01t"[..]));
    assert_eq!(next_group_message(&member).payload, Payload::from("tried"));
}

/// The program acts only when `on_wake` has called it.
#[test]
fn who_tries_to_send_is_woken_when_there_is_a_connection_and_when_there_is_room() {
    let emulator = Emulator::builder().event_handler(|_| EventAnswer::Nothing).start();
    let emulator = emulator.expect("emulator");
    emulator.faults().refuse_next_upgrades(1, 503, None);
    let (wake, wakes) = bounded(1);
    let client = SimpleClient::builder(emulator.url("hub"))
        .socket_buffer_size(4096)
        .on_wake(move || {
            let _ = wake.try_send(());
        })
        .reconnect(Some(Reconnect::new()))
        .connect_in_background()
        .expect("started");
    let send_when_woken = |data: &str| {
        let end = Instant::now() + WATCHDOG;
        while let Err(refused) = client.try_send(data) {
            assert_eq!(refused.kind(), ErrorKind::WouldBlock);
            assert!(wakes.recv_deadline(end).is_ok(), "watchdog: no wake-up after {refused}");
        }
    };
    send_when_woken("connected");
    emulator.faults().freeze(true);
    let data = "x".repeat(100_000);
    let sent = (0..1000).take_while(|_| client.try_send(&*data).is_ok()).count();
    assert!(sent < 1000, "never full");
    while wakes.try_recv().is_ok() {}
    let begun = Instant::now();
    assert_eq!(client.try_send("x").expect_err("full").kind(), ErrorKind::WouldBlock);
    assert!(begun.elapsed() < Duration::from_secs(1), "it does not wait");
    emulator.faults().freeze(false);
    send_when_woken("room again");
    client.close().expect("all is taken");
    assert!(client.try_send("x").expect_err("closed").is_closed());
}

#[test]
fn a_ping_measures_the_round_trip() {
    let emulator = emulator();
    let client = SimpleClient::connect(emulator.url("hub")).expect("connect");
    assert_eq!(client.stats().last_round_trip, None);
    let round_trip = client.ping().expect("ping");
    assert_eq!(client.stats().last_round_trip, Some(round_trip));
    client.close().expect("close");
    assert!(client.ping().expect_err("closed").is_closed());
    assert!(client.send("x").expect_err("closed").is_closed());
}

#[test]
fn a_loss_tells_close_code_and_reason_and_ends_the_client() {
    let emulator = emulator();
    let client = SimpleClient::connect(emulator.url("hub")).expect("connect");
    client.send("nobody listens").expect("send");
    let events: Vec<Event> = client.events().iter().collect();
    let [Event::Connected(_), Event::Disconnected(lost), Event::Stopped(stopped)] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!(lost.cause.close_code(), Some(1011));
    assert!(!lost.reason.is_empty());
    assert_eq!(stopped.cause.kind(), ErrorKind::Disconnected);
    assert_eq!(client.recv().expect_err("ended").close_code(), Some(1011));
}

#[test]
fn without_the_role_the_fixed_group_mode_is_closed_with_1008() {
    let emulator = emulator();
    let access = ClientAccess::new().role(Role::send_to_group("other"));
    let url = emulator.url_for("hub", &access).expect("url");
    let client = SimpleClient::builder(url).publish_to("g").connect();
    let code = match client {
        Err(error) => error.close_code(),
        Ok(client) => {
            // The upgrade succeeds; the refusal is a Close frame, at once or with the first frame.
            let _ = client.send("x");
            client.events().iter().find_map(|e| match e {
                Event::Disconnected(lost) => lost.cause.close_code(),
                _ => None,
            })
        }
    };
    assert_eq!(code, Some(1008));
}

#[test]
fn a_simple_client_reconnects_if_asked() {
    let emulator = emulator();
    let client = SimpleClient::builder(emulator.url("hub"))
        .reconnect(Some(
            Reconnect::new().backoff(Duration::from_millis(1), Duration::from_millis(20)),
        ))
        .connect()
        .expect("connect");
    emulator.faults().drop_connections();
    let mut connected = 0;
    while connected < 2 {
        match client.recv_timeout(WATCHDOG).expect("open").expect("watchdog") {
            Event::Connected(c) => {
                assert_eq!(c.gap_possible, connected == 1);
                connected += 1;
            }
            Event::Disconnected(_) | Event::Reconnecting(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
    // A simple client is connected at the upgrade, perhaps a moment before the hub knows it.
    eventually("known to the hub", || emulator.send_to_all("hub", "back").expect("sent") > 0);
    assert_eq!(next_payload(&client), Payload::from("back"));
}
