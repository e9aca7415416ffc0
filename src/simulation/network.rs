//! One simulated connection: both directions, in order, with latency, limited speed and limited
//! buffers. Frames are units with a size; a slow one reaches the client in pieces.
//!
//! The client's half models `transport::Link`: an out-buffer with a high-water mark, frames that
//! count as unsent until they have left it, a link that is down once a writer can know.

use std::collections::VecDeque;
use std::time::Duration;

use crate::emulator::virtual_service::{Fate, Out, Transport};
use crate::protocol::Frame;

/// Bytes of a frame beside its payload, and of a Close.
const HEADER: usize = 8;
/// The system gives a dead network up (`TCP_USER_TIMEOUT`, keep-alive probes).
const DEAD_NETWORK: Duration = Duration::from_secs(28);
/// The link gives up a peer that takes nothing for so long.
const NO_PROGRESS: Duration = Duration::from_secs(10);
/// A frame larger than this arrives in pieces when the link is slow,
const PIECE: usize = 64;
/// in as many at most.
const MOST_PIECES: usize = 20;

pub(super) enum Up {
    Frame(Frame),
    Close(Option<u16>),
    End,
}

pub(super) enum Down {
    Frame(Frame),
    Close(Option<u16>),
    End,
}

/// What one look at the socket brings.
pub(super) enum Incoming {
    Piece(usize),
    Frame(Frame, usize),
    Close(Option<u16>),
    /// The stream ended, or the link failed.
    End,
}

struct Arriving {
    /// When its next piece is there.
    at: Duration,
    left: usize,
    piece: usize,
    step: Duration,
    what: Down,
}

struct Unwritten {
    what: Up,
    size: usize,
    unwaited: bool,
}

pub(super) struct Link {
    pub(super) transport: Transport,
    latency: Duration,
    /// Nanoseconds that a byte takes.
    byte: u64,
    socket: usize,
    high_water: usize,
    // from the client
    out: VecDeque<Unwritten>,
    out_bytes: usize,
    unwaited: u64,
    dropped: u64,
    progress: Duration,
    patience: Option<Duration>,
    pub(super) moved: Option<Duration>,
    up: VecDeque<(Duration, Up, usize)>,
    up_bytes: usize,
    up_last: Duration,
    // to the client
    down: VecDeque<Arriving>,
    down_bytes: usize,
    down_last: Duration,
    down_ended: bool,
    // its state
    dead_since: Option<Duration>,
    failed_at: Option<Duration>,
    /// A Close is appended: nothing follows.
    pub(super) closing: bool,
    /// The client has let go of it.
    finished: bool,
    /// It is to recover a session and has brought no frame.
    pub(super) unproved: bool,
    /// The service does not know of it any more.
    pub(super) over: bool,
}

impl Link {
    pub(super) fn new(
        transport: Transport,
        now: Duration,
        latency: Duration,
        socket: usize,
        high_water: usize,
    ) -> Self {
        Self {
            transport,
            latency,
            byte: 0,
            socket,
            high_water,
            out: VecDeque::new(),
            out_bytes: 0,
            unwaited: 0,
            dropped: 0,
            progress: now,
            patience: None,
            moved: None,
            up: VecDeque::new(),
            up_bytes: 0,
            up_last: now,
            down: VecDeque::new(),
            down_bytes: 0,
            down_last: now,
            down_ended: false,
            dead_since: None,
            failed_at: None,
            closing: false,
            finished: false,
            unproved: false,
            over: false,
        }
    }

    // --- faults --------------------------------------------------------------------------------

    pub(super) fn black_hole(&mut self, now: Duration) {
        self.dead_since.get_or_insert(now);
    }

    pub(super) fn slow(&mut self, bytes_per_ms: u32) {
        self.byte = 1_000_000 / u64::from(bytes_per_ms.max(1));
    }

    /// What is sent from now on is not slow.
    pub(super) fn heal(&mut self) {
        self.byte = 0;
    }

    /// Both directions end at once; whoever calls tells the service.
    pub(super) fn reset(&mut self, now: Duration) {
        self.up.clear();
        self.up_bytes = 0;
        self.down.clear();
        self.down_bytes = 0;
        self.down_ended = true;
        self.over = true;
        if !self.is_dead() {
            self.failed_at.get_or_insert(now + self.latency);
        }
    }

    fn is_dead(&self) -> bool {
        self.dead_since.is_some()
    }

    // --- the service's half --------------------------------------------------------------------

    /// Lets what the service has queued leave, as far as the network takes it.
    pub(super) fn fill(&mut self, now: Duration) {
        match self.transport.fate() {
            Some(Fate::Reset) if !self.over => return self.reset(now),
            Some(Fate::Cut) if !self.over => {
                self.over = true;
                return self.end_down(now);
            }
            _ => {}
        }
        while self.down_bytes < self.socket && !self.down_ended {
            let outs = self.transport.take(self.socket - self.down_bytes);
            if outs.is_empty() {
                return;
            }
            for out in outs {
                match out {
                    Out::Frame(frame) => {
                        let size = frame.as_bytes().len() + HEADER;
                        self.send_down(now, Down::Frame(frame), size);
                    }
                    Out::Close { code, .. } => {
                        self.close_down(now, Some(code));
                    }
                    Out::Reset => return self.reset(now),
                    Out::Cut => {
                        self.over = true;
                        self.end_down(now);
                    }
                }
            }
        }
    }

    /// A Close frame, and the end of the stream.
    pub(super) fn close_down(&mut self, now: Duration, code: Option<u16>) {
        self.send_down(now, Down::Close(code), HEADER);
        self.end_down(now);
    }

    pub(super) fn end_down(&mut self, now: Duration) {
        if !self.down_ended {
            self.send_down(now, Down::End, 0);
            self.down_ended = true;
        }
    }

    fn send_down(&mut self, now: Duration, what: Down, size: usize) {
        if self.is_dead() || self.down_ended {
            return;
        }
        let start = self.down_last.max(now + self.latency);
        let pieces =
            if self.byte > 0 && size > PIECE { size.div_ceil(PIECE).min(MOST_PIECES) } else { 1 };
        let piece = size.div_ceil(pieces).max(1);
        let step = Duration::from_nanos(self.byte * piece as u64);
        self.down_last = start + step * pieces as u32;
        self.down_bytes += size;
        self.down.push_back(Arriving { at: start + step, left: size, piece, step, what });
    }

    /// The next thing that has reached the service.
    pub(super) fn next_up(&mut self, now: Duration) -> Option<Up> {
        if !self.up_is_due(now) {
            return None;
        }
        let (_, what, size) = self.up.pop_front()?;
        self.up_bytes -= size;
        Some(what)
    }

    fn up_is_due(&self, now: Duration) -> bool {
        self.up_at().is_some_and(|at| at <= now)
    }

    fn up_at(&self) -> Option<Duration> {
        let (at, ..) = self.up.front()?;
        (!self.is_dead() && self.transport.is_read()).then_some(*at)
    }

    // --- the client's half ---------------------------------------------------------------------

    pub(super) fn append(&mut self, now: Duration, what: Up, unwaited: bool) {
        if self.closing || self.is_failed(now) {
            self.dropped += u64::from(unwaited);
            return;
        }
        if self.out.is_empty() {
            self.progress = now;
        }
        let size = HEADER
            + match &what {
                Up::Frame(frame) => frame.as_bytes().len(),
                Up::Close(_) => {
                    self.closing = true;
                    2
                }
                Up::End => 0,
            };
        self.out_bytes += size;
        self.unwaited += u64::from(unwaited);
        self.out.push_back(Unwritten { what, size, unwaited });
    }

    pub(super) fn be_patient(&mut self, until: Duration) {
        self.patience = self.patience.max(Some(until));
    }

    /// Writes what the socket takes.
    pub(super) fn flush(&mut self, now: Duration) {
        if self.is_failed(now) {
            return;
        }
        while self.up_bytes < self.socket
            && let Some(Unwritten { what, size, unwaited }) = self.out.pop_front()
        {
            self.out_bytes -= size;
            self.unwaited -= u64::from(unwaited);
            self.up_bytes += size;
            let time = Duration::from_nanos(self.byte * size as u64);
            self.up_last = self.up_last.max(now + self.latency) + time;
            if !self.over {
                self.up.push_back((self.up_last, what, size));
            }
            if self.progress < now {
                self.moved = Some(now);
            }
            self.progress = now;
        }
        let limit = self.progress + NO_PROGRESS;
        if !self.out.is_empty() && now >= self.patience.map_or(limit, |p| p.max(limit)) {
            self.failed_at.get_or_insert(now);
        }
        if self.dead_since.is_some_and(|since| now >= since + DEAD_NETWORK) {
            self.failed_at.get_or_insert(now);
        }
    }

    pub(super) fn is_failed(&self, now: Duration) -> bool {
        self.failed_at.is_some_and(|at| at <= now)
    }

    /// A caller can know that nothing more is taken.
    pub(super) fn is_down(&self, now: Duration) -> bool {
        self.closing || self.is_failed(now)
    }

    pub(super) fn has_room(&self, now: Duration) -> bool {
        self.is_failed(now) || self.out_bytes < self.high_water
    }

    pub(super) fn unsent(&self) -> u64 {
        self.unwaited + self.dropped
    }

    pub(super) fn out_bytes(&self) -> usize {
        self.out_bytes
    }

    /// The client lets go: what the socket takes still leaves, then the end of the stream.
    pub(super) fn finish(&mut self, now: Duration) {
        self.flush(now);
        self.finished = true;
        self.out.clear();
        self.down.clear();
        if !self.over {
            self.up.push_back((self.up_last.max(now + self.latency), Up::End, 0));
        }
    }

    /// All that has arrived ends with the end of the stream.
    pub(super) fn stream_has_ended(&self, now: Duration) -> bool {
        self.is_failed(now)
            || self.down_ended
                && !self.is_dead()
                && self.down.back().is_some_and(|last| last.at <= now)
    }

    pub(super) fn is_readable(&self, now: Duration) -> bool {
        self.is_failed(now) || self.readable_at().is_some_and(|at| at <= now)
    }

    fn readable_at(&self) -> Option<Duration> {
        let front = self.down.front().filter(|_| !self.is_dead());
        front.map(|front| front.at)
    }

    /// `None`: nothing more is there now.
    pub(super) fn next(&mut self, now: Duration) -> Option<Incoming> {
        if self.is_failed(now) {
            return Some(Incoming::End);
        }
        if !self.is_readable(now) {
            return None;
        }
        let front = self.down.front_mut()?;
        if front.left > front.piece {
            front.left -= front.piece;
            front.at += front.step;
            self.down_bytes -= front.piece;
            return Some(Incoming::Piece(front.piece));
        }
        let Arriving { left, what, .. } = self.down.pop_front()?;
        self.down_bytes -= left;
        Some(match what {
            Down::Frame(frame) => Incoming::Frame(frame, left),
            Down::Close(code) => Incoming::Close(code),
            Down::End => Incoming::End,
        })
    }

    /// The next instant at which something happens by itself. `read`: whether the client reads.
    pub(super) fn next_time(&self, now: Duration, read: bool) -> Option<Duration> {
        if self.finished {
            return self.up_at();
        }
        let failed = self.failed_at;
        let patient = (!self.out.is_empty()).then(|| {
            let limit = self.progress + NO_PROGRESS;
            self.patience.map_or(limit, |p| p.max(limit))
        });
        let dead = self.dead_since.map(|since| since + DEAD_NETWORK);
        let fails = match failed {
            Some(at) => Some(at),
            None => [patient, dead].into_iter().flatten().min().map(|at| at.max(now)),
        };
        // The end of the stream is seen although nothing is read.
        let end = self.down.back().filter(|_| self.down_ended && !self.is_dead());
        let readable = if read { self.readable_at() } else { end.map(|last| last.at) };
        [self.up_at(), fails, readable].into_iter().flatten().min()
    }

    pub(super) fn is_done(&self) -> bool {
        self.over || self.finished && (self.up.is_empty() || self.is_dead())
    }
}
