//! The verdict and the figures.

use std::fmt;
use std::time::Duration;

use super::check::{self, Entry, Fate, Sent};
use super::faults::KINDS;
use super::run::Settings;

/// What a run leaves behind.
pub(crate) struct Material {
    /// How long was published under faults.
    pub(crate) time: Duration,
    /// By publisher.
    pub(crate) sent: Vec<Sent>,
    /// By client: the publishers, then the subscribers.
    pub(crate) logs: Vec<Vec<Entry>>,
    pub(crate) clients: Vec<webpubsub::Stats>,
    pub(crate) emulator: webpubsub::emulator::Stats,
    pub(crate) ordered: [u64; KINDS.len()],
    pub(crate) hits: [u64; KINDS.len()],
}

pub(crate) struct Report {
    pub(crate) violations: Vec<String>,
    /// Why the run proves nothing, if it does not.
    pub(crate) too_little: Vec<String>,
    lines: Vec<String>,
}

impl Report {
    /// Judges a run; `violations` are those found on the way.
    pub(crate) fn new(settings: &Settings, run: &Material, mut violations: Vec<String>) -> Self {
        let publishers = run.sent.len();
        let (of_publishers, of_subscribers) = run.logs.split_at(publishers);
        for (i, log) in run.logs.iter().enumerate() {
            let client = name(i, publishers);
            if let Err(why) = check::grammar(log) {
                violations.push(format!("{client}: {why}"));
            }
        }
        for (i, log) in of_subscribers.iter().enumerate() {
            let wrong = check::delivery(log, &run.sent);
            violations.extend(wrong.iter().map(|why| format!("subscriber {i}: {why}")));
        }
        for (i, (sent, log)) in run.sent.iter().zip(of_publishers).enumerate() {
            let (unknown, reported) = (sent.count(Fate::Unknown), check::reported_lost(log));
            if unknown != reported {
                violations.push(format!(
                    "publisher {i}: {unknown} calls of unknown outcome, but its events said {reported}"
                ));
            }
        }

        let count = |fate| run.sent.iter().map(|sent| sent.count(fate)).sum::<u64>();
        let (duplicate, unknown) = (count(Fate::AckedDuplicate), count(Fate::Unknown));
        let acked = count(Fate::Acked) + duplicate;
        let sum = |of: fn(&webpubsub::Stats) -> u64| run.clients.iter().map(of).sum::<u64>();
        let service = &run.emulator;
        let mut must = |holds: bool, what: &str| {
            if !holds {
                violations.push(what.to_owned());
            }
        };
        // Each loss is reported once, so there are no more losses than links, first ones and
        // recovered ones; and every client's last link was closed, not lost.
        let losses: u64 = run.logs.iter().map(|log| check::losses(log)).sum();
        let links = service.connections_opened + service.recoveries_accepted;
        must(losses + run.logs.len() as u64 <= links, "more links were lost than there were");
        must(service.max_executions <= 1, "a call was executed twice under one ack id");
        must(
            (acked..=acked + unknown).contains(&service.publications),
            "the publications carried out are not those acked, and some of unknown outcome",
        );
        must(service.duplicates >= duplicate, "more Duplicate answers arrived than were given");
        must(service.failed_acks == 0, "the emulator refused a call");
        must(service.malformed == 0, "the emulator got malformed input");
        must(sum(|s| s.malformed) == 0, "a client got a frame that it could not read");
        must(sum(|s| s.dropped) == 0, "a client's event queue overflowed");
        must(sum(|s| s.pending_calls as u64) == 0, "calls are pending after the close");

        // Publishers hand nothing but their messages to their links.
        let out: u64 = run.clients[..publishers].iter().map(|s| s.messages_out).sum();
        let resends = out.saturating_sub(acked + unknown);
        let unbroken = of_subscribers.iter().filter(|log| !check::lost_session(log)).count();
        let received = of_subscribers.iter().flatten();
        let received = received.filter(|e| matches!(e, Entry::Message { .. })).count() as u64;
        let (recoveries, reconnects) = (sum(|s| s.recoveries), sum(|s| s.reconnects));

        let mut too_little = Vec::new();
        let mut need = |n: u64, what: &str| {
            if n == 0 {
                too_little.push(format!("no {what}"));
            }
        };
        need(recoveries, "recoveries");
        need(resends, "resends");
        need(duplicate, "Duplicate answers");
        need(unbroken as u64, "subscriber that never lost its session");
        let wanted = wanted_hits(settings);
        for ((_, kind, _), hits) in KINDS.iter().zip(run.hits) {
            if hits < wanted {
                too_little.push(format!("`{kind}` was hit {hits} times, not {wanted}"));
            }
        }

        let mut lines = vec![
            format!(
                "seed                {} ({} `connected` after a recovery)",
                settings.seed,
                if settings.greets_again() { "with" } else { "without" }
            ),
            format!("publishers          {publishers}"),
            format!(
                "subscribers         {} ({unbroken} never lost their session)",
                of_subscribers.len()
            ),
            format!("published           {} in {:.1} s", acked + unknown, run.time.as_secs_f64()),
            format!("  acked             {acked}, of these {duplicate} as Duplicate"),
            format!("  unknown outcome   {unknown}"),
            format!("resends             {resends}"),
            format!(
                "received            {received} ({:.0} messages/s)",
                received as f64 / run.time.as_secs_f64()
            ),
            format!("  repeats dropped   {}", sum(|s| s.duplicates)),
            format!("recoveries          {recoveries}"),
            format!("new connections     {reconnects} (each said `gap possible`)"),
            format!("executions per id   {} at most", service.max_executions),
            format!(
                "unacked high water  {} (limit 1000; {} sessions overflowed)",
                service.unacked_high_water, service.overflows
            ),
        ];
        let faults: u64 = run.ordered.iter().sum();
        lines.push(format!(
            "faults              {faults}, one every {:.0} ms; hits:",
            run.time.as_secs_f64() * 1000.0 / faults.max(1) as f64
        ));
        for ((_, kind, _), (hits, ordered)) in KINDS.iter().zip(run.hits.iter().zip(run.ordered)) {
            lines.push(format!("  {kind:<24}{hits:>4} of {ordered:>3}"));
        }
        Self { violations, too_little, lines }
    }
}

/// 10 hits of each kind in 60 s with a fault every 100 ms; in proportion otherwise.
fn wanted_hits(settings: &Settings) -> u64 {
    let slower = (settings.fault_every.as_secs_f64() / 0.1).max(1.0);
    (10.0 * (settings.time.as_secs_f64() / 60.0).min(1.0) / slower) as u64
}

fn name(i: usize, publishers: usize) -> String {
    if i < publishers { format!("publisher {i}") } else { format!("subscriber {}", i - publishers) }
}

impl Sent {
    fn count(&self, fate: Fate) -> u64 {
        self.fates.iter().filter(|one| **one == fate).count() as u64
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            writeln!(f, "{line}")?;
        }
        for why in &self.too_little {
            writeln!(f, "TOO LITTLE TROUBLE: {why}")?;
        }
        /// One fault of ours can break thousands of messages.
        const SHOWN: usize = 20;
        for why in self.violations.iter().take(SHOWN) {
            writeln!(f, "VIOLATION: {why}")?;
        }
        match self.violations.len() {
            0 => write!(f, "no violation"),
            n => write!(f, "{n} violations"),
        }
    }
}
