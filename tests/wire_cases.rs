//! Raw frames, and what Microsoft's own emulator of the service was seen to answer to them.
//!
//! `wire_cases/cases/*.txt` holds the cases, a file for each group. Each runs against the emulator;
//! where an answer is recorded (lines that begin with `<`), the emulator's must be the same. A case
//! without one must only come to its end; `--nocapture` prints what was answered, in the form in
//! which it is recorded. The order of a message's keys, the text of an HTTP refusal, and how TCP ends
//! after a Close are not compared; the rest is, to the letter.
//!
//! `known.txt` lists the cases whose answers differ, and why. A listed case that no longer differs
//! fails the test, so the list cannot grow old.
//!
//! - `WEBPUBSUB_WIRE_CASES_CONNECTION_STRING` (`Endpoint=http://HOST:PORT;AccessKey=KEY;`) names a
//!   service to ask instead, one that has no event handler; `known.txt` does not count there.
//! - `WEBPUBSUB_WIRE_CASES` runs only the cases whose `group: name` contains this text.
//!
//! # To add a case
//!
//! ```text
//! case join, again with same id
//!   open json
//!   > {"type":"joinGroup","group":"g","ackId":1}
//!   > {"type":"joinGroup","group":"g","ackId":1}
//!   < {"type":"ack","ackId":1,"success":true}
//!   < {"type":"ack","ackId":1,"success":false,"error":{"name":"Duplicate","message":"…"}}
//! ```
//!
//! | step | what the client does |
//! | --- | --- |
//! | `open KIND CLAIMS` | connects: `json`, `reliable-json`, `protobuf`, `reliable-protobuf`, `simple`; further claims of the token as JSON, `null` takes one away |
//! | `recover LINK KIND` | connects with the connection id and reconnection token of that link |
//! | `> TEXT` | sends a text frame |
//! | `>> MESSAGE` | sends a binary frame: a protobuf message as `{joinGroup:{group:"g",ackId:1}}`, or `<hex>` |
//! | `frame FIRST TEXT` | sends a frame with this first byte (`0x89` is a Ping); `unmasked` and `length=N` before the text make it a bad one |
//! | `close CODE REASON` | sends a Close frame; nothing else is sent behind it |
//! | `cut`, `shutdown` | resets the connection, ends its writing half |
//! | `listen` | listens for a moment, where no frame can be sent any more |
//! | `forget` | drops the answers so far |
//!
//! Before `open` and `recover` there may be `token TEXT` (or `none`), `sign ALGORITHM KEY`,
//! `hub NAME`, `path PATH`, `query PARAMETERS`, `header NAME: VALUE` (no value: without that header),
//! `method NAME`, `subprotocol NAMES`.
//!
//! `LINK: ` in front of a step or an answer names the link, if there is more than one; `1..9 ` in
//! front of it repeats it, with the number for each `#`. An answer is a text message as it came, a
//! protobuf message in the notation above, a binary message as `<hex>`, `Close CODE "REASON"`,
//! `Pong TEXT`, `101 SUBPROTOCOL`, `HTTP STATUS`, `ended without Close`, or `(nothing)`. The answer
//! to the upgrade and the `connected` message are compared only where one of them is recorded, and
//! a link without recorded answers is not compared.
//!
//! Double braces: `{{x*5}}` repeats, `{{1..3 "k#"}}` counts (with commas), `{{U+000A}}` is a
//! character, `{{hex ff}}` bytes; in what belongs to a request also `{{now+60}}`, `{{authority}}`,
//! `{{port}}`, `{{token}}`, `{{LINK.id}}`, `{{LINK.token}}`.

mod link;
mod notation;
mod player;
mod script;
mod token;

use std::env;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use player::Endpoint;
use script::{Answers, Case};

use crate::support::{emulator, within};

/// Cases that run at once, each with an emulator of its own: they use the same groups.
const WORKERS: usize = 4;
/// For all of them. They take seconds; one that hangs has a watchdog of its own.
const LIMIT: Duration = Duration::from_secs(300);

type Outcome = Result<Answers, String>;

#[test]
fn answers_are_the_recorded_ones() {
    within(LIMIT, || {
        let wanted = env::var("WEBPUBSUB_WIRE_CASES").unwrap_or_default();
        let elsewhere = env::var("WEBPUBSUB_WIRE_CASES_CONNECTION_STRING").ok();
        let is_known = |title: &str| cfg!(feature = "protobuf") || !title.contains("protobuf");
        let cases: Vec<_> = script::load()
            .into_iter()
            .filter(|case| case.title.contains(&wanted) && is_known(&case.title))
            .collect();
        let outcomes = match &elsewhere {
            Some(service) => play_all(&cases, 1, Some(service)),
            None => play_all(&cases, WORKERS, None),
        };
        let known = if elsewhere.is_some() { Vec::new() } else { script::load_known() };
        let (report, failures) = judge(&cases, &outcomes, &known);
        println!("{report}");
        assert!(failures.is_empty(), "see above:\n{}", failures.join("\n"));
    });
}

#[test]
fn known_differences_are_cases_with_an_answer() {
    let cases = script::load();
    for title in script::load_known() {
        let case = cases.iter().find(|case| case.title == title);
        assert!(case.is_some_and(|case| !case.recorded.is_empty()), "known.txt: {title}");
    }
}

/// Each case on one of the workers; the outcomes in the order of the cases.
fn play_all(cases: &[Case], workers: usize, service: Option<&String>) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let own = service.is_none().then(emulator);
                let own = own.as_ref().map(|emulator| emulator.connection_string());
                let service = own.as_ref().or(service).expect("one of the two");
                let endpoint = Endpoint::parse(service).expect("a connection string");
                while let Some((at, case)) = {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    cases.get(at).map(|case| (at, case))
                } {
                    let outcome = player::play(case, &endpoint);
                    outcomes.lock().expect("lock").push((at, outcome));
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().expect("lock");
    outcomes.sort_by_key(|(at, _)| *at);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// What is to be shown, and what is wrong.
fn judge(cases: &[Case], outcomes: &[Outcome], known: &[String]) -> (String, Vec<String>) {
    let (mut report, mut failures) = (String::new(), Vec::new());
    let (mut equal, mut differing, mut unrecorded) = (0, 0, 0);
    for (case, outcome) in cases.iter().zip(outcomes) {
        let listed = known.contains(&case.title);
        let answers = match outcome {
            Ok(answers) => answers,
            Err(why) => {
                failures.push(format!("{}: {why}", case.title));
                continue;
            }
        };
        if case.recorded.is_empty() {
            unrecorded += 1;
            let _ = write!(report, "{}, not recorded\n{}", case.title, lines("<", answers));
        } else if case.agrees(answers) {
            equal += 1;
            if listed {
                failures.push(format!("{}: no longer differs, see known.txt", case.title));
            }
        } else {
            differing += 1;
            let recorded: Answers = case.recorded.clone().into_iter().collect();
            let (recorded, answers) = (lines("recorded", &recorded), lines("here    ", answers));
            let note = if listed { " (known)" } else { "" };
            let _ = write!(report, "{} differs{note}\n{recorded}{answers}", case.title);
            if !listed {
                failures.push(format!("{}: differs", case.title));
            }
        }
    }
    let _ = write!(report, "{equal} equal, {differing} differ, {unrecorded} have nothing recorded");
    (report, failures)
}

/// A line for each answer; long ones and long series are cut.
fn lines(mark: &str, answers: &Answers) -> String {
    const ENDS: usize = 5;
    let mut out = String::new();
    for (link, heard) in answers {
        let link = if link.is_empty() { String::new() } else { format!("{link}: ") };
        let nothing = [String::from("(nothing)")];
        let heard = if heard.is_empty() { &nothing[..] } else { heard };
        for (n, line) in heard.iter().enumerate() {
            let line = match line.char_indices().nth(300) {
                Some((end, _)) => format!("{}… ({} bytes)", &line[..end], line.len()),
                None => line.chars().map(visible).collect(),
            };
            match n {
                ENDS if heard.len() > 2 * ENDS => {
                    let _ = writeln!(out, "  {link}{mark} … {} in all", heard.len());
                }
                n if n < ENDS || n + ENDS >= heard.len() || heard.len() <= 2 * ENDS => {
                    let _ = writeln!(out, "  {link}{mark} {line}");
                }
                _ => {}
            }
        }
    }
    out
}

/// As a case would write it.
fn visible(c: char) -> String {
    match c {
        '\u{a0}' | '\u{200b}' | '\u{2028}' | '\u{feff}' => {
            format!("{{{{U+{:04X}}}}}", u32::from(c))
        }
        c if c.is_control() => format!("{{{{U+{:04X}}}}}", u32::from(c)),
        c => c.to_string(),
    }
}
