//! Permissions of one group, names, and how much the service keeps for a client.

use std::io::Read as _;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::{Error as WsError, Message, WebSocket};
use webpubsub::emulator::{Emulator, Permission};
use webpubsub::{Client, ClientAccess, ErrorKind, Payload, Protocol, Publish, Role, Secret};

use crate::support::{WATCHDOG, emulator, within};

const JSON: &str = "json.webpubsub.azure.v1";
const RELIABLE: &str = "json.reliable.webpubsub.azure.v1";
const HUB: &str = "hub";

/// A client that knows frames and nothing else.
struct Raw {
    socket: WebSocket<TcpStream>,
    connected: Value,
}

fn dial(url: &str, subprotocol: &str) -> Result<WebSocket<TcpStream>, u16> {
    let mut request = url.into_client_request().expect("request");
    if !subprotocol.is_empty() {
        let value = subprotocol.parse().expect("value");
        request.headers_mut().insert("Sec-WebSocket-Protocol", value);
    }
    let authority = request.uri().authority().expect("authority").to_string();
    let stream = TcpStream::connect(authority).expect("connect");
    stream.set_read_timeout(Some(WATCHDOG)).expect("timeout");
    stream.set_nodelay(true).expect("nodelay");
    match tungstenite::client(request, stream) {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::HandshakeError::Failure(WsError::Http(refused))) => {
            Err(refused.status().as_u16())
        }
        Err(e) => panic!("{e}"),
    }
}

impl Raw {
    fn open(url: &str, subprotocol: &str) -> Self {
        let socket = dial(url, subprotocol).expect("upgrade");
        let mut raw = Self { socket, connected: Value::Null };
        raw.connected = raw.read();
        raw
    }

    fn id(&self) -> &str {
        self.connected["connectionId"].as_str().expect("id")
    }

    fn recover(&mut self, emulator: &Emulator) {
        let token = self.connected["reconnectionToken"].as_str().expect("token");
        let url = format!(
            "ws://127.0.0.1:{}/client/hubs/{HUB}?awps_connection_id={}&awps_reconnection_token={token}",
            emulator.port(),
            self.id(),
        );
        self.socket = dial(&url, RELIABLE).expect("upgrade");
    }

    fn send(&mut self, message: &Value) {
        self.socket.send(Message::text(message.to_string())).expect("send");
    }

    fn read(&mut self) -> Value {
        match self.socket.read().expect("read") {
            Message::Text(text) => serde_json::from_str(&text).expect("JSON"),
            other => panic!("{other:?}"),
        }
    }

    /// The name of the error that the ack reports, empty for a success.
    fn call(&mut self, message: &Value) -> String {
        self.send(message);
        loop {
            let answer = self.read();
            if answer["type"] == "ack" {
                assert_eq!(answer["ackId"], message["ackId"]);
                return answer["error"]["name"].as_str().unwrap_or_default().to_owned();
            }
        }
    }

    /// The transport ends, and no Close comes before.
    fn is_cut(&mut self) -> bool {
        loop {
            match self.socket.read() {
                Ok(Message::Close(_)) => return false,
                Ok(_) => {}
                Err(WsError::Io(e)) if e.kind() == std::io::ErrorKind::WouldBlock => return false,
                Err(_) => return true,
            }
        }
    }
}

fn message(kind: &str, group: &str, ack_id: u64) -> Value {
    json!({"type": kind, "group": group, "ackId": ack_id, "dataType": "text", "data": "x"})
}

fn publish(group: &str, ack_id: u64) -> Value {
    message("sendToGroup", group, ack_id)
}

fn join(group: &str, ack_id: u64) -> Value {
    message("joinGroup", group, ack_id)
}

// --- permissions of one group ------------------------------------------------------------------

#[test]
fn a_revoked_group_is_denied_under_a_role_for_all_groups_until_it_is_granted() {
    let emulator = emulator();
    let mut raw = Raw::open(&emulator.url(HUB), RELIABLE);
    let id = raw.id().to_owned();
    assert!(emulator.revoke(HUB, &id, Permission::SendToGroup, "a"));
    assert_eq!(raw.call(&publish("a", 1)), "Forbidden");
    assert_eq!(raw.call(&publish("b", 2)), "");
    assert_eq!(raw.call(&join("a", 3)), "", "the other permission is not touched");
    emulator.faults().drop_connections();
    raw.recover(&emulator);
    assert_eq!(raw.call(&publish("a", 4)), "Forbidden", "a recovery changes nothing");
    assert!(emulator.grant(HUB, &id, Permission::SendToGroup, "a"));
    assert_eq!(raw.call(&publish("a", 5)), "");
}

#[test]
fn a_member_whose_group_is_revoked_stays_a_member_and_cannot_leave() {
    let emulator = emulator();
    let mut raw = Raw::open(&emulator.url(HUB), JSON);
    let id = raw.id().to_owned();
    assert_eq!(raw.call(&join("g", 1)), "");
    assert!(emulator.revoke(HUB, &id, Permission::JoinLeaveGroup, "g"));
    raw.send(&message("leaveGroup", "g", 2));
    let refused = raw.read();
    assert_eq!(refused["error"]["name"], "Forbidden");
    let text = "The client does not have permission to leave group 'g'.";
    assert_eq!(refused["error"]["message"], text);
    assert_eq!(emulator.send_to_group(HUB, "g", "still here").expect("sent"), 1);
    assert_eq!(raw.read()["data"], "still here");
    assert!(emulator.grant(HUB, &id, Permission::JoinLeaveGroup, "g"));
    assert_eq!(raw.call(&message("leaveGroup", "g", 3)), "");
}

#[test]
fn a_grant_is_for_one_group_by_its_literal_name() {
    let emulator = emulator();
    let none = emulator.url_for(HUB, &ClientAccess::new()).expect("url");
    let mut raw = Raw::open(&none, JSON);
    let id = raw.id().to_owned();
    assert!(emulator.grant(HUB, &id, Permission::SendToGroup, "a*"));
    let groups = ["a*", "ab", "a"];
    let answers: Vec<_> =
        (1..).zip(groups).map(|(i, group)| raw.call(&publish(group, i))).collect();
    assert_eq!(answers, ["", "Forbidden", "Forbidden"]);
    for (id, group) in [("nobody", "g"), (&id, " "), (&id, &"g".repeat(1025))] {
        assert!(!emulator.grant(HUB, id, Permission::SendToGroup, group));
        assert!(!emulator.revoke(HUB, id, Permission::SendToGroup, group));
    }
}

// --- names -------------------------------------------------------------------------------------

/// A token with one group, which the library's own minting may refuse.
fn token_with_group(emulator: &Emulator, key: &str, group: &str) -> String {
    use data_encoding::BASE64URL_NOPAD;
    use hmac::{KeyInit as _, Mac as _};
    let audience = format!("{}/client/hubs/{HUB}", emulator.endpoint());
    let claims = json!({"aud": audience, "exp": 4_000_000_000u64, "webpubsub.group": [group]});
    let head = BASE64URL_NOPAD.encode(br#"{"alg":"HS256","typ":"JWT"}"#);
    let signed = format!("{head}.{}", BASE64URL_NOPAD.encode(claims.to_string().as_bytes()));
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(key.as_bytes()).expect("key");
    mac.update(signed.as_bytes());
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&mac.finalize().into_bytes()))
}

/// Whether a group name is taken at each place where one can be given.
fn taken(group: &str) -> Vec<(&'static str, bool)> {
    let key = "0123456789abcdef0123456789abcdef";
    let emulator = Emulator::builder().access_key(Secret::new(key)).start().expect("emulator");
    let mut raw = Raw::open(&emulator.url(HUB), JSON);
    let id = raw.id().to_owned();
    let root = format!("ws://127.0.0.1:{}/client/hubs/{HUB}", emulator.port());
    let token = token_with_group(&emulator, key, group);
    let mut simple = webpubsub::Url::parse(&emulator.url(HUB)).expect("URL");
    simple
        .query_pairs_mut()
        .append_pair("webpubsub_mode", "sendToGroup")
        .append_pair("group", group);
    let client = Client::connect(emulator.url(HUB)).expect("connect");
    let access = || ClientAccess::new();
    vec![
        ("the token", dial(&format!("{root}?access_token={token}"), JSON).is_ok()),
        ("the URL of a simple client", dial(simple.as_str(), "").is_ok()),
        ("addToGroup", emulator.add_to_group(HUB, group, &id)),
        ("removeFromGroup", emulator.remove_from_group(HUB, group, &id)),
        ("grant", emulator.grant(HUB, &id, Permission::SendToGroup, group)),
        ("revoke", emulator.revoke(HUB, &id, Permission::SendToGroup, group)),
        ("a send of the app server", emulator.send_to_group(HUB, group, "x").is_ok()),
        ("our own client", client.join_group(group).is_ok()),
        ("minting a token", emulator.url_for(HUB, &access().group(group)).is_ok()),
        (
            "minting a role",
            emulator.url_for(HUB, &access().role(Role::send_to_group(group))).is_ok(),
        ),
        ("a request", {
            raw.send(&join(group, 1));
            matches!(raw.socket.read(), Ok(Message::Text(ack)) if ack.contains("\"success\":true"))
        }),
    ]
}

#[test]
fn a_group_name_has_at_most_1024_utf_16_units_wherever_it_comes_from() {
    for (group, good) in [
        ("g".repeat(1024), true),
        ("g".repeat(1025), false),
        ("é".repeat(600), true),
        ("🎉".repeat(512), true),
        ("🎉".repeat(513), false),
    ] {
        let taken = taken(&group);
        assert!(taken.iter().all(|(_, taken)| *taken == good), "{} bytes: {taken:?}", group.len());
    }
}

#[test]
fn a_group_name_is_blank_only_if_it_is_all_white_space() {
    for (group, good) in [
        ("", false),
        (" ", false),
        ("\u{a0}\t\u{2003}", false),
        ("\u{feff}", true),
        ("\u{200b}", true),
        ("\0", true),
        ("\u{1}", true),
        (" a b ", true),
        ("a/b*?", true),
    ] {
        let taken = taken(group);
        assert!(taken.iter().all(|(_, taken)| *taken == good), "{group:?}: {taken:?}");
    }
}

#[test]
fn an_escaped_star_in_a_role_is_no_wildcard() {
    let emulator = emulator();
    let access = ClientAccess::new().role(Role::send_to_groups(r"\******"));
    let mut raw = Raw::open(&emulator.url_for(HUB, &access).expect("url"), JSON);
    let groups = ["*", "*a.b", "a.b"];
    let answers: Vec<_> =
        (1..).zip(groups).map(|(i, group)| raw.call(&publish(group, i))).collect();
    assert_eq!(answers, ["", "", "Forbidden"]);
}

// --- ack ids -----------------------------------------------------------------------------------

#[test]
fn only_requests_that_succeeded_push_ack_ids_out_of_the_memory_of_1000() {
    let emulator = emulator();
    let access = ClientAccess::new().role(Role::join_leave_group("g"));
    let mut raw = Raw::open(&emulator.url_for(HUB, &access).expect("url"), JSON);
    for ack_id in 1..=1000 {
        assert_eq!(raw.call(&join("g", ack_id)), "");
    }
    for ack_id in 5000..5010 {
        assert_eq!(raw.call(&join("forbidden", ack_id)), "Forbidden");
    }
    assert_eq!(raw.call(&join("g", 1)), "Duplicate", "nothing has pushed it out");
    assert_eq!(raw.call(&join("g", 5000)), "", "a refused id may be used again");
    assert_eq!(raw.call(&join("g", 1)), "", "the 1001st success has pushed it out");
    assert_eq!(raw.call(&join("g", 5000)), "Duplicate");
}

// --- what waits for a client -------------------------------------------------------------------

/// A client for which the emulator writes next to nothing; what it sends is read all the same.
fn hardly_written_to(emulator: &Emulator, subprotocol: &str) -> Raw {
    let raw = Raw::open(&emulator.url(HUB), subprotocol);
    emulator.faults().slow_write(1, Some(Duration::from_secs(600)));
    raw
}

#[test]
fn acks_and_pongs_count_as_queued_until_they_are_written() {
    for (subprotocol, most) in [(JSON, 1000), (RELIABLE, 1032)] {
        let emulator = emulator();
        let mut raw = hardly_written_to(&emulator, subprotocol);
        for i in 0..most / 2 {
            raw.send(&json!({"type": "ping"}));
            raw.send(&join("g", i));
        }
        assert!(emulator.wait_until(WATCHDOG, |s| s.acks == most / 2 && s.pings == most / 2));
        assert_eq!(
            (emulator.stats().sessions, emulator.stats().overflows),
            (1, 0),
            "{subprotocol}"
        );
        raw.send(&json!({"type": "ping"}));
        assert!(emulator.wait_until(WATCHDOG, |s| s.overflows == 1), "{subprotocol}");
        assert_eq!(emulator.stats().sessions, 0, "it cannot be recovered");
        assert!(raw.is_cut(), "{subprotocol}");
    }
}

#[test]
fn what_is_being_written_counts_as_queued() {
    let emulator = emulator();
    let mut raw = hardly_written_to(&emulator, JSON);
    // Each frame is a little larger than its payload, so that 16 of them are more than 16 MiB.
    for _ in 0..15 {
        assert_eq!(emulator.send_to_all(HUB, "x".repeat(1 << 20)).expect("sent"), 1);
    }
    // The first byte of the first frame shows that it has left the queue for the socket.
    raw.socket.get_mut().read_exact(&mut [0]).expect("a byte");
    assert_eq!(emulator.stats().sessions, 1);
    assert_eq!(emulator.send_to_all(HUB, "x".repeat(1 << 20)).expect("sent"), 1);
    assert_eq!((emulator.stats().sessions, emulator.stats().overflows), (0, 1));
}

#[test]
fn a_client_with_256_calls_in_flight_and_their_echo_is_never_cut() {
    for protocol in Protocol::ALL {
        let emulator = emulator();
        let client =
            Client::builder(emulator.url(HUB)).protocol(*protocol).connect().expect("client");
        client.join_group("g").expect("join");
        within(6 * WATCHDOG, {
            let client = client.clone();
            move || {
                let calls: Vec<_> = (0..5000)
                    .map(|_| client.start(Publish::new("g", "x")).expect("start"))
                    .collect();
                for call in &calls {
                    call.wait().expect("ack");
                }
            }
        });
        let stats = emulator.stats();
        assert_eq!((stats.overflows, stats.connections_opened), (0, 1), "{}", protocol.name());
    }
}

#[test]
fn messages_whose_ttl_has_passed_leave_room_in_the_window() {
    let emulator = emulator();
    let mut away = Raw::open(&emulator.url(HUB), RELIABLE);
    assert_eq!(away.call(&join("g", 1)), "");
    emulator.faults().drop_connections();
    let mut raw = Raw::open(&emulator.url(HUB), JSON);
    for ack_id in 1..=1000 {
        let mut publish = publish("g", ack_id);
        publish["ttlSeconds"] = 10.into();
        assert_eq!(raw.call(&publish), "");
    }
    emulator.advance_clock(Duration::from_secs(10));
    for ack_id in 1001..=2000 {
        assert_eq!(raw.call(&publish("g", ack_id)), "");
    }
    assert_eq!(emulator.connections(HUB).iter().map(|c| c.unacked).sum::<usize>(), 1000);
    away.recover(&emulator);
    for sequence_id in 1001..=2000 {
        assert_eq!(away.read()["sequenceId"], sequence_id);
    }
    assert_eq!(emulator.stats().overflows, 0);
}

#[test]
fn a_send_of_the_app_server_has_at_most_1_mib() {
    let emulator = emulator();
    let mut raw = Raw::open(&emulator.url(HUB), JSON);
    let id = raw.id().to_owned();
    assert_eq!(raw.call(&join("g", 1)), "");
    let json_text = |bytes: usize| Payload::from_json(&"x".repeat(bytes - 2)).expect("JSON");
    for (most, more) in [
        (Payload::from("x".repeat(1 << 20)), Payload::from("x".repeat((1 << 20) + 1))),
        (Payload::from(vec![1; 1 << 20]), Payload::from(vec![1; (1 << 20) + 1])),
        (json_text(1 << 20), json_text((1 << 20) + 1)),
    ] {
        assert_eq!(emulator.send_to_all(HUB, most).expect("sent"), 1);
        raw.read();
        for refused in [
            emulator.send_to_all(HUB, more.clone()),
            emulator.send_to_group(HUB, "g", more.clone()),
            emulator.send_to_user(HUB, "u", more.clone()),
            emulator.send_to_connection(HUB, &id, more.clone()).map(usize::from),
        ] {
            assert_eq!(refused.expect_err("too large").kind(), ErrorKind::InvalidRequest);
        }
    }
    assert_eq!(raw.call(&publish("elsewhere", 2)), "", "nothing was sent");
}
