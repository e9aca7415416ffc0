//! Runs a seed; what fails is made as small as it gets before it is shown.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::generate::{Style, schedule};
use super::schedule::Schedule;
use super::world::{self, Summary};

/// Runs while a schedule is made smaller.
const MOST_RUNS: usize = 2_000;

/// Runs a schedule; a panic is a failure too.
pub(super) fn run(schedule: &Schedule) -> Result<Summary, String> {
    match catch_unwind(AssertUnwindSafe(|| world::run(schedule))) {
        Ok(outcome) => outcome,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Err(format!("panic: {}", text.unwrap_or_default()))
        }
    }
}

/// Runs a seed; panics with the smallest schedule that fails.
pub(super) fn run_seed(seed: u64, style: Style) -> Summary {
    let mut schedule = schedule(seed, style);
    match run(&schedule) {
        Ok(summary) => summary,
        Err(first) => {
            let last = shrink(&mut schedule);
            panic!("seed {seed}, {style:?}: {first}\nat the smallest: {last:?}\n{schedule}");
        }
    }
}

/// The first seed among the given ones that fails.
pub(super) fn first_failure(seeds: std::ops::Range<u64>) -> Option<(u64, String)> {
    seeds
        .into_iter()
        .find_map(|seed| run(&schedule(seed, Style::Small)).err().map(|why| (seed, why)))
}

/// Leaves out actions as long as what is left fails; returns how that fails.
fn shrink(schedule: &mut Schedule) -> Option<String> {
    let mut last = None;
    let mut runs = 0;
    let mut chunk = schedule.actions.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        let mut any = false;
        while at < schedule.actions.len() && runs < MOST_RUNS {
            runs += 1;
            let mut smaller = schedule.clone();
            let end = (at + chunk).min(smaller.actions.len());
            smaller.actions.drain(at..end);
            match run(&smaller) {
                Err(why) => {
                    (*schedule, last, any) = (smaller, Some(why), true);
                }
                Ok(_) => at += chunk,
            }
        }
        if chunk == 1 && !any || runs >= MOST_RUNS {
            return last;
        }
        chunk = (chunk / 2).max(1);
    }
}
