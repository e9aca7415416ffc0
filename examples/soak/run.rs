//! The play: connect everybody, publish through the faults, let all become calm, publish a little
//! more, drain, close, and judge.

use std::collections::VecDeque;
use std::error::Error as _;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use webpubsub::crossbeam_channel::Receiver;
use webpubsub::emulator::Emulator;
use webpubsub::{Client, Error, ErrorKind, Event, PendingAck, Result};

use super::check::{Entry, Fate, Sent};
use super::faults::{DEAD_AFTER, HUB, Lab, PING, RECOVERY_ATTEMPT, Seen};
use super::report::{Material, Report};

const GROUP: &str = "room";

/// So many calls of one publisher are under way at once. With the pauses below one publisher sends
/// some 150 messages a second, so that a subscriber that is away for a second or two does not run
/// into the 1000 unacknowledged messages after which the service ends its session.
const IN_FLIGHT: usize = 8;

/// How many messages each publisher sends after the faults.
const FAREWELL: usize = 50;

/// For what takes milliseconds once the faults are off.
const WATCHDOG: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) time: Duration,
    pub(crate) seed: u64,
    pub(crate) publishers: usize,
    pub(crate) subscribers: usize,
    pub(crate) fault_every: Duration,
}

impl Settings {
    /// Whether the emulator says `connected` after a recovery too: odd seeds ask for it.
    pub(crate) fn greets_again(&self) -> bool {
        self.seed % 2 == 1
    }
}

/// Runs it all.
///
/// # Panics
/// If the emulator cannot be started, or a client cannot connect to it before any fault.
pub(crate) fn run(settings: &Settings) -> Report {
    // The service may greet a recovered client with a second `connected`, or not.
    let emulator = Emulator::builder()
        .record_frames(0)
        .connected_after_recovery(settings.greets_again())
        .start()
        .expect("emulator");
    let seen = Seen::default();
    let clients: Vec<Client> = (0..settings.publishers + settings.subscribers)
        .map(|_| connect(&emulator).expect("connect"))
        .collect();
    let mut publishers: Vec<Publisher<'_>> = clients[..settings.publishers]
        .iter()
        .enumerate()
        .map(|(i, client)| Publisher::new(client, i, settings.seed))
        .collect();
    let mut lab = Lab::new(&emulator, &clients, settings.publishers, &seen, settings.seed);
    let mut violations = Vec::new();

    let (logs, time) = thread::scope(|scope| {
        let seen = &seen;
        let listeners: Vec<_> = clients
            .iter()
            .map(|client| {
                let events = client.events();
                scope.spawn(move || listen(&events, seen))
            })
            .collect();
        for client in &clients[settings.publishers..] {
            client.join_group(GROUP).expect("join");
        }

        let start = Instant::now();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for publisher in &mut publishers {
                scope.spawn(|| publisher.publish_until(&stop));
            }
            lab.torment(settings.time, settings.fault_every);
            stop.store(true, SeqCst);
        });
        let time = start.elapsed();

        // The faults are off and every call has ended. Soon all are connected, and members again.
        if !lab.calm(WATCHDOG) {
            violations.push("not everybody came back after the faults".to_owned());
        }
        let subscribers = &clients[settings.publishers..];
        let joined = |emulator: &Emulator| {
            let known = emulator.connections(HUB);
            subscribers.iter().all(|client| {
                let id = client.connection_id();
                known.iter().any(|info| {
                    id.as_deref() == Some(info.id.as_str())
                        && info.groups.iter().any(|group| group == GROUP)
                })
            })
        };
        if !emulator.wait_until(WATCHDOG, |_| joined(&emulator)) {
            violations.push("not every subscriber is a member again after the faults".to_owned());
        }
        for publisher in &mut publishers {
            publisher.farewell();
        }
        // A client acknowledges what has entered its event queue.
        let drained = || {
            let open = |info: &webpubsub::emulator::ConnectionInfo| info.is_open;
            emulator.connections(HUB).iter().filter(|info| open(info)).all(|info| info.unacked == 0)
        };
        if !emulator.wait_until(WATCHDOG, |_| drained()) {
            violations.push("not all that was published was acknowledged in the end".to_owned());
        }
        for client in &clients {
            if let Err(error) = client.close() {
                violations.push(format!("close: {error}"));
            }
        }
        let logs: Vec<Vec<Entry>> =
            listeners.into_iter().map(|listener| listener.join().expect("listener")).collect();
        (logs, time)
    });

    let (mut sent, mut errors) = (Vec::new(), Vec::new());
    for publisher in publishers {
        sent.push(publisher.sent);
        errors.extend(publisher.errors);
    }
    violations.extend(errors);
    Report::new(
        settings,
        &Material {
            time,
            sent,
            logs,
            clients: clients.iter().map(Client::stats).collect(),
            emulator: emulator.stats(),
            ordered: lab.ordered,
            hits: lab.hits,
        },
        violations,
    )
}

fn connect(emulator: &Emulator) -> Result<Client> {
    Client::builder(emulator.url(HUB))
        .keep_alive(PING, DEAD_AFTER)
        .recovery_interval(Duration::from_millis(20))
        .recovery_attempt_timeout(RECOVERY_ATTEMPT)
        .backoff(Duration::from_millis(10), Duration::from_millis(100))
        .connect()
}

/// Notes all events of a client until their end.
fn listen(events: &Receiver<Event>, seen: &Seen) -> Vec<Entry> {
    let note = |event| match event {
        Event::GroupMessage(message) => {
            // Between what is read here and what `Publisher::text` wrote nothing may change.
            let text = message.text().unwrap_or_default();
            let mut words = text.split(' ').map(str::parse::<usize>);
            match (words.next(), words.next(), words.next()) {
                (Some(Ok(publisher)), Some(Ok(n)), Some(Ok(length))) if length == text.len() => {
                    Entry::Message { publisher, n }
                }
                _ => Entry::Strange,
            }
        }
        Event::Connected(connected) => Entry::Connected { gap_possible: connected.gap_possible },
        Event::Recovering(recovering) => {
            if is_reset(&recovering.cause) {
                seen.resets.fetch_add(1, SeqCst);
            }
            Entry::Recovering
        }
        Event::Recovered(_) => Entry::Recovered,
        Event::Disconnected(lost) => Entry::Disconnected { maybe_lost: lost.maybe_lost },
        Event::Reconnecting(_) => Entry::Reconnecting,
        Event::Stopped(_) => Entry::Stopped,
        _ => Entry::Strange,
    };
    events.iter().map(note).collect()
}

fn is_reset(error: &Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::ConnectionReset)
}

struct Publisher<'a> {
    client: &'a Client,
    place: usize,
    rng: StdRng,
    sent: Sent,
    pending: VecDeque<PendingAck>,
    errors: Vec<String>,
}

impl<'a> Publisher<'a> {
    fn new(client: &'a Client, place: usize, seed: u64) -> Self {
        Self {
            client,
            place,
            rng: StdRng::seed_from_u64(seed.wrapping_add(1 + place as u64)),
            sent: Sent::default(),
            pending: VecDeque::new(),
            errors: Vec::new(),
        }
    }

    /// Bursts with pauses, until told to stop; then waits for the outcome of every call.
    fn publish_until(&mut self, stop: &AtomicBool) {
        while !stop.load(SeqCst) {
            for _ in 0..self.rng.random_range(1..=6) {
                self.publish();
            }
            thread::sleep(Duration::from_micros(self.rng.random_range(2_000..40_000)));
        }
        self.settle(0);
    }

    fn farewell(&mut self) {
        self.sent.calm_from = self.sent.fates.len();
        for _ in 0..FAREWELL {
            self.publish();
        }
        self.settle(0);
    }

    fn publish(&mut self) {
        let text = self.text();
        match self.client.to_group(GROUP, text).start() {
            Ok(pending) => self.pending.push_back(pending),
            // Nothing that happens here may keep a call from being accepted.
            Err(error) => self.errors.push(format!("publisher {}: {error:?}", self.place)),
        }
        self.settle(IN_FLIGHT);
    }

    /// Publisher, number, the text's length, padding.
    fn text(&mut self) -> String {
        let n = self.sent.fates.len() + self.pending.len();
        let length = self.rng.random_range(40..=400);
        let mut text = format!("{} {n} {length} ", self.place);
        text.extend(std::iter::repeat_n('x', length - text.len()));
        text
    }

    /// Waits for the oldest calls until at most so many are under way. Only one kind of failure is
    /// allowed: the session was lost for good and the outcome is unknown. The report checks that
    /// there are just as many of them as the client's events said.
    fn settle(&mut self, most: usize) {
        while self.pending.len() > most {
            let Some(oldest) = self.pending.pop_front() else { break };
            let fate = match oldest.wait() {
                Ok(ack) if ack.duplicate => Fate::AckedDuplicate,
                Ok(_) => Fate::Acked,
                Err(error) => {
                    let unknown = error.kind() == ErrorKind::OutcomeUnknown;
                    if !unknown || !error.may_have_been_delivered() {
                        self.errors.push(format!("publisher {}: {error:?}", self.place));
                    }
                    Fate::Unknown
                }
            };
            self.sent.fates.push(fate);
        }
    }
}
