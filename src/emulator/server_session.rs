//! One logical connection: what survives the loss of its transport.
//!
//! Invariants: sequence ids go up by one per numbered message and are never reused; the replay
//! buffer holds exactly the numbered messages above the last acknowledged id, but for those whose
//! time is over; an ack id is in the memory from the moment its request has succeeded. A repeat
//! cannot come in between, because a session does one thing at a time and everything waits behind
//! an event that is with the event handler.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::grants::Grants;
use super::group_state::GroupStates;
use super::inbound::Held;
use super::outbox::Outbox;
use super::streams::Stream;
use crate::protocol::{Frame, JsonForm, Protocol};
use crate::secret::Secret;

/// What the client speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Raw frames that become the event `message`.
    SimpleEvents,
    /// Raw frames that are published to one group, to the sender too unless `no_echo`.
    SimpleGroup {
        group: Arc<str>,
        no_echo: bool,
    },
    PubSub(Protocol),
}

impl Kind {
    pub(super) fn protocol(&self) -> Option<Protocol> {
        match self {
            Self::PubSub(protocol) => Some(*protocol),
            _ => None,
        }
    }

    pub(super) fn is_reliable(&self) -> bool {
        self.protocol().is_some_and(Protocol::is_reliable)
    }
}

#[derive(Debug)]
pub(super) struct ServerSession {
    pub(super) id: Arc<str>,
    pub(super) hub: Arc<str>,
    pub(super) user: Option<Arc<str>>,
    pub(super) kind: Kind,
    /// How its JSON frames are written.
    pub(super) json: JsonForm,
    pub(super) grants: Grants,
    pub(super) groups: BTreeSet<Arc<str>>,
    /// Every token handed out is good, as a signed one would be.
    pub(super) tokens: Vec<Secret>,
    /// The transport, if there is one.
    pub(super) outbox: Option<Arc<Outbox>>,
    pub(super) lost_at: Option<Duration>,
    pub(super) acked: AckMemory,
    pub(super) replay: Replay,
    /// The event that is with the event handler.
    pub(super) running: Option<Running>,
    /// What came behind it.
    pub(super) held: Held,
    /// Acks that a fault holds back.
    pub(super) held_acks: Vec<Frame>,
    /// Answers to invocations, likewise.
    pub(super) held_responses: Vec<Frame>,
    /// The streams that it publishes, by id.
    pub(super) streams: BTreeMap<Arc<str>, Stream>,
    pub(super) states: GroupStates,
    /// How many messages were sent to it so far.
    pub(super) messages: u64,
    /// Whether it has been reported as connected.
    pub(super) reported: bool,
}

impl ServerSession {
    pub(super) fn info(&self, now: Duration) -> ConnectionInfo {
        ConnectionInfo {
            hub: self.hub.to_string(),
            id: self.id.to_string(),
            user_id: self.user.as_deref().map(Into::into),
            groups: self.groups.iter().map(ToString::to_string).collect(),
            is_open: self.outbox.is_some(),
            unacked: self.replay.alive(now).count(),
        }
    }
}

/// What [`Emulator::connections`](super::Emulator::connections) reports of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// The hub, in lower case.
    pub hub: String,
    /// The connection id.
    pub id: String,
    /// The user id.
    pub user_id: Option<String>,
    /// The groups it is a member of, in alphabetical order.
    pub groups: Vec<String>,
    /// Whether it has a transport now; otherwise it waits for recovery.
    pub is_open: bool,
    /// Numbered messages that it has not acknowledged, without those whose `ttlSeconds` are over.
    pub unacked: usize,
}

/// What is with the event handler.
#[derive(Debug)]
pub(super) enum Running {
    Event {
        ack_id: Option<u64>,
    },
    /// With the transport on which it came.
    Invocation {
        id: String,
        link: u64,
    },
}

/// The ack ids of the last requests that succeeded. One that was refused is not in here: it may be
/// sent again under its id, and pushes no other out.
#[derive(Debug)]
pub(super) struct AckMemory {
    limit: usize,
    known: HashSet<u64>,
    order: VecDeque<u64>,
}

impl AckMemory {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, known: HashSet::new(), order: VecDeque::new() }
    }

    pub(super) fn contains(&self, id: u64) -> bool {
        self.known.contains(&id)
    }

    /// The request with this id has succeeded.
    pub(super) fn insert(&mut self, id: u64) {
        if !self.known.insert(id) {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > self.limit
            && let Some(old) = self.order.pop_front()
        {
            self.known.remove(&old);
        }
    }
}

#[derive(Debug)]
struct Kept {
    id: u64,
    frame: Frame,
    /// By the emulator's clock; from then on the message is not sent again and counts no longer.
    expires: Option<Duration>,
}

impl Kept {
    fn is_alive(&self, now: Duration) -> bool {
        self.expires.is_none_or(|at| now < at)
    }
}

/// Numbered messages that the client has not acknowledged.
#[derive(Debug)]
pub(super) struct Replay {
    next: u64,
    kept: VecDeque<Kept>,
    bytes: usize,
    /// Nothing in `kept` expires before that.
    next_expiry: Option<Duration>,
    /// Acknowledged ones, kept only while a fault wants them again.
    released: VecDeque<(u64, Frame)>,
}

impl Replay {
    /// How many acknowledged messages the fault `duplicate_replay` sends again.
    const KEEP_RELEASED: usize = 100;

    pub(super) fn new() -> Self {
        Self {
            next: 1,
            kept: VecDeque::new(),
            bytes: 0,
            next_expiry: None,
            released: VecDeque::new(),
        }
    }

    /// The number of the next message.
    pub(super) fn next_id(&self) -> u64 {
        self.next
    }

    pub(super) fn keep(&mut self, frame: Frame, expires: Option<Duration>) {
        self.bytes += frame.as_bytes().len();
        self.kept.push_back(Kept { id: self.next, frame, expires });
        self.next += 1;
        self.next_expiry = [self.next_expiry, expires].into_iter().flatten().min();
    }

    /// Forgets the messages whose time is over.
    pub(super) fn drop_expired(&mut self, now: Duration) {
        if self.next_expiry.is_none_or(|at| now < at) {
            return;
        }
        self.kept.retain(|kept| kept.is_alive(now));
        self.bytes = self.kept.iter().map(|kept| kept.frame.as_bytes().len()).sum();
        self.next_expiry = self.kept.iter().filter_map(|kept| kept.expires).min();
    }

    fn alive(&self, now: Duration) -> impl Iterator<Item = &Kept> {
        self.kept.iter().filter(move |kept| kept.is_alive(now))
    }

    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Everything up to that id has arrived. An id above all that was sent releases all.
    pub(super) fn release(&mut self, up_to: u64, keep_released: bool) {
        while self.kept.front().is_some_and(|kept| kept.id <= up_to) {
            let Some(Kept { id, frame, .. }) = self.kept.pop_front() else { break };
            self.bytes -= frame.as_bytes().len();
            if keep_released {
                self.released.push_back((id, frame));
                if self.released.len() > Self::KEEP_RELEASED {
                    self.released.pop_front();
                }
            }
        }
    }

    /// What is sent after a recovery. For a fault the first `again` of those that were acknowledged
    /// lately, and of the others, are sent in front of that.
    pub(super) fn frames(&self, again: usize) -> Vec<Frame> {
        let kept = self.kept.iter().map(|kept| &kept.frame);
        let released = self.released.iter().map(|(_, frame)| frame);
        released.chain(kept.clone()).take(again).chain(kept).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_ids_are_remembered() {
        let mut memory = AckMemory::new(3);
        for id in [1, 2, 3, 1, 4] {
            memory.insert(id);
        }
        let known: Vec<u64> = (0..6).filter(|id| memory.contains(*id)).collect();
        assert_eq!(known, [2, 3, 4], "1 was the first of four");
    }

    #[test]
    fn expired_messages_leave_no_trace() {
        let mut replay = Replay::new();
        let second = Duration::from_secs;
        for (text, expires) in [("a", None), ("bb", Some(5)), ("ccc", Some(3)), ("d", None)] {
            replay.keep(Frame::Text(text.into()), expires.map(second));
        }
        replay.drop_expired(second(3));
        assert_eq!((replay.len(), replay.bytes()), (3, 4));
        assert_eq!(replay.alive(second(5)).count(), 2);
        replay.drop_expired(second(5));
        let left = ["a", "d"].map(|text| Frame::Text(text.into()));
        assert_eq!((replay.frames(0), replay.bytes()), (left.to_vec(), 2));
        replay.release(4, false);
        assert_eq!((replay.len(), replay.bytes(), replay.next_id()), (0, 0, 5));
    }

    #[test]
    fn release_is_cumulative_and_may_be_too_high() {
        let mut replay = Replay::new();
        for text in ["a", "bb", "c"] {
            replay.keep(Frame::Text(text.into()), None);
        }
        replay.release(2, false);
        assert_eq!((replay.len(), replay.bytes(), replay.next_id()), (1, 1, 4));
        replay.release(1, false);
        assert_eq!(replay.frames(0), [Frame::Text("c".into())]);
        replay.release(u64::MAX, true);
        assert_eq!((replay.len(), replay.bytes()), (0, 0));
        assert_eq!(replay.frames(9), [Frame::Text("c".into())]);
    }
}
