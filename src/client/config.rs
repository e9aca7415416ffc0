//! Settings that belong together, as values.

use std::time::Duration;

use crate::error::{Error, Result};

/// When silence is noticed: while nothing comes from the service.
///
/// ```
/// use std::time::Duration;
/// use webpubsub::{Client, KeepAlive};
///
/// let often = KeepAlive::new().ping_after(Duration::from_secs(2)).dead_after(Duration::from_secs(6));
/// let builder = Client::builder("wss://…").keep_alive(Some(often));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct KeepAlive {
    pub(super) ping_after: Duration,
    pub(super) dead_after: Duration,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self { ping_after: Duration::from_secs(10), dead_after: Duration::from_secs(20) }
    }
}

impl KeepAlive {
    /// The defaults. They leave a recovery the time to find its session, which the service keeps for
    /// 30 s.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends a ping when nothing came for so long. Default: 10 s.
    pub fn ping_after(mut self, silence: Duration) -> Self {
        self.ping_after = silence;
        self
    }

    /// Gives the link up when nothing came for so long. While an event handler of the app server may
    /// run, silence ends nothing; see
    /// [`call_timeout`](crate::ClientBuilder::call_timeout). Default: 20 s.
    pub fn dead_after(mut self, silence: Duration) -> Self {
        self.dead_after = silence;
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.ping_after.is_zero() {
            return Err(Error::config(
                "`KeepAlive::ping_after` must not be zero; `keep_alive(None)` turns pings off",
            ));
        }
        if self.ping_after >= self.dead_after {
            return Err(Error::config("`KeepAlive::dead_after` must be longer than `ping_after`"));
        }
        Ok(())
    }
}

/// New connections, when one is lost for good.
///
/// The delay before each attempt is chosen at random below a bound that doubles with each failure.
///
/// ```
/// use std::time::Duration;
/// use webpubsub::{Client, Reconnect};
///
/// let patient = Reconnect::new()
///     .backoff(Duration::from_secs(1), Duration::from_secs(300))
///     .max_attempts(Some(1000));
/// let builder = Client::builder("wss://…").reconnect(Some(patient));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Reconnect {
    pub(super) shortest: Duration,
    pub(super) longest: Duration,
    pub(super) max_attempts: Option<u32>,
    pub(super) rejoin_groups: bool,
    pub(super) resend_calls: bool,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self {
            shortest: Duration::from_secs(1),
            longest: Duration::from_secs(30),
            max_attempts: None,
            rejoin_groups: true,
            resend_calls: false,
        }
    }
}

impl Reconnect {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// The bound of the first delay, and the one at which it no longer doubles. Each delay is random
    /// below its bound. The bound starts anew only after a connection that lived for 60 s, so a service
    /// that drops each connection soon is not dialed without a pause. Default: 1 s and 30 s.
    pub fn backoff(mut self, shortest: Duration, longest: Duration) -> Self {
        (self.shortest, self.longest) = (shortest, longest);
        self
    }

    /// Stops the client after this many attempts in a row; of a client that connects in the background
    /// the first one counts too. Default: `None`, no limit.
    pub fn max_attempts(mut self, n: Option<u32>) -> Self {
        self.max_attempts = n;
        self
    }

    /// Joins again the groups that the client had joined. Default: true.
    pub fn rejoin_groups(mut self, on: bool) -> Self {
        self.rejoin_groups = on;
        self
    }

    /// Sends calls that were in flight again on the new connection, under the same ack id. The
    /// service may then execute them twice, since ack ids mean nothing across connections. Default:
    /// false, such calls fail with [`OutcomeUnknown`](crate::ErrorKind::OutcomeUnknown).
    pub fn resend_calls(mut self, on: bool) -> Self {
        self.resend_calls = on;
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.shortest > self.longest {
            return Err(Error::config(
                "`Reconnect::backoff`: the shortest delay must not exceed the longest",
            ));
        }
        Ok(())
    }
}

/// How a lost link of a reliable connection is replaced by another one of the same session.
///
/// ```
/// use std::time::Duration;
/// use webpubsub::{Client, Recovery};
///
/// let patient = Recovery::new().attempt_timeout(Duration::from_secs(15));
/// let builder = Client::builder("wss://…").recovery(patient);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Recovery {
    pub(super) give_up_after: Duration,
    pub(super) attempt_interval: Duration,
    pub(super) attempt_timeout: Duration,
}

impl Default for Recovery {
    fn default() -> Self {
        Self {
            give_up_after: Duration::from_secs(30),
            attempt_interval: Duration::from_secs(1),
            attempt_timeout: Duration::from_secs(5),
        }
    }
}

impl Recovery {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long after a loss it is tried. Default: 30 s, what the service guarantees.
    pub fn give_up_after(mut self, d: Duration) -> Self {
        self.give_up_after = d;
        self
    }

    /// About how often it is tried; the first attempt comes at once. Default: 1 s.
    pub fn attempt_interval(mut self, d: Duration) -> Self {
        self.attempt_interval = d;
        self
    }

    /// The limit of each attempt. One whose link brings data may go on, for 2 min at most: the first
    /// message of a replay may be large, and the line slow. Default: 5 s.
    pub fn attempt_timeout(mut self, d: Duration) -> Self {
        self.attempt_timeout = d;
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.attempt_timeout.is_zero() {
            return Err(Error::config("`Recovery::attempt_timeout` must not be zero"));
        }
        Ok(())
    }
}

/// The bounds of a queue of messages, and what happens at them. Lifecycle events do not count and
/// always enter.
///
/// ```
/// use webpubsub::{Client, Overflow, QueueConfig};
///
/// let few = QueueConfig::new().max_messages(100).overflow(Overflow::DropNewest);
/// let builder = Client::builder("wss://…").event_queue(Some(few));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct QueueConfig {
    pub(crate) max_messages: usize,
    pub(crate) max_messages_during_calls: usize,
    pub(crate) max_bytes: usize,
    pub(crate) overflow: Overflow,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            max_messages: 1024,
            max_messages_during_calls: 16 * 1024,
            max_bytes: 64 * 1024 * 1024,
            overflow: Overflow::Wait,
        }
    }
}

impl QueueConfig {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many messages it holds; under [`Overflow::Wait`], while no call waits for its ack.
    /// Default: 1024.
    pub fn max_messages(mut self, n: usize) -> Self {
        self.max_messages = n;
        self
    }

    /// How many it holds under [`Overflow::Wait`] while a call waits for its ack, which is read behind
    /// the messages; never less than [`max_messages`](Self::max_messages). Past this bound the client reads on for
    /// another 1000 messages or 16 MiB; then acks are not read either. Default: 16,384.
    pub fn max_messages_during_calls(mut self, n: usize) -> Self {
        self.max_messages_during_calls = n;
        self
    }

    /// How many bytes of messages it holds in any case. (Messages are slices of read buffers, which
    /// may take up to twice their bytes.) Default: 64 MiB.
    pub fn max_bytes(mut self, n: usize) -> Self {
        self.max_bytes = n;
        self
    }

    /// What happens at the bound. Default: [`Overflow::Wait`].
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        let zero = |setter| {
            Err(Error::config(format!(
                "`QueueConfig::{setter}` must not be zero; `event_queue(None)` discards messages"
            )))
        };
        match (self.max_messages, self.max_bytes) {
            (0, _) => zero("max_messages"),
            (_, 0) => zero("max_bytes"),
            _ => Ok(()),
        }
    }
}

/// What happens to messages when a queue is full. See [`QueueConfig::overflow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Overflow {
    /// Messages wait. The client reads on for up to 1000 messages or 16 MiB beyond the bound and then
    /// stops reading, so the service feels it. Nothing is lost, but a reliable consumer that falls
    /// some 2000 messages behind loses its session to the service's own limit of 1000
    /// unacknowledged messages. (If connection after connection is lost for good while nobody takes
    /// events, messages are dropped at last, and [`Event::Lagged`](crate::Event::Lagged) says how
    /// many.)
    #[default]
    Wait,
    /// New messages are dropped and counted; [`Event::Lagged`](crate::Event::Lagged) stands where
    /// they would have been, at the latest half a second after the queue has room again.
    DropNewest,
    /// What the queue belongs to ends: the client, or the subscription alone, where
    /// [`Event::Stopped`](crate::Event::Stopped) says why, or the stream.
    Stop,
}
