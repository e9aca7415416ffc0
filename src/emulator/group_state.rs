//! Group state: one map of strings per connection and group, which members may follow (preview).
//!
//! The rules, the texts and the order of the checks are those of a prototype of the service's own
//! emulator; the service itself documents none. Unlike with other requests, a refused one is known
//! again by its ack id.
//!
//! Invariants: who has a state in a group, or follows those of its members, is a member of it; the
//! times of one connection's states rise, over all its groups; updates and snapshots are numbered
//! like messages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::receive::{From, named};
use super::server_session::ServerSession;
use super::service::Service;
use crate::message::Entries;
use crate::protocol::{Downstream, GroupStateItem, NamedError};

/// What a session has to do with group states.
#[derive(Debug, Default)]
pub(super) struct GroupStates {
    /// Its own, by group.
    own: BTreeMap<Arc<str>, State>,
    /// The groups whose states it follows.
    followed: BTreeSet<Arc<str>>,
    /// Of the last change of `own`, in milliseconds since 1970.
    last_change: i64,
    /// Snapshots that a fault holds back.
    held: Vec<Snapshot>,
}

#[derive(Debug)]
struct State {
    entries: Entries,
    updated_at: i64,
}

#[derive(Debug)]
struct Snapshot {
    group: String,
    items: Vec<GroupStateItem>,
}

impl GroupStates {
    pub(super) fn is_unused(&self) -> bool {
        self.own.is_empty() && self.followed.is_empty()
    }

    /// Later than the last time.
    fn next_time(&mut self, now: Duration) -> i64 {
        let now = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        self.last_change = now.max(self.last_change.saturating_add(1));
        self.last_change
    }
}

impl Service {
    /// Sets the sender's own state, or clears it.
    pub(super) fn set_group_state(
        &mut self,
        from: From<'_>,
        group: &str,
        ack_id: Option<u64>,
        state: Option<Entries>,
    ) {
        if self.begin(from, ack_id) {
            let outcome = self.change_state(from, group, state);
            self.finish_known(from, ack_id, outcome);
        }
    }

    fn change_state(
        &mut self,
        from: From<'_>,
        group: &str,
        state: Option<Entries>,
    ) -> Result<(), NamedError> {
        let most = self.settings.limits.group_state_bytes;
        let Some(session) = self.sessions.get_mut(from.id) else { return Ok(()) };
        if !session.grants.may_set_state(group) {
            return Err(named("Forbidden", "Permission denied."));
        }
        let size = |state: &Entries| state.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>();
        if state.as_ref().is_some_and(|state| size(state) > most) {
            let text = format!("State payload exceeds maximum size {most} bytes.");
            return Err(named("BadRequest", &text));
        }
        let Some(group) = session.groups.get(group).cloned() else {
            return Err(named("Forbidden", "Not a member of group."));
        };
        let updated_at = session.states.next_time(self.settings.started_at + from.now);
        match &state {
            Some(state) => {
                let state = State { entries: state.clone(), updated_at };
                session.states.own.insert(Arc::clone(&group), state);
            }
            None => drop(session.states.own.remove(&group)),
        }
        self.counters.count().group_state_changes += 1;
        let (hub, item) = (Arc::clone(&session.hub), session.item(state, updated_at));
        self.send_update(&hub, &group, item);
        Ok(())
    }

    /// Follows the states of a group: an ack, then what there is now.
    pub(super) fn follow_group_state(&mut self, from: From<'_>, group: &str, ack_id: Option<u64>) {
        if !self.begin(from, ack_id) {
            return;
        }
        let outcome = self.follow(from, group);
        let snapshot = outcome.is_ok().then(|| self.snapshot(from.id, group)).flatten();
        self.finish_known(from, ack_id, outcome);
        let Some(snapshot) = snapshot else { return };
        if !self.plan.preview.hold_snapshots {
            self.send_snapshot(from.id, &snapshot);
        } else if let Some(session) = self.sessions.get_mut(from.id) {
            session.states.held.push(snapshot);
        }
    }

    fn follow(&mut self, from: From<'_>, group: &str) -> Result<(), NamedError> {
        let Some(session) = self.sessions.get_mut(from.id) else { return Ok(()) };
        if !session.grants.may_get_state(group) {
            let text = format!("No permission to get states of group {group}.");
            return Err(named("Forbidden", &text));
        }
        let Some(group) = session.groups.get(group).cloned() else {
            return Err(named("Forbidden", &format!("Not a member of group {group}.")));
        };
        session.states.followed.insert(group);
        Ok(())
    }

    /// Never refused, whoever asks.
    pub(super) fn unfollow_group_state(
        &mut self,
        from: From<'_>,
        group: &str,
        ack_id: Option<u64>,
    ) {
        if self.begin(from, ack_id) {
            if let Some(session) = self.sessions.get_mut(from.id) {
                session.states.followed.remove(group);
            }
            self.finish_known(from, ack_id, Ok(()));
        }
    }

    /// The ack id of a refused request is used up too.
    fn finish_known(
        &mut self,
        from: From<'_>,
        ack_id: Option<u64>,
        outcome: Result<(), NamedError>,
    ) {
        if let (Some(ack_id), true) = (ack_id, outcome.is_err())
            && let Some(session) = self.sessions.get_mut(from.id)
        {
            session.acked.insert(ack_id);
        }
        self.finish(from, ack_id, outcome);
    }

    // --- ends --------------------------------------------------------------------------------

    /// The session is no member of the group any more.
    pub(super) fn leave_states(&mut self, id: &str, group: &str) {
        let started_at = self.settings.started_at;
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.states.followed.remove(group);
        if session.states.own.remove(group).is_none() {
            return;
        }
        let updated_at = session.states.next_time(started_at + self.now);
        let (hub, item) = (Arc::clone(&session.hub), session.item(None, updated_at));
        self.send_update(&hub, group, item);
    }

    /// The session is over, and in no index any more.
    pub(super) fn end_states(&mut self, session: &mut ServerSession) {
        for group in std::mem::take(&mut session.states.own).into_keys() {
            let updated_at = session.states.next_time(self.settings.started_at + self.now);
            self.send_update(&session.hub, &group, session.item(None, updated_at));
        }
    }

    // --- what followers get ------------------------------------------------------------------

    fn send_update(&mut self, hub: &str, group: &str, item: GroupStateItem) {
        let members = self.hubs.get(hub).and_then(|hub| hub.groups.get(group));
        let members: Vec<Arc<str>> = members.into_iter().flatten().cloned().collect();
        for id in members {
            if self.sessions.get(&id).is_some_and(|s| s.states.followed.contains(group)) {
                self.send_numbered(&id, |sequence_id| Downstream::GroupStateUpdate {
                    group: group.to_owned(),
                    items: vec![item.clone()],
                    sequence_id,
                });
            }
        }
    }

    /// The states in a group, by connection id; too many are left out without a sign.
    fn snapshot(&self, id: &str, group: &str) -> Option<Snapshot> {
        let hub = &self.sessions.get(id)?.hub;
        let states = self.states(hub, group).take(self.settings.limits.group_state_items);
        let items = states.map(|(s, state)| s.item(Some(state.entries.clone()), state.updated_at));
        Some(Snapshot { group: group.to_owned(), items: items.collect() })
    }

    fn send_snapshot(&mut self, id: &str, snapshot: &Snapshot) {
        self.send_numbered(id, |sequence_id| Downstream::GroupStateSnapshot {
            group: snapshot.group.clone(),
            items: snapshot.items.clone(),
            sequence_id,
        });
    }

    /// Ends the fault of held snapshots.
    pub(super) fn release_snapshots(&mut self) {
        self.plan.preview.hold_snapshots = false;
        let held = self
            .sessions
            .values_mut()
            .map(|session| (Arc::clone(&session.id), std::mem::take(&mut session.states.held)));
        for (id, snapshots) in held.collect::<Vec<_>>() {
            for snapshot in &snapshots {
                self.send_snapshot(&id, snapshot);
            }
        }
    }

    /// Who has which state in a group.
    fn states<'a>(
        &'a self,
        hub: &str,
        group: &'a str,
    ) -> impl Iterator<Item = (&'a ServerSession, &'a State)> {
        let members = self.hubs.get(hub).and_then(|hub| hub.groups.get(group));
        let sessions = members.into_iter().flatten().filter_map(|id| self.sessions.get(id));
        sessions.filter_map(move |session| Some((session, session.states.own.get(group)?)))
    }

    pub(super) fn group_states(&self, hub: &str, group: &str) -> BTreeMap<String, Entries> {
        let states = self.states(hub, group);
        states.map(|(session, state)| (session.id.to_string(), state.entries.clone())).collect()
    }
}

impl ServerSession {
    /// The session's state in some group, cleared if there is none.
    fn item(&self, state: Option<Entries>, updated_at: i64) -> GroupStateItem {
        GroupStateItem {
            connection_id: self.id.to_string(),
            user_id: self.user.as_deref().map(Into::into),
            state,
            updated_at,
        }
    }
}
