//! `wps send`: one message, or one per line of standard input.
//!
//! Lines are read on a thread of their own, so that a refusal or the end of the connection is noticed
//! while nothing comes in. What is in memory is bounded: a few lines, and what is under way.

use std::collections::VecDeque;
use std::io::{self, BufRead as _, Read as _};
use std::thread;

use clap::Args;
use webpubsub::crossbeam_channel::{Receiver, bounded, never, select};
use webpubsub::{Client, Error, Event, PendingAck, Publish, Role};

use crate::ending::Ending;
use crate::target::Target;
use crate::{Failure, output, status};

/// This many messages are under way at once: as many as a client sends without an ack.
const UNDER_WAY: usize = 256;
/// This many lines are read ahead.
const READ_AHEAD: usize = 4;
/// The client refuses a longer line, so no more of it is kept.
const LONGEST_LINE: u64 = 1 << 20;

#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// The group to publish to
    group: String,

    /// The message, as text. Without it each line of standard input is one
    message: Option<String>,

    #[command(flatten)]
    target: Target,
}

pub(crate) fn run(flags: &Flags) -> Result<(), Failure> {
    let ending = Ending::new(flags.target.timeout)?;
    ending.settle(send(flags, &ending))
}

fn send(flags: &Flags, ending: &Ending) -> Result<(), Failure> {
    let client = ending.connect(flags.target.source(&[Role::send()])?)?;
    let (acknowledged, outcome) = match &flags.message {
        Some(message) => match client.publish(&flags.group, message) {
            Ok(_) => (1, Ok(())),
            Err(e) => (0, Err(e.into())),
        },
        None => send_lines(&client, &flags.group)?,
    };
    if flags.target.json {
        let group = output::string(&flags.group);
        output::print(format!("{{\"group\":{group},\"acknowledged\":{acknowledged}}}"))?;
    } else if flags.message.is_none() {
        eprintln!("wps: messages acknowledged: {acknowledged}");
    }
    if outcome.is_ok() {
        // Each message has its ack: how the goodbye goes changes nothing.
        let _ = client.close();
    }
    outcome
}

/// Sends each line of standard input; how many were acknowledged, and whether that is all.
fn send_lines(client: &Client, group: &str) -> Result<(u64, Result<(), Failure>), Failure> {
    let input = read_lines()?;
    // Idle ends of the choice below.
    let (no_line, no_outcome) = (never(), never());
    let mut sending = Sending::default();
    while !(sending.input_is_over && sending.under_way.is_empty()) {
        let full = sending.under_way.len() >= UNDER_WAY;
        let lines = if full || sending.input_is_over { &no_line } else { &input };
        let oldest = sending.under_way.front().map_or(&no_outcome, |oldest| oldest.1.receiver());
        select! {
            recv(lines) -> line => match line {
                Ok(line) => sending.line(line, |text| client.start(Publish::new(group, text))),
                Err(_) => sending.input_is_over = true,
            },
            recv(oldest) -> outcome => sending.outcome(outcome.unwrap_or_else(|_| Err(why(client)))),
            recv(client.events()) -> event => match event {
                // Nothing more can be sent, and what is under way has its outcome.
                Ok(Event::Stopped(stopped)) => {
                    sending.stopped(&stopped.cause);
                    break;
                }
                Err(_) => {
                    sending.stopped(&why(client));
                    break;
                }
                Ok(event) => status::print(&event),
            },
        }
    }
    let failed = sending.failed;
    let outcome = if failed.is_empty() { Ok(()) } else { Err(of_lines(&failed)) };
    Ok((sending.acknowledged, outcome))
}

/// A line that was not sent, or not acknowledged, and why.
type Failed = (u64, String);

#[derive(Default)]
struct Sending {
    /// In the order of the lines.
    under_way: VecDeque<(u64, PendingAck)>,
    lines: u64,
    acknowledged: u64,
    failed: Vec<Failed>,
    input_is_over: bool,
}

impl Sending {
    fn line(
        &mut self,
        line: Result<String, String>,
        start: impl FnOnce(String) -> Result<PendingAck, Error>,
    ) {
        self.lines += 1;
        match line.and_then(|text| start(text).map_err(|e| reason(&e))) {
            Ok(pending) => self.under_way.push_back((self.lines, pending)),
            Err(why) => self.fail(self.lines, why),
        }
    }

    fn outcome<T>(&mut self, outcome: Result<T, Error>) {
        let Some((number, _)) = self.under_way.pop_front() else { return };
        match outcome {
            Ok(_) => self.acknowledged += 1,
            Err(e) => self.fail(number, reason(&e)),
        }
    }

    /// The client has ended: what is under way has its outcome.
    fn stopped(&mut self, why: &Error) {
        while let Some((_, pending)) = self.under_way.front() {
            let outcome = pending.wait();
            self.outcome(outcome);
        }
        if self.failed.is_empty() {
            self.fail(self.lines + 1, reason(why));
        }
    }

    /// The first failure ends the input; what is under way still gets its outcome.
    fn fail(&mut self, number: u64, why: String) {
        self.failed.push((number, why));
        self.input_is_over = true;
    }
}

fn reason(error: &Error) -> String {
    let perhaps = if error.may_have_been_delivered() { " (perhaps delivered)" } else { "" };
    format!("{error:#}{perhaps}")
}

/// What ended the client.
fn why(client: &Client) -> Error {
    loop {
        match client.recv() {
            Ok(Event::Stopped(stopped)) => return stopped.cause,
            Ok(_) => {}
            Err(e) => return e,
        }
    }
}

/// One line of text for each reason, since a lost connection fails many messages.
fn of_lines(failed: &[Failed]) -> Failure {
    let mut failed = failed.to_vec();
    failed.sort_by_key(|(number, _)| *number);
    let text: Vec<String> = failed
        .chunk_by(|a, b| a.1 == b.1 && a.0 + 1 == b.0)
        .map(|same| match same {
            [(number, why)] => format!("line {number}: {why}"),
            _ => format!("lines {} to {}: {}", same[0].0, same[same.len() - 1].0, same[0].1),
        })
        .collect();
    Failure { text: text.join("\nwps: "), exit_code: 1 }
}

/// The lines of standard input, up to its end or the first that is none.
fn read_lines() -> Result<Receiver<Result<String, String>>, Failure> {
    let (lines, receiver) = bounded(READ_AHEAD);
    let read = move || {
        let mut input = io::stdin().lock();
        loop {
            let mut bytes = Vec::new();
            let line = match input.by_ref().take(LONGEST_LINE + 2).read_until(b'\n', &mut bytes) {
                Ok(0) => return,
                Ok(_) => text_of(bytes),
                Err(e) => Err(format!("standard input cannot be read: {e}")),
            };
            let bad = line.is_err();
            if lines.send(line).is_err() || bad {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("input".into())
        .spawn(read)
        .map_err(|e| Failure::new("no thread can be started", e))?;
    Ok(receiver)
}

fn text_of(mut bytes: Vec<u8>) -> Result<String, String> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    if bytes.len() as u64 > LONGEST_LINE {
        return Err("it is longer than a message can be (1 MiB)".into());
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".into())
}
