//! One stream that is read.

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Buf, Bytes};
use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};

use super::queues::Routes;
use super::wake::may_block;
use crate::error::{Error, ErrorKind, Result};
use crate::message::Payload;

/// How a stream ended, once it has: `None` in order.
pub(crate) type Ending = Arc<OnceLock<Option<Error>>>;

/// One stream: the parts that its publisher sends to a group, in order and each once (preview); taken
/// from a [`StreamSubscription`](crate::StreamSubscription).
///
/// It ends in order, when its publisher has finished it, or with an error: the publisher has given it
/// up or is gone, a part is missing or came twice, the connection was lost for good, the client left
/// the group, or the stream's queue is full. A lost connection that is recovered loses nothing. What
/// came before the end can be read in any case.
///
/// Take the parts one by one, or all of them with a `for` loop; or read the stream as the
/// [`std::io::Read`] that it is.
///
#[cfg_attr(all(feature = "emulator", feature = "preview"), doc = "```no_run")]
#[cfg_attr(not(all(feature = "emulator", feature = "preview")), doc = "```ignore")]
/// # use webpubsub::StreamReader;
/// fn print(mut stream: StreamReader) -> webpubsub::Result<()> {
///     while let Some(part) = stream.recv()? {
///         println!("{part}");
///     }
///     println!("{} is complete", stream.stream_id());
///     Ok(())
/// }
///
/// fn save(mut stream: StreamReader) -> std::io::Result<u64> {
///     let mut file = std::fs::File::create("log")?;
///     std::io::copy(&mut stream, &mut file)
/// }
/// ```
///
/// # Threads
/// `Send`: move each stream into a thread of its own, or read several in turn. A slow reader holds up
/// nobody, unless its queue has [`Overflow::Wait`](crate::Overflow::Wait).
///
/// # What drop does
/// It throws the rest of the stream away, without waiting.
pub struct StreamReader {
    /// Of the subscription, and of the stream in it.
    key: (u64, u64),
    group: Arc<str>,
    id: String,
    from: Option<Arc<str>>,
    parts: Receiver<Payload>,
    end: Ending,
    routes: Arc<Routes>,
    /// What `read` has left of a part.
    rest: Bytes,
}

impl StreamReader {
    pub(super) fn new(
        key: (u64, u64),
        group: Arc<str>,
        id: String,
        from: Option<Arc<str>>,
        parts: Receiver<Payload>,
        end: Ending,
        routes: Arc<Routes>,
    ) -> Self {
        Self { key, group, id, from, parts, end, routes, rest: Bytes::new() }
    }

    /// Blocks until the next part; `None` is the end in order. A part of which
    /// [`read`](std::io::Read::read) has taken some comes as the bytes that are left.
    ///
    /// # Errors
    /// What ended the stream: `StreamFailed` (see
    /// [`service_error_name`](Error::service_error_name) and
    /// [`user_error_code`](Error::user_error_code)), `QueueFull`, `Disconnected`, `Timeout` (only with
    /// a [`silence_timeout`](crate::SubscribeStreams::silence_timeout)), `Closed`, or what ended the
    /// client. The same each time.
    pub fn recv(&mut self) -> Result<Option<Payload>> {
        if let Some(rest) = self.take_rest() {
            return Ok(Some(rest));
        }
        may_block()?;
        match self.parts.recv() {
            Ok(part) => Ok(Some(part)),
            Err(_) => self.outcome().map(|()| None),
        }
    }

    /// Blocks for at most `limit`; `None` if nothing came.
    ///
    /// # Errors
    /// As [`recv`](Self::recv); and `Closed` at the end in order, see
    /// [`is_complete`](Self::is_complete).
    pub fn recv_timeout(&mut self, limit: Duration) -> Result<Option<Payload>> {
        if let Some(rest) = self.take_rest() {
            return Ok(Some(rest));
        }
        may_block()?;
        match self.parts.recv_timeout(limit) {
            Ok(part) => Ok(Some(part)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(self.over()),
        }
    }

    /// Does not block; `None` if nothing is there.
    ///
    /// # Errors
    /// As [`recv_timeout`](Self::recv_timeout).
    pub fn try_recv(&mut self) -> Result<Option<Payload>> {
        if let Some(rest) = self.take_rest() {
            return Ok(Some(rest));
        }
        match self.parts.try_recv() {
            Ok(part) => Ok(Some(part)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(self.over()),
        }
    }

    /// Whether the stream has ended in order and every part of it has been taken.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        matches!(self.end.get(), Some(None)) && self.parts.is_empty() && self.rest.is_empty()
    }

    /// The group to which it is published.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The id that its publisher gave it. Later streams may have the same one.
    #[must_use]
    pub fn stream_id(&self) -> &str {
        &self.id
    }

    /// Who publishes it, where the subprotocol carries it and the publisher has a user id.
    #[must_use]
    #[allow(clippy::wrong_self_convention)] // The service's word.
    pub fn from_user_id(&self) -> Option<&str> {
        self.from.as_deref()
    }

    fn take_rest(&mut self) -> Option<Payload> {
        (!self.rest.is_empty()).then(|| Payload::Binary(std::mem::take(&mut self.rest)))
    }

    /// For when nothing more comes.
    fn outcome(&self) -> Result<()> {
        match self.end.get() {
            Some(None) => Ok(()),
            Some(Some(error)) => Err(error.clone()),
            None => Err(Error::closed()),
        }
    }

    fn over(&self) -> Error {
        let end = || Error::new(ErrorKind::Closed, "the stream is over; all of it was read");
        self.outcome().err().unwrap_or_else(end)
    }
}

/// The bytes of all parts one behind the other: of text, of binary data, of the text of JSON. Blocks
/// until there are some; 0 is the end in order. An error is the stream's as [`std::io::Error`], the
/// same each time.
impl io::Read for StreamReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() && !buf.is_empty() {
            match self.recv()? {
                Some(part) => self.rest = part.into_bytes(),
                None => return Ok(0),
            }
        }
        let n = buf.len().min(self.rest.len());
        self.rest.copy_to_slice(&mut buf[..n]);
        Ok(n)
    }
}

impl Drop for StreamReader {
    fn drop(&mut self) {
        if self.end.get().is_none() {
            self.routes.ignore_stream(self.key.0, self.key.1);
            // Behind the note, so at most one part more comes. The queue itself goes with the next
            // message.
            self.parts.try_iter().for_each(drop);
        }
    }
}

impl fmt::Debug for StreamReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamReader")
            .field("group", &self.group)
            .field("stream_id", &self.id)
            .field("unread", &self.parts.len())
            .field("ended", &self.end.get())
            .finish_non_exhaustive()
    }
}

/// The parts of a stream up to its end; blocks for each.
impl IntoIterator for StreamReader {
    type Item = Result<Payload>;
    type IntoIter = StreamParts;
    fn into_iter(self) -> StreamParts {
        StreamParts { stream: self, over: false }
    }
}

/// The parts of a [`StreamReader`]. If the stream does not end in order, the last item is the error.
#[derive(Debug)]
pub struct StreamParts {
    stream: StreamReader,
    over: bool,
}

impl Iterator for StreamParts {
    type Item = Result<Payload>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let next = self.stream.recv().transpose();
        self.over = !matches!(next, Some(Ok(_)));
        next
    }
}
