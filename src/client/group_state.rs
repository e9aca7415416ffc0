//! States in groups (preview): each member's small map of strings, and who watches them.

mod request;
mod watches;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

#[cfg(feature = "preview")]
use super::handle::Client;
use super::pending::PendingAck;
use super::request::Parts;
use super::shared::{LONGEST, Shared};
use super::wake::may_block;
use crate::error::{Error, Result};
#[cfg(feature = "preview")]
use crate::message::Ack;
use crate::session::{CallKind, Change, Joined, Member};

#[cfg_attr(not(feature = "preview"), allow(unused_imports))]
pub use request::{ClearGroupState, SetGroupState};
pub(super) use watches::{StateLost, Watches};

use watches::Watch;

/// One connection's state in a group, as the service reports it (preview).
///
/// ```
/// # #[cfg(feature = "preview")] {
/// use webpubsub::GroupStateMember;
///
/// // As a program's own tests may need one.
/// let member = GroupStateMember::new("connection-1", [("cursor", "12:4")]);
/// assert_eq!(member.state["cursor"], "12:4");
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupStateMember {
    /// The service's id of the connection. After a new connection the same user is listed with another
    /// one, and for some time with both.
    pub connection_id: Arc<str>,
    /// The user, if the connection has one.
    pub user_id: Option<Arc<str>>,
    /// What it has set; in [`GroupStateChange::Cleared`] what it had set last.
    pub state: BTreeMap<String, String>,
    /// When it was set, by the service's clock.
    pub updated_at: SystemTime,
}

impl GroupStateMember {
    /// A member as a program's own tests may need one; set further fields as you like.
    pub fn new<K: Into<String>, V: Into<String>>(
        connection_id: impl Into<Arc<str>>,
        state: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        Self {
            connection_id: connection_id.into(),
            user_id: None,
            state: state.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
            updated_at: SystemTime::UNIX_EPOCH,
        }
    }

    fn of(member: Member) -> Self {
        let since_1970 = Duration::from_millis(member.updated_at.unsigned_abs());
        let epoch = SystemTime::UNIX_EPOCH;
        let updated_at = match member.updated_at < 0 {
            true => epoch.checked_sub(since_1970),
            false => epoch.checked_add(since_1970),
        };
        Self {
            connection_id: member.connection_id.into(),
            user_id: member.user_id.map(Into::into),
            state: member.state,
            // What no clock can express is no time.
            updated_at: updated_at.unwrap_or(epoch),
        }
    }
}

/// What has changed in a group that is watched (preview).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupStateChange {
    /// A member has set its state.
    Set(GroupStateMember),
    /// A member has cleared its state, has left the group, or is gone.
    Cleared(GroupStateMember),
    /// The service has sent a new list: read [`GroupStateWatch::members`] again. It does so on a new
    /// connection, and when the program watches the group once more.
    Replaced,
}

/// The states of a group's members, kept up to date; made by `Client::watch_group_state` (preview).
///
/// It is a list ([`members`](Self::members)) and its changes ([`recv`](Self::recv)). Changes are merged:
/// of each member only the last one is there to be read, so a slow reader costs no memory, never holds
/// up the connection, and misses intermediate states, never the last one.
///
#[cfg_attr(feature = "emulator", doc = "```")]
#[cfg_attr(not(feature = "emulator"), doc = "```ignore")]
/// # use webpubsub::{Client, GroupStateChange, emulator::Emulator};
/// # fn main() -> webpubsub::Result<()> {
/// # let emulator = Emulator::start()?;
/// # use webpubsub::{ClientAccess, Role};
/// # let access = ClientAccess::new().role(Role::join_leave()).role(Role::set_group_state())
/// #     .role(Role::get_group_state());
/// # let client = Client::connect(emulator.url_for("chat", &access)?)?;
/// let states = client.watch_group_state("doc")?; // joined, and listed, when this returns
/// client.set_group_state("doc", [("cursor", "12:4")])?;
/// loop {
///     match states.recv()? {
///         GroupStateChange::Set(member) => println!("{}: {:?}", member.connection_id, member.state),
///         GroupStateChange::Cleared(member) => println!("{} is gone", member.connection_id),
///         GroupStateChange::Replaced => println!("{} members", states.members().len()),
///         _ => {}
///     }
/// #   break;
/// }
/// # client.close() }
/// ```
///
/// # Threads
/// `Send + Sync`. Several threads may call [`recv`](Self::recv); each change goes to one of them.
///
/// # What drop does
/// It stops watching without waiting. When nothing else holds the group (no subscription, no other
/// watch, no [`Client::join_group`](crate::Client::join_group)), the client's thread leaves it, which
/// clears this client's own state there. A watch does not keep its client alive.
#[must_use = "dropping it stops watching"]
pub struct GroupStateWatch {
    shared: Arc<Shared>,
    group: Arc<str>,
    watch: Arc<Watch>,
}

impl GroupStateWatch {
    /// Who has a state in the group, by connection id, this client included. Between two connections, and
    /// after the end, it is what was known last.
    #[must_use]
    pub fn members(&self) -> Vec<GroupStateMember> {
        let members = self.watch.lock().states.members();
        members.into_iter().map(GroupStateMember::of).collect()
    }

    /// The service's last list had 200 members, the most that one has: others may be missing until they
    /// set their state again.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        self.watch.lock().states.is_truncated()
    }

    /// Blocks until the next change.
    ///
    /// # Errors
    /// Why nothing more comes: the group could not be joined or watched on a new connection, or the
    /// client has ended.
    pub fn recv(&self) -> Result<GroupStateChange> {
        may_block()?;
        loop {
            if let Some(change) = self.watch.next(None).map_err(|cause| self.ended(cause))? {
                return Ok(change_of(change));
            }
        }
    }

    /// Blocks for at most `limit`; `None` if nothing has changed.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn recv_timeout(&self, limit: Duration) -> Result<Option<GroupStateChange>> {
        may_block()?;
        self.next_by(limit)
    }

    /// Does not block; `None` if nothing has changed.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn try_recv(&self) -> Result<Option<GroupStateChange>> {
        self.next_by(Duration::ZERO)
    }

    fn next_by(&self, limit: Duration) -> Result<Option<GroupStateChange>> {
        let now = Instant::now();
        let until = now.checked_add(limit).unwrap_or(now + LONGEST);
        let change = self.watch.next(Some(until)).map_err(|cause| self.ended(cause))?;
        Ok(change.map(change_of))
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.group
    }

    /// After the end of the client it is told as everywhere else.
    fn ended(&self, cause: Error) -> Error {
        match self.shared.lock().session.ended() {
            Some(ended) => crate::session::ended_error(ended, false),
            None => cause,
        }
    }
}

fn change_of(change: Change) -> GroupStateChange {
    match change {
        Change::Set(member) => GroupStateChange::Set(GroupStateMember::of(member)),
        Change::Cleared(member) => GroupStateChange::Cleared(GroupStateMember::of(member)),
        Change::Replaced => GroupStateChange::Replaced,
    }
}

impl Drop for GroupStateWatch {
    fn drop(&mut self) {
        self.shared.unwatch(&self.group, &self.watch);
    }
}

impl fmt::Debug for GroupStateWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.watch.lock();
        f.debug_struct("GroupStateWatch")
            .field("group", &self.group)
            .field("members", &state.states.members().len())
            .field("ended", &state.end)
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "preview")]
impl Client {
    /// Sets this connection's state in a group, which those who watch the group see; blocks until the
    /// service has acked, at most until the call's deadline (preview).
    ///
    /// It replaces the state that was set before. It needs membership ([`join_group`](Self::join_group),
    /// a subscription or a watch), and ends with that: by leaving, or when the connection is over. On a
    /// new connection the client sets it again after it has joined the group. At most 512 bytes, keys and
    /// values together.
    ///
    #[cfg_attr(feature = "emulator", doc = "```")]
    #[cfg_attr(not(feature = "emulator"), doc = "```ignore")]
    /// # use webpubsub::{Client, ClientAccess, Role, emulator::Emulator};
    /// # fn main() -> webpubsub::Result<()> {
    /// # let emulator = Emulator::start()?;
    /// let access = ClientAccess::new().role(Role::join_leave()).role(Role::set_group_state());
    /// let client = Client::connect(emulator.url_for("chat", &access)?)?;
    /// client.join_group("doc")?;
    /// client.set_group_state("doc", [("cursor", "12:4"), ("name", "Anna")])?;
    /// # client.close() }
    /// ```
    ///
    /// # Errors
    /// As [`call`](Self::call); `InvalidRequest` if the state is too large; `Refused` with `Forbidden` if
    /// the client is no member, or the token lacks the role
    /// [`Role::set_group_state`](crate::Role::set_group_state).
    pub fn set_group_state<K: Into<String>, V: Into<String>>(
        &self,
        group: impl AsRef<str>,
        state: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Ack> {
        self.call(SetGroupState::new(group, state))
    }

    /// Clears this connection's state in a group; blocks until the service has acked, at most until the
    /// call's deadline (preview).
    ///
    #[cfg_attr(feature = "emulator", doc = "```")]
    #[cfg_attr(not(feature = "emulator"), doc = "```ignore")]
    /// # use webpubsub::{Client, ClientAccess, Role, emulator::Emulator};
    /// # fn main() -> webpubsub::Result<()> {
    /// # let emulator = Emulator::start()?;
    /// # let access = ClientAccess::new().role(Role::join_leave()).role(Role::set_group_state());
    /// # let client = Client::connect(emulator.url_for("chat", &access)?)?;
    /// # client.join_group("doc")?;
    /// client.set_group_state("doc", [("typing", "yes")])?;
    /// client.clear_group_state("doc")?;
    /// # client.close() }
    /// ```
    ///
    /// # Errors
    /// As [`set_group_state`](Self::set_group_state).
    pub fn clear_group_state(&self, group: impl AsRef<str>) -> Result<Ack> {
        self.call(ClearGroupState::new(group))
    }

    /// Watches the states of a group's members (preview). Joins the group, as
    /// [`subscribe`](Self::subscribe) does, and blocks until the service has sent its first list, at most
    /// for the call timeout. On a new connection it joins and watches again.
    ///
    /// The group's messages come too: to [`events`](Self::events), unless a subscription takes them.
    ///
    #[cfg_attr(feature = "emulator", doc = "```")]
    #[cfg_attr(not(feature = "emulator"), doc = "```ignore")]
    /// # use webpubsub::{Client, ClientAccess, Role, emulator::Emulator};
    /// # fn main() -> webpubsub::Result<()> {
    /// # let emulator = Emulator::start()?;
    /// let access = ClientAccess::new().role(Role::join_leave()).role(Role::get_group_state());
    /// let client = Client::connect(emulator.url_for("chat", &access)?)?;
    /// let states = client.watch_group_state("doc")?;
    /// for member in states.members() {
    ///     println!("{:?}: {:?}", member.user_id, member.state);
    /// }
    /// # client.close() }
    /// ```
    ///
    /// # Errors
    /// As [`call`](Self::call); `Refused` with `Forbidden` if the token lacks the role to join, or
    /// [`Role::get_group_state`](crate::Role::get_group_state).
    pub fn watch_group_state(&self, group: impl AsRef<str>) -> Result<GroupStateWatch> {
        self.shared().watch_group_state(&group.as_ref().into())
    }
}

impl Shared {
    fn watch_group_state(self: &Arc<Self>, group: &Arc<str>) -> Result<GroupStateWatch> {
        let now = Instant::now();
        let mut join = Parts::join(group).prepare(self, now)?;
        join.kind = CallKind::Subscribe(Arc::clone(group));
        let request = Parts::watch_state(group).prepare(self, now)?;
        let again = Joined { ack_id: request.key.id(), frame: request.frame.clone() };
        let deadline = join.deadline;
        let size = join.frame.as_bytes().len() + request.frame.as_bytes().len();
        let watch = Arc::new(Watch::new(self.hook.clone()));
        let begun = self.with_place(now, deadline, size, true, |session, now| {
            // No subscription can refuse the request that did not refuse the join.
            if let Some(refused) = session.refuses(join.key, &join.kind) {
                return Err(refused);
            }
            session.watched(group, again);
            // Before the request is sent, so no list behind it is missed.
            self.watches.add(group, &watch);
            let join: PendingAck = self.register(session, now, join);
            let request: PendingAck = self.register(session, now, request);
            Ok((join, request))
        });
        let (begun, after) = begun?;
        self.finish(after, now);
        let (join, request) = begun?;
        let (shared, group) = (Arc::clone(self), Arc::clone(group));
        // From here on its drop takes everything back.
        let handle = GroupStateWatch { shared, group, watch };
        join.wait()?;
        request.wait()?;
        handle.watch.first_list(deadline).map_err(|cause| handle.ended(cause))?;
        Ok(handle)
    }

    fn unwatch(&self, group: &Arc<str>, watch: &Arc<Watch>) {
        let now = Instant::now();
        let leave = self.membership(Parts::leave(group), now);
        let request = self.membership(Parts::unwatch_state(group), now);
        let ((), after) = self.step(|session| {
            let found = session.unsubscribed(now, group, || Some((leave.ok()?, None)));
            if let Ok(request) = request {
                session.unwatched(now, group, found, request);
            }
        });
        self.watches.remove(group, watch);
        self.finish(after, now);
    }
}
