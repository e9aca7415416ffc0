//! The streams of a group, or of all groups, one by one.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};

use super::config::{Overflow, QueueConfig};
#[cfg(feature = "preview")]
use super::handle::Client;
use super::pending::PendingAck;
use super::shared::{LONGEST, Shared};
use super::stream_queues::{Common, StreamConfig, StreamRoute};
use super::stream_reader::StreamReader;
use super::wake::may_block;
use crate::error::{Error, Result};
use crate::session;

/// Parts that a stream's queue holds, and streams of a subscription.
const MAX_PARTS: usize = 1024;
const MAX_STREAMS: usize = 1024;
/// Less than a subscription's, since each stream has a queue.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Whose streams to read, with options (preview); a group's name is enough where one is asked for.
///
#[cfg_attr(all(feature = "emulator", feature = "preview"), doc = "```")]
#[cfg_attr(not(all(feature = "emulator", feature = "preview")), doc = "```ignore")]
/// use std::time::Duration;
/// use webpubsub::SubscribeStreams;
///
/// let whole = SubscribeStreams::new("logs").from_start().max_streams(16);
/// let lively = SubscribeStreams::all_groups().silence_timeout(Some(Duration::from_secs(60)));
/// ```
#[derive(Debug, Clone)]
#[must_use = "a request does nothing until a client subscribes"]
pub struct SubscribeStreams {
    group: Option<Arc<str>>,
    config: StreamConfig,
}

impl SubscribeStreams {
    /// The streams of this group, which the client joins.
    pub fn new(group: impl AsRef<str>) -> Self {
        Self { group: Some(group.as_ref().into()), ..Self::all_groups() }
    }

    /// The streams of whatever group the client is a member of. This joins none.
    pub fn all_groups() -> Self {
        let queue = QueueConfig::new().max_messages(MAX_PARTS).max_bytes(MAX_BYTES);
        let config = StreamConfig {
            from_start: false,
            silence_timeout: None,
            max_streams: MAX_STREAMS,
            queue: queue.overflow(Overflow::Stop),
        };
        Self { group: None, config }
    }

    /// Ignores streams whose beginning has been missed. Default: a stream is read from the part on
    /// that is the first to come.
    #[allow(clippy::wrong_self_convention)] // An option of a request, as the others.
    pub fn from_start(mut self) -> Self {
        self.config.from_start = true;
        self
    }

    /// Ends a stream that brings no part for this long, with `Timeout`. The publisher's signs of life
    /// go to the service only, so a healthy stream may be silent for any time. Default: `None`, no
    /// limit.
    pub fn silence_timeout(mut self, limit: Option<Duration>) -> Self {
        self.config.silence_timeout = limit.map(|limit| limit.min(LONGEST));
        self
    }

    /// How many streams it reads at a time, those that the program has not taken included, and how many
    /// it remembers to ignore. What has no room is thrown away and counted by
    /// [`Stats::dropped`](crate::Stats::dropped). Default: 1024.
    pub fn max_streams(mut self, n: usize) -> Self {
        self.config.max_streams = n.max(1);
        self
    }

    /// The bounds of each stream's queue and what happens at them. With
    /// [`Overflow::Stop`] and with `DropNewest` the stream ends with
    /// `QueueFull`; [`Overflow::Wait`], which a [`QueueConfig`] has unless it
    /// says otherwise, holds up the connection. Default: 1024 parts, 16 MiB, `Stop`.
    pub fn queue(mut self, queue: QueueConfig) -> Self {
        // A queue without any room would hold up the connection for ever.
        let QueueConfig { max_messages, max_bytes, .. } = queue;
        self.config.queue = queue.max_messages(max_messages.max(1)).max_bytes(max_bytes.max(1));
        self
    }
}

impl From<&str> for SubscribeStreams {
    fn from(group: &str) -> Self {
        Self::new(group)
    }
}

impl From<String> for SubscribeStreams {
    fn from(group: String) -> Self {
        Self::new(group)
    }
}

impl From<&String> for SubscribeStreams {
    fn from(group: &String) -> Self {
        Self::new(group)
    }
}

/// The streams of a group, or of all groups, as they begin (preview); made by
/// [`Client::subscribe_streams`](crate::Client::subscribe_streams).
///
/// Several such subscriptions of a group each get every stream. The parts of streams enter no other
/// queue then; messages of the group that belong to no stream go where they would go without it. Of a
/// group without a stream subscription the parts are group messages with
/// [`stream`](crate::GroupMessage::stream) set.
///
#[cfg_attr(all(feature = "emulator", feature = "preview"), doc = "```no_run")]
#[cfg_attr(not(all(feature = "emulator", feature = "preview")), doc = "```ignore")]
/// # use webpubsub::{Client, emulator::Emulator};
/// # fn main() -> webpubsub::Result<()> {
/// # let emulator = Emulator::start()?;
/// # let client = Client::connect(emulator.url("chat"))?;
/// let streams = client.subscribe_streams("logs")?; // joined when this returns
/// for stream in &streams {
///     std::thread::spawn(move || -> webpubsub::Result<()> {
///         let id = stream.stream_id().to_owned();
///         for part in stream {
///             println!("{id}: {}", part?);
///         }
///         Ok(())
///     });
/// }
/// # Ok(()) }
/// ```
///
/// # Threads
/// `Send + Sync`. Clone the [`receiver`](Self::receiver) to share the work among threads: each stream
/// goes to one of them.
///
/// # What drop does
/// It ends the subscription without waiting, and with `Closed` the streams that were taken from it. When
/// nothing else holds the group, the client's thread leaves it. A stream subscription does not keep its
/// client alive.
#[must_use = "dropping it ends the subscription and its streams"]
pub struct StreamSubscription {
    shared: Arc<Shared>,
    group: Option<Arc<str>>,
    id: u64,
    streams: Receiver<StreamReader>,
    end: Arc<OnceLock<Error>>,
    ended: bool,
}

#[cfg(feature = "preview")]
impl Client {
    /// Subscribes to the streams of a group (preview): each comes as a [`StreamReader`] of its own.
    /// Blocks until the service has acked the join, at most for the call timeout; for
    /// [all groups](SubscribeStreams::all_groups) there is nothing to wait for. After a new connection
    /// the group is joined again, but streams that were open have failed.
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe).
    ///
    #[cfg_attr(feature = "emulator", doc = "```no_run")]
    #[cfg_attr(not(feature = "emulator"), doc = "```ignore")]
    /// # use webpubsub::{Client, emulator::Emulator};
    /// # fn main() -> webpubsub::Result<()> {
    /// # let emulator = Emulator::start()?;
    /// # let client = Client::connect(emulator.url("chat"))?;
    /// let streams = client.subscribe_streams("logs")?;
    /// let mut stream = streams.recv()?;
    /// while let Some(part) = stream.recv()? {
    ///     println!("{part}");
    /// }
    /// # Ok(()) }
    /// ```
    #[doc(alias = "onGroupStream")]
    pub fn subscribe_streams(
        &self,
        group: impl Into<SubscribeStreams>,
    ) -> Result<StreamSubscription> {
        let (subscription, join) = self.shared().subscribe_streams(group.into())?;
        // If that fails, the drop of the subscription takes everything back.
        join.map_or(Ok(()), |join| join.wait().map(drop))?;
        Ok(subscription)
    }
}

impl StreamSubscription {
    /// Blocks until the next stream begins.
    ///
    /// # Errors
    /// At the end: what ended the subscription.
    pub fn recv(&self) -> Result<StreamReader> {
        may_block()?;
        self.streams.recv().map_err(|_| self.end_error())
    }

    /// Blocks for at most `limit`; `None` if no stream began.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn recv_timeout(&self, limit: Duration) -> Result<Option<StreamReader>> {
        may_block()?;
        match self.streams.recv_timeout(limit) {
            Ok(stream) => Ok(Some(stream)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(self.end_error()),
        }
    }

    /// Does not block; `None` if there is no new stream.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn try_recv(&self) -> Result<Option<StreamReader>> {
        match self.streams.try_recv() {
            Ok(stream) => Ok(Some(stream)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(self.end_error()),
        }
    }

    /// All streams up to the end; blocks for each. `for stream in &streams` is the same.
    pub fn iter(&self) -> crossbeam_channel::Iter<'_, StreamReader> {
        self.streams.iter()
    }

    /// The queue of new streams itself, for `select!`. Clones share it: each stream goes to one of them.
    #[must_use]
    pub fn receiver(&self) -> &Receiver<StreamReader> {
        &self.streams
    }

    /// The group; `None` if it is for all.
    #[must_use]
    pub fn group(&self) -> Option<&str> {
        self.group.as_deref()
    }

    /// Ends the subscription and its streams, and blocks until the group is left if nothing else holds
    /// it, at most for the call timeout.
    ///
    /// # Errors
    /// `Timeout`, or what ended the client. The subscription has ended in any case.
    pub fn unsubscribe(mut self) -> Result<()> {
        self.ended = true;
        let limit = self.shared.config.call_timeout;
        let leave = self.shared.unsubscribe_streams(self.group.as_ref(), self.id, true);
        leave.map_or(Ok(()), |leave| leave.outcome_within(limit))
    }

    fn end_error(&self) -> Error {
        self.end.get().cloned().unwrap_or_else(|| self.shared.end_error())
    }
}

impl Drop for StreamSubscription {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.unsubscribe_streams(self.group.as_ref(), self.id, false);
        }
    }
}

impl<'a> IntoIterator for &'a StreamSubscription {
    type Item = StreamReader;
    type IntoIter = crossbeam_channel::Iter<'a, StreamReader>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Debug for StreamSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamSubscription")
            .field("group", &self.group)
            .field("new", &self.streams.len())
            .field("ended", &self.end.get())
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Starts a stream subscription, and the join of its group if it has one.
    fn subscribe_streams(
        self: &Arc<Self>,
        spec: SubscribeStreams,
    ) -> Result<(StreamSubscription, Option<PendingAck>)> {
        let SubscribeStreams { group, config } = spec;
        let (id, end) = (self.routes.next_id(), Arc::default());
        let common = Common {
            calls: Arc::clone(&self.calls),
            routes: Arc::clone(&self.routes),
            hook: self.hook.clone(),
        };
        let (route, streams) =
            StreamRoute::new(id, group.clone(), config, Arc::clone(&end), common);
        let note = || self.routes.add_streams(route);
        let join = match &group {
            Some(group) => Some(self.hold_group(group, None, note)?),
            None => self.watch_all(note).map(|()| None)?,
        };
        let shared = Arc::clone(self);
        Ok((StreamSubscription { shared, group, id, streams, end, ended: false }, join))
    }

    /// Leaves the note unless the client has ended.
    fn watch_all(&self, note: impl FnOnce()) -> Result<()> {
        let state = self.lock();
        match state.session.ended() {
            Some(cause) => Err(session::ended_error(cause, false)),
            None => {
                note();
                Ok(())
            }
        }
    }

    fn unsubscribe_streams(
        self: &Arc<Self>,
        group: Option<&Arc<str>>,
        id: u64,
        wait: bool,
    ) -> Option<PendingAck> {
        let Some(group) = group else {
            self.routes.remove_streams(None, id, None);
            // Whoever reads one of its streams learns of the end, although nothing may arrive.
            self.waker.wake();
            return None;
        };
        let note = |leave| self.routes.remove_streams(Some(group), id, leave);
        self.release_group(group, wait, note)
    }
}
