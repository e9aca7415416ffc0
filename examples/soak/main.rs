//! A soak: publishers and subscribers live through seeded random faults, and at the end it is
//! proved that nothing was lost, repeated or reordered beyond what the subprotocol allows.
//!
//! ```sh
//! cargo run --release --features emulator,preview --example soak  # 60 s, all subprotocols, a fault about every 100 ms
//! cargo run --release --features emulator,preview --example soak -- --seconds 10 --seed 7 --protocol reliable-json
//! cargo run --release --features emulator,preview --example soak -- --help
//! ```
//!
//! It needs no service: everything runs against the embedded emulator, whose laboratory drops,
//! resets, freezes and refuses (`faults.rs`, `inject.rs`, `endings.rs`). Consumers pause
//! (`listener.rs`), event handlers are slow (`publisher.rs`). The publishers' clients also publish
//! streams, which the subscribers read (`streams.rs`), and invoke (`invocations.rs`); there stands
//! what must hold of those. `check.rs` and `verdict.rs` say what must hold of everything else, `run.rs`
//! is the play itself. The exit code is 1 if anything was violated, 2 if too little trouble was met for
//! the run to prove something, 64 for a wrong command line.
//!
//! The seed decides the plan of faults. Threads and sockets have their own timing, so a second run
//! with the same seed meets the same plan, not the same microseconds.

mod check;
mod endings;
mod faults;
mod inject;
mod invocations;
mod listener;
mod publisher;
mod report;
mod run;
mod streams;
mod verdict;

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use run::Settings;
use verdict::names;
use webpubsub::Protocol;

const HELP: &str = "\
Publishers and subscribers over the embedded emulator, through random faults.

Usage: cargo run --release --features emulator,preview --example soak -- [FLAGS]

  --seconds N       how long faults are injected, all subprotocols together (default 60)
  --seed N          of the plan of faults (default: from the clock)
  --protocol NAME   json, reliable-json, protobuf, reliable-protobuf (those two with the
                    feature `protobuf`), or all of the build in turn (default all)
  --publishers N    how many clients publish, at least 2 (default 4)
  --subscribers N   how many clients receive, at least 2 (default 4)
  --fault-every MS  the mean time between two faults (default 100)
  --help            this text

Subscribers also pause: 0.5 to 40 s, or less if a subprotocol has less than 160 s.
With a reliable subprotocol every second publisher and subscriber is now and then made to lose
its session for good; that one of the others loses it is a violation.
Exit code: 0 proved, 1 violation, 2 too little trouble met (where each subprotocol had at least
15 s), 64 wrong command line.";

/// A subprotocol that has less time cannot meet everything; it only says so.
const ENOUGH: Duration = Duration::from_secs(15);

fn main() -> ExitCode {
    let settings = match parse(std::env::args().skip(1)) {
        Ok(Some(settings)) => settings,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            eprintln!("soak: {why}; see --help");
            return ExitCode::from(64);
        }
    };
    println!("seed {} ({} s)", settings.seed, settings.time.as_secs());
    let report = run::run(&settings);
    println!("{report}");
    if !report.violations.is_empty() {
        return ExitCode::from(1);
    }
    if !report.too_little.is_empty() && settings.share() >= ENOUGH {
        return ExitCode::from(2);
    }
    ExitCode::SUCCESS
}

/// `None`: help was asked for.
fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Settings>, String> {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut settings = Settings {
        time: Duration::from_secs(60),
        seed: u64::from(clock.subsec_nanos()) ^ clock.as_secs(),
        publishers: 4,
        subscribers: 4,
        fault_every: Duration::from_millis(100),
        protocols: Protocol::ALL.to_vec(),
    };
    while let Some(flag) = args.next() {
        if flag == "--help" || flag == "-h" {
            return Ok(None);
        }
        let mut value = |what: &str| args.next().ok_or_else(|| format!("`{flag}` needs {what}"));
        if flag == "--protocol" {
            settings.protocols = protocols(&value("a name")?)?;
            continue;
        }
        let mut number = |least: u64| {
            let text = value("a number")?;
            match text.parse::<u64>() {
                Ok(n) if n >= least => Ok(n),
                Ok(_) => Err(format!("`{flag}` must be {least} at least")),
                Err(_) => Err(format!("`{flag}` needs a number, not `{text}`")),
            }
        };
        match flag.as_str() {
            "--seconds" => settings.time = Duration::from_secs(number(1)?),
            "--seed" => settings.seed = number(0)?,
            "--publishers" => settings.publishers = number(2)? as usize,
            "--subscribers" => settings.subscribers = number(2)? as usize,
            "--fault-every" => settings.fault_every = Duration::from_millis(number(1)?),
            _ => return Err(format!("unknown flag `{flag}`")),
        }
    }
    Ok(Some(settings))
}

fn protocols(name: &str) -> Result<Vec<Protocol>, String> {
    if name == "all" {
        return Ok(Protocol::ALL.to_vec());
    }
    let found = names().find(|(known, _)| *known == name).map(|(_, protocol)| vec![protocol]);
    found.ok_or_else(|| {
        let known: Vec<_> = names().map(|(known, _)| known).collect();
        format!("`--protocol` knows {} and all in this build, not `{name}`", known.join(", "))
    })
}
