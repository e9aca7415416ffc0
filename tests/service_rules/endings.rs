//! How connections and sessions end: Close frames in both directions, refused recoveries,
//! reconnection tokens.

use std::io::Write;
use std::sync::mpsc::channel;
use std::time::Duration;

use serde_json::json;
use tungstenite::protocol::CloseFrame;
use tungstenite::{Error as WsError, Message};
use webpubsub::emulator::Emulator;
use webpubsub::{Client, Event, Protocol, Publish, Reconnect, Recovery, SendEvent};

use super::calls::{
    PLAIN, RELIABLE, Socket, dial, is_alive, open, read, read_close, recover, recover_with, text,
};
use crate::support::{
    Fake, WATCHDOG, emulator, eventually, hold, next_event, peer, protocols, reliable_protocols,
};

const NOT_RECOVERED: &str = "The connection could not be recovered.";

fn close(socket: &mut Socket, code: u16) {
    let frame = CloseFrame { code: code.into(), reason: "bye".into() };
    socket.close(Some(frame)).expect("close");
}

#[test]
fn a_close_without_a_code_is_answered_by_1000_and_ends_a_reliable_session() {
    let emulator = emulator();
    for subprotocol in ["", PLAIN] {
        let mut socket = dial(&emulator.url("hub"), subprotocol);
        if !subprotocol.is_empty() {
            read(&mut socket);
        }
        socket.close(None).expect("close");
        assert_eq!(read_close(&mut socket), (1000, String::new()));
    }
    let (mut socket, connected) = open(&emulator, RELIABLE);
    socket.close(None).expect("close");
    assert_eq!(read_close(&mut socket), (1000, String::new()));
    assert!(emulator.wait_until(WATCHDOG, |s| s.sessions == 0), "{:?}", emulator.stats());
    assert_eq!(read_close(&mut recover(&emulator, &connected)), (1008, NOT_RECOVERED.into()));
}

#[test]
fn a_close_of_1001_to_4999_keeps_a_reliable_session_and_1000_ends_it() {
    let emulator = emulator();
    let (mut socket, connected) = open(&emulator, RELIABLE);
    for code in [1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 3000, 4000, 4999] {
        close(&mut socket, code);
        let waits = |_: &_| emulator.connections("hub").iter().all(|info| !info.is_open);
        assert!(emulator.wait_until(WATCHDOG, waits), "{code}");
        socket = recover(&emulator, &connected);
        assert!(is_alive(&mut socket), "{code}");
    }
    close(&mut socket, 1000);
    assert_eq!(read_close(&mut socket), (1000, "bye".into()));
    assert_eq!(read_close(&mut recover(&emulator, &connected)).0, 1008);
}

/// An answer without a code would end the session at the service.
#[test]
fn a_client_answers_a_close_without_a_code_by_1001_and_recovers() {
    let (tell, told) = channel();
    let fake = Fake::start(move |mut stream| {
        if peer::upgrade(&mut stream) {
            stream.write_all(&peer::pong()).expect("write");
            return hold(stream);
        }
        stream.write_all(&peer::connected()).expect("write");
        stream.write_all(&peer::frame(0x88, &[])).expect("write");
        let mut frames = std::iter::from_fn(|| peer::read_frame(&mut stream));
        let _ = tell.send(frames.find(|(opcode, _)| *opcode == 8));
    });
    let client = Client::connect(fake.url()).expect("connect");
    let answer = told.recv_timeout(WATCHDOG).expect("the peer's turn");
    assert_eq!(answer, Some((8, 1001u16.to_be_bytes().to_vec())));
    assert!(matches!(next_event(&client), Event::Connected(_)));
    let Event::Recovering(lost) = next_event(&client) else { panic!("no recovery") };
    assert_eq!(lost.cause.close_code(), None);
    assert!(matches!(next_event(&client), Event::Recovered(_)));
}

#[test]
fn a_client_closes_with_1000() {
    for protocol in protocols() {
        let emulator = emulator();
        let client = crate::support::client_over(&emulator, protocol);
        client.close().expect("close");
        assert!(emulator.wait_until(WATCHDOG, |s| s.sessions == 0), "the session is over");
    }
}

#[test]
fn a_refused_recovery_ends_its_session_and_a_wrong_token_or_hub_does_not() {
    let emulator = emulator();
    let faults = emulator.faults();
    let (socket, connected) = open(&emulator, RELIABLE);
    drop(socket);
    let (id, token) = (text(&connected, "connectionId"), text(&connected, "reconnectionToken"));
    let refused = |hub, token| {
        let close = read_close(&mut recover_with(&emulator, hub, id, token));
        assert_eq!(close, (1008, NOT_RECOVERED.into()));
    };
    faults.recovery_closes_1008(1);
    refused("hub", "wrong");
    refused("other", token);
    let mut socket = recover(&emulator, &connected);
    assert!(is_alive(&mut socket), "nobody who knew the token was refused");

    faults.recovery_closes_1008(1);
    refused("hub", token);
    assert!(socket.read().is_err(), "a transport that was open goes with its session");
    refused("hub", token);
    assert_eq!(emulator.stats().sessions, 0);
}

#[test]
fn reconnection_tokens_are_refreshed_in_mid_connection() {
    let emulator = emulator();
    let (mut plain, _) = open(&emulator, PLAIN);
    let (mut socket, first) = open(&emulator, RELIABLE);
    assert_eq!(emulator.refresh_tokens(), 1);
    assert!(is_alive(&mut plain), "it has no token");
    let second = read(&mut socket);
    assert_eq!((&second["type"], &second["event"]), (&json!("system"), &json!("connected")));
    assert_eq!(second["connectionId"], first["connectionId"]);
    // Not `assert_ne`: it would print them.
    assert!(second["reconnectionToken"] != first["reconnectionToken"]);
    for connected in [&second, &first] {
        socket = recover(&emulator, connected);
        assert!(is_alive(&mut socket));
    }
    // The last 64 are kept.
    let mut last = second;
    for _ in 0..63 {
        emulator.refresh_tokens();
        last = read(&mut socket);
    }
    assert_eq!(read_close(&mut recover(&emulator, &first)).0, 1008);
    assert!(is_alive(&mut recover(&emulator, &last)));
    emulator.faults().drop_connections();
    assert_eq!(emulator.refresh_tokens(), 0);
}

#[test]
fn a_client_recovers_with_the_token_that_came_last() {
    for protocol in reliable_protocols(true) {
        let emulator = emulator();
        let client = quick(&emulator, protocol);
        let id = client.connection_id();
        // So many that the first token is forgotten.
        for _ in 0..64 {
            assert_eq!(emulator.refresh_tokens(), 1);
        }
        client.publish("g", "behind them").expect("ack");
        emulator.faults().drop_connections();
        eventually("recovered", || client.stats().recoveries == 1);
        assert_eq!(client.connection_id(), id);
        assert_eq!(emulator.stats().recoveries_refused, 0);
        assert!(matches!(next_event(&client), Event::Connected(_)));
        assert!(matches!(next_event(&client), Event::Recovering(_)), "no second connection");
        assert!(matches!(next_event(&client), Event::Recovered(_)));
    }
}

#[test]
fn a_lost_close_frame_is_a_reset() {
    let emulator = emulator();
    let faults = emulator.faults();
    let is_reset = |socket: &mut Socket| match socket.read() {
        Err(WsError::Io(e)) => e.kind() == std::io::ErrorKind::ConnectionReset,
        _ => false,
    };
    faults.lose_close_frames(true);
    for subprotocol in [PLAIN, RELIABLE] {
        let (mut socket, connected) = open(&emulator, subprotocol);
        assert!(is_alive(&mut socket));
        socket.send(Message::text("{")).expect("send");
        assert!(is_reset(&mut socket));
        if subprotocol == RELIABLE {
            let close = read_close(&mut recover(&emulator, &connected));
            assert_eq!(close, (1008, NOT_RECOVERED.into()), "that one has always been seen");
        }
    }
    // An unmasked frame breaks RFC 6455, which the WebSocket layer refuses.
    let (mut socket, _) = open(&emulator, PLAIN);
    socket.get_mut().write_all(b"\x81\x01x").expect("write");
    assert!(is_reset(&mut socket));

    let (mut socket, connected) = open(&emulator, RELIABLE);
    faults.close_connections(1012, "");
    assert!(is_reset(&mut socket));
    let mut socket = recover(&emulator, &connected);
    assert!(is_alive(&mut socket), "1012 leaves the session alone");
    faults.lose_close_frames(false);
    faults.close_connections(1012, "");
    assert_eq!(read_close(&mut socket).0, 1012);
}

fn quick(emulator: &Emulator, protocol: Protocol) -> Client {
    let ms = Duration::from_millis;
    let builder = Client::builder(emulator.url("hub")).protocol(protocol);
    builder
        .reconnect(Some(Reconnect::new().backoff(ms(1), ms(20))))
        .recovery(Recovery::new().attempt_interval(ms(10)))
        .connect()
        .expect("connect")
}

#[derive(Debug, Clone, Copy)]
enum Ending {
    Code(u16),
    ByTheApp,
    FailedEvent,
}

/// What a program finds after its connection has ended.
#[derive(Debug, PartialEq)]
struct Found {
    same_connection: bool,
    groups: Vec<String>,
    /// Of the call that waited for its ack.
    acked: bool,
    publications: u64,
    most_executions: u64,
    sessions: u64,
}

fn after(ending: Ending, protocol: Protocol, lost: bool) -> Found {
    let builder = Emulator::builder().failed_event_closes_connection(true);
    let emulator = builder.start().expect("emulator");
    let faults = emulator.faults();
    faults.lose_close_frames(lost);
    let client = quick(&emulator, protocol);
    let id = client.connection_id().expect("connected");
    client.join_group("g").expect("join");
    faults.hold_acks(true);
    let call = client.start(Publish::new("g", "once")).expect("start");
    assert!(emulator.wait_until(WATCHDOG, |s| s.publications == 1));
    match ending {
        Ending::Code(code) => faults.close_connections(code, ""),
        Ending::ByTheApp => assert!(emulator.close_connection("hub", &id, None)),
        Ending::FailedEvent => client.fire_and_forget(SendEvent::new("e", "x")).expect("fire"),
    }
    eventually("back", || client.stats().recoveries + client.stats().reconnects == 1);
    faults.hold_acks(false);
    let acked = call.wait().is_ok();
    client.publish("g", "after").expect("the connection is usable");
    // The rejoin is ahead of that call on the wire.
    let known = emulator.connections("hub");
    let present = client.connection_id().expect("connected");
    let mine = known.iter().find(|info| info.id == *present).expect("known to the service");
    Found {
        same_connection: present == id,
        groups: mine.groups.clone(),
        acked,
        publications: emulator.stats().publications,
        most_executions: emulator.stats().max_executions,
        sessions: emulator.stats().connections_opened,
    }
}

#[test]
fn a_client_gets_to_the_same_place_whether_close_frames_arrive_or_are_lost() {
    let codes = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 4000].map(Ending::Code);
    for ending in codes.into_iter().chain([Ending::ByTheApp, Ending::FailedEvent]) {
        for protocol in protocols() {
            let (arrived, lost) = (after(ending, protocol, false), after(ending, protocol, true));
            assert_eq!(arrived, lost, "{ending:?}");
            assert_eq!((&*lost.groups, lost.publications), (&["g".to_owned()][..], 2));
            assert_eq!(lost.most_executions, 1);
            let kept = matches!(ending, Ending::Code(1001 | 1012 | 4000)) && protocol.is_reliable();
            assert_eq!((lost.same_connection, lost.acked), (kept, kept), "{ending:?}");
        }
    }
}
