//! The end of a client, by its program.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;

use super::{Shared, may_block};
use crate::error::{Error, ErrorKind, Result};
use crate::session::CutOff;
use crate::transport::Link;

/// After its link is cut the reader ends at once; a machine that hangs may take longer.
const LAST_WAIT: Duration = Duration::from_secs(1);

impl Shared {
    /// See [`Client::close`](crate::Client::close).
    pub(in crate::client) fn close(&self) -> Result<()> {
        may_block()?;
        let deadline = Instant::now() + self.config.close_timeout;
        let (link, cut_off) = self.begin_close(deadline);
        let flushed = link.as_ref().is_none_or(|link| link.drain(deadline));
        if self.done.recv_deadline(deadline) != Err(RecvTimeoutError::Disconnected) {
            self.abandon(link.as_deref());
        }
        // Nothing can hold the reader any more: its link is cut and its waits know the stop.
        let ended = self.done.recv_timeout(LAST_WAIT) == Err(RecvTimeoutError::Disconnected);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread.filter(|_| ended) {
            let _ = thread.join();
        }
        end_report(cut_off, flushed)
    }

    /// Asks the session to end. Returns the link to flush, if there is one, and which calls that has
    /// cut off.
    fn begin_close(&self, deadline: Instant) -> (Option<Arc<Link>>, CutOff) {
        let mut state = self.lock();
        let link = state.link.clone();
        let before = state.session.ended().is_some();
        state.session.close(Instant::now());
        self.request_wake();
        // What ended earlier is reported by who ended it.
        let cut_off = if before { CutOff::default() } else { state.session.cut_off };
        let after = self.apply(&mut state);
        drop(state);
        if link.is_none() {
            self.stop.stop();
        }
        // Before the write: with a full event queue the reader has stopped reading, and only when it
        // reads on may the peer take what is written.
        self.waker.wake();
        self.finish(after, deadline);
        (link, cut_off)
    }

    fn abandon(&self, link: Option<&Link>) {
        self.stop.stop();
        if let Some(link) = link {
            link.shutdown();
        }
        self.waker.wake();
    }

    /// The last handle is gone: the same as `close`, without waiting for anything.
    pub(in crate::client) fn drop_all(&self) {
        let (link, _) = self.begin_close(Instant::now());
        self.abandon(link.as_deref());
    }
}

/// What `close` returns.
fn end_report(cut_off: CutOff, flushed: bool) -> Result<()> {
    let CutOff { unsent, unknown } = cut_off;
    if unsent + unknown > 0 {
        let what = match (unsent, unknown) {
            (1, 0) => "1 call that was not sent".to_owned(),
            (0, 1) => "1 call that may have been executed".to_owned(),
            (_, 0) => format!("{unsent} calls that were not sent"),
            (0, _) => format!("{unknown} calls that may have been executed"),
            _ => format!(
                "{} calls: {unsent} not sent, {unknown} that may have been executed",
                unsent + unknown
            ),
        };
        let text =
            format!("closing the client cut off {what}; `drain` before `close` waits for them");
        return Err(Error::new(ErrorKind::Closed, text).maybe_delivered(unknown > 0));
    }
    if flushed {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Timeout,
        "the peer did not take all that was sent before the close; the rest is lost",
    )
    .maybe_delivered(true))
}
