//! The laboratory, through a socket.

use super::*;

fn publish(ack_id: u64) -> Value {
    json!({"type": "sendToGroup", "group": "g", "ackId": ack_id, "data": 1})
}

fn id_of(connected: &Value) -> &str {
    connected["connectionId"].as_str().unwrap()
}

fn drained(mut socket: Socket) -> usize {
    let mut count = 0;
    while socket.read().is_ok() {
        count += 1;
    }
    count
}

#[test]
fn a_reset_is_a_reset() {
    let emulator = Emulator::start().unwrap();
    let (mut socket, _) = open(&emulator.url("chat"), RELIABLE);
    emulator.faults().reset_connections();
    match socket.read().unwrap_err() {
        WsError::Io(e) => assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset),
        other => panic!("{other:?}"),
    }
}

#[test]
fn frozen_and_stalled_connections_go_on_later_and_never_hang_the_drop() {
    let emulator = Emulator::start().unwrap();
    let faults = emulator.faults();
    let (mut socket, _) = open(&emulator.url("chat"), RELIABLE);
    let soon = Some(Duration::from_millis(100));
    faults.freeze(true);
    send(&mut socket, &json!({"type": "ping"}));
    socket.get_ref().set_read_timeout(soon).unwrap();
    assert!(socket.read().is_err());
    socket.get_ref().set_read_timeout(Some(WATCHDOG)).unwrap();
    faults.freeze(false);
    assert_eq!(read(&mut socket)["type"], "pong");

    faults.hold_acks(true);
    send(&mut socket, &json!({"type": "joinGroup", "group": "g", "ackId": 1}));
    assert!(emulator.wait_until(WATCHDOG, |s| s.acks == 1));
    send(&mut socket, &json!({"type": "ping"}));
    assert_eq!(read(&mut socket)["type"], "pong");
    faults.hold_acks(false);
    assert_eq!(read(&mut socket)["ackId"], 1);

    faults.stall(StallAt::Connected, true);
    let (mut late, _) = dial(&emulator.url("chat"), JSON).unwrap();
    faults.stall(StallAt::Connected, false);
    assert_eq!(read(&mut late)["event"], "connected");

    // Everybody stuck in every way, and a client that does not read 8 MiB.
    for _ in 0..8 {
        emulator.send_to_all("chat", "x".repeat(1 << 20)).unwrap();
    }
    faults.freeze(true);
    for at in [StallAt::Accept, StallAt::Upgrade] {
        faults.stall(at, true);
        let port = emulator.port();
        std::mem::forget(TcpStream::connect(("127.0.0.1", port)).unwrap());
    }
    assert!(emulator.wait_until(WATCHDOG, |s| s.tcp_accepted == 4));
    let start = std::time::Instant::now();
    drop(emulator);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn connections_are_cut_around_acks() {
    let emulator = Emulator::start().unwrap();
    let faults = emulator.faults();
    let (mut socket, connected) = open(&emulator.url("chat"), RELIABLE);
    let url = recovery_url(&emulator, &connected);
    let recover = || dial(&url, RELIABLE).unwrap().0;

    faults.lose_next_acks(1);
    send(&mut socket, &publish(1));
    send(&mut socket, &publish(2));
    assert_eq!(read(&mut socket)["ackId"], 2);

    faults.drop_after_next_ack(1);
    send(&mut socket, &publish(3));
    assert_eq!(drained(socket), 1);

    let mut socket = recover();
    faults.drop_before_next_execution(1);
    send(&mut socket, &publish(4));
    assert_eq!(drained(socket), 0);

    let mut socket = recover();
    faults.drop_after_frames(3);
    for ack_id in 5..9 {
        // The last one may find the connection gone.
        let _ = socket.send(Message::text(publish(ack_id).to_string()));
    }
    assert_eq!(drained(socket), 3);
    let counts: Vec<_> = (1..9).map(|ack| emulator.executions(id_of(&connected), ack)).collect();
    assert_eq!(counts, [1, 1, 1, 0, 1, 1, 1, 0]);
    assert_eq!(emulator.stats().recoveries_accepted, 2);
}

#[test]
fn recoveries_are_refused_in_both_ways() {
    let emulator = Emulator::start().unwrap();
    let faults = emulator.faults();
    let (socket, connected) = open(&emulator.url("chat"), RELIABLE);
    let url = recovery_url(&emulator, &connected);
    assert!(faults.drop_connection(id_of(&connected)));
    assert_eq!(drained(socket), 0);
    faults.refuse_recoveries(1, 502);
    open(&emulator.url("chat"), RELIABLE);
    assert_eq!(dial(&url, RELIABLE).unwrap_err(), 502);
    faults.recovery_closes_1008(1);
    assert_eq!(read_close(&mut dial(&url, RELIABLE).unwrap().0).0, 1008);
    assert_eq!(read_close(&mut dial(&url, RELIABLE).unwrap().0).0, 1008, "the session is over");
    let stats = emulator.stats();
    assert_eq!((stats.recoveries_refused, stats.recoveries_accepted), (3, 0));
}

#[test]
fn any_close_code_and_any_frame_can_be_sent() {
    let emulator = Emulator::start().unwrap();
    let faults = emulator.faults();
    let (mut socket, connected) = open(&emulator.url("chat"), RELIABLE);
    assert_eq!(faults.send_raw_text(Some(id_of(&connected)), r#"{"type":"?"}"#), 1);
    assert_eq!(faults.send_raw_text(Some("nobody"), ""), 0);
    assert_eq!(read(&mut socket)["type"], "?");
    faults.close_connections(1012, "restart");
    assert_eq!(read_close(&mut socket), (1012, "restart".into()));
    let url = recovery_url(&emulator, &connected);
    let (mut socket, _) = dial(&url, RELIABLE).unwrap();
    faults.close_connections(1011, "");
    assert_eq!(read_close(&mut socket).0, 1011);
    assert_eq!(emulator.stats().sessions, 0);
}

#[test]
fn slow_writes_bring_a_frame_in_pieces_and_its_rest_at_the_end_of_the_fault() {
    let emulator = Emulator::start().unwrap();
    let faults = emulator.faults();
    let (mut socket, connected) = open(&emulator.url("chat"), JSON);
    faults.slow_write(3, Some(Duration::from_millis(20)));
    let text = "x".repeat(2000);
    let start = std::time::Instant::now();
    assert!(emulator.send_to_connection("chat", id_of(&connected), text.as_str()).unwrap());
    let mut bytes = Vec::new();
    while start.elapsed() < Duration::from_millis(300) {
        let mut buffer = [0; 4096];
        let n = socket.get_mut().read(&mut buffer).unwrap();
        assert!((1..=100).contains(&n), "{n} bytes at once");
        bytes.extend_from_slice(&buffer[..n]);
    }
    // At most a piece each 20 ms, on a busy machine fewer.
    assert!(bytes.len() >= 3 && bytes.len() <= 3 * (300 / 20 + 2), "{} bytes", bytes.len());
    faults.slow_write(0, None);
    // Header (4 bytes), then the message of the subprotocol.
    while bytes.len() < 2000 {
        let mut buffer = [0; 4096];
        let n = socket.get_mut().read(&mut buffer).unwrap();
        assert!(n > 0);
        bytes.extend_from_slice(&buffer[..n]);
    }
    assert!(start.elapsed() < Duration::from_secs(5));
    let size = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
    assert_eq!(bytes.len(), 4 + size);
    let message: Value = serde_json::from_slice(&bytes[4..]).unwrap();
    assert_eq!(message["data"], text);
    // The connection is as good as before, in both directions.
    send(&mut socket, &json!({"type": "ping"}));
    assert_eq!(read(&mut socket)["type"], "pong");
}

#[test]
fn a_slow_writer_reads_on_and_ends_with_its_connection() {
    let emulator = Emulator::start().unwrap();
    let faults = emulator.faults();
    let (mut socket, connected) = open(&emulator.url("chat"), RELIABLE);
    faults.slow_write(1, Some(Duration::from_secs(30)));
    for ack_id in 1..=5 {
        send(&mut socket, &publish(ack_id));
    }
    assert!(emulator.wait_until(WATCHDOG, |s| s.publications == 5));
    assert!(faults.drop_connection(id_of(&connected)));
    assert_eq!(drained(socket), 0);
    assert!(emulator.wait_until(WATCHDOG, |s| s.currently_open == 0));
    let (_socket, _) = dial(&recovery_url(&emulator, &connected), RELIABLE).unwrap();
    let start = std::time::Instant::now();
    drop(emulator);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn one_connection_can_be_closed_with_any_code() {
    let emulator = Emulator::start().unwrap();
    let faults = emulator.faults();
    let (mut first, first_connected) = open(&emulator.url("chat"), RELIABLE);
    let (mut second, _) = open(&emulator.url("chat"), RELIABLE);
    assert!(faults.close_connection(id_of(&first_connected), 4001, "later"));
    assert_eq!(read_close(&mut first), (4001, "later".into()));
    assert!(!faults.close_connection(id_of(&first_connected), 4001, ""), "it has no transport");
    assert_eq!(emulator.stats().sessions, 2);
    send(&mut second, &json!({"type": "ping"}));
    assert_eq!(read(&mut second)["type"], "pong");
}

#[test]
fn slow_reads_and_silence_can_be_switched() {
    let emulator = Emulator::start().unwrap();
    let faults = emulator.faults();
    let (mut socket, _) = open(&emulator.url("chat"), JSON);
    faults.silent_pings(true);
    send(&mut socket, &json!({"type": "ping"}));
    assert!(emulator.wait_until(WATCHDOG, |s| s.pings == 1));
    faults.clear();
    faults.slow_read(Some(Duration::from_millis(20)));
    let start = std::time::Instant::now();
    for ack_id in 0..5 {
        send(&mut socket, &publish(ack_id));
    }
    for ack_id in 0..5 {
        assert_eq!(read(&mut socket)["ackId"], ack_id);
    }
    assert!(start.elapsed() >= Duration::from_millis(80));
}

#[test]
fn the_latency_holds_frames_back_and_cuts_nobody() {
    let emulator = Emulator::builder().limits(|l| l.outbound_frames = 20).start().unwrap();
    let faults = emulator.faults();
    let (mut socket, _) = open(&emulator.url("chat"), JSON);
    // Longer than a busy machine needs to send them all.
    let latency = Duration::from_secs(1);
    faults.latency(Some(latency));
    let start = std::time::Instant::now();
    for i in 0..100 {
        assert_eq!(emulator.send_to_all("chat", i.to_string()).unwrap(), 1, "message {i}");
    }
    assert_eq!(read(&mut socket)["data"], "0");
    assert!(start.elapsed() >= latency);
    for i in 1..100 {
        assert_eq!(read(&mut socket)["data"], i.to_string());
    }
    assert_eq!(emulator.stats().overflows, 0);
}

#[test]
fn without_the_latency_nothing_is_held_back_any_more() {
    let emulator = Emulator::start().unwrap();
    let (mut socket, _) = open(&emulator.url("chat"), JSON);
    emulator.faults().latency(Some(Duration::from_secs(3600)));
    emulator.send_to_all("chat", "late").unwrap();
    emulator.faults().latency(None);
    assert_eq!(read(&mut socket)["data"], "late");
}

#[test]
fn a_client_that_does_not_read_is_gone_soon_after_its_close() {
    let emulator = Emulator::start().unwrap();
    let (socket, connected) = open(&emulator.url("chat"), JSON);
    let text = "x".repeat(1 << 20);
    for _ in 0..8 {
        emulator.send_to_all("chat", text.as_str()).unwrap();
    }
    assert!(emulator.close_connection("chat", id_of(&connected), None));
    let gone = emulator.wait_until(Duration::from_secs(6), |s| s.currently_open == 0);
    assert!(gone, "the connection is still open");
    drop(socket);
}
