//! What callers wait for besides the outcome of a call: room for it, the connection, the end of all
//! calls.
//!
//! Who waits for the session is counted in its state, so that nobody is notified in vain.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{After, Call, LONGEST, Locked, Shared, Waiter, internal, may_block};
use crate::error::{Error, ErrorKind, Result};
use crate::session::{self, Key, Session};
use crate::transport::Link;

impl Shared {
    /// Runs something on the session once it has room for another call of this size, waiting for
    /// that at most until the deadline, or not at all.
    pub(in crate::client) fn with_place<R>(
        &self,
        mut now: Instant,
        deadline: Instant,
        size: usize,
        wait: bool,
        act: impl FnOnce(&mut Session<Waiter>, Instant) -> R,
    ) -> Result<(R, After)> {
        if wait {
            may_block()?;
        }
        loop {
            let mut state = self.lock();
            if self.is_poisoned() {
                return Err(internal());
            }
            state.note_dead_link();
            state.session.make_room(now);
            if state.session.has_room(size) || state.session.ended().is_some() {
                let result = act(&mut state.session, now);
                return Ok((result, self.apply_for_caller(&mut state)));
            }
            let left = deadline.saturating_duration_since(now);
            let gives_up = !wait || left.is_zero();
            let refusal = gives_up.then(|| state.session.no_room(wait));
            let after = self.apply_for_caller(&mut state);
            if !wait && self.hook.is_some() {
                state.refused = Some(state.refused.map_or(size, |other| other.min(size)));
            }
            if refusal.is_none() && after.is_empty() {
                self.wait_for_room(state, left);
            } else {
                drop(state);
                self.finish(after, now);
            }
            if let Some(refusal) = refusal {
                return Err(refusal);
            }
            now = Instant::now();
        }
    }

    fn wait_for_room(&self, mut state: Locked<'_>, limit: Duration) {
        state.room_watchers += 1;
        let mut state = state.wait(&self.room, limit);
        state.room_watchers -= 1;
    }

    /// Waits until every call has its outcome; returns how many have none at the deadline.
    fn wait_for_outcomes(&self, deadline: Instant) -> usize {
        let mut state = self.lock();
        loop {
            let pending = state.session.pending_of_program();
            let left = deadline.saturating_duration_since(Instant::now());
            if pending == 0 || left.is_zero() || self.is_poisoned() {
                return pending;
            }
            state.end_watchers += 1;
            state = state.wait(&self.room, left);
            state.end_watchers -= 1;
        }
    }

    /// See [`Client::wait_connected`](crate::Client::wait_connected).
    pub(in crate::client) fn wait_connected(&self, limit: Duration) -> Result<()> {
        may_block()?;
        let deadline = Instant::now().checked_add(limit);
        let mut state = self.lock();
        loop {
            if let Some(cause) = state.session.ended() {
                return Err(session::ended_error(cause, false));
            }
            if self.is_poisoned() {
                return Err(internal());
            }
            if state.session.is_open() {
                return Ok(());
            }
            let left = deadline.map_or(LONGEST, |at| at.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                let text = "the client is not connected within the limit of `wait_connected`";
                return Err(Error::new(ErrorKind::Timeout, text));
            }
            state.connect_watchers += 1;
            state = state.wait(&self.room, left);
            state.connect_watchers -= 1;
        }
    }

    /// See [`Client::drain`](crate::Client::drain).
    pub(in crate::client) fn drain(&self, limit: Duration) -> Result<()> {
        may_block()?;
        let now = Instant::now();
        let deadline = now.checked_add(limit).unwrap_or(now + LONGEST);
        let pending = self.wait_for_outcomes(deadline);
        if pending > 0 {
            let calls = if pending == 1 { "1 call has" } else { &format!("{pending} calls have") };
            let text = format!("{calls} no outcome yet within the limit of `drain`");
            return Err(Error::new(ErrorKind::Timeout, text).maybe_delivered(true));
        }
        let Some(link) = self.lock().link.clone() else { return Ok(()) };
        let drained = link.drain(deadline);
        if self.note_link_room(&link) {
            self.waker.wake();
        }
        if drained {
            return Ok(());
        }
        if let Some(cause) = link.failure() {
            let text = "the connection was lost before all that was sent was written";
            let error = Error::new(ErrorKind::Disconnected, text).with_source(cause);
            return Err(error.maybe_delivered(true));
        }
        let text = "not everything that was sent is written within the limit of `drain`";
        Err(Error::new(ErrorKind::Timeout, text).maybe_delivered(true))
    }

    /// See [`PendingAck::cancel`](crate::PendingAck::cancel).
    pub(in crate::client) fn cancel(&self, key: Key, deadline: Instant) -> bool {
        let now = Instant::now();
        let (cancelled, after) = self.step(|session| session.cancel(now, key, deadline));
        self.finish(after, now);
        cancelled
    }

    /// Sends a frame that nobody waits for, if that needs no waiting: the connection is up, and its
    /// out-buffer has room.
    pub(in crate::client) fn try_fire(&self, now: Instant, call: Call) -> Result<()> {
        let mut state = self.lock();
        if self.is_poisoned() {
            return Err(internal());
        }
        state.note_dead_link();
        // Noted before the look: who makes room afterwards sees it.
        let refused_before = self.send_refused.swap(true, Ordering::SeqCst);
        let has_room = state.link.as_ref().is_none_or(|link| link.has_room());
        if !has_room && state.session.ended().is_none() {
            let full = "the connection takes no more data at the moment; nothing was sent";
            return Err(state.session.explained(Error::new(ErrorKind::WouldBlock, full)));
        }
        self.send_refused.store(false, Ordering::SeqCst);
        if refused_before {
            // There is room for the one that was refused, too.
            self.request_wake();
        }
        let rest = state.session.fire(now, call);
        let after = self.apply_for_caller(&mut state);
        drop(state);
        self.finish(after, now);
        match rest? {
            None => Ok(()),
            Some(_) => Err(Error::new(
                ErrorKind::WouldBlock,
                "there is no connection at the moment; nothing was sent",
            )),
        }
    }

    /// After a write: there may be room again for a frame that `try_fire` has refused. True: the
    /// reader is to be woken for that.
    pub(in crate::client) fn note_link_room(&self, link: &Link) -> bool {
        let due = self.send_refused.load(Ordering::SeqCst)
            && link.has_room()
            && self.send_refused.swap(false, Ordering::SeqCst);
        if due {
            self.request_wake();
        }
        due && self.hook.is_some()
    }

    /// Runs something on the session once the link's out-buffer has room. `now`: the caller has
    /// just read the clock, and each reading costs as much as the lock.
    pub(in crate::client) fn with_room<R>(
        &self,
        mut now: Instant,
        deadline: Instant,
        act: impl FnOnce(&mut Session<Waiter>, Instant) -> R,
    ) -> Result<(R, After)> {
        may_block()?;
        loop {
            let mut state = self.lock();
            if self.is_poisoned() {
                return Err(internal());
            }
            state.note_dead_link();
            if let Some(link) =
                state.link.as_ref().filter(|link| !link.has_room() && !link.is_down())
            {
                let link = Arc::clone(link);
                drop(state);
                if let Err(no_room) = link.wait_for_room(deadline) {
                    return Err(self.lock().session.explained(no_room));
                }
                now = Instant::now();
                continue;
            }
            state.session.make_room(now);
            let result = act(&mut state.session, now);
            return Ok((result, self.apply_for_caller(&mut state)));
        }
    }
}
