//! Streams of fragments through the faults: who publishes them, who reads them, and what must hold.
//!
//! **Readers.** Fragments come in order and each once, over all that a subscriber sees of one stream.
//! What ends a stream comes behind everything that was acknowledged. A subscriber that never lost its
//! session sees each stream from its first fragment to its end.
//!
//! **Ends.** A stream whose `finish` succeeded ends in order, with every fragment; a reader gets an
//! error of it only if its own connection was lost for good. One that was given up never ends in order.
//! Each call of the publisher returns within its limit, and every reader learns of an end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use webpubsub::emulator::Faults;
use webpubsub::{
    Client, Error, ErrorKind, OpenStream, Payload, Result, StreamReader, StreamSubscription,
    StreamWriter, SubscribeStreams,
};

use super::listener::{parse, text};

/// Nobody publishes plain messages to it.
const GROUP: &str = "streams";

/// Of opening and of ending a stream. Short, because some answers are lost.
const LIMIT: Duration = Duration::from_secs(3);
/// Without any acknowledgment.
const STALL: Duration = Duration::from_secs(3);
/// Longer than the two, so that the client's own limits are met too.
pub(crate) const IDLE: Duration = Duration::from_secs(6);
/// A fragment may also wait for as long as a lost link may be recovered.
const SEND_LIMIT: Duration = Duration::from_secs(STALL.as_secs() + 30);
/// For a machine that has other things to do.
pub(crate) const SLACK: Duration = Duration::from_secs(3);

/// So few that all publishers together do not drive a subscriber that pauses beyond the service's limit.
const WINDOW: usize = 16;
/// No fragment is sent while a subscriber that must keep its session is this far behind: less than
/// where plain messages slow down.
const FAR_BEHIND: usize = 300;

const LOOK: Duration = Duration::from_millis(3);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Finished,
    /// `finish` failed.
    MaybeFinished,
    /// `finish` was never called.
    GivenUp,
}

/// What became of a stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Published {
    pub(crate) sent: usize,
    pub(crate) acked: usize,
    pub(crate) fate: Fate,
}

/// Publishes one stream after the other.
pub(crate) struct Streamer<'a> {
    client: &'a Client,
    place: usize,
    /// The serial number of the next stream, and the step to the one after it.
    next: (usize, usize),
    behind: &'a AtomicUsize,
    rng: StdRng,
    pub(crate) published: BTreeMap<usize, Published>,
    pub(crate) errors: Vec<String>,
}

impl<'a> Streamer<'a> {
    pub(crate) fn new(
        client: &'a Client,
        (place, publishers): (usize, usize),
        seed: u64,
        behind: &'a AtomicUsize,
    ) -> Self {
        Self {
            client,
            place,
            next: (place, publishers),
            behind,
            rng: StdRng::seed_from_u64(seed.wrapping_add(1000 + place as u64)),
            published: BTreeMap::new(),
            errors: Vec::new(),
        }
    }

    pub(crate) fn publish_until(&mut self, stop: &AtomicBool) {
        while !stop.load(SeqCst) {
            let serial = self.next.0;
            self.next.0 += self.next.1;
            let mut published = Published { sent: 0, acked: 0, fate: Fate::GivenUp };
            let spec = OpenStream::new(GROUP)
                // As long as the shortest message, for the faults that count bytes.
                .stream_id(format!("{serial:040}"))
                .idle_timeout(IDLE)
                .stall_timeout(STALL)
                .max_unacked_fragments(WINDOW)
                .timeout(LIMIT);
            let start = Instant::now();
            let opened = self.client.open_stream(spec);
            if self.succeeded("open", start, LIMIT, &opened)
                && let Ok(writer) = opened
            {
                self.write(writer, serial, &mut published, stop);
            }
            self.published.insert(serial, published);
            thread::sleep(Duration::from_millis(self.rng.random_range(0..50)));
        }
    }

    fn write(
        &mut self,
        mut writer: StreamWriter,
        serial: usize,
        published: &mut Published,
        stop: &AtomicBool,
    ) {
        for number in 0..self.rng.random_range(1..=100) {
            while self.behind.load(SeqCst) >= FAR_BEHIND && !stop.load(SeqCst) {
                thread::sleep(LOOK);
            }
            // Up to 64 KiB, short ones mostly.
            let length = 40 << self.rng.random_range(0..=10_u32);
            let fragment = text(serial, number, self.rng.random_range(40..=length.max(41)));
            let payload = match self.rng.random_bool(0.3) {
                true => Payload::from(fragment.into_bytes()),
                false => Payload::from(fragment),
            };
            let start = Instant::now();
            let sent = writer.send(payload);
            if !self.succeeded("send", start, SEND_LIMIT, &sent) {
                published.acked = writer.acked() as usize;
                return;
            }
            published.sent += 1;
            thread::sleep(Duration::from_millis(self.rng.random_range(0..12)));
        }
        published.acked = writer.acked() as usize;
        let start = Instant::now();
        match self.rng.random_range(0..10) {
            0 => drop(writer),
            1 | 2 => {
                let aborted = writer.abort("enough", "soak");
                self.succeeded("abort", start, LIMIT, &aborted);
            }
            _ => {
                let finished = writer.finish();
                published.fate = match self.succeeded("finish", start, LIMIT, &finished) {
                    true => Fate::Finished,
                    false => Fate::MaybeFinished,
                };
            }
        }
        if published.fate == Fate::Finished {
            published.acked = published.sent;
        }
    }

    /// Notes what may not be: an outcome that is late, or of a kind for which nothing here is a reason.
    fn succeeded<T>(
        &mut self,
        what: &str,
        start: Instant,
        limit: Duration,
        outcome: &Result<T>,
    ) -> bool {
        let (place, took) = (self.place, start.elapsed());
        if took > limit + SLACK {
            self.errors.push(format!("publisher {place}: {what} took {took:.1?}"));
        }
        let Err(error) = outcome else { return true };
        if !is_expected(error) {
            self.errors.push(format!("publisher {place}: {what}: {error:?}"));
        }
        false
    }
}

fn is_expected(error: &Error) -> bool {
    let names = ["InternalServerError", "IdleTimeout", "StreamNotFound"];
    match error.kind() {
        ErrorKind::OutcomeUnknown | ErrorKind::Timeout => true,
        ErrorKind::Refused => {
            error.close_code().is_some()
                || error.service_error_name().is_some_and(|name| names.contains(&name))
        }
        _ => false,
    }
}

/// What a subscriber saw of a stream, on one connection.
#[derive(Debug)]
pub(crate) struct Record {
    serial: usize,
    /// The number of its first fragment, and one more than that of its last.
    from: usize,
    to: usize,
    wrong: Option<String>,
    /// `None` in order.
    end: Option<Error>,
}

impl Record {
    fn new(id: &str) -> Self {
        // A stream that nobody publishes is complained about like one that was never opened.
        let serial = id.parse().unwrap_or(usize::MAX);
        Self { serial, from: 0, to: 0, wrong: None, end: None }
    }

    fn take(&mut self, part: &Payload) {
        let text = match &part {
            Payload::Binary(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
            other => other.text().unwrap_or_default(),
        };
        match parse(text) {
            Some((serial, n)) if serial == self.serial && (n == self.to || self.to == 0) => {
                if self.to == 0 {
                    self.from = n;
                }
                self.to = n + 1;
            }
            other => {
                let to = self.to;
                self.wrong.get_or_insert(format!("{other:?} came instead of fragment {to}"));
            }
        }
    }

    pub(crate) fn fragments(&self) -> u64 {
        (self.to - self.from) as u64
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.from == 0 && self.end.is_none()
    }
}

/// Every second subscriber wants streams from their start only.
pub(crate) fn subscribe(client: &Client, place: usize) -> Result<StreamSubscription> {
    let spec = SubscribeStreams::new(GROUP);
    client.subscribe_streams(if place.is_multiple_of(2) { spec } else { spec.from_start() })
}

/// Reads all streams side by side, up to the end of the client.
pub(crate) fn read(subscription: &StreamSubscription) -> Vec<Record> {
    let mut over = Vec::new();
    let mut open: Vec<(StreamReader, Record)> = Vec::new();
    loop {
        match subscription.recv_timeout(LOOK) {
            Ok(Some(reader)) => {
                let record = Record::new(reader.stream_id());
                open.push((reader, record));
            }
            Ok(None) => {}
            Err(_) if open.is_empty() => return over,
            Err(_) => thread::sleep(LOOK),
        }
        for (mut reader, mut record) in std::mem::take(&mut open) {
            let end = loop {
                match reader.try_recv() {
                    Ok(Some(part)) => record.take(&part),
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            };
            match end {
                None => open.push((reader, record)),
                Some(error) => {
                    record.end = (!reader.is_complete()).then_some(error);
                    over.push(record);
                }
            }
        }
    }
}

/// Everything wrong with the streams that one subscriber saw; see the module.
pub(crate) fn check(
    records: &[Record],
    published: &BTreeMap<usize, Published>,
    lost_session: bool,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut seen: BTreeMap<usize, usize> = BTreeMap::new();
    for record in records {
        let mut complain = |why: String| wrong.push(format!("stream {}: {why}", record.serial));
        let Some(stream) = published.get(&record.serial) else {
            complain("nobody published it".to_owned());
            continue;
        };
        record.wrong.iter().for_each(|why| complain(why.clone()));
        let before = seen.insert(record.serial, record.to).unwrap_or(0);
        if record.from < before || (record.from > 0 && !lost_session) {
            complain(format!("begins with {}, after {before} ({stream:?})", record.from));
        }
        let Some(error) = &record.end else {
            if record.to != stream.sent || stream.fate == Fate::GivenUp {
                complain(format!("ends in order at {} ({stream:?})", record.to));
            }
            continue;
        };
        let fits = match (error.kind(), error.service_error_name()) {
            (ErrorKind::Disconnected, _) => lost_session,
            (ErrorKind::StreamFailed, Some("UserError" | "Cancelled" | "IdleTimeout")) => {
                stream.fate != Fate::Finished && record.to >= stream.acked
            }
            _ => false,
        };
        if !fits {
            complain(format!("ends at {} by {error:?} ({stream:?})", record.to));
        }
    }
    if !lost_session {
        let missing = |(serial, stream): &(&usize, &Published)| {
            seen.get(serial).copied().unwrap_or(0) < stream.acked
        };
        let missing = published.iter().filter(missing);
        wrong.extend(missing.map(|(serial, stream)| {
            let to = seen.get(serial).copied().unwrap_or(0);
            format!("stream {serial}: seen up to {to} only ({stream:?})")
        }));
    }
    wrong
}

/// The faults of streams and invocations alone, beside all the others, until told to stop.
pub(crate) fn torment(faults: &Faults, seed: u64, stop: &AtomicBool) {
    let mut rng = StdRng::seed_from_u64(seed.wrapping_add(2000));
    while !stop.load(SeqCst) {
        let count = rng.random_range(1..=3);
        let pause = Duration::from_millis(rng.random_range(50..=400));
        match rng.random_range(0..8) {
            0 | 1 => faults.refuse_next_fragments(rng.random_range(1..=50), 2 * count),
            2 => faults.lose_next_stream_acks(4 * count),
            3 => faults.hold_stream_acks(true),
            4 => faults.lose_next_invocation_responses(count),
            5 => faults.hold_invocation_responses(true),
            6 if rng.random_bool(0.5) => faults.refuse_next_stream_starts(count),
            6 => faults.ignore_next_stream_starts(1),
            _ => faults.lose_next_stream_closes(1),
        }
        thread::sleep(pause);
        faults.hold_stream_acks(false);
        faults.hold_invocation_responses(false);
    }
    faults.refuse_next_fragments(1, 0);
    faults.lose_next_stream_acks(0);
    faults.lose_next_invocation_responses(0);
    faults.refuse_next_stream_starts(0);
    faults.ignore_next_stream_starts(0);
    faults.lose_next_stream_closes(0);
}

#[path = "streams_tests.rs"]
#[cfg(test)]
mod tests;
