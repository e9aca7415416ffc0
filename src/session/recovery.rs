//! Recovery: the link was dropped, the service keeps the session for a while.
//!
//! The first try comes at once (but not within a second of the last one, of whatever loss), then
//! about one a second, each with a limit, until the end of the
//! window. Our first frame on the new link is a ping; the first inbound frame other than Close
//! proves that the session is ours again, then calls are sent again, and the pong ends the count of
//! replayed messages. Whether a `connected` comes or not makes no difference. The receiver counts
//! the messages, waits for the pong, and sees whether the link makes any progress.

use std::time::{Duration, Instant};

use rand::RngExt;

use super::bug::Bug;
use super::errors::{self, outcome_unknown};
use super::lifecycle::{MAX_RETRY_AFTER, Phase, SHORTEST_PAUSE};
use super::loss::{Fate, Loss, fate};
use super::{Dial, Output, Session};
use crate::error::{Error, ErrorKind};
use crate::message::{Event, Recovered, Recovering};

/// A recovery under way.
#[derive(Debug)]
pub(super) struct Recovery {
    /// The service may forget the session then.
    pub(super) window_end: Instant,
    last_try: Instant,
    /// Not before then (`Retry-After`), even if the window closes first.
    not_before: Option<Instant>,
    /// What will be reported if it fails.
    loss: Loss,
    /// Why the last try found no link, if it did not.
    refused: Option<Error>,
}

impl<W> Session<W> {
    pub(super) fn dial_recover(&mut self, now: Instant) {
        let Some(recovery) = &mut self.recovery else { return };
        recovery.last_try = now;
        self.tried_recovery = Some(now);
        let until = recovery.window_end.min(now + self.config.recovery_attempt);
        self.phase = Phase::Dialing { until };
        self.outputs.push_back(Output::Dial(Dial { recover: self.identity.clone(), until }));
    }

    /// The connection is lost and may come back.
    #[cfg(test)]
    pub(crate) fn is_recovering(&self) -> bool {
        self.recovery.is_some()
    }

    /// A recovery link is up and nothing has come on it yet.
    pub(crate) fn is_proving(&self) -> bool {
        matches!(self.phase, Phase::Proving)
    }

    /// The first frame on a recovery link came, and it is no Close: the session is ours again.
    pub(crate) fn proved(&mut self, now: Instant) {
        // On a link that is dead by now nothing can be sent: that is a failed try, as `lost` will say.
        if !self.is_proving() || self.suspended {
            return;
        }
        if !Bug::AdmitOverdue.is_on() {
            self.expire(now);
        }
        self.phase = Phase::Open { since: now };
        self.service_message = None;
        if self.calls.any_own() {
            self.own_until = Some(now + self.config.call_timeout);
        }
        let (again, stale) = self.calls.resend(now);
        for sent in again {
            self.send(now, sent);
        }
        let cause = self.recovery.as_ref().map(|r| r.loss.error.clone());
        for key in stale {
            let mut error = outcome_unknown("too many calls followed it to send it again safely");
            if let Some(cause) = &cause {
                error = error.with_source(cause.clone());
            }
            // Its ack may still come on the recovered session.
            if let Some(call) = self.calls.remove(key) {
                self.check_rejoin(&call, &error);
                self.groups.gave_up(&call);
                let outcome = Err(error);
                self.counts.ended(&call, &outcome);
                self.complete(call.waiter, outcome);
            }
        }
        self.cancel_abandoned();
        self.join_wanted(now);
        self.admit(now);
        self.streams_linked(now);
    }

    /// All that the service sends again has come, or will not be waited for any more.
    pub(crate) fn recovered(&mut self, now: Instant, replayed: u64) {
        self.expire_all(now);
        if matches!(self.phase, Phase::Open { .. }) && self.recovery.take().is_some() {
            self.counts.recoveries += 1;
            self.outputs.push_back(Output::Event(Event::Recovered(Recovered { replayed })));
        }
        self.admit(now);
    }

    /// A recovery link makes no progress: a failed try.
    pub(crate) fn recovery_stalled(&mut self, now: Instant) {
        self.expire_all(now);
        if self.is_proving() {
            self.outputs.push_back(Output::CutLink);
            self.recovery_failed_once(now, None);
        }
    }

    pub(super) fn lost_open(&mut self, now: Instant, loss: Loss) {
        let recoverable = self.config.recoverable
            && self.identity.as_ref().is_some_and(|identity| identity.token.is_some());
        if !recoverable || fate(&loss) != Fate::Recover {
            return self.session_over(now, loss);
        }
        let connection_id = self.connection_id();
        // Remembered too: the queue may have room again when the recovery fails, and is to blame all the
        // same.
        let cause = errors::lost(&loss.error, self.queue_full.as_ref());
        self.outputs.push_back(Output::Event(Event::Recovering(Recovering {
            connection_id,
            cause: cause.clone(),
            unsent: loss.unsent,
        })));
        self.invocations_lost(&cause);
        self.streams_lost();
        // What `Recovering` has reported is not reported again.
        let loss = Loss { error: cause, unsent: 0, ..loss };
        let window_end = now + self.config.recovery_window;
        // A service that accepts and drops is not dialed without a pause, whether `Recovered` was
        // reached in between or not.
        let interval = self.config.recovery_interval;
        let just_tried =
            self.tried_recovery.filter(|at| now.saturating_duration_since(*at) < interval);
        let unfinished = self.recovery.take().map(|recovery| recovery.last_try);
        self.since = Some(now);
        let tried = unfinished.or(just_tried);
        let last_try = tried.unwrap_or(now);
        self.recovery =
            Some(Recovery { window_end, last_try, not_before: None, loss, refused: None });
        if tried.is_some() {
            self.recovery_failed_once(now, None);
        } else {
            self.dial_recover(now);
        }
    }

    /// Tries again about a second after the last try, or gives up at the end of the window.
    pub(super) fn recovery_failed_once(&mut self, now: Instant, retry_after: Option<Duration>) {
        let jitter = self.rng.random_range(0.8..1.2);
        let interval = self.config.recovery_interval.mul_f64(jitter).max(SHORTEST_PAUSE);
        let Some(recovery) = &mut self.recovery else { return };
        recovery.not_before = retry_after.map(|wait| now + wait.min(MAX_RETRY_AFTER));
        let next = (recovery.last_try + interval).max(recovery.not_before.unwrap_or(now));
        let until = next.max(now).min(recovery.window_end);
        self.phase = Phase::Waiting { until, cause: None };
        if now >= recovery.window_end {
            self.window_closed(now);
        }
    }

    /// Opening a link for the recovery failed. Also after a 4xx that is one failed try: only a Close
    /// frame says that the service has given the session up.
    pub(super) fn recovery_dial_failed(&mut self, now: Instant, error: Error) {
        let retry_after = error.retry_after();
        if let Some(recovery) = &mut self.recovery {
            recovery.refused = Some(error);
        }
        self.recovery_failed_once(now, retry_after);
    }

    pub(super) fn window_closed(&mut self, now: Instant) {
        let Some(Recovery { loss, refused, not_before, .. }) = self.recovery.take() else { return };
        let retry_after = not_before.map(|at| at.saturating_duration_since(now));
        let loss = match refused {
            Some(error) => Loss { error: not_recovered(&error, loss.error.clone()), ..loss },
            None => loss,
        };
        self.session_over_with(now, loss, retry_after);
    }

    /// A Close frame refuses the recovery: what is reported is how the link was lost at first, with
    /// the refusal's code if there is one.
    pub(super) fn give_up_recovery(&mut self, now: Instant, refusal: Loss) {
        let Some(Recovery { loss: first, .. }) = self.recovery.take() else { return };
        let code = refusal.error.close_code().or(first.error.close_code());
        let error = not_recovered(&refusal.error, first.error.clone()).with_close_code(code);
        let told = if refusal.error.close_code().is_some() { refusal } else { first };
        self.session_over(now, Loss { error, unsent: 0, ..told });
    }
}

/// `loss`: how the connection was lost at first.
fn not_recovered(why: &Error, loss: Error) -> Error {
    let text = format!("the lost connection could not be recovered: {why}");
    Error::new(ErrorKind::Disconnected, text).with_close_code(loss.close_code()).with_source(loss)
}
