//! One connection: an upgrade request and WebSocket frames, both made by hand.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::notation;
use crate::support::{WATCHDOG, header, peer};

/// The ack id of the request that shows that all before it has been answered; no case uses it.
const MARKER: u64 = 4_000_000_007;
/// The same for a simple client, as the payload of a Ping frame.
const MARKER_PING: &[u8] = b"all answered?";
/// How long to wait for the end of TCP once a Close has come. It is no part of an answer.
const END: Duration = Duration::from_secs(1);
/// How long a simple client listens on behind the Pong, which may overtake messages of others.
const OVERTAKEN: Duration = Duration::from_millis(30);
const FIN: u8 = 0x80;

/// How a frame of the client differs from a proper one.
#[derive(Clone, Copy, Default)]
pub(super) struct Defects {
    pub(super) unmasked: bool,
    /// The length that the header claims.
    pub(super) length: Option<usize>,
}

#[derive(Clone, Copy, PartialEq)]
enum Speaks {
    Json,
    Protobuf,
    Simple,
}

pub(super) struct Link {
    /// `None` once it was cut.
    stream: Option<TcpStream>,
    /// Frames that go out together, once an answer is waited for: so the service finds each behind
    /// the one before.
    unsent: Vec<u8>,
    speaks: Speaks,
    /// What has been read and is not a whole frame yet.
    unread: Vec<u8>,
    /// The parts of a message so far, behind its opcode.
    parts: Option<(u8, Vec<u8>)>,
    /// What the service said, in the notation of the cases.
    pub(super) heard: Vec<String>,
    pub(super) id: String,
    pub(super) token: String,
    markers: usize,
    sent_close: bool,
    heard_close: bool,
    over: bool,
}

impl Link {
    /// Sends the request and reads the answer's head.
    pub(super) fn open(authority: &str, request: &[u8]) -> Result<Self, String> {
        let failed = |e: io::Error| format!("no answer to the upgrade request: {e}");
        let mut stream = TcpStream::connect(authority).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_read_timeout(Some(WATCHDOG)).map_err(failed)?;
        stream.set_write_timeout(Some(WATCHDOG)).map_err(failed)?;
        stream.write_all(request).map_err(failed)?;
        let head = crate::support::read_head(&mut stream);
        let status = head.split(' ').nth(1).ok_or("no answer to the upgrade request")?;
        let subprotocol = header(&head, "Sec-WebSocket-Protocol").unwrap_or("(no subprotocol)");
        let speaks = match subprotocol.to_ascii_lowercase() {
            name if name.starts_with("json") => Speaks::Json,
            name if name.starts_with("protobuf") => Speaks::Protobuf,
            _ => Speaks::Simple,
        };
        let upgraded = status == "101";
        let answer = if upgraded { format!("101 {subprotocol}") } else { format!("HTTP {status}") };
        Ok(Self {
            stream: Some(stream),
            unsent: Vec::new(),
            speaks,
            unread: Vec::new(),
            parts: None,
            heard: vec![answer],
            id: String::new(),
            token: String::new(),
            markers: 0,
            sent_close: false,
            heard_close: false,
            over: !upgraded,
        })
    }

    // --- writing -----------------------------------------------------------------------------

    /// A frame; `first` is its first byte (FIN, reserved bits, opcode).
    pub(super) fn frame(&mut self, first: u8, payload: &[u8], defects: Defects) {
        let mut frame = peer::frame(first, payload);
        if let Some(length) = defects.length {
            frame.splice(1.., [127].into_iter().chain((length as u64).to_be_bytes()));
        }
        if !defects.unmasked {
            let mask: [u8; 4] = rand::random();
            let payload = if defects.length.is_some() { &[] } else { payload };
            let start = frame.len() - payload.len();
            frame[1] |= 0x80;
            frame.iter_mut().skip(start).zip(mask.iter().cycle()).for_each(|(b, m)| *b ^= m);
            frame.splice(start..start, mask);
        }
        self.sent_close |= first == FIN | 8;
        self.unsent.extend(frame);
    }

    pub(super) fn text(&mut self, text: &[u8]) {
        self.frame(FIN | 1, text, Defects::default());
    }

    pub(super) fn binary(&mut self, bytes: &[u8]) {
        self.frame(FIN | 2, bytes, Defects::default());
    }

    /// Resets the connection.
    pub(super) fn cut(&mut self) {
        self.over = true;
        self.stream.take().into_iter().for_each(peer::reset);
    }

    /// Ends the writing half without a Close.
    pub(super) fn shut_down(&mut self) {
        self.sent_close = true;
        if let Some(stream) = &self.stream {
            let _ = stream.shutdown(Shutdown::Write);
        }
    }

    // --- reading -----------------------------------------------------------------------------

    /// Waits until the service has answered all that was sent, or the connection is over.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        if self.over {
            return Ok(());
        }
        let before = self.markers;
        if !self.sent_close {
            self.send_marker();
        }
        if !self.read_until(WATCHDOG, |link| link.markers > before || link.heard_close) {
            return Err(format!("no answer within {WATCHDOG:?}; heard: {:?}", self.heard));
        }
        if self.heard_close {
            self.read_until(END, |_| false);
        }
        Ok(())
    }

    /// The same at the end of a case.
    pub(super) fn settle_finally(
        &mut self,
        is_complete: impl Fn(&[String]) -> bool,
    ) -> Result<(), String> {
        self.settle()?;
        // Waits only if an answer is missing: then the case differs, or a Pong overtook a message.
        self.read_until(2 * END, |link| is_complete(&link.heard));
        if self.speaks == Speaks::Simple {
            self.read_until(OVERTAKEN, |_| false);
        }
        Ok(())
    }

    /// For frames behind which no other can be sent.
    pub(super) fn listen(&mut self, limit: Duration) {
        self.read_until(limit, |_| false);
    }

    fn send_marker(&mut self) {
        match self.speaks {
            Speaks::Json => {
                let leave = format!(r#"{{"type":"leaveGroup","group":"marker","ackId":{MARKER}}}"#);
                self.text(leave.as_bytes());
            }
            Speaks::Protobuf => {
                let leave = format!(r#"{{leaveGroup:{{group:"marker",ackId:{MARKER}}}}}"#);
                self.binary(&notation::write(&leave));
            }
            Speaks::Simple => self.frame(FIN | 9, MARKER_PING, Defects::default()),
        }
    }

    /// Reads until the condition holds or the connection is over; false if the time is up first.
    fn read_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let until = Instant::now() + limit;
        while !self.over && !done(self) {
            if let Some((first, payload)) = self.take_frame() {
                self.hear(first, payload);
                continue;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            if !self.read_more(left) {
                self.over = true;
                if !self.heard_close {
                    self.heard.push("ended without Close".to_owned());
                }
            }
        }
        true
    }

    /// False at the end of the connection.
    fn read_more(&mut self, limit: Duration) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        // A connection that is gone says so when it is read.
        let _ = stream.write_all(&self.unsent);
        self.unsent.clear();
        let mut buffer = [0; 16 * 1024];
        stream.set_read_timeout(Some(limit)).expect("a timeout that is not zero");
        match stream.read(&mut buffer) {
            Ok(n) => {
                self.unread.extend_from_slice(&buffer[..n]);
                n > 0
            }
            Err(e) => matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
        }
    }

    fn take_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let [first, second, rest @ ..] = &self.unread[..] else { return None };
        let (length, size) = match second & 0x7f {
            126 => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), 4),
            127 => (usize::try_from(u64::from_be_bytes(*rest.first_chunk()?)).ok()?, 10),
            length => (usize::from(length), 2),
        };
        let payload = self.unread.get(size..size + length)?.to_vec();
        let first = *first;
        self.unread.drain(..size + length);
        Some((first, payload))
    }

    fn hear(&mut self, first: u8, payload: Vec<u8>) {
        match first & 0x0f {
            opcode @ ..8 => {
                let (opcode, mut message) = self.parts.take().unwrap_or((opcode, Vec::new()));
                message.extend(payload);
                if first & FIN == 0 {
                    self.parts = Some((opcode, message));
                } else {
                    self.message(opcode, &message);
                }
            }
            8 => {
                self.heard_close = true;
                let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default());
                self.heard.push(match code {
                    Some(code) => format!("Close {code} {reason:?}"),
                    None => "Close without code".to_owned(),
                });
                if !self.sent_close {
                    self.frame(FIN | 8, payload.get(..2).unwrap_or_default(), Defects::default());
                }
            }
            9 => self.frame(FIN | 10, &payload, Defects::default()),
            _ if payload == MARKER_PING => self.markers += 1,
            _ => self.heard.push(format!("Pong {}", String::from_utf8_lossy(&payload))),
        }
    }

    fn message(&mut self, opcode: u8, message: &[u8]) {
        let text = match (opcode, self.speaks) {
            (1, _) => String::from_utf8_lossy(message).into_owned(),
            (_, Speaks::Protobuf) => notation::read(message),
            _ => notation::hex(message),
        };
        if self.is_marker(&text) {
            self.markers += 1;
            return;
        }
        let [id, token] = ["connectionId", "reconnectionToken"].map(|name| field(&text, name));
        let mut shown = text.clone();
        if is_connected(&text) {
            for (secret, cover) in [(&id, "\"<id>\""), (&token, "\"<token>\"")] {
                shown = secret
                    .iter()
                    .fold(shown, |s, secret| s.replace(&format!("\"{secret}\""), cover));
            }
            self.id = id.unwrap_or_default();
            self.token = token.unwrap_or_default();
        }
        self.heard.push(shown);
    }

    fn is_marker(&self, text: &str) -> bool {
        match self.speaks {
            Speaks::Json => serde_json::from_str::<Value>(text)
                .is_ok_and(|json| json["type"] == "ack" && json["ackId"] == MARKER),
            Speaks::Protobuf => text.starts_with(&format!("{{ack:{{ackId:{MARKER}")),
            Speaks::Simple => false,
        }
    }
}

/// Whether it is the first message of a session.
pub(super) fn is_connected(text: &str) -> bool {
    text.starts_with("{system:{connected:") || text.contains(r#""event":"connected""#)
}

/// The text of a field, in JSON and in the notation of protobuf alike.
fn field(text: &str, name: &str) -> Option<String> {
    let (_, behind) = text.split_once(name)?;
    let behind = behind.trim_start_matches('"').strip_prefix(":\"")?;
    Some(behind.split_once('"')?.0.to_owned())
}
