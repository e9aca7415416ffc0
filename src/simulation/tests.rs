//! Many seeds, a long run by hand, and schedules that once failed.

use std::time::{Duration, Instant};

use super::generate::Style;
use super::shrink::{first_failure, run_seed};
use super::world::Summary;
use crate::session::Bug;

const SEEDS: u64 = 2_000;

/// Every fourth seed from `offset`: the first client of each speaks the same subprotocol.
fn small_seeds(offset: u64) {
    let first = env("SEED", 0);
    let mut total = Summary::default();
    for seed in (first..first + env("SEEDS", SEEDS)).filter(|seed| seed % 4 == offset) {
        total.add(&run_seed(seed, Style::Small));
    }
    println!("{total:?}");
}

#[test]
fn seeds_of_json_break_no_promise() {
    small_seeds(0);
}

#[test]
fn seeds_of_reliable_json_break_no_promise() {
    small_seeds(1);
}

#[test]
fn seeds_of_protobuf_break_no_promise() {
    small_seeds(2);
}

#[test]
fn seeds_of_reliable_protobuf_break_no_promise() {
    small_seeds(3);
}

#[test]
fn each_deliberate_bug_is_caught() {
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        Bug::switch(Some(bug));
        let caught = first_failure(0..SEEDS);
        Bug::switch(None);
        println!("{bug:?}: {caught:?}");
        if caught.is_none() {
            missed.push(bug);
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

#[test]
#[ignore = "as long as SECONDS says"]
fn simulation_for_long() {
    let start = Instant::now();
    let end = Duration::from_secs(env("SECONDS", 20));
    let (mut total, mut runs) = (Summary::default(), 0u64);
    let first: u64 = env("SEED", 1_000_000);
    while start.elapsed() < end {
        let style = if runs % 4 == 0 { Style::Bulk } else { Style::Small };
        total.add(&run_seed(first + runs, style));
        runs += 1;
    }
    let seconds = start.elapsed().as_secs_f64();
    let rate = |n: u64| n as f64 / seconds;
    println!(
        "{runs} runs: {:.0} sessions/s, {:.0} frames/s, {:.0} faults/s; {total:?}",
        rate(total.sessions),
        rate(total.frames),
        rate(total.faults)
    );
}

fn env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

impl Summary {
    fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.faults += other.faults;
        self.sessions += other.sessions;
        self.recoveries += other.recoveries;
        self.losses += other.losses;
        self.time += other.time;
    }
}
