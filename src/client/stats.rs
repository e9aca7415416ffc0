//! Counters of one client.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::error::Error;

/// What a client has done so far; see [`Client::stats`](crate::Client::stats).
///
/// Calls are those of the program. A message sent without an ack is one of them while it waits for a
/// connection, and counts below only if it times out or is cut off then; one that the program cancels
/// counts in no line.
///
#[cfg_attr(feature = "emulator", doc = "```")]
#[cfg_attr(not(feature = "emulator"), doc = "```ignore")]
/// # use webpubsub::{Client, emulator::Emulator};
/// # fn main() -> webpubsub::Result<()> {
/// # let emulator = Emulator::start()?;
/// # let client = Client::connect(emulator.url("chat"))?;
/// client.publish("chat", "hello")?;
/// let stats = client.stats();
/// assert_eq!((stats.calls_acked, stats.calls_pending), (1, 0));
/// if let Some(error) = &stats.last_error {
///     println!("the last that went wrong: {error}");
/// }
/// println!("round trip: {:?}", client.ping()?);
/// # client.close() }
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Messages received: group and server messages (repeated ones not counted).
    pub messages_in: u64,
    /// Bytes of all frames received, without WebSocket framing.
    pub bytes_in: u64,
    /// Publications, events, joins and leaves handed to a link; those sent again count again.
    pub messages_out: u64,
    /// Bytes of their frames, without WebSocket framing.
    pub bytes_out: u64,
    /// Calls that wait for an ack or an answer, or to be sent.
    pub calls_pending: u64,
    /// Calls that the service has executed, those that it recognised as repeated included, and
    /// invocations with an answer.
    pub calls_acked: u64,
    /// Calls that the service has refused, and invocations that have failed.
    pub calls_refused: u64,
    /// Calls whose deadline has passed before they had an outcome.
    pub calls_timed_out: u64,
    /// Calls without an outcome because the client ended or the connection was lost (for good,
    /// except for invocations).
    pub calls_cut_off: u64,
    /// Events in the event queue; those of subscriptions are not in it.
    pub queue_len: usize,
    /// The most that were seen in it; it is looked at now, at its bounds and every 64 messages.
    pub queue_high_water: usize,
    /// Messages dropped because the queue was full (see [`Overflow`](crate::Overflow)), and parts of
    /// more streams than are read at a time.
    pub dropped: u64,
    /// Repeated messages that were recognised by their sequence id and not delivered.
    pub duplicates: u64,
    /// Frames that could not be read, or were of a kind that this version does not know.
    pub malformed: u64,
    /// Sessions recovered on a new link.
    pub recoveries: u64,
    /// New connections after a loss.
    pub reconnects: u64,
    /// When the present connection was established. A recovery does not change it. `None`
    /// while there is none.
    pub connected_since: Option<Instant>,
    /// Why the connection was lost, an attempt to connect failed or the client stopped, whatever came
    /// last. `None` if nothing has failed yet; a `close` is no failure.
    pub last_error: Option<Error>,
    /// The last measurement: from a ping to its pong, or from a call to its ack. Not every call is
    /// measured: none that is sent again, and no event, whose ack waits for the app server's handler.
    /// What waits before a call in the out-buffer counts.
    pub last_round_trip: Option<Duration>,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) messages_in: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) messages_out: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) queue_high_water: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) duplicates: AtomicU64,
    pub(super) malformed: AtomicU64,
}

/// Each counter has one writer at a time (the reader thread, or who holds the session's lock), so
/// it needs no atomic addition, which would cost as much as a lock.
pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

impl Counters {
    /// The part of a snapshot that stands here.
    pub(super) fn snapshot(&self) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        Stats {
            messages_in: get(&self.messages_in),
            bytes_in: get(&self.bytes_in),
            messages_out: get(&self.messages_out),
            bytes_out: get(&self.bytes_out),
            queue_high_water: get(&self.queue_high_water) as usize,
            dropped: get(&self.dropped),
            duplicates: get(&self.duplicates),
            malformed: get(&self.malformed),
            ..Stats::default()
        }
    }
}
