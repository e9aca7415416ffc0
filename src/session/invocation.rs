//! Invocations: calls that end with the app server's answer.
//!
//! They are in the table of calls like all others, with the same order, deadlines and limits. What
//! differs:
//!
//! - nothing detects a repetition, so an invocation is never sent twice: one that is written when the
//!   link is lost fails at once, even if the session is recovered;
//! - answers are not sent again, and are matched by an id that is never used again;
//! - who gives up a written one tells the service, after the recovery if there is no link.

use std::borrow::Cow;
use std::time::Instant;

use super::call::{Call, Key};
use super::errors::{cancelled, outcome_unknown};
use super::{Output, Session};
use crate::error::{Error, ErrorKind};
use crate::message::Reply;
use crate::protocol::InvokeResponse;

/// What answers an invocation, or why it cannot be read.
pub(crate) type Answer = Result<Box<InvokeResponse>, Cow<'static, str>>;

impl<W> Session<W> {
    /// An answer came. One that nobody waits for is discarded.
    pub(super) fn answer(&mut self, now: Instant, id: &str, answer: Answer) {
        if let Some(call) = own_number(id).and_then(|id| self.calls.remove_written(id)) {
            let outcome = outcome(answer);
            self.counts.ended(&call, &outcome);
            match (outcome, call.waiter) {
                (Ok(reply), Some(waiter)) => {
                    self.outputs.push_back(Output::Answer { waiter, reply: Box::new(reply) });
                }
                (Ok(_), None) => {}
                (Err(error), waiter) => self.complete(waiter, Err(error)),
            }
        }
        self.expire_all(now);
        self.admit(now);
    }

    /// The caller takes an invocation back, whether it is written or not; false if it had ended.
    pub(crate) fn cancel_invocation(&mut self, now: Instant, id: u64) -> bool {
        self.expire(now);
        let Some(call) = self.calls.remove(Key::Invocation(id)) else { return false };
        self.given_up(&call);
        let error = if call.was_written() { abandoned() } else { cancelled() };
        self.complete(call.waiter, Err(error));
        self.admit(now);
        true
    }

    /// Nobody waits any more for this written call.
    pub(super) fn abandon(&mut self, call: &Call<W>) {
        let Key::Invocation(id) = call.key else { return };
        if self.is_open() {
            self.outputs.push_back(Output::CancelInvocation { id });
        } else {
            self.abandoned.push(id);
        }
    }

    /// The link is lost, and may be recovered: the answers to what is written are lost with it.
    pub(super) fn invocations_lost(&mut self, cause: &Error) {
        for (_, key) in self.calls.written_in_order() {
            let Key::Invocation(id) = key else { continue };
            let Some(call) = self.calls.remove(key) else { continue };
            self.abandoned.push(id);
            let error = outcome_unknown("the connection was lost before the answer came");
            let outcome = Err(error.with_source(cause.clone()));
            self.counts.ended(&call, &outcome);
            self.complete(call.waiter, outcome);
        }
    }

    /// The session is recovered.
    pub(super) fn cancel_abandoned(&mut self) {
        for id in self.abandoned.drain(..) {
            self.outputs.push_back(Output::CancelInvocation { id });
        }
    }
}

/// The key of an id, if it is one that we write: the number may be written in one way only.
fn own_number(id: &str) -> Option<Key> {
    let number: u64 = id.parse().ok()?;
    (number.to_string() == id).then_some(Key::Invocation(number))
}

fn outcome(answer: Answer) -> Result<Reply, Error> {
    let response = answer.map_err(|why| {
        let text = format!("the answer to the invocation cannot be read: {why}");
        Error::new(ErrorKind::Payload, text).maybe_delivered(true)
    })?;
    if !response.success {
        let error = response.error.unwrap_or_default();
        return Err(failed_there(&error.name, error.message.as_deref().unwrap_or_default()));
    }
    Ok(Reply { payload: response.payload, metadata: response.metadata })
}

/// Of an invocation that was sent.
fn abandoned() -> Error {
    let text = "the invocation was cancelled after it was sent; the app server may have run it";
    Error::new(ErrorKind::Cancelled, text).maybe_delivered(true)
}

/// The app server's answer says that the invocation failed.
fn failed_there(name: &str, message: &str) -> Error {
    let mut text = String::from("the invocation failed");
    for part in [name, message] {
        if !part.is_empty() {
            text.extend([": ", part]);
        }
    }
    Error::new(ErrorKind::Refused, text).with_service_name(name).maybe_delivered(true)
}
