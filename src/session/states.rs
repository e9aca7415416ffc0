//! States in groups, as far as connections are concerned: which groups are watched, and the client's
//! own states. The service forgets both with a connection, so the next one gets them again, right
//! behind the joins of their groups.
//!
//! What is known of the states of a watched group is kept by
//! [`GroupStates`](super::group_state::GroupStates), not here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::call::{Call, CallKind, Key};
use super::groups::{Joined, Unsubscribed};
use super::{Output, Session};
use crate::error::Error;

#[derive(Debug, Default)]
pub(super) struct States {
    watched: BTreeMap<Arc<str>, Watched>,
    own: BTreeMap<Arc<str>, Own>,
}

/// A group with watches.
#[derive(Debug)]
struct Watched {
    count: usize,
    /// Sent again, identical, on each new connection, where its id is fresh.
    request: Joined,
}

/// What the last set or clear of a group that was acked has made of the client's own state.
#[derive(Debug)]
struct Own {
    /// Its place in the order of writes.
    order: u64,
    /// `None`: it was cleared.
    set: Option<Joined>,
}

impl States {
    /// The service has carried out a call.
    pub(super) fn succeeded<W>(&mut self, call: &Call<W>) {
        match &call.kind {
            CallKind::SetState(group) | CallKind::ClearState(group) => {
                let is_set = matches!(call.kind, CallKind::SetState(_));
                let set =
                    is_set.then(|| Joined { ack_id: call.key.id(), frame: call.frame.clone() });
                let order = call.order().unwrap_or_default();
                if self.own.get(group).is_none_or(|own| own.order < order) {
                    self.own.insert(Arc::clone(group), Own { order, set });
                }
            }
            CallKind::Leave(group) | CallKind::Release(group) => self.left(group),
            _ => {}
        }
    }

    /// The client is no member of the group any more, so its state there is gone.
    pub(super) fn left(&mut self, group: &str) {
        self.own.remove(group);
    }

    /// A later set or clear of the group has been acked, so the service has carried out this one too,
    /// and to do so again would undo the later one.
    pub(super) fn is_superseded<W>(&self, call: &Call<W>) -> bool {
        let (CallKind::SetState(group) | CallKind::ClearState(group)) = &call.kind else {
            return false;
        };
        call.order() < self.own.get(group).map(|own| own.order)
    }

    /// A new connection joins only these groups again.
    pub(super) fn retain(&mut self, is_joined: impl Fn(&str) -> bool) {
        self.own.retain(|group, _| is_joined(group));
    }

    fn restoring<W>(&self, group: &Arc<str>, until: Instant) -> Option<Call<W>> {
        let set = self.own.get(group)?.set.as_ref()?;
        let kind = CallKind::RestoreState(Arc::clone(group));
        Some(Call::new(Key::Ack(set.ack_id), kind, set.frame.clone(), until))
    }

    fn watching<W>(&self, group: &Arc<str>, until: Instant) -> Option<Call<W>> {
        let Joined { ack_id, frame } = &self.watched.get(group)?.request;
        let kind = CallKind::RewatchState(Arc::clone(group));
        Some(Call::new(Key::Ack(*ack_id), kind, frame.clone(), until))
    }
}

impl<W> Session<W> {
    /// A watch of the group's states begins, and holds the group as a subscription does. Its join and
    /// its request follow, as calls.
    pub(crate) fn watched(&mut self, group: &Arc<str>, request: Joined) {
        self.groups.subscribed(group);
        let new = Watched { count: 0, request };
        self.states.watched.entry(Arc::clone(group)).or_insert(new).count += 1;
    }

    /// A watch has ended, and `found` is what that means for its group. `request`: with it the service
    /// stops reporting.
    pub(crate) fn unwatched(
        &mut self,
        now: Instant,
        group: &Arc<str>,
        found: Unsubscribed,
        request: Joined,
    ) {
        let Some(watched) = self.states.watched.get_mut(group) else { return };
        watched.count -= 1;
        if watched.count > 0 {
            return;
        }
        self.states.watched.remove(group);
        // A leave ends it too, and a new connection knows nothing of it.
        let goes_on = matches!(found, Unsubscribed::Subscribed | Unsubscribed::Joined);
        if goes_on && self.identity.is_some() && self.ended.is_none() {
            let Joined { ack_id, frame } = request;
            let kind = CallKind::UnwatchState;
            self.own_call(now, Call::new(Key::Ack(ack_id), kind, frame, now));
        }
    }

    /// What goes to a new connection behind the join of this group. `restores`: the own state too.
    pub(super) fn states_behind_join(
        &mut self,
        group: &Arc<str>,
        until: Instant,
        restores: bool,
    ) -> Vec<Call<W>> {
        let restoring = self.states.restoring(group, until).filter(|_| restores);
        let calls = [restoring, self.states.watching(group, until)].into_iter().flatten();
        let mut free = Vec::new();
        for call in calls {
            match self.calls.get(call.key).map(|other| &other.kind) {
                None => free.push(call),
                // The program's own request is about to be sent again.
                Some(CallKind::WatchState(_)) => {}
                Some(_) => {
                    let text = "a call of the program uses the ack id of an earlier request";
                    self.check_state(&call, &Error::invalid(text));
                }
            }
        }
        free
    }

    /// Reports what could not be done on a new connection.
    pub(super) fn check_state(&mut self, call: &Call<W>, error: &Error) {
        let (group, watch) = match &call.kind {
            CallKind::RestoreState(group) => {
                self.states.left(group);
                (group, false)
            }
            CallKind::RewatchState(group) => (group, true),
            _ => return,
        };
        let (group, error) = (Arc::clone(group), error.clone());
        self.outputs.push_back(Output::StateLost { group, watch, error });
    }
}
