//! Calls of the app server that end with its answer (preview).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

#[cfg(feature = "preview")]
use super::handle::Client;
use super::pending::{Pending, Registration, Slot, Waiter};
use super::request::{Parts, Request, sealed};
use super::shared::Shared;
use crate::error::Result;
use crate::message::{Entries, Payload, Reply};
use crate::session::Key;

/// A call of the app server, with options (preview).
///
/// It has no ack id, because nothing detects a repetition: it is sent once, and never again.
///
#[cfg_attr(feature = "emulator", doc = "```")]
#[cfg_attr(not(feature = "emulator"), doc = "```ignore")]
/// # use webpubsub::{Client, Invoke, emulator::{Emulator, EventAnswer}};
/// # use std::time::Duration;
/// # fn main() -> webpubsub::Result<()> {
/// # let emulator = Emulator::builder()
/// #     .event_handler(|event| EventAnswer::Message(event.payload.clone())).start()?;
/// # let client = Client::connect(emulator.url("chat"))?;
/// let report = Invoke::new("report", "2026").metadata("lang", "en");
/// let pending = client.start(report.timeout(Duration::from_secs(120)))?;
/// // … other work …
/// println!("{}", pending.wait()?.text()?);
/// # client.close() }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a request does nothing until a client sends it"]
pub struct Invoke {
    name: Arc<str>,
    data: Payload,
    timeout: Option<Duration>,
    metadata: Option<Entries>,
}

impl Invoke {
    /// A call of the event handler of this name. Text, bytes and JSON values turn into a [`Payload`]
    /// by themselves.
    pub fn new(name: impl AsRef<str>, data: impl Into<Payload>) -> Self {
        Self { name: name.as_ref().into(), data: data.into(), timeout: None, metadata: None }
    }

    /// The deadline of this call, counted from when it is sent: waiting for a connection, writing,
    /// and the answer. Default: [`ClientBuilder::call_timeout`](crate::ClientBuilder::call_timeout).
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// A small pair of strings beside the payload. The key consists of HTTP token characters, the
    /// value of at most 1024 ASCII characters.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.get_or_insert_default().insert(key.into(), value.into());
        self
    }
}

impl sealed::Sealed for Invoke {
    fn into_parts(self, _: sealed::Internal) -> Parts<'static> {
        let Self { name, data, timeout, metadata } = self;
        Parts::invoke(name, data).with_timeout(timeout).with_metadata(metadata)
    }
}

impl Request for Invoke {
    type Outcome = Reply;
    type Pending = PendingReply;
}

/// An invocation under way, made by [`Client::start`](crate::Client::start) and its like with an [`Invoke`] (preview).
///
/// Each has the deadline of its call; past it the outcome is a [`Timeout`](crate::ErrorKind::Timeout),
/// and the service is told that nobody waits any more. Dropping one cancels the call in the same way;
/// what answers it then is discarded.
///
#[cfg_attr(feature = "emulator", doc = "```")]
#[cfg_attr(not(feature = "emulator"), doc = "```ignore")]
/// # use webpubsub::{Client, ErrorKind, Invoke, emulator::{Emulator, EventAnswer}};
/// # use std::time::Duration;
/// # fn main() -> webpubsub::Result<()> {
/// # let emulator = Emulator::builder().event_handler(|_| EventAnswer::Nothing).start()?;
/// # emulator.faults().hold_invocation_responses(true);
/// # let client = Client::connect(emulator.url("chat"))?;
/// let pending = client.start(Invoke::new("report", "2026"))?;
/// if pending.wait_timeout(Duration::from_millis(100))?.is_none() && pending.cancel() {
///     assert_eq!(pending.wait().unwrap_err().kind(), ErrorKind::Cancelled);
/// }
/// # client.close() }
/// ```
#[must_use = "dropping this cancels the invocation"]
pub struct PendingReply(Pending<Reply>);

impl fmt::Debug for PendingReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingReply")
            .field("id", &self.0.key.id())
            // Its causes may quote a URL provider of the program.
            .field("outcome", &self.0.outcome().map(|outcome| outcome.map_err(|e| e.kind())))
            .finish_non_exhaustive()
    }
}

impl sealed::PendingCall for PendingReply {
    type Outcome = Reply;

    fn register(registration: Registration, _: sealed::Internal) -> (Self, Waiter) {
        let (pending, waiter) = Pending::new(registration, Slot::Reply);
        (Self(pending), waiter)
    }

    fn outcome(&self, _: sealed::Internal) -> Result<Reply> {
        self.wait()
    }

    fn known_outcome(&self, _: sealed::Internal) -> Option<Result<Reply>> {
        self.0.outcome()
    }
}

impl PendingReply {
    /// Blocks until the outcome is known, at most until the call's deadline.
    ///
    /// # Errors
    /// As [`Client::invoke`], and `Cancelled`.
    pub fn wait(&self) -> Result<Reply> {
        self.0.wait()
    }

    /// Blocks for at most `limit`. `None`: the outcome is not known yet.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, limit: Duration) -> Result<Option<Reply>> {
        self.0.wait_timeout(limit)
    }

    /// Never blocks. `None`: the outcome is not known yet. (The client's thread reports a deadline
    /// that has passed within a few milliseconds.)
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn try_wait(&self) -> Result<Option<Reply>> {
        self.0.try_wait()
    }

    /// Ends the call, and says whether it did: its outcome then is
    /// [`Cancelled`](crate::ErrorKind::Cancelled). One that is not written yet is never sent; of one
    /// that is, the service learns that nobody waits any more, but what the app server does with that
    /// is not known, so the call may have been run. Never blocks.
    #[allow(clippy::must_use_candidate)] // It acts.
    pub fn cancel(&self) -> bool {
        self.0.shared.cancel_invocation(self.0.key)
    }

    /// For `select!`: the outcome comes here once, besides the `wait` family.
    ///
    /// The deadline is kept here too: the client's thread reports it within a few milliseconds.
    #[must_use]
    pub fn receiver(&self) -> &Receiver<Result<Reply>> {
        self.0.receiver()
    }
}

impl Drop for PendingReply {
    fn drop(&mut self) {
        // Usually it has ended, and then there is nothing to take the lock for.
        if self.0.outcome().is_none() {
            self.cancel();
        }
    }
}

#[cfg(feature = "preview")]
impl Client {
    /// Calls the app server and blocks until its answer has come, at most until the call's deadline
    /// (preview).
    ///
    /// The call waits for a connection if there is none. It is sent once and never again: a
    /// connection that is lost before the answer comes ends it, also if it is recovered then. With
    /// options: [`call`](Self::call), [`start`](Self::start) or [`try_start`](Self::try_start) with an
    /// [`Invoke`].
    ///
    #[cfg_attr(feature = "emulator", doc = "```")]
    #[cfg_attr(not(feature = "emulator"), doc = "```ignore")]
    /// # use webpubsub::{Client, Payload, emulator::{Emulator, EventAnswer}};
    /// # fn main() -> webpubsub::Result<()> {
    /// # let emulator = Emulator::builder()
    /// #     .event_handler(|_| EventAnswer::Message(Payload::from_json(&3).expect("JSON"))).start()?;
    /// # let client = Client::connect(emulator.url("chat"))?;
    /// let sum: i64 = client.invoke("add", Payload::from_json(&[1, 2])?)?.json()?;
    /// assert_eq!(sum, 3);
    /// # client.close() }
    /// ```
    ///
    /// # Errors
    /// `InvalidRequest` (nothing was sent); `Refused` if the app server's answer is a failure, with
    /// its name in [`service_error_name`](crate::Error::service_error_name); `Payload` if the answer
    /// cannot be read; `Timeout`; `OutcomeUnknown` if the connection was lost after the call was
    /// written; `Closed`, or what ended the client.
    #[doc(alias = "invokeEvent")]
    pub fn invoke(&self, name: impl AsRef<str>, data: impl Into<Payload>) -> Result<Reply> {
        self.call(Invoke::new(name, data))
    }
}

impl Shared {
    fn cancel_invocation(&self, key: Key) -> bool {
        let now = Instant::now();
        let (cancelled, after) = self.step(|session| session.cancel_invocation(now, key.id()));
        self.finish(after, now);
        cancelled
    }
}
