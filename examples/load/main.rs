//! A load tool: publishers and subscribers in one group, latency and throughput.
//!
//! ```sh
//! cargo run --release --features emulator --example load  # the embedded emulator
//! WEBPUBSUB_URL='wss://…' cargo run --release --features emulator --example load -- --publishers 4 --rate 2000
//! cargo run --release --features emulator --example load -- --fire --size 1024 --seconds 30 --json
//! cargo run --release --features emulator --example load -- --help
//! ```
//!
//! The URL's token needs the roles `webpubsub.joinLeaveGroup` and `webpubsub.sendToGroup`. With a
//! real service mind its price per message: N publishers and M subscribers make N × (1 + M)
//! messages per round. Progress goes to standard error, the result to standard output. Ctrl-C ends
//! the run early, with the results so far.

mod options;
mod report;

use std::fmt::Display;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use webpubsub::emulator::Emulator;
use webpubsub::{Client, Event, Protocol, Publish};

use options::{HELP, Options};

/// Each payload begins with the time of its sending, in nanoseconds since the start of this
/// process, and a mark of this run: others may use the group too.
const STAMP: usize = options::LEAST_SIZE;

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    acked: AtomicU64,
    failed: AtomicU64,
    received: AtomicU64,
    lost_sessions: AtomicU64,
}

struct Run {
    options: Options,
    url: String,
    mark: String,
    born: Instant,
    counts: Counts,
    stop: AtomicBool,
}

/// What one thread measured, in microseconds.
type Latencies = Histogram<u64>;

fn new_latencies() -> Latencies {
    // Up to a minute, to three digits. The bounds are constants, so this does not fail.
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("constant bounds")
}

fn record(latencies: &mut Latencies, latency: Duration) {
    latencies.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
}

impl Run {
    fn connect(&self, receives: bool) -> webpubsub::Result<Client> {
        let protocol = if self.options.plain { Protocol::Json } else { Protocol::ReliableJson };
        let builder = Client::builder(self.url.as_str()).protocol(protocol);
        if receives { builder.connect() } else { builder.event_queue(None).connect() }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    fn payload(&self, filler: &str) -> String {
        let head = format!("{:016x}{}", self.born.elapsed().as_nanos(), self.mark);
        head + filler
    }

    fn latency(&self, text: &str) -> Option<Duration> {
        let (time, rest) = text.split_at_checked(16)?;
        let sent = rest.starts_with(&self.mark).then(|| u64::from_str_radix(time, 16))?.ok()?;
        Some(self.born.elapsed().saturating_sub(Duration::from_nanos(sent)))
    }

    /// One publisher. Gives the time from each call to its ack.
    fn publish(&self, client: &Client, number: u32) -> Latencies {
        let mut latencies = new_latencies();
        let filler = "x".repeat(self.options.size - STAMP);
        let mut window = std::collections::VecDeque::new();
        let gap = self.options.rate.map(|rate| f64::from(self.options.publishers) / rate);
        let start = Instant::now();
        let mut due = gap.map(|gap| gap * f64::from(number) / f64::from(self.options.publishers));
        while !self.stopped() {
            if let (Some(at), Some(gap)) = (&mut due, gap) {
                let wait = Duration::from_secs_f64(*at).saturating_sub(start.elapsed());
                // In slices, so that a slow rate does not delay the end.
                thread::sleep(wait.min(Duration::from_millis(50)));
                if start.elapsed().as_secs_f64() < *at {
                    continue;
                }
                *at += gap;
            }
            let request = Publish::new(&self.options.group, self.payload(&filler));
            let called = Instant::now();
            if self.options.fire {
                self.count(client.fire_and_forget(request));
                continue;
            }
            if let Some(pending) = self.count(client.start(request)) {
                window.push_back((called, pending));
            }
            while let Some((called, pending)) = window.front() {
                let full = window.len() >= self.options.in_flight;
                let outcome = if full { pending.wait().map(Some) } else { pending.try_wait() };
                let Some(outcome) = outcome.transpose() else { break };
                self.acked(outcome, *called, &mut latencies);
                window.pop_front();
            }
        }
        for (called, pending) in window {
            self.acked(pending.wait(), called, &mut latencies);
        }
        latencies
    }

    fn count<T>(&self, outcome: webpubsub::Result<T>) -> Option<T> {
        match outcome {
            Ok(sent) => {
                self.counts.sent.fetch_add(1, Relaxed);
                Some(sent)
            }
            Err(e) => {
                self.fail(&e);
                // Whatever it is, it will not be better at once.
                thread::sleep(Duration::from_millis(100));
                None
            }
        }
    }

    fn acked<T>(&self, outcome: webpubsub::Result<T>, called: Instant, latencies: &mut Latencies) {
        match outcome {
            Ok(_) => {
                self.counts.acked.fetch_add(1, Relaxed);
                record(latencies, called.elapsed());
            }
            Err(e) => self.fail(&e),
        }
    }

    /// The first failure is told at once, the others are counted.
    fn fail(&self, e: &dyn Display) {
        if self.counts.failed.fetch_add(1, Relaxed) == 0 {
            eprintln!("a publication failed: {e}");
        }
    }

    /// One subscriber, until its client is closed. Gives the time from each call to the message.
    fn subscribe(&self, client: &Client) -> Latencies {
        let mut latencies = new_latencies();
        for event in client.events() {
            match event {
                Event::GroupMessage(m) => {
                    if let Some(latency) = m.text().ok().and_then(|text| self.latency(text)) {
                        self.counts.received.fetch_add(1, Relaxed);
                        record(&mut latencies, latency);
                    }
                }
                Event::Disconnected(_) => {
                    self.counts.lost_sessions.fetch_add(1, Relaxed);
                }
                _ => {}
            }
        }
        latencies
    }

    /// A line each second. Gives how long the run was.
    fn watch(&self) -> Duration {
        let start = Instant::now();
        let mut last = (0, 0);
        let mut next = Duration::from_secs(1);
        while start.elapsed() < self.options.length && !self.stopped() {
            thread::sleep(Duration::from_millis(20));
            if start.elapsed() >= next {
                let now = (self.counts.sent.load(Relaxed), self.counts.received.load(Relaxed));
                let failed = self.counts.failed.load(Relaxed);
                eprintln!(
                    "{:>4} s   published {:>8}/s   received {:>8}/s   failed {failed}",
                    next.as_secs(),
                    now.0 - last.0,
                    now.1 - last.1,
                );
                last = now;
                next += Duration::from_secs(1);
            }
        }
        self.stop.store(true, Relaxed);
        start.elapsed()
    }
}

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            eprintln!("{why}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match load(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn load(options: Options) -> webpubsub::Result<()> {
    // The emulator, if there is one, lives until the end of this function. It remembers no frames.
    let (url, _emulator) = match std::env::var("WEBPUBSUB_URL") {
        Ok(url) => (url, None),
        Err(_) => {
            eprintln!("WEBPUBSUB_URL is not set: using the embedded emulator");
            let emulator = Emulator::builder().record_frames(0).start()?;
            (emulator.url("load"), Some(emulator))
        }
    };
    let mark = format!("{:016x}", u64::from(std::process::id()));
    let born = Instant::now();
    let (counts, stop) = (Counts::default(), AtomicBool::new(false));
    let run = Arc::new(Run { options, url, mark, born, counts, stop });
    let for_signal = Arc::clone(&run);
    if let Err(e) = ctrlc::set_handler(move || for_signal.stop.store(true, Relaxed)) {
        eprintln!("Ctrl-C will end this without results: {e}");
    }

    let mut subscribers = Vec::new();
    for _ in 0..run.options.subscribers {
        let client = run.connect(true)?;
        client.join_group(&run.options.group)?;
        subscribers.push(client);
    }
    let publishers: Vec<_> =
        (0..run.options.publishers).map(|_| run.connect(false)).collect::<Result<_, _>>()?;

    let spawn = |client: &Client, work: fn(&Run, &Client, u32) -> Latencies, number: u32| {
        let (run, client) = (Arc::clone(&run), client.clone());
        thread::spawn(move || work(&run, &client, number))
    };
    let receiving: Vec<_> =
        subscribers.iter().map(|c| spawn(c, |run, client, _| run.subscribe(client), 0)).collect();
    let sending: Vec<_> =
        publishers.iter().zip(0..).map(|(c, n)| spawn(c, Run::publish, n)).collect();
    let length = run.watch();
    let ack = join(sending);
    // Closing flushes what was only fired; then the last messages get a moment to arrive.
    publishers.iter().for_each(|client| drop(client.close()));
    settle(&run.counts.received);
    subscribers.iter().for_each(|client| drop(client.close()));
    let delivery = join(receiving);
    let show = if run.options.json { report::json } else { report::text };
    show(&run, length, &ack, &delivery);
    Ok(())
}

fn join(threads: Vec<JoinHandle<Latencies>>) -> Latencies {
    let mut all = new_latencies();
    for one in threads.into_iter().filter_map(|thread| thread.join().ok()) {
        all += one;
    }
    all
}

/// Waits while the counter moves.
fn settle(counter: &AtomicU64) {
    for _ in 0..20 {
        let before = counter.load(Relaxed);
        thread::sleep(Duration::from_millis(100));
        if counter.load(Relaxed) == before {
            return;
        }
    }
}
