//! The service for tests that drive it in one thread and in virtual time: raw frames in, raw frames
//! out, no socket. Equal seeds and equal calls lead to equal output.
//!
//! Whoever drives it owns network and clock: it asks [`Transport::take`] for what is to be
//! delivered, ends a transport by [`VirtualService::end`], keeps events that [`VirtualService::receive`] started
//! as long as it likes, and then calls [`VirtualService::answer`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::delivery::Delivery;
use super::events::EventAnswer;
use super::faults::Plan;
use super::grants::{Grants, Permission};
use super::inbound::Inbound;
pub(crate) use super::inbound::Started;
use super::outbox::Outbox;
pub(crate) use super::outbox::{Fate, Out};
use super::preview_faults::PreviewPlan;
use super::server_session::Kind;
pub(crate) use super::service::Settings;
use super::service::{Handshake, Service};
use crate::message::Payload;
use crate::protocol::{Frame, Protocol};

const HUB: &str = "h";

/// All of them for groups.
const ROLES: [&str; 4] = [
    "webpubsub.joinLeaveGroup",
    "webpubsub.sendToGroup",
    "webpubsub.setGroupState",
    "webpubsub.getGroupState",
];

/// A fault inside the service; a count replaces what was left of an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    LoseAcks(u64),
    DropBeforeAck(u64),
    DropAfterAck(u64),
    DropBeforeExecution(u64),
    RefuseRecovery(u64),
    DuplicateReplay(bool),
    HoldAcks(bool),
    SilentPings(bool),
    LoseCloseFrames(bool),
    RefreshTokens,
}

/// The service, with one hub and an event handler that is the caller.
pub(crate) struct VirtualService {
    pub(super) service: Service,
    links: u64,
}

/// The service's end of a transport.
#[derive(Debug)]
pub(crate) struct Transport {
    outbox: Arc<Outbox>,
    /// None after a refused recovery; the Close is queued then.
    connection: Option<(Arc<str>, Kind)>,
}

impl Transport {
    pub(crate) fn connection_id(&self) -> Option<&str> {
        self.connection.as_ref().map(|(id, _)| &**id)
    }

    /// What the service sends, in order: at least one item and about `max_bytes`, if there is any.
    /// What is taken counts as written; what is not counts against the limits of the connection.
    pub(crate) fn take(&self, max_bytes: usize) -> Vec<Out> {
        self.outbox.take_written(max_bytes)
    }

    /// The service ends the TCP connection at once; nothing more can be taken.
    pub(crate) fn fate(&self) -> Option<Fate> {
        self.outbox.fate()
    }

    /// Whether the service reads. If not, the client's bytes stay in the network.
    pub(crate) fn is_read(&self) -> bool {
        !self.outbox.is_input_paused()
    }
}

impl VirtualService {
    pub(crate) fn new(seed: u64, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings { has_handler: true, ..Settings::default() };
        change(&mut settings);
        let mut bytes = [0; 32];
        rand::Rng::fill_bytes(&mut StdRng::seed_from_u64(seed), &mut bytes);
        Self { service: Service::new(settings, bytes), links: 0 }
    }

    fn outbox(&mut self) -> Arc<Outbox> {
        self.links += 1;
        Outbox::new(self.links)
    }

    /// A new connection with all roles for groups. `None` is a simple client that sends events.
    pub(crate) fn connect(&mut self, protocol: Option<Protocol>, user: Option<&str>) -> Transport {
        self.connect_with_roles(protocol, user, &ROLES)
    }

    /// The same with other roles.
    pub(crate) fn connect_with_roles(
        &mut self,
        protocol: Option<Protocol>,
        user: Option<&str>,
        roles: &[&str],
    ) -> Transport {
        let kind = protocol.map_or(Kind::SimpleEvents, Kind::PubSub);
        let outbox = self.outbox();
        let handshake = Handshake {
            hub: HUB.into(),
            user: user.map(Into::into),
            kind: kind.clone(),
            grants: Grants::new(roles),
            groups: Vec::new(),
        };
        let id = self.service.connect(handshake, Arc::clone(&outbox));
        Transport { outbox, connection: Some((id, kind)) }
    }

    pub(crate) fn recover(&mut self, now: Duration, id: &str, token: &str) -> Transport {
        self.service.expire(now);
        let outbox = self.outbox();
        let connection = self.service.recover(HUB, id, token, &outbox, now);
        Transport { outbox, connection }
    }

    /// A data frame of the client. Returns the event that now is with the event handler, if one is.
    pub(crate) fn receive(&mut self, now: Duration, on: &Transport, frame: Frame) -> Started {
        let (_, kind) = on.connection.as_ref()?;
        let limit = self.service.settings.limits.message_size;
        self.inbound(now, on, Inbound::data(kind.protocol(), frame, limit))
    }

    /// The WebSocket layer refuses what the client sent: 1002, 1007 or 1009.
    pub(crate) fn violation(&mut self, now: Duration, on: &Transport, code: u16) {
        if let Some((_, kind)) = &on.connection {
            self.inbound(now, on, Inbound::violation(kind.protocol(), code));
        }
    }

    /// A Close frame of the client. Whoever drives the transport answers it and ends it.
    pub(crate) fn close(&mut self, now: Duration, on: &Transport, code: Option<u16>) {
        self.inbound(now, on, Inbound::close(code));
    }

    /// The transport ended without a Close of the client: by a FIN, behind everything before it.
    pub(crate) fn end(&mut self, now: Duration, on: &Transport) {
        self.inbound(now, on, Inbound::end());
    }

    /// The transport ended by a reset: what the service has not read is gone with it.
    pub(crate) fn reset(&mut self, now: Duration, on: &Transport) {
        self.service.expire(now);
        if let Some((id, _)) = &on.connection
            && self.service.session_on(id, on.outbox.link).is_some()
        {
            self.service.detach(now, id);
        }
    }

    fn inbound(&mut self, now: Duration, on: &Transport, inbound: Inbound) -> Started {
        self.service.expire(now);
        let (id, _) = on.connection.as_ref()?;
        self.service.receive(now, id, on.outbox.link, inbound)
    }

    /// The event handler's answer for the event of that connection. Returns the next one, which
    /// waited behind it.
    pub(crate) fn answer(&mut self, now: Duration, id: &str, answer: EventAnswer) -> Started {
        self.service.expire(now);
        self.service.answer(now, id, answer)
    }

    pub(crate) fn is_handling(&self, id: &str) -> bool {
        self.service.sessions.get(id).is_some_and(|s| s.running.is_some())
    }

    pub(crate) fn send_to_group(
        &mut self,
        now: Duration,
        group: &str,
        payload: impl Into<Payload>,
    ) -> usize {
        self.service.expire(now);
        let delivery = Delivery::to_group(group.into(), None, payload.into());
        self.service.publish(now, HUB, &delivery, None)
    }

    /// A Close with that code, which ends the session or leaves it to be recovered, as at the
    /// service.
    pub(crate) fn close_with(&mut self, now: Duration, id: &str, code: u16) {
        self.service.expire(now);
        self.service.close_with(now, id, code, "");
    }

    pub(crate) fn fault(&mut self, fault: Fault) {
        let plan = &mut self.service.plan;
        match fault {
            Fault::LoseAcks(n) => plan.lose_acks = n,
            Fault::DropBeforeAck(n) => plan.drop_before_ack = n,
            Fault::DropAfterAck(n) => plan.drop_after_ack = n,
            Fault::DropBeforeExecution(n) => plan.drop_before_execution = n,
            Fault::RefuseRecovery(n) => plan.refuse_recovery = n,
            Fault::DuplicateReplay(on) => plan.duplicate_replay = on,
            Fault::HoldAcks(true) => plan.hold_acks = true,
            Fault::HoldAcks(false) => self.service.release_acks(),
            Fault::SilentPings(on) => plan.silent_pings = on,
            Fault::LoseCloseFrames(on) => plan.lose_close_frames = on,
            Fault::RefreshTokens => {
                self.service.refresh_tokens();
            }
        }
    }

    /// The faults of preview features, to be changed.
    pub(crate) fn preview(&mut self) -> &mut PreviewPlan {
        &mut self.service.plan.preview
    }

    /// Switches every fault off; what faults held back is sent.
    pub(crate) fn heal(&mut self) {
        self.service.release_acks();
        self.service.release_responses();
        self.service.release_stream_acks();
        self.service.release_snapshots();
        self.service.plan = Plan::default();
    }

    /// How many messages the service has sent to that connection. For a reliable one this is the last
    /// sequence id.
    pub(crate) fn messages_to(&self, id: &str) -> Option<u64> {
        self.service.sessions.get(id).map(|s| s.messages)
    }

    pub(crate) fn close_connection(&mut self, id: &str) -> bool {
        self.service.close_by_app(HUB, id, None)
    }

    /// Whether the session exists at that time.
    pub(crate) fn lives(&mut self, now: Duration, id: &str) -> bool {
        self.service.expire(now);
        self.service.sessions.contains_key(id)
    }

    /// As the app server.
    pub(crate) fn join(&mut self, id: &str, group: &str) -> bool {
        self.service.join(id, group)
    }

    /// As the app server.
    pub(crate) fn leave(&mut self, now: Duration, id: &str, group: &str) -> bool {
        self.service.expire(now);
        self.service.leave(id, group)
    }

    /// As the app server.
    pub(crate) fn revoke(&mut self, id: &str, permission: Permission, group: &str) -> bool {
        self.service.change_grants(HUB, id, |grants| grants.revoke(permission, group))
    }

    pub(crate) fn group_states(&self, group: &str) -> BTreeMap<String, BTreeMap<String, String>> {
        self.service.group_states(HUB, group)
    }

    /// When the service has something to do by itself.
    pub(crate) fn next_expiry(&self) -> Option<Duration> {
        self.service.next_expiry()
    }

    pub(crate) fn groups_of(&self, id: &str) -> Vec<String> {
        let groups = self.service.sessions.get(id).map(|s| s.groups.iter());
        groups.into_iter().flatten().map(ToString::to_string).collect()
    }

    /// How often the request with this ack id was carried out.
    pub(crate) fn executions(&self, id: &str, ack_id: u64) -> u32 {
        self.service.executions.get(id, ack_id)
    }

    pub(crate) fn stats(&self) -> super::Stats {
        *self.service.counters.stats()
    }

    /// The transports for which something new was queued or decided, each at least once.
    pub(crate) fn take_touched(&mut self) -> Vec<u64> {
        self.service.take_touched()
    }
}
