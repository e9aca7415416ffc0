//! What is known of the states in one group that is watched: the list, and what changed in it.
//!
//! An update may overtake the list that it is newer than, so what counts is not what came last but
//! what is newest by the service's clock. Changes are conflated: however slowly they are read, there
//! is one for each member at most.
//!
//! Pure, like the session.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::message::Entries;
use crate::protocol::GroupStateItem;

/// A member that an update brought stays, although a list lacks it, for this long: the list may be
/// the older of the two.
const NEWER_THAN_A_LIST: Duration = Duration::from_secs(300);
/// Cleared states that are remembered, so that an older list does not bring them back.
const REMEMBERED: usize = 200;
/// A list of this many may be cut off: what it lacks may still be there.
const LONGEST_LIST: usize = 200;

/// One connection's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) connection_id: String,
    pub(crate) user_id: Option<String>,
    pub(crate) state: Entries,
    /// Milliseconds since 1970 by the service's clock.
    pub(crate) updated_at: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Set(Member),
    /// With the state that it had when that was reported.
    Cleared(Member),
    /// Read the list again.
    Replaced,
}

#[derive(Debug)]
struct Entry {
    user_id: Option<String>,
    /// `None`: cleared.
    state: Option<Entries>,
    updated_at: i64,
    /// When an update brought it.
    updated: Option<Instant>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct GroupStates {
    entries: HashMap<String, Entry>,
    /// Those of them that are cleared, the oldest first.
    cleared: BTreeSet<(i64, String)>,
    /// The list of the connection before, until there is one of the present connection.
    before: Option<Vec<Member>>,
    is_listed: bool,
    is_truncated: bool,
    /// The members that the reader has been told of.
    told: HashMap<String, Member>,
    is_replaced: bool,
    /// Connections whose change is to be told, in the order of their first change.
    changed: BTreeMap<u64, String>,
    places: HashMap<String, u64>,
    next_place: u64,
}

impl GroupStates {
    /// Who has a state, by connection id. Empty until the first list has come.
    pub(crate) fn members(&self) -> Vec<Member> {
        if let Some(before) = &self.before {
            return before.clone();
        }
        let mut members: Vec<Member> =
            self.entries.iter().filter_map(|(id, entry)| member(id, entry)).collect();
        members.sort_unstable_by(|a, b| a.connection_id.cmp(&b.connection_id));
        members
    }

    /// The list of the present connection has come.
    pub(crate) fn is_listed(&self) -> bool {
        self.is_listed
    }

    /// The last list was as long as one can be, so members may be missing.
    pub(crate) fn is_truncated(&self) -> bool {
        self.is_truncated
    }

    /// The next change that was not told yet.
    pub(crate) fn next_change(&mut self) -> Option<Change> {
        if std::mem::take(&mut self.is_replaced) {
            self.tell_all();
            return Some(Change::Replaced);
        }
        let (place, id) = self.changed.pop_first()?;
        debug_assert_eq!(self.places.get(&id), Some(&place));
        self.places.remove(&id);
        match self.entries.get(&id).and_then(|entry| member(&id, entry)) {
            Some(member) => {
                self.told.insert(id, member.clone());
                Some(Change::Set(member))
            }
            // Only what was told is noted as cleared.
            None => self.told.remove(&id).map(Change::Cleared),
        }
    }

    pub(crate) fn has_change(&self) -> bool {
        self.is_replaced || !self.changed.is_empty()
    }

    /// The service's list.
    pub(crate) fn snapshot(&mut self, now: Instant, items: Vec<GroupStateItem>) {
        self.is_truncated = items.len() >= LONGEST_LIST;
        if !self.is_truncated {
            let listed: HashSet<&str> = items.iter().map(|item| &*item.connection_id).collect();
            let is_newer = |entry: &Entry| {
                entry
                    .updated
                    .is_some_and(|at| now.saturating_duration_since(at) < NEWER_THAN_A_LIST)
            };
            self.entries.retain(|id, entry| listed.contains(&**id) || is_newer(entry));
            self.cleared.retain(|(_, id)| self.entries.contains_key(id));
        }
        for item in items {
            self.merge(item, None);
        }
        let first = !std::mem::replace(&mut self.is_listed, true) && self.before.is_none();
        self.before = None;
        self.changed.clear();
        self.places.clear();
        if first {
            // Who asked for it reads it now.
            self.tell_all();
        } else {
            self.is_replaced = true;
        }
    }

    /// What the service says has changed.
    pub(crate) fn update(&mut self, now: Instant, items: Vec<GroupStateItem>) {
        for item in items {
            let id = item.connection_id.clone();
            if self.merge(item, Some(now)) && self.is_listed && !self.is_replaced {
                self.note(id);
            }
        }
    }

    /// The service has forgotten that the group is watched. What is known stays until there is a
    /// new list.
    pub(crate) fn new_connection(&mut self) {
        if self.is_listed {
            self.before = Some(self.members());
        }
        self.is_listed = false;
        self.entries.clear();
        self.cleared.clear();
        self.changed.clear();
        self.places.clear();
    }

    /// Takes an item if it is newer than what is known of its connection.
    fn merge(&mut self, item: GroupStateItem, updated: Option<Instant>) -> bool {
        let GroupStateItem { connection_id, user_id, state, updated_at } = item;
        if let Some(known) = self.entries.get(&connection_id) {
            if known.updated_at >= updated_at {
                return false;
            }
            if known.state.is_none() {
                self.cleared.remove(&(known.updated_at, connection_id.clone()));
            }
        }
        if state.is_none() {
            self.cleared.insert((updated_at, connection_id.clone()));
        }
        self.entries.insert(connection_id, Entry { user_id, state, updated_at, updated });
        while self.cleared.len() > REMEMBERED
            && let Some((_, oldest)) = self.cleared.pop_first()
        {
            self.entries.remove(&oldest);
        }
        true
    }

    /// There is a change of this connection to be told, or none any more.
    fn note(&mut self, id: String) {
        let has_state = self.entries.get(&id).is_some_and(|entry| entry.state.is_some());
        if !has_state && !self.told.contains_key(&id) {
            // It came and went unseen.
            if let Some(place) = self.places.remove(&id) {
                self.changed.remove(&place);
            }
        } else if !self.places.contains_key(&id) {
            self.changed.insert(self.next_place, id.clone());
            self.places.insert(id, self.next_place);
            self.next_place += 1;
        }
    }

    fn tell_all(&mut self) {
        let members = self.members();
        self.told = members.into_iter().map(|m| (m.connection_id.clone(), m)).collect();
    }
}

fn member(id: &str, entry: &Entry) -> Option<Member> {
    Some(Member {
        connection_id: id.to_owned(),
        user_id: entry.user_id.clone(),
        state: entry.state.clone()?,
        updated_at: entry.updated_at,
    })
}
