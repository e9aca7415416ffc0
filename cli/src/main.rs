//! `wps`: Azure Web PubSub from the command line.
//!
//! One module per subcommand. Standard output holds what was asked for, standard error the log.
//! Exit codes: 0 after a clean end, 1 if it failed, 2 for wrong usage, 130 after Ctrl-C.

mod emulator;
mod ending;
mod event;
mod invoke;
mod listen;
mod logger;
mod output;
mod send;
mod status;
mod target;

use std::fmt;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use webpubsub::ErrorKind;

#[derive(Debug, Parser)]
#[command(name = "wps", version, about = "Azure Web PubSub from the command line")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs an emulator of the service on 127.0.0.1, for clients in any language
    ///
    /// Prints how it is reached on standard output and what happens on standard error, until Ctrl-C
    /// or SIGTERM, or until the terminal is closed (also under nohup; setsid prevents that). Faults and app-server calls are lines of standard input; its end changes nothing.
    /// (In the background of a terminal give it `</dev/null`, because there reading stops a program.)
    ///
    /// GET or POST of /negotiate is answered by {"url":"…"}, with a new token each time; `?hub=` and
    /// `?user=` replace those of the flags.
    Emulator(emulator::Flags),

    /// Joins groups and prints each of their messages on a line
    ///
    /// Line breaks in a text are printed as \n, bytes as base64; --json prints the group and the
    /// sender too. What happens to the connection is printed on standard error. Runs until --count,
    /// --timeout or Ctrl-C, or until nobody reads its output, which is a clean end.
    Listen(listen::Flags),

    /// Publishes a message to a group, or each line of standard input
    ///
    /// Ends when the service has acknowledged all. The first line that is not UTF-8, or is refused,
    /// ends the input: those under way are waited for, the line is named, and the exit code is 1.
    Send(send::Flags),

    /// Sends an event to the app server and prints what it answers
    Event(event::Flags),

    /// Calls the app server and prints its answer (preview)
    ///
    /// Unlike an event it ends with the answer to this very call. The answer is printed on a line, bytes
    /// as base64; one without data is an empty line. With --json the member `answer` is null then.
    Invoke(invoke::Flags),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return wrong_usage(&e),
    };
    let done = match cli.command {
        Command::Emulator(flags) => emulator::run(&flags),
        Command::Listen(flags) => listen::run(&flags),
        Command::Send(flags) => send::run(&flags),
        Command::Event(flags) => event::run(&flags),
        Command::Invoke(flags) => invoke::run(&flags),
    };
    // What is logged is on its way to standard error; what comes now stands behind it.
    logger::finish();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("wps: {}", failure.text);
            ExitCode::from(failure.exit_code)
        }
    }
}

/// Help and version come here too. An argument in the wrong place is repeated, unless it holds a
/// secret.
fn wrong_usage(error: &clap::Error) -> ExitCode {
    let text = error.to_string().to_ascii_lowercase();
    if error.use_stderr()
        && ["access_token", "accesskey"].iter().any(|secret| text.contains(secret))
    {
        eprintln!("wps: an argument that holds a secret is in the wrong place; see `wps --help`");
    } else {
        // Fails only if nobody reads it.
        let _ = error.print();
    }
    ExitCode::from(if error.use_stderr() { 2 } else { 0 })
}

/// Why a command failed, for whoever started it.
#[derive(Debug)]
struct Failure {
    text: String,
    exit_code: u8,
}

impl Failure {
    fn new(what: &str, cause: impl fmt::Display) -> Self {
        Self { text: format!("{what}: {cause}"), exit_code: 1 }
    }

    fn usage(text: impl Into<String>) -> Self {
        Self { text: text.into(), exit_code: 2 }
    }

    fn about(self, what: &str) -> Self {
        Self { text: format!("{what}: {}", self.text), ..self }
    }
}

impl From<webpubsub::Error> for Failure {
    fn from(e: webpubsub::Error) -> Self {
        // A value that breaks a rule, such as a hub name, is wrong usage.
        let usage = matches!(e.kind(), ErrorKind::Config | ErrorKind::InvalidRequest);
        Self { text: format!("{e:#}"), exit_code: if usage { 2 } else { 1 } }
    }
}
