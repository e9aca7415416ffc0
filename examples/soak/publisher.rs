//! Who sends: publications and events, acked or fired, and the handler that the events go to.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use webpubsub::emulator::{EmulatedEvent, EventAnswer};
use webpubsub::{Client, Error, ErrorKind, PendingAck, Publish, Result, SendEvent};

use super::check::{Fate, Sent};
use super::invocations;
use super::listener::{parse, text};

pub(crate) const GROUP: &str = "room";

/// How many calls of one publisher are under way at once. With the pauses below one publisher sends
/// some 150 messages a second, so that a subscriber that is away for a second or two does not run
/// into the 1000 unacknowledged messages after which the service ends its session.
const IN_FLIGHT: usize = 8;

/// How many messages each publisher sends after the faults.
const FAREWELL: usize = 50;

/// When a subscriber that must keep its session has left so many messages unacknowledged, the
/// publishers send one a second each, so that the longest pause stays below the service's limit.
const FAR_BEHIND: usize = 600;
const TRICKLE: Duration = Duration::from_secs(1);

/// Of so many calls one is an event; of as many publications one is fired without an ack.
const ONE_IN: u32 = 8;

/// The codes of a Close that blames the client for what it sent.
const BLAMING: [u16; 4] = [1002, 1003, 1007, 1009];

#[derive(Clone, Copy)]
enum What {
    Publication,
    Event,
}

pub(crate) struct Publisher<'a> {
    client: &'a Client,
    pub(crate) place: usize,
    /// How far the subscriber that is furthest behind is.
    behind: &'a AtomicUsize,
    rng: StdRng,
    pending: VecDeque<(What, usize, PendingAck)>,
    pub(crate) sent: Sent,
    pub(crate) events: Sent,
    pub(crate) errors: Vec<String>,
}

impl<'a> Publisher<'a> {
    pub(crate) fn new(
        client: &'a Client,
        place: usize,
        seed: u64,
        behind: &'a AtomicUsize,
    ) -> Self {
        Self {
            client,
            place,
            behind,
            rng: StdRng::seed_from_u64(seed.wrapping_add(1 + place as u64)),
            pending: VecDeque::new(),
            sent: Sent::default(),
            events: Sent::default(),
            errors: Vec::new(),
        }
    }

    /// Bursts with pauses, until told to stop; then waits for the outcome of every call.
    pub(crate) fn publish_until(&mut self, stop: &AtomicBool) {
        while !stop.load(SeqCst) {
            let is_far_behind = self.behind.load(SeqCst) >= FAR_BEHIND;
            let most = if is_far_behind { 1 } else { 6 };
            for _ in 0..self.rng.random_range(1..=most) {
                self.send();
            }
            let pause = Duration::from_micros(self.rng.random_range(2_000..40_000));
            let end = Instant::now() + if is_far_behind { TRICKLE } else { pause };
            while Instant::now() < end && !stop.load(SeqCst) {
                thread::sleep(pause.min(end.saturating_duration_since(Instant::now())));
            }
        }
        self.settle(0);
    }

    pub(crate) fn farewell(&mut self) {
        self.sent.calm_from = self.sent.fates.len();
        self.events.calm_from = self.events.fates.len();
        for _ in 0..FAREWELL {
            self.start(What::Publication);
        }
        self.settle(0);
    }

    fn send(&mut self) {
        if self.rng.random_ratio(1, ONE_IN) {
            self.start(What::Event);
        } else if self.rng.random_ratio(1, ONE_IN) {
            self.fire();
        } else {
            self.start(What::Publication);
        }
    }

    fn start(&mut self, what: What) {
        let text = self.next_text(what);
        let started = match what {
            What::Publication => self.client.start(Publish::new(GROUP, text)),
            What::Event => self.client.start(SendEvent::new("work", text)),
        };
        let n = self.note(what, Fate::Unknown);
        match started {
            Ok(pending) => self.pending.push_back((what, n, pending)),
            // Nothing that happens here may keep a call from being accepted.
            Err(error) => self.complain(&error),
        }
        self.settle(IN_FLIGHT);
    }

    fn fire(&mut self) {
        let text = self.next_text(What::Publication);
        let fired: Result<()> = self.client.fire_and_forget(Publish::new(GROUP, text));
        self.note(What::Publication, Fate::Fired);
        if let Err(error) = fired {
            self.complain(&error);
        }
    }

    fn of(&mut self, what: What) -> &mut Sent {
        match what {
            What::Publication => &mut self.sent,
            What::Event => &mut self.events,
        }
    }

    fn next_text(&mut self, what: What) -> String {
        let length = self.rng.random_range(40..=400);
        let place = self.place;
        text(place, self.of(what).fates.len(), length)
    }

    fn note(&mut self, what: What, fate: Fate) -> usize {
        let fates = &mut self.of(what).fates;
        fates.push(fate);
        fates.len() - 1
    }

    fn complain(&mut self, error: &Error) {
        self.errors.push(format!("publisher {}: {error:?}", self.place));
    }

    /// Waits for the oldest calls until at most so many are under way. Two kinds of failure are
    /// allowed: the session was lost for good and the outcome is unknown, or the service closed it
    /// over something that was in flight. The verdict knows whether that session could be lost.
    fn settle(&mut self, most: usize) {
        while self.pending.len() > most {
            let Some((what, n, oldest)) = self.pending.pop_front() else { break };
            let fate = match oldest.wait() {
                Ok(ack) if ack.duplicate => Fate::AckedDuplicate,
                Ok(_) => Fate::Acked,
                Err(error) => self.fate_of(&error),
            };
            self.of(what).fates[n] = fate;
        }
    }

    fn fate_of(&mut self, error: &Error) -> Fate {
        let blamed = error.kind() == ErrorKind::Refused
            && error.close_code().is_some_and(|code| BLAMING.contains(&code));
        if blamed && error.may_have_been_delivered() {
            return Fate::Blamed;
        }
        if error.kind() != ErrorKind::OutcomeUnknown || !error.may_have_been_delivered() {
            self.complain(error);
        }
        Fate::Unknown
    }
}

/// The event handler: it notes what it is called for, answers with the event's own text, and is slow
/// when a fault wants that.
#[derive(Debug, Default)]
pub(crate) struct Handler {
    slow: AtomicU64,
    pause_ms: AtomicU64,
    /// How often it was slow.
    pub(crate) slept: AtomicU64,
    /// By whether it was an invocation, sender and number.
    runs: Mutex<HashMap<(bool, usize, usize), u32>>,
}

impl Handler {
    /// The next so many events take that long.
    pub(crate) fn slow_down(&self, events: u64, pause: Duration) {
        self.pause_ms.store(pause.as_millis() as u64, SeqCst);
        self.slow.store(events, SeqCst);
    }

    pub(crate) fn handle(&self, event: &EmulatedEvent) -> EventAnswer {
        let text = event.payload.text().unwrap_or_default();
        let Some((sender, n)) = parse(text) else { return EventAnswer::Failure };
        let invoked = event.invocation_id.is_some();
        let key = (invoked, sender, n);
        *self.runs.lock().expect("the counts").entry(key).or_default() += 1;
        if self.slow.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
            thread::sleep(Duration::from_millis(self.pause_ms.load(SeqCst)));
            self.slept.fetch_add(1, SeqCst);
        }
        if invoked {
            return invocations::answer(n, event);
        }
        EventAnswer::Message(event.payload.clone())
    }

    /// How often it ran for an event, or for an invocation.
    pub(crate) fn runs(&self, invoked: bool, sender: usize, n: usize) -> u32 {
        let runs = self.runs.lock().expect("the counts");
        runs.get(&(invoked, sender, n)).copied().unwrap_or(0)
    }

    /// What is wrong with the runs for one sender's events: an acked one is handled exactly once,
    /// any other at most once.
    pub(crate) fn check(&self, sender: usize, events: &Sent) -> Vec<String> {
        let mut wrong = Vec::new();
        for (n, fate) in events.fates.iter().enumerate() {
            let count = self.runs(false, sender, n);
            if count > 1 || (count == 0 && fate.is_acked()) {
                wrong.push(format!("event {n} of publisher {sender} ran {count} times ({fate:?})"));
            }
        }
        wrong
    }
}
