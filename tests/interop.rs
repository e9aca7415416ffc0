//! Conformance of the protobuf codec with an independent implementation: the official `protobuf`
//! package of Python.
//!
//! `WEBPUBSUB_PYTHON` names an interpreter that has it (see `.ci/run`). Without that variable
//! `python3` is tried, and if it lacks the package the test says `skipped:` and passes.

#[cfg(feature = "protobuf")]
mod cases;

use std::io::Write;

/// Shown even when the test's output is captured.
fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: comparison with Python's protobuf: {why}");
}

#[cfg(not(feature = "protobuf"))]
#[test]
fn messages_mean_the_same_to_pythons_protobuf() {
    skipped("this build does not know the protobuf subprotocols");
}

#[cfg(feature = "protobuf")]
mod python {
    use std::process::{Command, Stdio};
    use std::thread;

    use data_encoding::BASE64;
    use serde_json::{Value, json};
    use webpubsub::__codecs::{
        Decoder, Downstream, Frame, Upstream, decode_upstream, encode_downstream, encode_upstream,
    };
    use webpubsub::Protocol;

    use super::cases::{Case, DOWN_KINDS, UP_KINDS, down, up};
    use super::*;
    use crate::fuzz_decode::Random;

    /// Of each kind.
    const MESSAGES: usize = 40;
    const CHECK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/check.py");

    #[derive(Debug, PartialEq)]
    enum Message {
        Up(Upstream<'static>),
        Down(Downstream),
    }

    fn read(root: &str, protocol: Protocol, frame: &Frame) -> Result<Message, String> {
        let read = if root == "Up" {
            decode_upstream(protocol, frame).map(Message::Up)
        } else {
            Decoder::new(protocol).decode(frame).map(Message::Down)
        };
        read.map_err(|why| why.to_string())
    }

    fn write(message: &Message) -> Vec<u8> {
        let frame = match message {
            Message::Up(message) => encode_upstream(Protocol::Protobuf, message),
            Message::Down(message) => encode_downstream(Protocol::Protobuf, message),
        };
        frame.expect("has a form in protobuf").as_bytes().to_vec()
    }

    /// The message, and the line for `check.py`.
    fn prepare(root: &str, case: Case) -> (Message, Value) {
        let json = Frame::Text(case.json.to_string().into());
        let mut message =
            read(root, Protocol::Json, &json).unwrap_or_else(|why| panic!("{why}: {}", case.json));
        let frame = BASE64.encode(&write(&message));
        if let Message::Down(Downstream::GroupMessage(m)) = &mut message {
            m.from_user_id = None; // protobuf has no field for it
        }
        (message, json!({"root": root, "frame": frame, "fields": case.fields}))
    }

    fn interpreter() -> Option<String> {
        if let Ok(named) = std::env::var("WEBPUBSUB_PYTHON") {
            return Some(named);
        }
        let has_package = |python: &str| {
            let mut import = Command::new(python);
            import.args(["-c", "import google.protobuf"]).stderr(Stdio::null());
            import.status().is_ok_and(|status| status.success())
        };
        Some("python3".to_owned()).filter(|python| has_package(python))
    }

    /// Hands the lines to `check.py` and gives its answers.
    fn ask(python: &str, lines: String) -> Vec<Value> {
        let mut child = Command::new(python)
            .arg(CHECK)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{python} cannot be started: {e}"));
        let mut stdin = child.stdin.take().expect("piped");
        // It answers while we write.
        let writer = thread::spawn(move || stdin.write_all(lines.as_bytes()));
        let output = child.wait_with_output().expect("output");
        assert!(output.status.success(), "check.py failed ({}), see above", output.status);
        writer.join().expect("joined").expect("all lines written");
        let answers = String::from_utf8(output.stdout).expect("UTF-8");
        answers.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    #[test]
    fn messages_mean_the_same_to_pythons_protobuf() {
        let Some(python) = interpreter() else {
            return skipped("neither WEBPUBSUB_PYTHON nor `python3` with the package `protobuf`");
        };
        let mut random = Random::new(0x9e37_79b9_7f4a_7c15);
        let mut cases = Vec::new();
        for _ in 0..MESSAGES {
            cases.extend((0..UP_KINDS).map(|kind| ("Up", up(&mut random, kind))));
            cases.extend((0..DOWN_KINDS).map(|kind| ("Down", down(&mut random, kind))));
        }
        let prepared: Vec<_> =
            cases.into_iter().map(|(root, case)| (root, prepare(root, case))).collect();
        let lines = prepared.iter().map(|(_, (_, line))| format!("{line}\n")).collect();
        let answers = ask(&python, lines);
        assert_eq!(answers.len(), prepared.len());

        let mut failures = Vec::new();
        for ((root, (message, line)), answer) in prepared.iter().zip(&answers) {
            for way in ["again", "built", "extended"] {
                let Some(base64) = answer[way].as_str() else {
                    failures.push(format!("{}: {line}", answer["error"]));
                    break;
                };
                let bytes = BASE64.decode(base64.as_bytes()).expect("base64");
                let got = read(root, Protocol::Protobuf, &Frame::Binary(bytes.into()));
                if got.as_ref() != Ok(message) {
                    failures.push(format!("{way}: {got:?}, not {message:?}"));
                }
            }
        }
        assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
        println!("compared: {} messages, each in both directions", prepared.len());
    }
}
