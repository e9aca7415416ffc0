//! What stands under the one lock, and the lock.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::super::ping::Pings;
use super::Waiter;
use crate::session::{Session, StateKind};
use crate::transport::{Link, Waker};

#[derive(Debug)]
pub(in crate::client) struct State {
    pub(in crate::client) session: Session<Waiter>,
    /// The current link. Frames are appended to it under the lock, so wire order is session order.
    pub(in crate::client) link: Option<Arc<Link>>,
    /// When the reader wakes at the latest. A caller that needs it earlier wakes it.
    pub(super) reader_wakes: Option<Instant>,
    /// That is the deadline of a call.
    pub(super) wakes_for_call: bool,
    /// Threads that wait for room for a call, and those that wait until no call is left.
    pub(super) room_watchers: usize,
    pub(super) end_watchers: usize,
    /// Threads that wait for a connection.
    pub(super) connect_watchers: usize,
    /// Threads that wait for something of a stream.
    pub(super) stream_watchers: usize,
    /// The size of the smallest call that was refused for want of room, if the program is to be woken
    /// when there is some.
    pub(super) refused: Option<usize>,
    /// The client's state when the program was last woken for one, if it is woken.
    pub(super) shown: (StateKind, u32),
    pub(in crate::client) pings: Pings,
}

impl State {
    /// For the reader: when it must look at the session again. After a call that stays the instant
    /// that it has waited for anyway if nothing is due earlier, or it would forget it with the last
    /// call that ends, and the next call would have to wake it. After anything else, such as the
    /// limit for `connected`, an idle client is not woken for nothing.
    pub(in crate::client) fn note_wake(&mut self, now: Instant) -> Option<Instant> {
        let next = self.session.next_wake();
        let kept = self
            .reader_wakes
            .filter(|at| self.wakes_for_call && *at > now && next.is_none_or(|next| next > *at));
        if kept.is_none() {
            self.reader_wakes = next;
            self.wakes_for_call = self.session.pending() > 0;
        }
        self.reader_wakes
    }

    /// The reader may not have noticed yet that the link has failed. What is sent now waits for the
    /// next one.
    pub(in crate::client) fn note_dead_link(&mut self) {
        if self.link.as_ref().is_some_and(|link| link.is_down()) {
            self.session.suspend();
        }
    }

    /// Whether the reader would wake too late for what the session has been told just now.
    pub(super) fn needs_wake(&mut self) -> bool {
        let Some(next) = self.session.next_wake() else { return false };
        let late = self.reader_wakes.is_none_or(|at| next < at);
        if late {
            self.reader_wakes = Some(next);
            self.wakes_for_call = true;
        }
        late
    }
}

/// Holds the lock.
pub(in crate::client) struct Locked<'a> {
    // Dropped in this order: the poison is there when the reader looks for it.
    state: MutexGuard<'a, State>,
    _wake: WakeOnPanic<'a>,
}

impl<'a> Locked<'a> {
    pub(super) fn new(state: MutexGuard<'a, State>, waker: &'a Waker) -> Self {
        Self { state, _wake: WakeOnPanic(waker) }
    }

    /// Lets go of the lock until there is a notice, at most for that long.
    pub(super) fn wait(self, notice: &Condvar, limit: Duration) -> Self {
        let Self { state, _wake } = self;
        let waited = notice.wait_timeout(state, limit);
        Self { state: waited.unwrap_or_else(PoisonError::into_inner).0, _wake }
    }
}

/// A thread that panics with the lock wakes the reader, which ends the client: nobody else would,
/// and every waiter would wait for its deadline.
struct WakeOnPanic<'a>(&'a Waker);

impl Drop for WakeOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.wake();
        }
    }
}

impl Deref for Locked<'_> {
    type Target = State;
    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Call, Events, Shared};
    use super::*;
    use crate::protocol::{Frame, Protocol};
    use crate::session::{CallKind, Config, Identity, Key};

    #[test]
    fn an_idle_client_is_woken_for_nothing_but_the_deadline_of_its_last_call() {
        let config = Config::default();
        let (shared, _alive) =
            Shared::new(Some(Protocol::Json), config.clone(), Events::unused()).expect("shared");
        let now = Instant::now();
        let mut state = shared.lock();
        state.session.start(now);
        state.session.linked(now);
        assert_eq!(state.note_wake(now), Some(now + config.step_timeout), "`connected` is awaited");
        let identity = Identity { connection_id: "c".into(), user_id: None, token: None };
        state.session.connected(now, identity);
        assert_eq!(state.note_wake(now), None);

        let deadline = now + Duration::from_secs(30);
        let frame = Frame::Text("x".into());
        state.session.call(now, Call::new(Key::Ack(1), CallKind::Message, frame, deadline));
        assert!(state.needs_wake());
        assert_eq!(state.note_wake(now), Some(deadline));
        state.session.ack(now, 1, true, None);
        assert_eq!(state.note_wake(now), Some(deadline), "so the next call need not wake it");
        assert_eq!(state.note_wake(deadline), None);
    }
}
