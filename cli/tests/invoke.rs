//! `wps invoke` as others see it.

#[path = "support/command.rs"]
mod command;

use command::{interrupted, start};
use serde_json::{Value, json};
use webpubsub::Payload;
use webpubsub::emulator::{Emulator, EventAnswer};

fn emulator() -> Emulator {
    Emulator::builder()
        .event_handler(|event| match event.event.as_str() {
            _ if event.invocation_id.is_none() => EventAnswer::Failure,
            "echo" => EventAnswer::Message(event.payload.clone()),
            "sum" => EventAnswer::Message(Payload::from_json(&[1, 2]).expect("JSON")),
            "nothing" => EventAnswer::Nothing,
            _ => EventAnswer::Error { name: "OutOfEggs".into(), message: "try ham".into() },
        })
        .start()
        .expect("an emulator")
}

#[test]
fn the_answer_of_the_app_server_is_printed() {
    let emulator = emulator();
    let url = emulator.url("h");
    for (args, line) in
        [(&["echo", "a\nb"][..], "a\\nb\n"), (&["sum"], "[1,2]\n"), (&["nothing", "x"], "\n")]
    {
        let ended = start(&[&["invoke"], args, &["--url", &url]].concat()).end();
        assert_eq!((ended.code, ended.out.as_str()), (Some(0), line), "{ended:?}");
    }
    for (name, answer) in [
        ("echo", json!({"dataType": "text", "data": "x"})),
        ("sum", json!({"dataType": "json", "data": [1, 2]})),
        ("nothing", Value::Null),
    ] {
        let ended = start(&["invoke", name, "x", "--json", "--url", &url]).end();
        let line: Value = serde_json::from_str(&ended.out).expect("JSON");
        assert_eq!(line, json!({"event": name, "answer": answer}));
    }
    assert_eq!(emulator.stats().invocations, 6);
}

#[test]
fn a_failed_handler_is_exit_code_1_and_a_bad_name_2() {
    let emulator = emulator();
    let url = emulator.url("h");
    let ended = start(&["invoke", "eggs", "x", "--url", &url]).end();
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
    assert!(ended.err.contains("OutOfEggs: try ham"), "{ended:?}");
    let ended = start(&["invoke", "", "x", "--url", &url]).end();
    assert_eq!(ended.code, Some(2), "{ended:?}");
}

#[test]
fn a_time_limit_and_ctrl_c_end_it() {
    let emulator = emulator();
    let url = emulator.url("h");
    emulator.faults().hold_invocation_responses(true);
    let ended = start(&["invoke", "echo", "x", "--timeout", "0.5", "--url", &url]).end();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("not done within"), "{ended:?}");

    let running = start(&["invoke", "echo", "x", "--url", &url]);
    let limit = std::time::Duration::from_secs(20);
    assert!(emulator.wait_until(limit, |stats| stats.invocations == 2), "watchdog");
    interrupted(running);
}
