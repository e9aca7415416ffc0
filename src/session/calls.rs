//! The table of calls: waiting to be written, or written and waiting for their ack.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, ErrorKind};
use crate::protocol::Frame;

/// The service remembers so many ack ids. A call after which that many others were written must
/// not be sent again: the service may have forgotten that it ran it.
const REMEMBERED: u64 = 1000;

/// What names a call until it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Key {
    Ack(u64),
    /// Fire and forget: it ends when it is sent.
    Unacked(u64),
}

#[derive(Debug, Clone)]
pub(crate) enum CallKind {
    Join(Arc<str>),
    Leave(Arc<str>),
    /// Our own, after a new connection.
    Rejoin(Arc<str>),
    /// A publication or an event.
    Message,
}

#[derive(Debug)]
pub(crate) struct NewCall<W> {
    pub(crate) key: Key,
    pub(crate) kind: CallKind,
    pub(crate) frame: Frame,
    pub(crate) waiter: Option<W>,
    pub(crate) deadline: Instant,
    /// No thread of the program watches the deadline, so the reader does.
    pub(crate) watched: bool,
}

#[derive(Debug)]
pub(super) struct Call<W> {
    pub(super) kind: CallKind,
    pub(super) frame: Frame,
    pub(super) waiter: Option<W>,
    deadline: Instant,
    watched: bool,
    place: Place,
    /// It was written on an earlier link or connection.
    written_before: bool,
}

/// Ordered as the wire is: what was written goes before what waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// The how-manieth write of a call with an ack id it was. Only differences count, and those
    /// only within a connection, because ack ids are scoped to one.
    Written(u64),
    /// Its place in `waiting`.
    Waiting(u64),
}

impl<W> Call<W> {
    pub(super) fn was_written(&self) -> bool {
        self.written_before || matches!(self.place, Place::Written(_))
    }
}

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
    /// Places at the end of `waiting`; what is issued again gets places before the first.
    next_place: u64,
    written: usize,
    written_bytes: usize,
    writes: u64,
    max_written: usize,
    max_written_bytes: usize,
    /// Not later than the earliest deadline of a watched call.
    earliest: Option<Instant>,
}

/// A frame to send; for a call without an ack also its waiter, which is then done.
type ToSend<W> = (Frame, Option<(Option<W>, u64)>);

impl<W> Calls<W> {
    pub(super) fn new(max_written: usize, max_written_bytes: usize) -> Self {
        Self {
            all: HashMap::default(),
            waiting: BTreeMap::new(),
            next_place: 1 << 63,
            written: 0,
            written_bytes: 0,
            writes: 0,
            max_written,
            max_written_bytes,
            earliest: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn any_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn contains(&self, key: Key) -> bool {
        self.all.contains_key(&key)
    }

    /// Adds a call that waits to be written.
    pub(super) fn add(&mut self, new: NewCall<W>) {
        let place = self.next_place;
        self.next_place += 1;
        self.waiting.insert(place, new.key);
        self.insert(new, Place::Waiting(place));
    }

    /// Adds a call that is written now, if nothing waits before it and it fits; else gives it
    /// back. Gives the frame to send.
    pub(super) fn add_written(&mut self, new: NewCall<W>) -> Result<Frame, NewCall<W>> {
        let size = new.frame.as_bytes().len();
        if !self.waiting.is_empty() || !matches!(new.key, Key::Ack(_)) || !self.fits(size) {
            return Err(new);
        }
        let frame = new.frame.clone();
        let place = self.note_written(size);
        self.insert(new, place);
        Ok(frame)
    }

    /// Something waits that does not fit.
    pub(super) fn is_full(&self) -> bool {
        self.written >= self.max_written || self.written_bytes >= self.max_written_bytes
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

    fn insert(&mut self, new: NewCall<W>, place: Place) {
        if new.watched {
            self.earliest = Some(self.earliest.map_or(new.deadline, |e| e.min(new.deadline)));
        }
        let call = Call {
            kind: new.kind,
            frame: new.frame,
            waiter: new.waiter,
            deadline: new.deadline,
            watched: new.watched,
            place,
            written_before: false,
        };
        self.all.insert(new.key, call);
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Call<W>> {
        let call = self.all.remove(&key)?;
        match call.place {
            Place::Waiting(place) => {
                self.waiting.remove(&place);
            }
            Place::Written(_) => {
                self.written -= 1;
                self.written_bytes -= call.frame.as_bytes().len();
            }
        }
        if self.all.is_empty() {
            self.earliest = None;
        }
        Some(call)
    }

    /// For an ack: it cannot mean a call that has not been written on this connection, even if the
    /// program used an id twice.
    pub(super) fn remove_written(&mut self, key: Key) -> Option<Call<W>> {
        let call = self.all.get(&key)?;
        if matches!(call.place, Place::Written(_)) { self.remove(key) } else { None }
    }

    /// The next waiting call, if it may be written now.
    pub(super) fn next_to_send(&mut self) -> Option<ToSend<W>> {
        let (&place, &key) = self.waiting.first_key_value()?;
        if let Key::Unacked(id) = key {
            let call = self.remove(key)?;
            return Some((call.frame, Some((call.waiter, id))));
        }
        let size = self.all.get(&key)?.frame.as_bytes().len();
        if !self.fits(size) {
            return None;
        }
        self.waiting.remove(&place);
        let written = self.note_written(size);
        let call = self.all.get_mut(&key)?;
        call.place = written;
        Some((call.frame.clone(), None))
    }

    /// Written calls in the order of their writing, to be sent again on a recovered session: the
    /// frames, and the keys of those for which that is no longer safe.
    pub(super) fn to_resend(&self) -> (Vec<Frame>, Vec<Key>) {
        let (again, stale): (Vec<_>, Vec<_>) = self
            .written_in_order()
            .into_iter()
            .partition(|(order, _)| self.writes - order < REMEMBERED);
        let frame = |(_, key): &(u64, Key)| self.all.get(key).map(|call| call.frame.clone());
        (again.iter().filter_map(frame).collect(), stale.into_iter().map(|(_, key)| key).collect())
    }

    pub(super) fn written_in_order(&self) -> Vec<(u64, Key)> {
        let written = |(key, call): (&Key, &Call<W>)| match call.place {
            Place::Written(order) => Some((order, *key)),
            Place::Waiting(_) => None,
        };
        let mut list: Vec<_> = self.all.iter().filter_map(written).collect();
        list.sort_unstable_by_key(|(order, _)| *order);
        list
    }

    pub(super) fn is_written(&self, key: Key) -> bool {
        self.all.get(&key).is_some_and(Call::was_written)
    }

    pub(super) fn kind(&self, key: Key) -> Option<&CallKind> {
        self.all.get(&key).map(|call| &call.kind)
    }

    /// Puts written calls (in this order) before all that wait.
    pub(super) fn wait_again(&mut self, keys: &[Key]) {
        let front = self.waiting.first_key_value().map_or(self.next_place, |(place, _)| *place);
        for (key, place) in keys.iter().zip(front - keys.len() as u64..) {
            let Some(call) = self.all.get_mut(key) else { continue };
            if let Place::Written(_) = call.place {
                self.written -= 1;
                self.written_bytes -= call.frame.as_bytes().len();
                call.written_before = true;
            }
            call.place = Place::Waiting(place);
            self.waiting.insert(place, *key);
        }
    }

    /// Adds calls (in this order) before all that wait.
    pub(super) fn add_first(&mut self, calls: Vec<NewCall<W>>) {
        let front = self.waiting.first_key_value().map_or(self.next_place, |(place, _)| *place);
        let end = self.next_place;
        self.next_place = front - calls.len() as u64;
        for call in calls {
            self.add(call);
        }
        self.next_place = end;
    }

    /// Takes back our own calls for the rejoin of groups.
    pub(super) fn remove_rejoins(&mut self) {
        let rejoin = |(_, call): &(&Key, &Call<W>)| matches!(call.kind, CallKind::Rejoin(_));
        let keys: Vec<Key> = self.all.iter().filter(rejoin).map(|(key, _)| *key).collect();
        for key in keys {
            self.remove(key);
        }
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        let mut keys: Vec<Key> = self.written_in_order().into_iter().map(|(_, key)| key).collect();
        keys.extend(self.waiting.values());
        keys
    }

    /// Overdue calls may have been left in the table: the next look finds them.
    pub(super) fn look_again(&mut self) {
        self.earliest =
            self.all.values().filter(|call| call.watched).map(|call| call.deadline).min();
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.earliest
    }

    /// Watched calls whose deadline has passed, the earliest first.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<Key> {
        if self.earliest.is_none_or(|at| now < at) {
            return Vec::new();
        }
        let watched = || self.all.iter().filter(|(_, call)| call.watched);
        let mut overdue: Vec<_> = watched()
            .filter(|(_, call)| call.deadline <= now)
            .map(|(key, call)| (call.deadline, call.place, *key))
            .collect();
        self.earliest = watched().map(|(_, call)| call.deadline).filter(|at| *at > now).min();
        overdue.sort_unstable();
        overdue.into_iter().map(|(_, _, key)| key).collect()
    }
}

pub(super) fn refused(name: &str, message: &str) -> Error {
    let mut text = String::from("the service refused the call");
    for part in [name, message] {
        if !part.is_empty() {
            text.extend([": ", part]);
        }
    }
    let error = Error::new(ErrorKind::Refused, text).with_service_name(name);
    // It failed inside the service or the app's event handler: it may have done part of its work.
    error.maybe_delivered(!matches!(name, "Forbidden" | "BadRequest" | "NotFound"))
}

pub(crate) fn timed_out(written: bool) -> Error {
    let text = if written {
        "no ack came within the time limit of the call; the service may have executed it"
    } else {
        "the call could not be sent within its time limit; nothing was sent"
    };
    Error::new(ErrorKind::Timeout, text).maybe_delivered(written)
}

/// For a call that the end of the client cuts short, or that comes after it.
pub(crate) fn ended_error(cause: &Error, written: bool) -> Error {
    if cause.is_closed() {
        return Error::closed().maybe_delivered(written);
    }
    Error::new(cause.kind(), "the client has stopped")
        .with_facts_of(cause)
        .with_source(cause.clone())
        .maybe_delivered(written)
}
