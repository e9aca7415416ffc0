//! Invocations: written once, answered once, given up aloud.

use super::*;
use crate::error::ErrorKind;
use crate::message::{Event, Payload};
use crate::protocol::{Decoder, Downstream, Frame, Protocol};
use crate::session::tests::scenario::{LONG, loss};
use crate::session::{Answer, CallKind, Key};

impl Scenario {
    fn invoke(&mut self, id: u64) {
        self.invoke_for(id, LONG);
    }

    fn invoke_for(&mut self, id: u64, limit: std::time::Duration) {
        self.new_call(Key::Invocation(id), CallKind::Invoke, &format!("invoke#{id}"), limit);
    }

    /// The service's frame, read as the client does.
    fn answer(&mut self, fields: &str) {
        let frame = format!(r#"{{"type":"invokeResponse",{fields}}}"#);
        let (id, answer): (String, Answer) =
            match Decoder::new(Protocol::Json).decode(&Frame::Text(frame.into())) {
                Ok(Downstream::InvokeResponse(response)) => {
                    (response.invocation_id.clone(), Ok(response))
                }
                Ok(other) => panic!("{other:?}"),
                Err(malformed) => (malformed.invocation_id.expect("the id"), Err(malformed.why)),
            };
        self.session.answer(self.now, &id, answer);
        self.drain();
    }

    fn cancel_invocation(&mut self, id: u64) -> bool {
        let cancelled = self.session.cancel_invocation(self.now, id);
        self.drain();
        cancelled
    }
}

#[test]
fn an_answer_ends_its_call() {
    let mut s = Scenario::connected();
    s.invoke(1);
    s.invoke(2);
    s.answer(
        r#""invocationId":"2","success":true,"dataType":"json","data":3,"metadata":{"k":"v"}"#,
    );
    s.answer(r#""invocationId":"1","success":true"#);
    assert_eq!(s.take(), ["send invoke#1", "send invoke#2", "answer 2 3", "answer 1 "]);
    assert_eq!(s.replies[&2].metadata.get("k"), Some("v"));
    assert_eq!(s.replies[&1].payload, None);
    assert_eq!(s.session.pending(), 0);
}

#[test]
fn a_failure_names_what_the_app_server_said() {
    let mut s = Scenario::connected();
    s.invoke(1);
    s.answer(
        r#""invocationId":"1","success":false,"error":{"name":"BadRequest","message":"oops"}"#,
    );
    assert_eq!(s.kind(1), ErrorKind::Refused);
    assert_eq!(s.error(1).service_error_name(), Some("BadRequest"));
    assert_eq!(s.error(1).to_string(), "the invocation failed: BadRequest: oops");
    assert!(s.error(1).may_have_been_delivered());
}

#[test]
fn s20_odd_answers_end_the_call() {
    let mut s = Scenario::connected();
    for (id, rest, outcome) in [
        // A JSON null is a value, and JSON the type that is meant if none is named.
        (1, r#""success":true,"dataType":"json","data":null"#, Ok("null")),
        (2, r#""success":true,"data":{"a":1}"#, Ok(r#"{"a":1}"#)),
        (3, r#""success":true,"dataType":"cbor","data":"oA==""#, Err(ErrorKind::Payload)),
        (4, r#""success":true,"dataType":"text","data":5"#, Err(ErrorKind::Payload)),
        (5, r#""dataType":"json","data":5"#, Err(ErrorKind::Refused)),
        (6, r#""success":"yes""#, Err(ErrorKind::Payload)),
        (7, r#""success":false,"error":["oops"]"#, Err(ErrorKind::Refused)),
    ] {
        s.invoke(id);
        s.answer(&format!(r#""invocationId":"{id}",{rest}"#));
        assert!(!s.pending(id), "{rest}");
        match outcome {
            Ok(text) => {
                let payload = s.replies[&id].payload.as_ref();
                assert_eq!(payload.map(Payload::as_bytes), Some(text.as_bytes()), "{rest}");
            }
            Err(kind) => assert_eq!(s.kind(id), kind, "{rest}"),
        }
    }
    assert_eq!(s.session.pending(), 0);
}

#[test]
fn answers_that_nobody_waits_for_are_discarded() {
    let mut s = Scenario::connected_with(|c| c.max_in_flight = 1);
    s.invoke(1);
    s.invoke(12); // waits for its place
    s.take();
    for id in ["2", "12", "01", "+1", " 1", "1.0", "", "x"] {
        let answer = Err("never looked at".into());
        s.session.answer(s.now, id, answer);
        s.drain();
    }
    assert_eq!(s.take(), [""; 0]);
    s.answer(r#""invocationId":"1","success":true"#);
    s.answer(r#""invocationId":"1","success":true"#);
    assert_eq!(s.take(), ["answer 1 ", "send invoke#12"]);
}

#[test]
fn a_written_invocation_fails_when_the_link_is_lost_and_is_never_sent_again() {
    let mut s = Scenario::connected();
    s.invoke(1);
    s.call(2);
    s.take();
    s.lose(None);
    assert_eq!(s.take(), ["event Recovering", "done 1 OutcomeUnknown", "dial recover c1 t1"]);
    assert!(s.error(1).may_have_been_delivered());
    s.linked();
    s.prove();
    // The acked call is repeated, the invocation is only cancelled.
    assert_eq!(s.take(), ["ping", "send msg#2", "cancel 1"]);
    s.answer(r#""invocationId":"1","success":true"#);
    assert_eq!(s.take(), [""; 0], "an answer after the recovery is late");
    s.pong(0);
    s.recover();
    assert_eq!(s.only("cancel"), [""; 0], "once");
}

#[test]
fn nothing_is_cancelled_on_a_new_connection() {
    for (code, kind) in [(1008, ErrorKind::OutcomeUnknown), (1007, ErrorKind::Refused)] {
        let mut s = Scenario::connected_with(|c| c.resend_on_new_connection = true);
        s.invoke(1);
        s.lose(Some(code));
        assert_eq!(s.kind(1), kind);
        let Some(Event::Disconnected(e)) = s.events.get(1) else { panic!("{:?}", s.events) };
        assert_eq!(e.maybe_lost, u64::from(code == 1008));
        s.take();
        s.until_dial();
        s.linked();
        s.hello("c2", "t");
        assert_eq!(s.take().last().map(String::as_str), Some("event Connected c2"));
    }
    // Lost while it could be recovered, and then for good.
    let mut s = Scenario::connected();
    s.invoke(1);
    s.lose(None);
    s.linked();
    s.lose(Some(1008));
    s.until_dial();
    s.linked();
    s.hello("c2", "t");
    s.recover();
    assert_eq!(s.only("cancel"), [""; 0]);
}

#[test]
fn an_unwritten_invocation_waits_for_a_link() {
    let mut s = Scenario::connected();
    s.lose(None);
    s.invoke(1);
    s.linked();
    s.prove();
    s.pong(0);
    assert_eq!(s.only("send"), ["send invoke#1"]);
    s.renew("c2");
    s.invoke(2);
    s.take();
    s.lose(Some(1008));
    s.invoke(3);
    assert!(s.pending(3));
    s.until_dial();
    s.linked();
    s.hello("c3", "t");
    assert_eq!(s.only("send"), ["send invoke#3"]);
}

#[test]
fn a_deadline_cancels_what_is_written() {
    let mut s = Scenario::connected_with(|c| c.max_in_flight = 1);
    s.invoke_for(1, secs(2));
    s.invoke_for(2, secs(2));
    s.take();
    s.advance(secs(2));
    let log = s.take();
    assert_eq!(log, ["cancel 1", "done 1 Timeout", "done 2 Timeout"]);
    assert!(s.error(1).may_have_been_delivered());
    assert!(s.error(1).to_string().starts_with("no answer came"), "{}", s.error(1));
    assert!(!s.error(2).may_have_been_delivered());
}

#[test]
fn a_cancelled_invocation_ends_and_the_service_is_told_if_it_was_written() {
    let mut s = Scenario::connected_with(|c| c.max_in_flight = 1);
    s.invoke(1);
    s.invoke(2);
    s.invoke(3);
    s.take();
    assert!(s.cancel_invocation(2));
    assert_eq!(s.take(), ["done 2 Cancelled"]);
    assert!(!s.error(2).may_have_been_delivered());
    assert!(s.cancel_invocation(1));
    assert_eq!(s.take(), ["cancel 1", "done 1 Cancelled", "send invoke#3"]);
    assert!(s.error(1).may_have_been_delivered());
    assert!(!s.cancel_invocation(1), "it has ended");
    s.answer(r#""invocationId":"1","success":true"#);
    assert_eq!(s.take(), [""; 0]);
}

#[test]
fn what_is_cancelled_on_a_dead_link_is_cancelled_after_the_recovery() {
    let mut s = Scenario::connected();
    s.invoke(1);
    s.session.suspend();
    s.take();
    assert!(s.cancel_invocation(1));
    assert_eq!(s.take(), ["done 1 Cancelled"]);
    s.lose_with(loss());
    s.linked();
    s.prove();
    assert_eq!(s.only("cancel"), ["cancel 1"]);
}

#[test]
fn a_handler_under_way_excuses_silence() {
    let mut s = Scenario::connected();
    s.invoke_for(1, secs(90));
    assert_eq!(s.session.silence_allowed_until(s.now), Some(s.now + secs(90)));
    let allowed = s.session.silence_allowed_until(s.now);
    s.advance(secs(1));
    s.cancel_invocation(1);
    assert_eq!(s.session.silence_allowed_until(s.now), allowed, "cancelled, but perhaps running");
}

#[test]
fn the_end_of_the_client_ends_invocations() {
    let mut s = Scenario::connected();
    s.invoke(1);
    s.close();
    assert_eq!(s.take()[1..], ["done 1 Closed", "close 1000"]);
    assert!(s.error(1).may_have_been_delivered());
    assert_eq!(s.session.cut_off.unknown, 1);
}
