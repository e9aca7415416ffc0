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

/// Kept while the client is a member or a subscription holds it, and while an ack that is to come
/// may be about it.
#[derive(Debug, Default)]
struct Group {
    joined: Option<Joined>,
    /// The program joined it by a call of its own, not only by a subscription.
    explicit: bool,
    /// Such calls that have not ended.
    explicit_joins: usize,
    /// Leaves that have not ended.
    leaves: usize,
    subscriptions: usize,
    /// A subscription waits for a connection on which this join can be sent.
    wanted: Option<Joined>,
    /// The place in the order of writes of the join or leave that decided.
    decided: u64,
    /// Joins and leaves whose acks may still come.
    undecided: usize,
}

/// The call that joined a group: on a new connection the identical frame goes out again, under the
/// same id, which is fresh there.
#[derive(Debug, Clone)]
pub(crate) struct Joined {
    pub(crate) ack_id: u64,
    pub(crate) frame: Frame,
}

/// What the end of a subscription means for its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsubscribed {
    /// Another subscription holds the group.
    Subscribed,
    /// The program has joined the group besides.
    Joined,
    /// Nothing holds the group, and the client may be a member: it has to be left.
    Leave,
    /// Nothing holds the group, and the client is no member.
    Over,
}

impl Group {
    fn is_in_use(&self) -> bool {
        self.joined.is_some() || self.undecided > 0 || self.subscriptions > 0
    }

    fn is_held(&self) -> bool {
        self.explicit || self.explicit_joins > 0 || self.subscriptions > 0
    }
}

/// A written join or leave that ended without its ack.
#[derive(Debug)]
struct GivenUp {
    ack_id: u64,
    group: Arc<str>,
    order: u64,
    /// What the group is then.
    joined: Option<Joined>,
    explicit: Option<bool>,
}

impl Groups {
    pub(super) fn joined(&self) -> impl Iterator<Item = (&Arc<str>, &Joined)> {
        self.all.iter().filter_map(|(name, group)| group.joined.as_ref().map(|j| (name, j)))
    }

    /// A call is in the table of calls now. It leaves it by `ended` or `gave_up`.
    pub(super) fn began(&mut self, kind: &CallKind) {
        let Some(name) = kind.group() else { return };
        let group = self.all.entry(Arc::clone(name)).or_default();
        group.undecided += 1;
        match kind {
            CallKind::Join(_) => group.explicit_joins += 1,
            CallKind::Leave(_) | CallKind::Release(_) => group.leaves += 1,
            _ => {}
        }
    }

    /// The service carried out a call, which then `ended`.
    pub(super) fn succeeded<W>(&mut self, call: &Call<W>) {
        if let (Some(name), Some(order)) = (call.kind.group(), call.order()) {
            self.decide(&Arc::clone(name), order, joined(call), explicit(&call.kind));
        }
    }

    /// A call has left the table for good.
    pub(super) fn ended(&mut self, kind: &CallKind) {
        if let Some(name) = kind.group() {
            self.left_table(name, kind);
            self.no_more_acks(name);
        }
    }

    fn left_table(&mut self, name: &str, kind: &CallKind) {
        let Some(group) = self.all.get_mut(name) else { return };
        match kind {
            CallKind::Join(_) => group.explicit_joins -= 1,
            CallKind::Leave(_) | CallKind::Release(_) => group.leaves -= 1,
            _ => {}
        }
    }

    /// A call has left the table without its ack, which may still come if it is written.
    pub(super) fn gave_up<W>(&mut self, call: &Call<W>) {
        let Some(name) = call.kind.group() else { return };
        self.left_table(name, &call.kind);
        let (Key::Ack(ack_id), Some(order)) = (call.key, call.order()) else {
            return self.no_more_acks(name);
        };
        if self.given_up.len() == GIVEN_UP
            && let Some(oldest) = self.given_up.pop_front()
        {
            self.no_more_acks(&oldest.group);
        }
        let group = Arc::clone(name);
        let (joined, explicit) = (joined(call), explicit(&call.kind));
        self.given_up.push_back(GivenUp { ack_id, group, order, joined, explicit });
    }

    /// An ack came for which there is no call. The group, if that was a leave which is carried out.
    pub(super) fn late_ack(&mut self, ack_id: u64, success: bool) -> Option<Arc<str>> {
        let at = self.given_up.iter().position(|given_up| given_up.ack_id == ack_id)?;
        let given_up = self.given_up.remove(at)?;
        let GivenUp { group, order, joined, explicit, .. } = given_up;
        let left = success && joined.is_none();
        if success {
            self.decide(&group, order, joined, explicit);
        }
        self.no_more_acks(&group);
        left.then_some(group)
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
        group.explicit = false;
        group.wanted = None;
        true
    }

    pub(super) fn forget(&mut self, name: &str) {
        if let Some(group) = self.all.get_mut(name) {
            group.joined = None;
            group.explicit = false;
            group.wanted = None;
            self.drop_unused(name);
        }
    }

    /// Nobody holds the group, and there is no session that is in it. False if a call that is still to
    /// be sent would join it.
    pub(super) fn forget_left(&mut self, name: &str) -> bool {
        let forgotten = self.all.get(name).is_some_and(|group| group.undecided == 0);
        if forgotten {
            self.forget(name);
        }
        forgotten
    }

    /// A new connection, which is in no group. `rejoin`: also groups that only the program's own
    /// calls have joined are joined again.
    pub(super) fn new_connection(&mut self, rejoin: bool) {
        self.all.retain(|_, group| {
            group.explicit &= rejoin;
            if !group.is_held() {
                group.joined = None;
            }
            group.is_in_use()
        });
    }

    /// A subscription has begun behind a leave of the program that has not ended, so its join must
    /// follow that leave.
    pub(super) fn joins_behind_leave(&self, name: &str) -> bool {
        self.all.get(name).is_some_and(|group| group.subscriptions > 0 && group.leaves > 0)
    }

    /// What is to be joined on a new connection.
    pub(super) fn to_join(&self) -> impl Iterator<Item = (&Arc<str>, &Joined)> {
        let join = |group: &'_ Group| group.joined.is_some() || group.wanted.is_some();
        self.all.iter().filter(move |(_, group)| join(group)).filter_map(|(name, group)| {
            Some((name, group.joined.as_ref().or(group.wanted.as_ref())?))
        })
    }

    // --- subscriptions -------------------------------------------------------------------------

    /// Whether a subscription holds the group, which then cannot be left by a call.
    pub(super) fn is_subscribed(&self, name: &str) -> bool {
        self.all.get(name).is_some_and(|group| group.subscriptions > 0)
    }

    pub(super) fn subscribed(&mut self, name: &Arc<str>) {
        self.all.entry(Arc::clone(name)).or_default().subscriptions += 1;
    }

    /// Notes that the group is to be joined when there is a connection. False if the client is a
    /// member, or that is noted already.
    pub(super) fn want(&mut self, name: &Arc<str>, join: Joined) -> bool {
        let group = self.all.entry(Arc::clone(name)).or_default();
        // A leave whose ack is still to come, given up or not, would undo the membership.
        if group.joined.is_some() && group.undecided == 0 || group.wanted.is_some() {
            return false;
        }
        group.wanted = Some(join);
        true
    }

    /// The joins of subscriptions that wait for a connection.
    pub(super) fn wanted(&self) -> Vec<(Arc<str>, Joined)> {
        let wanted = |(name, group): (&Arc<str>, &Group)| {
            group.wanted.clone().map(|join| (Arc::clone(name), join))
        };
        self.all.iter().filter_map(wanted).collect()
    }

    pub(super) fn unsubscribed(&mut self, name: &str) -> Unsubscribed {
        let Some(group) = self.all.get_mut(name) else { return Unsubscribed::Over };
        group.subscriptions = group.subscriptions.saturating_sub(1);
        if group.subscriptions > 0 {
            return Unsubscribed::Subscribed;
        }
        group.wanted = None;
        if group.is_held() {
            return Unsubscribed::Joined;
        }
        // A join that was given up may still be carried out.
        if group.joined.is_some() || group.undecided > 0 {
            return Unsubscribed::Leave;
        }
        self.drop_unused(name);
        Unsubscribed::Over
    }

    fn decide(&mut self, name: &str, order: u64, joined: Option<Joined>, explicit: Option<bool>) {
        if let Some(group) = self.all.get_mut(name)
            && (order > group.decided || Bug::JoinByAckOrder.is_on())
        {
            group.decided = order;
            group.joined = joined;
            group.explicit = explicit.unwrap_or(group.explicit);
            if group.joined.is_some() {
                group.wanted = None;
            }
        }
    }

    fn no_more_acks(&mut self, name: &str) {
        if let Some(group) = self.all.get_mut(name) {
            group.undecided -= 1;
            self.drop_unused(name);
        }
    }

    fn drop_unused(&mut self, name: &str) {
        if self.all.get(name).is_some_and(|group| !group.is_in_use()) {
            self.all.remove(name);
        }
    }
}

fn joined<W>(call: &Call<W>) -> Option<Joined> {
    match (call.key, &call.kind) {
        (Key::Ack(ack_id), CallKind::Join(_) | CallKind::Subscribe(_) | CallKind::Rejoin(_)) => {
            Some(Joined { ack_id, frame: call.frame.clone() })
        }
        _ => None,
    }
}

/// Whether the program itself is a member after the call; `None`: as before.
fn explicit(kind: &CallKind) -> Option<bool> {
    match kind {
        CallKind::Join(_) => Some(true),
        CallKind::Leave(_) => Some(false),
        _ => None,
    }
}
