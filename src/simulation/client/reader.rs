//! What the reader thread does, as in `client::reader`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Client, Dialing, READ};
use crate::error::{Error, ErrorKind};
use crate::message::Event;
use crate::protocol::{Downstream, Upstream};
use crate::session::{Dial, Loss, Session};
use crate::simulation::checker::Checker;
use crate::simulation::network::{Incoming, Link, Up};
use crate::simulation::schedule::DialFate;

/// How `transport::Link` answers a Close without a code.
const NO_CODE_ANSWER: Option<u16> = Some(1001);

/// In one instant; more is a client that spins.
const MOST_ROUNDS: usize = 10_000;

impl Client {
    pub(in crate::simulation) fn start(&mut self, now: Duration, check: &mut Checker) {
        self.step(now, check, Session::start);
    }

    fn step<R>(
        &mut self,
        now: Duration,
        check: &mut Checker,
        act: impl FnOnce(&mut Session<usize>, Instant) -> R,
    ) -> R {
        let at = self.at(now);
        let result = act(&mut self.session, at);
        self.stepped(now, check);
        result
    }

    fn stepped(&mut self, now: Duration, check: &mut Checker) {
        let after = self.apply(now, check);
        self.reader_wakes = self.session.next_wake();
        self.session_wake = self.reader_wakes;
        for event in after.events {
            self.note(&event);
            self.receiver.event(self.at(now), event, &mut self.queue);
        }
        if let Some(dial) = after.dial {
            self.dial(now, dial);
        }
        for (token, result) in after.completions {
            self.completed(now, token, &result, check);
        }
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::Connected(e) => self.known = Some(Arc::clone(&e.connection_id)),
            Event::Disconnected(_) => self.over.extend(self.known.take()),
            Event::Stopped(_) => self.stopped = true,
            _ => {}
        }
    }

    fn dial(&mut self, now: Duration, dial: Dial) {
        let until = self.since_base(dial.until);
        let fate = self.fates.pop_front();
        self.trouble += u64::from(fate.is_some());
        self.redirected |= matches!(fate, Some(DialFate::Refused { status: 300..=399, .. }));
        let soon = now + self.latency * 4 + Duration::from_millis(1);
        let (at, fate) = match fate {
            Some(DialFate::Hangs) => (until.max(now), fate),
            _ if soon > until => (until.max(now), Some(DialFate::Hangs)),
            _ => (soon, fate),
        };
        self.dialing = Some(Dialing { dial, at, fate });
    }

    pub(in crate::simulation) fn dial_failed(
        &mut self,
        now: Duration,
        error: Error,
        check: &mut Checker,
    ) {
        self.step(now, check, |session, at| session.dial_failed(at, error));
        self.keep_time(now, check);
    }

    pub(in crate::simulation) fn linked(
        &mut self,
        now: Duration,
        mut link: Link,
        until: Instant,
        check: &mut Checker,
    ) {
        check.new_link(self.index);
        link.unproved = true;
        self.link = Some(link);
        let recovers = self.step(now, check, |session, at| {
            session.linked(at);
            session.is_proving()
        });
        if let Some(link) = &mut self.link {
            link.unproved = recovers;
        }
        self.receiver.linked(self.at(now), recovers.then_some((until, self.attempt)));
        self.keep_time(now, check);
    }

    /// All that the reader has to do now.
    pub(in crate::simulation) fn run(&mut self, now: Duration, check: &mut Checker) {
        if now < self.stalled_until || self.stopped {
            return;
        }
        for _ in 0..MOST_ROUNDS {
            if !self.round(now, check) {
                return;
            }
        }
        check.fail("the reader spins");
    }

    fn round(&mut self, now: Duration, check: &mut Checker) -> bool {
        let at = self.at(now);
        let mut any =
            [self.session_wake, self.receiver.next_wake()].into_iter().flatten().any(|t| t <= at);
        if std::mem::take(&mut self.woken) {
            any = true;
            if self.stop {
                self.step(now, check, |session, _| session.stop(Error::closed()));
            } else if self.step(now, check, |session, _| session.ended().is_some()) {
                self.receiver.closing();
            }
        }
        if self.link.as_ref().is_some_and(|link| link.stream_has_ended(now)) {
            self.receiver.stream_ended();
        }
        if self.receiver.may_read() && self.link.as_ref().is_some_and(|link| link.is_readable(now))
        {
            any = true;
            self.read(now, check);
        }
        if any && !self.stopped {
            self.keep_time(now, check);
        }
        any && !self.stopped
    }

    fn keep_time(&mut self, now: Duration, check: &mut Checker) {
        let at = self.at(now);
        self.note_behind();
        if self.session_wake.is_some_and(|t| t <= at) {
            self.step(now, check, Session::tick);
        }
        if self.receiver.next_wake().is_some_and(|t| t <= at) {
            if let Some(moved) = self.link.as_ref().and_then(|link| link.moved) {
                self.receiver.moved(self.at(moved));
            }
            let session = &self.session;
            self.receiver.tick(at, &mut self.queue, |heard| session.silence_allowed_until(heard));
            self.carry_out(now, check);
        }
        if let Some(link) = &mut self.link {
            link.flush(now);
        }
    }

    fn note_behind(&mut self) {
        if self.receiver.is_behind() != self.behind {
            self.behind = !self.behind;
            self.session.queue_full(self.behind.then(|| self.queue.unread()));
        }
    }

    fn carry_out(&mut self, now: Duration, check: &mut Checker) {
        let at = self.at(now);
        if self.receiver.has_inputs() {
            for input in self.receiver.take_inputs() {
                self.session.input(at, input);
            }
            self.stepped(now, check);
        }
        if let Some(loss) = self.receiver.take_end() {
            return self.lost(now, loss, check);
        }
        let Some(link) = &self.link else { return };
        let unproved = link.unproved;
        if let Some(sequence_id) = self.receiver.take_sequence_ack(at, link.has_room(now)) {
            if unproved {
                check.fail("a sequence ack on a recovery link that is not proved");
            }
            self.append_own(now, &Upstream::SequenceAck { sequence_id });
        }
        if self.receiver.take_ping() {
            self.append_own(now, &Upstream::Ping);
        }
    }

    fn read(&mut self, now: Duration, check: &mut Checker) {
        let at = self.at(now);
        let mut budget = READ;
        while let Some(incoming) = self.link.as_mut().and_then(|link| link.next(now)) {
            let urgent = match incoming {
                Incoming::Piece(n) => {
                    self.receiver.bytes(at, n);
                    budget = budget.saturating_sub(n);
                    false
                }
                Incoming::Frame(frame, n) => {
                    self.receiver.bytes(at, n);
                    budget = budget.saturating_sub(n);
                    self.frames += 1;
                    if let Some(link) = &mut self.link {
                        link.unproved = false;
                    }
                    let decoded = self.decoder.decode(&frame);
                    let urgent = match &decoded {
                        Ok(Downstream::Ack { ack_id, .. }) => self.queue.awaits_leave(*ack_id),
                        _ => false,
                    };
                    self.receiver.frame(at, decoded, frame.as_bytes().len()) | urgent
                }
                Incoming::Close(code) => {
                    if let Some(link) = &mut self.link {
                        link.append(now, Up::Close(code.or(NO_CODE_ANSWER)), false);
                    }
                    self.hand_over(now, check);
                    let error = Error::new(ErrorKind::Disconnected, "the service closed");
                    return self.lost(now, Loss::of(error.with_close_code(code)), check);
                }
                Incoming::End => {
                    self.hand_over(now, check);
                    let error = Error::new(ErrorKind::Disconnected, "the connection ended");
                    return self.lost(now, Loss::of(error), check);
                }
            };
            if urgent {
                self.hand_over(now, check);
            }
            if budget == 0 {
                break;
            }
        }
        self.hand_over(now, check);
    }

    fn hand_over(&mut self, now: Duration, check: &mut Checker) {
        self.receiver.hand_over(self.at(now), &mut self.queue);
        self.carry_out(now, check);
    }

    fn lost(&mut self, now: Duration, mut loss: Loss, check: &mut Checker) {
        self.session.suspend();
        let Some(mut link) = self.link.take() else { return };
        link.flush(now);
        loss.unsent = link.unsent();
        link.finish(now);
        self.old.push(link);
        self.receiver.link_gone();
        self.note_behind();
        self.step(now, check, |session, at| session.lost(at, loss));
    }
}
