//! The groups that this client has joined.
//!
//! The service carries out joins and leaves in the order in which they were written, so membership
//! follows that order, whatever the order of their acks. An ack decides about its group unless a
//! later join or leave of the group has been acked before it. That includes the late acks of calls
//! whose callers gave up.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::bug::Bug;
use super::call::{Call, CallKind, Key};
use crate::protocol::Frame;

/// The acks of this many joins and leaves that were given up are still recognised.
const GIVEN_UP: usize = 1000;

#[derive(Debug, Default)]
pub(super) struct Groups {
    all: BTreeMap<Arc<str>, Group>,
    given_up: VecDeque<GivenUp>,
}

/// Kept while the client is a member, or while an ack that is to come may be about it.
#[derive(Debug, Default)]
struct Group {
    joined: Option<Joined>,
    /// The place in the order of writes of the join or leave that decided.
    decided: u64,
    /// Joins and leaves whose acks may still come.
    undecided: usize,
}

/// The call that joined a group: on a new connection the identical frame goes out again, under the
/// same id, which is fresh there.
#[derive(Debug, Clone)]
pub(super) struct Joined {
    pub(super) ack_id: u64,
    pub(super) frame: Frame,
}

/// A written join or leave that ended without its ack.
#[derive(Debug)]
struct GivenUp {
    ack_id: u64,
    group: Arc<str>,
    order: u64,
    /// What the group is then.
    joined: Option<Joined>,
}

impl Groups {
    pub(super) fn joined(&self) -> impl Iterator<Item = (&Arc<str>, &Joined)> {
        self.all.iter().filter_map(|(name, group)| group.joined.as_ref().map(|j| (name, j)))
    }

    /// A call is in the table of calls now. It leaves it by `ended` or `gave_up`.
    pub(super) fn began(&mut self, kind: &CallKind) {
        let Some(name) = kind.group() else { return };
        self.all.entry(Arc::clone(name)).or_default().undecided += 1;
    }

    /// The service carried out a call, which then `ended`.
    pub(super) fn succeeded<W>(&mut self, call: &Call<W>) {
        if let (Some(name), Some(order)) = (call.kind.group(), call.order()) {
            self.decide(&Arc::clone(name), order, joined(call));
        }
    }

    /// A call has left the table for good.
    pub(super) fn ended(&mut self, kind: &CallKind) {
        if let Some(name) = kind.group() {
            self.no_more_acks(name);
        }
    }

    /// A call has left the table without its ack, which may still come if it is written.
    pub(super) fn gave_up<W>(&mut self, call: &Call<W>) {
        let Some(name) = call.kind.group() else { return };
        let (Key::Ack(ack_id), Some(order)) = (call.key, call.order()) else {
            return self.no_more_acks(name);
        };
        if self.given_up.len() == GIVEN_UP
            && let Some(oldest) = self.given_up.pop_front()
        {
            self.no_more_acks(&oldest.group);
        }
        let group = Arc::clone(name);
        self.given_up.push_back(GivenUp { ack_id, group, order, joined: joined(call) });
    }

    /// An ack came for which there is no call.
    pub(super) fn late_ack(&mut self, ack_id: u64, success: bool) {
        let Some(at) = self.given_up.iter().position(|given_up| given_up.ack_id == ack_id) else {
            return;
        };
        let Some(GivenUp { group, order, joined, .. }) = self.given_up.remove(at) else { return };
        if success {
            self.decide(&group, order, joined);
        }
        self.no_more_acks(&group);
    }

    /// Acks of the old connection cannot come any more.
    pub(super) fn connection_over(&mut self) {
        for given_up in std::mem::take(&mut self.given_up) {
            self.no_more_acks(&given_up.group);
        }
    }

    /// A later join or leave of the group has been acked, so the service has carried out this call
    /// too, and to do so again would undo the later one.
    pub(super) fn is_superseded<W>(&self, call: &Call<W>) -> bool {
        let decided = call.kind.group().and_then(|name| self.all.get(name)).map(|g| g.decided);
        call.order() < decided
    }

    /// The group could not be joined again. False if a later call has decided about it.
    pub(super) fn rejoin_failed<W>(&mut self, call: &Call<W>) -> bool {
        let Some(group) = call.kind.group().and_then(|name| self.all.get_mut(name)) else {
            return false;
        };
        if call.order().is_some_and(|order| order < group.decided) {
            return false;
        }
        group.joined = None;
        true
    }

    pub(super) fn forget(&mut self, name: &str) {
        if let Some(group) = self.all.get_mut(name) {
            group.joined = None;
            self.drop_unused(name);
        }
    }

    pub(super) fn forget_all(&mut self) {
        self.all.retain(|_, group| {
            group.joined = None;
            group.undecided > 0
        });
    }

    fn decide(&mut self, name: &str, order: u64, joined: Option<Joined>) {
        if let Some(group) = self.all.get_mut(name)
            && (order > group.decided || Bug::JoinByAckOrder.is_on())
        {
            group.decided = order;
            group.joined = joined;
        }
    }

    fn no_more_acks(&mut self, name: &str) {
        if let Some(group) = self.all.get_mut(name) {
            group.undecided -= 1;
            self.drop_unused(name);
        }
    }

    fn drop_unused(&mut self, name: &str) {
        if self.all.get(name).is_some_and(|g| g.joined.is_none() && g.undecided == 0) {
            self.all.remove(name);
        }
    }
}

fn joined<W>(call: &Call<W>) -> Option<Joined> {
    match (call.key, &call.kind) {
        (Key::Ack(ack_id), CallKind::Join(_) | CallKind::Rejoin(_)) => {
            Some(Joined { ack_id, frame: call.frame.clone() })
        }
        _ => None,
    }
}
