//! Frames that arrive slowly, a few bytes at a time, as from a service behind a bad line.

use std::time::{Duration, Instant};

use super::faults::Switches;
use crate::transport::{Link, Op, encode_frame};

/// The pace of a connection's writer thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    pub(super) bytes: usize,
    pub(super) pause: Duration,
}

impl Switches {
    /// Writes one frame piece by piece, as long as the fault is on; what is left of it then is
    /// appended in one piece, for the caller to flush. False: the fault is off, nothing was done.
    ///
    /// For the writer thread only: the reader must not wait for the pauses.
    pub(super) fn write_slowly(
        &self,
        link: &Link,
        op: Op,
        payload: &[u8],
        is_over: impl Fn() -> bool,
    ) -> bool {
        if self.pace().is_none() {
            return false;
        }
        let frame = encode_frame(op, payload);
        let mut rest = frame.as_slice();
        while let Some(pace) = self.pace() {
            if rest.len() <= pace.bytes || is_over() {
                break;
            }
            let (piece, behind) = rest.split_at(pace.bytes);
            link.append_part(piece, false);
            link.flush(Instant::now() + pace.pause);
            let start = Instant::now();
            self.wait_while(
                |now| now.slow_write.is_some_and(|pace| start.elapsed() < pace.pause),
                &is_over,
            );
            self.thaw(&is_over);
            rest = behind;
        }
        link.append_part(rest, true);
        true
    }
}
