//! A stream that the program publishes.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::handle::Client;
use super::request::{check_size, rule};
use super::shared::{LONGEST, Shared};
use crate::error::{Error, Result};
use crate::message::Payload;
use crate::protocol::{StreamEndError, Upstream, rules};
use crate::session::{StreamConfig, StreamStart};

/// The most that one `write` puts into a fragment.
const WRITE_MOST: usize = 64 * 1024;

/// Which stream to open, with options; a group's name is enough where one is asked for.
///
#[cfg_attr(feature = "emulator", doc = "```")]
#[cfg_attr(not(feature = "emulator"), doc = "```ignore")]
/// # use webpubsub::{Client, OpenStream, emulator::Emulator};
/// # use std::time::Duration;
/// # fn main() -> webpubsub::Result<()> {
/// # let emulator = Emulator::start()?;
/// # let client = Client::connect(emulator.url("builds"))?;
/// let build = OpenStream::new("builds")
///     .stream_id("build-17")
///     .no_echo()
///     .idle_timeout(Duration::from_secs(60))
///     .timeout(Duration::from_secs(5));
/// let mut log = client.open_stream(build)?;
/// log.send("compiling")?;
/// log.finish()?;
/// # client.close() }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a request does nothing until a client opens the stream"]
pub struct OpenStream {
    group: Arc<str>,
    stream_id: Option<Arc<str>>,
    no_echo: bool,
    idle_timeout: Duration,
    stall_timeout: Duration,
    max_unacked_fragments: usize,
    max_unacked_bytes: usize,
    timeout: Option<Duration>,
}

impl OpenStream {
    /// A stream to this group. Membership is not needed.
    pub fn new(group: impl AsRef<str>) -> Self {
        let StreamConfig { max_unacked_fragments, max_unacked_bytes, idle_timeout, stall_timeout } =
            StreamConfig::default();
        Self {
            group: group.as_ref().into(),
            stream_id: None,
            no_echo: false,
            idle_timeout,
            stall_timeout,
            max_unacked_fragments,
            max_unacked_bytes,
            timeout: None,
        }
    }

    /// The id that subscribers see. It must not be that of another open stream of this connection.
    /// Default: a random UUID.
    pub fn stream_id(mut self, id: impl AsRef<str>) -> Self {
        self.stream_id = Some(id.as_ref().into());
        self
    }

    /// This connection does not get the fragments itself, nor the end. Default: it does, if it is in
    /// the group.
    pub fn no_echo(mut self) -> Self {
        self.no_echo = true;
        self
    }

    /// The service ends the stream after this long without a sign of life, which subscribers then
    /// learn. The client sends one every third of it by itself, so this says how soon they learn that
    /// the publisher is gone. From 1 ms to 49 days. Default: 300 s.
    pub fn idle_timeout(mut self, limit: Duration) -> Self {
        self.idle_timeout = limit;
        self
    }

    /// The stream fails if the service acknowledges nothing for this long while fragments wait for
    /// that and the connection is up. Default: 30 s.
    pub fn stall_timeout(mut self, limit: Duration) -> Self {
        self.stall_timeout = limit;
        self
    }

    /// This many fragments at most are kept until the service has acknowledged them;
    /// [`send`](StreamWriter::send) waits for room. At least 1. Default: 256.
    pub fn max_unacked_fragments(mut self, count: usize) -> Self {
        self.max_unacked_fragments = count;
        self
    }

    /// This many bytes of encoded fragments at most are kept likewise. A longer fragment goes alone.
    /// Default: 4 MiB.
    pub fn max_unacked_bytes(mut self, bytes: usize) -> Self {
        self.max_unacked_bytes = bytes;
        self
    }

    /// The deadline of opening, and later of [`finish`](StreamWriter::finish) and
    /// [`abort`](StreamWriter::abort). Default:
    /// [`ClientBuilder::call_timeout`](crate::ClientBuilder::call_timeout).
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// What the service would refuse, or answer by closing the connection, is refused here.
    fn check(&self) -> Result<StreamStart> {
        rule("group name", rules::group(&self.group))?;
        let stream_id = self.stream_id.clone().unwrap_or_else(|| uuid(rand::random()).into());
        rule("stream id", rules::stream_id(&stream_id))?;
        let idle_timeout_ms = u32::try_from(self.idle_timeout.as_millis())
            .map_err(|_| Error::invalid("`idle_timeout` must be at most 49 days"))?;
        rule("idle timeout", rules::idle_timeout_ms(idle_timeout_ms))?;
        if self.max_unacked_fragments == 0 {
            return Err(Error::invalid("`max_unacked_fragments` must be at least 1"));
        }
        if self.stall_timeout.is_zero() {
            return Err(Error::invalid("`stall_timeout` must not be zero"));
        }
        let group = Arc::clone(&self.group);
        Ok(StreamStart { group, stream_id, no_echo: self.no_echo, idle_timeout_ms })
    }
}

impl From<&str> for OpenStream {
    fn from(group: &str) -> Self {
        Self::new(group)
    }
}

impl From<String> for OpenStream {
    fn from(group: String) -> Self {
        Self::new(group)
    }
}

impl From<&String> for OpenStream {
    fn from(group: &String) -> Self {
        Self::new(group)
    }
}

impl Client {
    /// Opens a stream to a group: an ordered sequence of fragments that the service confirms
    /// (preview). Blocks until the service has accepted it, at most until its deadline.
    ///
    /// See [`StreamWriter`] for an example, and [`OpenStream`] for options.
    ///
    /// # Errors
    /// `InvalidRequest` (nothing was sent); `Refused` with the service's name, such as `Forbidden`
    /// if the token lacks the role that [`publish`](Self::publish) needs; `Timeout`;
    /// `OutcomeUnknown` if the connection was lost before the answer, after which the client ends the
    /// stream if it finds its connection again; `Closed`, or what ended the client.
    #[doc(alias = "openGroupStream")]
    pub fn open_stream(&self, group: impl Into<OpenStream>) -> Result<StreamWriter> {
        let request: OpenStream = group.into();
        let shared = self.shared();
        let start = request.check()?;
        let config = StreamConfig {
            max_unacked_fragments: request.max_unacked_fragments,
            max_unacked_bytes: request.max_unacked_bytes,
            idle_timeout: request.idle_timeout,
            stall_timeout: request.stall_timeout.min(LONGEST),
        };
        let timeout = request.timeout.unwrap_or(shared.config.call_timeout);
        let stream_id = Arc::clone(&start.stream_id);
        shared.open_stream(start, config, timeout).map_err(|error| shared.explained(error))?;
        Ok(StreamWriter {
            shared: Arc::clone(shared),
            stream_id,
            next: 1,
            // While the link is lost the stream's own limit does not run.
            patience: request.stall_timeout.saturating_add(shared.config.recovery_window),
            timeout,
        })
    }
}

/// A stream that this client publishes; made by [`Client::open_stream`] (preview).
///
/// The service numbers nothing by itself: the writer does, keeps each fragment until the service has
/// acknowledged it, and sends again what was refused for the moment or lost with a connection that is
/// recovered. So subscribers get every fragment once and in order, and after a
/// [`finish`](Self::finish) that succeeds they have got all of them. If the connection is lost for
/// good, the stream is lost too: [`send`](Self::send) and `finish` then return `OutcomeUnknown`, and
/// [`acked`](Self::acked) says how much is certain.
///
#[cfg_attr(feature = "emulator", doc = "```")]
#[cfg_attr(not(feature = "emulator"), doc = "```ignore")]
/// # use std::io::Write as _;
/// # use webpubsub::{Client, emulator::Emulator};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let emulator = Emulator::start()?;
/// # let client = Client::connect(emulator.url("chat"))?;
/// let mut answer = client.open_stream("chat")?; // accepted when this returns
/// answer.send("Hello, ")?; // a fragment each
/// answer.send("world")?;
/// answer.finish()?; // everything is published when this returns
///
/// # let mut file = &b"many lines"[..];
/// let mut log = client.open_stream("logs")?;
/// std::io::copy(&mut file, &mut log)?; // it is a `std::io::Write` too
/// log.finish()?;
/// # client.close()?;
/// # Ok(()) }
/// ```
///
/// As a [`Write`](std::io::Write) it sends bytes, and each `write` is one fragment of at most 64 KiB:
/// put a [`BufWriter`](std::io::BufWriter) around it where many writes are short, and take it back
/// by [`into_inner`](std::io::BufWriter::into_inner) to finish it. `flush` waits for nothing.
///
/// # Threads
/// `Send`, and not `Clone`: the order of the fragments is the order of the calls. Several streams of
/// a client go side by side, and other messages between their fragments.
///
/// # What drop does
/// It aborts the stream without waiting: subscribers learn it at once, by the error code `Dropped`.
/// [`Client::close`] aborts the streams that are open, by `Closed`. A writer does not keep its client
/// alive.
#[must_use = "dropping it aborts the stream"]
pub struct StreamWriter {
    shared: Arc<Shared>,
    stream_id: Arc<str>,
    /// The number of the next fragment.
    next: u64,
    /// How long `send` waits for an ack that makes room.
    patience: Duration,
    timeout: Duration,
}

impl StreamWriter {
    /// Sends a fragment, of any kind of payload. Returns when it is handed over to be written; blocks
    /// while the [window](OpenStream::max_unacked_fragments) or the connection's out-buffer is full.
    ///
    /// While a lost connection is being recovered, fragments wait in the window. One that is not
    /// valid is refused, uses no number, and the stream goes on.
    ///
    /// # Errors
    /// `InvalidRequest` or `Payload` (the fragment was not sent, the stream goes on); `Timeout` if
    /// nothing was acknowledged within
    /// [`stall_timeout`](OpenStream::stall_timeout); `Refused` with the service's name if it ended the
    /// stream; `OutcomeUnknown` after a new connection; `Closed`, or what ended the client. Once the
    /// stream has failed, its first error comes again each time.
    pub fn send(&mut self, data: impl Into<Payload>) -> Result<()> {
        self.send_payload(data.into())
    }

    fn send_payload(&mut self, payload: Payload) -> Result<()> {
        if let Payload::Json(json) = &payload {
            rule("payload", rules::json_data(json.as_str()))?;
        }
        let fragment = Upstream::StreamData {
            stream_id: Cow::Borrowed(&self.stream_id),
            stream_sequence_id: Some(self.next),
            payload: Some(payload),
        };
        let frame = self.shared.encode(&fragment)?;
        let frame = frame.ok_or_else(|| Error::invalid("this client has no subprotocol"))?;
        check_size(frame.as_bytes().len())?;
        self.shared
            .send_fragment(&self.stream_id, self.next, &frame, self.patience)
            .map_err(|error| self.shared.explained(error))?;
        self.next += 1;
        Ok(())
    }

    /// Blocks until the service has acknowledged every fragment so far, at most for `limit`.
    ///
    /// # Errors
    /// `Timeout` at the limit, and the stream goes on; else as [`send`](Self::send).
    pub fn wait_acked(&mut self, limit: Duration) -> Result<()> {
        let acked = self.shared.wait_acked(&self.stream_id, limit);
        acked.map_err(|error| self.shared.explained(error))
    }

    /// How many fragments, from the first on, the service has certainly accepted. Never blocks; also
    /// after a failure.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.shared.stream_state(&self.stream_id).0
    }

    /// Ends the stream: waits until every fragment is acknowledged, then tells the service, and
    /// blocks until it has confirmed that, at most until the stream's
    /// [deadline](OpenStream::timeout). `Ok`: every fragment was published.
    ///
    /// # Errors
    /// As [`send`](Self::send); `OutcomeUnknown` also if the end was written to a connection that was
    /// lost and the service may have ended the stream as idle.
    pub fn finish(self) -> Result<()> {
        let ended = self.shared.end_stream(&self.stream_id, None, self.timeout);
        ended.map_err(|error| self.shared.explained(error))
    }

    /// Gives the stream up: tells the service at once, and blocks until it has confirmed that, at
    /// most until the stream's [deadline](OpenStream::timeout). Subscribers get the error `UserError`
    /// with this message and code, of which either may be empty.
    ///
    /// # Errors
    /// `InvalidRequest` if the text is too long for a message (the stream is aborted all the same); as
    /// [`send`](Self::send), if the stream has failed before.
    pub fn abort(self, message: &str, user_error_code: &str) -> Result<()> {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let error =
            StreamEndError { message: some(message), user_error_code: some(user_error_code) };
        let stream_id = Cow::Borrowed(&*self.stream_id);
        let frame =
            self.shared.encode(&Upstream::StreamEnd { stream_id, error: Some(error.clone()) })?;
        check_size(frame.map_or(0, |frame| frame.as_bytes().len()))?;
        let ended = self.shared.end_stream(&self.stream_id, Some(error), self.timeout);
        ended.map_err(|error| self.shared.explained(error))
    }

    /// The id that subscribers see.
    #[must_use]
    pub fn stream_id(&self) -> &str {
        &self.stream_id
    }
}

/// See [`StreamWriter`]. The inner error of what these methods return is an [`Error`].
impl io::Write for StreamWriter {
    /// Sends up to 64 KiB as one binary fragment, and blocks as [`send`](StreamWriter::send).
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let data = &data[..data.len().min(WRITE_MOST)];
        if !data.is_empty() {
            self.send_payload(Payload::from(data))?;
        }
        Ok(data.len())
    }

    /// Waits for nothing; fails if the stream has failed.
    fn flush(&mut self) -> io::Result<()> {
        Ok(self.shared.stream_state(&self.stream_id).1?)
    }
}

impl fmt::Debug for StreamWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamWriter")
            .field("stream_id", &self.stream_id)
            .field("sent", &(self.next - 1))
            .finish_non_exhaustive()
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        self.shared.release_stream(&self.stream_id, self.timeout);
    }
}

/// A random UUID, version 4 (RFC 9562).
fn uuid(random: u128) -> String {
    let bits = random & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_has_its_version_and_variant() {
        assert_eq!(uuid(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid(0), "00000000-0000-4000-8000-000000000000");
    }
}
