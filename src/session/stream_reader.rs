//! The subscriber's side of streams: which message belongs to which stream, and how each one ends.
//!
//! A stream is told by its group and its id. It may be met in the middle, but not at its mere end. A gap or a repetition ends
//! it for its reader; what still comes of it is ignored up to its last message. The service sends
//! nothing to a subscriber between the fragments, so silence proves nothing: it ends a stream only
//! if the program asks for that.
//!
//! Pure, like the session. Streams that are read and streams that are ignored are bounded together.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::message::{GroupMessage, Payload, StreamFailure};

/// What is read.
#[derive(Debug, Clone)]
pub(crate) struct ReaderConfig {
    /// Streams that are met in the middle are ignored.
    pub(crate) from_start: bool,
    /// A stream that brings nothing for this long is at its end.
    pub(crate) silence_timeout: Option<Duration>,
    /// Streams at a time; further ones are ignored.
    pub(crate) max_streams: usize,
}

impl Default for ReaderConfig {
    fn default() -> Self {
        Self { from_start: false, silence_timeout: None, max_streams: 1024 }
    }
}

/// How a stream ends for its reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// In order: nothing is missing since the first part that was read.
    Complete,
    /// The last message says why.
    Failed(StreamFailure),
    /// The fragment of this number was to come, and the other one came.
    OutOfOrder { expected: u64, came: u64 },
}

/// What a message brings to a stream.
#[derive(Debug, PartialEq)]
pub(crate) struct Arrived {
    /// Our own name of the stream, never used again.
    pub(crate) stream: u64,
    /// It is the first of the stream that is read.
    pub(crate) is_new: bool,
    pub(crate) part: Option<Payload>,
    pub(crate) end: Option<StreamEnd>,
}

#[derive(Debug)]
struct Entry {
    /// `None`: ignored up to its last message.
    open: Option<Open>,
    /// Which of the ignored ones is the oldest.
    since: u64,
}

#[derive(Debug)]
struct Open {
    stream: u64,
    expected: u64,
    heard: Instant,
}

/// The streams of one subscription.
#[derive(Debug)]
pub(crate) struct StreamReaders {
    config: ReaderConfig,
    groups: HashMap<Arc<str>, HashMap<String, Entry>>,
    count: usize,
    last: u64,
    /// Parts of streams that could not begin for want of room.
    turned_away: u64,
}

impl StreamReaders {
    pub(crate) fn new(config: ReaderConfig) -> Self {
        Self { config, groups: HashMap::new(), count: 0, last: 0, turned_away: 0 }
    }

    /// The stream that is being read and that the message belongs to.
    pub(crate) fn current(&self, message: &GroupMessage) -> Option<u64> {
        let part = message.stream.as_deref()?;
        let entry = self.groups.get(&message.group)?.get(&part.stream_id)?;
        entry.open.as_ref().map(|open| open.stream)
    }

    /// A message of a group. `None`: it is no part of a stream that is read. `room`: whether a new
    /// stream may begin with it.
    pub(crate) fn message(
        &mut self,
        now: Instant,
        message: &GroupMessage,
        room: bool,
    ) -> Option<Arrived> {
        let part = message.stream.as_deref()?;
        let (group, id, number) = (&message.group, &*part.stream_id, part.stream_sequence_id);
        let known = self.groups.get(group).and_then(|streams| streams.get(id));
        // A publisher that is gone may leave no last message, and its id may come again.
        let begins = known.is_none_or(|entry| entry.open.is_none() && number == 1);
        let is_part = !part.end_of_stream || !message.payload.as_bytes().is_empty();
        // What is met at its end has nothing to be read, and may have been thrown away long ago.
        let reads = number == 1 || is_part && !self.config.from_start;
        if begins && !self.begin(now, (group, id), number, reads, room) {
            if part.end_of_stream {
                self.forget(group, id);
            }
            return None;
        }
        let open = self.groups.get_mut(group)?.get_mut(id)?.open.as_mut();
        let Some(open) = open else {
            if part.end_of_stream {
                self.forget(group, id);
            }
            return None;
        };
        open.heard = now;
        let (stream, expected) = (open.stream, open.expected);
        let mut arrived = Arrived { stream, is_new: begins, part: None, end: None };
        if number == expected {
            open.expected = number.saturating_add(1);
            // The last message may be there for its own sake.
            arrived.part = is_part.then(|| message.payload.clone());
        } else {
            arrived.end = Some(StreamEnd::OutOfOrder { expected, came: number });
            self.ignore(stream);
        }
        if part.end_of_stream {
            self.forget(group, id);
            let end = part.error.clone().map_or(StreamEnd::Complete, StreamEnd::Failed);
            arrived.end.get_or_insert(end);
        }
        Some(arrived)
    }

    /// A stream that is not known, or that was ignored, begins; true if it is read. `reads`: it is to
    /// be read if there is room for it.
    fn begin(
        &mut self,
        now: Instant,
        (group, id): (&Arc<str>, &str),
        number: u64,
        reads: bool,
        room: bool,
    ) -> bool {
        let known = self.groups.get(group).is_some_and(|streams| streams.contains_key(id));
        let full = !known && self.count >= self.config.max_streams;
        if reads && !room || full && !self.forget_oldest_ignored() {
            self.turned_away += u64::from(reads);
            return false;
        }
        self.last += 1;
        let stream = self.last;
        let open = reads.then_some(Open { stream, expected: number, heard: now });
        let streams = self.groups.entry(Arc::clone(group)).or_default();
        if streams.insert(id.to_owned(), Entry { open, since: stream }).is_none() {
            self.count += 1;
        }
        reads
    }

    fn forget(&mut self, group: &str, id: &str) {
        let Some(streams) = self.groups.get_mut(group) else { return };
        if streams.remove(id).is_some() {
            self.count -= 1;
        }
        if streams.is_empty() {
            self.groups.remove(group);
        }
    }

    fn forget_oldest_ignored(&mut self) -> bool {
        let ignored = self.groups.iter().flat_map(|(group, streams)| {
            let ignored = streams.iter().filter(|(_, entry)| entry.open.is_none());
            ignored.map(move |(id, entry)| (entry.since, group, id))
        });
        let oldest = ignored.min().map(|(_, group, id)| (Arc::clone(group), id.clone()));
        let Some((group, id)) = oldest else { return false };
        self.forget(&group, &id);
        true
    }

    /// How many parts had no room since this was asked last.
    pub(crate) fn take_turned_away(&mut self) -> u64 {
        std::mem::take(&mut self.turned_away)
    }

    /// Nobody reads the stream any more: it is ignored up to its last message.
    pub(crate) fn ignore(&mut self, stream: u64) {
        let entries = self.groups.values_mut().flat_map(HashMap::values_mut);
        let is_it = |entry: &&mut Entry| entry.open.as_ref().is_some_and(|o| o.stream == stream);
        if let Some(entry) = entries.into_iter().find(is_it) {
            entry.open = None;
        }
    }

    /// The group is left, so no last message will come. The streams that end with that.
    pub(crate) fn left(&mut self, group: &str) -> Vec<u64> {
        let Some(streams) = self.groups.remove(group) else { return Vec::new() };
        self.count -= streams.len();
        in_order(streams.into_values())
    }

    /// Fragments may be missing from all streams. Those that end with that.
    pub(crate) fn new_connection(&mut self) -> Vec<u64> {
        self.count = 0;
        in_order(self.groups.drain().flat_map(|(_, streams)| streams.into_values()))
    }

    /// The next instant at which `tick` has something to do.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        let limit = self.config.silence_timeout?;
        let entries = self.groups.values().flat_map(HashMap::values);
        entries.filter_map(|entry| Some(entry.open.as_ref()?.heard + limit)).min()
    }

    /// Nothing is read for a reason of our own, so that nothing comes proves nothing.
    pub(crate) fn excuse(&mut self, now: Instant) {
        let entries = self.groups.values_mut().flat_map(HashMap::values_mut);
        entries.filter_map(|entry| entry.open.as_mut()).for_each(|open| open.heard = now);
    }

    /// The streams that have been silent for too long; they are ignored from now on.
    pub(crate) fn tick(&mut self, now: Instant) -> Vec<u64> {
        let Some(limit) = self.config.silence_timeout else { return Vec::new() };
        let entries = self.groups.values_mut().flat_map(HashMap::values_mut);
        let mut silent: Vec<u64> = entries
            .filter_map(|entry| Some(entry.open.take_if(|open| open.heard + limit <= now)?.stream))
            .collect();
        silent.sort_unstable();
        silent
    }
}

fn in_order(entries: impl Iterator<Item = Entry>) -> Vec<u64> {
    let mut streams: Vec<u64> = entries.filter_map(|entry| Some(entry.open?.stream)).collect();
    streams.sort_unstable();
    streams
}
