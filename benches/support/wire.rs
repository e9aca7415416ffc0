//! The peer's wire format, by hand: it must cost less than anything that is measured against it.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use native_tls::TlsStream;

/// So much of a client's frame is looked at: `type`, `group` and `ackId` stand at its beginning.
pub(crate) const HEAD: usize = 64;

/// A stream whose reads can be made non-blocking.
pub(crate) trait Stream: Read + Write {
    fn socket(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Stream for TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref()
    }
}

/// The beginning of one frame.
pub(crate) struct Head {
    pub(crate) opcode: u8,
    len: usize,
    bytes: [u8; HEAD],
}

impl Head {
    pub(crate) fn payload(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Finds frames in what was read; of long ones only the beginning is ever kept.
pub(crate) struct Frames {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The rest of a frame whose beginning was taken.
    skip: usize,
}

impl Frames {
    pub(crate) fn new() -> Self {
        Self { buffer: vec![0; 256 * 1024], start: 0, end: 0, skip: 0 }
    }

    /// One read. False: the end.
    pub(crate) fn fill(&mut self, stream: &mut impl Read) -> io::Result<bool> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let n = stream.read(&mut self.buffer[self.end..])?;
        self.end += n;
        Ok(n > 0)
    }

    pub(crate) fn next(&mut self) -> Option<Head> {
        let skipped = self.skip.min(self.end - self.start);
        self.skip -= skipped;
        self.start += skipped;
        let data = &self.buffer[self.start..self.end];
        let (&first, &second) = (data.first()?, data.get(1)?);
        let (len, mut at) = match second & 0x7f {
            126 => (u16::from_be_bytes(data.get(2..4)?.try_into().ok()?) as usize, 4),
            127 => (u64::from_be_bytes(data.get(2..10)?.try_into().ok()?) as usize, 10),
            short => (short as usize, 2),
        };
        let mut mask = [0; 4];
        if second & 0x80 != 0 {
            mask = data.get(at..at + 4)?.try_into().ok()?;
            at += 4;
        }
        let mut head = Head { opcode: first & 0x0f, len: len.min(HEAD), bytes: [0; HEAD] };
        head.bytes[..head.len].copy_from_slice(data.get(at..at + head.len)?);
        let mask = u32::from_ne_bytes(mask);
        let (words, _) = head.bytes.as_chunks_mut::<4>();
        for word in words {
            *word = (u32::from_ne_bytes(*word) ^ mask).to_ne_bytes();
        }
        self.start += at + head.len;
        self.skip = len - head.len;
        Some(head)
    }
}

/// A frame as a server sends it.
pub(crate) fn put_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.push(0x80 | opcode);
    match payload.len() {
        n if n < 126 => out.push(n as u8),
        n if n < 65_536 => {
            out.push(126);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            out.push(127);
            out.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}

/// A text frame as a client sends it; the mask of zeros changes nothing and is allowed.
pub(crate) fn put_client_frame(out: &mut Vec<u8>, payload: &[u8]) {
    let at = out.len();
    put_frame(out, 1, payload);
    out[at + 1] |= 0x80;
    let header = out.len() - at - payload.len();
    out.splice(at + header..at + header, [0; 4]);
}

/// Appends the ack of a call.
pub(crate) fn put_ack(out: &mut Vec<u8>, ack_id: &[u8]) {
    const BEFORE: &[u8] = br#"{"type":"ack","ackId":"#;
    const AFTER: &[u8] = br#","success":true}"#;
    out.extend_from_slice(&[0x81, (BEFORE.len() + ack_id.len() + AFTER.len()) as u8]);
    out.extend_from_slice(BEFORE);
    out.extend_from_slice(ack_id);
    out.extend_from_slice(AFTER);
}

/// The digits behind a key. Its capital letter is looked for first, since there are few of them.
pub(crate) fn digits_after<'a>(text: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let capital = key.iter().position(u8::is_ascii_uppercase)?;
    let ends = text.iter().enumerate().filter(|(_, b)| **b == key[capital]);
    let mut starts = ends.filter_map(|(at, _)| at.checked_sub(capital));
    let at = starts.find(|at| text[*at..].starts_with(key))? + key.len();
    let digits = text[at..].iter().take_while(|b| b.is_ascii_digit()).count();
    Some(&text[at..at + digits])
}

pub(crate) fn number(digits: &[u8]) -> u64 {
    digits.iter().fold(0, |n, b| n * 10 + u64::from(b - b'0'))
}

/// Counts up a number of fixed width.
pub(crate) fn increment(digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        if *digit < b'9' {
            // A space stands for a digit that is not there yet.
            *digit = (*digit).max(b'0') + 1;
            return;
        }
        *digit = b'0';
    }
}
