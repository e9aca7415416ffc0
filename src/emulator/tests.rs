//! The emulator through a socket, with tungstenite's own client: nothing of this crate's client.

mod faults;
mod handlers;
mod preview;

#[cfg(feature = "protobuf")]
mod protobuf;
mod service;
mod virtual_service;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::client::Response;
use tungstenite::{Error as WsError, Message, WebSocket};

use super::*;

const JSON: &str = "json.webpubsub.azure.v1";
const RELIABLE: &str = "json.reliable.webpubsub.azure.v1";
/// No test waits longer for anything.
const WATCHDOG: Duration = Duration::from_secs(20);

type Socket = WebSocket<TcpStream>;

/// Without a subprotocol if it is empty.
fn dial(url: &str, subprotocol: &str) -> Result<(Socket, Response), u16> {
    let mut request = url.into_client_request().unwrap();
    if !subprotocol.is_empty() {
        let value = subprotocol.parse().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", value);
    }
    let stream = TcpStream::connect(request.uri().authority().unwrap().as_str()).unwrap();
    stream.set_read_timeout(Some(WATCHDOG)).unwrap();
    stream.set_nodelay(true).unwrap();
    match tungstenite::client(request, stream) {
        Ok(done) => Ok(done),
        Err(tungstenite::HandshakeError::Failure(WsError::Http(response))) => {
            Err(response.status().as_u16())
        }
        Err(e) => panic!("{e}"),
    }
}

fn open(url: &str, subprotocol: &str) -> (Socket, Value) {
    let (mut socket, _) = dial(url, subprotocol).unwrap();
    let connected = read(&mut socket);
    assert_eq!(connected["event"], "connected");
    (socket, connected)
}

fn send(socket: &mut Socket, message: &Value) {
    socket.send(Message::text(message.to_string())).unwrap();
}

fn read(socket: &mut Socket) -> Value {
    match socket.read().unwrap() {
        Message::Text(text) => serde_json::from_str(&text).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// The head of the answer, for what tungstenite's client would not accept.
fn raw_upgrade(url: &str, subprotocol: &str) -> String {
    let url = crate::Url::parse(url).unwrap();
    let target = &url[url::Position::BeforePath..];
    let mut stream = TcpStream::connect(("127.0.0.1", url.port().unwrap())).unwrap();
    stream.set_read_timeout(Some(WATCHDOG)).unwrap();
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: {subprotocol}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// The close code and reason that come next, data messages skipped.
fn read_close(socket: &mut Socket) -> (u16, String) {
    loop {
        if let Message::Close(Some(frame)) = socket.read().unwrap() {
            return (frame.code.into(), frame.reason.to_string());
        }
    }
}

fn join(socket: &mut Socket, group: &str) {
    send(socket, &json!({"type": "joinGroup", "group": group, "ackId": 1_000_000}));
    assert_eq!(read(socket)["success"], true);
}

fn recovery_url(emulator: &Emulator, connected: &Value) -> String {
    format!(
        "ws://127.0.0.1:{}/client/hubs/chat?awps_connection_id={}&awps_reconnection_token={}",
        emulator.port(),
        connected["connectionId"].as_str().unwrap(),
        connected["reconnectionToken"].as_str().unwrap(),
    )
}

#[test]
fn upgrades_get_the_status_of_the_service() {
    let emulator = Emulator::start().unwrap();
    let root = format!("ws://127.0.0.1:{}", emulator.port());
    for (path, status) in [
        ("/nowhere", 404),
        ("/client/hubs/chat", 401),
        ("/client/hubs/chat?access_token=a.b.c", 401),
        ("/client/hubs/1chat", 400),
        ("/client/", 400),
        ("/client/hubs/chat?webpubsub_mode=other", 401),
    ] {
        assert_eq!(dial(&format!("{root}{path}"), "").unwrap_err(), status, "{path}");
    }
    let url = emulator.url("chat");
    // A token is good for its own hub only, and not for ever.
    assert_eq!(dial(&url.replace("/chat", "/other"), JSON).unwrap_err(), 401);
    let other_form = url.replace("/client/hubs/chat?", "/client/?hub=chat&");
    open(&other_form, JSON);
    let (_, answer) = dial(&url, "JSON.webpubsub.azure.v1").unwrap();
    assert_eq!(answer.headers()["Sec-WebSocket-Protocol"], "JSON.webpubsub.azure.v1");
    let head = raw_upgrade(&url, "unknown");
    assert!(head.starts_with("HTTP/1.1 101") && !head.contains("Sec-WebSocket-Protocol"));
    emulator.advance_clock(Duration::from_secs(3600 + 301));
    assert_eq!(dial(&url, JSON).unwrap_err(), 401);
    open(&emulator.url("chat"), JSON);
    emulator.faults().refuse_next_upgrades(1, 503, Some(2));
    assert_eq!(dial(&emulator.url("chat"), JSON).unwrap_err(), 503);
    let stats = emulator.stats();
    assert_eq!((stats.upgrades_refused, stats.connections_opened), (9, 4));
}

#[test]
fn a_bearer_token_and_anonymous_clients_get_in() {
    let emulator = Emulator::builder().allow_anonymous(true).start().unwrap();
    let root = format!("ws://127.0.0.1:{}/client/hubs/chat", emulator.port());
    let (mut anonymous, _) = open(&root, JSON);
    send(&mut anonymous, &json!({"type": "joinGroup", "group": "g", "ackId": 1}));
    assert_eq!(
        read(&mut anonymous)["error"],
        json!({"name": "Forbidden",
            "message": "The client does not have permission to join group 'g'."})
    );
    let url = emulator.url_for("chat", &ClientAccess::new().user_id("u")).unwrap();
    let token = url.split_once("access_token=").unwrap().1;
    let mut request = root.as_str().into_client_request().unwrap();
    let headers = request.headers_mut();
    headers.insert("Authorization", format!("Bearer {token}").parse().unwrap());
    headers.insert("Sec-WebSocket-Protocol", JSON.parse().unwrap());
    let stream = TcpStream::connect(("127.0.0.1", emulator.port())).unwrap();
    let (mut socket, _) = tungstenite::client(request, stream).unwrap();
    assert_eq!(read(&mut socket)["userId"], "u");
}

#[test]
fn json_clients_publish_to_each_other() {
    let emulator = Emulator::start().unwrap();
    let access = ClientAccess::new().user_id("a").role(Role::send()).group("g");
    let (mut a, _) = open(&emulator.url_for("chat", &access).unwrap(), JSON);
    let (mut b, connected) = open(&emulator.url("chat"), RELIABLE);
    assert!(connected["reconnectionToken"].is_string());
    join(&mut b, "g");
    let message = json!({"type": "sendToGroup", "group": "g", "ackId": 1, "noEcho": true,
        "dataType": "json", "data": {"x": 1}, "metadata": {"k": "v"}});
    send(&mut a, &message);
    let ack = read(&mut a);
    assert_eq!((&ack["type"], &ack["success"]), (&json!("ack"), &json!(true)));
    send(&mut a, &message);
    assert_eq!(read(&mut a)["error"]["name"], "Duplicate");
    let got = read(&mut b);
    assert_eq!((&got["sequenceId"], &got["fromUserId"]), (&json!(1), &json!("a")));
    assert_eq!((&got["data"], &got["metadata"]), (&json!({"x": 1}), &json!({"k": "v"})));
    send(&mut a, &json!({"type": "ping"}));
    assert_eq!(read(&mut a)["type"], "pong");
    assert_eq!(emulator.send_to_group("chat", "g", "to all").unwrap(), 2);
    assert_eq!(read(&mut a)["data"], "to all");
    assert_eq!(read(&mut b)["sequenceId"], 2);
    assert!(emulator.frames().iter().any(|f| f.text.contains("to all")));
}

#[test]
fn simple_clients_get_and_send_bare_payloads() {
    let emulator = Emulator::builder()
        .event_handler(|event| match event.payload.text() {
            Ok("fail") => EventAnswer::Failure,
            Ok(text) => EventAnswer::Message(format!("{}:{text}", event.event).into()),
            Err(_) => EventAnswer::Nothing,
        })
        .start()
        .unwrap();
    let url = emulator.url("chat");
    let (mut member, _) = open(&url, JSON);
    join(&mut member, "g");
    let to_group = format!("{url}&webpubsub_mode=sendToGroup&group=g");
    let (mut publisher, _) = dial(&to_group, "").unwrap();
    publisher.send(Message::binary(vec![1, 2, 3])).unwrap();
    let got = read(&mut member);
    assert_eq!((&got["dataType"], &got["data"]), (&json!("binary"), &json!("AQID")));

    let (mut simple, _) = dial(&url, "").unwrap();
    simple.send(Message::text("hi")).unwrap();
    assert_eq!(simple.read().unwrap(), Message::text("message:hi"));
    emulator.send_to_all("chat", json!({"a": 1})).unwrap();
    assert_eq!(simple.read().unwrap(), Message::text(r#"{"a":1}"#));
    simple.send(Message::text("fail")).unwrap();
    assert_eq!(read_close(&mut simple).0, 1011);

    let none = emulator.url_for("chat", &ClientAccess::new()).unwrap();
    let (mut refused, _) = dial(&format!("{none}&webpubsub_mode=sendToGroup&group=g"), "").unwrap();
    refused.send(Message::text("x")).unwrap();
    assert_eq!(read_close(&mut refused).0, 1008);
}

#[test]
fn broken_input_closes_with_the_code_of_the_service() {
    let emulator = Emulator::start().unwrap();
    let url = emulator.url("chat");
    for (message, code) in [
        (Message::text("{"), 1007),
        (Message::text(r#"{"type":"joinGroup","group":" "}"#), 1007),
        (Message::binary(vec![1]), 1003),
        (Message::text("x".repeat((1 << 20) + 1)), 1009),
    ] {
        let (mut socket, connected) = open(&url, RELIABLE);
        let _ = socket.send(message);
        assert_eq!(read_close(&mut socket).0, code);
        let (mut again, _) = dial(&recovery_url(&emulator, &connected), RELIABLE).unwrap();
        assert_eq!(read_close(&mut again).0, 1008);
    }
    // An unmasked frame breaks RFC 6455.
    let (mut socket, _) = open(&url, JSON);
    socket.get_mut().write_all(b"\x81\x01x").unwrap();
    assert_eq!(read_close(&mut socket), (1002, "The client frame is invalid.".into()));
}

#[test]
fn a_dropped_session_is_replayed_once_recovered() {
    let emulator = Emulator::start().unwrap();
    let (mut socket, connected) = open(&emulator.url("chat"), RELIABLE);
    let id = connected["connectionId"].as_str().unwrap().to_owned();
    join(&mut socket, "g");
    emulator.send_to_group("chat", "g", "one").unwrap();
    assert_eq!(read(&mut socket)["sequenceId"], 1);
    send(&mut socket, &json!({"type": "sequenceAck", "sequenceId": 1}));
    assert!(emulator.wait_until(WATCHDOG, |s| s.sequence_acks == 1));

    emulator.faults().drop_before_next_ack(1);
    let publish = json!({"type": "sendToGroup", "group": "g", "ackId": 9, "data": 1});
    send(&mut socket, &publish);
    while socket.read().is_ok() {}
    assert!(!emulator.connections("chat")[0].is_open);
    emulator.send_to_group("chat", "g", "three").unwrap();

    let url = recovery_url(&emulator, &connected);
    assert!(raw_upgrade(&url, JSON).contains(RELIABLE), "a session keeps its subprotocol");
    let (mut socket, _) = dial(&url, RELIABLE).unwrap();
    assert_eq!(read(&mut socket)["sequenceId"], 2);
    assert_eq!(read(&mut socket)["data"], "three");
    send(&mut socket, &publish);
    assert_eq!(read(&mut socket)["error"]["name"], "Duplicate");
    assert_eq!(emulator.executions(&id, 9), 1);

    // A newer transport takes over from one that still looks open.
    let (mut newer, _) = dial(&url, RELIABLE).unwrap();
    assert_eq!(read(&mut newer)["sequenceId"], 2);
    assert!(socket.read().is_err());

    emulator.faults().drop_connections();
    emulator.advance_clock(Duration::from_secs(31));
    let (mut late, _) = dial(&url, RELIABLE).unwrap();
    assert_eq!(read_close(&mut late), (1008, "The connection could not be recovered.".into()));
    assert_eq!(emulator.stats().sessions, 0);
}

#[test]
fn closing_by_the_app_or_by_the_client_ends_the_session() {
    let emulator = Emulator::start().unwrap();
    let (mut socket, connected) = open(&emulator.url("chat"), RELIABLE);
    let id = connected["connectionId"].as_str().unwrap();
    assert!(emulator.close_connection("chat", id, Some("enough")));
    let said = read(&mut socket);
    let text = "Application server closed the connection. Reason: enough";
    assert_eq!((&said["event"], &said["message"]), (&json!("disconnected"), &json!(text)));
    assert_eq!(read_close(&mut socket), (1000, String::new()));

    let (mut socket, connected) = open(&emulator.url("chat"), RELIABLE);
    let frame = tungstenite::protocol::CloseFrame {
        code: tungstenite::protocol::frame::coding::CloseCode::Normal,
        reason: "".into(),
    };
    socket.close(Some(frame)).unwrap();
    assert!(emulator.wait_until(WATCHDOG, |s| s.sessions == 0));
    let (mut again, _) = dial(&recovery_url(&emulator, &connected), RELIABLE).unwrap();
    assert_eq!(read_close(&mut again).0, 1008);
}

#[test]
fn an_emulator_can_be_dropped_by_its_own_handler_and_many_can_run() {
    let slot = Arc::new(std::sync::Mutex::new(None::<Emulator>));
    let inside = Arc::clone(&slot);
    let emulator = Emulator::builder()
        .event_handler(move |_| {
            drop(inside.lock().unwrap().take());
            EventAnswer::Nothing
        })
        .start()
        .unwrap();
    let others: Vec<_> = (0..5).map(|_| Emulator::start().unwrap()).collect();
    let (mut socket, _) = open(&emulator.url("chat"), JSON);
    *slot.lock().unwrap() = Some(emulator);
    send(&mut socket, &json!({"type": "event", "event": "e", "ackId": 1, "data": 1}));
    while socket.read().is_ok() {}
    for other in &others {
        open(&other.url("chat"), JSON);
    }
}

#[cfg(feature = "native-tls")]
#[test]
fn tls_works_with_its_own_root() {
    let emulator = Emulator::builder().tls(true).start().unwrap();
    let root =
        native_tls::Certificate::from_pem(emulator.root_certificate_pem().unwrap().as_bytes());
    let connector =
        native_tls::TlsConnector::builder().add_root_certificate(root.unwrap()).build().unwrap();
    let request = emulator.url("chat").replace("wss://", "ws://");
    let mut request = request.into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", JSON.parse().unwrap());
    for host in ["localhost", "127.0.0.1"] {
        let stream = TcpStream::connect(("127.0.0.1", emulator.port())).unwrap();
        stream.set_read_timeout(Some(WATCHDOG)).unwrap();
        let stream = connector.connect(host, stream).unwrap();
        let (mut socket, _) = tungstenite::client(request.clone(), stream).unwrap();
        assert!(socket.read().unwrap().to_text().unwrap().contains("connected"));
    }
    let stream = TcpStream::connect(("127.0.0.1", emulator.port())).unwrap();
    assert!(native_tls::TlsConnector::new().unwrap().connect("localhost", stream).is_err());
}

#[test]
fn acks_are_fast() {
    let emulator = Emulator::start().unwrap();
    let url = emulator.url("chat");
    let per_thread = if cfg!(debug_assertions) { 500 } else { 20_000 };
    let start = std::time::Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let (mut socket, _) = open(&url, RELIABLE);
                for id in 0..per_thread {
                    let text = format!(
                        r#"{{"type":"sendToGroup","group":"g","ackId":{id},"dataType":"text","data":"x"}}"#
                    );
                    socket.send(Message::text(text)).unwrap();
                    assert!(socket.read().unwrap().is_text());
                }
            });
        }
    });
    let rate = f64::from(8 * per_thread) / start.elapsed().as_secs_f64();
    println!("{rate:.0} acked calls per second");
    assert_eq!(emulator.stats().publications, 8 * u64::try_from(per_thread).unwrap());
}
