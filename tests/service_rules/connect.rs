//! The events `connect`, `connected` and `disconnected`.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use tungstenite::Message;
use webpubsub::ClientAccess;
use webpubsub::Role;
use webpubsub::emulator::{ConnectAnswer, Emulator, EmulatorBuilder, EventAnswer};

use super::handshake::{PLAIN, RELIABLE, dial, open, read, recovery_url, send, speak, status};
use crate::support::WATCHDOG;

fn start(builder: EmulatorBuilder) -> Emulator {
    builder.start().expect("emulator")
}

#[test]
fn the_connect_handler_learns_what_is_asked_for_but_no_token() {
    let (seen, requests) = channel();
    let emulator = start(Emulator::builder().connect(move |request| {
        seen.send(request.clone()).expect("the test waits");
        ConnectAnswer::accept()
    }));
    let access = ClientAccess::new().user_id("anna").role(Role::send()).group("g");
    let url = emulator.url_for("Hub", &access).expect("url") + "&room=a%20b&room=c";
    let headers = [
        ("Sec-WebSocket-Protocol", PLAIN),
        ("Cookie", "SECRET"),
        ("Authorization", "Bearer SECRET"),
    ];
    let (mut socket, _) = dial(&url, &headers).expect("upgrade");
    let connected = read(&mut socket);
    let request = requests.recv_timeout(WATCHDOG).expect("a request");
    assert_eq!(request.hub, "hub");
    assert_eq!(json!(request.connection_id), connected["connectionId"]);
    assert_eq!(request.user_id.as_deref(), Some("anna"));
    assert_eq!(
        (&request.roles[..], &request.groups[..]),
        (&[Role::send()][..], &["g".to_owned()][..])
    );
    let rooms = [("room".to_owned(), "a b".to_owned()), ("room".to_owned(), "c".to_owned())];
    assert_eq!(request.query, rooms);
    assert_eq!(request.parameter("room"), Some("a b"));
    assert_eq!(request.header("Cookie"), Some("SECRET"));
    assert_eq!(request.header("authorization"), None);
    assert_eq!(request.subprotocols, [PLAIN]);
    assert!(!format!("{request:?}").contains("SECRET"));
}

#[test]
fn the_connect_handler_decides_about_user_roles_groups_and_subprotocol() {
    let emulator = start(Emulator::builder().connect(|_| {
        ConnectAnswer::accept()
            .user_id("bert")
            .role(Role::send_to_group("added"))
            .group("added")
            .subprotocol("JSON.webpubsub.azure.v1")
    }));
    let access = ClientAccess::new().user_id("anna").role(Role::send_to_group("own")).group("own");
    let url = emulator.url_for("hub", &access).expect("url");
    let (mut socket, subprotocol) = speak(&url, &format!("{RELIABLE}, {PLAIN}")).expect("upgrade");
    assert_eq!(subprotocol.as_deref(), Some(PLAIN));
    let connected = read(&mut socket);
    assert_eq!(connected["userId"], "bert");
    assert!(connected.get("reconnectionToken").is_none());
    for group in ["own", "added"] {
        send(&mut socket, &json!({"type": "sendToGroup", "group": group, "data": 1}));
        let echo = read(&mut socket);
        assert_eq!((&echo["group"], &echo["fromUserId"]), (&json!(group), &json!("bert")));
    }
    // It was not offered, or would be no group.
    assert_eq!(status(&speak(&url, RELIABLE)), 500);
    let emulator = start(Emulator::builder().connect(|_| ConnectAnswer::accept().group(" ")));
    assert_eq!(status(&speak(&emulator.url("hub"), PLAIN)), 500);
}

#[test]
fn a_subprotocol_that_the_service_does_not_speak_makes_a_simple_client() {
    let emulator = start(
        Emulator::builder()
            .connect(|request| ConnectAnswer::accept().subprotocol(&request.subprotocols[1]))
            .event_handler(|event| EventAnswer::Message(event.payload.clone())),
    );
    let (mut socket, chosen) =
        speak(&emulator.url("hub"), &format!("{PLAIN}, own")).expect("upgrade");
    assert_eq!(chosen.as_deref(), Some("own"));
    socket.send(Message::text("raw")).expect("send");
    assert_eq!(socket.read().expect("the answer"), Message::text("raw"));
}

#[test]
fn the_upgrade_waits_for_the_connect_handler_and_4xx_passes_through() {
    let pause = Duration::from_millis(100);
    let emulator = start(Emulator::builder().connect(move |request| {
        std::thread::sleep(pause);
        match request.parameter("pass") {
            Some(_) => ConnectAnswer::accept(),
            None => ConnectAnswer::refuse(418, "no pass"),
        }
    }));
    for subprotocol in ["", PLAIN, RELIABLE] {
        let begin = Instant::now();
        speak(&(emulator.url("hub") + "&pass=1"), subprotocol).expect("upgrade");
        assert!(begin.elapsed() >= pause);
        let refusal = speak(&emulator.url("hub"), subprotocol).expect_err("refused");
        assert_eq!(refusal, (418, "no pass".into()), "{subprotocol}");
    }
    assert_eq!(emulator.stats().connections_opened, 3);
}

#[test]
fn a_connect_handler_that_fails_becomes_500_once_it_was_tried_for_long_enough() {
    let retried = Duration::from_millis(150);
    let builder = Emulator::builder().limits(|l| {
        assert_eq!(l.connect_retry_time, Duration::from_secs(9));
        l.connect_retry_time = retried;
    });
    let emulator = start(builder.connect(|request| match request.parameter("how") {
        Some("panic") => panic!("on purpose"),
        Some(status) => ConnectAnswer::refuse(status.parse().expect("a status"), "secret detail"),
        None => ConnectAnswer::accept(),
    }));
    for how in ["503", "302", "panic"] {
        let begin = Instant::now();
        let (status, text) =
            speak(&(emulator.url("hub") + "&how=" + how), PLAIN).expect_err("refused");
        assert_eq!(status, 500, "{how}");
        assert!(begin.elapsed() >= retried && !text.contains("secret"), "{how}: {text}");
    }
    // A bad token is refused without asking.
    let bad = emulator.url("hub").replace("access_token=", "access_token=x") + "&how=panic";
    assert_eq!(status(&speak(&bad, PLAIN)), 401);
    open(&emulator.url("hub"), PLAIN);
}

#[test]
fn a_client_that_leaves_while_the_connect_handler_runs_never_enters() {
    let (entered, enter) = channel();
    let (leave, left) = channel::<()>();
    let left = Mutex::new(left);
    let emulator = start(Emulator::builder().connect(move |_| {
        entered.send(()).expect("the test waits");
        let _ = left.lock().expect("lock").recv_timeout(WATCHDOG);
        ConnectAnswer::accept()
    }));
    let url = emulator.url("hub");
    let authority = format!("127.0.0.1:{}", emulator.port());
    let stream = std::net::TcpStream::connect(authority).expect("TCP");
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        &url[url.find("/client").expect("a path")..]
    );
    std::io::Write::write_all(&mut &stream, request.as_bytes()).expect("write");
    enter.recv_timeout(WATCHDOG).expect("asked");
    drop(stream);
    leave.send(()).expect("the handler waits");
    assert!(!emulator.wait_until(Duration::from_millis(200), |s| s.connections_opened > 0));
}

// --- connected, disconnected ---------------------------------------------------------------------

/// What is reported: the event, the connection id, and its groups or the reason.
type Reported = (&'static str, String, String);

fn reporting(builder: EmulatorBuilder) -> (Emulator, Receiver<Reported>) {
    let (sender, reports) = channel();
    let again = sender.clone();
    let emulator = start(
        builder
            .connected(move |c| {
                assert_eq!((&*c.hub, c.is_open), ("hub", true));
                let _ = sender.send(("connected", c.id.clone(), c.groups.join(",")));
            })
            .disconnected(move |c, reason| {
                assert!(!c.is_open);
                let _ = again.send(("disconnected", c.id.clone(), reason.to_owned()));
            }),
    );
    (emulator, reports)
}

fn next(reports: &Receiver<Reported>) -> Reported {
    reports.recv_timeout(WATCHDOG).expect("a report")
}

#[test]
fn each_session_is_reported_once_whatever_ends_it() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let (emulator, reports) = reporting(Emulator::builder().connect(move |_| {
        counter.fetch_add(1, SeqCst);
        ConnectAnswer::accept().group("g")
    }));
    let url = emulator.url("hub");
    let (mut socket, connected) = open(&url, RELIABLE);
    let id = connected["connectionId"].as_str().expect("id").to_owned();
    assert_eq!(next(&reports), ("connected", id.clone(), "g".into()));

    // A loss is no end, and a recovery no connection.
    emulator.faults().drop_connections();
    while socket.read().is_ok() {}
    let (mut socket, _) = speak(&recovery_url(&emulator, &connected), RELIABLE).expect("upgrade");
    send(&mut socket, &json!({"type": "ping"}));
    assert_eq!(read(&mut socket)["type"], "pong");
    assert_eq!(asked.load(SeqCst), 1);
    assert!(emulator.close_connection("hub", &id, Some("enough")));
    let why = "Application server closed the connection. Reason: enough";
    assert_eq!(next(&reports), ("disconnected", id, why.into()));

    for (subprotocol, leave) in
        [(PLAIN, "drop"), (PLAIN, "close"), (RELIABLE, "close"), ("", "drop")]
    {
        let (mut socket, _) = speak(&url, subprotocol).expect("upgrade");
        let (event, id, _) = next(&reports);
        assert_eq!(event, "connected");
        if leave == "close" {
            let normal = tungstenite::protocol::frame::coding::CloseCode::Normal;
            let frame = tungstenite::protocol::CloseFrame { code: normal, reason: "".into() };
            socket.close(Some(frame)).expect("close");
        }
        drop(socket);
        let (event, gone, reason) = next(&reports);
        assert_eq!((event, &gone), ("disconnected", &id), "{subprotocol} {leave}");
        assert!(!reason.is_empty());
    }
    drop(emulator);
    assert_eq!(reports.try_iter().count(), 0, "nothing is reported twice");
}

#[test]
fn a_session_that_nobody_recovers_is_reported_while_nothing_else_happens() {
    let retention = Duration::from_millis(150);
    let (emulator, reports) = reporting(Emulator::builder().limits(|l| l.retention = retention));
    let (socket, _) = open(&emulator.url("hub"), RELIABLE);
    let (_, id, _) = next(&reports);
    let begin = Instant::now();
    drop(socket);
    // Nobody asks the emulator anything.
    let (event, gone, reason) = next(&reports);
    assert_eq!((event, gone), ("disconnected", id));
    assert!(begin.elapsed() >= retention, "{reason}");

    // By the emulator's clock, too.
    let (emulator, reports) = reporting(Emulator::builder());
    let (_socket, _) = open(&emulator.url("hub"), RELIABLE);
    next(&reports);
    emulator.faults().drop_connections();
    emulator.advance_clock(Duration::from_secs(31));
    assert_eq!(next(&reports).0, "disconnected");
}

#[test]
fn a_slow_or_panicking_listener_delays_no_client_and_loses_no_report() {
    let (started, starts) = channel();
    let (release, gate) = channel::<()>();
    let gate = Mutex::new(gate);
    let (ended, ends) = channel();
    let emulator = start(
        Emulator::builder()
            .connected(move |_| {
                started.send(()).expect("the test waits");
                let _ = gate.lock().expect("lock").recv_timeout(WATCHDOG);
                panic!("on purpose");
            })
            .disconnected(move |c, _| ended.send(c.id.clone()).expect("the test waits")),
    );
    let (mut socket, connected) = open(&emulator.url("hub"), PLAIN);
    starts.recv_timeout(WATCHDOG).expect("called");
    send(&mut socket, &json!({"type": "ping"}));
    assert_eq!(read(&mut socket)["type"], "pong");
    drop(socket);
    assert!(emulator.wait_until(WATCHDOG, |s| s.sessions == 0));
    assert!(ends.try_recv().is_err(), "`disconnected` comes behind `connected`");
    release.send(()).expect("the listener waits");
    let gone = ends.recv_timeout(WATCHDOG).expect("reported");
    assert_eq!(json!(gone), connected["connectionId"]);
}

#[test]
fn a_listener_may_use_the_emulator_and_even_drop_it() {
    let slot = Arc::new(Mutex::new(None::<Emulator>));
    let inside = Arc::clone(&slot);
    let emulator = start(Emulator::builder().connected(move |c| {
        let emulator = inside.lock().expect("lock").take().expect("the emulator");
        assert!(emulator.send_to_connection(&c.hub, &c.id, "welcome").expect("sent"));
        drop(emulator);
    }));
    let url = emulator.url("hub");
    *slot.lock().expect("lock") = Some(emulator);
    let (mut socket, _) = open(&url, PLAIN);
    // Whether the message leaves before the connection is cut is open; the end is not.
    while socket.read().is_ok() {}
}
