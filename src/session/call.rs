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
    /// A call of the app server, which ends with its answer.
    #[cfg_attr(not(feature = "preview"), allow(dead_code))]
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
            Self::Message | Self::Event | Self::Invoke => None,
        }
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
        matches!(self.kind, CallKind::Rejoin(_) | CallKind::Release(_))
    }
}
