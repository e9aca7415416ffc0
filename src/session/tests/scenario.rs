//! A session, a clock that stands still until told, and a log of what the session asked for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::grammar::State;
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Ack, Event, Reply};
use crate::protocol::Frame;
use crate::secret::Secret;
use crate::session::{Call, CallKind, Config, Emit, Identity, Key, Loss, Output, Session};

pub(super) const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(super) const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Longer than any scenario runs, unless it is about deadlines.
pub(super) const LONG: Duration = secs(7_200);

/// Each call's waiter is the number of the call, which is its ack id too.
pub(super) struct Scenario {
    pub(super) session: Session<u64>,
    pub(super) now: Instant,
    base: Instant,
    /// Every scenario checks the order of its events.
    state: State,
    log: Vec<String>,
    pub(super) results: BTreeMap<u64, Result<Ack>>,
    pub(super) replies: BTreeMap<u64, Reply>,
    pub(super) events: Vec<Event>,
}

impl Scenario {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(super) fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::seeded(7, change)
    }

    pub(super) fn seeded(seed: u64, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        change(&mut config);
        let base = Instant::now();
        Self {
            session: Session::new(config, seed),
            now: base,
            base,
            state: State::New,
            log: Vec::new(),
            results: BTreeMap::new(),
            replies: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    /// A scenario that has connected as `c1`, with an empty log.
    pub(super) fn connected() -> Self {
        Self::connected_with(|_| {})
    }

    pub(super) fn connected_with(change: impl FnOnce(&mut Config)) -> Self {
        let mut s = Self::with(change);
        s.start();
        s.linked();
        s.hello("c1", "t1");
        s.take();
        s
    }

    /// What was logged since the last look.
    pub(super) fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    /// The same, without what does not begin with `prefix`.
    pub(super) fn only(&mut self, prefix: &str) -> Vec<String> {
        let mut log = self.take();
        log.retain(|line| line.starts_with(prefix));
        log
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now - self.base
    }

    pub(super) fn result(&self, id: u64) -> &Result<Ack> {
        self.results.get(&id).unwrap_or_else(|| panic!("call {id} has not ended"))
    }

    pub(super) fn error(&self, id: u64) -> &Error {
        self.result(id).as_ref().expect_err("the call should have failed")
    }

    pub(super) fn kind(&self, id: u64) -> ErrorKind {
        self.error(id).kind()
    }

    pub(super) fn pending(&self, id: u64) -> bool {
        !self.results.contains_key(&id) && !self.replies.contains_key(&id)
    }

    pub(super) fn last_event(&self) -> &Event {
        self.events.last().expect("an event")
    }

    // --- the program ---------------------------------------------------------------------------

    /// A publication, with a deadline that no scenario reaches unless it is about deadlines.
    pub(super) fn call(&mut self, id: u64) {
        self.call_for(id, LONG);
    }

    pub(super) fn call_for(&mut self, id: u64, limit: Duration) {
        self.new_call(Key::Ack(id), CallKind::Message, &format!("msg#{id}"), limit);
    }

    pub(super) fn event_for(&mut self, id: u64, limit: Duration) {
        self.new_call(Key::Ack(id), CallKind::Event, &format!("event#{id}"), limit);
    }

    pub(super) fn join(&mut self, id: u64, group: &str) {
        let kind = CallKind::Join(Arc::from(group));
        self.new_call(Key::Ack(id), kind, &format!("join {group}#{id}"), LONG);
    }

    pub(super) fn leave(&mut self, id: u64, group: &str) {
        let kind = CallKind::Leave(Arc::from(group));
        self.new_call(Key::Ack(id), kind, &format!("leave {group}#{id}"), LONG);
    }

    pub(super) fn new_call(&mut self, key: Key, kind: CallKind, text: &str, limit: Duration) {
        let id = key.id();
        let mut call = Call::new(key, kind, frame(text), self.now + limit);
        call.waiter = Some(id);
        self.session.call(self.now, call);
        self.drain();
    }

    /// Fire and forget, as the client does it: the fast way if there is one, else a call. Says
    /// whether it went the fast way.
    pub(super) fn fire(&mut self, id: u64) -> Result<bool, ErrorKind> {
        self.fire_for(id, CallKind::Message, LONG)
    }

    pub(super) fn fire_for(
        &mut self,
        id: u64,
        kind: CallKind,
        limit: Duration,
    ) -> Result<bool, ErrorKind> {
        let frame = frame(&format!("fire#{id}"));
        let call = Call::new(Key::Unacked(id), kind, frame, self.now + limit);
        let waits = self.session.fire(self.now, call).map_err(|e| e.kind())?;
        let sent = waits.is_none();
        if let Some(mut call) = waits {
            call.waiter = Some(id);
            self.session.call(self.now, call);
        }
        self.drain();
        Ok(sent)
    }

    /// The caller gives up. Says whether the call was written; `None` if it had ended before.
    pub(super) fn withdraw(&mut self, id: u64) -> Option<bool> {
        let deadline = self.session.calls.get(Key::Ack(id)).map_or(self.now, |call| call.deadline);
        let pending = self.pending(id);
        self.session.withdraw(self.now, Key::Ack(id), deadline);
        self.drain();
        pending.then(|| self.error(id).may_have_been_delivered())
    }

    pub(super) fn close(&mut self) {
        self.session.close(self.now);
        self.drain();
    }

    // --- the link ------------------------------------------------------------------------------

    pub(super) fn start(&mut self) {
        self.session.start(self.now);
        self.drain();
    }

    pub(super) fn linked(&mut self) {
        self.session.linked(self.now);
        self.drain();
    }

    pub(super) fn dial_fails(&mut self, status: Option<u16>) {
        self.dial_fails_with(match status {
            Some(status) => Error::new(ErrorKind::Upgrade, "refused").with_http_status(status),
            None => Error::new(ErrorKind::Connect, "dialing failed"),
        });
    }

    pub(super) fn dial_fails_with(&mut self, error: Error) {
        self.session.dial_failed(self.now, error);
        self.drain();
    }

    pub(super) fn lose(&mut self, code: Option<u16>) {
        self.lose_with(loss_by(code));
    }

    pub(super) fn lose_with(&mut self, loss: Loss) {
        self.session.lost(self.now, loss);
        self.drain();
    }

    /// The reader ends everything.
    pub(super) fn stop(&mut self) {
        self.session.stop(Error::closed());
        self.drain();
    }

    // --- the service ---------------------------------------------------------------------------

    /// `connected`, as connection `id` with a reconnection token.
    pub(super) fn hello(&mut self, id: &str, token: &str) {
        self.session.connected(self.now, identity(id, Some(token)));
        self.drain();
    }

    pub(super) fn stalled(&mut self) {
        self.session.recovery_stalled(self.now);
        self.drain();
    }

    pub(super) fn prove(&mut self) {
        self.session.proved(self.now);
        self.drain();
    }

    /// The pong, or the end of the wait for it.
    pub(super) fn pong(&mut self, replayed: u64) {
        self.session.recovered(self.now, replayed);
        self.drain();
    }

    pub(super) fn ack(&mut self, id: u64) {
        self.session.ack(self.now, id, true, None);
        self.drain();
    }

    pub(super) fn refuse(&mut self, id: u64, name: &str) {
        self.session.ack(self.now, id, false, Some((name.into(), "because".into())));
        self.drain();
    }

    // --- the time ------------------------------------------------------------------------------

    /// Lets time pass, with a tick at each instant that the session asked for.
    pub(super) fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        let mut ticks = 0;
        while let Some(at) = self.session.next_wake().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.session.tick(self.now);
            self.drain();
            ticks += 1;
            assert!(ticks < 10_000, "the session asks for ticks without end");
        }
        self.now = until;
    }

    /// Lets time pass until the session dials again; says how long that took.
    pub(super) fn until_dial(&mut self) -> Duration {
        let (from, seen) = (self.now, self.log.len());
        while !self.log[seen..].iter().any(|line| line.starts_with("dial")) {
            let at = self.session.next_wake().expect("a next attempt");
            self.now = self.now.max(at);
            self.session.tick(self.now);
            self.drain();
        }
        self.now - from
    }

    // --- ways through ----------------------------------------------------------------------------

    /// The link drops and the session is recovered at once; the log is emptied.
    pub(super) fn recover(&mut self) {
        self.lose(None);
        self.linked();
        self.prove();
        self.pong(0);
        self.take();
    }

    /// The session is over, and the next attempt connects as `id`. The log begins with the dial.
    pub(super) fn renew(&mut self, id: &str) {
        self.lose(Some(1008));
        self.take();
        self.until_dial();
        self.linked();
        self.hello(id, "t");
    }

    pub(super) fn drain(&mut self) {
        while let Some(output) = self.session.output() {
            let line = match output {
                Output::Dial(dial) => match dial.recover {
                    None => "dial new".into(),
                    Some(identity) => {
                        let token = identity.token.expect("a token to recover with");
                        format!("dial recover {} {}", identity.connection_id, token.expose())
                    }
                },
                Output::Send { frame, .. } => format!("send {}", text(&frame)),
                Output::Ping => "ping".into(),
                Output::Released { group, .. } => format!("released {group}"),
                Output::Complete { waiter, result } => {
                    let line = match &result {
                        Ok(Ack { duplicate: true, .. }) => format!("done {waiter} duplicate"),
                        Ok(_) => format!("done {waiter} ok"),
                        Err(e) => format!("done {waiter} {:?}", e.kind()),
                    };
                    let first = self.results.insert(waiter, result).is_none();
                    assert!(first, "call {waiter} was completed twice");
                    line
                }
                Output::Event(event) => {
                    self.state.check(&event);
                    let line = format!("event {}", name(&event));
                    self.events.push(event);
                    line
                }
                Output::Stream { start, emit } => {
                    let what = match emit {
                        Emit::Start => format!("start {}", start.group),
                        Emit::Fragment(frame) | Emit::Probe(frame) => text(&frame),
                        Emit::KeepAlive => "alive".into(),
                        Emit::End => "end".into(),
                        Emit::Abort(error) => {
                            format!("abort {}", error.user_error_code.unwrap_or_default())
                        }
                    };
                    format!("stream {}: {what}", start.stream_id)
                }
                Output::CancelInvocation { id } => format!("cancel {id}"),
                Output::Answer { waiter, reply } => {
                    let payload = reply.payload.as_ref().map(ToString::to_string);
                    assert!(!self.results.contains_key(&waiter), "a second outcome of {waiter}");
                    let line = format!("answer {waiter} {}", payload.unwrap_or_default());
                    assert!(self.replies.insert(waiter, *reply).is_none(), "a second answer");
                    line
                }
                Output::StateLost { group, watch, error } => {
                    let what = if watch { "watch" } else { "state" };
                    format!("{what} lost {group} {:?}", error.kind())
                }
                Output::CloseLink { code } => format!("close {code}"),
                Output::CutLink => "cut".into(),
            };
            self.log.push(line);
        }
    }
}

pub(super) fn frame(text: &str) -> Frame {
    Frame::Text(String::from(text).into())
}

pub(super) fn text(frame: &Frame) -> String {
    String::from_utf8_lossy(frame.as_bytes()).into_owned()
}

pub(super) fn loss() -> Loss {
    loss_by(None)
}

/// By a Close frame, if there is a code.
pub(super) fn loss_by(code: Option<u16>) -> Loss {
    Loss::of(Error::new(ErrorKind::Disconnected, "the link broke").with_close_code(code))
}

pub(super) fn identity(id: &str, token: Option<&str>) -> Identity {
    Identity { connection_id: id.into(), user_id: None, token: token.map(Secret::from) }
}

pub(super) fn name(event: &Event) -> String {
    match event {
        Event::Connected(e) => format!("Connected {}", e.connection_id),
        Event::Recovering(_) => "Recovering".into(),
        Event::Recovered(e) => format!("Recovered {}", e.replayed),
        Event::Disconnected(_) => "Disconnected".into(),
        Event::Reconnecting(e) => format!("Reconnecting {}", e.attempt),
        Event::JoinFailed(e) => format!("JoinFailed {}", e.group),
        Event::Stopped(_) => "Stopped".into(),
        other => panic!("the session has no business with {other:?}"),
    }
}
