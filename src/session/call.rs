//! One call: what it asks for, and how far it has come.

use std::sync::Arc;
use std::time::Instant;

use crate::protocol::Frame;

/// What names a call until it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Key {
    Ack(u64),
    /// Fire and forget: it ends when it is sent.
    Unacked(u64),
    /// An invocation. Its id on the wire is this number in decimal, from a counter of the client,
    /// so that a late answer cannot meet a later call.
    #[cfg_attr(not(feature = "preview"), allow(dead_code))]
    Invocation(u64),
}

impl Key {
    pub(crate) fn id(self) -> u64 {
        match self {
            Self::Ack(id) | Self::Unacked(id) | Self::Invocation(id) => id,
        }
    }
}

#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "preview"), allow(dead_code))]
pub(crate) enum CallKind {
    Join(Arc<str>),
    Leave(Arc<str>),
    /// The join of a subscription.
    Subscribe(Arc<str>),
    /// Our own join: after a new connection, or for a subscription that waits for a connection.
    Rejoin(Arc<str>),
    /// Our own leave, after the last subscription of a group.
    Release(Arc<str>),
    /// A publication.
    Message,
    /// An event to the app server, whose handler may take its time. Every frame of the simple
    /// client counts as one.
    Event,
    /// The client's own state in a group.
    SetState(Arc<str>),
    ClearState(Arc<str>),
    /// The request of a watch of a group's states.
    WatchState(Arc<str>),
    /// Our own, on a new connection: the state that the client has set, the request of its watches.
    RestoreState(Arc<str>),
    RewatchState(Arc<str>),
    /// Our own, after the last watch of a group that is not left.
    UnwatchState,
    /// A call of the app server, which ends with its answer.
    Invoke,
}

impl CallKind {
    /// The group whose membership it changes.
    pub(super) fn group(&self) -> Option<&Arc<str>> {
        match self {
            Self::Join(group)
            | Self::Leave(group)
            | Self::Subscribe(group)
            | Self::Rejoin(group)
            | Self::Release(group) => Some(group),
            _ => None,
        }
    }

    /// It is about the states in a group, for which one must be a member.
    pub(super) fn is_of_state(&self) -> bool {
        matches!(
            self,
            Self::SetState(_)
                | Self::ClearState(_)
                | Self::WatchState(_)
                | Self::RestoreState(_)
                | Self::RewatchState(_)
        )
    }

    /// What the service answers it with.
    pub(super) fn awaited(&self) -> &'static str {
        if matches!(self, Self::Invoke) { "answer" } else { "ack" }
    }
}

/// A call, checked and encoded. The client makes it; the session keeps it until it ends.
#[derive(Debug)]
pub(crate) struct Call<W> {
    pub(crate) key: Key,
    pub(crate) kind: CallKind,
    pub(crate) frame: Frame,
    /// Kept by the session, whether a thread waits for the outcome or not. (Rejoins have a common
    /// one, see `Session::own_until`.)
    pub(crate) deadline: Instant,
    pub(crate) waiter: Option<W>,
    pub(super) place: Place,
    /// It was written on an earlier connection.
    pub(super) written_before: bool,
    /// For an event that is written: silence of the peer proves nothing until then.
    pub(super) patience: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Not in the table yet.
    New,
    /// Its place in the order of all writes of calls with an ack id.
    Written(u64),
    /// Its place in `waiting`.
    Waiting(u64),
}

impl<W> Call<W> {
    pub(crate) fn new(key: Key, kind: CallKind, frame: Frame, deadline: Instant) -> Self {
        Self {
            key,
            kind,
            frame,
            deadline,
            waiter: None,
            place: Place::New,
            written_before: false,
            patience: None,
        }
    }

    /// It may have reached the service, on this connection or an earlier one.
    pub(super) fn was_written(&self) -> bool {
        self.written_before || self.order().is_some()
    }

    /// Its place in the order of writes, if it is written on this connection. Orders go up over
    /// the whole life of the session.
    pub(super) fn order(&self) -> Option<u64> {
        match self.place {
            Place::Written(order) => Some(order),
            Place::New | Place::Waiting(_) => None,
        }
    }

    pub(super) fn size(&self) -> usize {
        self.frame.as_bytes().len()
    }

    /// No call of the program: nobody waits for it, and its deadline does not run without a link.
    pub(super) fn is_own(&self) -> bool {
        matches!(
            self.kind,
            CallKind::Rejoin(_)
                | CallKind::Release(_)
                | CallKind::RestoreState(_)
                | CallKind::RewatchState(_)
                | CallKind::UnwatchState
        )
    }
}
