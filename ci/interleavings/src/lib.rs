//! Explores `src/sync.rs` of the crate: every order in which its threads' steps can happen, up to a
//! number of preemptions. `ci/interleavings.sh` runs it.
//!
//! The models do what the crate does around these types, in the same order, with a number in place
//! of a buffer. A thread that waits for what never comes is a deadlock, which loom reports; so
//! nothing here may rely on a time limit unless its model says that the time is up.

#![cfg(test)]
#![forbid(unsafe_code)]

mod primitives;
#[path = "../../../src/sync.rs"]
mod sync;

mod one_shot;
mod single_writer;
mod wake_flag;
mod waker;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// No exploration takes longer; it says if it was cut short.
const LIMIT: Duration = Duration::from_secs(30);
/// Where a thread blocks or ends, every other one is tried next anyway. This bounds how often a
/// thread that could go on is made to wait.
const PREEMPTIONS: usize = 3;

fn explore(name: &str, model: impl Fn() + Send + Sync + 'static) {
    let executions = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&executions);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(PREEMPTIONS);
    builder.max_duration.get_or_insert(LIMIT);
    let start = Instant::now();
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        model();
    });
    let n = executions.load(Ordering::Relaxed);
    let time = start.elapsed();
    let cut = if time < LIMIT { "" } else { ", CUT SHORT" };
    println!("explored: {n} executions of {name} in {:.1} s{cut}", time.as_secs_f64());
    assert!(n > 1, "nothing to explore");
}
