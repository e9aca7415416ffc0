//! Streams that the program publishes: what goes to the link, and what their writers wait for.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{LONGEST, Shared, internal, may_block};
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::{Frame, SendContent, SendToGroup, StreamEndError, Upstream};
use crate::session::{Emit, StreamConfig, StreamStart, StreamWriter};
use crate::transport::Link;

/// Nobody is notified when the out-buffer has room again, so a writer looks this often.
const LOOK_AT_LINK: Duration = Duration::from_millis(5);

/// What a writer has found under the lock.
enum Look<R> {
    Done(R),
    /// Not yet. Somebody's notice may change that; without one it looks again after this long.
    Wait(Duration),
}

impl Shared {
    /// Appends a message of a stream. Fragments are encoded already; the others are short and few.
    pub(super) fn append_stream(&self, link: &Link, start: &StreamStart, emit: &Emit) {
        if emit.may_be_left_out() && !link.has_room() {
            return;
        }
        let stream_id = Cow::Borrowed(&*start.stream_id);
        let message = match emit {
            Emit::Fragment(frame) | Emit::Probe(frame) => {
                return self.append(link, frame, false, None);
            }
            Emit::Start => {
                let idle_timeout_ms = Some(start.idle_timeout_ms);
                let mut send = SendToGroup::new(&*start.group, "");
                send.no_echo = start.no_echo;
                send.content = SendContent::Stream { stream_id, idle_timeout_ms };
                Upstream::SendToGroup(send)
            }
            Emit::KeepAlive => {
                Upstream::StreamData { stream_id, stream_sequence_id: None, payload: None }
            }
            Emit::End => Upstream::StreamEnd { stream_id, error: None },
            Emit::Abort(error) => Upstream::StreamEnd { stream_id, error: Some(error.clone()) },
        };
        match self.encode(&message) {
            Ok(Some(frame)) => self.append(link, &frame, false, None),
            // Each of them has a form in every subprotocol.
            _ => debug_assert!(false, "a message of a stream has no form"),
        }
    }

    /// Starts a stream, and returns when the service has accepted it.
    pub(in crate::client) fn open_stream(
        &self,
        start: StreamStart,
        config: StreamConfig,
        limit: Duration,
    ) -> Result<()> {
        may_block()?;
        let now = Instant::now();
        let id = Arc::clone(&start.stream_id);
        let mut state = self.lock();
        if self.is_poisoned() {
            return Err(internal());
        }
        state.note_dead_link();
        state.session.open_stream(now, start, config, after(now, limit))?;
        let todo = self.apply_for_caller(&mut state);
        drop(state);
        self.finish(todo, now);
        let opened = self.with_stream(&id, LONGEST, |writer, _| match writer.outcome() {
            Some(outcome) => Some(outcome.clone()),
            None => writer.is_open().then_some(Ok(())),
        });
        let opened = opened.and_then(|opened| opened.unwrap_or_else(|| Err(internal())));
        if opened.is_err() {
            self.release_stream(&id, Duration::ZERO);
        }
        opened
    }

    /// Sends a fragment once the stream and the link have room for it. It fails if no ack comes for
    /// so long.
    pub(in crate::client) fn send_fragment(
        &self,
        id: &str,
        number: u64,
        frame: &Frame,
        patience: Duration,
    ) -> Result<()> {
        may_block()?;
        let size = frame.as_bytes().len();
        let mut until = after(Instant::now(), patience);
        let mut acked = None;
        self.watch_stream(id, |writer, link_is_full, now| {
            if !writer.is_open() || !link_is_full && writer.has_room(size) {
                debug_assert!(!writer.is_open() || writer.next_number() == number);
                return Look::Done(writer.send(now, frame.clone()));
            }
            if acked.replace(writer.acked()).is_some_and(|before| before < writer.acked()) {
                until = after(now, patience);
            }
            let left = until.saturating_duration_since(now);
            if left.is_zero() {
                return Look::Done(Err(no_room()));
            }
            Look::Wait(if link_is_full { left.min(LOOK_AT_LINK) } else { left })
        })?
    }

    /// Blocks until every fragment is acknowledged, at most for that long.
    pub(in crate::client) fn wait_acked(&self, id: &str, limit: Duration) -> Result<()> {
        may_block()?;
        let acked = self.with_stream(id, limit, |writer, _| match writer.outcome() {
            Some(outcome) => Some(outcome.clone()),
            None => (writer.acked() + 1 == writer.next_number()).then_some(Ok(())),
        })?;
        acked.unwrap_or_else(|| {
            let text = "not all fragments of the stream are acknowledged within the limit of \
                        `wait_acked`; the stream goes on";
            Err(Error::new(ErrorKind::Timeout, text).maybe_delivered(true))
        })
    }

    /// The end of a stream, in order or for an error; returns when the service has confirmed it.
    pub(in crate::client) fn end_stream(
        &self,
        id: &str,
        error: Option<StreamEndError>,
        limit: Duration,
    ) -> Result<()> {
        may_block()?;
        let mut last = Some(error);
        let ended = self.with_stream(id, LONGEST, |writer, now| {
            match last.take() {
                Some(None) => writer.finish(now, after(now, limit)),
                Some(Some(error)) => writer.abort(now, error, after(now, limit)),
                None => {}
            }
            writer.outcome().cloned()
        })?;
        // The machine has a deadline of its own, so there is an outcome.
        ended.unwrap_or_else(|| Err(internal()))
    }

    /// The handle of the stream is gone. Never waits.
    pub(in crate::client) fn release_stream(&self, id: &str, limit: Duration) {
        let now = Instant::now();
        let ((), todo) = self.step(|session| session.release_stream(now, id, after(now, limit)));
        self.finish(todo, now);
    }

    /// All fragments up to this number are accepted, and why the stream has ended, if it has.
    pub(in crate::client) fn stream_state(&self, id: &str) -> (u64, Result<()>) {
        let now = Instant::now();
        let (found, todo) = self.step(|session| {
            session.drive_stream(now, id, |writer| {
                (writer.acked(), writer.outcome().cloned().unwrap_or(Ok(())))
            })
        });
        self.finish(todo, now);
        found.unwrap_or_else(|| (0, Err(internal())))
    }

    /// Looks at the stream until there is a result; `None` at the limit.
    fn with_stream<R>(
        &self,
        id: &str,
        limit: Duration,
        mut look: impl FnMut(&mut StreamWriter, Instant) -> Option<R>,
    ) -> Result<Option<R>> {
        let until = after(Instant::now(), limit);
        self.watch_stream(id, |writer, _, now| match look(writer, now) {
            Some(result) => Look::Done(Some(result)),
            None if now >= until => Look::Done(None),
            None => Look::Wait(until - now),
        })
    }

    /// Looks at the stream at once, and whenever something may have changed.
    fn watch_stream<R>(
        &self,
        id: &str,
        mut look: impl FnMut(&mut StreamWriter, bool, Instant) -> Look<R>,
    ) -> Result<R> {
        loop {
            let mut state = self.lock();
            if self.is_poisoned() {
                return Err(internal());
            }
            state.note_dead_link();
            let full = |link: &Arc<Link>| !link.has_room() && !link.is_down();
            let link_is_full = state.link.as_ref().is_some_and(full);
            let now = Instant::now();
            let looked = state.session.drive_stream(now, id, |writer| {
                let look = look(writer, link_is_full, now);
                (look, writer.next_wake())
            });
            // Its handle keeps it in the table.
            let Some((look, next)) = looked else { return Err(internal()) };
            let todo = self.apply_for_caller(&mut state);
            match look {
                Look::Wait(limit) if todo.is_empty() => {
                    // The reader keeps the stream's timers too, unless it is held up.
                    let timer = next.map_or(limit, |at| at.saturating_duration_since(now));
                    state.stream_watchers += 1;
                    let mut state = state.wait(&self.room, limit.min(timer));
                    state.stream_watchers -= 1;
                }
                Look::Wait(_) => {
                    drop(state);
                    self.finish(todo, now);
                }
                Look::Done(result) => {
                    drop(state);
                    self.finish(todo, now);
                    return Ok(result);
                }
            }
        }
    }

    /// An error that a full queue may have caused says so.
    pub(in crate::client) fn explained(&self, error: Error) -> Error {
        if error.is_timeout() { self.lock().session.explained(error) } else { error }
    }
}

/// A limit that the clock cannot express is as good as a long one.
fn after(now: Instant, limit: Duration) -> Instant {
    now + limit.min(LONGEST)
}

fn no_room() -> Error {
    let text = "the fragment found no room in the stream, because the service acknowledged nothing \
                for too long; it was not sent, and the stream goes on";
    Error::new(ErrorKind::Timeout, text)
}
