//! One connection of the peer.

use std::io::{self, ErrorKind};

use tungstenite::handshake::derive_accept_key;

use super::peer::Gate;
use super::wire::{Frames, Head, Stream, digits_after, increment, number, put_ack, put_frame};

/// As many numbered messages as the service lets a client leave unacknowledged.
const WINDOW: u64 = 1000;
/// Sequence ids begin here, as the service's do.
const FIRST_ID: u64 = 1;
/// About so much is written at once.
const BLOCK: usize = 64 * 1024;

/// A publication to a group of this form orders a flood that lasts as long as the connection:
/// `flood/KIND/BYTES`, with the kinds
///
/// - `plain` and `reliable` (within the window), both from one group and user;
/// - `users`: `reliable`, but each message is from another user;
/// - `mixed`: `plain`, and what the client sends meanwhile is read and answered.
#[derive(Clone, Copy)]
struct Flood {
    numbered: bool,
    users: bool,
    mixed: bool,
    size: usize,
}

impl Flood {
    fn parse(payload: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(payload).ok()?;
        let (_, order) = text.split_once("\"group\":\"flood/")?;
        let (kind, rest) = order.split_once('/')?;
        let users = kind == "users";
        Some(Self {
            numbered: users || kind == "reliable",
            users,
            mixed: kind == "mixed",
            size: rest.split_once('"')?.0.parse().ok()?,
        })
    }
}

struct Peer<'a, S> {
    stream: S,
    frames: Frames,
    out: Vec<u8>,
    gate: &'a Gate,
    /// The largest sequence id that the client acknowledged.
    acknowledged: u64,
    closed: bool,
}

pub(crate) fn serve(mut stream: impl Stream, gate: &Gate) -> io::Result<()> {
    upgrade(&mut stream)?;
    let mut peer = Peer {
        stream,
        frames: Frames::new(),
        out: Vec::new(),
        gate,
        acknowledged: FIRST_ID - 1,
        closed: false,
    };
    while !peer.closed && peer.frames.fill(&mut peer.stream)? {
        if let Some(flood) = peer.take() {
            peer.answer()?;
            return peer.flood(flood);
        }
        peer.answer()?;
    }
    Ok(())
}

impl<S: Stream> Peer<'_, S> {
    /// All frames that are there.
    fn take(&mut self) -> Option<Flood> {
        let mut flood = None;
        while let Some(head) = self.frames.next() {
            flood = self.frame(&head).or(flood);
        }
        flood
    }

    fn frame(&mut self, head: &Head) -> Option<Flood> {
        let payload = head.payload();
        match head.opcode {
            1 | 2 => {}
            8 => {
                put_frame(&mut self.out, 8, payload);
                self.closed = true;
                return None;
            }
            9 => {
                put_frame(&mut self.out, 10, payload);
                return None;
            }
            _ => return None,
        }
        if let Some(id) = digits_after(payload, b"\"ackId\":") {
            self.gate.pass();
            put_ack(&mut self.out, id);
        } else if payload.starts_with(br#"{"type":"sequenceAck""#) {
            self.acknowledged = digits_after(payload, b"\"sequenceId\":").map_or(0, number);
        } else if payload.starts_with(br#"{"type":"ping""#) {
            put_frame(&mut self.out, 1, br#"{"type":"pong"}"#);
        } else {
            return Flood::parse(payload);
        }
        None
    }

    fn answer(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.stream.write_all(&self.out)?;
            self.out.clear();
        }
        Ok(())
    }

    /// Until the connection ends.
    fn flood(&mut self, flood: Flood) -> io::Result<()> {
        let (frame, id_at, user_at) = flood_frame(flood);
        let per_block = (BLOCK / frame.len()).max(1);
        let mut block = frame.repeat(per_block);
        let mut id = padded(FIRST_ID).into_bytes();
        let mut user = *b"0000000";
        let mut next_id = FIRST_ID;
        while !self.closed {
            let mut count = per_block;
            if flood.numbered {
                let under_way = next_id - 1 - self.acknowledged;
                count = count.min(WINDOW.saturating_sub(under_way) as usize);
                if count == 0 {
                    if !self.frames.fill(&mut self.stream)? {
                        return Ok(());
                    }
                    self.take();
                    self.answer()?;
                    continue;
                }
                for frame in block.chunks_exact_mut(frame.len()).take(count) {
                    frame[id_at..id_at + id.len()].copy_from_slice(&id);
                    increment(&mut id);
                }
                next_id += count as u64;
            }
            if flood.users {
                for frame in block.chunks_exact_mut(frame.len()).take(count) {
                    frame[user_at..user_at + user.len()].copy_from_slice(&user);
                    increment(&mut user);
                }
            }
            self.stream.write_all(&block[..count * frame.len()])?;
            if flood.mixed {
                self.look()?;
            }
        }
        Ok(())
    }

    /// Answers what has come, without waiting for it.
    fn look(&mut self) -> io::Result<()> {
        self.stream.socket().set_nonblocking(true)?;
        let filled = self.frames.fill(&mut self.stream);
        self.stream.socket().set_nonblocking(false)?;
        match filled {
            Ok(true) => {
                self.take();
                self.answer()
            }
            Ok(false) => Err(ErrorKind::UnexpectedEof.into()),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(e) => Err(e),
        }
    }
}

/// A frame of a flood, and where in it the digits of the sequence id and of the user stand.
fn flood_frame(flood: Flood) -> (Vec<u8>, usize, usize) {
    let id = if flood.numbered {
        format!("\"sequenceId\":{},", padded(FIRST_ID))
    } else {
        String::new()
    };
    let text = format!(
        r#"{{{id}"type":"message","from":"group","group":"bench","fromUserId":"user-0000000","dataType":"text","data":"{}"}}"#,
        "x".repeat(flood.size),
    );
    let mut frame = Vec::new();
    put_frame(&mut frame, 1, text.as_bytes());
    let header = frame.len() - text.len();
    let place = |key: &str| text.find(key).map_or(0, |at| header + at + key.len());
    let (id_at, user_at) = (place("\"sequenceId\":"), place("user-"));
    (frame, id_at, user_at)
}

/// Ids of all lengths take the same place in a frame: JSON allows spaces before a number.
fn padded(id: u64) -> String {
    format!("{id:>10}")
}

fn upgrade(stream: &mut impl Stream) -> io::Result<()> {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            n => request.extend_from_slice(&buffer[..n]),
        }
    }
    let request = String::from_utf8_lossy(&request);
    let header = |wanted: &str| {
        request.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.trim().eq_ignore_ascii_case(wanted).then(|| value.trim())
        })
    };
    let key = header("sec-websocket-key").ok_or(ErrorKind::InvalidData)?;
    let accept = derive_accept_key(key.as_bytes());
    let mut answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n"
    );
    if let Some(protocol) = header("sec-websocket-protocol") {
        answer.extend(["Sec-WebSocket-Protocol: ", protocol, "\r\n"]);
    }
    answer.push_str("\r\n");
    let mut out = answer.into_bytes();
    let connected = br#"{"type":"system","event":"connected","userId":"u","connectionId":"c-0123456789","reconnectionToken":"t-0123456789"}"#;
    put_frame(&mut out, 1, connected);
    stream.write_all(&out)
}
