//! A call whose ack is under way.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};

use super::shared::{Shared, internal};
use crate::error::Result;
use crate::message::Ack;
use crate::session::Key;

/// A call that was started and not waited for.
///
/// Thousands of them can be under way at once. Dropping one detaches it: the call goes on, its
/// outcome is not reported. Each has the deadline of its call; past it the outcome is a
/// [`Timeout`](crate::ErrorKind::Timeout), and the call is never sent again.
#[must_use = "dropping this detaches the call; its outcome will not be known"]
pub struct PendingAck {
    shared: Arc<Shared>,
    key: Key,
    outcome: Receiver<Result<Ack>>,
    known: OnceLock<Result<Ack>>,
    deadline: Instant,
}

impl fmt::Debug for PendingAck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingAck")
            .field("ack_id", &self.ack_id())
            .field("outcome", &self.known.get())
            .finish_non_exhaustive()
    }
}

impl PendingAck {
    pub(super) fn new(
        shared: Arc<Shared>,
        key: Key,
        outcome: Receiver<Result<Ack>>,
        deadline: Instant,
    ) -> Self {
        Self { shared, key, outcome, known: OnceLock::new(), deadline }
    }

    /// The ack id of the call.
    #[must_use]
    pub fn ack_id(&self) -> u64 {
        match self.key {
            Key::Ack(id) | Key::Unacked(id) => id,
        }
    }

    /// Blocks until the outcome is known, at most until the call's deadline.
    ///
    /// # Errors
    /// `Refused`, `Timeout`, `OutcomeUnknown`, `Closed` or what ended the client.
    pub fn wait(&self) -> Result<Ack> {
        if let Some(known) = self.known.get() {
            return known.clone();
        }
        let outcome = match self.outcome.recv_deadline(self.deadline) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Disconnected) => Err(internal()),
            Err(RecvTimeoutError::Timeout) => self.give_up(),
        };
        self.known.get_or_init(|| outcome).clone()
    }

    /// Blocks for at most `limit`. `None`: the outcome is not known yet.
    pub fn wait_timeout(&self, limit: Duration) -> Option<Result<Ack>> {
        let until = Instant::now().checked_add(limit).unwrap_or(self.deadline);
        if until >= self.deadline {
            return Some(self.wait());
        }
        if let Some(known) = self.known.get() {
            return Some(known.clone());
        }
        let outcome = match self.outcome.recv_deadline(until) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Disconnected) => Err(internal()),
            Err(RecvTimeoutError::Timeout) => return None,
        };
        Some(self.known.get_or_init(|| outcome).clone())
    }

    /// Does not block. `None`: the outcome is not known yet.
    pub fn try_wait(&self) -> Option<Result<Ack>> {
        if let Some(known) = self.known.get() {
            return Some(known.clone());
        }
        let outcome = match self.outcome.try_recv() {
            Ok(outcome) => outcome,
            Err(TryRecvError::Disconnected) => Err(internal()),
            Err(TryRecvError::Empty) if Instant::now() < self.deadline => return None,
            Err(TryRecvError::Empty) => self.give_up(),
        };
        Some(self.known.get_or_init(|| outcome).clone())
    }

    /// For `select!`: the outcome comes here once. Do not mix with the `wait` family.
    ///
    /// Here it is the reader thread that reports a deadline, when it next wakes: on incoming data,
    /// at the latest after the keep-alive interval, or, between two connections, after an attempt
    /// to connect. With keep-alive off and a silent service use [`wait`](Self::wait), which keeps
    /// the deadline itself.
    #[must_use]
    pub fn receiver(&self) -> &Receiver<Result<Ack>> {
        &self.outcome
    }

    fn give_up(&self) -> Result<Ack> {
        match self.shared.withdraw(self.key) {
            Some(error) => Err(error),
            // It ended in this very moment; whoever ended it is about to send.
            None => self.outcome.recv().unwrap_or_else(|_| Err(internal())),
        }
    }
}
