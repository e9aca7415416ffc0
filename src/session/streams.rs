//! The streams that the program publishes: which [`StreamWriter`] is meant, and what becomes of all of
//! them in the life of the connection.
//!
//! - A stream is open on a connection and ends with it; a recovery goes on with it.
//! - The client's end aborts the open ones, before the Close frame if there is a link.
//! - What the service says about a stream that nobody knows (any more) is ignored.
//! - A stream whose handle is gone stays until the service has been told of its end.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::errors::ended_error;
use super::stream_writer::{Emit, StreamConfig, StreamWriter};
use super::{Output, Session};
use crate::error::{Error, Result};
use crate::protocol::{NamedError, StreamEndError};

/// What the start of a stream says.
#[derive(Debug, Clone)]
pub(crate) struct StreamStart {
    pub(crate) group: Arc<str>,
    pub(crate) stream_id: Arc<str>,
    pub(crate) no_echo: bool,
    pub(crate) idle_timeout_ms: u32,
}

/// What the service says about a stream.
#[derive(Debug)]
pub(crate) enum StreamNews {
    Ack(u64),
    Nack { expected: u64, name: String },
    Closed(Option<NamedError>),
}

#[derive(Debug)]
struct Stream {
    start: Arc<StreamStart>,
    writer: StreamWriter,
    /// The program still holds it.
    held: bool,
}

#[derive(Debug, Default)]
pub(super) struct Streams {
    by_id: HashMap<Arc<str>, Stream>,
    /// No timer of any stream is due before then. It may be earlier than the next one, so that
    /// nothing but a tick looks at all of them.
    next: Option<Instant>,
    /// Something has happened that a waiting thread may wait for. What a handle does itself is none:
    /// waiting threads would wake each other without end.
    news: bool,
}

impl<W> Session<W> {
    /// A stream that is to be open by the deadline.
    pub(crate) fn open_stream(
        &mut self,
        now: Instant,
        start: StreamStart,
        config: StreamConfig,
        deadline: Instant,
    ) -> Result<()> {
        if let Some(cause) = &self.ended {
            return Err(ended_error(cause, false));
        }
        let id = Arc::clone(&start.stream_id);
        if self.streams.by_id.contains_key(&id) {
            return Err(Error::invalid(
                "the stream id is in use by another stream of this client that has not ended yet, or \
                 whose writer is not dropped",
            ));
        }
        let writer = StreamWriter::new(config, now, self.is_open(), deadline);
        let stream = Stream { start: Arc::new(start), writer, held: true };
        self.streams.by_id.insert(id.clone(), stream);
        self.drive_stream(now, &id, |_| ());
        Ok(())
    }

    /// The stream of this id, after it has done what is due: what its handle asks for.
    pub(crate) fn drive_stream<R>(
        &mut self,
        now: Instant,
        id: &str,
        act: impl FnOnce(&mut StreamWriter) -> R,
    ) -> Option<R> {
        let stream = self.streams.by_id.get_mut(id)?;
        stream.writer.tick(now);
        let result = act(&mut stream.writer);
        self.after_stream(id);
        Some(result)
    }

    /// Its handle is gone. If it is open, the service is told at once, and nobody waits for the answer.
    pub(crate) fn release_stream(&mut self, now: Instant, id: &str, deadline: Instant) {
        if let Some(stream) = self.streams.by_id.get_mut(id) {
            stream.held = false;
            let code = Some("Dropped".to_owned());
            let error = StreamEndError { message: None, user_error_code: code };
            stream.writer.abort(now, error, deadline);
            self.after_stream(id);
        }
    }

    /// The service has said something about a stream.
    pub(super) fn stream_news(&mut self, now: Instant, id: &str, news: StreamNews) {
        let Some(stream) = self.streams.by_id.get_mut(id) else { return };
        match news {
            StreamNews::Ack(expected) => stream.writer.ack(now, expected),
            StreamNews::Nack { expected, name } => stream.writer.nack(now, expected, &name),
            StreamNews::Closed(error) => stream.writer.closed(now, error.as_ref()),
        }
        self.streams.news = true;
        self.after_stream(id);
    }

    /// Takes what a stream wants written, and forgets it if it is over.
    fn after_stream(&mut self, id: &str) {
        let Some(stream) = self.streams.by_id.get_mut(id) else { return };
        while let Some(emit) = stream.writer.output() {
            let start = Arc::clone(&stream.start);
            self.outputs.push_back(Output::Stream { start, emit });
        }
        let next = stream.writer.next_wake();
        self.streams.next = [self.streams.next, next].into_iter().flatten().min();
        if !stream.held && stream.writer.is_over() {
            self.streams.by_id.remove(id);
        }
        if self.streams.by_id.is_empty() {
            self.streams.next = None;
        }
    }

    /// Does something with each of them.
    fn all_streams(&mut self, mut act: impl FnMut(&mut StreamWriter)) {
        if self.streams.by_id.is_empty() {
            return;
        }
        self.streams.next = None;
        self.streams.news = true;
        let ids: Vec<Arc<str>> = self.streams.by_id.keys().cloned().collect();
        for id in ids {
            if let Some(stream) = self.streams.by_id.get_mut(&id) {
                act(&mut stream.writer);
            }
            self.after_stream(&id);
        }
    }

    // --- the life of the connection --------------------------------------------------------------

    /// There is a link on which calls may be sent.
    pub(super) fn streams_linked(&mut self, now: Instant) {
        self.all_streams(|writer| {
            // What is overdue is not sent any more.
            writer.tick(now);
            writer.linked(now);
        });
    }

    /// The link is lost, and may be recovered.
    pub(super) fn streams_lost(&mut self) {
        self.all_streams(StreamWriter::lost);
    }

    /// The connection is lost for good.
    pub(super) fn streams_over(&mut self, cause: &Error) {
        self.all_streams(|writer| writer.session_over(cause));
    }

    /// The client ends.
    pub(super) fn end_streams(&mut self, cause: &Error) {
        self.all_streams(|writer| {
            writer.client_over(|written| ended_error(cause, written));
        });
    }

    pub(super) fn tick_streams(&mut self, now: Instant) {
        if self.next_stream_wake().is_some_and(|at| at <= now) {
            self.all_streams(|writer| writer.tick(now));
        }
    }

    pub(super) fn next_stream_wake(&self) -> Option<Instant> {
        self.streams.next
    }

    /// Streams that the program holds, or whose end the service has yet to confirm.
    pub(crate) fn streams(&self) -> usize {
        self.streams.by_id.len()
    }

    /// Whether something has happened since the last look that a stream's handle may wait for.
    pub(crate) fn take_stream_news(&mut self) -> bool {
        std::mem::take(&mut self.streams.news)
    }
}

impl Emit {
    /// Whether it may be left out if the link takes no more data.
    pub(crate) fn may_be_left_out(&self) -> bool {
        matches!(self, Self::Probe(_) | Self::KeepAlive)
    }
}
