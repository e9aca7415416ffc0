//! Invocations through the faults, each with a payload that no other has. The event handler echoes it,
//! or fails for every eighth call.
//!
//! What must hold: no call runs twice; one that was answered has run, and its answer is its own; one of
//! which the client says that it was not delivered has not run; each has an outcome within its limit.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use webpubsub::emulator::{EmulatedEvent, EventAnswer};
use webpubsub::{Client, Error, ErrorKind, Invoke, PendingReply, Reply, Result};

use super::listener::text;
use super::publisher::Handler;
use super::streams::SLACK;

/// Longer than the slowest handler takes. Some answers are lost.
const LIMIT: Duration = Duration::from_secs(3);
/// The handler fails for one call of this many, and says so by this name.
const FAILS_EVERY: usize = 8;
const FAILURE: &str = "Odd";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Answered,
    /// Failed, and certainly never delivered.
    NotSent,
    /// Failed by this: may have run, or not.
    Unknown(ErrorKind),
    /// Given up by dropping it.
    Dropped,
}

/// What the handler answers to call `n`.
pub(crate) fn answer(n: usize, event: &EmulatedEvent) -> EventAnswer {
    match n % FAILS_EVERY {
        0 => EventAnswer::Error {
            name: FAILURE.to_owned(),
            message: event.payload.text().unwrap_or_default().to_owned(),
        },
        _ => EventAnswer::Message(event.payload.clone()),
    }
}

/// One client's calls.
pub(crate) struct Caller<'a> {
    client: &'a Client,
    place: usize,
    rng: StdRng,
    pub(crate) fates: Vec<Fate>,
    pub(crate) errors: Vec<String>,
}

/// A call that was made: its number, its payload, and when.
struct Made {
    n: usize,
    text: String,
    at: Instant,
}

impl<'a> Caller<'a> {
    pub(crate) fn new(client: &'a Client, place: usize, seed: u64) -> Self {
        let rng = StdRng::seed_from_u64(seed.wrapping_add(3000 + place as u64));
        Self { client, place, rng, fates: Vec::new(), errors: Vec::new() }
    }

    pub(crate) fn call_until(&mut self, stop: &AtomicBool) {
        while !stop.load(SeqCst) {
            match self.rng.random_range(0..10) {
                0 => self.drop_one(),
                1 | 2 => self.cancel_one(),
                3..6 => self.call_some(),
                _ => {
                    let (made, invoke) = self.make();
                    let outcome = self.client.call(invoke);
                    self.judge(&made, &outcome);
                }
            }
            thread::sleep(Duration::from_millis(self.rng.random_range(5..60)));
        }
    }

    fn make(&mut self) -> (Made, Invoke) {
        let n = self.fates.len();
        self.fates.push(Fate::Dropped);
        let text = text(self.place, n, self.rng.random_range(40..=2000));
        let invoke = Invoke::new("call", text.clone()).timeout(LIMIT);
        (Made { n, text, at: Instant::now() }, invoke)
    }

    fn start(&mut self) -> Option<(Made, PendingReply)> {
        let (made, invoke) = self.make();
        match self.client.start(invoke) {
            Ok(pending) => Some((made, pending)),
            Err(error) => {
                self.judge(&made, &Err(error));
                None
            }
        }
    }

    /// Several at once, the last one waited for first.
    fn call_some(&mut self) {
        let mut started: Vec<_> = (0..4).filter_map(|_| self.start()).collect();
        while let Some((made, pending)) = started.pop() {
            self.judge(&made, &pending.wait());
        }
    }

    fn cancel_one(&mut self) {
        let Some((made, pending)) = self.start() else { return };
        thread::sleep(Duration::from_micros(self.rng.random_range(0..2000)));
        let cancelled = pending.cancel();
        let outcome = pending.wait();
        let is_cancelled = outcome.as_ref().is_err_and(|e| e.kind() == ErrorKind::Cancelled);
        if cancelled != is_cancelled {
            self.complain(made.n, &format!("cancel was {cancelled}, and then {outcome:?}"));
        }
        self.judge(&made, &outcome);
    }

    fn drop_one(&mut self) {
        let started = self.start();
        thread::sleep(Duration::from_micros(self.rng.random_range(0..2000)));
        drop(started);
    }

    fn judge(&mut self, made: &Made, outcome: &Result<Reply>) {
        let took = made.at.elapsed();
        if took > LIMIT + SLACK {
            self.complain(made.n, &format!("took {took:.1?}"));
        }
        let fails = made.n.is_multiple_of(FAILS_EVERY);
        self.fates[made.n] = match outcome {
            Ok(reply) => {
                if fails || reply.text().ok() != Some(&made.text) {
                    self.complain(made.n, &format!("a wrong answer, {reply:?}"));
                }
                Fate::Answered
            }
            Err(error) if error.service_error_name() == Some(FAILURE) => {
                if !fails || !error.to_string().contains(&made.text) {
                    self.complain(made.n, &format!("a wrong failure, {error:?}"));
                }
                Fate::Answered
            }
            Err(error) => self.fate_of(made.n, error),
        };
    }

    fn fate_of(&mut self, n: usize, error: &Error) -> Fate {
        let expected = match error.kind() {
            ErrorKind::OutcomeUnknown | ErrorKind::Timeout | ErrorKind::Cancelled => true,
            ErrorKind::Refused => error.close_code().is_some(),
            _ => false,
        };
        if !expected {
            self.complain(n, &format!("{error:?}"));
        }
        if error.may_have_been_delivered() { Fate::Unknown(error.kind()) } else { Fate::NotSent }
    }

    fn complain(&mut self, n: usize, why: &str) {
        self.errors.push(format!("invocation {n} of publisher {}: {why}", self.place));
    }

    /// What is wrong with the handler's runs for these calls.
    pub(crate) fn check(&self, handler: &Handler) -> Vec<String> {
        let mut wrong = Vec::new();
        for (n, fate) in self.fates.iter().enumerate() {
            let runs = handler.runs(true, self.place, n);
            let fits = match fate {
                Fate::Answered => runs == 1,
                Fate::NotSent => runs == 0,
                Fate::Unknown(_) | Fate::Dropped => runs <= 1,
            };
            if !fits {
                let place = self.place;
                wrong.push(format!(
                    "invocation {n} of publisher {place} ran {runs} times ({fate:?})"
                ));
            }
        }
        wrong
    }

    /// How many a lost session may have taken along.
    pub(crate) fn maybe_lost(&self) -> u64 {
        let lost = |fate: &&Fate| matches!(fate, Fate::Unknown(_) | Fate::NotSent | Fate::Dropped);
        self.fates.iter().filter(lost).count() as u64
    }
}
