//! Calls under way: [`PendingAck`], and what it has in common with the call of the app server
//! ([`PendingReply`](super::invocation::PendingReply)).

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};

use super::request::sealed;
use super::shared::{Shared, internal};
use super::wake::may_block;
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Ack, Reply};
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
///
/// # Threads
/// `Send + Sync`: any thread may wait, several at once, and each gets the outcome.
///
/// # What drop does
/// It detaches the call, which goes on; its outcome is not reported. It never blocks. To take the call
/// back, [`cancel`](Self::cancel) it first.
#[must_use = "dropping this detaches the call; its outcome will not be known"]
pub struct PendingAck(Pending<Ack>);

/// A call under way that ends with a `T`.
pub(super) struct Pending<T> {
    pub(super) shared: Arc<Shared>,
    pub(super) key: Key,
    slot: Arc<OneShot<Result<T>>>,
    receiver: OnceLock<Receiver<Result<T>>>,
    deadline: Instant,
}

/// What a call is registered with. Public because the sealed traits name it.
#[derive(Debug)]
pub struct Registration {
    shared: Arc<Shared>,
    key: Key,
    deadline: Instant,
}

/// The end of a call that reports the outcome. Dropped without one (a bug of ours), it reports that.
#[derive(Debug)]
pub struct Waiter(Slot);

/// Where the outcome is put. One allocation a call.
#[derive(Debug)]
pub(super) enum Slot {
    Ack(Arc<OneShot<Result<Ack>>>),
    Reply(Arc<OneShot<Result<Reply>>>),
    Told,
}

impl Waiter {
    pub(super) fn tell(mut self, outcome: Result<Ack>) {
        match self.take() {
            Slot::Ack(slot) => slot.set(outcome),
            // An ack does not answer it.
            Slot::Reply(slot) => slot.set(Err(outcome.err().unwrap_or_else(internal))),
            Slot::Told => {}
        }
    }

    pub(super) fn answer(mut self, reply: Reply) {
        match self.take() {
            Slot::Reply(slot) => slot.set(Ok(reply)),
            Slot::Ack(slot) => slot.set(Err(internal())),
            Slot::Told => {}
        }
    }

    fn take(&mut self) -> Slot {
        std::mem::replace(&mut self.0, Slot::Told)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        match self.take() {
            Slot::Ack(slot) => slot.set(Err(internal())),
            Slot::Reply(slot) => slot.set(Err(internal())),
            Slot::Told => {}
        }
    }
}

impl Registration {
    pub(super) fn new(shared: Arc<Shared>, key: Key, deadline: Instant) -> Self {
        Self { shared, key, deadline }
    }
}

impl<T: Clone> Pending<T> {
    /// `slot`: the waiter's kind of slot.
    pub(super) fn new(
        Registration { shared, key, deadline }: Registration,
        slot_of: impl FnOnce(Arc<OneShot<Result<T>>>) -> Slot,
    ) -> (Self, Waiter) {
        let slot = Arc::new(OneShot::new());
        let waiter = Waiter(slot_of(Arc::clone(&slot)));
        let pending = Self { shared, key, slot, receiver: OnceLock::new(), deadline };
        // A program need not look at a call before it is woken for it.
        pending.look();
        (pending, waiter)
    }

    pub(super) fn outcome(&self) -> Option<Result<T>> {
        self.slot.get()
    }

    pub(super) fn wait(&self) -> Result<T> {
        may_block()?;
        self.slot.wait_until(self.deadline).unwrap_or_else(|| self.give_up())
    }

    pub(super) fn wait_timeout(&self, limit: Duration) -> Result<Option<T>> {
        let until = Instant::now().checked_add(limit).unwrap_or(self.deadline);
        if until >= self.deadline {
            return self.wait().map(Some);
        }
        may_block()?;
        self.look();
        self.slot.wait_until(until).transpose()
    }

    pub(super) fn try_wait(&self) -> Result<Option<T>> {
        self.look();
        self.slot.get().transpose()
    }

    pub(super) fn receiver(&self) -> &Receiver<Result<T>> {
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
    fn give_up(&self) -> Result<T> {
        self.shared.withdraw(self.key, self.deadline);
        // Told by now, unless it has just ended otherwise; then it is about to be told.
        let soon = Instant::now() + Duration::from_secs(10);
        self.slot.wait_until(soon).unwrap_or_else(|| Err(internal()))
    }
}

impl fmt::Debug for PendingAck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingAck")
            .field("ack_id", &self.ack_id())
            // Its causes may quote a URL provider of the program.
            .field("outcome", &self.0.outcome().map(|outcome| outcome.map_err(|e| e.kind())))
            .finish_non_exhaustive()
    }
}

impl sealed::PendingCall for PendingAck {
    type Outcome = Ack;

    fn register(registration: Registration, _: sealed::Internal) -> (Self, Waiter) {
        let (pending, waiter) = Pending::new(registration, Slot::Ack);
        (Self(pending), waiter)
    }

    fn outcome(&self, _: sealed::Internal) -> Result<Ack> {
        self.wait()
    }

    fn known_outcome(&self, _: sealed::Internal) -> Option<Result<Ack>> {
        self.0.outcome()
    }
}

impl PendingAck {
    /// For a call without a deadline of its own.
    pub(super) fn outcome_within(&self, limit: Duration) -> Result<()> {
        may_block()?;
        let until = Instant::now().checked_add(limit).unwrap_or(self.0.deadline);
        self.0.slot.wait_until(until).map_or_else(
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
        self.0.key.id()
    }

    /// Blocks until the outcome is known, at most until the call's deadline.
    ///
    /// # Errors
    /// `Refused`, `Timeout`, `OutcomeUnknown`, `Closed` or what ended the client.
    pub fn wait(&self) -> Result<Ack> {
        self.0.wait()
    }

    /// Blocks for at most `limit`. `None`: the outcome is not known yet.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, limit: Duration) -> Result<Option<Ack>> {
        self.0.wait_timeout(limit)
    }

    /// Never blocks. `None`: the outcome is not known yet. (The client's thread reports a deadline
    /// that has passed within a few milliseconds.)
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn try_wait(&self) -> Result<Option<Ack>> {
        self.0.try_wait()
    }

    /// Withdraws the call if it has not been written yet, and says whether it did: its outcome then
    /// is [`Cancelled`](crate::ErrorKind::Cancelled), and the service never sees it. A call that is
    /// written goes on, and so does one that waits to be sent again. Never blocks.
    #[allow(clippy::must_use_candidate)] // It acts.
    pub fn cancel(&self) -> bool {
        self.0.shared.cancel(self.0.key, self.0.deadline)
    }

    /// For `select!`: the outcome comes here once, besides the `wait` family.
    ///
    /// The deadline is kept here too: the client's thread reports it within a few milliseconds.
    #[must_use]
    pub fn receiver(&self) -> &Receiver<Result<Ack>> {
        self.0.receiver()
    }
}
