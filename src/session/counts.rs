//! What the stats say about the session: how the program's calls have ended, and the connection.

use std::time::{Duration, Instant};

use super::call::{Call, CallKind, Key};
use crate::error::{Error, ErrorKind, Result};

#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    pub(crate) acked: u64,
    pub(crate) refused: u64,
    pub(crate) timed_out: u64,
    pub(crate) cut_off: u64,
    pub(crate) recoveries: u64,
    pub(crate) reconnects: u64,
    /// Of the present connection, also while it is being recovered.
    pub(crate) connected_since: Option<Instant>,
    /// The cause of the last loss, failed attempt or stop.
    pub(crate) last_error: Option<Error>,
    pub(crate) round_trip: Option<Duration>,
    /// The call by whose ack a round trip is measured, and when it was written. One at a time: to keep
    /// the instant of each would cost every call 16 bytes.
    sample: Option<(Key, Instant)>,
}

impl Counts {
    /// A call has left the table with this outcome.
    pub(super) fn ended<W, T>(&mut self, call: &Call<W>, result: &Result<T>) {
        self.forget_sample(call.key);
        if call.is_own() {
            return;
        }
        match result.as_ref().map_err(Error::kind) {
            Ok(_) => self.acked += 1,
            Err(ErrorKind::Refused) => self.refused += 1,
            Err(ErrorKind::Timeout) => self.timed_out += 1,
            Err(_) => self.cut_off += 1,
        }
    }

    /// A call is written for the first time on its connection.
    pub(super) fn written(&mut self, now: Instant, key: Key, kind: &CallKind) {
        // The ack of an event waits for the app server's handler, and so does an answer.
        if self.sample.is_none() && !matches!(kind, CallKind::Event | CallKind::Invoke) {
            self.sample = Some((key, now));
        }
    }

    /// Its ack came.
    pub(super) fn acked(&mut self, now: Instant, key: Key) {
        if let Some((_, written)) = self.sample.filter(|(sampled, _)| *sampled == key) {
            self.sample = None;
            // Zero: the reader had read the clock before the caller did.
            let round_trip = now.saturating_duration_since(written);
            self.round_trip = Some(round_trip).filter(|d| !d.is_zero()).or(self.round_trip);
        }
    }

    fn forget_sample(&mut self, key: Key) {
        if self.sample.is_some_and(|(sampled, _)| sampled == key) {
            self.sample = None;
        }
    }

    /// What is written on another link later is written again.
    pub(super) fn link_gone(&mut self) {
        self.sample = None;
    }

    /// A loss, a failed attempt, or a stop; a `close` is no error.
    pub(super) fn failed(&mut self, error: &Error) {
        if !error.is_closed() {
            self.last_error = Some(error.clone());
        }
    }
}
