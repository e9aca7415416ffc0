//! A soak: publishers and subscribers live through seeded random faults, and at the end it is
//! proved that nothing was lost, repeated or reordered.
//!
//! ```sh
//! cargo run --release --example soak                        # 60 s, a fault about every 100 ms
//! cargo run --release --example soak -- --seconds 10 --seed 7
//! cargo run --release --example soak -- --help
//! ```
//!
//! It needs no service: everything runs against the embedded emulator, whose laboratory drops,
//! resets, freezes and refuses (`faults.rs`, `inject.rs`). `check.rs` says what must hold, `run.rs` is the play
//! itself. The exit code is 1 if anything was violated, 2 if too little trouble was met for the
//! run to prove something, 64 for a wrong command line.
//!
//! The seed decides the plan of faults. Threads and sockets have their own timing, so a second run
//! with the same seed meets the same plan, not the same microseconds.

mod check;
mod faults;
mod inject;
mod report;
mod run;

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use run::Settings;

const HELP: &str = "\
Publishers and subscribers over the embedded emulator, through random faults.

Usage: cargo run --release --example soak -- [FLAGS]

  --seconds N       how long faults are injected (default 60)
  --seed N          of the plan of faults (default: from the clock)
  --publishers N    how many clients publish, at least 2 (default 4)
  --subscribers N   how many clients receive, at least 2 (default 4)
  --fault-every MS  the mean time between two faults (default 100)
  --help            this text

Every second publisher and subscriber is now and then made to lose its session for good; the
others never are.
Exit code: 0 proved, 1 violation, 2 too little trouble met, 64 wrong command line.";

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
    // A short run cannot meet everything; it only says so.
    if !report.too_little.is_empty() && settings.time >= Duration::from_secs(20) {
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
    };
    while let Some(flag) = args.next() {
        if flag == "--help" || flag == "-h" {
            return Ok(None);
        }
        let mut number = |least: u64| {
            let text = args.next().ok_or_else(|| format!("`{flag}` needs a number"))?;
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
