//! The reader thread: a pump. It waits, reads once, feeds what came to the receiver and the session,
//! and carries out what they ask for; it decides nothing itself.
//!
//! [`Reader::wait`] is the only function that blocks, whatever there is to wait for: data, a caller,
//! the end of a dial, a timer, a stop. (The first connection of a `connect` that blocks is dialed on this
//! thread, since nobody can call yet.) After every wait the timers have their turn, so nothing that arrives, or does not
//! arrive, hides one of them. All that is decided in a round goes by one reading of the clock.

mod report;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crossbeam_channel::Sender;

use super::dialer::{Dials, Opened};
use super::pending::Waiter;
use super::queues::Queues;
use super::shared::{After, Shared, State, internal};
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Event, Payload, ServerMessage};
use crate::protocol::{Decoder, Downstream, Frame, Upstream};
use crate::session::{Dial, KeepAliveConfig, Loss, Receiver, Session};
use crate::transport::{self, Incoming, LinkReader, Lost};
use report::Report;

type Sess = Session<Waiter>;

pub(super) struct Reader {
    shared: Arc<Shared>,
    dials: Dials,
    queue: Queues,
    receiver: Receiver,
    /// `None`: the simple client.
    decoder: Option<Decoder>,
    /// The current link's read half.
    half: Option<Box<LinkReader>>,
    /// The time of this round.
    now: Instant,
    /// When the session's `tick` is due, as of the last look at it.
    session_wake: Option<Instant>,
    /// Whether the session knows that the event queue is behind.
    behind: bool,
    report: Report,
    /// Disconnects `Shared::done` when everything above is dropped: keep this field last.
    _alive: Sender<()>,
}

/// What ended a wait.
enum Woken {
    Stop,
    Dialed(Result<Opened>),
    /// The socket has data, or its end.
    Readable,
    /// A timer, or nothing that matters any more.
    Nothing,
}

impl Reader {
    pub(super) fn new(
        shared: Arc<Shared>,
        dials: Dials,
        keep_alive: KeepAliveConfig,
        queue: Queues,
        ready: Option<Sender<Result<()>>>,
        alive: Sender<()>,
    ) -> Self {
        let now = Instant::now();
        let label = Arc::clone(dials.label());
        Self {
            decoder: shared.protocol.map(Decoder::new),
            shared,
            dials,
            queue,
            receiver: Receiver::new(keep_alive, now),
            half: None,
            now,
            session_wake: None,
            behind: false,
            report: Report::new(label, ready),
            _alive: alive,
        }
    }

    /// The whole life of the thread.
    pub(super) fn run(mut self: Box<Self>) {
        if catch_unwind(AssertUnwindSafe(|| self.live())).is_err() {
            self.step(|session, _| session.stop(internal()));
        }
        // For the last event.
        self.wake_program();
        if let Some(hook) = &self.shared.hook {
            hook.end();
        }
        // A dial may be under way, if the end came from inside.
        self.shared.stop.stop();
        self.dials.end();
    }

    fn live(&mut self) {
        self.step(Sess::start);
        while !self.report.stopped() {
            let woken = self.wait();
            self.now = Instant::now();
            self.queue.round(self.now);
            match woken {
                Woken::Stop => self.step(|session, _| session.stop(Error::closed())),
                Woken::Dialed(outcome) => self.dialed(outcome),
                Woken::Readable => self.read(),
                Woken::Nothing => {}
            }
            self.keep_time();
            self.wake_program();
        }
    }

    /// Calls the closure of `on_wake`, if there is one and something for it.
    fn wake_program(&mut self) {
        if let Some(hook) = &self.shared.hook
            && let Err(panicked) = hook.run()
        {
            self.step(|session, _| session.stop(panicked));
        }
    }

    /// Blocks until there is something to do.
    fn wait(&mut self) -> Woken {
        let timers = [self.session_wake, self.receiver.next_wake(), self.queue.next_wake()];
        let until = timers.into_iter().flatten().min();
        let read = self.receiver.may_read();
        let ready = match &self.half {
            Some(half) => half.wait(read, until),
            None => transport::wait(None, &self.shared.waker, until),
        };
        let ready = match ready {
            Ok(ready) => ready,
            Err(e) => return self.wait_failed(e),
        };
        if ready.woken {
            if self.shared.stop.is_stopped() {
                return Woken::Stop;
            }
            self.look_at_session();
        }
        if let Some(outcome) = self.dials.outcome() {
            return Woken::Dialed(outcome);
        }
        if ready.ended {
            self.receiver.stream_ended();
        }
        // A link that a writer found dead is read to its end: a Close may explain it. (Not every
        // system reports the shutdown of a socket as its end.)
        let down = ready.woken && self.half.as_ref().is_some_and(|half| half.link().is_down());
        match ready.read || ready.ended || down {
            true => Woken::Readable,
            false => Woken::Nothing,
        }
    }

    fn wait_failed(&mut self, e: std::io::Error) -> Woken {
        let error = Error::new(ErrorKind::Internal, "waiting for the connection failed");
        let error = error.with_source(e);
        self.step(|session, _| session.stop(error));
        Woken::Nothing
    }

    /// A caller has woken this thread: a deadline may have come, or a lock been poisoned.
    fn look_at_session(&mut self) {
        // The end of a subscription must reach its queue although nothing else comes.
        self.queue.take_changes();
        let poisoned = self.shared.is_poisoned();
        let ended = self.step(|session, _| {
            if poisoned {
                session.stop(internal());
            }
            session.ended().is_some()
        });
        if ended {
            self.receiver.closing();
        }
        self.receiver.look_now(self.now);
    }

    /// Does what is due, and lets leave what this round has appended.
    fn keep_time(&mut self) {
        self.note_behind();
        if self.session_wake.is_some_and(|at| at <= self.now) {
            self.step(Sess::tick);
        }
        if self.receiver.next_wake().is_some_and(|at| at <= self.now) {
            if let Some(at) = self.half.as_ref().and_then(|half| half.link().moved()) {
                self.receiver.moved(at);
            }
            let shared = &self.shared;
            self.receiver.tick(self.now, &mut self.queue, |heard| {
                shared.lock().session.silence_allowed_until(heard)
            });
            self.carry_out();
        }
        if self.queue.next_wake().is_some_and(|at| at <= self.now) {
            self.queue.tick(self.receiver.is_full());
        }
        self.report.counters(&self.shared, &self.receiver, &self.queue);
        if let Some(half) = &self.half
            && half.link().rest().is_some()
        {
            half.link().flush_now();
            self.shared.note_link_room(half.link());
        }
    }

    fn note_behind(&mut self) {
        self.shared.holds.store(self.receiver.is_full(), Ordering::Relaxed);
        if self.receiver.is_full() {
            let asked = self.shared.has_asked_for_events();
            self.report.queue_full(self.now, &self.queue.unread(), asked);
        }
        if self.receiver.is_behind() != self.behind {
            self.behind = !self.behind;
            let unread = self.behind.then(|| self.queue.unread());
            self.shared.lock().session.queue_full(unread);
        }
    }

    // --- the session ---------------------------------------------------------------------------

    /// Runs something on the session and does all that it asks for.
    fn step<R>(&mut self, act: impl FnOnce(&mut Sess, Instant) -> R) -> R {
        self.step_with(|state, now| act(&mut state.session, now))
    }

    /// The same, where the current link changes too.
    fn step_with<R>(&mut self, act: impl FnOnce(&mut State, Instant) -> R) -> R {
        let mut state = self.shared.lock();
        let result = act(&mut state, self.now);
        let after = self.shared.apply(&mut state);
        self.session_wake = state.note_wake(self.now);
        drop(state);
        self.finish(after);
        result
    }

    fn finish(&mut self, mut after: After) {
        if after.cuts_link() {
            self.half = None;
            self.receiver.link_gone();
        }
        // Events first: who sees a call's outcome can then find in the queue what caused it.
        for event in after.take_events() {
            self.report.event(&event);
            self.shared.watches.lifecycle(&event);
            self.receiver.event(self.now, event, &mut self.queue);
        }
        for (group, ack_id) in after.take_released() {
            self.queue.released(&group, ack_id);
        }
        for lost in after.take_states_lost() {
            self.report.state_lost(&lost);
            self.shared.watches.lost(&lost);
        }
        if let Some(plan) = after.take_dial() {
            self.dial(plan);
        }
        self.shared.finish_on_reader(&mut after);
    }

    /// What the receiver asks for.
    fn carry_out(&mut self) {
        if self.receiver.has_inputs() {
            let mut state = self.shared.lock();
            for input in self.receiver.take_inputs() {
                state.session.input(self.now, input);
            }
            let after = self.shared.apply(&mut state);
            self.session_wake = state.note_wake(self.now);
            drop(state);
            self.finish(after);
        }
        if let Some(loss) = self.receiver.take_end() {
            return self.lost(loss);
        }
        let Some(half) = &self.half else { return };
        let link = half.link();
        if let Some(sequence_id) = self.receiver.take_sequence_ack(self.now, link.has_room()) {
            self.shared.append_own(link, &Upstream::SequenceAck { sequence_id });
        }
        if self.receiver.take_ping() {
            self.shared.keep_alive_ping(link);
        }
    }

    // --- the link ------------------------------------------------------------------------------

    fn dial(&mut self, plan: Dial) {
        if self.report.is_ready() {
            if let Err(error) = self.dials.start(plan, &self.shared) {
                self.step(|session, now| session.dial_failed(now, error));
            }
            return;
        }
        // Nobody can call yet, so nothing needs this thread.
        let outcome = self.dials.open(&plan, &self.shared);
        self.now = Instant::now();
        self.dialed(outcome);
    }

    fn dialed(&mut self, outcome: Result<Opened>) {
        match outcome {
            Ok(opened) => self.linked(opened),
            Err(_) if self.shared.stop.is_stopped() => {
                self.step(|session, _| session.stop(Error::closed()));
            }
            Err(error) => {
                self.report.dial_failed(&error);
                self.step(|session, now| session.dial_failed(now, error));
            }
        }
    }

    fn linked(&mut self, opened: Opened) {
        let link = Arc::clone(opened.half.link());
        self.half = Some(opened.half);
        let recovers = self.step_with(|state, now| {
            state.link = Some(link);
            state.session.linked(now);
            state.session.is_proving()
        });
        let stretch = self.shared.config.recovery_attempt;
        self.receiver.linked(self.now, recovers.then_some((opened.until, stretch)));
    }

    /// Reads the socket once, and takes in what that has brought.
    fn read(&mut self) {
        let Some(mut half) = self.half.take() else { return };
        half.read_once();
        loop {
            let incoming = half.next();
            let bytes = half.take_bytes();
            if bytes > 0 {
                self.receiver.bytes(self.now, bytes);
            }
            let urgent = match incoming {
                Ok(None) => break,
                Ok(Some(Incoming::Text(text))) => self.frame(Frame::Text(text)),
                Ok(Some(Incoming::Binary(bytes))) => self.frame(Frame::Binary(bytes)),
                Ok(Some(Incoming::Ping)) => self.receiver.control_frame(self.now),
                Ok(Some(Incoming::Pong(payload))) => self.pong(&payload),
                Ok(Some(Incoming::Close { code, reason })) => {
                    self.half = Some(half);
                    self.hand_over();
                    return self.closed_by_peer(code, reason);
                }
                Err(lost) => {
                    self.half = Some(half);
                    self.hand_over();
                    return self.broken(lost);
                }
            };
            if urgent {
                self.half = Some(half);
                self.hand_over();
                match self.half.take() {
                    Some(same) => half = same,
                    // The session has let go of the link.
                    None => return,
                }
            }
        }
        self.half = Some(half);
        self.hand_over();
    }

    fn hand_over(&mut self) {
        // Who takes a message finds it counted, and what came before it.
        self.report.counters(&self.shared, &self.receiver, &self.queue);
        self.receiver.hand_over(self.now, &mut self.queue);
        self.carry_out();
    }

    /// True: hand over before the next one.
    fn frame(&mut self, frame: Frame) -> bool {
        let size = frame.as_bytes().len();
        self.report.bytes_in += size as u64;
        let Some(decoder) = &mut self.decoder else {
            let payload = match frame {
                Frame::Text(text) => Payload::Text(text),
                Frame::Binary(bytes) => Payload::Binary(bytes),
            };
            let message = Event::ServerMessage(ServerMessage::new(payload));
            return self.receiver.raw(message, size);
        };
        let mut decoded = decoder.decode(&frame);
        let mut urgent = false;
        match &mut decoded {
            Ok(Downstream::Pong) => self.shared.pong(None),
            // What comes behind it may be for a subscription again, so the session is told first.
            Ok(Downstream::Ack { ack_id, .. }) => urgent = self.queue.awaits_leave(*ack_id),
            Ok(Downstream::GroupStateSnapshot { group, items, sequence_id }) => {
                let items = std::mem::take(items);
                self.shared.watches.report(self.now, *sequence_id, group, true, items);
            }
            Ok(Downstream::GroupStateUpdate { group, items, sequence_id }) => {
                let items = std::mem::take(items);
                self.shared.watches.report(self.now, *sequence_id, group, false, items);
            }
            Err(malformed) => self.report.unreadable(self.now, &malformed.why),
            Ok(Downstream::Unknown { .. }) => {
                self.report.unreadable(self.now, "its kind is unknown");
            }
            Ok(_) => {}
        }
        self.receiver.frame(self.now, decoded, size) | urgent
    }

    fn pong(&mut self, payload: &[u8]) -> bool {
        if self.decoder.is_none() {
            self.shared.pong(Some(payload));
        }
        self.receiver.control_frame(self.now)
    }

    fn closed_by_peer(&mut self, code: Option<u16>, reason: String) {
        let shown = code.map_or("no code".to_owned(), |code| format!("code {code}"));
        let mut text = format!("the service closed the connection ({shown})");
        if !reason.is_empty() {
            text.extend([": ", &reason]);
        }
        let error = Error::new(ErrorKind::Disconnected, text).with_close_code(code);
        self.lost(Loss { reason, ..Loss::of(error) });
    }

    fn broken(&mut self, lost: Lost) {
        if let (Some(code), Some(half)) = (lost.violation, &self.half) {
            half.link().append_close(code, "");
        }
        self.lost(Loss { violation: lost.violation.is_some(), ..Loss::of(lost.error) });
    }

    fn lost(&mut self, mut loss: Loss) {
        // Nothing more is handed to the link before its last bytes leave; so each call and frame
        // either counts as unsent here or waits for the next link.
        self.shared.lock().session.suspend();
        let Some(half) = self.half.take() else { return };
        let link = half.link();
        link.finish();
        link.shutdown();
        loss.unsent = link.unsent();
        self.receiver.link_gone();
        self.note_behind();
        self.step_with(|state, now| {
            state.link = None;
            state.session.lost(now, loss);
        });
    }
}
