//! What the session asks for, and how it is done: under the lock what must keep its order, the rest when
//! the lock is free again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::super::group_state::StateLost;
use super::super::ping::{Answer, lost_pong};
use super::super::stats::add;
use super::{Shared, State, Waiter};
use crate::error::{Error, Result};
use crate::message::{Ack, Event, Reply};
use crate::protocol::{self, Frame, Upstream};
use crate::session::{Dial, Output};
use crate::transport::{Link, Op};

/// What is left to do when the lock is free again.
#[derive(Debug, Default)]
pub(in crate::client) struct After {
    completions: Vec<(Waiter, Result<Ack>)>,
    /// Of invocations.
    answers: Vec<(Waiter, Box<Reply>)>,
    events: Vec<Event>,
    /// Groups whose leave behind their last subscription has ended, under this ack id.
    released: Vec<(Arc<str>, u64)>,
    /// States in groups that a new connection has not taken.
    states_lost: Vec<StateLost>,
    /// Pings whose pong will not come, and what is to be said about that.
    unanswered: Vec<Answer>,
    no_pong: Option<Error>,
    dial: Option<Dial>,
    /// Something was appended to this link, so somebody must write.
    flush: Option<Arc<Link>>,
    cut: Option<Arc<Link>>,
    /// The reader must look at the session again.
    wake: bool,
}

impl After {
    pub(super) fn is_empty(&self) -> bool {
        self.completions.is_empty()
            && self.answers.is_empty()
            && self.unanswered.is_empty()
            && self.flush.is_none()
            && self.cut.is_none()
            && !self.wake
    }

    pub(in crate::client) fn cuts_link(&self) -> bool {
        self.cut.is_some()
    }

    pub(in crate::client) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    pub(in crate::client) fn take_released(&mut self) -> Vec<(Arc<str>, u64)> {
        std::mem::take(&mut self.released)
    }

    pub(in crate::client) fn take_states_lost(&mut self) -> Vec<StateLost> {
        std::mem::take(&mut self.states_lost)
    }

    pub(in crate::client) fn take_dial(&mut self) -> Option<Dial> {
        self.dial.take()
    }
}

impl Shared {
    pub(super) fn apply_for_caller(&self, state: &mut State) -> After {
        let after = self.apply(state);
        After { wake: state.needs_wake(), ..after }
    }

    /// Takes the session's outputs; appends to the link what is to be sent.
    pub(in crate::client) fn apply(&self, state: &mut State) -> After {
        let mut after = After::default();
        while let Some(output) = state.session.output() {
            match output {
                Output::Send { frame, unwaited, patience } => {
                    let Some(link) = &state.link else { continue };
                    self.append(link, &frame, unwaited, patience);
                    after.flush.get_or_insert_with(|| Arc::clone(link));
                }
                Output::Ping => {
                    let State { link: Some(link), pings, .. } = &mut *state else { continue };
                    self.append_ping(pings, link, Instant::now(), None);
                    after.flush.get_or_insert_with(|| Arc::clone(link));
                }
                Output::CancelInvocation { id } => {
                    let Some(link) = &state.link else { continue };
                    let invocation_id = id.to_string().into();
                    self.append_own(link, &Upstream::CancelInvocation { invocation_id });
                    after.flush.get_or_insert_with(|| Arc::clone(link));
                }
                Output::Stream { start, emit } => {
                    let Some(link) = &state.link else { continue };
                    self.append_stream(link, &start, &emit);
                    after.flush.get_or_insert_with(|| Arc::clone(link));
                }
                Output::CloseLink { code } => {
                    let Some(link) = &state.link else { continue };
                    link.append_close(code, "");
                    after.flush.get_or_insert_with(|| Arc::clone(link));
                }
                // Asked for twice, the first one has it.
                Output::CutLink => after.cut = after.cut.take().or_else(|| state.link.take()),
                Output::Complete { waiter, result } => after.completions.push((waiter, result)),
                Output::Answer { waiter, reply } => after.answers.push((waiter, reply)),
                Output::Event(event) => after.events.push(event),
                Output::Released { group, ack_id } => after.released.push((group, ack_id)),
                Output::StateLost { group, watch, error } => {
                    after.states_lost.push(StateLost { group, watch, error });
                }
                Output::Dial(dial) => after.dial = Some(dial),
            }
        }
        if self.hook.is_some() {
            let shown = (state.session.state_kind(), state.session.attempts());
            if std::mem::replace(&mut state.shown, shown) != shown {
                self.request_wake();
            }
        }
        if state.refused.is_some_and(|size| state.session.has_room(size)) {
            state.refused = None;
            self.request_wake();
        }
        let ended = state.session.ended();
        if state.link.is_none() || ended.is_some() {
            after.unanswered = state.pings.link_gone();
            after.no_pong = (!after.unanswered.is_empty()).then(|| lost_pong(ended));
        }
        let pending = state.session.pending();
        // An open stream waits for answers too.
        self.calls.store(pending + state.session.streams(), Ordering::Relaxed);
        // Not in vain, because that is a system call.
        if state.room_watchers > 0 && state.session.has_room(0)
            || state.end_watchers > 0 && state.session.pending_of_program() == 0
            || state.connect_watchers > 0
                && (state.session.is_open() || state.session.ended().is_some())
            || state.stream_watchers > 0 && state.session.take_stream_news()
        {
            self.room.notify_all();
        }
        after
    }

    pub(super) fn append(
        &self,
        link: &Link,
        frame: &Frame,
        unwaited: bool,
        patience: Option<Instant>,
    ) {
        let bytes = frame.as_bytes();
        add(&self.counters.messages_out, 1);
        add(&self.counters.bytes_out, bytes.len() as u64);
        link.append_call(op_of(frame), bytes, unwaited, patience);
    }

    /// Appends a frame that no call is behind: a sequence ack, or the subprotocol's `ping` (a
    /// WebSocket ping for the simple client). The reader writes it before it waits.
    pub(in crate::client) fn append_own(&self, link: &Link, message: &Upstream<'_>) {
        match self.encode(message) {
            Ok(Some(frame)) => link.append(op_of(&frame), frame.as_bytes()),
            _ => link.append(Op::Ping, &[]),
        }
        link.write_later();
    }

    /// `None` for the simple client, which has no protocol messages.
    pub(in crate::client) fn encode(&self, message: &Upstream<'_>) -> Result<Option<Frame>> {
        self.protocol.map(|p| protocol::encode_upstream(p, message)).transpose()
    }

    /// What a caller does after the lock: tell the others, write, wake the reader.
    pub(in crate::client) fn finish(&self, mut after: After, deadline: Instant) {
        debug_assert!(
            after.events.is_empty() && after.released.is_empty() && after.dial.is_none(),
            "only the reader may cause events and dials: {after:?}"
        );
        self.tell(&mut after);
        let hook_is_due = self.hook.as_ref().is_some_and(|hook| hook.is_due());
        // Before the write, which may take long.
        if after.wake || hook_is_due || self.holds.load(Ordering::Relaxed) {
            self.waker.wake();
        }
        if let Some(link) = after.flush.take() {
            self.flush(&link, deadline);
        }
    }

    /// Writes, on a thread of the program. A link that fails here is down, which the next call sees.
    pub(in crate::client) fn flush(&self, link: &Link, deadline: Instant) {
        link.flush(deadline);
        if self.note_link_room(link) {
            self.waker.wake();
        }
    }

    pub(in crate::client) fn tell(&self, after: &mut After) {
        let any = !(after.completions.is_empty() && after.answers.is_empty());
        for (waiter, result) in after.completions.drain(..) {
            waiter.tell(result);
        }
        for (waiter, reply) in after.answers.drain(..) {
            waiter.answer(*reply);
        }
        if let (true, Some(hook)) = (any, &self.hook) {
            hook.outcome();
        }
        if let Some(error) = after.no_pong.take() {
            after.unanswered.drain(..).for_each(|answer| answer.set(Err(error.clone())));
        }
        if let Some(link) = after.cut.take() {
            link.finish();
            link.shutdown();
        }
    }

    /// The program is to be woken. The reader does it, at the end of its round.
    pub(super) fn request_wake(&self) {
        if let Some(hook) = &self.hook {
            hook.request();
        }
    }

    /// What the reader does after the lock. It writes before it next blocks, all in one.
    pub(in crate::client) fn finish_on_reader(&self, after: &mut After) {
        self.tell(after);
        if let Some(link) = after.flush.take() {
            link.write_later();
        }
    }
}

fn op_of(frame: &Frame) -> Op {
    match frame {
        Frame::Text(_) => Op::Text,
        Frame::Binary(_) => Op::Binary,
    }
}
