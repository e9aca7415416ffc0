//! `wps emulator` as others see it: its output, its exit codes, and clients against it.

mod support;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{WATCHDOG, Wps, ask, eventually, failed, next_group_message, send_json, until};
use webpubsub::{
    Client, ClientAccess, ConnectionString, Event, Protocol, Reconnect, Recovery, Role,
    SimpleClient, TlsConfig, UrlSource,
};

fn connect(wps: &Wps) -> Client {
    let ms = Duration::from_millis;
    let builder = Client::builder(wps.url())
        .recovery(Recovery::new().attempt_interval(ms(20)))
        .reconnect(Some(Reconnect::new().backoff(ms(1), ms(20))));
    let client = builder.connect().expect("connect");
    client.join_group("g").expect("join");
    client
}

fn publishes(client: &Client) {
    client.publish("g", "x").expect("ack");
    assert_eq!(next_group_message(client).text().expect("text"), "x");
}

// --- how it is reached ---------------------------------------------------------------------------

#[test]
fn it_prints_endpoint_connection_string_url_and_how_to_try_them() {
    let wps = Wps::start_for_people(&[]);
    let text = wps.first_lines.join("\n");
    for part in [
        "endpoint:          http://127.0.0.1:",
        "connection string: Endpoint=http://127.0.0.1:",
        "client access URL: ws://127.0.0.1:",
        "/client/hubs/chat?access_token=",
        "fresh URLs:        http://127.0.0.1:",
        "WEBPUBSUB_URL='ws://127.0.0.1:",
        "cargo run -q --example chat",
        "`help` lists",
    ] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
    assert!(!text.contains("certificate"), "{text}");
}

#[test]
fn json_is_one_line_and_every_way_leads_in() {
    let wps = Wps::start(&["--hub", "room", "--user", "anna", "--group", "g"]);
    let said = |name: &str| wps.json[name].as_str().expect(name).to_owned();
    assert_eq!(wps.json["hub"], "room");
    assert_eq!(wps.json["certificate"], Value::Null);
    assert!(said("url").contains("/client/hubs/room?"));

    let client = Client::connect(said("url")).expect("by the URL");
    assert_eq!(client.user_id().as_deref(), Some("anna"));
    publishes(&client);

    let service = ConnectionString::parse(&said("connectionString")).expect("good");
    let access = ClientAccess::new().group("g").role(Role::send());
    let source = UrlSource::connection_string(service, "room", access);
    let client = Client::connect(source).expect("by the connection string");
    assert_eq!(client.user_id(), None);
    publishes(&client);

    for (method, query, user) in [("GET", "", "anna"), ("POST", "?hub=room&user=bob", "bob")] {
        let answer = ask(&said("negotiate"), method, query);
        let body = answer.split_once("\r\n\r\n").expect("a body").1;
        let body: Value = serde_json::from_str(body).expect("JSON");
        let client = Client::connect(body["url"].as_str().expect("url")).expect("by /negotiate");
        assert_eq!(client.user_id().as_deref(), Some(user));
        publishes(&client);
    }
}

#[test]
fn every_subprotocol_is_built_in() {
    let wps = Wps::start(&["--group", "g"]);
    for protocol in Protocol::ALL {
        let client = Client::builder(wps.url()).protocol(*protocol).connect().expect("connect");
        publishes(&client);
    }
}

#[test]
fn the_roles_are_those_of_the_flags() {
    let wps = Wps::start(&["--role", "sendToGroup.g", "--role", "webpubsub.joinLeaveGroup"]);
    let client = Client::connect(wps.url()).expect("connect");
    client.join_group("other").expect("any");
    client.publish("g", "x").expect("that one");
    let error = client.publish("other", "x").expect_err("not that one");
    assert_eq!(error.service_error_name(), Some("Forbidden"));
}

#[test]
fn anonymous_clients_enter_if_the_flag_lets_them() {
    let without_token = |wps: &Wps| wps.url().split('?').next().expect("a URL").to_owned();
    let wps = Wps::start(&["--anonymous"]);
    Client::connect(without_token(&wps)).expect("anonymous");
    let wps = Wps::start(&[]);
    let error = Client::connect(without_token(&wps)).expect_err("no token");
    assert_eq!(error.http_status(), Some(401));
}

#[test]
fn a_url_stays_good_over_a_restart_on_the_same_port() {
    for key in [&[][..], &["--key", "a-key-of-mine"]] {
        let wps = Wps::start(key);
        let (url, port) = (wps.url(), wps.port().to_string());
        wps.end("TERM");
        let again = Wps::start(&[key, &["--port", &port]].concat());
        assert_eq!(again.port().to_string(), port);
        Client::connect(url).expect("the old URL");
    }
    let wps = Wps::start(&["--key", "one"]);
    let other = Wps::start(&["--key", "two"]);
    let moved = wps.url().replace(&wps.port().to_string(), &other.port().to_string());
    let error = Client::connect(moved).expect_err("of another key");
    assert_eq!(error.http_status(), Some(401));
}

#[test]
fn server_libraries_are_told_that_there_is_no_rest_api() {
    let wps = Wps::start(&[]);
    let url = format!("http://127.0.0.1:{}/api/hubs/chat/:send", wps.port());
    let answer = ask(&url, "POST", "?api-version=2024-12-01");
    assert!(answer.starts_with("HTTP/1.1 501 "), "{answer}");
    assert!(answer.contains("wps emulator"), "{answer}");
}

// --- its life ------------------------------------------------------------------------------------

#[test]
fn tls_leaves_a_certificate_that_signals_remove() {
    for signal in ["TERM", "INT"] {
        let wps = Wps::start(&["--tls"]);
        let path = wps.json["certificate"].as_str().expect("a path").to_owned();
        let pem = std::fs::read_to_string(&path).expect("the certificate");
        let client = Client::builder(wps.url()).tls(TlsConfig::new().root_certificate_pem(pem));
        client.connect().expect("trusted");
        let start = Instant::now();
        assert_eq!(wps.end(signal), Some(0), "SIG{signal}");
        assert!(start.elapsed() < Duration::from_secs(5), "ended after {:?}", start.elapsed());
        assert!(!std::path::Path::new(&path).exists(), "{path} is still there");
    }
}

#[test]
fn with_tls_it_says_how_each_platform_comes_to_trust_it() {
    let wps = Wps::start_for_people(&["--tls"]);
    let text = wps.first_lines.join("\n");
    let line = text.lines().find(|line| line.starts_with("root certificate:")).expect("a path");
    let path = line.split_whitespace().last().expect("a path");
    for part in [
        format!("NODE_EXTRA_CA_CERTS={path}"),
        format!("SSL_CERT_FILE={path}"),
        format!("-file {path} -keystore "),
        "-Djavax.net.ssl.trustStore=".to_owned(),
    ] {
        assert!(text.contains(&part), "{part} is missing in:\n{text}");
    }
}

#[test]
fn a_port_that_is_taken_is_an_error_of_its_own() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = taken.local_addr().expect("address").port().to_string();
    let (code, said) = failed(&["--port", &port]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("port {port}")) && said.contains("in use"), "{said}");
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_is_right() {
    for (args, part) in [
        (&["--prot", "1"][..], "--prot"),
        (&["--event-answer", "maybe"], "echo, ack, fail, drop"),
        (&["--fault", "http 200"], "300 to 599"),
        (&["--fault", "cut"], "at the start"),
        (&["--role", "admin"], "sendToGroup"),
        (&["--latency", "soon"], "500ms"),
        (&["--key", "a;b"], "`;`"),
        (&["--hub", "1-2"], "hub"),
    ] {
        let (code, said) = failed(args);
        assert_eq!(code, Some(2), "{args:?}: {said}");
        assert!(said.contains(part), "{args:?}: {said}");
    }
}

#[test]
fn the_end_of_standard_input_ends_nothing() {
    let mut wps = Wps::start(&[]);
    wps.close_standard_input();
    publishes(&connect(&wps));
    assert_eq!(wps.end("TERM"), Some(0));
}

#[test]
fn a_log_that_nobody_reads_stops_nobody() {
    let wps = Wps::start_unread(&["--log", "frames"]);
    let client = connect(&wps);
    // Some 3 MiB of log, far more than a pipe takes.
    let text = "x".repeat(4000);
    for _ in 0..5000 {
        client.publish("g", text.as_str()).expect("ack");
        next_group_message(&client);
    }
    assert_eq!(wps.end("TERM"), Some(0));
}

// --- faults --------------------------------------------------------------------------------------

#[test]
fn cut_is_recovered() {
    let mut wps = Wps::start(&[]);
    let client = connect(&wps);
    wps.command("cut");
    until(&client, "recovered", |event| matches!(event, Event::Recovered(_)));
    publishes(&client);
    let id = client.connection_id().expect("connected");
    assert_eq!(wps.command(&format!("cut {id}"))["text"], format!("{id} is cut"));
    until(&client, "recovered", |event| matches!(event, Event::Recovered(_)));
    let said = wps.refused("cut nobody");
    assert_eq!(said["error"], "nobody has no connection");
}

#[test]
fn a_recovered_connection_hears_connected_again_if_the_flag_says_so() {
    for (flags, times) in [(&[][..], 1), (&["--connected-after-recovery"], 2)] {
        let mut wps = Wps::start(&[flags, &["--log", "frames"]].concat());
        let client = connect(&wps);
        wps.command("cut");
        until(&client, "recovered", |event| matches!(event, Event::Recovered(_)));
        publishes(&client);
        let in_log = |text: &str| wps.log().matches(text).count();
        // The last line is about the publication, so all that went before it is there.
        eventually("the publication in the log", || in_log("sent to group") == 1);
        assert_eq!(in_log(r#""event":"connected""#), times, "{}", wps.log());
    }
}

#[test]
fn cut_before_ack_makes_a_repetition() {
    let mut wps = Wps::start(&[]);
    let client = connect(&wps);
    wps.command("cut-before-ack");
    assert!(client.publish("g", "once").expect("ack").duplicate);
    assert!(!client.publish("g", "again").expect("ack").duplicate);
}

#[test]
fn freeze_ends_by_itself_and_by_clear() {
    let mut wps = Wps::start(&[]);
    let client = connect(&wps);
    let start = Instant::now();
    wps.command("freeze 300ms");
    client.publish("g", "x").expect("ack");
    assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
    wps.command("freeze 1m");
    wps.command("clear");
    let start = Instant::now();
    client.publish("g", "x").expect("ack");
    assert!(start.elapsed() < WATCHDOG, "{:?}", start.elapsed());
}

#[test]
fn no_recovery_makes_new_connections_until_clear() {
    let mut wps = Wps::start(&[]);
    let client = connect(&wps);
    wps.command("no-recovery");
    for _ in 0..2 {
        wps.command("cut");
        until(&client, "a new one", |e| matches!(e, Event::Connected(c) if c.gap_possible));
    }
    wps.command("clear");
    wps.command("cut");
    until(&client, "recovered", |event| matches!(event, Event::Recovered(_)));
}

#[test]
fn http_refuses_that_many_upgrades() {
    let mut wps = Wps::start(&["--fault", "http 503"]);
    let error = Client::connect(wps.url()).expect_err("by the flag");
    assert_eq!(error.http_status(), Some(503));
    wps.command("http 429 2");
    for _ in 0..2 {
        let error = Client::connect(wps.url()).expect_err("by the command");
        assert_eq!(error.http_status(), Some(429));
    }
    Client::connect(wps.url()).expect("the third");
}

#[test]
fn close_sends_a_close_frame() {
    let mut wps = Wps::start(&[]);
    let client = connect(&wps);
    wps.command("close 1012 restart");
    until(&client, "lost", |event| match event {
        Event::Recovering(lost) => lost.cause.close_code() == Some(1012),
        _ => false,
    });
    until(&client, "recovered", |event| matches!(event, Event::Recovered(_)));
}

#[test]
fn latency_comes_by_flag_and_by_command() {
    let took = |client: &Client| {
        let start = Instant::now();
        client.publish("g", "x").expect("ack");
        start.elapsed()
    };
    let delay = Duration::from_millis(150);
    let mut wps = Wps::start(&["--latency", "150"]);
    let client = connect(&wps);
    assert!(took(&client) >= delay);
    wps.command("latency off");
    assert!((0..5).map(|_| took(&client)).min().expect("five") < delay);
    wps.command("latency 150ms");
    assert!(took(&client) >= delay);
}

#[test]
fn commands_are_answered_and_wrong_ones_with_what_is_right() {
    let mut wps = Wps::start(&["--user", "anna", "--group", "g"]);
    let client = Client::connect(wps.url()).expect("connect");
    let listed = wps.command("list");
    assert_eq!(listed["connections"][0]["id"], *client.connection_id().expect("connected"));
    assert_eq!(listed["connections"][0]["userId"], "anna");
    assert_eq!(listed["connections"][0]["groups"][0], "g");
    assert!(wps.command("help")["text"].as_str().expect("text").contains("freeze TIME"));
    let wrong = wps.say("freez 3s");
    assert_eq!(wrong["ok"], false);
    assert!(wrong["error"].as_str().expect("text").contains("cut-before-ack, freeze, "));
    let wrong = wps.say("freeze");
    assert!(wrong["error"].as_str().expect("text").contains("usage: freeze TIME"));

    let mut wps = Wps::start_for_people(&[]);
    wps.line("nonsense");
    assert!(wps.next_line().starts_with("not done: no such command `nonsense`"));
    wps.line("no-recovery 2");
    assert_eq!(wps.next_line(), "no recovery for 2 attempts");
}

#[test]
fn the_app_server_sends_and_closes_by_command() {
    let mut wps = Wps::start(&["--user", "anna", "--group", "g"]);
    let client = Client::connect(wps.url()).expect("connect");
    let id = client.connection_id().expect("connected");
    for to in
        ["send-to-all", "send-to-group g", "send-to-user anna", &format!("send-to-connection {id}")]
    {
        let done = wps.command(&format!("{to} to you"));
        assert_eq!(done["text"], "sent to 1 connection", "{to}");
        assert_eq!(done["count"], 1, "{to}");
        until(&client, to, |event| match event {
            Event::GroupMessage(m) => m.text().expect("text") == "to you",
            Event::ServerMessage(m) => m.text().expect("text") == "to you",
            _ => false,
        });
    }
    assert_eq!(wps.command("send-to-user nobody x")["count"], 0);
    for command in ["send-to-connection nobody x", "close-connection nobody"] {
        assert_eq!(wps.refused(command)["error"], "there is no connection nobody");
    }
    wps.command(&format!("close-connection {id} enough"));
    until(&client, "closed", |event| matches!(event, Event::Disconnected(_)));
}

// --- events --------------------------------------------------------------------------------------

#[test]
fn events_are_answered_as_the_flag_says() {
    let ms = Duration::from_millis;
    for answer in ["echo", "ack", "fail", "drop", ""] {
        let flag = ["--event-answer", answer];
        let wps = Wps::start(if answer.is_empty() { &[] } else { &flag });
        let builder =
            Client::builder(wps.url()).reconnect(Some(Reconnect::new().backoff(ms(1), ms(20))));
        let client = builder.connect().expect("connect");
        let done = client.send_event("order", "data");
        match answer {
            "echo" | "ack" => drop(done.expect("ack")),
            "fail" | "" => {
                let error = done.expect_err("failed");
                assert_eq!(error.service_error_name(), Some("InternalServerError"), "{answer:?}");
            }
            _ => {
                done.expect_err("failed");
                until(&client, "closed", |event| match event {
                    Event::Disconnected(lost) => lost.cause.close_code() == Some(1011),
                    _ => false,
                });
            }
        }
        if answer == "echo" {
            until(&client, "the echo", |event| match event {
                Event::ServerMessage(m) => m.text().expect("text") == "data",
                _ => false,
            });
        }
    }
}

// --- the log -------------------------------------------------------------------------------------

#[test]
fn the_log_names_what_happened_and_no_secret() {
    let wps = Wps::start(&["--log", "frames", "--tls", "--key", "SECRET-KEY"]);
    let pem = std::fs::read_to_string(wps.json["certificate"].as_str().expect("a path"));
    let pem = pem.expect("the certificate");
    let builder =
        || Client::builder(wps.url()).tls(TlsConfig::new().root_certificate_pem(pem.as_str()));
    let client = builder().connect().expect("connect");
    let id = client.connection_id().expect("connected");
    client.join_group("g").expect("join");
    client.publish("g", "hello").expect("ack");
    client.send_event("order", "x").expect_err("no handler");

    let wrong = wps.url().replace("/hubs/chat", "/hubs/other");
    let wrong = Client::builder(wrong).tls(TlsConfig::new().root_certificate_pem(pem.as_str()));
    wrong.connect().expect_err("the token of another hub");
    let untrusting = Client::builder(wps.url());
    untrusting.connect().expect_err("does not trust the certificate");
    client.close().expect("close");

    for part in [
        &format!("connected: {id}, hub \"chat\", user none, json.reliable.webpubsub.azure.v1")[..],
        &format!("joined: {id}, group \"g\""),
        "sent to group \"g\" of hub \"chat\": 5 bytes, 1 receivers",
        &format!("event: {id}, \"order\", 1 bytes"),
        &format!("call failed: {id}, InternalServerError"),
        "refused: 401 \"/client/hubs/other\": The access token is not valid",
        "the TLS handshake failed (does the client trust the root certificate?)",
        &format!("from {id}: {{\"type\":\"sendToGroup\""),
        &format!("to {id}: {{\"type\":\"ack\""),
        "\"reconnectionToken\":\"***\"",
        &format!("closed by the client: {id}, 1000"),
        &format!("session over: {id}"),
    ] {
        eventually(part, || wps.log().contains(part));
    }
    let log = wps.log();
    let token = wps.url().split("access_token=").nth(1).expect("a token").to_owned();
    for secret in ["SECRET-KEY", token.rsplit('.').next().expect("a signature")] {
        assert!(!log.contains(secret), "{secret} is in:\n{log}");
    }
}

#[test]
fn the_log_says_why_a_message_is_malformed() {
    let wps = Wps::start(&[]);
    let _socket = send_json(&wps, r#"{"type":"sendToGroup","data":"x"}"#);
    for part in [
        "malformed: ",
        "group",
        ", 1007 \"The client message is not a valid JSON protocol message.\"",
    ] {
        eventually(part, || wps.log().contains(part));
    }
}

#[test]
fn the_log_names_a_client_that_speaks_tls_to_an_emulator_without() {
    let wps = Wps::start(&[]);
    Client::connect(wps.url().replace("ws://", "wss://")).expect_err("no TLS there");
    eventually("a refusal", || wps.log().contains("refused: 400 \"\": The client speaks TLS"));
}

#[test]
fn the_log_names_a_client_without_tls_at_an_emulator_with_it() {
    let wps = Wps::start(&["--tls"]);
    Client::connect(wps.url().replace("wss://", "ws://")).expect_err("TLS is required");
    eventually("a reason", || wps.log().contains("the client does not speak TLS"));
}

#[test]
fn the_log_can_be_kept_to_connections() {
    let mut wps = Wps::start(&["--log", "connections"]);
    let client = connect(&wps);
    publishes(&client);
    wps.command("cut");
    until(&client, "recovered", |event| matches!(event, Event::Recovered(_)));
    for part in ["connected: ", "fault: all connections are cut", "link lost: ", "recovered: "] {
        eventually(part, || wps.log().contains(part));
    }
    for part in ["joined: ", "sent to ", "hello"] {
        assert!(!wps.log().contains(part), "{part} is in:\n{}", wps.log());
    }
}

#[test]
fn an_overflow_is_named() {
    let wps = Wps::start(&["--fault", "freeze 1m", "--group", "g"]);
    let simple = SimpleClient::connect(wps.url()).expect("connect");
    let mut wps = wps;
    for _ in 0..1100 {
        wps.command("send-to-group g x");
    }
    eventually("an overflow", || wps.log().contains("overflow: "));
    drop(simple);
}
