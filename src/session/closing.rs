//! The end: closed by the program, or stopped.

use std::time::Instant;

use super::errors::ended_error;
use super::lifecycle::Phase;
use super::{Output, Session};
use crate::error::Error;
use crate::message::{Event, Stopped};

/// The program's calls that the end has cut off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CutOff {
    /// They were not sent.
    pub(crate) unsent: u64,
    /// They were sent, and had no answer yet.
    pub(crate) unknown: u64,
}

impl<W> Session<W> {
    /// The program closes the client: callers are told, then goodbye is said if there is a link.
    pub(crate) fn close(&mut self, now: Instant) {
        if self.ended.is_some() {
            return;
        }
        self.end_calls(Error::closed());
        match self.phase {
            Phase::Open { .. } | Phase::Opening { .. } | Phase::Proving => {
                self.phase = Phase::Closing { until: now + self.config.close_timeout };
                self.outputs.push_back(Output::CloseLink { code: 1000 });
            }
            // The reader is told to stop whatever it waits for, and then calls `stop`.
            _ => {}
        }
    }

    /// Ends everything; the reader calls this last.
    pub(crate) fn stop(&mut self, cause: Error) {
        if matches!(self.phase, Phase::Stopped) {
            return;
        }
        self.phase = Phase::Stopped;
        self.end_calls(cause);
        self.outputs.push_back(Output::CutLink);
        let cause = self.ended.clone().unwrap_or_else(Error::closed);
        self.outputs.push_back(Output::Event(Event::Stopped(Stopped { cause })));
    }

    fn end_calls(&mut self, cause: Error) {
        let cause = self.ended.get_or_insert(cause).clone();
        self.counts.connected_since = None;
        self.counts.failed(&cause);
        for key in self.calls.keys() {
            if let Some(call) = self.calls.remove(key) {
                match call.was_written() {
                    _ if call.is_own() => {}
                    true => self.cut_off.unknown += 1,
                    false => self.cut_off.unsent += 1,
                }
                if !call.is_own() {
                    self.counts.cut_off += 1;
                }
                let error = ended_error(&cause, call.was_written());
                self.complete(call.waiter, Err(error));
            }
        }
        self.end_streams(&cause);
    }
}
