//! `wps listen` as others see it.

#[path = "support/command.rs"]
mod command;

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use command::{WATCHDOG, interrupted, start, start_with};
use serde_json::{Value, json};
use webpubsub::emulator::Emulator;
use webpubsub::{ClientAccess, Payload};

fn emulator() -> Emulator {
    Emulator::start().expect("an emulator")
}

fn publish(emulator: &Emulator, group: &str, data: impl Into<Payload>) {
    assert_eq!(emulator.send_to_group("h", group, data).expect("sent"), 1);
}

#[test]
fn it_prints_one_message_a_line_and_ends_after_the_count() {
    let emulator = emulator();
    let wps = start(&["listen", "a", "b", "--count", "4", "--url", &emulator.url("h")]);
    wps.until_it_says("listening to a, b");
    publish(&emulator, "a", "one\ntwo");
    publish(&emulator, "b", &b"\x01\x02"[..]);
    publish(&emulator, "a", json!({"k": 1}));
    publish(&emulator, "b", "last");
    let ended = wps.wait();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.out, "one\\ntwo\nAQI=\n{\"k\":1}\nlast\n");
}

#[test]
fn json_names_the_group_and_the_kind_of_data() {
    let emulator = emulator();
    let service = emulator.connection_string();
    let args = ["listen", "a", "--count", "3", "--json", "--connection-string", &service];
    let wps = start_with(&args, &[("WEBPUBSUB_HUB", "h")]);
    wps.until_it_says("listening");
    publish(&emulator, "a", "one\n\"two\"");
    publish(&emulator, "a", &b"\x01\x02"[..]);
    publish(&emulator, "a", json!([1, null]));
    let ended = wps.wait();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let lines: Vec<Value> =
        ended.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let line = |kind: &str, data: Value| json!({"group": "a", "fromUserId": null, "dataType": kind, "data": data});
    assert_eq!(
        lines,
        [
            line("text", json!("one\n\"two\"")),
            line("binary", json!("AQI=")),
            line("json", json!([1, null])),
        ]
    );
}

#[test]
fn the_time_limit_counts_everything_and_fails() {
    let emulator = emulator();
    let url = emulator.url("h");
    let begun = Instant::now();
    let ended = start(&["listen", "a", "--timeout", "0.5", "--url", &url]).wait();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("not done within 500ms"), "{ended:?}");
    assert!(begun.elapsed() >= Duration::from_millis(500));

    // A peer that says nothing: the limit holds while it connects too.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("ws://{}/client/hubs/h", silent.local_addr().expect("an address"));
    let ended = start(&["listen", "a", "--timeout", "0.5", "--url", &url]).wait();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.after < Duration::from_secs(2), "{ended:?}");
}

#[test]
fn a_reader_that_goes_away_is_a_clean_and_quiet_end() {
    let emulator = emulator();
    let mut child = Command::new(env!("CARGO_BIN_EXE_wps"))
        .args(["listen", "a", "--url", &emulator.url("h")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    let mut err = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    assert!(err.next().expect("a line").expect("text").contains("listening"));
    drop(child.stdout.take());
    publish(&emulator, "a", "nobody reads this");
    let since = Instant::now();
    let status = loop {
        match child.try_wait().expect("a child") {
            Some(status) => break status,
            None if since.elapsed() > WATCHDOG => {
                let _ = child.kill();
                panic!("watchdog: it does not end");
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    assert_eq!(status.code(), Some(0));
    assert!(err.next().is_none(), "it is quiet");
}

#[test]
fn ctrl_c_ends_it_while_it_connects_and_while_it_listens() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("ws://{}/client/hubs/h", silent.local_addr().expect("an address"));
    let wps = start(&["listen", "a", "--url", &url]);
    let _connecting = silent.accept().expect("it connects");
    interrupted(wps);

    let emulator = emulator();
    let wps = start(&["listen", "a", "--url", &emulator.url("h")]);
    wps.until_it_says("listening");
    interrupted(wps);

    // The peer answers nothing, not even the goodbye.
    let wps = start(&["listen", "a", "--url", &emulator.url("h")]);
    wps.until_it_says("listening");
    emulator.faults().freeze(true);
    interrupted(wps);
}

#[test]
fn an_expired_token_and_a_closed_port_are_failures_that_say_so() {
    let emulator = emulator();
    let access = ClientAccess::new().lifetime(Duration::from_secs(60));
    let url = emulator.url_for("h", &access).expect("a URL");
    emulator.advance_clock(Duration::from_secs(3600));
    let ended = start(&["listen", "a", "--url", &url]).wait();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("401"), "{ended:?}");
    let token = url.split("access_token=").nth(1).expect("a token");
    assert!(!ended.err.contains(token), "{ended:?}");

    let closed = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("one");
    let ended = start(&["listen", "a", "--url", &format!("ws://{closed}/client/hubs/h")]).wait();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("refused"), "{ended:?}");
}

#[test]
fn wrong_usage_is_exit_code_2_and_repeats_no_secret() {
    for args in [
        &["listen", "a"][..],
        &["listen", "--url", "ws://127.0.0.1:1/x"],
        &["listen", "a", "--hub", "h"],
        &["listen", "a", "--url", "no URL"],
        &["listen", "a", "--count", "0", "--url", "ws://127.0.0.1:1/x"],
        &["listen", "a", "--timeout", "0", "--url", "ws://127.0.0.1:1/x"],
        &["listen", "a", "--connection-string", "Endpoint=http://h;AccessKey=SECRET;"],
        &["listen", "a", "--count", "wss://h/client?access_token=SECRET"],
        &["listen", "a", "--hub", "h", "--connection-string", "AccessKey=SECRET;"],
    ] {
        let ended = start(args).wait();
        assert_eq!(ended.code, Some(2), "{args:?}: {ended:?}");
        assert!(!ended.err.is_empty() && !ended.err.contains("SECRET"), "{args:?}: {ended:?}");
    }
}

#[test]
fn help_goes_to_standard_output() {
    for command in ["listen", "send", "event"] {
        let ended = start(&[command, "--help"]).wait();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.out.contains("WEBPUBSUB_CONNECTION_STRING"), "{ended:?}");
        assert!(ended.err.is_empty(), "{ended:?}");
    }
}
