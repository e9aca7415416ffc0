//! A call whose ack is under way.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

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
    slot: Arc<Slot>,
    receiver: OnceLock<Receiver<Result<Ack>>>,
    deadline: Instant,
}

/// Where the outcome is put. One allocation a call, and a wake-up only for who waits.
#[derive(Debug, Default)]
struct Slot {
    state: Mutex<SlotState>,
    told: Condvar,
}

#[derive(Debug, Default)]
struct SlotState {
    outcome: Option<Result<Ack>>,
    /// How many threads wait on `told`.
    waiting: usize,
    /// For `select!`, if it was asked for.
    channel: Option<Sender<Result<Ack>>>,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first outcome stays.
    fn tell(&self, outcome: Result<Ack>) {
        let mut state = self.lock();
        if state.outcome.is_some() {
            return;
        }
        if let Some(channel) = state.channel.take() {
            let _ = channel.try_send(outcome.clone());
        }
        state.outcome = Some(outcome);
        let any_waits = state.waiting > 0;
        // First the lock: who is woken needs it.
        drop(state);
        if any_waits {
            self.told.notify_all();
        }
    }

    /// `None` if the time is up before the outcome is known.
    fn wait_until(&self, until: Instant) -> Option<Result<Ack>> {
        let mut state = self.lock();
        loop {
            if let Some(outcome) = &state.outcome {
                return Some(outcome.clone());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            state.waiting += 1;
            state = self.told.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
        }
    }
}

/// The end of a call that tells. Dropped untold (a bug of ours), it tells that.
#[derive(Debug)]
pub(super) struct Waiter(Option<Arc<Slot>>);

impl Waiter {
    pub(super) fn tell(mut self, outcome: Result<Ack>) {
        if let Some(slot) = self.0.take() {
            slot.tell(outcome);
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Some(slot) = self.0.take() {
            slot.tell(Err(internal()));
        }
    }
}

impl fmt::Debug for PendingAck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingAck")
            .field("ack_id", &self.ack_id())
            .field("outcome", &self.slot.lock().outcome)
            .finish_non_exhaustive()
    }
}

impl PendingAck {
    pub(super) fn new(shared: Arc<Shared>, key: Key, deadline: Instant) -> (Self, Waiter) {
        let slot = Arc::new(Slot::default());
        let waiter = Waiter(Some(Arc::clone(&slot)));
        (Self { shared, key, slot, receiver: OnceLock::new(), deadline }, waiter)
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
        if let Some(outcome) = &self.slot.lock().outcome {
            return outcome.clone();
        }
        self.slot.wait_until(self.deadline).unwrap_or_else(|| self.give_up())
    }

    /// Blocks for at most `limit`. `None`: the outcome is not known yet.
    pub fn wait_timeout(&self, limit: Duration) -> Option<Result<Ack>> {
        let until = Instant::now().checked_add(limit).unwrap_or(self.deadline);
        if until >= self.deadline {
            return Some(self.wait());
        }
        self.slot.wait_until(until)
    }

    /// Does not block. `None`: the outcome is not known yet.
    pub fn try_wait(&self) -> Option<Result<Ack>> {
        let known = self.slot.lock().outcome.clone();
        if known.is_none() && Instant::now() >= self.deadline {
            return Some(self.give_up());
        }
        known
    }

    /// For `select!`: the outcome comes here once, beside the `wait` family.
    ///
    /// The deadline is kept here too: the client's thread reports it within a few milliseconds.
    #[must_use]
    pub fn receiver(&self) -> &Receiver<Result<Ack>> {
        self.receiver.get_or_init(|| {
            let (sender, receiver) = bounded(1);
            let mut state = self.slot.lock();
            match &state.outcome {
                Some(outcome) => drop(sender.try_send(outcome.clone())),
                None => state.channel = Some(sender),
            }
            receiver
        })
    }

    /// At the deadline: takes the call back, unless it has ended in this very moment.
    fn give_up(&self) -> Result<Ack> {
        self.shared.withdraw(self.key);
        // Told by now, unless it has just ended otherwise; then it is about to be told.
        let soon = Instant::now() + Duration::from_secs(10);
        self.slot.wait_until(soon).unwrap_or_else(|| Err(internal()))
    }
}
