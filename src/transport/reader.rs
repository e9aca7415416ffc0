//! The read half of a connection: tungstenite's framing over the non-blocking socket, on one thread.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tungstenite::protocol::{WebSocket, WebSocketConfig};
use tungstenite::{Error as WsError, Message};

use super::link::{Link, LinkOptions, Role};
use super::lock;
use super::wait::{self, Interest, Ready};
use super::wire::{CHUNK, would_block};
use crate::error::{Error, ErrorKind};
use crate::message::Text;

/// The code and the reason that tungstenite puts in the place of a close code that RFC 6455 §7.4
/// does not allow on the wire.
const REPLACED: (u16, &str) = (1002, "Protocol violation");

/// Ciphertext is read in pieces of this size, until one is full.
const FIRST_CIPHER: usize = 2048;

/// What has come in.
#[derive(Debug)]
pub(crate) enum Incoming {
    Text(Text),
    Binary(Bytes),
    /// Answered already.
    Ping,
    Pong(Bytes),
    /// Answered already; nothing follows. A code that nobody may send counts as none.
    Close {
        code: Option<u16>,
        reason: String,
    },
}

/// The link ended without a Close frame, or had to be ended.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) error: Error,
    /// The close code that the peer's violation of RFC 6455 or of our size limit deserves.
    pub(crate) violation: Option<u16>,
}

/// The read half.
#[derive(Debug)]
pub(crate) struct LinkReader {
    ws: WebSocket<ReadHalf>,
    link: Arc<Link>,
}

impl LinkReader {
    pub(super) fn new(
        link: Arc<Link>,
        mut leftover: Vec<u8>,
        role: Role,
        options: &LinkOptions,
    ) -> Self {
        // What came with the upgrade is looked at before the first wait; the TLS engine may hold
        // some of it too.
        let more = !leftover.is_empty() || link.tls.is_some();
        // tungstenite makes its buffer of this vector, and each later one as large as this one was
        // at first. A small one would mean a system call for every message.
        leftover.reserve_exact(options.read_buffer_size.saturating_sub(leftover.len()));
        let intake = Intake { reads: 0, bytes: 0, more };
        let half = ReadHalf { link: Arc::clone(&link), cipher: Vec::new(), intake };
        let config = WebSocketConfig::default()
            .read_buffer_size(options.read_buffer_size)
            .write_buffer_size(0)
            .max_message_size(Some(options.max_message_size))
            .max_frame_size(Some(options.max_message_size));
        let ws = WebSocket::from_partially_read(half, leftover, role.into(), Some(config));
        Self { ws, link }
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Waits for the socket (if `read`, for data too; for room if something is left to write), for
    /// the waker, or until the given instant.
    ///
    /// While the last read has filled its buffer there is surely more, so no system call asks for
    /// it, unless somebody else wants to be heard.
    pub(crate) fn wait(&self, read: bool, until: Option<Instant>) -> io::Result<Ready> {
        let rest = self.link.rest();
        if read && rest.is_none() && self.ws.get_ref().intake.more && !self.link.waker().is_raised()
        {
            return Ok(Ready { read: true, ..Ready::default() });
        }
        let until = [until, rest].into_iter().flatten().min();
        let interest = Interest { read, write: rest.is_some() };
        wait::wait(Some((&self.link.socket, interest)), self.link.waker(), until)
    }

    /// Lets [`next`](Self::next) read the socket once.
    pub(crate) fn read_once(&mut self) {
        self.ws.get_mut().intake.reads = 1;
    }

    /// How many bytes the socket has brought since the last call, if only a part of a message.
    pub(crate) fn take_bytes(&mut self) -> usize {
        std::mem::take(&mut self.ws.get_mut().intake.bytes)
    }

    /// The next message of what has been read. `None`: the rest of it has not arrived.
    pub(crate) fn next(&mut self) -> Result<Option<Incoming>, Lost> {
        loop {
            let message = match self.ws.read() {
                Ok(message) => message,
                Err(WsError::Io(e)) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(WsError::Io(e)) if would_block(&e) => return Ok(None),
                Err(e) => return Err(self.lost(e)),
            };
            return Ok(Some(match message {
                Message::Text(text) => Incoming::Text(Text::from_inner(text)),
                Message::Binary(bytes) => Incoming::Binary(bytes),
                Message::Ping(_) => {
                    self.answer();
                    Incoming::Ping
                }
                Message::Pong(payload) => Incoming::Pong(payload),
                Message::Close(frame) => {
                    if frame.is_none() {
                        self.link.answer_close_without_code();
                    }
                    self.answer();
                    close(frame.map(|frame| (frame.code.into(), frame.reason.to_string())))
                }
                Message::Frame(_) => continue,
            }));
        }
    }

    /// The next message; blocks until one comes.
    #[cfg(any(test, feature = "emulator"))]
    pub(crate) fn next_blocking(&mut self) -> Result<Incoming, Lost> {
        loop {
            if let Some(incoming) = self.next()? {
                return Ok(incoming);
            }
            self.link.flush_now();
            if let Err(e) = self.wait(true, None) {
                return Err(self.lost(WsError::Io(e)));
            }
            self.read_once();
        }
    }

    /// tungstenite queues its pong or Close reply for the next call; this is that call. The reply
    /// goes to the out-buffer.
    fn answer(&mut self) {
        let _ = self.ws.flush();
    }

    fn lost(&self, e: WsError) -> Lost {
        let (violation, error) = match e {
            WsError::Capacity(e) => (
                Some(1009),
                Error::new(
                    ErrorKind::Disconnected,
                    "a message was larger than the limit of this client (`max_message_bytes`)",
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

fn close(frame: Option<(u16, String)>) -> Incoming {
    match frame {
        Some((code, reason)) if (code, reason.as_str()) != REPLACED => {
            Incoming::Close { code: Some(code), reason }
        }
        _ => Incoming::Close { code: None, reason: String::new() },
    }
}

/// The stream under tungstenite: reads come from the socket (through the TLS engine), writes go
/// to the link's out-buffer.
#[derive(Debug)]
struct ReadHalf {
    link: Arc<Link>,
    cipher: Vec<u8>,
    intake: Intake,
}

/// What is read from the socket.
#[derive(Debug)]
struct Intake {
    /// How often the socket may still be read before the next wait.
    reads: u8,
    /// Bytes that it has brought since somebody asked.
    bytes: usize,
    /// The last read filled its buffer.
    more: bool,
}

impl Intake {
    fn read(&mut self, mut socket: &TcpStream, buf: &mut [u8]) -> io::Result<usize> {
        if self.reads == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.reads -= 1;
        self.more = false;
        let n = socket.read(buf)?;
        self.bytes += n;
        self.more = n == buf.len();
        Ok(n)
    }
}

impl Read for ReadHalf {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &self.link.tls else {
            return self.intake.read(&self.link.socket, buf);
        };
        loop {
            let mut engine = lock(tls);
            let done = engine.read(buf);
            let answered = engine.has_output();
            drop(engine);
            if answered {
                // A key update or an alert: it leaves with the present writer, or before the wait.
                self.link.note_tls_output();
            }
            match done {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            if self.cipher.is_empty() {
                self.cipher.resize(FIRST_CIPHER, 0);
            }
            let n = self.intake.read(&self.link.socket, &mut self.cipher)?;
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
