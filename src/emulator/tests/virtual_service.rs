//! The service in one thread and in virtual time: raw frames, a running event handler, seeds.

use std::time::Duration;

use serde_json::Value;

use crate::emulator::delivery::Delivery;
use crate::emulator::events::EventAnswer;
use crate::emulator::outbox::{Fate, Out};
use crate::emulator::virtual_service::{Fault, Transport, VirtualService};
use crate::protocol::{Frame, Protocol};

const T0: Duration = Duration::ZERO;
const RELIABLE: Option<Protocol> = Some(Protocol::ReliableJson);

/// A client of a service with an id and a token.
fn connected(service: &mut VirtualService) -> (Transport, String, String) {
    let transport = service.connect(RELIABLE, None);
    let hello = sent(&transport).remove(0);
    let text = |name: &str| hello[name].as_str().unwrap().to_owned();
    (transport, text("connectionId"), text("reconnectionToken"))
}

fn sent(transport: &Transport) -> Vec<Value> {
    let json = |out| match out {
        Out::Frame(frame) => serde_json::from_slice(frame.as_bytes()).unwrap(),
        other => panic!("{other:?}"),
    };
    transport.take(usize::MAX).into_iter().map(json).collect()
}

/// `ackId` and outcome of acks, kinds of other messages.
fn short(transport: &Transport) -> Vec<String> {
    let shorten = |message: Value| match (&message["ackId"], &message["error"]["name"]) {
        (Value::Null, _) => message["type"].as_str().unwrap().to_owned(),
        (id, Value::String(error)) => format!("{id} {error}"),
        (id, _) => format!("{id} ok"),
    };
    sent(transport).into_iter().map(shorten).collect()
}

fn text(text: impl Into<String>) -> Frame {
    Frame::Text(text.into().into())
}

fn event(ack_id: u64) -> Frame {
    text(format!(r#"{{"type":"event","event":"e{ack_id}","ackId":{ack_id},"data":1}}"#))
}

fn join(group: &str, ack_id: u64) -> Frame {
    text(format!(r#"{{"type":"joinGroup","group":"{group}","ackId":{ack_id}}}"#))
}

fn ping() -> Frame {
    text(r#"{"type":"ping"}"#)
}

#[test]
fn everything_of_a_session_waits_behind_its_running_handler() {
    let mut service = VirtualService::new(1, |_| ());
    let (one, id, _) = connected(&mut service);
    let (other, ..) = connected(&mut service);
    assert_eq!(service.receive(T0, &one, event(1)).unwrap().event, "e1");
    for frame in [ping(), join("a", 2), event(1), event(3), ping()] {
        assert!(service.receive(T0, &one, frame).is_none());
    }
    service.receive(T0, &other, ping());
    assert_eq!((short(&one).len(), short(&other)), (0, vec!["pong".to_owned()]));

    let next = service.answer(T0, &id, EventAnswer::Nothing).unwrap();
    assert_eq!(next.event, "e3");
    assert_eq!(short(&one), ["1 ok", "pong", "2 ok", "1 Duplicate"]);
    assert!(service.answer(T0, &id, EventAnswer::Failure).is_none());
    assert_eq!(short(&one), ["3 InternalServerError", "pong"]);
    assert_eq!((service.executions(&id, 1), service.executions(&id, 3)), (1, 0));
}

#[test]
fn the_answer_goes_to_the_current_transport_and_a_repeat_runs_if_the_first_failed() {
    for (answer, acks) in [
        (EventAnswer::Message("m".into()), &["message", "1 ok", "1 Duplicate", "pong"][..]),
        (EventAnswer::Failure, &["1 InternalServerError"]),
    ] {
        let fails = answer == EventAnswer::Failure;
        let mut service = VirtualService::new(1, |_| ());
        let (old, id, token) = connected(&mut service);
        assert!(service.receive(T0, &old, event(1)).is_some());
        service.receive(T0, &old, join("unread", 2));
        service.reset(T0, &old);
        let new = service.recover(T0, &id, &token);
        service.receive(T0, &new, event(1));
        service.receive(T0, &new, ping());
        assert!(short(&new).is_empty() && service.is_handling(&id));

        let next = service.answer(T0, &id, answer);
        assert_eq!(next.is_some(), fails);
        assert_eq!(short(&new), acks);
        assert!(old.take(usize::MAX).is_empty());
        if fails {
            assert!(service.answer(T0, &id, EventAnswer::Nothing).is_none());
            assert_eq!(short(&new), ["1 ok", "pong"]);
        }
        assert_eq!(service.executions(&id, 1), 1);
        assert!(service.groups_of(&id).is_empty(), "what nobody read went with the old transport");
    }
}

#[test]
fn a_session_without_transport_keeps_its_answer_and_one_that_ended_ignores_it() {
    let mut service = VirtualService::new(1, |_| ());
    let (old, id, token) = connected(&mut service);
    service.receive(T0, &old, event(1));
    service.reset(T0, &old);
    assert!(service.answer(T0, &id, EventAnswer::Message("m".into())).is_none());
    let new = service.recover(T0, &id, &token);
    service.receive(T0, &new, event(1));
    assert_eq!(short(&new), ["message", "1 Duplicate"]);

    service.receive(T0, &new, event(2));
    service.reset(T0, &new);
    let late = Duration::from_secs(30);
    assert!(service.answer(late, &id, EventAnswer::Nothing).is_none());
    assert!(!service.lives(late, &id));
    assert_eq!(service.executions(&id, 2), 0);
}

#[test]
fn a_close_and_an_end_wait_behind_the_handler_too() {
    for (code, lives) in [(Some(1000), false), (Some(1001), true), (None, false)] {
        let mut service = VirtualService::new(1, |_| ());
        let (transport, id, _) = connected(&mut service);
        service.receive(T0, &transport, event(1));
        service.receive(T0, &transport, join("g", 2));
        service.close(T0, &transport, code);
        service.end(T0, &transport);
        assert!(service.lives(Duration::from_secs(60), &id), "nobody has read the Close");
        let later = Duration::from_secs(60);
        service.answer(later, &id, EventAnswer::Nothing);
        assert_eq!(short(&transport), ["1 ok", "2 ok"]);
        assert_eq!(service.lives(later, &id), lives, "{code:?}");
        assert!(!service.lives(later + Duration::from_secs(30), &id));
    }
}

#[test]
fn what_waits_behind_a_handler_is_bounded() {
    let big = || text(format!(r#"{{"type":"ping","x":"{}"}}"#, "x".repeat(100_000)));
    for (frame, reads) in [(ping as fn() -> Frame, 400), (big, 11)] {
        let mut service = VirtualService::new(1, |_| ());
        let (transport, id, token) = connected(&mut service);
        service.receive(T0, &transport, event(1));
        let mut count = 0;
        while transport.is_read() {
            service.receive(T0, &transport, frame());
            count += 1;
        }
        assert_eq!(count, reads);
        service.take_touched();
        service.answer(T0, &id, EventAnswer::Nothing);
        assert!(transport.is_read());
        assert_eq!((short(&transport).len(), service.take_touched()), (1 + reads, vec![1]));

        // An end of the session, which only the reader can see answered, or a new transport.
        service.receive(T0, &transport, event(2));
        while transport.is_read() {
            service.receive(T0, &transport, frame());
        }
        let new = service.recover(T0, &id, &token);
        assert!(transport.is_read() && new.is_read());
        service.answer(T0, &id, EventAnswer::Nothing);
        assert_eq!(short(&new), ["2 ok"]);
        service.receive(T0, &new, event(3));
        while new.is_read() {
            service.receive(T0, &new, frame());
        }
        assert!(service.close_connection(&id) && new.is_read());
    }
}

#[test]
fn raw_frames_lead_to_the_closes_of_the_service() {
    let wrong = "The JSON subprotocol requires text messages.";
    let invalid = "The client message is not a valid JSON protocol message.";
    let large = "The client message is too large.";
    for (frame, code, reason) in [
        (text("{"), 1007, invalid),
        (text(r#"{"type":"joinGroup","group":" "}"#), 1007, invalid),
        (Frame::Binary(vec![1].into()), 1003, wrong),
        (text("x".repeat((1 << 20) + 1)), 1009, large),
    ] {
        let mut service = VirtualService::new(1, |_| ());
        let (transport, id, token) = connected(&mut service);
        service.receive(T0, &transport, event(1));
        service.receive(T0, &transport, frame);
        assert!(service.lives(T0, &id), "the handler still runs");
        service.answer(T0, &id, EventAnswer::Nothing);
        let outs = transport.take(usize::MAX);
        assert_eq!(outs[1..], [Out::Close { code, reason: reason.into() }]);
        assert!(!service.lives(T0, &id));
        let refused = service.recover(T0, &id, &token);
        assert!(matches!(&refused.take(usize::MAX)[..], [Out::Close { code: 1008, .. }]));
        assert_eq!((refused.connection_id(), service.stats().malformed), (None, 1));
    }
    let mut service = VirtualService::new(1, |_| ());
    let (transport, id, _) = connected(&mut service);
    service.violation(T0, &transport, 1002);
    let reason = "The client frame is invalid.".into();
    assert_eq!(transport.take(usize::MAX), [Out::Close { code: 1002, reason }]);
    assert!(!service.lives(T0, &id) && transport.fate().is_none());
}

#[test]
fn a_simple_client_fails_behind_its_handler() {
    let mut service = VirtualService::new(1, |_| ());
    let simple = service.connect(None, Some("u"));
    let id = simple.connection_id().unwrap().to_owned();
    assert_eq!(service.receive(T0, &simple, text("a")).unwrap().event, "message");
    assert!(service.receive(T0, &simple, text("b")).is_none());
    let next = service.answer(T0, &id, EventAnswer::Message("x".into())).unwrap();
    assert_eq!((next.payload.text().unwrap(), next.user_id.as_deref()), ("b", Some("u")));
    assert!(service.answer(T0, &id, EventAnswer::Failure).is_none());
    let reason = "Internal server error".into();
    assert_eq!(simple.take(usize::MAX), [Out::Frame(text("x")), Out::Close { code: 1011, reason }]);
}

#[test]
fn the_last_frame_before_a_cut_is_carried_out_with_its_handler() {
    let mut service = VirtualService::new(1, |_| ());
    let (old, id, token) = connected(&mut service);
    service.service.plan.frames_to_drop = Some(2);
    service.receive(T0, &old, ping());
    assert!(service.receive(T0, &old, event(1)).is_some());
    service.receive(T0, &old, event(2));
    let next = service.answer(T0, &id, EventAnswer::Message("m".into()));
    assert!(next.is_none(), "what waited behind it is not read");
    let mut outs = old.take(usize::MAX);
    assert_eq!((outs.len(), outs.pop()), (4, Some(Out::Cut)), "pong, message, ack, cut");
    assert_eq!((service.executions(&id, 1), service.executions(&id, 2)), (1, 0));
    let new = service.recover(T0, &id, &token);
    service.receive(T0, &new, event(1));
    assert_eq!(short(&new), ["message", "1 Duplicate"]);
}

#[test]
fn a_refused_recovery_ends_the_session_and_cuts_its_transport() {
    let mut service = VirtualService::new(1, |_| ());
    let (old, id, token) = connected(&mut service);
    service.fault(Fault::RefuseRecovery(1));
    let refused = service.recover(T0, &id, "wrong");
    assert!(refused.connection_id().is_none() && service.lives(T0, &id));
    service.fault(Fault::RefuseRecovery(1));
    let refused = service.recover(T0, &id, &token);
    assert!(matches!(&refused.take(usize::MAX)[..], [Out::Close { code: 1008, .. }]));
    assert!(!service.lives(T0, &id) && old.fate() == Some(Fate::Cut));
}

#[test]
fn a_lost_close_is_a_reset_in_the_place_of_the_close() {
    let mut service = VirtualService::new(1, |_| ());
    service.fault(Fault::LoseCloseFrames(true));
    for (code, lives) in [(1000, false), (1008, false), (1012, true)] {
        let (transport, id, token) = connected(&mut service);
        service.receive(T0, &transport, ping());
        service.close_with(T0, &id, code);
        assert!(matches!(&transport.take(usize::MAX)[..], [Out::Frame(_), Out::Reset]));
        assert_eq!(service.lives(T0, &id), lives, "{code}");
        let again = service.recover(T0, &id, &token).take(usize::MAX);
        let refusal = matches!(&again[..], [Out::Close { code: 1008, .. }]);
        assert_eq!(refusal, !lives, "the refusal of a recovery is never lost");
    }
}

#[test]
fn an_empty_user_id_is_a_user_id() {
    let mut service = VirtualService::new(1, |_| ());
    let empty = service.connect(RELIABLE, Some(""));
    let nobody = service.connect(RELIABLE, None);
    assert_eq!(sent(&empty)[0]["userId"], "");
    assert_eq!(sent(&nobody)[0]["userId"], Value::Null);
    for transport in [&empty, &nobody] {
        service.receive(T0, transport, join("g", 1));
        sent(transport);
    }
    let publish = r#"{"type":"sendToGroup","group":"g","dataType":"text","data":"x"}"#;
    service.receive(T0, &empty, text(publish));
    service.receive(T0, &nobody, text(publish));
    let senders = sent(&nobody);
    assert_eq!((&senders[0]["fromUserId"], &senders[1]["fromUserId"]), (&"".into(), &Value::Null));
    let event = service.receive(T0, &empty, event(2)).unwrap();
    assert_eq!(event.user_id.as_deref(), Some(""));
    sent(&empty);
    let delivery = Delivery::from_server("for the empty one".into());
    assert_eq!(service.service.send_to_user(T0, "h", "", &delivery), 1);
    assert_eq!((sent(&empty).len(), sent(&nobody).len()), (1, 0));
}

#[test]
fn a_seed_decides_every_byte() {
    let run = |seed: u64| {
        let mut service = VirtualService::new(seed, |m| m.connected_after_recovery = true);
        let clients: Vec<_> = (0..20).map(|_| connected(&mut service)).collect();
        let mut log = String::new();
        for (transport, id, token) in &clients {
            service.receive(T0, transport, join("g", 1));
            service.send_to_group(T0, "g", "to all so far");
            service.end(T0, transport);
            let new = service.recover(T0, id, token);
            log += &format!("{id} {token} {:?}", new.take(usize::MAX));
        }
        log += &format!("{:?}", service.take_touched());
        for (transport, ..) in &clients {
            log += &format!("{:?}", transport.take(usize::MAX));
        }
        log
    };
    // Not `assert_eq`: it would print tokens.
    assert!(run(1) == run(1));
    assert!(run(1) != run(2));
}
