//! The read half of a connection: tungstenite's framing over the blocking socket, on one thread.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tungstenite::protocol::{WebSocket, WebSocketConfig};
use tungstenite::{Error as WsError, Message};

use super::link::{Link, LinkOptions, Role};
use super::lock;
use super::wire::{CHUNK, is_timeout};
use crate::error::{Error, ErrorKind};
use crate::message::Text;

/// While bytes are left that nobody writes, the reader looks at them this often.
const REST_CHECK: Duration = Duration::from_millis(50);

/// Ciphertext is read in pieces of this size, until one is full.
const FIRST_CIPHER: usize = 2048;

/// What a read gives.
#[derive(Debug)]
pub(crate) enum Incoming {
    Text(Text),
    Binary(Bytes),
    /// Answered already.
    Ping,
    Pong,
    /// Answered already; nothing follows.
    Close {
        code: Option<u16>,
        reason: String,
    },
    /// The armed time passed, or nothing has arrived.
    TimedOut,
}

/// The link ended without a Close frame, or had to be ended.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) error: Error,
    /// The close code that the peer's violation of RFC 6455 or of our size limit deserves.
    pub(crate) violation: Option<u16>,
}

/// The read half. `next` blocks outside every lock.
#[derive(Debug)]
pub(crate) struct LinkReader {
    ws: WebSocket<ReadHalf>,
    link: Arc<Link>,
    armed: Option<Duration>,
    timed_out: bool,
}

impl LinkReader {
    pub(super) fn new(
        link: Arc<Link>,
        mut leftover: Vec<u8>,
        role: Role,
        options: &LinkOptions,
    ) -> Self {
        // tungstenite makes its buffer of this vector, and each later one as large as this one was
        // at first. A small one would mean a system call for every message.
        leftover.reserve_exact(options.read_buffer_size.saturating_sub(leftover.len()));
        let half =
            ReadHalf { link: Arc::clone(&link), cipher: Vec::new(), may_block: true, heard: false };
        let config = WebSocketConfig::default()
            .read_buffer_size(options.read_buffer_size)
            .write_buffer_size(0)
            .max_message_size(Some(options.max_message_size))
            .max_frame_size(Some(options.max_message_size));
        let ws = WebSocket::from_partially_read(half, leftover, role.into(), Some(config));
        Self { ws, link, armed: None, timed_out: false }
    }

    /// Makes the next reads return `TimedOut` at about this instant.
    ///
    /// Setting a socket's timeout is a system call, so a longer one that is armed already is left,
    /// up to twice as long; after it the reader comes back here and arms exactly.
    pub(crate) fn wake_at(&mut self, at: Option<Instant>, now: Instant) -> io::Result<()> {
        let mut wanted =
            at.map(|at| at.saturating_duration_since(now).max(Duration::from_millis(1)));
        if self.link.has_rest() {
            wanted = Some(wanted.map_or(REST_CHECK, |w| w.min(REST_CHECK)));
        }
        let exact = std::mem::take(&mut self.timed_out);
        let keep = match (wanted, self.armed) {
            (None, None) => true,
            (Some(wanted), Some(armed)) => !exact && wanted <= armed && armed <= wanted * 2,
            _ => false,
        };
        if !keep && wanted != self.armed {
            self.link.socket.set_read_timeout(wanted)?;
            self.armed = wanted;
        }
        Ok(())
    }

    /// Whether the socket gave anything since the last call, if only a part of a message.
    pub(crate) fn heard(&mut self) -> bool {
        std::mem::take(&mut self.ws.get_mut().heard)
    }

    /// The next message. With `wait` this blocks, at most for the armed time; without, it asks the
    /// socket for nothing.
    pub(crate) fn next(&mut self, wait: bool) -> Result<Incoming, Lost> {
        self.ws.get_mut().may_block = wait;
        loop {
            let message = match self.ws.read() {
                Ok(message) => message,
                Err(WsError::Io(e)) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(WsError::Io(e)) if is_timeout(&e) => {
                    if wait {
                        self.timed_out = true;
                        self.write_rest();
                    }
                    return Ok(Incoming::TimedOut);
                }
                Err(e) => return Err(self.lost(e)),
            };
            return Ok(match message {
                Message::Text(text) => Incoming::Text(Text::from_inner(text)),
                Message::Binary(bytes) => Incoming::Binary(bytes),
                Message::Ping(_) => {
                    self.answer();
                    Incoming::Ping
                }
                Message::Pong(_) => Incoming::Pong,
                Message::Close(frame) => {
                    self.answer();
                    let (code, reason) = match frame {
                        Some(f) => (Some(f.code.into()), f.reason.to_string()),
                        None => (None, String::new()),
                    };
                    Incoming::Close { code, reason }
                }
                Message::Frame(_) => continue,
            });
        }
    }

    /// tungstenite queues its pong or Close reply for the next call; this is that call. The reply
    /// goes through the out-buffer, and the reader never waits for a stuck peer.
    fn answer(&mut self) {
        let _ = self.ws.flush();
        self.link.flush(Instant::now());
    }

    /// Goes on with what other writers left behind, but never waits for a stuck peer.
    fn write_rest(&self) {
        if self.link.has_rest() {
            self.link.flush(Instant::now());
        }
    }

    fn lost(&self, e: WsError) -> Lost {
        let (violation, error) = match e {
            WsError::Capacity(e) => (
                Some(1009),
                Error::new(
                    ErrorKind::Disconnected,
                    "a message was larger than the limit of this client (`max_message_size`)",
                )
                .with_source(e),
            ),
            // A connection that ends without a Close frame is a loss, not a violation.
            WsError::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake)
            | WsError::ConnectionClosed
            | WsError::AlreadyClosed => (
                None,
                Error::new(ErrorKind::Disconnected, "the connection ended without a Close frame"),
            ),
            WsError::Protocol(e) => (
                Some(1002),
                Error::new(ErrorKind::Disconnected, "the peer broke the WebSocket protocol")
                    .with_source(e),
            ),
            WsError::Utf8(_) => (
                Some(1007),
                Error::new(ErrorKind::Disconnected, "the peer sent text that is not UTF-8"),
            ),
            WsError::Io(e) => (
                None,
                Error::new(ErrorKind::Disconnected, "reading from the connection failed")
                    .with_source(e),
            ),
            other => (
                None,
                Error::new(ErrorKind::Disconnected, "the connection failed").with_source(other),
            ),
        };
        // A writer that failed first knows the better cause.
        Lost { error: self.link.failure().unwrap_or(error), violation }
    }
}

/// The stream under tungstenite: reads come from the socket (through the TLS engine), writes go
/// to the link's out-buffer.
#[derive(Debug)]
struct ReadHalf {
    link: Arc<Link>,
    cipher: Vec<u8>,
    may_block: bool,
    /// The socket gave something since somebody asked.
    heard: bool,
}

impl ReadHalf {
    /// Everything of the last read is handled now; what that caused goes out in one write.
    fn before_blocking(&self) -> io::Result<()> {
        // With a rest left the reader comes back at once, and then waits no longer than it may.
        if !self.may_block || !self.link.flush_deferred() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(())
    }
}

impl Read for ReadHalf {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut socket = &self.link.socket;
        let Some(tls) = &self.link.tls else {
            self.before_blocking()?;
            let n = socket.read(buf)?;
            self.heard |= n > 0;
            return Ok(n);
        };
        loop {
            let mut engine = lock(tls);
            let done = engine.read(buf);
            let answered = engine.has_output();
            drop(engine);
            if answered {
                // A key update or an alert: it leaves with the present writer, or now.
                self.link.note_tls_output();
                self.link.flush(Instant::now());
            }
            match done {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            self.before_blocking()?;
            if self.cipher.is_empty() {
                self.cipher.resize(FIRST_CIPHER, 0);
            }
            let n = socket.read(&mut self.cipher)?;
            self.heard |= n > 0;
            lock(tls).feed(&self.cipher[..n]);
            // A busy connection gets the whole buffer, an idle one does not need it.
            if n == self.cipher.len() && n < CHUNK {
                self.cipher.resize(CHUNK, 0);
            }
        }
    }
}

impl Write for ReadHalf {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.link.append_raw(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
