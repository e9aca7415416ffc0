//! What the emulator answers to plain HTTP requests, and its latency.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use webpubsub::emulator::Emulator;
use webpubsub::{Client, ClientAccess, Event, Publish, Role, SimpleClient};

use crate::support::{WATCHDOG, client, emulator, next_group_message, within};

/// One request, and the whole answer.
fn ask(emulator: &Emulator, request: &str) -> String {
    let mut socket = TcpStream::connect(("127.0.0.1", emulator.port())).expect("connect");
    socket.set_read_timeout(Some(WATCHDOG)).expect("timeout");
    socket.write_all(request.as_bytes()).expect("write");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer, and the end");
    answer
}

fn next(client: &SimpleClient) -> Event {
    client.recv_timeout(WATCHDOG).expect("open").expect("watchdog: no event")
}

fn negotiating() -> Emulator {
    let access = ClientAccess::new().user_id("anna").role(Role::send()).group("g");
    Emulator::builder().negotiate("hub", access).start().expect("emulator")
}

fn url_in(answer: &str) -> String {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
    body["url"].as_str().expect("a field `url`").to_owned()
}

#[test]
fn negotiate_hands_out_a_url_for_get_and_post() {
    within(WATCHDOG, || {
        let emulator = negotiating();
        for request in [
            "GET /negotiate HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "POST /negotiate HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}".to_owned(),
            // The answer must survive a body that nobody reads.
            format!(
                "POST /negotiate HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n{}",
                "x".repeat(60_000)
            ),
        ] {
            let answer = ask(&emulator, &request);
            assert!(answer.contains("\r\nAccess-Control-Allow-Origin: *\r\n"), "{answer}");
            let client = Client::connect(url_in(&answer)).expect("connect");
            assert_eq!(client.user_id().as_deref(), Some("anna"));
            client.publish("g", "x").expect("by its role");
            assert_eq!(next_group_message(&client).text().expect("text"), "x", "by its group");
        }
        assert_eq!(emulator.stats().upgrades_refused, 0);
    });
}

#[test]
fn negotiate_takes_hub_and_user_from_the_query() {
    within(WATCHDOG, || {
        let emulator = negotiating();
        let get = |target: &str| ask(&emulator, &format!("GET {target} HTTP/1.1\r\n\r\n"));
        let url = url_in(&get("/negotiate?hub=other&user=b%20b"));
        assert!(url.contains("/client/hubs/other?"), "{url}");
        let client = Client::connect(url).expect("connect");
        assert_eq!(client.user_id().as_deref(), Some("b b"));
        let wrong = get("/negotiate?hub=1-2");
        assert!(wrong.starts_with("HTTP/1.1 400 "), "{wrong}");
    });
}

#[test]
fn a_browser_may_ask_for_negotiate_from_any_page() {
    within(WATCHDOG, || {
        let emulator = negotiating();
        let answer = ask(&emulator, "OPTIONS /negotiate HTTP/1.1\r\nOrigin: http://page\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
        for header in ["Origin: *", "Methods: GET, POST, OPTIONS", "Headers: *"] {
            assert!(answer.contains(&format!("\r\nAccess-Control-Allow-{header}\r\n")), "{answer}");
        }
        let other = ask(&emulator, "PUT /negotiate HTTP/1.1\r\n\r\n");
        assert!(other.starts_with("HTTP/1.1 405 "), "{other}");
    });
}

#[test]
fn without_being_asked_for_there_is_no_negotiate() {
    let answer = ask(&emulator(), "GET /negotiate HTTP/1.1\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
}

#[test]
fn server_libraries_are_told_that_there_is_no_rest_api() {
    within(WATCHDOG, || {
        let emulator = emulator();
        for start in [
            "POST /api/hubs/chat/:send?api-version=2024-12-01",
            "HEAD /api/hubs/chat/connections/c1",
            "GET /api/health",
        ] {
            let body = "x".repeat(30_000);
            let answer = ask(&emulator, &format!("{start} HTTP/1.1\r\nHost: x\r\n\r\n{body}"));
            assert!(answer.starts_with("HTTP/1.1 501 Not Implemented\r\n"), "{start}: {answer}");
        }
        let answer = ask(&emulator, "GET /api/health HTTP/1.1\r\n\r\n");
        assert!(answer.contains("has no REST API"), "{answer}");
        assert_eq!(emulator.stats().upgrades_attempted, 0);
    });
}

#[test]
fn latency_delays_what_the_service_writes_until_it_is_switched_off() {
    within(WATCHDOG, || {
        const DELAY: Duration = Duration::from_millis(150);
        let emulator = emulator();
        let client = client(&emulator);
        client.join_group("g").expect("join");
        let simple = SimpleClient::connect(emulator.url("hub")).expect("connect");
        emulator.faults().latency(Some(DELAY));

        let start = Instant::now();
        client.publish("g", "x").expect("ack");
        assert!(start.elapsed() >= DELAY, "the ack came after {:?}", start.elapsed());
        let start = Instant::now();
        assert_eq!(emulator.send_to_all("hub", "all").expect("sent"), 2);
        while !matches!(next(&simple), Event::ServerMessage(_)) {}
        assert!(start.elapsed() >= DELAY, "the message came after {:?}", start.elapsed());
        // What is queued meanwhile goes together, so a burst is not that much slower.
        let start = Instant::now();
        let burst = (0..50).map(|i| client.start(Publish::new("g", i.to_string())).expect("start"));
        for pending in burst.collect::<Vec<_>>() {
            pending.wait().expect("ack");
        }
        assert!(start.elapsed() < 50 * DELAY, "50 acks took {:?}", start.elapsed());

        emulator.faults().clear();
        let quickest = (0..5).map(|_| {
            let start = Instant::now();
            client.publish("g", "x").expect("ack");
            start.elapsed()
        });
        assert!(quickest.min().expect("five") < DELAY);
    });
}
