//! Calls of the app server, over real sockets and every subprotocol.

use std::time::{Duration, Instant};

use serde_json::json;
use webpubsub::__codecs::{Frame, Upstream, decode_upstream};
use webpubsub::crossbeam_channel::{Receiver, bounded, select, unbounded};
use webpubsub::emulator::{Direction, EmulatedEvent, Emulator, EventAnswer, RecordedFrame};
use webpubsub::{
    Client, ClientBuilder, ErrorKind, Event, Invoke, Metadata, Payload, Protocol, Reconnect,
    Recovery, SendEvent,
};

use crate::support::{
    WATCHDOG, client, client_over, emulator, eventually, protocols, reliable_protocols, within,
};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// The app server of these tests.
fn app(event: &EmulatedEvent) -> EventAnswer {
    match event.event.as_str() {
        "echo" => EventAnswer::Message(event.payload.clone()),
        "tagged" => EventAnswer::MessageWithMetadata(event.payload.clone(), event.metadata.clone()),
        "nothing" => EventAnswer::Nothing,
        "named" => EventAnswer::Error { name: "OutOfEggs".into(), message: "try ham".into() },
        _ => EventAnswer::Failure,
    }
}

fn emulator_with_app() -> Emulator {
    Emulator::builder().event_handler(app).start().expect("emulator")
}

/// With a handler that reports the id of each invocation before it answers nothing.
fn emulator_with_ids() -> (Emulator, Receiver<String>) {
    let (ids, calls) = unbounded();
    let handler = move |event: &EmulatedEvent| {
        if let Some(id) = &event.invocation_id {
            let _ = ids.send(id.clone());
        }
        EventAnswer::Nothing
    };
    (Emulator::builder().event_handler(handler).start().expect("emulator"), calls)
}

/// Short retry times.
fn quick(emulator: &Emulator, protocol: Protocol) -> ClientBuilder {
    Client::builder(emulator.url("hub"))
        .protocol(protocol)
        .reconnect(Some(Reconnect::new().backoff(ms(10), ms(50))))
        .recovery(Recovery::new().attempt_interval(ms(20)))
}

/// The ids of the messages `invoke` (or `cancelInvocation`) that came to the emulator.
fn came(emulator: &Emulator, protocol: Protocol, cancels: bool) -> Vec<String> {
    let id_of = |recorded: RecordedFrame| {
        let frame = match recorded.binary {
            true => Frame::Binary(recorded.bytes.into()),
            false => Frame::Text(recorded.text.as_str().into()),
        };
        match decode_upstream(protocol, &frame).ok()? {
            Upstream::Invoke(invoke) if !cancels => Some(invoke.invocation_id.into_owned()),
            Upstream::CancelInvocation { invocation_id } if cancels => {
                Some(invocation_id.into_owned())
            }
            _ => None,
        }
    };
    let up = emulator.frames().into_iter().filter(|frame| frame.direction == Direction::Up);
    up.filter_map(id_of).collect()
}

#[test]
fn every_kind_of_answer_comes_back() {
    for protocol in protocols() {
        let emulator = emulator_with_app();
        let client = client_over(&emulator, protocol);
        let payloads =
            [Payload::from("hi"), "".into(), Payload::from_json(&[1, 2]).expect("JSON"), {
                Payload::from(&b"\x00\x01"[..])
            }];
        for payload in payloads {
            let reply = client.invoke("echo", payload.clone()).expect("answered");
            assert_eq!(reply.payload, Some(payload));
            assert!(reply.metadata.is_empty());
        }
        let reply = client.invoke("echo", json!({"sum": 3})).expect("answered");
        assert_eq!(reply.json::<serde_json::Value>().expect("JSON"), json!({"sum": 3}));
        assert_eq!(reply.text().expect_err("no text").kind(), ErrorKind::Payload);

        let reply = client.invoke("nothing", "x").expect("answered");
        assert_eq!(reply.payload, None);
        let error = reply.text().expect_err("no data");
        assert_eq!(error.kind(), ErrorKind::Payload);
        assert!(error.to_string().contains("no data"), "{error}");

        let tagged = Invoke::new("tagged", "x").metadata("k", "v");
        let reply = client.call(tagged).expect("answered");
        assert_eq!(reply.metadata, Metadata::from_iter([("k", "v")]));
        assert!(client.close().is_ok());
    }
}

#[test]
fn a_failure_has_the_name_that_the_app_server_gave() {
    for protocol in protocols() {
        let emulator = emulator_with_app();
        let client = client_over(&emulator, protocol);
        for (event, name, text) in [
            ("named", "OutOfEggs", "try ham"),
            ("other", "InternalServerError", "Internal server error"),
        ] {
            let error = client.invoke(event, "x").expect_err("a failure");
            assert_eq!(error.kind(), ErrorKind::Refused);
            assert_eq!(error.service_error_name(), Some(name));
            assert!(error.to_string().contains(text), "{error}");
            assert!(error.may_have_been_delivered() && !error.is_refused());
        }
        assert_eq!(client.stats().calls_refused, 2);
    }
}

#[test]
fn without_a_handler_it_fails() {
    for protocol in protocols() {
        let emulator = emulator();
        let error = client_over(&emulator, protocol).invoke("e", "x").expect_err("no handler");
        assert_eq!(error.service_error_name(), Some("InternalServerError"));
    }
}

#[test]
fn what_the_service_would_not_take_is_refused_here() {
    let emulator = emulator_with_app();
    let client = client(&emulator);
    let too_large = "x".repeat(1 << 20);
    for (invoke, says) in [
        (Invoke::new("", "x"), "an event name must be"),
        (Invoke::new("e", json!(null)), "must not be `null`"),
        (Invoke::new("e", "x").metadata("a b", "v"), "metadata key"),
        (Invoke::new("e", too_large), "at most 1048576"),
    ] {
        let error = client.call(invoke).expect_err("invalid");
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        assert!(error.to_string().contains(says), "{error}");
    }
    client.invoke("echo", "x").expect("nothing is lost");
    assert_eq!(emulator.stats().invocations, 1);
}

#[test]
fn many_are_under_way_at_once_and_each_gets_its_own_answer() {
    for protocol in protocols() {
        within(WATCHDOG, move || {
            let emulator = emulator_with_app();
            let client = client_over(&emulator, protocol);
            let invokes = || (0..500).map(|n| Invoke::new("echo", n.to_string()));
            let pending = client.start_all(invokes()).expect("started");
            for (n, call) in pending.iter().enumerate() {
                assert_eq!(call.wait().expect("answered").text().expect("text"), n.to_string());
            }
            assert_eq!(client.call_all(invokes()).expect("all answered"), 500);
            let one = client.try_start(Invoke::new("echo", "x")).expect("room");
            assert!(client.drain(WATCHDOG).is_ok());
            assert_eq!(one.wait().expect("answered").text().expect("text"), "x");
            let stats = client.stats();
            assert_eq!((stats.calls_acked, stats.calls_pending), (1001, 0));
            assert_eq!(stats.last_round_trip, None, "a handler's time is no round trip");
        });
    }
}

#[test]
fn a_deadline_ends_it_and_the_service_is_told() {
    for protocol in protocols() {
        let (emulator, ids) = emulator_with_ids();
        emulator.faults().hold_invocation_responses(true);
        let client = client_over(&emulator, protocol);
        let begun = Instant::now();
        let error =
            client.call(Invoke::new("e", "x").timeout(ms(100))).expect_err("nobody answers");
        assert!(error.is_timeout() && error.may_have_been_delivered(), "{error}");
        assert!(error.to_string().contains("no answer came"), "{error}");
        assert!(begun.elapsed() < ms(5_000));
        let id = ids.recv_timeout(WATCHDOG).expect("it was run");
        assert!(emulator.wait_until(WATCHDOG, |stats| stats.invocations_cancelled == 1));
        assert_eq!(came(&emulator, protocol, true), [id]);
        assert_eq!(client.stats().calls_timed_out, 1);
    }
}

/// Without a thread that waits the client's own thread keeps the deadline.
#[test]
fn select_sees_an_answer_and_a_deadline() {
    let emulator = emulator_with_app();
    let client = client(&emulator);
    let pending = client.start(Invoke::new("echo", "x")).expect("started");
    select! {
        recv(pending.receiver()) -> reply => {
            assert_eq!(reply.expect("a result").expect("answered").text().expect("text"), "x");
        }
        default(WATCHDOG) => panic!("watchdog"),
    }
    emulator.faults().hold_invocation_responses(true);
    let pending = client.start(Invoke::new("echo", "x").timeout(ms(50))).expect("started");
    let outcome = pending.receiver().recv_timeout(WATCHDOG).expect("an outcome");
    assert!(outcome.expect_err("late").is_timeout());
}

#[test]
fn a_cancelled_one_ends_and_so_does_a_dropped_one() {
    for protocol in protocols() {
        let (emulator, ids) = emulator_with_ids();
        emulator.faults().hold_invocation_responses(true);
        let client = client_over(&emulator, protocol);
        let [cancelled, dropped] = [0, 1].map(|n| {
            let pending = client.start(Invoke::new("e", n.to_string())).expect("started");
            (pending, ids.recv_timeout(WATCHDOG).expect("it was run"))
        });
        assert_eq!(cancelled.0.wait_timeout(ms(20)).expect("under way"), None);
        assert!(cancelled.0.cancel() && !cancelled.0.cancel());
        let error = cancelled.0.wait().expect_err("cancelled");
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert!(error.may_have_been_delivered());
        drop(dropped.0);
        assert_eq!(client.stats().calls_pending, 0);
        assert!(emulator.wait_until(WATCHDOG, |stats| stats.invocations_cancelled == 2));
        assert_eq!(came(&emulator, protocol, true), [cancelled.1, dropped.1]);
        // Their answers come now, and meet nobody.
        emulator.faults().hold_invocation_responses(false);
        client.invoke("e", "x").expect("answered");
    }
}

#[test]
fn one_that_has_ended_is_not_cancelled_by_its_drop() {
    let emulator = emulator_with_app();
    let client = client(&emulator);
    for _ in 0..100 {
        client.invoke("echo", "x").expect("answered");
    }
    client.send_event("echo", "x").expect("acked");
    assert_eq!(emulator.stats().invocations_cancelled, 0);
}

#[test]
fn one_that_waits_for_a_connection_is_never_sent_once_it_is_cancelled() {
    let (emulator, _ids) = emulator_with_ids();
    emulator.faults().refuse_next_upgrades(u32::MAX, 503, None);
    let reconnect = Reconnect::new().backoff(ms(10), ms(20));
    let client = Client::builder(emulator.url("hub"))
        .reconnect(Some(reconnect))
        .connect_in_background()
        .expect("a client");
    let pending = client.start(Invoke::new("e", "x")).expect("started");
    drop(client.start(Invoke::new("e", "y")).expect("started"));
    assert!(pending.cancel());
    let error = pending.wait().expect_err("cancelled");
    assert!(error.kind() == ErrorKind::Cancelled && !error.may_have_been_delivered());
    let waits = client.start(Invoke::new("e", "z")).expect("started");
    emulator.faults().refuse_next_upgrades(0, 503, None);
    waits.wait().expect("sent when there is a connection");
    assert_eq!(emulator.stats().invocations, 1);
    assert_eq!(emulator.stats().invocations_cancelled, 0);
}

#[test]
fn a_loss_that_is_recovered_ends_what_was_written_and_cancels_it_afterwards() {
    for protocol in reliable_protocols(true) {
        let (emulator, ids) = emulator_with_ids();
        let client = quick(&emulator, protocol).connect().expect("connected");
        emulator.faults().hold_invocation_responses(true);
        let pending = client.start(Invoke::new("e", "x")).expect("started");
        let id = ids.recv_timeout(WATCHDOG).expect("it was run");
        emulator.faults().drop_connections();
        let error = pending.wait().expect_err("lost");
        assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
        assert!(error.may_have_been_delivered());
        assert!(emulator.wait_until(WATCHDOG, |stats| stats.invocations_cancelled == 1));
        assert_eq!(came(&emulator, protocol, true), std::slice::from_ref(&id));
        emulator.faults().hold_invocation_responses(false);
        client.invoke("e", "y").expect("on the recovered connection");
        let stats = client.stats();
        assert_eq!((stats.recoveries, stats.reconnects, stats.calls_cut_off), (1, 0, 1));
        // Each was sent once.
        let sent = came(&emulator, protocol, false);
        assert_eq!(sent, [id, ids.recv_timeout(WATCHDOG).expect("it was run")]);
    }
}

#[test]
fn a_connection_that_is_lost_for_good_ends_what_was_written() {
    for protocol in protocols() {
        let (emulator, ids) = emulator_with_ids();
        let client = quick(&emulator, protocol).connect().expect("connected");
        emulator.faults().hold_invocation_responses(true);
        let pending = client.start(Invoke::new("e", "x")).expect("started");
        ids.recv_timeout(WATCHDOG).expect("it was run");
        emulator.faults().close_connections(1011, "gone");
        let error = pending.wait().expect_err("lost");
        assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
        emulator.faults().hold_invocation_responses(false);
        client.invoke("e", "y").expect("on a new connection");
        assert_eq!(emulator.stats().invocations, 2);
        assert_eq!(emulator.stats().invocations_cancelled, 0, "there is nobody to be told");
    }
}

#[test]
fn close_cuts_it_off_and_says_so() {
    let (emulator, ids) = emulator_with_ids();
    emulator.faults().hold_invocation_responses(true);
    let client = client(&emulator);
    let pending = client.start(Invoke::new("e", "x")).expect("started");
    ids.recv_timeout(WATCHDOG).expect("it was run");
    let error = client.close().expect_err("one is cut off");
    assert!(error.to_string().contains("cut off 1 call that may"), "{error}");
    let error = pending.wait().expect_err("cut off");
    assert!(error.is_closed() && error.may_have_been_delivered());
    assert!(!pending.cancel());
    assert!(client.invoke("e", "x").expect_err("closed").is_closed());
}

#[test]
fn late_repeated_and_foreign_answers_are_discarded() {
    let (emulator, ids) = emulator_with_ids();
    let client = client(&emulator);
    let answer = |id: &str, text: &str| {
        let answer = json!({"type": "invokeResponse", "invocationId": id, "success": true,
            "dataType": "text", "data": text});
        assert_eq!(emulator.faults().send_raw_text(None, &answer.to_string()), 1);
    };
    emulator.faults().lose_next_invocation_responses(2);
    let late = client.call(Invoke::new("e", "x").timeout(ms(50))).expect_err("lost");
    assert!(late.is_timeout());
    let first = ids.recv_timeout(WATCHDOG).expect("it was run");
    answer(&first, "late");
    let pending = client.start(Invoke::new("e", "y")).expect("started");
    let second = ids.recv_timeout(WATCHDOG).expect("it was run");
    assert_ne!(first, second);
    for (id, text) in [
        (&*first, "late again"),
        ("", "none"),
        ("x", "no number"),
        (&*format!("0{second}"), "another spelling"),
        ("18446744073709551616", "too large"),
        (&*second, "right"),
        (&*second, "twice"),
    ] {
        answer(id, text);
    }
    assert_eq!(pending.wait().expect("answered").text().expect("text"), "right");
    assert_eq!(client.invoke("e", "z").expect("answered").payload, None);
    client.ping().expect("alive");
}

#[test]
fn on_wake_is_called_for_an_answer() {
    let (emulator, ids) = emulator_with_ids();
    let (wake, wakes) = bounded(1);
    let client = Client::builder(emulator.url("hub"))
        .on_wake(move || {
            let _ = wake.try_send(());
        })
        .connect()
        .expect("connected");
    emulator.faults().hold_invocation_responses(true);
    let mut pending = vec![];
    for _ in 0..3 {
        pending.push(client.try_start(Invoke::new("e", "x")).expect("room"));
        ids.recv_timeout(WATCHDOG).expect("it was run");
    }
    emulator.faults().hold_invocation_responses(false);
    let end = Instant::now() + WATCHDOG;
    while !pending.is_empty() {
        pending.retain(|call| call.try_wait().expect("answered").is_none());
        if !pending.is_empty() {
            wakes.recv_deadline(end).expect("watchdog: no wake-up");
        }
    }
}

// --- what other clients get wrong --------------------------------------------------------------

/// There the call hangs, or an exception ends the process.
#[test]
fn s20_an_odd_answer_ends_the_call() {
    let (emulator, ids) = emulator_with_ids();
    let client = client(&emulator);
    for (rest, outcome) in [
        (r#""success":true,"dataType":"json","data":null"#, Ok("null")),
        (r#""success":true,"dataType":"cbor","data":"oA==""#, Err(ErrorKind::Payload)),
        (r#""success":true,"dataType":"text","data":5"#, Err(ErrorKind::Payload)),
        (r#""success":true,"dataType":"binary","data":"?""#, Err(ErrorKind::Payload)),
        (r#""dataType":"json","data":5"#, Err(ErrorKind::Refused)),
        (r#""success":false"#, Err(ErrorKind::Refused)),
    ] {
        emulator.faults().lose_next_invocation_responses(1);
        let pending = client.start(Invoke::new("e", "x")).expect("started");
        let id = ids.recv_timeout(WATCHDOG).expect("it was run");
        let frame = format!(r#"{{"type":"invokeResponse","invocationId":"{id}",{rest}}}"#);
        emulator.faults().send_raw_text(None, &frame);
        match (pending.wait(), outcome) {
            (Ok(reply), Ok(data)) => assert_eq!(
                reply.payload.as_ref().map(Payload::as_bytes),
                Some(data.as_bytes()),
                "{rest}"
            ),
            (Err(error), Err(kind)) => {
                assert_eq!(error.kind(), kind, "{rest}");
                assert!(error.may_have_been_delivered(), "{rest}");
            }
            (got, _) => panic!("{rest}: {got:?}"),
        }
    }
    client.ping().expect("alive");
}

/// There is no limit there unless the caller sets one.
#[test]
fn s20_a_call_without_a_limit_of_its_own_has_that_of_the_client() {
    let (emulator, _ids) = emulator_with_ids();
    emulator.faults().lose_next_invocation_responses(1);
    let builder = Client::builder(emulator.url("hub")).call_timeout(ms(100));
    let error = builder.connect().expect("connected").invoke("e", "x").expect_err("lost");
    assert!(error.is_timeout());
}

/// There the data is dropped, and the call succeeds without it.
#[test]
fn s21_an_answer_without_a_data_type_keeps_its_data() {
    let (emulator, ids) = emulator_with_ids();
    let client = client(&emulator);
    emulator.faults().lose_next_invocation_responses(1);
    let pending = client.start(Invoke::new("e", "x")).expect("started");
    let id = ids.recv_timeout(WATCHDOG).expect("it was run");
    let answer = json!({"type": "invokeResponse", "invocationId": id, "success": true,
        "data": {"a": 1}});
    emulator.faults().send_raw_text(None, &answer.to_string());
    let data: serde_json::Value = pending.wait().expect("answered").json().expect("JSON");
    assert_eq!(data, json!({"a": 1}));
}

/// There a call fails at once while there is no connection.
#[test]
fn s22_a_call_waits_for_the_connection() {
    for protocol in protocols() {
        let (emulator, _ids) = emulator_with_ids();
        let client = quick(&emulator, protocol).connect().expect("connected");
        let _ = client.events();
        emulator.faults().drop_connections();
        loop {
            let event = client.recv_timeout(WATCHDOG).expect("open").expect("watchdog");
            if matches!(event, Event::Recovering(_) | Event::Disconnected(_)) {
                break;
            }
        }
        client.invoke("e", "x").expect("sent when the connection is back");
        assert_eq!(emulator.stats().invocations, 1);
    }
}

/// There nothing is cancelled after a loss, and what has not been sent fails too.
#[test]
fn s22_a_loss_ends_only_what_was_written() {
    let (emulator, ids) = emulator_with_ids();
    let protocol = Protocol::ReliableJson;
    let client = quick(&emulator, protocol).max_in_flight(1).connect().expect("connected");
    emulator.faults().hold_invocation_responses(true);
    let written = client.start(Invoke::new("e", "x")).expect("started");
    ids.recv_timeout(WATCHDOG).expect("it was run");
    let waits = client.start(Invoke::new("e", "y")).expect("started");
    emulator.faults().drop_connections();
    assert_eq!(written.wait().expect_err("lost").kind(), ErrorKind::OutcomeUnknown);
    emulator.faults().hold_invocation_responses(false);
    waits.wait().expect("sent after the recovery");
    eventually("cancelled", || emulator.stats().invocations_cancelled == 1);
}

/// There a generated id may meet one that the program has chosen. Here the client chooses all of
/// them, and an ack id of the program's own does not make it use one twice.
#[test]
fn s23_ids_never_repeat() {
    for protocol in protocols() {
        let (emulator, _ids) = emulator_with_ids();
        let client = quick(&emulator, protocol).connect().expect("connected");
        for round in 0..3 {
            for n in 0..4 {
                client.invoke("e", "x").expect("answered");
                client.call(SendEvent::new("e", "x").ack_id(10 + n)).expect("acked");
            }
            emulator.faults().close_connections(1011, "again");
            eventually("a new connection", || client.stats().reconnects == round + 1);
        }
        let mut ids = came(&emulator, protocol, false);
        assert_eq!(ids.len(), 12);
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 12);
    }
}
