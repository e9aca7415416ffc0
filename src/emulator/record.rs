//! The recording of frames: the last few, copied, with a bound on their bytes.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::notes;
use super::outbox::lock;
use crate::protocol::Frame;

/// Which way a recorded frame went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Direction {
    /// From the client to the emulator.
    Up,
    /// From the emulator to the client.
    Down,
}

/// One data message that passed, as [`Emulator::frames`](super::Emulator::frames) returns it.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordedFrame {
    /// The session's id; for a simple client too, which never learns it itself.
    pub connection_id: String,
    /// Which way.
    pub direction: Direction,
    /// The content of a text message, or of a binary one as far as it is UTF-8.
    pub text: String,
    /// The bytes as they were.
    pub bytes: Vec<u8>,
    /// Whether it was a binary message.
    pub binary: bool,
    /// When, since the emulator was started, by its clock.
    pub at: Duration,
}

/// All recorded frames together hold at most this many bytes.
const MAX_BYTES: usize = 8 << 20;

struct Entry {
    connection_id: std::sync::Arc<str>,
    direction: Direction,
    bytes: Box<[u8]>,
    binary: bool,
    at: Duration,
}

/// The frame as text, or how many bytes it has. A `connected` message holds the reconnection
/// token, so of that only its kind is shown.
impl fmt::Debug for RecordedFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = match (self.binary, self.text.contains("reconnectionToken")) {
            (true, _) => format!("<{} bytes>", self.bytes.len()),
            (false, true) => "<connected, with a reconnection token>".to_owned(),
            (false, false) => self.text.clone(),
        };
        f.debug_struct("RecordedFrame")
            .field("connection_id", &self.connection_id)
            .field("direction", &self.direction)
            .field("frame", &shown)
            .field("at", &self.at)
            .finish()
    }
}

#[derive(Default)]
struct Kept {
    frames: VecDeque<Entry>,
    bytes: usize,
}

pub(super) struct Recorder {
    limit: usize,
    logs: bool,
    on: AtomicBool,
    kept: Mutex<Kept>,
}

impl Recorder {
    /// Keeps the last `limit` frames, and logs all of them or none.
    pub(super) fn new(limit: usize, logs: bool) -> Self {
        Self { limit, logs, on: AtomicBool::new(limit > 0 || logs), kept: Mutex::default() }
    }

    pub(super) fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    pub(super) fn add(
        &self,
        connection_id: &std::sync::Arc<str>,
        direction: Direction,
        frame: &Frame,
        at: Duration,
    ) {
        if self.logs {
            notes::frame(connection_id, direction, frame);
        }
        if self.limit == 0 {
            return;
        }
        // A copy, because a slice of the frame would keep its whole read buffer alive.
        let entry = Entry {
            connection_id: connection_id.clone(),
            direction,
            bytes: frame.as_bytes().into(),
            binary: matches!(frame, Frame::Binary(_)),
            at,
        };
        let mut kept = lock(&self.kept);
        kept.bytes += entry.bytes.len();
        kept.frames.push_back(entry);
        while kept.frames.len() > self.limit || kept.bytes > MAX_BYTES {
            let Some(old) = kept.frames.pop_front() else { break };
            kept.bytes -= old.bytes.len();
        }
    }

    pub(super) fn clear(&self) {
        *lock(&self.kept) = Kept::default();
    }

    pub(super) fn frames(&self) -> Vec<RecordedFrame> {
        let kept = lock(&self.kept);
        kept.frames
            .iter()
            .map(|e| RecordedFrame {
                connection_id: e.connection_id.to_string(),
                direction: e.direction,
                text: String::from_utf8_lossy(&e.bytes).into_owned(),
                bytes: e.bytes.to_vec(),
                binary: e.binary,
                at: e.at,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_frames_only() {
        let recorder = Recorder::new(2, false);
        for text in ["a", "b", "c"] {
            let frame = Frame::Text(text.into());
            recorder.add(&"c1".into(), Direction::Up, &frame, Duration::ZERO);
        }
        let texts: Vec<_> = recorder.frames().into_iter().map(|f| f.text).collect();
        assert_eq!(texts, ["b", "c"]);
        let off = Recorder::new(0, false);
        off.add(&"c1".into(), Direction::Up, &Frame::Text("a".into()), Duration::ZERO);
        assert!(off.frames().is_empty());
    }
}
