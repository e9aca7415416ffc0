//! The end of a stream: the last message, what its answer means, and giving up without one.

use std::time::Instant;

use super::{Emit, State, StreamWriter};
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::{NamedError, StreamEndError};

#[derive(Debug)]
pub(super) enum Last {
    End,
    Abort(StreamEndError),
}

/// The last message is written, or waits for a link.
#[derive(Debug)]
pub(super) struct Ending {
    last: Last,
    written: bool,
    /// It was written to a link that was lost, so its answer may be lost.
    lost: bool,
}

impl Ending {
    pub(super) fn new(last: Last) -> Self {
        Self { last, written: false, lost: false }
    }

    pub(super) fn link_lost(&mut self) {
        self.lost |= self.written;
    }

    /// It is written now, for the first time or again.
    pub(super) fn write(&mut self) -> Emit {
        self.written = true;
        match &self.last {
            Last::End => Emit::End,
            Last::Abort(error) => Emit::Abort(error.clone()),
        }
    }

    /// What `streamClosed` means. `alive`: the service cannot have ended the stream by itself.
    pub(super) fn outcome(&self, error: Option<&NamedError>, alive: bool) -> Result<()> {
        let Some(named) = error else { return Ok(()) };
        match &self.last {
            // Gone is what it was to be.
            Last::Abort(_) => Ok(()),
            Last::End if self.lost && named.name == "StreamNotFound" => {
                // All fragments were accepted before the first end was written. So if it was not
                // idleness, only that end can have removed the stream.
                if alive {
                    return Ok(());
                }
                let text = "the end of the stream was written to a connection that was lost; it is \
                            unknown whether the service took it or ended the stream as idle";
                Err(Error::new(ErrorKind::OutcomeUnknown, text).maybe_delivered(true))
            }
            Last::End => Err(refused(error, "the stream did not end in order", true)),
        }
    }
}

/// The service ended the stream, or did not take it at all.
pub(super) fn refused(error: Option<&NamedError>, what: &str, begun: bool) -> Error {
    let mut text = String::from(what);
    let name = error.map_or("", |error| error.name.as_str());
    let message = error.and_then(|error| error.message.as_deref()).unwrap_or_default();
    for part in [name, message] {
        if !part.is_empty() {
            text.extend([": ", part]);
        }
    }
    let error = Error::new(ErrorKind::Refused, text).maybe_delivered(begun);
    if name.is_empty() { error } else { error.with_service_name(name) }
}

/// For subscribers, why the stream was given up.
pub(super) fn code(code: &str) -> StreamEndError {
    StreamEndError { message: None, user_error_code: Some(code.to_owned()) }
}

impl StreamWriter {
    /// The program is done: the end goes behind the last ack, and all is to be over by the deadline.
    pub(crate) fn finish(&mut self, now: Instant, deadline: Instant) {
        if self.is_open() {
            self.deadline = Some(deadline);
            self.state = State::Draining;
            self.end_if_drained(now);
        }
    }

    /// The program gives the stream up: the service is told at once.
    pub(crate) fn abort(&mut self, now: Instant, error: StreamEndError, deadline: Instant) {
        match self.state {
            State::Open | State::Draining => {
                self.deadline = Some(deadline);
                self.end(now, Last::Abort(error));
            }
            State::Waiting | State::Starting => {
                let text = "the stream was given up before the service accepted it";
                let error = Error::new(ErrorKind::Cancelled, text);
                self.give_up(Emit::Abort(code("Dropped")), error);
            }
            State::Ending(_) | State::Closed(_) => {}
        }
    }

    /// The client ends. With a link the service is told at once. `error`: what the program gets, if
    /// something of the stream was written or if nothing was.
    pub(crate) fn client_over(&mut self, error: impl FnOnce(bool) -> Error) {
        let last = match self.state {
            State::Starting | State::Open | State::Draining => Some(Emit::Abort(code("Closed"))),
            State::Waiting | State::Ending(_) | State::Closed(_) => None,
        };
        self.farewell = None;
        self.outputs.extend(last.filter(|_| self.link));
        self.link = false;
        if self.outcome().is_none() {
            let written = !matches!(self.state, State::Waiting);
            self.close(Err(error(written)));
        }
    }

    pub(super) fn end_if_drained(&mut self, now: Instant) {
        if matches!(self.state, State::Draining) && self.flight.is_empty() {
            self.end(now, Last::End);
        }
    }

    fn end(&mut self, now: Instant, last: Last) {
        let mut ending = Ending::new(last);
        if self.link {
            self.emit(now, ending.write());
        }
        self.state = State::Ending(ending);
    }

    pub(super) fn overdue(&mut self) {
        match &mut self.state {
            State::Open | State::Closed(_) => {}
            State::Waiting => {
                let text =
                    "the stream could not be started within its time limit; nothing was sent";
                self.close(Err(Error::new(ErrorKind::Timeout, text)));
            }
            State::Starting => {
                let text = "the service did not accept the stream within its time limit";
                self.give_up(Emit::Abort(code("Timeout")), Error::new(ErrorKind::Timeout, text));
            }
            State::Draining => {
                self.fail("the stream was not confirmed within the time limit of its end");
            }
            State::Ending(ending) => {
                // Nobody waits for it any more, but subscribers do.
                self.farewell = (!self.link).then(|| ending.write());
                let text =
                    "the service did not confirm the end of the stream within its time limit";
                let error = Error::new(ErrorKind::Timeout, text).maybe_delivered(true);
                self.close(Err(error));
            }
        }
    }

    /// The service broke the protocol.
    pub(super) fn violated(&mut self, how: &str) {
        let text = format!("the service broke the rules of streams: {how}");
        let error = Error::new(ErrorKind::Disconnected, text).maybe_delivered(true);
        self.give_up(Emit::Abort(code("ProtocolViolation")), error);
    }

    /// What was awaited did not come in time.
    pub(super) fn fail(&mut self, text: &'static str) {
        let error = Error::new(ErrorKind::Timeout, text).maybe_delivered(true);
        self.give_up(Emit::Abort(code("Timeout")), error);
    }

    /// Ends with an error; the service is told now, or once there is a link again.
    fn give_up(&mut self, farewell: Emit, error: Error) {
        if self.link {
            self.outputs.push_back(farewell);
        } else if !matches!(self.state, State::Waiting) {
            self.farewell = Some(farewell);
        }
        self.close(Err(error));
    }

    pub(super) fn close(&mut self, outcome: Result<()>) {
        self.state = State::Closed(outcome);
        self.deadline = None;
        self.pause_until = None;
        self.flight.forget();
    }
}
