//! The table of calls: waiting to be written, or written and waiting for their ack.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::hash::{BuildHasher, Hasher};
use std::time::Instant;

use super::bug::Bug;
use super::call::{Call, Key, Place};
use super::patience;
use crate::protocol::Frame;

/// The service remembers this many ack ids. A call after which that many others were written must
/// not be sent again: the service may have forgotten that it ran it.
const REMEMBERED: u64 = 1000;

/// The heap of deadlines may hold this many entries of calls that have ended, in addition to as many as
/// there are calls, before it is cleaned.
const ENDED_DEADLINES: usize = 64;

/// Spreads keys over the table by one multiplication. They come from a counter or from the program
/// itself, so nobody has an interest in making them collide.
#[derive(Debug, Default, Clone, Copy)]
struct Spread;

impl BuildHasher for Spread {
    type Hasher = SpreadHasher;
    fn build_hasher(&self) -> SpreadHasher {
        SpreadHasher(0)
    }
}

struct SpreadHasher(u64);

impl Hasher for SpreadHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u64(u64::from(*b)));
    }
    fn write_u64(&mut self, n: u64) {
        // The golden ratio; the table looks at the high bits and the low ones.
        let mixed = (self.0 ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
    fn write_isize(&mut self, n: isize) {
        self.0 ^= n as u64;
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Debug)]
pub(super) struct Calls<W> {
    all: HashMap<Key, Call<W>, Spread>,
    waiting: BTreeMap<u64, Key>,
    waiting_bytes: usize,
    /// Places at the end of `waiting`; what is issued again gets places before the first.
    next_place: u64,
    written: usize,
    written_bytes: usize,
    writes: u64,
    max_written: usize,
    max_written_bytes: usize,
    /// How many of the calls are our own.
    own: usize,
    /// The deadline of each call except our own, the earliest first. The entry of a call that has
    /// ended stays until it is met or until the heap is cleaned: to look for it would cost each
    /// call a scan.
    deadlines: BinaryHeap<Reverse<(Instant, Key)>>,
}

/// A frame to append to the link now.
#[derive(Debug)]
pub(super) struct ToSend<W> {
    pub(super) frame: Frame,
    pub(super) patience: Option<Instant>,
    /// For a call without an ack, which has ended with this: its waiter and id.
    pub(super) ended: Option<(Option<W>, u64)>,
}

impl<W> Calls<W> {
    pub(super) fn new(max_written: usize, max_written_bytes: usize) -> Self {
        Self {
            all: HashMap::default(),
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            next_place: 1 << 63,
            written: 0,
            written_bytes: 0,
            writes: 0,
            max_written,
            max_written_bytes,
            own: 0,
            deadlines: BinaryHeap::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Bytes of the calls that wait to be written.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    pub(super) fn any_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn own(&self) -> usize {
        self.own
    }

    pub(super) fn any_own(&self) -> bool {
        self.own > 0
    }

    pub(super) fn contains(&self, key: Key) -> bool {
        self.all.contains_key(&key)
    }

    pub(super) fn get(&self, key: Key) -> Option<&Call<W>> {
        self.all.get(&key)
    }

    /// Adds a call that waits to be written.
    pub(super) fn add(&mut self, mut call: Call<W>) {
        let place = self.next_place;
        self.next_place += 1;
        self.waiting.insert(place, call.key);
        self.waiting_bytes += call.size();
        call.place = Place::Waiting(place);
        self.insert(call);
    }

    /// Whether a new call may be written before it is in the table: nothing waits before it, and it
    /// fits.
    pub(super) fn may_go_now(&self, call: &Call<W>) -> bool {
        self.waiting.is_empty() && !matches!(call.key, Key::Unacked(_)) && self.fits(call.size())
    }

    /// Adds a call that is written now.
    pub(super) fn add_written(&mut self, now: Instant, mut call: Call<W>) -> ToSend<W> {
        call.place = self.note_written(call.size());
        call.patience = patience::of(&call, now);
        let sent = ToSend { frame: call.frame.clone(), patience: call.patience, ended: None };
        self.insert(call);
        sent
    }

    /// A single frame above the byte limit goes when nothing else is under way.
    fn fits(&self, size: usize) -> bool {
        self.written < self.max_written
            && (self.written == 0 || self.written_bytes + size <= self.max_written_bytes)
    }

    fn note_written(&mut self, size: usize) -> Place {
        self.writes += 1;
        self.written += 1;
        self.written_bytes += size;
        Place::Written(self.writes)
    }

    fn insert(&mut self, call: Call<W>) {
        if call.is_own() {
            self.own += 1;
        } else {
            let Self { all, deadlines, .. } = self;
            if deadlines.len() >= 2 * all.len() + ENDED_DEADLINES {
                deadlines.retain(|Reverse((at, key))| is_current(all, *at, *key));
            }
            deadlines.push(Reverse((call.deadline, call.key)));
        }
        self.all.insert(call.key, call);
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Call<W>> {
        let call = self.all.remove(&key)?;
        match call.place {
            Place::New => {}
            Place::Waiting(place) => {
                self.waiting.remove(&place);
                self.waiting_bytes -= call.size();
            }
            Place::Written(_) => {
                self.written -= 1;
                self.written_bytes -= call.size();
            }
        }
        if call.is_own() {
            self.own -= 1;
        }
        if self.all.is_empty() {
            self.deadlines.clear();
        }
        Some(call)
    }

    /// For an ack: it cannot mean a call that has not been written on this connection, even if the
    /// program used an id twice.
    pub(super) fn remove_written(&mut self, key: Key) -> Option<Call<W>> {
        self.all.get(&key)?.order()?;
        self.remove(key)
    }

    /// The next waiting call, if it may be written now.
    pub(super) fn next_to_send(&mut self, now: Instant) -> Option<ToSend<W>> {
        let (&place, &key) = self.waiting.first_key_value()?;
        if let Key::Unacked(id) = key {
            let call = self.remove(key)?;
            let patience = patience::of(&call, now);
            return Some(ToSend { frame: call.frame, patience, ended: Some((call.waiter, id)) });
        }
        let size = self.all.get(&key)?.size();
        if !self.fits(size) {
            return None;
        }
        self.waiting.remove(&place);
        self.waiting_bytes -= size;
        let written = self.note_written(size);
        let call = self.all.get_mut(&key)?;
        call.place = written;
        call.patience = patience::of(call, now);
        Some(ToSend { frame: call.frame.clone(), patience: call.patience, ended: None })
    }

    /// Written calls in the order of their writing, to be sent again on a recovered session, and
    /// the keys of those for which that is no longer safe.
    pub(super) fn resend(&mut self, now: Instant) -> (Vec<ToSend<W>>, Vec<Key>) {
        let (mut again, stale): (Vec<_>, Vec<_>) = self
            .written_in_order()
            .into_iter()
            .partition(|(order, _)| self.writes - order < REMEMBERED);
        let mut frames = Vec::with_capacity(again.len());
        if Bug::ResendBackwards.is_on() {
            again.reverse();
        }
        for (_, key) in again {
            let Some(call) = self.all.get_mut(&key) else { continue };
            call.patience = patience::of(call, now);
            let patience = call.patience;
            frames.push(ToSend { frame: call.frame.clone(), patience, ended: None });
        }
        (frames, stale.into_iter().map(|(_, key)| key).collect())
    }

    pub(super) fn written_in_order(&self) -> Vec<(u64, Key)> {
        let written = |call: &Call<W>| call.order().map(|order| (order, call.key));
        let mut list: Vec<_> = self.all.values().filter_map(written).collect();
        list.sort_unstable_by_key(|(order, _)| *order);
        list
    }

    /// The latest instant up to which a written event allows the peer to be silent.
    pub(super) fn longest_patience(&self) -> Option<Instant> {
        let written = self.all.values().filter(|call| call.order().is_some());
        written.filter_map(|call| call.patience).max()
    }

    /// Puts written calls (in this order) before all that wait.
    pub(super) fn wait_again(&mut self, keys: &[Key]) {
        let front = self.waiting.first_key_value().map_or(self.next_place, |(place, _)| *place);
        for (key, place) in keys.iter().zip(front - keys.len() as u64..) {
            let Some(call) = self.all.get_mut(key) else { continue };
            if call.order().is_some() {
                self.written -= 1;
                self.written_bytes -= call.size();
                self.waiting_bytes += call.size();
                call.written_before = true;
            }
            call.place = Place::Waiting(place);
            self.waiting.insert(place, *key);
        }
    }

    /// Adds calls (in this order) before all that wait.
    pub(super) fn add_first(&mut self, calls: Vec<Call<W>>) {
        let front = self.waiting.first_key_value().map_or(self.next_place, |(place, _)| *place);
        let end = self.next_place;
        self.next_place = front - calls.len() as u64;
        for call in calls {
            self.add(call);
        }
        self.next_place = end;
    }

    /// Our own calls: rejoins and releases of groups.
    pub(super) fn own_keys(&self) -> Vec<Key> {
        if self.own == 0 {
            return Vec::new();
        }
        let mut keys: Vec<Key> =
            self.all.values().filter(|call| call.is_own()).map(|call| call.key).collect();
        keys.sort_unstable();
        keys
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        let mut keys: Vec<Key> = self.written_in_order().into_iter().map(|(_, key)| key).collect();
        keys.extend(self.waiting.values());
        keys
    }

    /// Not later than the earliest deadline of a call.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.peek().map(|Reverse((at, _))| *at)
    }

    /// A call whose deadline has passed, the earliest first. The caller ends it.
    pub(super) fn next_overdue(&mut self, now: Instant) -> Option<Key> {
        while let Some(Reverse((at, key))) = self.deadlines.peek().copied() {
            if now < at {
                return None;
            }
            self.deadlines.pop();
            if is_current(&self.all, at, key) {
                return Some(key);
            }
        }
        None
    }

    /// Forgets deadlines of calls that have ended, so that none of them is the next wake-up.
    pub(super) fn forget_ended_deadlines(&mut self) {
        while let Some(Reverse((at, key))) = self.deadlines.peek().copied()
            && !is_current(&self.all, at, key)
        {
            self.deadlines.pop();
        }
    }
}

fn is_current<W>(all: &HashMap<Key, Call<W>, Spread>, deadline: Instant, key: Key) -> bool {
    all.get(&key).is_some_and(|call| call.deadline == deadline)
}
