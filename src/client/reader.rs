//! The reader thread: THE loop of a client.
//!
//! It dials, reads, hands over, keeps time and stops; it alone puts events into the queue and
//! decides, by the session, what follows a loss. It never waits for a caller, and for a full queue
//! only as the queue's policy says.

mod frames;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, select};

use super::dialer::Dialer;
use super::pending::Waiter;
use super::queue::Queue;
use super::shared::{After, Shared, internal};
use crate::error::{Error, ErrorKind, Result};
use crate::message::Event;
use crate::protocol::{Decoder, Frame, Upstream};
use crate::session::{Beat, Dial, Inbox, KeepAlive, Loss, Session};
use crate::transport::{Incoming, Link, LinkReader};

/// The keep-alive of a client: how often it asks for a sign of life, and when it gives up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Beats {
    pub(super) interval: Option<Duration>,
    pub(super) dead_after: Duration,
}

pub(super) struct Reader {
    shared: Arc<Shared>,
    dialer: Dialer,
    beat: Beats,
    /// The time as of the last frame; each reading of the clock costs as much as a lock.
    now: Instant,
    queue: Queue,
    /// Told once: the first connection is up, or has failed.
    ready: Option<Sender<Result<()>>>,
    decoder: Option<Decoder>,
    inbox: Inbox,
    keep_alive: KeepAlive,
    /// When the session's `tick` is due, as of the last look at it.
    session_wake: Option<Instant>,
    /// On a recovery link: the first frame must come by then, and later the pong.
    proof_until: Option<Instant>,
    pong_until: Option<Instant>,
    next_dial: Option<Dial>,
    /// The session has let go of the link (a time limit passed, or it stopped).
    link_cut: bool,
    /// Messages that came in one read and are not in the queue yet, with their sequence ids and
    /// sizes.
    gathered: Vec<(Event, Option<u64>, usize)>,
    /// Acks that came in one read and are not told yet. Never both: what came first goes first.
    acks: Vec<Answer>,
    /// When it was last said that the queue is full.
    warned: Option<Instant>,
    /// The current link's read half; taken out while it is read.
    read_half: Option<LinkReader>,
    /// Disconnects `Shared::done` when everything above is dropped: keep this field last.
    _alive: Sender<()>,
}

type Sess = Session<Waiter>;

/// An ack: its id, whether the call succeeded, and the service's name and message for the error.
type Answer = (u64, bool, Option<(String, String)>);

/// At most so many messages are gathered before they are handed over, however much is buffered.
const GATHER_MOST: usize = 256;
/// Of acks fewer: their callers have the next message ready, and the service waits for it.
const ACKS_MOST: usize = 32;

impl Reader {
    pub(super) fn new(
        shared: Arc<Shared>,
        dialer: Dialer,
        beat: Beats,
        queue: Queue,
        ready: Sender<Result<()>>,
        alive: Sender<()>,
    ) -> Self {
        let keep_alive = KeepAlive::new(beat.interval, beat.dead_after, Instant::now());
        Self {
            decoder: shared.protocol.map(Decoder::new),
            shared,
            queue,
            ready: Some(ready),
            dialer,
            beat,
            now: Instant::now(),
            inbox: Inbox::default(),
            keep_alive,
            session_wake: None,
            proof_until: None,
            pong_until: None,
            next_dial: None,
            link_cut: false,
            gathered: Vec::new(),
            acks: Vec::new(),
            warned: None,
            read_half: None,
            _alive: alive,
        }
    }

    /// The whole life of the thread.
    pub(super) fn run(mut self: Box<Self>) {
        if catch_unwind(AssertUnwindSafe(|| self.live())).is_err() {
            self.step(|session, _| session.stop(internal()));
        }
    }

    fn live(&mut self) {
        self.step(Sess::start);
        loop {
            if let Some(dial) = self.next_dial.take() {
                self.dial(&dial);
            } else if let Some(read_half) = self.read_half.take() {
                self.read(read_half);
            } else if self.shared.lock().session.is_stopped() {
                return;
            } else {
                self.sleep();
            }
            if self.shared.is_poisoned() {
                self.step(|session, _| session.stop(internal()));
            }
        }
    }

    /// Runs something on the session and does all that it asks for.
    fn step<R>(&mut self, act: impl FnOnce(&mut Sess, Instant) -> R) -> R {
        let now = Instant::now();
        let mut state = self.shared.lock();
        let result = act(&mut state.session, now);
        let after = self.shared.apply(&mut state);
        self.session_wake = state.session.next_wake();
        drop(state);
        self.finish(after);
        result
    }

    fn finish(&mut self, mut after: After) {
        self.next_dial = after.dial.take().or(self.next_dial.take());
        self.link_cut |= after.cuts_link();
        // Events first: who sees a call's outcome can then find in the queue what caused it.
        for event in std::mem::take(&mut after.events) {
            self.event(event);
        }
        self.shared.finish_on_reader(&mut after);
    }

    fn event(&mut self, event: Event) {
        match &event {
            Event::Connected(connected) => {
                log::info!("connected as `{}`", connected.connection_id);
                self.inbox.reset();
                self.tell_ready(Ok(()));
            }
            Event::Stopped(stopped) => {
                match stopped.cause.is_closed() {
                    true => log::info!("stopped"),
                    false => log::error!("stopped: {}", told(&stopped.cause)),
                }
                self.tell_ready(Err(stopped.cause.clone()));
            }
            Event::Recovering(e) => log::warn!("link lost, recovering: {}", told(&e.cause)),
            Event::Recovered(e) => {
                log::info!("recovered; {} messages replayed", e.replayed);
                self.inbox.take_replayed();
            }
            Event::Disconnected(e) => log::warn!("disconnected: {}", told(&e.cause)),
            Event::Reconnecting(e) => {
                log::info!("attempt {} in {:?}: {}", e.attempt, e.delay, told(&e.cause));
            }
            Event::RejoinFailed(e) => {
                log::warn!("group `{}` not joined again: {}", e.group, told(&e.error));
            }
            _ => {}
        }
        self.queue.push_event(event);
    }

    fn tell_ready(&mut self, outcome: Result<()>) {
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(outcome);
        }
    }

    /// Nothing to read: waits for the next attempt, or for the stop.
    fn sleep(&mut self) {
        // Without a wake-up there is nothing to wait for but a close that is on its way.
        let until = self.session_wake.unwrap_or_else(|| Instant::now() + Duration::from_secs(60));
        // A call that is started meanwhile may have an earlier deadline.
        self.shared.reader_waits.store(true, Ordering::SeqCst);
        self.session_wake = self.shared.lock().session.next_wake();
        let until = self.session_wake.map_or(until, |at| at.min(until));
        select! {
            recv(self.shared.stop.receiver()) -> _ => {}
            recv(self.shared.nudged()) -> _ => {}
            default(until.saturating_duration_since(Instant::now())) => {}
        }
        self.shared.reader_waits.store(false, Ordering::SeqCst);
        if self.shared.stop.is_stopped() {
            self.step(|session, _| session.stop(Error::closed()));
        } else {
            self.tick();
        }
    }

    fn tick(&mut self) {
        self.step(|session, now| session.tick(now));
    }

    // --- dialing -------------------------------------------------------------------------------

    fn dial(&mut self, plan: &Dial) {
        match self.dialer.open(plan, &self.shared.stop) {
            Ok((link, read_half)) => self.linked(link, read_half, plan.until),
            Err(_) if self.shared.stop.is_stopped() => {
                self.step(|session, _| session.stop(Error::closed()));
            }
            Err(error) => {
                log::debug!("connecting failed: {}", told(&error));
                self.step(|session, now| session.dial_failed(now, error));
            }
        }
    }

    fn linked(&mut self, link: Arc<Link>, read_half: LinkReader, until: Instant) {
        let now = Instant::now();
        self.now = now;
        self.keep_alive = KeepAlive::new(self.beat.interval, self.beat.dead_after, now);
        self.shared.forget_ping();
        self.read_half = Some(read_half);
        self.link_cut = false;
        let mut state = self.shared.lock();
        state.link = Some(link);
        state.session.linked(now);
        self.pong_until = None;
        self.proof_until = state.session.is_proving().then_some(until);
        if self.proof_until.is_some() {
            self.inbox.count_replayed();
        } else {
            // What is still to be acknowledged belongs to the session that is over.
            self.inbox.reset();
        }
        let after = self.shared.apply(&mut state);
        self.session_wake = state.session.next_wake();
        drop(state);
        self.finish(after);
    }

    // --- reading -------------------------------------------------------------------------------

    /// Reads the current link until it is lost or given up.
    ///
    /// Messages that have arrived together are handed over together, before the next read of the
    /// socket or the next frame of another kind: that wakes a consumer once for many. Acks likewise.
    fn read(&mut self, mut half: LinkReader) {
        loop {
            let first = self.is_handed_over();
            if first && let Err(e) = half.wake_at(self.next_wake(), self.now) {
                return self.lost(Loss::of(disconnected("the socket failed", e)));
            }
            let incoming = half.next(first);
            if first {
                self.now = Instant::now();
                if half.heard() || !matches!(incoming, Ok(Incoming::TimedOut)) {
                    self.keep_alive.heard(self.now);
                }
            }
            match incoming {
                Ok(Incoming::Text(text)) => self.frame(&Frame::Text(text)),
                Ok(Incoming::Binary(bytes)) => self.frame(&Frame::Binary(bytes)),
                other => {
                    self.hand_over();
                    match other {
                        Ok(Incoming::Pong) if self.decoder.is_none() => self.note_pong(),
                        Ok(Incoming::Ping | Incoming::Pong) => self.prove(),
                        Ok(Incoming::Close { code, reason }) => {
                            return self.closed_by_peer(code, reason);
                        }
                        Ok(_) => {}
                        Err(lost) => return self.broken(lost),
                    }
                }
            }
            if self.gathered.len() >= GATHER_MOST || self.acks.len() >= ACKS_MOST {
                self.hand_over();
            }
            if self.is_handed_over() && (self.keep_time() || self.link_cut) {
                return;
            }
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        let recovery = self.proof_until.or(self.pong_until);
        [self.session_wake, self.inbox.next_wake(), self.keep_alive.next_wake(), recovery]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due. True if the link is dead.
    fn keep_time(&mut self) -> bool {
        let now = self.now;
        if self.session_wake.is_some_and(|at| at <= now) {
            self.tick();
        }
        if self.proof_until.take_if(|at| *at <= now).is_some() {
            self.step(|session, now| session.recovery_stalled(now));
        }
        if self.pong_until.take_if(|at| *at <= now).is_some() {
            let replayed = self.inbox.take_replayed();
            self.step(|session, now| session.recovered(now, replayed));
        }
        if let Some(id) = self.inbox.due(now) {
            self.acknowledge(id);
        }
        if self.keep_alive.next_wake().is_some_and(|at| at <= now)
            && let Some(at) = self.link().and_then(|link| link.moved())
        {
            self.keep_alive.moved(at);
        }
        match self.keep_alive.due(now) {
            None => {}
            Some(Beat::Ping) => {
                self.shared.note_ping();
                if let Some(link) = self.link() {
                    self.shared.append_ping(&link);
                    link.defer_flush();
                }
                // The session's own deadlines may have changed while we slept.
                self.session_wake = self.shared.lock().session.next_wake();
            }
            Some(Beat::Dead) => {
                let error = Error::new(
                    ErrorKind::Disconnected,
                    "the peer gave no sign of life within the keep-alive limit",
                );
                if let Some(link) = self.link() {
                    link.fail(error.clone());
                }
                self.lost(Loss::of(error));
                return true;
            }
        }
        false
    }

    fn link(&self) -> Option<Arc<Link>> {
        self.shared.lock().link.clone()
    }

    fn acknowledge(&self, sequence_id: u64) {
        let frame = self.shared.encode(&Upstream::SequenceAck { sequence_id });
        let (Some(link), Ok(Some(frame))) = (self.link(), frame) else { return };
        let op = match frame {
            Frame::Text(_) => crate::transport::Op::Text,
            Frame::Binary(_) => crate::transport::Op::Binary,
        };
        link.append(op, frame.as_bytes());
        // At once: what the service still holds as unacknowledged counts against its limit.
        link.flush(Instant::now());
    }

    fn closed_by_peer(&mut self, code: Option<u16>, reason: String) {
        let shown = code.map_or("no code".to_owned(), |code| format!("code {code}"));
        let mut text = format!("the service closed the connection ({shown})");
        if !reason.is_empty() {
            text.extend([": ", &reason]);
        }
        let error = Error::new(ErrorKind::Disconnected, text).with_close_code(code);
        self.lost(Loss { close_code: code, reason, ..Loss::of(error) });
    }

    fn broken(&mut self, lost: crate::transport::Lost) {
        if let (Some(code), Some(link)) = (lost.violation, self.link()) {
            link.append_close(code, "");
            link.flush(Instant::now());
        }
        let violation = lost.violation.is_some();
        self.lost(Loss { violation, ..Loss::of(lost.error) });
    }

    fn lost(&mut self, mut loss: Loss) {
        let mut state = self.shared.lock();
        let link = state.link.take();
        loss.unsent = link.as_ref().map_or(0, |link| link.unsent());
        state.session.lost(Instant::now(), loss);
        let after = self.shared.apply(&mut state);
        self.session_wake = state.session.next_wake();
        drop(state);
        if let Some(link) = link {
            link.finish();
            link.shutdown();
        }
        self.finish(after);
    }
}

/// An error with its causes, for a log. What a URL provider of the program says may hold a token,
/// so that is left out.
fn told(error: &Error) -> String {
    match error.kind() {
        ErrorKind::UrlProvider => error.to_string(),
        _ => format!("{error:#}"),
    }
}

fn disconnected(what: &'static str, e: std::io::Error) -> Error {
    Error::new(ErrorKind::Disconnected, what).with_source(e)
}
