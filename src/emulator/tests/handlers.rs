//! A running event handler, through a socket.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;

/// An emulator whose handler waits for its answer from the test, and what the test needs for that.
fn gated() -> (Emulator, Receiver<String>, Sender<EventAnswer>) {
    let (started, starts) = channel();
    let (answers, gate) = channel();
    let gate = Mutex::new(gate);
    let emulator = Emulator::builder()
        .event_handler(move |event| {
            started.send(event.event.clone()).unwrap();
            gate.lock().unwrap().recv_timeout(WATCHDOG).unwrap_or(EventAnswer::Failure)
        })
        .start()
        .unwrap();
    (emulator, starts, answers)
}

#[test]
fn a_recovered_link_is_read_no_further_than_the_bound_and_then_read_on() {
    let (emulator, starts, answers) = gated();
    let (mut socket, connected) = open(&emulator.url("chat"), RELIABLE);
    send(&mut socket, &event("first", 1));
    starts.recv_timeout(WATCHDOG).unwrap();
    emulator.faults().drop_connections();
    let (mut socket, _) = dial(&recovery_url(&emulator, &connected), RELIABLE).unwrap();
    for _ in 0..1500 {
        send(&mut socket, &json!({"type": "ping"}));
    }
    assert!(emulator.wait_until(WATCHDOG, |s| s.frames_in == 401));
    assert!(!emulator.wait_until(Duration::from_millis(50), |s| s.frames_in > 401));
    answers.send(EventAnswer::Nothing).unwrap();
    assert_eq!(read(&mut socket)["ackId"], 1);
    for _ in 0..1500 {
        assert_eq!(read(&mut socket)["type"], "pong");
    }

    // Dropping the emulator ends a reader that waits for the handler, which never answers.
    send(&mut socket, &event("second", 2));
    starts.recv_timeout(WATCHDOG).unwrap();
    emulator.faults().drop_connections();
    let (mut socket, _) = dial(&recovery_url(&emulator, &connected), RELIABLE).unwrap();
    for _ in 0..1500 {
        send(&mut socket, &json!({"type": "ping"}));
    }
    assert!(emulator.wait_until(WATCHDOG, |s| s.frames_in == 1902));
    drop(answers);
    drop(emulator);
}

fn event(name: &str, ack_id: u64) -> Value {
    json!({"type": "event", "event": name, "ackId": ack_id, "dataType": "text", "data": "x"})
}

#[test]
fn a_running_handler_holds_its_session_on_a_recovered_link_too() {
    let (emulator, starts, answers) = gated();
    let (mut socket, connected) = open(&emulator.url("chat"), RELIABLE);
    let id = connected["connectionId"].as_str().unwrap();
    send(&mut socket, &event("first", 1));
    assert_eq!(starts.recv_timeout(WATCHDOG).unwrap(), "first");

    emulator.faults().drop_connections();
    let (mut socket, _) = dial(&recovery_url(&emulator, &connected), RELIABLE).unwrap();
    send(&mut socket, &event("first", 1));
    send(&mut socket, &json!({"type": "ping"}));
    send(&mut socket, &event("second", 2));
    send(&mut socket, &json!({"type": "joinGroup", "group": "g", "ackId": 3}));
    assert!(emulator.wait_until(WATCHDOG, |s| s.frames_in >= 4));
    // Room for what must not happen: the answers are still to come.
    socket.get_ref().set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let early = socket.read().ok();
    assert_eq!(early, None, "nothing is answered behind a running handler");
    socket.get_ref().set_read_timeout(Some(WATCHDOG)).unwrap();

    answers.send(EventAnswer::Nothing).unwrap();
    assert_eq!(read(&mut socket), json!({"type": "ack", "ackId": 1, "success": true}));
    let repeat = read(&mut socket);
    assert_eq!((&repeat["ackId"], &repeat["error"]["name"]), (&json!(1), &json!("Duplicate")));
    assert_eq!(read(&mut socket)["type"], "pong");
    assert_eq!(starts.recv_timeout(WATCHDOG).unwrap(), "second");
    answers.send(EventAnswer::Failure).unwrap();
    assert_eq!(read(&mut socket)["error"]["name"], "InternalServerError");
    assert_eq!(read(&mut socket)["ackId"], 3);
    assert_eq!((emulator.executions(id, 1), emulator.executions(id, 2)), (1, 0));
}

#[test]
fn a_clock_that_is_moved_forward_ends_lost_sessions_at_once() {
    let (ended, ends) = channel();
    let emulator = Emulator::builder()
        .disconnected(move |_, reason| ended.send(reason.to_owned()).unwrap())
        .start()
        .unwrap();
    let (_socket, _) = open(&emulator.url("chat"), RELIABLE);
    emulator.faults().drop_connections();
    // The thread that reports has computed how long it waits for the 30 s.
    std::thread::sleep(Duration::from_millis(100));
    emulator.advance_clock(Duration::from_millis(29_700));
    let reason = ends.recv_timeout(Duration::from_secs(5)).expect("a report");
    assert!(reason.contains("not recovered in time"), "{reason}");
}

#[test]
fn a_session_can_be_kept_for_ever() {
    let emulator = Emulator::builder().limits(|l| l.retention = Duration::MAX).start().unwrap();
    let (_socket, _) = open(&emulator.url("chat"), RELIABLE);
    emulator.faults().drop_connections();
    emulator.advance_clock(Duration::from_secs(1_000_000));
    assert_eq!(emulator.stats().sessions, 1);
}

#[test]
fn a_key_and_a_hub_that_cannot_be_used_are_refused_at_the_start() {
    use crate::{ClientAccess, ErrorKind};
    for key in ["", "a;b", " a"] {
        let error = Emulator::builder().access_key(key).start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{key:?}");
    }
    let builder = Emulator::builder().negotiate("a/b", ClientAccess::new());
    assert_eq!(builder.start().unwrap_err().kind(), ErrorKind::Config);
}
