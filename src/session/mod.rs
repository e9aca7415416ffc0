//! The state machine of one client: calls and their acks, groups, and every decision about the
//! life of the connection. Pure: no socket, thread, channel, lock or clock; time is an argument,
//! randomness a seed. So each rule is tested in virtual time, without a sleep.
//!
//! Callers and the reader thread drive the same [`Session`] under one short lock: they call one of
//! its methods, then take [`Output`]s until there are none. What only the reader needs stands apart,
//! in the [`Receiver`], so that receiving takes no lock.
//!
//! Invariants:
//! - each call is completed exactly once;
//! - an ack id is in use by one call at a time, and what is sent again under it is identical;
//! - only [`Output::Send`], [`Output::Ping`], [`Output::CancelInvocation`] and [`Output::Stream`] put
//!   bytes on the wire, in the order of the outputs;
//! - deadlines come first: a method that is told the time fails what is overdue before it sends
//!   anything, so nothing is appended to a link after its call's deadline;
//! - losing the link completes or keeps every call by a rule that stands in `lifecycle.rs`;
//! - the acknowledged sequence id never goes back, except on a new connection.

// Pure: see `clippy.toml`.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod bug;
mod call;
mod calls;
mod closing;
mod config;
mod counts;
mod delivery;
mod errors;
#[cfg_attr(not(feature = "preview"), allow(dead_code))]
mod group_state;
mod groups;
mod hold;
#[cfg_attr(not(feature = "preview"), allow(dead_code))]
mod invocation;
mod keep_alive;
mod lifecycle;
mod loss;
mod patience;
mod receiver;
mod recovery;
mod replay;
mod sequence;
mod state;
#[cfg_attr(not(feature = "preview"), allow(dead_code))]
mod states;
mod stream_reader;
#[cfg_attr(not(feature = "preview"), allow(dead_code))]
mod stream_writer;
#[cfg_attr(not(feature = "preview"), allow(dead_code))]
mod streams;
mod subscribe;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use bug::Bug;
pub(crate) use call::{Call, CallKind, Key};
pub(crate) use closing::CutOff;
pub(crate) use config::Config;
pub(crate) use delivery::{Bound, EventQueue, Room, Unread};
pub(crate) use errors::ended_error;
#[cfg_attr(not(feature = "preview"), allow(unused_imports))]
pub(crate) use group_state::{Change, GroupStates, Member};
pub(crate) use hold::{HOLD_BYTES, HOLD_MESSAGES};
pub(crate) use invocation::Answer;
pub(crate) use keep_alive::KeepAliveConfig;
pub(crate) use loss::Loss;
pub(crate) use receiver::Receiver;
pub(crate) use state::StateKind;
pub(crate) use stream_reader::{Arrived as StreamArrived, ReaderConfig, StreamEnd, StreamReaders};
#[cfg_attr(not(feature = "preview"), allow(unused_imports))]
pub(crate) use stream_writer::{Emit, StreamConfig, StreamWriter};
pub(crate) use streams::StreamStart;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::error::{Error, Result};
use crate::message::{Ack, Event, Reply};
use crate::protocol::Frame;
use crate::secret::Secret;

use calls::{Calls, ToSend};
use counts::Counts;
pub(crate) use groups::Joined;

use groups::Groups;
use lifecycle::Phase;
use patience::Unanswered;
use recovery::Recovery;
use states::States;
use streams::Streams;

/// After the proof of a recovery the receiver waits this long for the pong that ends the count of
/// replayed messages.
pub(crate) const RECOVERY_PONG: Duration = Duration::from_secs(2);

/// What the session wants done. Take these until there are none, in order.
#[derive(Debug)]
pub(crate) enum Output<W> {
    /// Open a link; answer with `linked` or `dial_failed`.
    Dial(Dial),
    /// Append a frame to the current link. `unwaited`: nobody waits for an ack of it. `patience`: it
    /// is an event, so a peer that takes or says nothing may be alive until then.
    Send { frame: Frame, unwaited: bool, patience: Option<Instant> },
    /// Append a keep-alive to the current link.
    Ping,
    /// Append the cancellation of this invocation to the current link.
    CancelInvocation { id: u64 },
    /// Append this message of a stream to the current link.
    Stream { start: Arc<StreamStart>, emit: Emit },
    /// Tell a caller. An invocation ends so if it fails.
    Complete { waiter: W, result: Result<Ack> },
    /// Tell the caller of an invocation that the app server has answered.
    Answer { waiter: W, reply: Box<Reply> },
    /// Put this into the event queue. Only ever caused by the reader's methods.
    Event(Event),
    /// The leave of a group that no subscription held any more has ended, or the program's own leave
    /// is carried out. Only ever caused by the reader's methods.
    Released { group: Arc<str>, ack_id: u64 },
    /// A new connection has not taken a group's state: the client's own, or it does not report those of
    /// the group (`watch`). Only ever caused by the reader's methods.
    StateLost { group: Arc<str>, watch: bool, error: Error },
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

/// What the service's `connected` message said.
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
    /// A writer saw that the current link is dead; `lost` will follow.
    suspended: bool,
    calls: Calls<W>,
    /// Invocations that nobody waits for any more, to be cancelled once the session is recovered.
    abandoned: Vec<u64>,
    /// The common deadline of our own calls under way. It does not run while there is no link.
    own_until: Option<Instant>,
    groups: Groups,
    states: States,
    streams: Streams,
    unanswered: Unanswered,
    /// What is unread in a queue that is full.
    queue_full: Option<Unread>,
    outputs: VecDeque<Output<W>>,
    rng: StdRng,
    /// When the attempt to connect or the recovery under way began.
    since: Option<Instant>,
    /// What the service said before it closed.
    service_message: Option<String>,
    was_connected: bool,
    /// Attempts since the last loss, and the backoff's exponent, which a short success keeps.
    attempt: u32,
    exponent: u32,
    refusals: u32,
    /// Why everything ended, once it has.
    ended: Option<Error>,
    pub(crate) cut_off: CutOff,
    /// For the stats.
    pub(crate) counts: Counts,
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
            suspended: false,
            abandoned: Vec::new(),
            own_until: None,
            groups: Groups::default(),
            states: States::default(),
            streams: Streams::default(),
            unanswered: Unanswered::default(),
            queue_full: None,
            outputs: VecDeque::new(),
            rng: StdRng::seed_from_u64(seed),
            since: None,
            service_message: None,
            was_connected: false,
            attempt: 0,
            exponent: 0,
            refusals: 0,
            ended: None,
            cut_off: CutOff::default(),
            counts: Counts::default(),
        }
    }

    pub(crate) fn output(&mut self) -> Option<Output<W>> {
        self.outputs.pop_front()
    }

    /// A caller's request. It is sent at once if the connection is open and nothing waits before
    /// it; else it waits in order.
    pub(crate) fn call(&mut self, now: Instant, call: Call<W>) {
        self.expire(now);
        let error = self.refuses(call.key, &call.kind).or_else(|| self.is_late(now, &call));
        if let Some(error) = error {
            self.counts.timed_out += u64::from(error.is_timeout());
            return self.complete(call.waiter, Err(error));
        }
        self.groups.began(&call.kind);
        if self.is_open() && self.calls.may_go_now(&call) {
            self.counts.written(now, call.key, &call.kind);
            let sent = self.calls.add_written(now, call);
            self.send(now, sent);
        } else {
            self.calls.add(call);
            self.admit(now);
        }
    }

    /// For a caller, before it asks `refuses`: frees what overdue calls occupy, which the reader may
    /// not have noticed yet.
    pub(crate) fn make_room(&mut self, now: Instant) {
        if self.expire(now) {
            self.admit(now);
        }
    }

    /// Why such a call would be refused without being sent.
    pub(crate) fn refuses(&self, key: Key, kind: &CallKind) -> Option<Error> {
        if let Some(error) = self.refusal().or_else(|| self.refuses_leave(kind)) {
            return Some(error);
        }
        let Key::Ack(id) = key else { return None };
        self.calls.contains(key).then(|| {
            Error::invalid(format!(
                "ack id {id} is in use by another call of this client that has not ended yet"
            ))
        })
    }

    fn is_late(&self, now: Instant, call: &Call<W>) -> Option<Error> {
        (call.deadline <= now).then(|| self.timed_out(call, call.was_written()))
    }

    /// The fast way for a frame that nobody waits for. It comes back if it must wait like any call.
    pub(crate) fn fire(&mut self, now: Instant, call: Call<W>) -> Result<Option<Call<W>>> {
        self.expire(now);
        if let Some(error) = self.refusal().or_else(|| self.is_late(now, &call)) {
            return Err(error);
        }
        if !self.is_open() || self.calls.any_waiting() {
            return Ok(Some(call));
        }
        let patience = patience::of(&call, now);
        self.send(now, ToSend { frame: call.frame, patience, ended: Some((None, 0)) });
        Ok(None)
    }

    /// The caller gave up. Its call ends now, unless it has ended before, and then its outcome is on
    /// its way.
    pub(crate) fn withdraw(&mut self, now: Instant, key: Key, deadline: Instant) {
        self.expire(now);
        // By now another call may have the key: one of the program's, if it chooses its ids itself,
        // or the rejoin of a group that this call has just joined.
        let its_own = |call: &Call<W>| call.deadline == deadline && !call.is_own();
        if self.calls.get(key).is_some_and(its_own) {
            self.time_out(key);
        }
        self.admit(now);
    }

    /// The caller takes a call back that was never written; true if it was. What has the key by now
    /// may be another call, see `withdraw`.
    pub(crate) fn cancel(&mut self, now: Instant, key: Key, deadline: Instant) -> bool {
        self.expire(now);
        let unwritten =
            |call: &Call<W>| call.deadline == deadline && !call.is_own() && !call.was_written();
        if !self.calls.get(key).is_some_and(unwritten) {
            return false;
        }
        if let Some(call) = self.calls.remove(key) {
            self.groups.ended(&call.kind);
            self.complete(call.waiter, Err(errors::cancelled()));
        }
        self.admit(now);
        true
    }

    /// For a call that there is no room for: it waited for some, or does not wait.
    pub(crate) fn no_room(&self, waited: bool) -> Error {
        let (calls, bytes) = (self.calls.len(), self.calls.waiting_bytes());
        self.explained(errors::no_room(&self.config, calls, bytes, waited))
    }

    /// Whether a call of this size may be taken on, or must wait for others to end or to be written.
    pub(crate) fn has_room(&self, size: usize) -> bool {
        let waiting = self.calls.waiting_bytes();
        self.calls.len() < self.config.max_pending_calls
            && (waiting == 0 || waiting + size <= self.config.max_pending_bytes)
    }

    /// An ack came.
    pub(crate) fn ack(
        &mut self,
        now: Instant,
        ack_id: u64,
        success: bool,
        error: Option<(String, String)>,
    ) {
        let duplicate = !success && error.as_ref().is_some_and(|(name, _)| name == "Duplicate");
        match self.calls.remove_written(Key::Ack(ack_id)) {
            Some(call) => {
                self.counts.acked(now, call.key);
                let result = if success || duplicate {
                    Ok(Ack { ack_id, duplicate })
                } else {
                    let (name, message) = error.unwrap_or_default();
                    let error = errors::refused(&name, &message, &call);
                    Err(error)
                };
                self.settle(call, result);
            }
            // Given up meanwhile, or sent twice by the service.
            None => {
                if let Some(group) = self.groups.late_ack(ack_id, success || duplicate) {
                    self.outputs.push_back(Output::Released { group, ack_id });
                }
            }
        }
        // What has been answered in time is not overdue; what waits for its place may be.
        self.expire_all(now);
        self.admit(now);
    }

    /// Remembers the outcome for the groups, then reports it to the caller.
    fn settle(&mut self, call: Call<W>, result: Result<Ack>) {
        match &result {
            Ok(_) => {
                self.groups.succeeded(&call);
                self.states.succeeded(&call);
            }
            Err(error) => self.check_rejoin(&call, error),
        }
        self.groups.ended(&call.kind);
        self.check_release(&call);
        self.check_leave(&call, result.is_ok());
        self.counts.ended(&call, &result);
        self.complete(call.waiter, result);
    }

    pub(super) fn complete(&mut self, waiter: Option<W>, result: Result<Ack>) {
        if let Some(waiter) = waiter {
            self.outputs.push_back(Output::Complete { waiter, result });
        }
    }

    /// Ends a call whose time is up. If it is written, the service may still answer.
    fn time_out(&mut self, key: Key) {
        let Some(call) = self.calls.remove(key) else { return };
        let error = self.timed_out(&call, call.was_written() && !Bug::DenyDelivery.is_on());
        self.check_rejoin(&call, &error);
        self.groups.gave_up(&call);
        self.check_release(&call);
        self.given_up(&call);
        if Bug::ForgetOutcome.is_on() && call.order().is_some() {
            return;
        }
        let outcome = Err(error);
        self.counts.ended(&call, &outcome);
        self.complete(call.waiter, outcome);
    }

    fn timed_out(&self, call: &Call<W>, written: bool) -> Error {
        errors::timed_out(call.kind.awaited(), written, self.queue_full.as_ref())
    }

    /// Nobody waits any more for a call that the service may be at.
    fn given_up(&mut self, call: &Call<W>) {
        if call.order().is_some() {
            self.unanswered.given_up(call.patience);
            self.abandon(call);
        }
    }

    /// Reports a rejoin that failed, unless a later join or leave has decided about the group, and what
    /// should have followed it.
    pub(super) fn check_rejoin(&mut self, call: &Call<W>, error: &Error) {
        self.check_state(call, error);
        if let CallKind::Rejoin(group) = &call.kind
            && self.groups.rejoin_failed(call)
        {
            self.rejoin_failed(Arc::clone(group), error.clone());
        }
    }

    /// The end of the leave behind the last subscription, whatever it is.
    pub(super) fn check_release(&mut self, call: &Call<W>) {
        if let CallKind::Release(group) = &call.kind {
            let (group, ack_id) = (Arc::clone(group), call.key.id());
            self.outputs.push_back(Output::Released { group, ack_id });
        }
    }

    /// A leave of the program that is carried out: no last message comes of the group's streams.
    fn check_leave(&mut self, call: &Call<W>, done: bool) {
        if let (CallKind::Leave(group), true) = (&call.kind, done) {
            let (group, ack_id) = (Arc::clone(group), call.key.id());
            self.outputs.push_back(Output::Released { group, ack_id });
        }
    }

    /// Fails the program's calls whose deadline has passed; true if there were any.
    fn expire(&mut self, now: Instant) -> bool {
        let mut any = false;
        while let Some(key) = self.calls.next_overdue(now) {
            self.time_out(key);
            any = true;
        }
        any
    }

    /// Also our own calls, whose failure is an event: so for the reader only.
    fn expire_all(&mut self, now: Instant) {
        self.expire(now);
        if self.own_calls_are_overdue(now) {
            self.own_until = None;
            for key in self.calls.own_keys() {
                self.time_out(key);
            }
        }
    }

    fn own_calls_are_overdue(&self, now: Instant) -> bool {
        self.next_own_deadline().is_some_and(|at| at <= now)
    }

    fn next_own_deadline(&self) -> Option<Instant> {
        self.own_until.filter(|_| self.is_open() && self.calls.any_own())
    }

    /// Sends waiting calls while there is room for them.
    fn admit(&mut self, now: Instant) {
        // Overdue calls of our own, which may go first, are ended by the reader's tick.
        if !self.is_open() || self.own_calls_are_overdue(now) {
            return;
        }
        while let Some(sent) = self.calls.next_to_send(now) {
            self.send(now, sent);
        }
    }

    fn send(&mut self, now: Instant, sent: ToSend<W>) {
        let ToSend { frame, patience, ended } = sent;
        self.outputs.push_back(Output::Send { frame, unwaited: ended.is_some(), patience });
        if let Some((waiter, ack_id)) = ended {
            if let Some(until) = patience {
                self.unanswered.fired(now, until);
            }
            self.complete(waiter, Ok(Ack { ack_id, duplicate: false }));
        }
    }

    /// A writer saw that the current link is dead, which `lost` will report. Until then nothing more
    /// counts as written: what is sent waits as if there were no link.
    pub(crate) fn suspend(&mut self) {
        self.suspended = true;
    }

    /// The peer was last heard then. Its silence proves nothing until the instant returned, because
    /// events may be under way, and the service answers nothing on a link while a handler runs.
    pub(crate) fn silence_allowed_until(&self, heard: Instant) -> Option<Instant> {
        self.calls.longest_patience().max(self.unanswered.until(heard))
    }

    /// A queue is full, with this unread, or none is (any more). While it is so, errors that this may
    /// have caused say so.
    pub(crate) fn queue_full(&mut self, unread: Option<Unread>) {
        self.queue_full = unread;
    }

    /// An error of the link, with the full queue that may be behind it.
    pub(crate) fn explained(&self, error: Error) -> Error {
        errors::explained(error, self.queue_full.as_ref())
    }

    /// Why no more calls are taken, once that is so.
    fn refusal(&self) -> Option<Error> {
        self.ended.as_ref().map(|cause| ended_error(cause, false))
    }

    /// What is sent now is written now.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open { .. })
            && (!self.suspended || Bug::WriteOnDeadLink.is_on())
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

    /// The same, without the client's own joins and leaves.
    pub(crate) fn pending_of_program(&self) -> usize {
        self.calls.len() - self.calls.own()
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = &Arc<str>> {
        self.groups.joined().map(|(name, _)| name)
    }
}
