//! The promises, held against what happens.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::client::READ;
use super::schedule::{ClientSetup, What};
use crate::emulator::virtual_service::VirtualService;
use crate::error::Result;
use crate::message::{Ack, Event, Payload};
use crate::protocol::{Frame, Upstream, decode_upstream};
use crate::session::tests::grammar::State;
use crate::session::{HOLD_BYTES, HOLD_MESSAGES};

/// The bytes of the smallest message, at least.
const LEAST_FRAME: usize = 20;

/// A call of a program, from its start to its outcome.
struct Record {
    client: usize,
    what: What,
    ack_id: Option<u64>,
    deadline: Duration,
    /// Kept until the outcome, because its address names the call.
    frame: Option<Frame>,
    outcome: Option<Outcome>,
    /// On which of the client's connections it was sent last.
    era: usize,
    /// Somebody received its message.
    seen: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    MaybeDelivered,
    NotDelivered,
}

/// What one client has been told.
struct View {
    setup: ClientSetup,
    life: State,
    connections: Vec<Arc<str>>,
    /// The last call that was sent on the present link.
    last_sent: Option<usize>,
    /// As the consumer sees it.
    connected: bool,
    connection: Option<Arc<str>>,
    /// Messages of this connection that came to the event queue, or were reported as dropped there.
    received: u64,
    lagged: u64,
    last_id: Option<u64>,
    /// X each sender's each connection. (What a connection left behind may be
    /// carried out after what the next one sent.)
    senders: BTreeMap<(Option<usize>, usize, usize), u64>,
    /// Calls by the numbers of their messages, from 1.
    numbers: Vec<usize>,
    /// The last join or leave of each group.
    memberships: BTreeMap<u8, usize>,
    rejoins_failed: HashSet<String>,
}

pub(super) struct Checker {
    pub(super) violation: Option<String>,
    records: Vec<Record>,
    by_frame: HashMap<usize, usize>,
    views: Vec<View>,
    pub(super) losses: u64,
    /// Bytes of the calls that have no outcome, and the most that there were.
    open_bytes: usize,
    most_open_bytes: usize,
    /// Outcomes that are not yet held against the hub.
    fresh: Vec<usize>,
}

impl Checker {
    pub(super) fn new(clients: &[ClientSetup]) -> Self {
        let view = |setup: &ClientSetup| View {
            setup: setup.clone(),
            life: State::New,
            connections: Vec::new(),
            last_sent: None,
            connected: false,
            connection: None,
            received: 0,
            lagged: 0,
            last_id: None,
            senders: BTreeMap::new(),
            numbers: Vec::new(),
            memberships: BTreeMap::new(),
            rejoins_failed: HashSet::new(),
        };
        Self {
            violation: None,
            records: Vec::new(),
            by_frame: HashMap::new(),
            views: clients.iter().map(view).collect(),
            losses: 0,
            open_bytes: 0,
            most_open_bytes: 0,
            fresh: Vec::new(),
        }
    }

    /// The first violation stays.
    pub(super) fn fail(&mut self, what: impl Into<String>) {
        self.violation.get_or_insert(what.into());
    }

    // --- calls ---------------------------------------------------------------------------------

    /// The number of the client's next message.
    pub(super) fn next_number(&self, client: usize) -> usize {
        self.views[client].numbers.len() + 1
    }

    pub(super) fn called(
        &mut self,
        client: usize,
        what: What,
        ack_id: Option<u64>,
        deadline: Duration,
        frame: &Frame,
    ) -> usize {
        let token = self.records.len();
        let view = &mut self.views[client];
        match what {
            What::Send { .. } | What::Fire { .. } => view.numbers.push(token),
            What::Join(group) | What::Leave(group) | What::Subscribe(group) => {
                view.memberships.insert(group, token);
            }
            What::Event { .. } => {}
        }
        self.by_frame.insert(address(frame), token);
        self.open_bytes += frame.as_bytes().len();
        self.most_open_bytes = self.most_open_bytes.max(self.open_bytes);
        let frame = Some(frame.clone());
        let record =
            Record { client, what, ack_id, deadline, frame, outcome: None, era: 0, seen: false };
        self.records.push(record);
        token
    }

    /// The client leaves a group by itself, and nobody hears of the outcome.
    pub(super) fn leaves(&mut self, client: usize, group: &str) {
        self.views[client].memberships.retain(|known, _| group_name(*known) != group);
    }

    pub(super) fn new_link(&mut self, client: usize) {
        self.views[client].last_sent = None;
    }

    pub(super) fn new_connection(&mut self, client: usize, id: &str) {
        self.views[client].connections.push(id.into());
    }

    /// The session appends a frame to the link.
    pub(super) fn sent(&mut self, now: Duration, client: usize, frame: &Frame, unwaited: bool) {
        let Some(&token) = self.by_frame.get(&address(frame)) else {
            // Only a rejoin outlives its call. The others are for subscriptions.
            let decoded = decode_upstream(self.views[client].setup.protocol, frame);
            let own =
                matches!(&decoded, Ok(Upstream::JoinGroup { .. } | Upstream::LeaveGroup { .. }));
            if !own {
                self.fail(format!("client {client}: a call that has ended was sent"));
            }
            return;
        };
        let record = &self.records[token];
        let fires = record.ack_id.is_none();
        let is_join = matches!(record.what, What::Join(_) | What::Subscribe(_));
        if now >= record.deadline && !is_join {
            self.fail(format!("call {token} was sent after its deadline"));
        }
        if fires != unwaited {
            self.fail(format!("call {token}: waited for, or not?"));
        }
        let view = &mut self.views[client];
        self.records[token].era = view.connections.len();
        if !is_join {
            if view.last_sent.is_some_and(|last| last >= token) {
                self.violation.get_or_insert(format!("call {token} was sent out of order"));
            }
            view.last_sent = Some(token);
        }
    }

    pub(super) fn completed(&mut self, now: Duration, token: usize, result: &Result<Ack>) {
        let record = &mut self.records[token];
        let outcome = match result {
            Ok(_) => Outcome::Done,
            Err(error) if error.may_have_been_delivered() => Outcome::MaybeDelivered,
            Err(_) => Outcome::NotDelivered,
        };
        if let Some(before) = record.outcome.replace(outcome) {
            self.fail(format!("call {token} ended twice: {before:?}, {outcome:?}"));
            return;
        }
        if let Some(frame) = record.frame.take() {
            self.open_bytes -= frame.as_bytes().len();
            self.by_frame.remove(&address(&frame));
        }
        if record.seen && outcome == Outcome::NotDelivered {
            self.fail(format!("call {token} counts as not delivered, but was received"));
        } else if outcome != Outcome::Done && now > record.deadline + Duration::from_secs(30) {
            self.fail(format!("call {token} ended {now:?}, long after its deadline"));
        }
        self.fresh.push(token);
    }

    fn executions(&self, service: &VirtualService, token: usize) -> Option<u32> {
        let record = &self.records[token];
        let ack_id = record.ack_id?;
        let ids = &self.views[record.client].connections;
        Some(ids.iter().map(|id| service.executions(id, ack_id)).sum())
    }

    /// New outcomes against what the hub has done.
    pub(super) fn judge(&mut self, service: &VirtualService) {
        for token in std::mem::take(&mut self.fresh) {
            self.judge_one(service, token);
        }
    }

    fn judge_one(&mut self, service: &VirtualService, token: usize) {
        let Some(executions) = self.executions(service, token) else { return };
        let record = &self.records[token];
        // These may run once on each connection.
        let again = self.views[record.client].setup.resend
            || matches!(record.what, What::Join(_) | What::Leave(_) | What::Subscribe(_));
        let outcome = record.outcome;
        let wrong = match outcome {
            Some(Outcome::Done) => executions == 0 || executions > 1 && !again,
            Some(Outcome::NotDelivered) => executions > 0,
            Some(Outcome::MaybeDelivered) | None => executions > 1 && !again,
        };
        if wrong {
            self.fail(format!(
                "call {token} ({:?}) ended as {outcome:?} and was executed {executions} times",
                self.records[token].what
            ));
        }
    }

    // --- what a consumer receives --------------------------------------------------------------

    pub(super) fn received(&mut self, client: usize, event: &Event) {
        match event {
            Event::GroupMessage(m) => self.main_message(client, m.sequence_id, &m.payload),
            Event::ServerMessage(m) => self.main_message(client, m.sequence_id, &m.payload),
            Event::Lagged(n) => self.views[client].lagged += n,
            other => self.lifecycle(client, other),
        }
    }

    fn main_message(&mut self, client: usize, id: Option<u64>, payload: &Payload) {
        let view = &mut self.views[client];
        if !view.connected {
            self.violation.get_or_insert(format!("client {client}: a message without connection"));
            return;
        }
        view.received += 1;
        if id.is_some() && id <= view.last_id {
            let last = view.last_id;
            self.fail(format!("client {client}: message {id:?} after {last:?}"));
            return;
        }
        view.last_id = id;
        self.message(client, None, payload);
    }

    /// A message in a queue: of the events, or of the subscription of that number.
    pub(super) fn message(&mut self, client: usize, queue: Option<usize>, payload: &Payload) {
        let Ok(text) = payload.text() else { return self.fail("a payload that nobody sent") };
        let mut parts = text.split(':');
        let mut number = || parts.next().and_then(|part| part.parse::<u64>().ok());
        let (Some(sender), Some(number)) = (number(), number()) else { return };
        let sender = sender as usize;
        let (resends, token) = match sender.checked_sub(1) {
            None => (false, None),
            Some(from) => {
                let from = &self.views[from];
                (from.setup.resend, from.numbers.get(number as usize - 1).copied())
            }
        };
        let era = token.map_or(0, |token| self.records[token].era);
        let last = self.views[client].senders.entry((queue, sender, era)).or_default();
        let before = std::mem::replace(last, number.max(*last));
        if number <= before && !resends {
            self.fail(format!("client {client}: {sender}:{number} came after {sender}:{before}"));
        }
        if let Some(record) = token.and_then(|token| self.records.get_mut(token)) {
            record.seen = true;
            if record.outcome == Some(Outcome::NotDelivered) {
                self.fail(format!("{sender}:{number} counts as not delivered, but was received"));
            }
        }
    }

    fn lifecycle(&mut self, client: usize, event: &Event) {
        let view = &mut self.views[client];
        let before = view.life;
        match view.life.after(event) {
            Some(next) => view.life = next,
            None => {
                let text = format!("client {client}: {event:?} while {before:?}");
                self.violation.get_or_insert(text);
                return;
            }
        }
        match event {
            Event::Connected(e) => {
                view.connected = true;
                view.connection = Some(Arc::clone(&e.connection_id));
                view.received = 0;
                view.lagged = 0;
                view.last_id = None;
            }
            Event::Disconnected(_) => {
                view.connected = false;
                view.connection = None;
                self.losses += 1;
            }
            Event::JoinFailed(e) => {
                view.rejoins_failed.insert(e.group.to_string());
            }
            _ => {}
        }
    }

    pub(super) fn memory(
        &mut self,
        setup: &ClientSetup,
        queued: usize,
        held: usize,
        held_bytes: usize,
        out: usize,
        stream_ended: bool,
    ) {
        // One read is taken in as a whole; what the systems hold follows the end of a stream.
        let read = (READ + if stream_ended { setup.socket } else { 0 }) / LEAST_FRAME;
        if held > HOLD_MESSAGES + read || held_bytes > HOLD_BYTES + (2 << 20) {
            self.fail(format!("{held} messages, {held_bytes} bytes are held"));
        }
        if queued > setup.hard.max(setup.soft) + 2 * HOLD_MESSAGES + read {
            self.fail(format!("{queued} events are in the queue"));
        }
        // Calls that wait for a link may be admitted together, whatever the mark says.
        if out > setup.high_water + (4 << 20) + self.most_open_bytes {
            self.fail(format!("{out} bytes are in the out-buffer"));
        }
    }

    // --- the end -------------------------------------------------------------------------------

    /// All is quiet. `connected`: the present connection of the client, and its groups.
    pub(super) fn quiet(
        &mut self,
        client: usize,
        id: &str,
        groups: &[String],
        due: (u64, u64),
        service: &VirtualService,
    ) {
        let view = &self.views[client];
        let Some(sent) = service.messages_to(id) else {
            return self.fail(format!("client {client}: the hub does not know its session {id}"));
        };
        let got = view.received + view.lagged;
        // What the queues were due, of all that was sent; and what the event queue was due.
        if view.connection.as_deref() != Some(id) || due != (sent, got) {
            let told = view.connection.clone();
            self.fail(format!(
                "client {client}: {sent} sent on {id}, due {due:?}, received {got} ({told:?})"
            ));
            return;
        }
        let members = service.groups_of(id);
        for (group, token) in &view.memberships {
            let name = group_name(*group);
            let acked = self.records[*token].outcome == Some(Outcome::Done);
            if !acked || view.rejoins_failed.contains(&name) {
                continue;
            }
            let (mine, theirs) = (groups.contains(&name), members.contains(&name));
            if mine != theirs {
                self.fail(format!("client {client}: group {name}: {mine}, at the hub {theirs}"));
                return;
            }
        }
    }

    /// Everything is over.
    pub(super) fn end(&mut self, service: &VirtualService) {
        for token in 0..self.records.len() {
            if self.records[token].outcome.is_none() {
                self.fail(format!("call {token} has no outcome"));
            }
            self.judge_one(service, token);
        }
        for client in 0..self.views.len() {
            if self.views[client].life != State::Ended {
                self.fail(format!("client {client} was not told of its end"));
            }
        }
    }

    pub(super) fn pending(&self) -> usize {
        self.records.iter().filter(|record| record.outcome.is_none()).count()
    }
}

fn address(frame: &Frame) -> usize {
    frame.as_bytes().as_ptr() as usize
}

pub(super) fn group_name(group: u8) -> String {
    format!("g{group}")
}
