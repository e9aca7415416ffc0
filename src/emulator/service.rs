//! The service's state: hubs, sessions, groups. No socket, thread or clock in here.
//!
//! Everything happens under one lock held by the caller (`server::Shared`), with the time as an
//! argument. Outbound frames go to the sessions' outboxes; whoever holds the lock takes the list
//! of touched transports with it and wakes their writers after letting go.
//!
//! Invariants: a session is in `sessions` from its start to its end, with or without a transport;
//! group and user indexes mention living sessions only; a frame that comes from a transport which
//! is no longer the session's is ignored; maps are ordered, so that the same seed and the same input
//! always lead to the same output.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::builder::Limits;
use super::executions::Executions;
use super::faults::Plan;
use super::grants::Grants;
use super::group_state::GroupStates;
use super::inbound::Held;
use super::notes::{Notes, shortened};
use super::outbox::{Fate, Out, Outbox};
use super::reports::{Report, Reports};
use super::server_session::{AckMemory, ConnectionInfo, Kind, Replay, ServerSession};
use super::stats::Tally;
use crate::protocol::{Downstream, Frame, JsonForm, Protocol};
use crate::secret::Secret;

/// The reason of the Close that refuses a recovery.
pub(super) const NOT_RECOVERED: &str = "The connection could not be recovered.";
const CLOSED_BY_APP: &str = "Application server closed the connection.";
/// Why sessions end, for the `disconnected` event, where no Close frame says it. The service's own
/// texts are not known.
const ENDED: &str = "The connection ended.";
const NOT_RECOVERED_IN_TIME: &str = "The connection was lost and not recovered in time.";
const TOO_SLOW: &str = "The client was too slow: a queue was full.";

/// The options that the service itself looks at.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    pub(crate) limits: Limits,
    pub(crate) connected_after_recovery: bool,
    pub(crate) failed_event_closes_connection: bool,
    pub(crate) has_handler: bool,
    pub(crate) json: JsonForm,
    pub(crate) refuse_protobuf_over_json: bool,
    pub(crate) stream_end_without_payload: bool,
    /// Since 1970, for the times of group states.
    pub(crate) started_at: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Hub {
    pub(super) groups: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    pub(super) members: BTreeSet<Arc<str>>,
}

#[derive(Debug)]
pub(super) struct Service {
    pub(super) settings: Settings,
    pub(super) plan: Plan,
    pub(super) counters: Tally,
    pub(super) notes: Notes,
    pub(super) sessions: BTreeMap<Arc<str>, ServerSession>,
    pub(super) hubs: BTreeMap<Arc<str>, Hub>,
    /// Sessions without a transport, by the time of their loss.
    lost: VecDeque<(Duration, Arc<str>)>,
    /// The time of the last entry.
    pub(super) now: Duration,
    /// When which stream of which session is looked at next.
    pub(super) stream_timers: BTreeSet<(Duration, Arc<str>, Arc<str>)>,
    pub(super) touched: Vec<u64>,
    pub(super) executions: Executions,
    pub(super) reports: Reports,
    /// Where ids and tokens come from, so that a run can be repeated.
    rng: StdRng,
}

/// Who connects, after all checks.
#[derive(Debug)]
pub(super) struct Handshake {
    pub(super) hub: Arc<str>,
    pub(super) user: Option<Arc<str>>,
    pub(super) kind: Kind,
    pub(super) grants: Grants,
    pub(super) groups: Vec<String>,
}

impl Service {
    /// Equal seeds and equal input lead to equal output.
    pub(super) fn new(settings: Settings, seed: [u8; 32]) -> Self {
        Self {
            settings,
            plan: Plan::default(),
            counters: Tally::default(),
            notes: Notes::default(),
            sessions: BTreeMap::new(),
            hubs: BTreeMap::new(),
            lost: VecDeque::new(),
            now: Duration::ZERO,
            stream_timers: BTreeSet::new(),
            touched: Vec::new(),
            executions: Executions::default(),
            reports: Reports::default(),
            rng: StdRng::from_seed(seed),
        }
    }

    /// The transports whose outboxes have something new.
    pub(super) fn take_touched(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.touched)
    }

    /// Does what is due by now, in the order of its times: ends the sessions that nobody recovered
    /// in time, acknowledges streams and ends idle ones. Cheap when there is nothing.
    pub(super) fn expire(&mut self, now: Duration) {
        self.now = now.max(self.now);
        loop {
            let (session, stream) = (self.session_expiry(), self.stream_expiry());
            match (session, stream) {
                (_, Some(at)) if at <= now && session.is_none_or(|other| at <= other) => {
                    self.fire_stream_timer();
                }
                (Some(at), _) if at <= now => self.expire_session(),
                _ => return,
            }
        }
    }

    /// The session that was lost first, unless it was recovered meanwhile.
    fn expire_session(&mut self) {
        let Some((at, id)) = self.lost.pop_front() else { return };
        if self.sessions.get(&id).is_some_and(|s| s.lost_at == Some(at)) {
            self.end_session(&id, NOT_RECOVERED_IN_TIME);
        }
    }

    fn session_expiry(&self) -> Option<Duration> {
        self.lost.front().map(|(at, _)| at.saturating_add(self.settings.limits.retention))
    }

    fn stream_expiry(&self) -> Option<Duration> {
        self.stream_timers.first().map(|(at, ..)| *at)
    }

    /// When something may be due next.
    pub(super) fn next_expiry(&self) -> Option<Duration> {
        [self.session_expiry(), self.stream_expiry()].into_iter().flatten().min()
    }

    // --- the life of a session ---------------------------------------------------------------

    /// An id for a connection to come.
    pub(super) fn new_id(&mut self) -> Arc<str> {
        random_id(&mut self.rng, 16).into()
    }

    /// A new session; `connected` is its first message. Returns the connection id.
    pub(super) fn connect(&mut self, handshake: Handshake, outbox: Arc<Outbox>) -> Arc<str> {
        let id = self.new_id();
        self.connect_as(id, handshake, outbox)
    }

    /// The same with an id from [`Service::new_id`].
    pub(super) fn connect_as(
        &mut self,
        id: Arc<str>,
        handshake: Handshake,
        outbox: Arc<Outbox>,
    ) -> Arc<str> {
        let mut session = ServerSession {
            id: Arc::clone(&id),
            hub: Arc::clone(&handshake.hub),
            user: handshake.user,
            kind: handshake.kind,
            json: self.settings.json,
            grants: handshake.grants,
            groups: BTreeSet::new(),
            tokens: Vec::new(),
            outbox: Some(outbox),
            lost_at: None,
            acked: AckMemory::new(self.settings.limits.remembered_ack_ids),
            replay: Replay::new(),
            running: None,
            held: Held::default(),
            held_acks: Vec::new(),
            held_responses: Vec::new(),
            streams: BTreeMap::new(),
            states: GroupStates::default(),
            messages: 0,
            reported: false,
        };
        send_connected(&mut session, &mut self.rng);
        self.notes.info(|| {
            let user = session.user.as_ref().map_or("none".into(), |user| format!("{user:?}"));
            format!("connected: {id}, hub {:?}, user {user}, {}", session.hub, session.kind)
        });
        self.hubs.entry(handshake.hub).or_default().members.insert(Arc::clone(&id));
        self.touched.extend(session.outbox.as_ref().map(|outbox| outbox.link));
        self.sessions.insert(Arc::clone(&id), session);
        for group in handshake.groups {
            self.join(&id, &group);
        }
        self.counters.count().connections_opened += 1;
        self.counters.count().sessions += 1;
        id
    }

    /// The client can have got `connected`. Nothing happens if that was reported before.
    pub(super) fn report_connected(&mut self, id: &str) {
        if let Some(session) = self.sessions.get_mut(id)
            && !std::mem::replace(&mut session.reported, true)
        {
            self.reports.push(|| Report::Connected(session.info(Duration::ZERO)));
        }
    }

    /// Gives a session that is still known to a new transport: replay first, then new messages.
    ///
    /// On a refusal the Close is in the outbox. A wrong token or hub has no effect on the session.
    pub(super) fn recover(
        &mut self,
        hub: &str,
        id: &str,
        token: &str,
        outbox: &Arc<Outbox>,
        now: Duration,
    ) -> Option<(Arc<str>, Kind)> {
        let gone = self.plan.take_recovery_refusal();
        let is_its = |s: &ServerSession| {
            *s.hub == *hub && s.kind.is_reliable() && s.tokens.iter().any(|t| t.expose() == token)
        };
        if gone && self.sessions.get(id).is_some_and(is_its) {
            self.cut_and_end(id, ENDED);
        }
        let Some(session) = self.sessions.get_mut(id).filter(|s| is_its(s)) else {
            self.notes.info(|| format!("recovery refused: {id:?}, Close 1008 {NOT_RECOVERED}"));
            outbox.push(Out::Close { code: 1008, reason: NOT_RECOVERED.into() });
            self.touched.push(outbox.link);
            self.counters.count().recoveries_refused += 1;
            return None;
        };
        session.forget_held();
        session.forget_held_answers();
        if let Some(old) = session.outbox.replace(Arc::clone(outbox)) {
            old.abort(Fate::Cut);
            self.touched.push(old.link);
        }
        session.lost_at = None;
        if self.settings.connected_after_recovery {
            send_connected(session, &mut self.rng);
        }
        session.replay.drop_expired(now);
        // No more than leaves room for the acks: the fault is not to fill the outbound queue.
        let room = self.settings.limits.unacked_messages.saturating_sub(session.replay.len());
        let again = if self.plan.duplicate_replay { room } else { 0 };
        let frames = session.replay.frames(again);
        self.counters.count().replayed += frames.len() as u64;
        self.notes.info(|| format!("recovered: {id}, {} messages replayed", frames.len()));
        for frame in frames {
            outbox.push(Out::Frame(frame));
        }
        let found = (Arc::clone(&session.id), session.kind.clone());
        self.touched.push(outbox.link);
        self.counters.count().recoveries_accepted += 1;
        Some(found)
    }

    /// A second `connected` in mid-connection, for every reliable session that has a transport.
    pub(super) fn refresh_tokens(&mut self) -> usize {
        let Self { sessions, touched, rng, .. } = self;
        let open = sessions.values_mut().filter(|s| s.kind.is_reliable() && s.outbox.is_some());
        open.map(|session| {
            send_connected(session, rng);
            touched.extend(session.outbox.as_ref().map(|outbox| outbox.link));
        })
        .count()
    }

    /// Takes the transport away from a session, which then waits for recovery (if it can).
    pub(super) fn detach(&mut self, now: Duration, id: &str) -> Option<Arc<Outbox>> {
        let session = self.sessions.get_mut(id)?;
        session.forget_held();
        let outbox = session.outbox.take()?;
        session.forget_held_answers();
        self.notes.info(|| format!("link lost: {id}"));
        if session.kind.is_reliable() {
            session.lost_at = Some(now);
            let id = Arc::clone(&session.id);
            self.lost.push_back((now, id));
            self.reports.look_again();
            self.counters.mark_changed();
        } else {
            self.end_session(id, ENDED);
        }
        Some(outbox)
    }

    /// Sends a Close of the service, which ends the session, and gives up the transport.
    pub(super) fn close(&mut self, id: &str, code: u16, reason: &str) {
        self.close_because(id, code, reason, if reason.is_empty() { ENDED } else { reason });
    }

    /// The same; `why` is the reason of the `disconnected` event.
    fn close_because(&mut self, id: &str, code: u16, reason: &str, why: &str) {
        self.notes.info(|| format!("closed by the service: {id}, {code} {reason:?}"));
        if let Some(outbox) = self.sessions.get(id).and_then(|s| s.outbox.clone()) {
            self.queue_close(&outbox, code, reason);
        }
        self.end_session(id, why);
    }

    /// A queue is full: the service cuts the TCP connection without a word and forgets the session.
    pub(super) fn overflow(&mut self, id: &str) {
        self.counters.count().overflows += 1;
        self.notes.info(|| format!("overflow: {id}, too much is unread or unacknowledged"));
        self.cut_and_end(id, TOO_SLOW);
    }

    pub(super) fn end_session(&mut self, id: &str, why: &str) {
        // A session may end before its client can know of it. Both events come even so, in order.
        self.report_connected(id);
        let Some(mut session) = self.sessions.remove(id) else { return };
        self.notes.info(|| format!("session over: {id}, {}", shortened(why)));
        self.reports.push(|| {
            Report::Disconnected(
                ConnectionInfo { is_open: false, ..session.info(Duration::ZERO) },
                why.into(),
            )
        });
        session.forget_held();
        self.touched.extend(session.outbox.as_ref().map(|outbox| outbox.link));
        if let Some(hub) = self.hubs.get_mut(&session.hub) {
            hub.members.remove(id);
            for group in &session.groups {
                remove_member(&mut hub.groups, group, id);
            }
        }
        self.executions.retire(&session.id);
        self.counters.count().sessions -= 1;
        self.counters.count().sessions_ended += 1;
        self.cancel_streams(&session);
        self.end_states(&mut session);
    }

    /// The session, if this is its transport.
    pub(super) fn session_on(&mut self, id: &str, link: u64) -> Option<&mut ServerSession> {
        self.sessions
            .get_mut(id)
            .filter(|s| s.outbox.as_ref().is_some_and(|outbox| outbox.link == link))
    }

    /// Queues a frame for a session's transport; without one it is lost. A client that does not take
    /// what is queued loses its session.
    pub(super) fn queue_frame(&mut self, id: &str, frame: Frame) {
        let Some(session) = self.sessions.get(id) else { return };
        let Some(outbox) = &session.outbox else { return };
        let load = outbox.push(Out::Frame(frame));
        if !self.settings.limits.allow(session.kind.is_reliable(), load) {
            self.overflow(id);
        }
    }

    pub(super) fn touch_outbox(&mut self, outbox: &Outbox) {
        self.touched.push(outbox.link);
    }

    // --- groups ------------------------------------------------------------------------------

    pub(super) fn join(&mut self, id: &str, group: &str) -> bool {
        let Some(session) = self.sessions.get_mut(id) else { return false };
        if !session.groups.contains(group) {
            let hub = self.hubs.entry(Arc::clone(&session.hub)).or_default();
            let name = match hub.groups.get_key_value(group) {
                Some((name, _)) => Arc::clone(name),
                None => group.into(),
            };
            self.notes.debug(|| format!("joined: {id}, group {name:?}"));
            session.groups.insert(Arc::clone(&name));
            hub.groups.entry(name).or_default().insert(Arc::clone(&session.id));
            self.counters.mark_changed();
        }
        true
    }

    pub(super) fn leave(&mut self, id: &str, group: &str) -> bool {
        let Some(session) = self.sessions.get_mut(id) else { return false };
        if session.groups.remove(group)
            && let Some(hub) = self.hubs.get_mut(&session.hub)
        {
            self.notes.debug(|| format!("left: {id}, group {group:?}"));
            remove_member(&mut hub.groups, group, id);
            self.counters.mark_changed();
            if !session.states.is_unused() {
                self.leave_states(id, group);
            }
        }
        true
    }

    // --- what the app server does ------------------------------------------------------------

    /// The app server closes a connection: a `disconnected` message, Close 1000, session over.
    pub(super) fn close_by_app(&mut self, hub: &str, id: &str, reason: Option<&str>) -> bool {
        let Some(session) = self.sessions.get(id).filter(|s| *s.hub == *hub) else { return false };
        let text = match reason {
            Some(reason) if !reason.is_empty() => format!("{CLOSED_BY_APP} Reason: {reason}"),
            _ => CLOSED_BY_APP.into(),
        };
        let message = Downstream::Disconnected { message: Some(text.clone()) };
        if let Some(outbox) = &session.outbox
            && let Some(frame) = session.encode(&message)
        {
            outbox.push(Out::Frame(frame));
        }
        self.close_because(id, 1000, "", &text);
        true
    }

    pub(super) fn is_member(&self, hub: &str, id: &str) -> bool {
        self.sessions.get(id).is_some_and(|s| *s.hub == *hub)
    }

    pub(super) fn change_grants(
        &mut self,
        hub: &str,
        id: &str,
        change: impl FnOnce(&mut Grants) -> bool,
    ) -> bool {
        let session = self.sessions.get_mut(id).filter(|s| *s.hub == *hub);
        session.is_some_and(|s| change(&mut s.grants))
    }

    pub(super) fn protocol_of(&self, id: &str) -> Option<Protocol> {
        self.sessions.get(id)?.kind.protocol()
    }

    /// The sessions that have a transport.
    pub(super) fn open_sessions(&self) -> Vec<Arc<str>> {
        let open = self.sessions.values().filter(|s| s.outbox.is_some());
        open.map(|s| Arc::clone(&s.id)).collect()
    }

    /// Queues a frame as it is, without a number. It counts as queued but ends no session itself.
    pub(super) fn push_raw(&mut self, id: &str, frame: Frame) {
        if let Some(session) = self.sessions.get(id)
            && let Some(outbox) = &session.outbox
        {
            outbox.push(Out::Frame(frame));
            self.touched.push(outbox.link);
        }
    }

    pub(super) fn connections(&self, now: Duration, hub: &str) -> Vec<ConnectionInfo> {
        let members = self.members(hub);
        let sessions = members.iter().filter_map(|id| self.sessions.get(id));
        sessions.map(|session| session.info(now)).collect()
    }
}

/// Queues `connected`, with a fresh reconnection token for a reliable session.
fn send_connected(session: &mut ServerSession, rng: &mut StdRng) {
    let (Some(protocol), Some(outbox)) = (session.kind.protocol(), &session.outbox) else { return };
    let reconnection_token = protocol.is_reliable().then(|| Secret::new(random_id(rng, 32)));
    if let Some(token) = &reconnection_token {
        if session.tokens.len() >= 64 {
            session.tokens.remove(0);
        }
        session.tokens.push(token.clone());
    }
    let message = Downstream::Connected {
        connection_id: session.id.to_string(),
        user_id: session.user.as_deref().map(Into::into),
        reconnection_token,
    };
    if let Some(frame) = session.encode(&message) {
        outbox.push(Out::Frame(frame));
    }
}

fn remove_member(groups: &mut BTreeMap<Arc<str>, BTreeSet<Arc<str>>>, group: &str, id: &str) {
    if let Some(members) = groups.get_mut(group) {
        members.remove(id);
        if members.is_empty() {
            groups.remove(group);
        }
    }
}

/// Random bytes as base64url text.
pub(super) fn random_id(rng: &mut impl Rng, bytes: usize) -> String {
    let mut random = vec![0; bytes];
    rng.fill_bytes(&mut random);
    data_encoding::BASE64URL_NOPAD.encode(&random)
}
