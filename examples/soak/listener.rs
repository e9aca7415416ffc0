//! Who reads a client's events: some read at once, the subscribers also pause, on their own plan or
//! because a fault wants their queue to fill up.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use webpubsub::crossbeam_channel::{Receiver, RecvTimeoutError};
use webpubsub::{Error, Event};

use super::check::Entry;
use super::faults::{HUB, Scene};

/// What clients reported, where the emulator's counters cannot know.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// `Recovering` and `Disconnected` events whose cause was a reset connection.
    pub(crate) resets: AtomicU64,
    /// All close codes that events named.
    pub(crate) codes: Mutex<BTreeSet<u16>>,
    pub(crate) ended: Mutex<Vec<Ended>>,
}

/// A session that its client reported as over.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Whose it was.
    pub(crate) client: usize,
    pub(crate) id: String,
    /// Whether the emulator still kept it when the report was read.
    pub(crate) kept: bool,
    pub(crate) cause: String,
}

/// The faults' hold on one consumer, and what they can see of it.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// While this is set the consumer reads nothing.
    pub(crate) held: AtomicBool,
    /// By publisher: one more than the highest number that came.
    pub(crate) next: Vec<AtomicUsize>,
}

impl Gate {
    pub(crate) fn new(publishers: usize) -> Self {
        Self { next: (0..publishers).map(|_| AtomicUsize::new(0)).collect(), ..Self::default() }
    }
}

/// When a consumer pauses: as long as it likes between two limits, short and long ones alike, then
/// it reads for one to four times as long.
pub(crate) struct Pauses {
    rng: StdRng,
    shortest: Duration,
    longest: Duration,
    next: Instant,
    pub(crate) count: u64,
    pub(crate) most: Duration,
}

impl Pauses {
    pub(crate) fn new(seed: u64, (shortest, longest): (Duration, Duration)) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let next = Instant::now() + longest.mul_f64(rng.random_range(0.0..0.5));
        Self { rng, shortest, longest, next, count: 0, most: Duration::ZERO }
    }

    /// The end of the pause that begins now, if one does.
    fn begin(&mut self) -> Option<Instant> {
        let now = Instant::now();
        if now < self.next {
            return None;
        }
        let ratio = self.longest.as_secs_f64() / self.shortest.as_secs_f64();
        let length = self.shortest.mul_f64(ratio.powf(self.rng.random_range(0.0..=1.0)));
        self.next = now + length.mul_f64(self.rng.random_range(2.0..5.0));
        self.count += 1;
        self.most = self.most.max(length);
        Some(now + length)
    }
}

/// Reads the events of one client until their end.
pub(crate) struct Listener<'a> {
    pub(crate) client: usize,
    pub(crate) scene: Scene<'a>,
    pub(crate) events: Receiver<Event>,
    pub(crate) pauses: Option<Pauses>,
    /// The faults are over: no more pauses.
    pub(crate) calm: &'a AtomicBool,
}

/// How often a consumer that does not read looks whether it may.
const LOOK: Duration = Duration::from_millis(2);

impl Listener<'_> {
    pub(crate) fn listen(mut self) -> (Vec<Entry>, Option<Pauses>) {
        let (mut log, mut id) = (Vec::new(), String::new());
        loop {
            self.pause();
            match self.events.recv_timeout(10 * LOOK) {
                Ok(event) => log.push(self.note(&event, &mut id)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return (log, self.pauses),
            }
        }
    }

    fn gate(&self) -> &Gate {
        &self.scene.gates[self.client]
    }

    fn pause(&mut self) {
        let calm = || self.calm.load(SeqCst);
        while self.gate().held.load(SeqCst) && !calm() {
            thread::sleep(LOOK);
        }
        if let Some(pauses) = &mut self.pauses
            && !calm()
            && let Some(until) = pauses.begin()
        {
            while Instant::now() < until && !calm() {
                thread::sleep(LOOK);
            }
        }
    }

    fn note(&self, event: &Event, id: &mut String) -> Entry {
        match event {
            Event::GroupMessage(message) => match parse(message.text().unwrap_or_default()) {
                Some((publisher, n)) => {
                    if let Some(next) = self.gate().next.get(publisher) {
                        next.fetch_max(n + 1, SeqCst);
                    }
                    Entry::Message { publisher, n }
                }
                None => Entry::Strange,
            },
            Event::ServerMessage(message) => match parse(message.text().unwrap_or_default()) {
                Some((publisher, n)) if publisher == self.client => Entry::Answer { n },
                _ => Entry::Strange,
            },
            Event::Connected(connected) => {
                connected.connection_id.as_ref().clone_into(id);
                Entry::Connected { gap_possible: connected.gap_possible }
            }
            Event::Recovering(recovering) => {
                self.lost(&recovering.cause);
                Entry::Recovering
            }
            Event::Recovered(_) => Entry::Recovered,
            Event::Disconnected(over) => {
                self.lost(&over.cause);
                let kept = self.scene.emulator.connections(HUB).iter().any(|info| info.id == *id);
                let (id, cause) = (std::mem::take(id), format!("{:#}", over.cause));
                let ended = Ended { client: self.client, id, kept, cause };
                self.scene.seen.ended.lock().expect("the list").push(ended);
                Entry::Disconnected { maybe_lost: over.maybe_lost }
            }
            Event::Reconnecting(_) => Entry::Reconnecting,
            Event::Lagged(count) => Entry::Lagged { count: *count },
            Event::Stopped(_) => Entry::Stopped,
            _ => Entry::Strange,
        }
    }

    fn lost(&self, cause: &Error) {
        if is_reset(cause) {
            self.scene.seen.resets.fetch_add(1, SeqCst);
        }
        self.scene.seen.codes.lock().expect("the list").extend(cause.close_code());
    }
}

fn is_reset(error: &Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::ConnectionReset)
}

/// Sender, number, the text's length, padding. Between what is written here and what is read by
/// `parse` nothing may change.
pub(crate) fn text(sender: usize, n: usize, length: usize) -> String {
    let mut text = format!("{sender} {n} {length} ");
    text.extend(std::iter::repeat_n('x', length.saturating_sub(text.len())));
    text
}

/// Sender and number, if the text is whole.
pub(crate) fn parse(text: &str) -> Option<(usize, usize)> {
    let mut words = text.split(' ').map(str::parse::<usize>);
    match (words.next(), words.next(), words.next()) {
        (Some(Ok(sender)), Some(Ok(n)), Some(Ok(length))) if length == text.len() => {
            Some((sender, n))
        }
        _ => None,
    }
}
