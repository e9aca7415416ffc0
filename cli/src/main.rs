//! `wps`: Azure Web PubSub from the command line.
//!
//! One module per subcommand. Standard output holds what was asked for, standard error the log.
//! Exit codes: 0 after a clean end, 1 if it failed, 2 for wrong usage.

mod emulator;
mod logger;

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
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Emulator(flags) => emulator::run(&flags),
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
}

impl From<webpubsub::Error> for Failure {
    fn from(e: webpubsub::Error) -> Self {
        // A value that breaks a rule, such as a hub name, is wrong usage.
        let exit_code = if e.kind() == ErrorKind::Config { 2 } else { 1 };
        Self { text: format!("{e:#}"), exit_code }
    }
}
