//! A call whose ack is under way.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};

use super::shared::{Shared, internal};
use super::wake::may_block;
use crate::error::{Error, ErrorKind, Result};
use crate::message::Ack;
use crate::session::Key;
use crate::sync::OneShot;

/// A call under way, made by [`Client::start`](crate::Client::start) and its like.
///
/// Thousands of them can be under way at once. Dropping one detaches it: the call goes on, its
/// outcome is not reported. Each has the deadline of its call; past it the outcome is a
/// [`Timeout`](crate::ErrorKind::Timeout), and the call is never sent again.
///
#[cfg_attr(feature = "emulator", doc = "```")]
#[cfg_attr(not(feature = "emulator"), doc = "```ignore")]
/// # use webpubsub::{Client, Publish, emulator::Emulator};
/// # use std::time::Duration;
/// # fn main() -> webpubsub::Result<()> {
/// # let emulator = Emulator::start()?;
/// # let client = Client::connect(emulator.url("chat"))?;
/// let call = client.start(Publish::new("chat", "hello"))?;
/// while call.wait_timeout(Duration::from_millis(100))?.is_none() {
///     println!("not yet");
/// }
/// # client.close() }
/// ```
#[must_use = "dropping this detaches the call; its outcome will not be known"]
pub struct PendingAck {
    shared: Arc<Shared>,
    key: Key,
    slot: Arc<Slot>,
    receiver: OnceLock<Receiver<Result<Ack>>>,
    deadline: Instant,
}

/// Where the outcome is put. One allocation a call.
type Slot = OneShot<Result<Ack>>;

/// The end of a call that reports the outcome. Dropped without one (a bug of ours), it reports that.
#[derive(Debug)]
pub(super) struct Waiter(Option<Arc<Slot>>);

impl Waiter {
    pub(super) fn tell(mut self, outcome: Result<Ack>) {
        if let Some(slot) = self.0.take() {
            slot.set(outcome);
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Some(slot) = self.0.take() {
            slot.set(Err(internal()));
        }
    }
}

impl fmt::Debug for PendingAck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingAck")
            .field("ack_id", &self.ack_id())
            // Its causes may quote a URL provider of the program.
            .field("outcome", &self.slot.get().map(|outcome| outcome.map_err(|e| e.kind())))
            .finish_non_exhaustive()
    }
}

impl PendingAck {
    pub(super) fn new(shared: Arc<Shared>, key: Key, deadline: Instant) -> (Self, Waiter) {
        let slot = Arc::new(Slot::new());
        let waiter = Waiter(Some(Arc::clone(&slot)));
        let pending = Self { shared, key, slot, receiver: OnceLock::new(), deadline };
        // A program need not look at a call before it is woken for it.
        pending.look();
        (pending, waiter)
    }

    /// For a call without a deadline of its own.
    pub(super) fn outcome_within(&self, limit: Duration) -> Result<()> {
        may_block()?;
        let until = Instant::now().checked_add(limit).unwrap_or(self.deadline);
        self.slot.wait_until(until).map_or_else(
            || {
                let text =
                    "the service has not confirmed within the time limit that the group was left; the \
                     subscription has ended, and the client goes on leaving the group";
                Err(Error::new(ErrorKind::Timeout, text).maybe_delivered(true))
            },
            |outcome| outcome.map(drop),
        )
    }

    /// The ack id of the call.
    #[must_use]
    pub fn ack_id(&self) -> u64 {
        self.key.id()
    }

    /// Blocks until the outcome is known, at most until the call's deadline.
    ///
    /// # Errors
    /// `Refused`, `Timeout`, `OutcomeUnknown`, `Closed` or what ended the client.
    pub fn wait(&self) -> Result<Ack> {
        may_block()?;
        self.slot.wait_until(self.deadline).unwrap_or_else(|| self.give_up())
    }

    /// Blocks for at most `limit`. `None`: the outcome is not known yet.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, limit: Duration) -> Result<Option<Ack>> {
        let until = Instant::now().checked_add(limit).unwrap_or(self.deadline);
        if until >= self.deadline {
            return self.wait().map(Some);
        }
        may_block()?;
        self.look();
        self.slot.wait_until(until).transpose()
    }

    /// Never blocks. `None`: the outcome is not known yet. (The client's thread reports a deadline
    /// that has passed within a few milliseconds.)
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn try_wait(&self) -> Result<Option<Ack>> {
        self.look();
        self.slot.get().transpose()
    }

    /// Withdraws the call if it has not been written yet, and says whether it did: its outcome then
    /// is [`Cancelled`](crate::ErrorKind::Cancelled), and the service never sees it. A call that is
    /// written goes on, and so does one that waits to be sent again. Never blocks.
    #[allow(clippy::must_use_candidate)] // It acts.
    pub fn cancel(&self) -> bool {
        self.shared.cancel(self.key, self.deadline)
    }

    /// For `select!`: the outcome comes here once, besides the `wait` family.
    ///
    /// The deadline is kept here too: the client's thread reports it within a few milliseconds.
    #[must_use]
    pub fn receiver(&self) -> &Receiver<Result<Ack>> {
        self.look();
        self.receiver.get_or_init(|| {
            let (sender, receiver) = bounded(1);
            self.slot.send_to(sender);
            receiver
        })
    }

    fn look(&self) {
        if let Some(hook) = &self.shared.hook {
            hook.looking();
        }
    }

    /// At the deadline: takes the call back, unless it has ended in this very moment.
    fn give_up(&self) -> Result<Ack> {
        self.shared.withdraw(self.key, self.deadline);
        // Told by now, unless it has just ended otherwise; then it is about to be told.
        let soon = Instant::now() + Duration::from_secs(10);
        self.slot.wait_until(soon).unwrap_or_else(|| Err(internal()))
    }
}
