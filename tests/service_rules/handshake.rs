//! The upgrade: tokens, parameters, simple clients, who has left before it is answered.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::{Bytes, Error as WsError, HandshakeError, Message};
use webpubsub::emulator::{Emulator, StallAt};
use webpubsub::{Client, ClientAccess, Role, SimpleClient};

use crate::support::peer::reset;
use crate::support::{WATCHDOG, emulator, eventually};

pub(super) const PLAIN: &str = "json.webpubsub.azure.v1";
pub(super) const RELIABLE: &str = "json.reliable.webpubsub.azure.v1";
/// Room for what must not happen.
const SOON: Duration = Duration::from_millis(200);

pub(super) use super::calls::{Socket, read, send};

/// The socket and the subprotocol of the answer, or the status and the body of a refusal.
pub(super) type Dialed = Result<(Socket, Option<String>), (u16, String)>;

/// Connects; headers with an empty value are left out.
pub(super) fn dial(url: &str, headers: &[(&'static str, &str)]) -> Dialed {
    let mut request = url.into_client_request().expect("request");
    for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
        request.headers_mut().insert(*name, value.parse().expect("header"));
    }
    let authority = request.uri().authority().expect("authority").as_str();
    let stream = TcpStream::connect(authority).expect("TCP");
    stream.set_read_timeout(Some(WATCHDOG)).expect("timeout");
    stream.set_nodelay(true).expect("no delay");
    match tungstenite::client(request, stream) {
        Ok((socket, answer)) => {
            let subprotocol = answer.headers().get("Sec-WebSocket-Protocol");
            Ok((socket, subprotocol.map(|name| name.to_str().expect("ASCII").to_owned())))
        }
        Err(HandshakeError::Failure(WsError::Http(answer))) => {
            let body = answer.body().as_deref().unwrap_or_default();
            Err((answer.status().as_u16(), String::from_utf8_lossy(body).into_owned()))
        }
        Err(e) => panic!("{e}"),
    }
}

/// A simple client if the subprotocol is empty.
pub(super) fn speak(url: &str, subprotocol: &str) -> Dialed {
    dial(url, &[("Sec-WebSocket-Protocol", subprotocol)])
}

pub(super) fn status(dialed: &Dialed) -> u16 {
    dialed.as_ref().err().map_or(101, |(status, _)| *status)
}

/// The socket of a PubSub client and its `connected` message.
pub(super) fn open(url: &str, subprotocol: &str) -> (Socket, Value) {
    let (mut socket, _) = speak(url, subprotocol).expect("upgrade");
    let connected = read(&mut socket);
    assert_eq!(connected["event"], "connected");
    (socket, connected)
}

pub(super) fn recovery_url(emulator: &Emulator, connected: &Value) -> String {
    format!(
        "ws://127.0.0.1:{}/client/hubs/hub?awps_connection_id={}&awps_reconnection_token={}",
        emulator.port(),
        connected["connectionId"].as_str().expect("id"),
        connected["reconnectionToken"].as_str().expect("token"),
    )
}

/// A URL whose token has these claims too.
fn url_with_claims(emulator: &Emulator, claims: &Value) -> String {
    let text = emulator.connection_string();
    let (_, key) = text.split_once("AccessKey=").expect("a key");
    let (key, _) = key.split_once(';').expect("an end");
    let mut all = json!({
        "aud": format!("{}/client/hubs/hub", emulator.endpoint()),
        "exp": 9_999_999_999u64,
    });
    let all_claims = all.as_object_mut().expect("object");
    all_claims.extend(claims.as_object().expect("object").clone());
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", part(&json!({"alg": "HS256", "typ": "JWT"})), part(&all));
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key.as_bytes()).expect("key");
    mac.update(signed.as_bytes());
    let tag = BASE64URL_NOPAD.encode(&mac.finalize().into_bytes());
    let port = emulator.port();
    format!("ws://127.0.0.1:{port}/client/hubs/hub?access_token={signed}.{tag}")
}

/// Sends an upgrade request by hand, and waits until the emulator has read it.
fn ask(emulator: &Emulator, url: &str) -> TcpStream {
    let before = emulator.stats().upgrades_attempted;
    let (authority, target) = url[5..].split_once('/').expect("a path");
    let mut stream = TcpStream::connect(authority).expect("TCP");
    let request = format!(
        "GET /{target} HTTP/1.1\r\nHost: {authority}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {RELIABLE}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("write");
    assert!(emulator.wait_until(WATCHDOG, |s| s.upgrades_attempted > before));
    stream
}

// --- who has left --------------------------------------------------------------------------------

#[test]
fn an_upgrade_that_is_aborted_during_a_stall_never_enters() {
    let emulator = emulator();
    let faults = emulator.faults();
    faults.stall(StallAt::Upgrade, true);
    let mut stream = ask(&emulator, &emulator.url("hub"));
    faults.drop_connections();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    faults.stall(StallAt::Upgrade, false);
    assert!(!emulator.wait_until(SOON, |s| s.connections_opened > 0), "it entered");
}

#[test]
fn a_dead_recovery_request_takes_no_session() {
    let emulator = emulator();
    let (mut socket, connected) = open(&emulator.url("hub"), RELIABLE);
    type Leave = fn(TcpStream);
    let ways: [(&str, Leave); 2] =
        [("reset", reset), ("FIN", |stream| stream.shutdown(Shutdown::Both).expect("shut down"))];
    for (way, leave) in ways {
        emulator.faults().stall(StallAt::Upgrade, true);
        leave(ask(&emulator, &recovery_url(&emulator, &connected)));
        emulator.faults().stall(StallAt::Upgrade, false);
        assert!(!emulator.wait_until(SOON, |s| s.recoveries_accepted > 0), "{way}: it was taken");
        send(&mut socket, &json!({"type": "ping"}));
        assert_eq!(read(&mut socket)["type"], "pong", "{way}");
    }
    // The one that is alive is taken.
    let (_newer, _) = speak(&recovery_url(&emulator, &connected), RELIABLE).expect("upgrade");
    assert!(emulator.wait_until(WATCHDOG, |s| s.recoveries_accepted == 1));
}

// --- simple clients ------------------------------------------------------------------------------

#[test]
fn no_echo_keeps_a_publisher_from_receiving_its_own_message() {
    let emulator = emulator();
    let access = ClientAccess::new().role(Role::send()).group("g");
    let url =
        emulator.url_for("hub", &access).expect("url") + "&webpubsub_mode=sendToGroup&group=g";
    for (parameter, echo) in
        [("", true), ("false", true), ("FALSE", true), ("true", false), ("TRUE", false)]
    {
        let query =
            if parameter.is_empty() { String::new() } else { format!("&noEcho={parameter}") };
        let (mut socket, _) = speak(&(url.clone() + &query), "").expect("upgrade");
        let (mut member, _) = open(&url, PLAIN);
        let before = emulator.stats().publications;
        socket.send(Message::text("mine")).expect("send");
        assert!(emulator.wait_until(WATCHDOG, |s| s.publications > before));
        assert_eq!(read(&mut member)["data"], "mine");
        emulator.send_to_group("hub", "g", "other").expect("sent");
        let first = if echo { "mine" } else { "other" };
        assert_eq!(socket.read().expect("a message"), Message::text(first), "{parameter}");
    }
    assert_eq!(status(&speak(&(url.clone() + "&noEcho=1"), "")), 400);
}

#[test]
fn the_last_value_of_a_repeated_parameter_counts() {
    let emulator = emulator();
    let access = ClientAccess::new().role(Role::send()).group("b");
    let url = emulator.url_for("hub", &access).expect("url");
    let query = "&webpubsub_mode=nope&webpubsub_mode=sendToGroup&group=a&group=b";
    let (mut socket, _) = speak(&(url + query), "").expect("upgrade");
    socket.send(Message::text("x")).expect("send");
    assert_eq!(socket.read().expect("the echo"), Message::text("x"));
}

#[test]
fn an_empty_mode_is_the_default_one() {
    let emulator = Emulator::builder()
        .event_handler(|event| webpubsub::emulator::EventAnswer::Message(event.payload.clone()))
        .start()
        .expect("emulator");
    let (mut socket, _) = speak(&(emulator.url("hub") + "&webpubsub_mode="), "").expect("upgrade");
    socket.send(Message::text("x")).expect("send");
    assert_eq!(socket.read().expect("the answer"), Message::text("x"));
}

#[test]
fn a_bad_mode_is_refused_for_every_kind_of_client_and_behind_a_bad_token() {
    let emulator = emulator();
    let url = emulator.url("hub") + "&webpubsub_mode=nope";
    for subprotocol in ["", PLAIN, RELIABLE] {
        assert_eq!(status(&speak(&url, subprotocol)), 400, "{subprotocol}");
        let bad = url.replace("access_token=", "access_token=x");
        assert_eq!(status(&speak(&bad, subprotocol)), 401, "{subprotocol}");
    }
}

#[test]
fn a_simple_client_of_this_crate_can_ask_for_no_echo() {
    let emulator = emulator();
    let access = ClientAccess::new().role(Role::send()).group("g");
    let url = emulator.url_for("hub", &access).expect("url") + "&noEcho=false";
    let client = SimpleClient::builder(url).publish_to("g").no_echo().connect().expect("connect");
    eventually("known to the hub", || emulator.stats().sessions == 1);
    client.send("mine").expect("send");
    assert!(emulator.wait_until(WATCHDOG, |s| s.publications == 1));
    emulator.send_to_group("hub", "g", "other").expect("sent");
    loop {
        match client.recv_timeout(WATCHDOG).expect("open").expect("watchdog") {
            webpubsub::Event::ServerMessage(message) => {
                break assert_eq!(message.payload, webpubsub::Payload::from("other"));
            }
            webpubsub::Event::Connected(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
}

// --- tokens --------------------------------------------------------------------------------------

#[test]
fn numbers_in_a_token_count_as_text() {
    let emulator = emulator();
    let claims = json!({
        "sub": 7, "role": ["webpubsub.sendToGroup", 1], "webpubsub.group": [5],
    });
    let (mut socket, connected) = open(&url_with_claims(&emulator, &claims), PLAIN);
    assert_eq!(connected["userId"], "7");
    send(
        &mut socket,
        &json!({"type": "sendToGroup", "group": "5", "dataType": "text", "data": "x"}),
    );
    let echo = read(&mut socket);
    assert_eq!((&echo["group"], &echo["fromUserId"]), (&json!("5"), &json!("7")));
}

#[test]
fn an_empty_user_id_is_kept() {
    let emulator = emulator();
    let url = url_with_claims(&emulator, &json!({"sub": ""}));
    let (_socket, connected) = open(&url, PLAIN);
    assert_eq!(connected["userId"], "");
    assert_eq!(emulator.connections("hub")[0].user_id.as_deref(), Some(""));
    // This crate's client treats it as none.
    let client = Client::connect(&url).expect("connect");
    assert_eq!(client.user_id(), None);
}

#[test]
fn an_empty_access_token_falls_back_to_the_bearer_header() {
    let emulator = emulator();
    let url = emulator.url("hub");
    let (bare, token) = url.split_once("access_token=").expect("a token");
    let bearer = format!("Bearer {token}");
    for (query, bearer, expected) in [
        ("access_token=", bearer.as_str(), 101),
        ("", bearer.as_str(), 101),
        ("access_token=", "", 401),
        ("access_token=x", bearer.as_str(), 401),
        (&url[bare.len()..], "Bearer x", 101),
    ] {
        let got = dial(&format!("{bare}{query}"), &[("Authorization", bearer)]);
        assert_eq!(status(&got), expected, "{query}");
    }
}

#[test]
fn a_url_above_8_kib_is_refused_and_a_long_bearer_token_is_not() {
    let emulator = emulator();
    let groups = (0..20).map(|i| format!("{i}{}", "g".repeat(500)));
    let url = emulator.url_for("hub", &ClientAccess::new().groups(groups)).expect("url");
    assert!(url.len() > 8 * 1024);
    assert_eq!(status(&speak(&url, PLAIN)), 414);
    let error = Client::connect(&url).expect_err("too long");
    assert_eq!(error.http_status(), Some(414));
    Client::builder(&url).token_in_header(true).connect().expect("connect");
}

// --- a link that is idle -------------------------------------------------------------------------

#[test]
fn an_unsolicited_pong_comes_again_and_again() {
    let every = Duration::from_millis(50);
    let emulator = Emulator::builder().unsolicited_pong(every).start().expect("emulator");
    let (mut socket, _) = open(&emulator.url("hub"), PLAIN);
    for _ in 0..3 {
        let start = Instant::now();
        assert_eq!(socket.read().expect("a Pong"), Message::Pong(Bytes::new()));
        assert!(start.elapsed() < WATCHDOG);
    }
    // It does not disturb what else is sent, nor this crate's clients.
    let client = Client::connect(emulator.url("hub")).expect("connect");
    let simple = SimpleClient::connect(emulator.url("hub")).expect("connect");
    client.join_group("g").expect("join");
    for i in 0..10u8 {
        client.publish("g", vec![i]).expect("send");
        std::thread::sleep(every / 2);
    }
    let stats = client.stats();
    assert_eq!((stats.recoveries, stats.reconnects), (0, 0));
    assert_eq!(simple.stats().last_round_trip, None);
    let round_trip = simple.ping().expect("ping");
    assert_eq!(simple.stats().last_round_trip, Some(round_trip));
}
