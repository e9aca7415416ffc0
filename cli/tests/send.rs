//! `wps send` as others see it.

#[path = "support/command.rs"]
mod command;

use std::time::Duration;

use command::{WATCHDOG, interrupted, start, start_with};
use serde_json::{Value, json};
use webpubsub::emulator::Emulator;
use webpubsub::{Client, ClientAccess, Role, Subscription};

/// The emulator and somebody who is in the group `g`.
fn service() -> (Emulator, Client, Subscription) {
    let emulator = Emulator::start().expect("an emulator");
    let client = Client::connect(emulator.url("h")).expect("connect");
    let group = client.subscribe("g").expect("joined");
    (emulator, client, group)
}

/// The next texts of the group.
fn texts(group: &Subscription, count: usize) -> Vec<String> {
    let message = |message: webpubsub::Result<webpubsub::GroupMessage>| {
        message.expect("a message").text().expect("text").to_owned()
    };
    group.messages().take(count).map(message).collect()
}

#[test]
fn a_message_of_the_command_line_is_published() {
    let (emulator, _client, group) = service();
    let ended = start_with(&["send", "g", "hello"], &[("WEBPUBSUB_URL", &emulator.url("h"))]).end();
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), ""), "{ended:?}");
    assert_eq!(texts(&group, 1), ["hello"]);

    let ended = start(&["send", "g", "again", "--json", "--url", &emulator.url("h")]).end();
    let line: Value = serde_json::from_str(&ended.out).expect("JSON");
    assert_eq!(line, json!({"group": "g", "acknowledged": 1}));
}

#[test]
fn each_line_of_standard_input_is_a_message_in_order() {
    let (emulator, _client, group) = service();
    let mut wps = start(&["send", "g", "--json", "--url", &emulator.url("h")]);
    let lines: Vec<String> = (0..1000).map(|n| format!("line {n}")).collect();
    // The last one has no line end.
    wps.input(lines.join("\n").as_bytes());
    let ended = wps.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let line: Value = serde_json::from_str(&ended.out).expect("JSON");
    assert_eq!(line["acknowledged"], 1000);
    assert_eq!(texts(&group, 1000), lines);
}

#[test]
fn a_line_that_is_not_utf_8_is_named_and_those_before_it_are_sent() {
    let (emulator, _client, group) = service();
    let mut wps = start(&["send", "g", "--url", &emulator.url("h")]);
    wps.input(b"one\r\ntwo\n\xff\xfe\nfour\n");
    // Standard input stays open: the bad line ends it all the same.
    let ended = wps.wait();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("line 3: it is not UTF-8"), "{ended:?}");
    assert!(ended.err.contains("messages acknowledged: 2"), "{ended:?}");
    assert_eq!(texts(&group, 2), ["one", "two"]);
}

#[test]
fn a_refused_line_and_one_that_is_too_long_are_named() {
    let (emulator, _client, _group) = service();
    let access = ClientAccess::new().role(Role::send_to_group("other"));
    let url = emulator.url_for("h", &access).expect("a URL");
    let mut wps = start(&["send", "g", "--url", &url]);
    wps.input(b"one\n");
    let ended = wps.wait();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("line 1: "), "{ended:?}");

    let mut wps = start(&["send", "g", "--url", &emulator.url("h")]);
    let mut lines = b"one\n".to_vec();
    lines.resize(1_048_576 + 6, b'x');
    wps.input(&lines);
    let ended = wps.end();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("line 2: it is longer"), "{ended:?}");
}

#[test]
fn the_end_of_the_connection_is_noticed_while_no_line_comes() {
    let (emulator, _client, group) = service();
    let access = ClientAccess::new().role(Role::send()).lifetime(Duration::from_secs(60));
    let url = emulator.url_for("h", &access).expect("a URL");
    let mut wps = start(&["send", "g", "--url", &url]);
    wps.input(b"one\n");
    assert_eq!(texts(&group, 1), ["one"]);
    // A session that is over, and a token that is too old for a new one.
    emulator.advance_clock(Duration::from_secs(3600));
    emulator.faults().close_connections(1008, "over");
    let ended = wps.wait();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("401"), "{ended:?}");
}

#[test]
fn ctrl_c_and_the_time_limit_end_it_while_acks_are_missing() {
    let (emulator, _client, group) = service();
    emulator.faults().hold_acks(true);
    let url = emulator.url("h");
    let wps = start(&["send", "g", "one", "--url", &url]);
    assert_eq!(texts(&group, 1), ["one"]);
    interrupted(wps);

    // And while it waits for a line.
    let mut wps = start(&["send", "g", "--url", &url]);
    wps.input(b"two\n");
    assert_eq!(texts(&group, 1), ["two"]);
    interrupted(wps);

    let ended = start(&["send", "g", "three", "--timeout", "0.5", "--url", &url]).wait();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.after < WATCHDOG / 10, "{ended:?}");
    assert!(ended.err.contains("--timeout"), "{ended:?}");
}
