//! The state machine of one client: calls and their acks, groups, and every decision about the
//! life of the connection. Pure: no socket, thread, channel, lock or clock; time is an argument,
//! randomness a seed. So each rule is tested in virtual time, without a sleep.
//!
//! Callers and the reader thread drive the same [`Session`] under one short lock: they call one of
//! its methods, then take [`Output`]s until there are none. [`Inbox`] and [`KeepAlive`] are the
//! parts that only the reader needs, so that receiving takes no lock.
//!
//! Invariants:
//! - each call is completed exactly once;
//! - an ack id is in use by one call at a time, and what is sent again under it is identical;
//! - only [`Output::Send`] and [`Output::Ping`] put bytes on the wire, in the order of the outputs;
//! - losing the link completes or keeps every call by a rule that stands in `lifecycle.rs`;
//! - the acknowledged sequence id never goes back, except on a new connection.

mod calls;
mod config;
mod inbox;
mod lifecycle;
mod recovery;
#[cfg(test)]
mod tests;

pub(crate) use calls::{CallKind, Key, NewCall, ended_error, timed_out};
pub(crate) use config::Config;
pub(crate) use inbox::{Beat, Inbox, KeepAlive, Verdict};
pub(crate) use lifecycle::Loss;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::error::{Error, Result};
use crate::message::{Ack, Event};
use crate::protocol::Frame;
use crate::secret::Secret;

use calls::Calls;
use lifecycle::Phase;
use recovery::Recovery;

/// What the session wants done. Take these until there are none, in order.
#[derive(Debug)]
pub(crate) enum Output<W> {
    /// Open a link; answer with `linked` or `dial_failed`.
    Dial(Dial),
    /// Append a frame to the current link. `unwaited`: nobody waits for an ack of it.
    Send { frame: Frame, unwaited: bool },
    /// Append a keep-alive to the current link.
    Ping,
    /// Tell a caller.
    Complete { waiter: W, result: Result<Ack> },
    /// Put this into the event queue. Only ever caused by the reader's methods.
    Event(Event),
    /// Append a Close frame; the reader then waits for the end of the link.
    CloseLink { code: u16 },
    /// Cut the link at once.
    CutLink,
}

/// Which connection to open.
#[derive(Debug, Clone)]
pub(crate) struct Dial {
    pub(crate) recover: Option<Identity>,
    pub(crate) until: Instant,
}

/// What the service told in its `connected` message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Identity {
    pub(crate) connection_id: Arc<str>,
    pub(crate) user_id: Option<Arc<str>>,
    pub(crate) token: Option<Secret>,
}

/// See the module's documentation. `W` is the handle by which a caller is told.
#[derive(Debug)]
pub(crate) struct Session<W> {
    config: Config,
    phase: Phase,
    /// The session that the service knows us by; kept while it can be recovered.
    identity: Option<Identity>,
    recovery: Option<Recovery>,
    /// When this session was last dialed for recovery.
    tried_recovery: Option<Instant>,
    calls: Calls<W>,
    groups: BTreeMap<Arc<str>, JoinedGroup>,
    outputs: VecDeque<Output<W>>,
    rng: StdRng,
    /// What the service said before it closed.
    service_message: Option<String>,
    was_connected: bool,
    /// Attempts since the last loss, and the backoff's exponent, which a short success keeps.
    attempt: u32,
    exponent: u32,
    refusals: u32,
    /// Why everything ended, once it has.
    ended: Option<Error>,
    /// Counters for the stats.
    pub(crate) recoveries: u64,
    pub(crate) reconnects: u64,
}

/// A group that this client joined, with the call that did it: on a new connection the identical
/// frame goes out again, under the same id, which is fresh there.
#[derive(Debug)]
struct JoinedGroup {
    ack_id: u64,
    frame: Frame,
}

impl<W> Session<W> {
    pub(crate) fn new(config: Config, seed: u64) -> Self {
        Self {
            calls: Calls::new(config.max_in_flight, config.max_in_flight_bytes),
            config: config.bounded(),
            phase: Phase::New,
            identity: None,
            recovery: None,
            tried_recovery: None,
            groups: BTreeMap::new(),
            outputs: VecDeque::new(),
            rng: StdRng::seed_from_u64(seed),
            service_message: None,
            was_connected: false,
            attempt: 0,
            exponent: 0,
            refusals: 0,
            ended: None,
            recoveries: 0,
            reconnects: 0,
        }
    }

    pub(crate) fn output(&mut self) -> Option<Output<W>> {
        self.outputs.pop_front()
    }

    /// A caller's request. It is sent at once if the connection is open and nothing waits before
    /// it; else it waits in order.
    pub(crate) fn call(&mut self, call: NewCall<W>) {
        if let Some(error) = self.refuses(call.key) {
            self.complete(call.waiter, Err(error));
            return;
        }
        let call = match self.is_open() {
            true => self.calls.add_written(call),
            false => Err(call),
        };
        match call {
            Ok(frame) => self.outputs.push_back(Output::Send { frame, unwaited: false }),
            Err(call) => {
                self.calls.add(call);
                self.admit();
            }
        }
    }

    /// For a caller that finds all places taken: frees those of calls whose time is up, which the
    /// reader may not have noticed while it hears nothing. Rejoins are left to the reader, since
    /// only it may cause events.
    pub(crate) fn make_room(&mut self, now: impl FnOnce() -> Instant) {
        if !self.calls.is_full() && !self.calls.any_waiting() {
            return;
        }
        let overdue = self.calls.overdue(now());
        if overdue.is_empty() {
            return; // as usual, so this must not cost a look at every call
        }
        for key in overdue {
            if !matches!(self.calls.kind(key), Some(CallKind::Rejoin(_))) {
                let written = self.calls.is_written(key);
                self.fail_call(key, timed_out(written));
            }
        }
        self.calls.look_again();
        self.admit();
    }

    /// Why a call under this key would be refused without being sent.
    pub(crate) fn refuses(&self, key: Key) -> Option<Error> {
        if let Some(error) = self.refusal() {
            return Some(error);
        }
        let Key::Ack(id) = key else { return None };
        self.calls.contains(key).then(|| {
            Error::invalid(format!(
                "ack id {id} is in use by another call of this client that has not ended yet"
            ))
        })
    }

    /// The fast way for a frame that nobody waits for: false if it must wait like any call.
    pub(crate) fn fire(&mut self, frame: &Frame) -> Result<bool> {
        if let Some(error) = self.refusal() {
            return Err(error);
        }
        let now = self.is_open() && !self.calls.any_waiting();
        if now {
            self.outputs.push_back(Output::Send { frame: frame.clone(), unwaited: true });
        }
        Ok(now)
    }

    /// The caller gave up. `None`: the call had ended before, and its result is on its way.
    /// Else its waiter, and whether it may have reached the service.
    pub(crate) fn withdraw(&mut self, key: Key) -> Option<(Option<W>, bool)> {
        let call = self.calls.remove(key)?;
        self.admit();
        let written = call.was_written();
        Some((call.waiter, written))
    }

    /// An ack came.
    pub(crate) fn ack(&mut self, ack_id: u64, success: bool, error: Option<(String, String)>) {
        let Some(call) = self.calls.remove_written(Key::Ack(ack_id)) else {
            return; // withdrawn meanwhile, or sent twice by the service
        };
        let duplicate = !success && error.as_ref().is_some_and(|(name, _)| name == "Duplicate");
        let result = if success || duplicate {
            Ok(Ack { ack_id, duplicate })
        } else {
            let (name, message) = error.unwrap_or_default();
            Err(calls::refused(&name, &message))
        };
        self.settle(call, ack_id, result);
        self.admit();
    }

    /// Remembers the outcome for the groups, then tells the caller.
    fn settle(&mut self, call: calls::Call<W>, ack_id: u64, result: Result<Ack>) {
        match (&call.kind, &result) {
            (CallKind::Join(group), Ok(_)) => {
                let joined = JoinedGroup { ack_id, frame: call.frame.clone() };
                self.groups.insert(Arc::clone(group), joined);
            }
            (CallKind::Leave(group), Ok(_)) => {
                self.groups.remove(group);
            }
            (CallKind::Rejoin(group), Err(error)) => {
                self.rejoin_failed(Arc::clone(group), error.clone());
            }
            _ => {}
        }
        self.complete(call.waiter, result);
    }

    fn complete(&mut self, waiter: Option<W>, result: Result<Ack>) {
        if let Some(waiter) = waiter {
            self.outputs.push_back(Output::Complete { waiter, result });
        }
    }

    /// Sends waiting calls while there is room for them.
    fn admit(&mut self) {
        if !self.is_open() {
            return;
        }
        while let Some((frame, waiter)) = self.calls.next_to_send() {
            self.outputs.push_back(Output::Send { frame, unwaited: waiter.is_some() });
            if let Some((waiter, id)) = waiter {
                self.complete(waiter, Ok(Ack { ack_id: id, duplicate: false }));
            }
        }
    }

    /// Why no more calls are taken, once that is so.
    fn refusal(&self) -> Option<Error> {
        self.ended.as_ref().map(|cause| ended_error(cause, false))
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open { .. })
    }

    pub(crate) fn is_stopped(&self) -> bool {
        matches!(self.phase, Phase::Stopped)
    }

    /// Why the client ended, once it has.
    pub(crate) fn ended(&self) -> Option<&Error> {
        self.ended.as_ref()
    }

    /// Of the present connection.
    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref().filter(|_| !self.is_stopped())
    }

    /// Calls that wait for an ack, or to be sent.
    pub(crate) fn pending(&self) -> usize {
        self.calls.len()
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = &Arc<str>> {
        self.groups.keys()
    }
}
