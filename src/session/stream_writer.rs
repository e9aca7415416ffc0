//! The publisher's side of one stream: from the start to `streamClosed`.
//!
//! Fragments are numbered, kept until the service has acknowledged them, and sent again after a
//! negative ack or a recovery. The end is not ordered behind the fragments by a number, so it goes
//! only when all of them are acknowledged: else a refused one could be missing from a stream that
//! looks complete.
//!
//! Pure, like the session: the caller passes the time, tells what happened, and then takes
//! [`Emit`]s until there are none.

mod end;
mod flight;
mod timers;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::protocol::{Frame, NamedError, StreamEndError};

use end::{Ending, refused};
use flight::{Flight, Nack};

/// Without an ack for this long the oldest fragment is sent again. It is a duplicate at worst, and
/// the answer to it shows how far the service is: nobody knows after how many it acknowledges.
const PROBE: Duration = Duration::from_secs(1);
/// After a refusal that may pass.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The limits of a stream.
#[derive(Debug, Clone)]
pub(crate) struct StreamConfig {
    /// Fragments that are not acknowledged yet.
    pub(crate) max_unacked_fragments: usize,
    pub(crate) max_unacked_bytes: usize,
    /// The service ends a stream after this long without a fragment or a keep-alive.
    pub(crate) idle_timeout: Duration,
    /// How long a link that is up may bring no progress.
    pub(crate) stall_timeout: Duration,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            max_unacked_fragments: 256,
            max_unacked_bytes: 4 << 20,
            idle_timeout: Duration::from_secs(300),
            stall_timeout: Duration::from_secs(30),
        }
    }
}

/// What must be written to the link, in order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Emit {
    Start,
    Fragment(Frame),
    /// The oldest fragment once more, to see how far the service is.
    Probe(Frame),
    KeepAlive,
    End,
    Abort(StreamEndError),
}

#[derive(Debug)]
enum State {
    /// The start waits for a link.
    Waiting,
    /// The start is written.
    Starting,
    Open,
    /// The end waits for the last ack.
    Draining,
    /// The end is written, or waits for a link.
    Ending(Ending),
    Closed(Result<()>),
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct StreamWriter {
    config: StreamConfig,
    state: State,
    flight: Flight,
    link: bool,
    /// Of opening, or of the end.
    deadline: Option<Instant>,
    /// Nothing is sent until then, because the service refused a fragment for the moment.
    pause_until: Option<Instant>,
    next_pause: Duration,
    /// The last ack, or what took its place for the probe.
    quiet_since: Instant,
    /// The last ack that said something new, or what took its place.
    progress: Instant,
    /// The last frame that the service counts as activity.
    written: Instant,
    /// What the service is owed once there is a link again, although nobody waits for it.
    farewell: Option<Emit>,
    outputs: VecDeque<Emit>,
}

impl StreamWriter {
    /// A stream that is to be open by the deadline. `link`: whether there is one.
    pub(crate) fn new(config: StreamConfig, now: Instant, link: bool, deadline: Instant) -> Self {
        let mut writer = Self {
            config,
            state: State::Waiting,
            flight: Flight::new(now),
            link: false,
            deadline: Some(deadline),
            pause_until: None,
            next_pause: FIRST_PAUSE,
            quiet_since: now,
            progress: now,
            written: now,
            farewell: None,
            outputs: VecDeque::new(),
        };
        if link {
            writer.linked(now);
        }
        writer
    }

    pub(crate) fn output(&mut self) -> Option<Emit> {
        self.outputs.pop_front()
    }

    // --- the program ---------------------------------------------------------------------------

    /// The number of the next fragment. The writer encodes it, so a fragment that cannot be encoded
    /// uses no number.
    pub(crate) fn next_number(&self) -> u64 {
        self.flight.next_number()
    }

    /// Whether a fragment of this size may be sent now. One above the limit goes alone.
    pub(crate) fn has_room(&self, size: usize) -> bool {
        let StreamConfig { max_unacked_fragments, max_unacked_bytes, .. } = self.config;
        self.flight.is_empty()
            || self.flight.len() < max_unacked_fragments
                && self.flight.bytes() + size <= max_unacked_bytes
    }

    /// Takes the fragment with the next number. It waits for a link, if there is none.
    pub(crate) fn send(&mut self, now: Instant, fragment: Frame) -> Result<()> {
        match &self.state {
            State::Open => {}
            State::Closed(Err(error)) => return Err(error.clone()),
            _ => return Err(Error::invalid("the stream is not open")),
        }
        if self.flight.is_empty() {
            self.progress = now;
        }
        self.flight.push(fragment);
        self.pump(now);
        Ok(())
    }

    /// All fragments up to this number have been accepted.
    pub(crate) fn acked(&self) -> u64 {
        self.flight.acked()
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// How the stream has ended, once it has.
    pub(crate) fn outcome(&self) -> Option<&Result<()>> {
        match &self.state {
            State::Closed(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// It has ended, and the service need not be told anything any more.
    pub(crate) fn is_over(&self) -> bool {
        self.outcome().is_some() && self.farewell.is_none()
    }

    // --- the link ------------------------------------------------------------------------------

    /// There is a link: the first one of a new connection, or one on which the session is recovered.
    pub(crate) fn linked(&mut self, now: Instant) {
        self.link = true;
        self.quiet_since = now;
        self.progress = now;
        if let Some(farewell) = self.farewell.take() {
            self.outputs.push_back(farewell);
        }
        match &mut self.state {
            State::Waiting => {
                self.flight.started(now);
                self.emit(now, Emit::Start);
                self.state = State::Starting;
            }
            State::Open | State::Draining => {
                // Only this reveals a `streamClosed` that was lost with the link.
                if self.flight.is_empty() {
                    self.emit(now, Emit::KeepAlive);
                }
                self.pause_until = None;
                self.flight.rewind();
                self.pump(now);
            }
            State::Ending(ending) => {
                let last = ending.write();
                self.emit(now, last);
            }
            State::Starting | State::Closed(_) => {}
        }
    }

    /// The link is lost, and the session may be recovered.
    pub(crate) fn lost(&mut self) {
        self.link = false;
        self.outputs.clear();
        match &mut self.state {
            State::Starting => {
                // The service may have taken the start: without an end the stream would stay, and by
                // one in order subscribers would take it for complete.
                self.farewell = Some(Emit::Abort(end::code("Disconnected")));
                let text = "the connection was lost before the service accepted the stream";
                self.close(Err(Error::new(ErrorKind::OutcomeUnknown, text).maybe_delivered(true)));
            }
            State::Ending(ending) => ending.link_lost(),
            _ => {}
        }
    }

    /// The session is lost for good, and its streams with it.
    pub(crate) fn session_over(&mut self, cause: &Error) {
        self.link = false;
        self.outputs.clear();
        self.farewell = None;
        if matches!(self.state, State::Waiting | State::Closed(_)) {
            return;
        }
        let text = format!(
            "the connection was lost for good, and the stream with it; the service has accepted it \
             up to fragment {}",
            self.acked()
        );
        let error = Error::new(ErrorKind::OutcomeUnknown, text);
        self.close(Err(error.with_source(cause.clone()).maybe_delivered(true)));
    }

    // --- the service ---------------------------------------------------------------------------

    /// `streamAck`: all fragments below this number are accepted.
    pub(crate) fn ack(&mut self, now: Instant, expected: u64) {
        match self.state {
            State::Starting if expected == 1 => {
                self.state = State::Open;
                self.deadline = None;
                self.flight.confirm_start();
            }
            State::Starting => self.violated("its first ack was not for fragment 1"),
            State::Open | State::Draining => self.accepted(now, expected),
            State::Waiting | State::Ending(_) | State::Closed(_) => {}
        }
    }

    /// `streamNack`: the fragment of this number was not accepted, nor any behind it.
    pub(crate) fn nack(&mut self, now: Instant, expected: u64, name: &str) {
        if !matches!(self.state, State::Open | State::Draining) {
            return;
        }
        self.accepted(now, expected);
        if self.flight.is_empty() || self.outcome().is_some() {
            return;
        }
        if self.pause_until.is_some() {
            return self.flight.echoed();
        }
        if name == "TransientError" {
            let until = now + self.next_pause;
            self.next_pause = (self.next_pause * 2).min(LONGEST_PAUSE);
            self.pause_until = Some(until);
            self.flight.refused(until + PROBE);
        } else if self.flight.nacked(now, now + PROBE) == Nack::Rewind {
            self.pump(now);
        }
    }

    /// What an ack and a nack have in common.
    fn accepted(&mut self, now: Instant, expected: u64) {
        match self.flight.acknowledge(expected) {
            None => self.violated("it confirmed fragments that it was not sent, or took some back"),
            Some(advanced) => {
                self.quiet_since = now;
                if advanced {
                    self.progress = now;
                    self.next_pause = FIRST_PAUSE;
                    if self.pause_until.take().is_some() {
                        self.flight.rewind();
                        self.pump(now);
                    }
                }
                self.end_if_drained(now);
            }
        }
    }

    /// `streamClosed`.
    pub(crate) fn closed(&mut self, now: Instant, error: Option<&NamedError>) {
        let outcome = match &self.state {
            State::Waiting => return,
            // Whatever was owed to it, it is gone.
            State::Closed(_) => {
                self.farewell = None;
                return;
            }
            State::Starting => Err(refused(error, "the service refused the stream", false)),
            State::Open | State::Draining => {
                Err(refused(error, "the service ended the stream", true))
            }
            State::Ending(ending) => {
                let idle = now.saturating_duration_since(self.flight.confirmed_at());
                ending.outcome(error, idle < self.config.idle_timeout)
            }
        };
        self.close(outcome);
    }

    // --- sending -------------------------------------------------------------------------------

    /// Sends what is not sent yet, or is to be sent again.
    fn pump(&mut self, now: Instant) {
        if !self.is_sending() || self.pause_until.is_some() {
            return;
        }
        if !self.flight.any_sent() {
            self.quiet_since = now;
        }
        while let Some(fragment) = self.flight.next_to_send(now) {
            self.emit(now, Emit::Fragment(fragment));
        }
    }

    fn emit(&mut self, now: Instant, emit: Emit) {
        self.written = now;
        self.outputs.push_back(emit);
    }
}
