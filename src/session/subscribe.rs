//! What holds a group: the program's own joins, and subscriptions.
//!
//! A group is left when the last holder goes. The leave is a call of our own, as rejoins are: nobody
//! waits for it, and without a link it waits as long as it takes.

use std::sync::Arc;
use std::time::Instant;

use super::Session;
use super::call::{Call, CallKind, Key};
use super::groups::{Joined, Unsubscribed};
use crate::error::Error;

impl<W> Session<W> {
    /// A subscription of the group begins. Its join follows: as a call, or by `want`.
    pub(crate) fn subscribed(&mut self, group: &Arc<str>) {
        self.groups.subscribed(group);
    }

    /// Joins the group of a subscription whenever there is a connection. The client's thread reports
    /// it if the service refuses.
    pub(crate) fn want(&mut self, now: Instant, group: &Arc<str>, join: Joined) {
        if self.groups.want(group, join) && self.is_open() {
            self.join_wanted(now);
        }
    }

    /// Sends the joins that have waited for a connection.
    pub(super) fn join_wanted(&mut self, now: Instant) {
        for (group, join) in self.groups.wanted() {
            let key = Key::Ack(join.ack_id);
            if !self.calls.contains(key) {
                let kind = CallKind::Rejoin(group);
                self.own_call(now, Call::new(key, kind, join.frame, now));
            }
        }
    }

    /// A subscription of the group has ended. If the group is to be left, `leave` is its leave.
    pub(crate) fn unsubscribed(
        &mut self,
        now: Instant,
        group: &Arc<str>,
        leave: impl FnOnce() -> Option<(Joined, Option<W>)>,
    ) -> Unsubscribed {
        let mut found = self.groups.unsubscribed(group);
        if found == Unsubscribed::Leave && self.identity.is_none() && self.groups.forget_left(group)
        {
            // There is no session, so nothing to leave.
            found = Unsubscribed::Over;
        }
        if found == Unsubscribed::Leave
            && self.ended.is_none()
            && let Some((Joined { ack_id, frame }, waiter)) = leave()
        {
            let kind = CallKind::Release(Arc::clone(group));
            let call = Call::new(Key::Ack(ack_id), kind, frame, now);
            self.own_call(now, Call { waiter, ..call });
        }
        found
    }

    pub(super) fn own_call(&mut self, now: Instant, call: Call<W>) {
        self.own_until = self.own_until.max(Some(now + self.config.call_timeout));
        self.groups.began(&call.kind);
        self.calls.add(call);
        self.admit(now);
    }

    /// Why the group cannot be left by a call, if it cannot.
    pub(super) fn refuses_leave(&self, kind: &CallKind) -> Option<Error> {
        let CallKind::Leave(group) = kind else { return None };
        self.groups.is_subscribed(group).then(|| {
            Error::invalid(format!(
                "the group `{group}` is held by a subscription, or by a watch of its states; end that \
                 to leave the group"
            ))
        })
    }
}
