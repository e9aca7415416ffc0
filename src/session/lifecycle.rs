//! The life of the connection: connecting, open, recovering, reconnecting, closing, stopped.
//!
//! | what ended the link | what follows |
//! | --- | --- |
//! | no Close frame, 1001, 1006, 1012, other codes | recovery (reliable), else a new connection |
//! | 1000, 1008, 1011 | the session is over: a new connection |
//! | 1002, 1003, 1007, 1009 | we broke a rule: a new connection; calls in flight fail as refused |
//! | a message that breaks our own limits | a new connection: a recovery would only bring it again |
//! | HTTP 4xx for a new connection | fixed URL: stopped; URL provider: asked again, 3 times in a row |
//! | HTTP 4xx for a recovery | a failed try: recovery goes on inside its window |
//! | HTTP 408, 425, 429, 5xx, network failure | backoff; inside the recovery window recovery goes on |
//! | HTTP 3xx, subprotocol not granted | stopped, also when it was a recovery that met it |
//!
//! What becomes of calls when a session is over: joins and leaves, and what concerns states in groups,
//! are issued again on the new connection; other calls in flight fail with `OutcomeUnknown` (or are sent again, if the program
//! asked for that); calls that were not written wait on, within their deadlines.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt;

use super::bug::Bug;
use super::call::{Call, CallKind, Key};
use super::errors::{broke_rule, lost, not_started, outcome_unknown};
use super::loss::{Fate, Loss, fate, is_refusal, never_retried, refusal_status};
use super::{Dial, Identity, Output, Session};
use crate::error::{Error, ErrorKind};
use crate::message::{Ack, Connected, Disconnected, Event, JoinFailed, Reconnecting};

/// A URL provider may return this many URLs in a row that the service refuses.
const MAX_REFUSALS: u32 = 3;
/// A longer `Retry-After` is rather a mistake than a wish; it would look like a client that hangs.
pub(super) const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// From the second attempt in a row on.
pub(super) const SHORTEST_PAUSE: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(super) enum Phase {
    New,
    /// A link is being opened; `linked` or `dial_failed` will follow.
    Dialing {
        until: Instant,
    },
    /// A new link; its `connected` message is awaited.
    Opening {
        until: Instant,
    },
    /// A link for recovery; the first frame on it is awaited. The receiver sees whether the link
    /// makes any progress.
    Proving,
    Open {
        since: Instant,
    },
    /// The next attempt comes then. `cause`: why a new connection is needed; `None` if the last one
    /// is being recovered.
    Waiting {
        until: Instant,
        cause: Option<Error>,
    },
    /// Our Close frame is out.
    Closing {
        until: Instant,
    },
    Stopped,
}

impl<W> Session<W> {
    /// Begins the first connection.
    pub(crate) fn start(&mut self, now: Instant) {
        if matches!(self.phase, Phase::New) {
            self.next_attempt(now);
        }
    }

    fn dial_new(&mut self, now: Instant) {
        let until = now + self.config.connect_timeout;
        // The first attempt is the first in a row too.
        self.attempt = self.attempt.max(1);
        self.since = Some(now);
        self.phase = Phase::Dialing { until };
        self.outputs.push_back(Output::Dial(Dial { recover: None, until }));
    }

    /// The dialed link is up (and is the current one now).
    pub(crate) fn linked(&mut self, now: Instant) {
        let Phase::Dialing { until } = self.phase else { return };
        if self.ended.is_some() {
            return self.stop(Error::closed());
        }
        self.expire_all(now);
        self.suspended = false;
        self.unanswered.new_link();
        if self.recovery.is_some() {
            self.phase = Phase::Proving;
            self.outputs.push_back(Output::Ping);
        } else if self.config.simple {
            let nobody = Identity { connection_id: Arc::from(""), user_id: None, token: None };
            self.open(now, nobody);
        } else {
            self.phase = Phase::Opening { until: until.min(now + self.config.step_timeout) };
        }
    }

    /// The service's `connected` message.
    pub(crate) fn connected(&mut self, now: Instant, identity: Identity) {
        if !Bug::AdmitOverdue.is_on() {
            self.expire_all(now);
        }
        match self.phase {
            Phase::Opening { .. } => self.open(now, identity),
            Phase::Proving | Phase::Open { .. } => {
                let same = self
                    .identity
                    .as_ref()
                    .is_some_and(|mine| mine.connection_id == identity.connection_id);
                if same {
                    // After a recovery it may come or not; it may bring a new token.
                    if let (Some(mine), Some(token)) = (&mut self.identity, identity.token) {
                        mine.token = Some(token);
                    }
                } else if self.recovery.is_some() {
                    self.replaced(now, identity);
                } else {
                    self.contradicted(now);
                }
            }
            _ => {}
        }
    }

    /// The service made a new connection where a recovery was asked for. That is as good as one that
    /// we made, if the program wants one.
    fn replaced(&mut self, now: Instant, identity: Identity) {
        let error = Error::new(
            ErrorKind::Disconnected,
            "the service made a new connection instead of recovering the lost one",
        );
        if !self.config.auto_reconnect {
            return self.session_over(now, Loss::of(error));
        }
        self.end_session(Loss::of(error), Fate::Over);
        self.open(now, identity);
    }

    /// A second connection on a link that is up: no service says that, and a peer that repeats it
    /// must not make us start anew each time.
    fn contradicted(&mut self, now: Instant) {
        let error = Error::new(
            ErrorKind::Disconnected,
            "the service announced another connection on a link that was in use",
        );
        self.outputs.push_back(Output::CutLink);
        self.session_over(now, Loss { violation: true, ..Loss::of(error) });
    }

    /// A new connection is usable.
    fn open(&mut self, now: Instant, identity: Identity) {
        let gap_possible = self.was_connected;
        if gap_possible {
            self.counts.reconnects += 1;
        }
        self.was_connected = true;
        let event = Connected {
            connection_id: Arc::clone(&identity.connection_id),
            user_id: identity.user_id.clone(),
            gap_possible,
        };
        self.identity = Some(identity);
        self.tried_recovery = None;
        self.service_message = None;
        self.attempt = 0;
        self.refusals = 0;
        self.phase = Phase::Open { since: now };
        self.counts.connected_since = Some(now);
        self.outputs.push_back(Output::Event(Event::Connected(event)));
        self.rejoin(now);
        self.admit(now);
        self.streams_linked(now);
    }

    fn rejoin(&mut self, now: Instant) {
        self.groups.new_connection(self.config.rejoin);
        let until = now + self.config.call_timeout;
        self.own_until = Some(until);
        let mut joins = Vec::new();
        let mut clashes = Vec::new();
        for (group, joined) in self.groups.to_join() {
            let key = Key::Ack(joined.ack_id);
            if self.calls.contains(key) {
                clashes.push(Arc::clone(group));
                continue;
            }
            let kind = CallKind::Rejoin(Arc::clone(group));
            joins.push(Call::new(key, kind, joined.frame.clone(), until));
        }
        let joined: BTreeSet<&str> = joins
            .iter()
            .filter_map(|join: &Call<W>| join.kind.group())
            .map(|name| &**name)
            .collect();
        self.states.retain(|name| joined.contains(name));
        for call in &joins {
            self.groups.began(&call.kind);
        }
        // Before the program's calls, which may need the membership, unless that would be undone.
        let follows = |call: &Call<W>| {
            call.kind.group().is_some_and(|name| self.groups.joins_behind_leave(name))
        };
        let (behind, first): (Vec<_>, Vec<_>) = joins.into_iter().partition(follows);
        // That leave has ended the state, too.
        let behind = self.with_states(behind, until, false);
        let first = self.with_states(first, until, true);
        self.calls.add_first(first);
        behind.into_iter().for_each(|call| self.calls.add(call));
        for group in clashes {
            let error = Error::invalid(
                "a call of the program uses the ack id under which the group was joined",
            );
            self.groups.forget(&group);
            self.rejoin_failed(group, error);
        }
    }

    fn with_states(&mut self, joins: Vec<Call<W>>, until: Instant, restores: bool) -> Vec<Call<W>> {
        let mut all = Vec::with_capacity(joins.len());
        for join in joins {
            let group = join.kind.group().cloned();
            all.push(join);
            if let Some(group) = group {
                all.extend(self.states_behind_join(&group, until, restores));
            }
        }
        all
    }

    pub(super) fn rejoin_failed(&mut self, group: Arc<str>, error: Error) {
        self.states.left(&group);
        self.outputs.push_back(Output::Event(Event::JoinFailed(JoinFailed { group, error })));
    }

    /// The service announces a disconnect; the Close that follows decides.
    pub(crate) fn service_said(&mut self, message: Option<String>) {
        self.service_message = message;
    }

    /// The current link is gone.
    pub(crate) fn lost(&mut self, now: Instant, loss: Loss) {
        self.expire_all(now);
        self.counts.link_gone();
        if matches!(self.phase, Phase::Proving | Phase::Open { .. }) {
            self.counts.failed(&lost(&loss.error, self.queue_full.as_ref()));
        }
        match self.phase {
            Phase::Opening { .. } => self.attempt_failed(now, not_started(loss.error)),
            Phase::Proving => match fate(&loss) {
                Fate::Recover => self.recovery_failed_once(now, None),
                _ => self.give_up_recovery(now, loss),
            },
            Phase::Open { since } => {
                if now.saturating_duration_since(since) >= self.config.stable_after {
                    self.exponent = 0;
                }
                self.lost_open(now, loss);
            }
            Phase::Closing { .. } => self.stop(Error::closed()),
            _ => {}
        }
    }

    /// Opening the link failed.
    pub(crate) fn dial_failed(&mut self, now: Instant, error: Error) {
        if !matches!(self.phase, Phase::Dialing { .. }) {
            return;
        }
        if self.ended.is_some() {
            return self.stop(Error::closed());
        }
        self.expire_all(now);
        self.counts.failed(&error);
        if self.recovery.is_none() {
            self.attempt_failed(now, error);
        } else if never_retried(&error)
            || Bug::GiveUpOn4xx.is_on() && refusal_status(&error).is_some_and(is_refusal)
        {
            self.end_session(Loss::of(error.clone()), Fate::Over);
            self.stop(error);
        } else {
            self.recovery_dial_failed(now, error);
        }
    }

    pub(super) fn session_over(&mut self, now: Instant, loss: Loss) {
        self.session_over_with(now, loss, None);
    }

    /// Reports the end of the session and goes for a new connection, or stops.
    pub(super) fn session_over_with(
        &mut self,
        now: Instant,
        loss: Loss,
        retry_after: Option<Duration>,
    ) {
        let fate = fate(&loss);
        let cause = loss.error.clone();
        self.end_session(loss, fate);
        if self.config.auto_reconnect {
            self.reconnect(now, cause, retry_after);
        } else {
            self.stop(cause);
        }
    }

    /// Of the connection that is up or was lost last; empty for the simple client.
    pub(super) fn connection_id(&self) -> Arc<str> {
        self.identity.as_ref().map_or_else(|| Arc::from(""), |mine| Arc::clone(&mine.connection_id))
    }

    /// Everything that ends with a session: its identity and what was written on it.
    fn end_session(&mut self, mut loss: Loss, fate: Fate) {
        let connection_id = self.connection_id();
        self.identity = None;
        self.recovery = None;
        self.abandoned.clear();
        loss.error = lost(&loss.error, self.queue_full.as_ref());
        self.streams_over(&loss.error);
        self.counts.link_gone();
        self.counts.connected_since = None;
        self.counts.failed(&loss.error);
        // Groups come back by the rejoin of the new connection. A call of our own that still waits
        // must not time out before it, and none is to blame for a broken rule: its frame was
        // accepted once. A leave is as good as done, since the new connection is in no group.
        for key in self.calls.own_keys() {
            if let Some(own) = self.calls.remove(key) {
                self.groups.ended(&own.kind);
                self.check_release(&own);
                let ack_id = own.key.id();
                self.complete(own.waiter, Ok(Ack { ack_id, duplicate: false }));
            }
        }
        self.groups.connection_over();
        let mut failing = Vec::new();
        let mut again = Vec::new();
        let mut unknown = 0;
        for (_, key) in self.calls.written_in_order() {
            let is_superseded = |call: &&Call<W>| {
                self.groups.is_superseded(call) || self.states.is_superseded(call)
            };
            let call = self.calls.get(key).filter(|call| !is_superseded(call));
            match call.map(|call| &call.kind) {
                _ if fate == Fate::BrokeRule => failing.push((key, broke_rule(&loss))),
                Some(
                    CallKind::Join(_)
                    | CallKind::Leave(_)
                    | CallKind::Subscribe(_)
                    | CallKind::SetState(_)
                    | CallKind::ClearState(_)
                    | CallKind::WatchState(_),
                ) => again.push(key),
                Some(CallKind::Message | CallKind::Event)
                    if self.config.resend_on_new_connection =>
                {
                    again.push(key);
                }
                _ => {
                    unknown += 1;
                    let error = outcome_unknown("the connection was lost for good");
                    failing.push((key, error.with_source(loss.error.clone())));
                }
            }
        }
        self.calls.wait_again(&again);
        self.outputs.push_back(Output::Event(Event::Disconnected(Disconnected {
            connection_id,
            cause: loss.error,
            reason: loss.reason,
            service_message: self.service_message.take(),
            maybe_lost: loss.unsent + unknown,
        })));
        for (key, error) in failing {
            self.fail_call(key, error);
        }
    }

    pub(super) fn fail_call(&mut self, key: Key, error: Error) {
        if let Some(call) = self.calls.remove(key) {
            self.settle(call, Err(error));
        }
    }

    /// An attempt to make a new connection failed.
    fn attempt_failed(&mut self, now: Instant, error: Error) {
        self.counts.failed(&error);
        let fatal = match refusal_status(&error) {
            _ if !self.was_connected && !self.may_try_first_again() => true,
            _ if never_retried(&error) => true,
            Some(status) if is_refusal(status) => {
                self.refusals += 1;
                !self.config.url_provider || self.refusals >= MAX_REFUSALS
            }
            _ => {
                self.refusals = 0;
                false
            }
        };
        if fatal {
            return self.stop(error);
        }
        let retry_after = error.retry_after();
        self.reconnect(now, error, retry_after);
    }

    fn may_try_first_again(&self) -> bool {
        self.config.background && self.config.auto_reconnect
    }

    /// Schedules the next attempt: exponential backoff with full jitter.
    fn reconnect(&mut self, now: Instant, cause: Error, retry_after: Option<Duration>) {
        if self.config.max_reconnect_attempts.is_some_and(|max| self.attempt >= max) {
            return self.stop(cause);
        }
        let ceiling = self
            .config
            .backoff_min
            .saturating_mul(1u32.checked_shl(self.exponent).unwrap_or(u32::MAX))
            .min(self.config.backoff_max);
        let delay = ceiling.mul_f64(self.rng.random_range(0.0..=1.0));
        let delay = delay.max(retry_after.unwrap_or_default().min(MAX_RETRY_AFTER));
        self.attempt += 1;
        self.exponent = (self.exponent + 1).min(31);
        self.phase = Phase::Waiting { until: now + delay, cause: Some(cause.clone()) };
        let attempt = self.attempt;
        let event = Reconnecting { attempt, delay, cause };
        self.outputs.push_back(Output::Event(Event::Reconnecting(event)));
    }

    /// The next instant at which `tick` has something to do.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        let phase = match self.phase {
            Phase::Opening { until } | Phase::Waiting { until, .. } | Phase::Closing { until } => {
                Some(until)
            }
            Phase::New
            | Phase::Dialing { .. }
            | Phase::Proving
            | Phase::Open { .. }
            | Phase::Stopped => None,
        };
        let deadlines =
            [phase, self.calls.next_deadline(), self.next_own_deadline(), self.next_stream_wake()];
        deadlines.into_iter().flatten().min()
    }

    /// Time has passed. May be called at any time; does only what is due.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.expire_all(now);
        self.calls.forget_ended_deadlines();
        self.admit(now);
        self.tick_streams(now);
        match self.phase {
            Phase::Opening { until } if now >= until => {
                self.outputs.push_back(Output::CutLink);
                self.attempt_failed(
                    now,
                    not_started(Error::new(
                        ErrorKind::Timeout,
                        "the service sent no `connected` message within the time limit",
                    )),
                );
            }
            Phase::Waiting { until, .. } if now >= until => self.next_attempt(now),
            Phase::Closing { until } if now >= until => self.stop(Error::closed()),
            _ => {}
        }
    }

    fn next_attempt(&mut self, now: Instant) {
        match &self.recovery {
            _ if self.ended.is_some() => self.stop(Error::closed()),
            Some(recovery) if now >= recovery.window_end => self.window_closed(now),
            Some(_) => self.dial_recover(now),
            None => self.dial_new(now),
        }
    }
}
