//! Calls: outcomes, the three ways to send, local checks, deadlines, what comes in.

use std::time::{Duration, Instant};

use webpubsub::emulator::EventAnswer;
use webpubsub::{
    Client, ClientAccess, ErrorKind, Event, JoinGroup, Payload, Publish, Reconnect, Role, SendEvent,
};

use crate::support::{
    WATCHDOG, client_over, emulator, eventually, next_event, next_group_message, protocols,
    protocols_and_forms, reliable_protocols, tells_sender, within,
};

#[test]
fn publish_and_receive_every_kind_of_payload() {
    for (protocol, form) in protocols_and_forms() {
        let emulator = form.start().expect("emulator");
        let client = client_over(&emulator, protocol);
        client.join_group("größe/日本 🚀").expect("join");
        let payloads = [
            Payload::from("text \u{0} é 🚀 \"quoted\"\n <&'+`\\>"),
            Payload::from(""),
            Payload::from_json(&serde_json::json!({"a": [1, null, 9007199254740993u64]}))
                .expect("json"),
            Payload::from(vec![0u8, 255, 1]),
            Payload::from(Vec::new()),
        ];
        for payload in payloads {
            client.publish("größe/日本 🚀", payload.clone()).expect("send");
            let message = next_group_message(&client);
            assert_eq!(message.payload, payload);
            assert_eq!(&*message.group, "größe/日本 🚀");
            assert_eq!(message.sequence_id.is_some(), protocol.is_reliable());
        }
        client.close().expect("close");
    }
}

#[test]
fn who_sent_it_is_told_and_no_echo_leaves_out_only_the_sender() {
    for (protocol, form) in protocols_and_forms() {
        let emulator = form.start().expect("emulator");
        let access =
            |user: &str| ClientAccess::new().user_id(user).role(Role::send()).group("room");
        let connect = |user: &str| {
            let url = emulator.url_for("hub", &access(user)).expect("url");
            Client::builder(url).protocol(protocol).connect().expect("connect")
        };
        let (anna, anna_too, ben) = (connect("änna"), connect("änna"), connect("ben"));
        anna.call(Publish::new("room", "1").no_echo()).expect("send");
        anna.call(Publish::new("room", "2").metadata("k", "v")).expect("send");
        for other in [&anna_too, &ben] {
            let message = next_group_message(other);
            assert_eq!(message.text().expect("text"), "1");
            let sender = tells_sender(protocol).then_some("änna");
            assert_eq!(message.from_user_id.as_deref(), sender);
            assert_eq!(next_group_message(other).metadata.get("k"), Some("v"));
        }
        assert_eq!(next_group_message(&anna).text().expect("text"), "2");
    }
}

#[test]
fn leaving_ends_the_messages() {
    for protocol in protocols() {
        let emulator = emulator();
        let client = client_over(&emulator, protocol);
        client.join_group("a").expect("join");
        client.join_group("b").expect("join");
        assert_eq!(client.groups().len(), 2);
        client.leave_group("a").expect("leave");
        client.publish("a", "lost").expect("send");
        client.publish("b", "found").expect("send");
        assert_eq!(next_group_message(&client).text().expect("text"), "found");
        assert_eq!(client.groups(), [std::sync::Arc::from("b")]);
    }
}

#[test]
fn events_reach_the_handler_and_its_three_answers_come_back() {
    for (protocol, form) in protocols_and_forms() {
        let emulator = form
            .event_handler(|event| match event.event.as_str() {
                "echo" => EventAnswer::Message(event.payload.clone()),
                "fail" => EventAnswer::Failure,
                _ => EventAnswer::Nothing,
            })
            .start()
            .expect("emulator");
        let client = client_over(&emulator, protocol);
        assert!(matches!(next_event(&client), Event::Connected(_)));
        client.send_event("quiet", "x").expect("event");
        client.send_event("echo", "again").expect("event");
        // The answer is queued before the ack is told.
        let Ok(Some(Event::ServerMessage(answer))) = client.try_recv() else { panic!("no answer") };
        assert_eq!(answer.text().expect("text"), "again");
        let error = client.send_event("fail", "x").expect_err("the handler fails");
        assert!(error.kind() == ErrorKind::Refused && error.may_have_been_delivered());
        assert!(!error.is_refused(), "the handler may have done part of its work");
        assert_eq!(error.service_error_name(), Some("InternalServerError"));
    }
}

#[test]
fn a_refusal_comes_at_once_with_the_services_words() {
    for (protocol, form) in protocols_and_forms() {
        let emulator = form.start().expect("emulator");
        let access = ClientAccess::new().role(Role::join_leave_group("mine"));
        let client = Client::builder(emulator.url_for("hub", &access).expect("url"))
            .protocol(protocol)
            .connect()
            .expect("connect");
        client.join_group("mine").expect("join");
        for error in [
            client.join_group("other").expect_err("no role"),
            client.publish("mine", "x").expect_err("no role"),
        ] {
            assert_eq!(error.kind(), ErrorKind::Refused);
            assert_eq!(error.service_error_name(), Some("Forbidden"));
            assert!(!error.may_have_been_delivered());
            assert!(error.to_string().contains("permission"), "{error}");
        }
        // Refused once, sent once.
        assert_eq!(emulator.stats().acks, 3);
    }
}

#[test]
fn what_would_break_the_connection_is_refused_locally() {
    for protocol in protocols() {
        let emulator = emulator();
        let client = client_over(&emulator, protocol);
        let big = "x".repeat(1 << 20);
        let long = "g".repeat(1025);
        for error in [
            client.join_group("").expect_err("blank"),
            client.join_group(" \t").expect_err("blank"),
            client.join_group(&long).expect_err("long"),
            client.publish("g", big.as_str()).expect_err("too large"),
            client.publish("g", serde_json::Value::Null).expect_err("null"),
            client.send_event("e", serde_json::Value::Null).expect_err("null"),
            client.send_event("1st", "x").expect_err("bad event name"),
            client.send_event("a b", "x").expect_err("bad event name"),
            client.call(Publish::new("g", "x").ttl_seconds(301)).expect_err("ttl"),
            client.call(Publish::new("g", "x").metadata("bad key", "v")).expect_err("metadata"),
            client.call(Publish::new("g", "x").metadata("k", "ü")).expect_err("metadata"),
            client.fire_and_forget(Publish::new("g", "x").ack_id(7)).expect_err("contradiction"),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
            assert!(!error.may_have_been_delivered());
        }
        assert_eq!(client.stats().messages_out, 0);
        client.join_group("still-alive").expect("the connection lives on");
    }
}

#[test]
fn started_calls_run_together_and_end_in_any_way_of_waiting() {
    for protocol in protocols() {
        let emulator = emulator();
        let client = client_over(&emulator, protocol);
        let pending: Vec<_> = (0..2000)
            .map(|i| client.start(Publish::new("g", format!("{i}"))).expect("start"))
            .collect();
        let ids: std::collections::HashSet<_> =
            pending.iter().map(|p| p.wait().expect("ack").ack_id).collect();
        assert_eq!(ids.len(), 2000);

        let one = client.start(Publish::new("g", "x")).expect("start");
        webpubsub::crossbeam_channel::select! {
            recv(one.receiver()) -> outcome => assert!(outcome.expect("told").is_ok()),
            default(WATCHDOG) => panic!("watchdog"),
        }

        emulator.faults().hold_acks(true);
        let held = client.start(Publish::new("g", "x")).expect("start");
        assert!(held.try_wait().expect("no failure").is_none());
        assert!(held.wait_timeout(Duration::from_millis(10)).expect("no failure").is_none());
        emulator.faults().hold_acks(false);
        assert!(held.wait_timeout(WATCHDOG).expect("acked").is_some());
        assert!(held.try_wait().expect("acked").is_some(), "the outcome stays");
    }
}

#[test]
fn an_ack_that_never_comes_ends_at_the_deadline_and_says_what_is_known() {
    for protocol in protocols() {
        let emulator = emulator();
        let client = client_over(&emulator, protocol);
        emulator.faults().hold_acks(true);
        let start = Instant::now();
        let limit = Duration::from_millis(100);
        let error = client.call(Publish::new("g", "x").timeout(limit)).expect_err("no ack");
        assert!(error.is_timeout() && error.may_have_been_delivered(), "{error}");
        assert!(start.elapsed() >= limit && start.elapsed() < limit * 50);
        assert_eq!(client.stats().calls_pending, 0, "nothing is left behind");
    }
}

#[test]
fn an_own_ack_id_is_run_once() {
    for protocol in protocols() {
        let emulator = emulator();
        let client = client_over(&emulator, protocol);
        client.join_group("g").expect("join");
        let first = client.call(Publish::new("g", "once").ack_id(1000)).expect("ack");
        assert!(!first.duplicate);
        let again = client.call(Publish::new("g", "once").ack_id(1000)).expect("ack");
        assert!(again.duplicate);
        assert!(client.publish("g", "next").expect("ack").ack_id > 1000);
        assert_eq!(next_group_message(&client).text().expect("text"), "once");
        assert_eq!(next_group_message(&client).text().expect("text"), "next");

        emulator.faults().hold_acks(true);
        let _held = client.start(Publish::new("g", "x").ack_id(5000)).expect("start");
        let error = client.call(Publish::new("g", "y").ack_id(5000)).expect_err("in use");
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    }
}

#[test]
fn fire_and_forget_arrives_without_an_ack() {
    for protocol in protocols() {
        let emulator = emulator();
        let (client, other) = (client_over(&emulator, protocol), client_over(&emulator, protocol));
        other.join_group("g").expect("join");
        drop(other.start(JoinGroup::new("h")).expect("join"));
        eventually("joined", || other.groups().len() == 2);
        let acks = emulator.stats().acks;
        client.fire_and_forget(Publish::new("g", "1")).expect("fire");
        client.fire_and_forget(Publish::new("h", "2")).expect("fire");
        client.fire_and_forget(SendEvent::new("e", "3")).expect("fire");
        assert_eq!(next_group_message(&other).text().expect("text"), "1");
        assert_eq!(next_group_message(&other).text().expect("text"), "2");
        assert_eq!(emulator.stats().acks, acks);
    }
}

#[test]
fn a_message_above_the_limit_ends_the_session_and_not_the_client() {
    for protocol in protocols() {
        let emulator = emulator();
        let client = Client::builder(emulator.url("hub"))
            .protocol(protocol)
            .max_message_bytes(64 * 1024)
            .reconnect(Some(
                Reconnect::new().backoff(Duration::from_millis(1), Duration::from_millis(10)),
            ))
            .connect()
            .expect("connect");
        assert!(matches!(next_event(&client), Event::Connected(_)));
        emulator.send_to_all("hub", "x".repeat(100_000)).expect("sent");
        let Event::Disconnected(lost) = next_event(&client) else { panic!("no loss") };
        assert!(lost.cause.to_string().contains("max_message_bytes"), "{:?}", lost.cause);
        assert!(matches!(next_event(&client), Event::Reconnecting(_)));
        let Event::Connected(again) = next_event(&client) else { panic!("no connection") };
        assert!(again.gap_possible);
        client.join_group("g").expect("alive");
    }
}

#[test]
fn a_connection_lost_while_a_call_waits_fails_it_with_unknown_outcome() {
    for protocol in reliable_protocols(false) {
        let emulator = emulator();
        let client = Client::builder(emulator.url("hub"))
            .protocol(protocol)
            .reconnect(None)
            .connect()
            .expect("connect");
        emulator.faults().hold_acks(true);
        let pending = client.start(Publish::new("g", "x")).expect("start");
        assert!(emulator.wait_until(WATCHDOG, |s| s.frames_in >= 1));
        emulator.faults().drop_connections();
        let error = pending.wait().expect_err("lost");
        assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
        assert!(error.may_have_been_delivered());
        assert!(std::error::Error::source(&error).is_some(), "the cause is kept");
        assert!(!client.publish("g", "x").expect_err("stopped").may_have_been_delivered());
    }
}

#[test]
fn calls_after_close_fail_and_two_threads_may_close_at_once() {
    for protocol in protocols() {
        let emulator = emulator();
        let client = client_over(&emulator, protocol);
        let events = client.events();
        within(WATCHDOG, {
            let client = client.clone();
            move || {
                std::thread::scope(|s| {
                    for _ in 0..2 {
                        s.spawn(|| client.close().expect("close"));
                    }
                });
            }
        });
        let errors = [
            client.join_group("g").expect_err("closed"),
            client.start(Publish::new("g", "x")).expect_err("closed"),
            client.fire_and_forget(Publish::new("g", "x")).expect_err("closed"),
        ];
        for error in errors {
            assert!(error.is_closed() && !error.may_have_been_delivered(), "{error:?}");
        }
        let all: Vec<Event> = events.iter().collect();
        assert!(matches!(all[..], [Event::Connected(_), Event::Stopped(_)]), "{all:?}");
        assert!(client.recv().expect_err("ended").is_closed());
        assert!(emulator.wait_until(WATCHDOG, |s| s.currently_open == 0));
        assert!(emulator.connections("hub").is_empty(), "Close 1000 ends the session");
    }
}

#[test]
fn close_flushes_what_was_accepted() {
    for protocol in protocols() {
        let emulator = emulator();
        let (client, other) = (client_over(&emulator, protocol), client_over(&emulator, protocol));
        other.join_group("g").expect("join");
        for i in 0..500 {
            client
                .fire_and_forget(Publish::new("g", format!("{i} {}", "x".repeat(2000))))
                .expect("fire");
        }
        client.close().expect("close");
        for i in 0..500 {
            let message = next_group_message(&other);
            assert!(message.text().expect("text").starts_with(&format!("{i} ")));
        }
    }
}

#[test]
fn the_app_servers_close_is_told_with_its_reason() {
    for (protocol, form) in protocols_and_forms() {
        let emulator = form.start().expect("emulator");
        let client = Client::builder(emulator.url("hub"))
            .protocol(protocol)
            .reconnect(None)
            .connect()
            .expect("connect");
        let id = client.connection_id().expect("connected");
        assert!(emulator.close_connection("hub", &id, Some("maintenance: 'é'")));
        let mut rest = client.events().into_iter().skip(1);
        let Some(Event::Disconnected(lost)) = rest.next() else { panic!("no loss") };
        assert_eq!(lost.cause.close_code(), Some(1000));
        assert!(lost.service_message.expect("text").contains("maintenance: 'é'"));
        assert!(matches!(rest.next(), Some(Event::Stopped(_))));
        assert!(rest.next().is_none());
        assert_eq!(client.join_group("g").expect_err("stopped").close_code(), Some(1000));
    }
}

#[test]
fn many_calls_at_once_go_in_order_or_not_at_all() {
    for protocol in protocols() {
        let emulator = emulator();
        let client = client_over(&emulator, protocol);
        let other = client_over(&emulator, protocol);
        other.join_group("g").expect("join");
        let numbers = |range: std::ops::Range<u32>| {
            range.map(|i| Publish::new("g", i.to_string())).collect::<Vec<_>>()
        };
        let pending = client.start_all(numbers(0..600)).expect("start");
        client.fire_and_forget_all(numbers(600..700)).expect("fire");
        for one in &pending {
            one.wait().expect("ack");
        }
        for i in 0..700u32 {
            assert_eq!(next_group_message(&other).text().expect("text"), i.to_string());
        }
        assert!(client.start_all([] as [Publish; 0]).expect("nothing").is_empty());
        client.fire_and_forget_all([] as [Publish; 0]).expect("nothing");

        let sent = client.stats().messages_out;
        let bad = || [Publish::new("g", "good"), Publish::new("", "bad")];
        assert_eq!(client.start_all(bad()).expect_err("bad").kind(), ErrorKind::InvalidRequest);
        assert_eq!(
            client.fire_and_forget_all(bad()).expect_err("bad").kind(),
            ErrorKind::InvalidRequest
        );
        assert_eq!(client.stats().messages_out, sent, "nothing of a bad batch is sent");
        client.close().expect("close");
        assert!(client.start_all(numbers(0..1)).expect_err("closed").is_closed());
        assert!(client.fire_and_forget_all(numbers(0..1)).expect_err("closed").is_closed());
    }
}

#[test]
fn a_batch_with_an_ack_id_twice_is_refused_as_a_whole() {
    let emulator = emulator();
    let client = crate::support::client(&emulator);
    let call = |id| Publish::new("g", "x").ack_id(id);
    // Also an id that is generated for another call of the batch.
    let next = client.publish("g", "x").expect("ack").ack_id + 1;
    let batches = [
        vec![Publish::new("g", "x"), call(next)],
        vec![call(900), call(901), call(900)],
        vec![call(905), call(904), call(905)],
    ];
    let executed = emulator.stats().publications;
    for batch in batches {
        let error = client.start_all(batch).expect_err("an id twice");
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        assert!(error.to_string().contains("twice"), "{error}");
        assert!(!error.may_have_been_delivered());
    }
    assert_eq!(client.stats().calls_pending, 0);
    client.publish("g", "behind").expect("ack");
    assert_eq!(emulator.stats().publications, executed + 1, "nothing of them was sent");
    let descending = client.start_all([call(999), call(998)]).expect("two ids");
    assert!(descending.iter().all(|one| one.wait().is_ok()));
}
