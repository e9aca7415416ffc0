//! `wps event` as others see it.

#[path = "support/command.rs"]
mod command;

use command::start;
use serde_json::{Value, json};
use webpubsub::emulator::{Emulator, EventAnswer};

fn emulator() -> Emulator {
    Emulator::builder()
        .event_handler(|event| match event.event.as_str() {
            "echo" => EventAnswer::Message(event.payload.clone()),
            "ack" => EventAnswer::Nothing,
            _ => EventAnswer::Failure,
        })
        .start()
        .expect("an emulator")
}

#[test]
fn the_answer_of_the_app_server_is_printed() {
    let emulator = emulator();
    let url = emulator.url("h");
    let ended = start(&["event", "echo", "a\nb", "--url", &url]).end();
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "a\\nb\n"), "{ended:?}");
    let ended = start(&["event", "ack", "--url", &url]).end();
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), ""), "{ended:?}");

    let ended = start(&["event", "echo", "a\nb", "--json", "--url", &url]).end();
    let line: Value = serde_json::from_str(&ended.out).expect("JSON");
    assert_eq!(line["event"], "echo");
    assert_eq!(line["answers"], json!([{"dataType": "text", "data": "a\nb"}]));
}

#[test]
fn a_failed_handler_is_exit_code_1_and_a_bad_name_2() {
    let emulator = emulator();
    let url = emulator.url("h");
    let ended = start(&["event", "fail", "x", "--url", &url]).end();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.starts_with("wps: "), "{ended:?}");
    let ended = start(&["event", "", "x", "--url", &url]).end();
    assert_eq!(ended.code, Some(2), "{ended:?}");
}
