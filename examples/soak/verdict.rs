//! The verdict on one subprotocol's run.

use super::check::{self, Entry, Fate};
use super::faults::{KINDS, drops_messages, is_robust};
use super::listener::Ended;
use super::run::{Material, Settings};
use webpubsub::Protocol;

/// One subprotocol in the report.
pub(crate) struct Column {
    pub(crate) name: &'static str,
    /// Label and figure, the same labels for each subprotocol.
    pub(crate) figures: Vec<(&'static str, String)>,
    /// By place in `KINDS`: hits and orders.
    pub(crate) faults: Vec<(u64, u64)>,
    pub(crate) violations: Vec<String>,
    /// Why the run proves nothing, if it does not.
    pub(crate) too_little: Vec<String>,
}

/// Judges a run; `violations` are those found on the way.
pub(crate) fn judge(settings: &Settings, run: &Material, mut violations: Vec<String>) -> Column {
    violations.extend(of_logs(settings, run));
    if run.protocol.is_reliable() {
        let overflows = run.emulator.overflows;
        violations.extend(of_sessions(&run.unordered, overflows, settings.publishers));
    }
    violations.extend(of_counters(settings, run));
    Column {
        name: short_name(run),
        figures: figures(settings, run),
        faults: run.hits.iter().copied().zip(run.ordered).collect(),
        violations,
        too_little: too_little(settings, run),
    }
}

/// The subprotocols of this build, as they are called on the command line.
pub(crate) fn names() -> impl Iterator<Item = (&'static str, Protocol)> {
    let name = |protocol: &Protocol| match protocol {
        Protocol::Json => "json",
        Protocol::ReliableJson => "reliable-json",
        #[cfg(feature = "protobuf")]
        Protocol::Protobuf => "protobuf",
        #[cfg(feature = "protobuf")]
        Protocol::ReliableProtobuf => "reliable-protobuf",
        _ => "unknown",
    };
    Protocol::ALL.iter().map(move |protocol| (name(protocol), *protocol))
}

fn short_name(run: &Material) -> &'static str {
    names().find(|(_, protocol)| *protocol == run.protocol).map_or("", |(name, _)| name)
}

fn client(publishers: usize, place: usize) -> String {
    match place.checked_sub(publishers) {
        None => format!("publisher {place}"),
        Some(i) => format!("subscriber {i}"),
    }
}

/// What each client was told.
fn of_logs(settings: &Settings, run: &Material) -> Vec<String> {
    let mut wrong = Vec::new();
    let (of_publishers, of_subscribers) = run.logs.split_at(settings.publishers);
    for (place, log) in run.logs.iter().enumerate() {
        if let Err(why) = check::grammar(log) {
            wrong.push(format!("{}: {why}", client(settings.publishers, place)));
        }
        let (lagged, dropped) = (check::lagged(log), run.clients[place].dropped);
        let may_drop = place >= settings.publishers && drops_messages(place);
        if lagged != dropped || !(may_drop || check::lagged_only_at_ends(log)) {
            wrong.push(format!(
                "{} dropped {dropped} messages and reported {lagged}",
                client(settings.publishers, place)
            ));
        }
    }
    for (i, log) in of_subscribers.iter().enumerate() {
        let of_delivery = check::delivery(log, &run.sent, run.protocol.is_reliable());
        wrong.extend(of_delivery.iter().map(|why| format!("subscriber {i}: {why}")));
    }
    for (i, log) in of_publishers.iter().enumerate() {
        let (sent, events) = (&run.sent[i], &run.events[i]);
        let of_answers = check::answers(log, events);
        wrong.extend(of_answers.iter().map(|why| format!("publisher {i}: {why}")));
        let unknown = sent.count(Fate::Unknown) + events.count(Fate::Unknown);
        let (reported, fired) = (check::reported_lost(log), sent.count(Fate::Fired));
        // What was fired counts too, as far as it had not left; and invocations, of which plain
        // and recovered links lose some alike.
        let most = unknown + fired + run.invocations_lost[i];
        if !(unknown..=most).contains(&reported) {
            wrong.push(format!(
                "publisher {i}: {unknown} calls of unknown outcome, but its events said {reported}"
            ));
        }
    }
    wrong
}

/// A session that can be recovered ends only if a fault wanted it, or if its consumer fell behind the
/// service's limit, which may happen to subscribers that are not robust. `ended`: those that no fault
/// wanted to end; `overflows`: how often the service found somebody beyond its limit.
fn of_sessions(ended: &[Ended], mut overflows: u64, publishers: usize) -> Vec<String> {
    let mut wrong = Vec::new();
    for ended in ended {
        let may_overflow = ended.client >= publishers && !is_robust(ended.client);
        if may_overflow && !ended.kept && overflows > 0 {
            overflows -= 1;
            continue;
        }
        let service = if ended.kept { "still kept it" } else { "no longer had it" };
        wrong.push(format!(
            "{}: a session that could have been recovered was given up; the service {service}: {}",
            client(publishers, ended.client),
            ended.cause
        ));
    }
    wrong
}

/// What the counters of both sides say of each other.
fn of_counters(settings: &Settings, run: &Material) -> Vec<String> {
    let service = &run.emulator;
    let count = |fate| run.sent.iter().map(|sent| sent.count(fate)).sum::<u64>();
    let acked = count(Fate::Acked) + count(Fate::AckedDuplicate);
    let open = count(Fate::Unknown) + count(Fate::Blamed) + count(Fate::Fired);
    let sum = |of: fn(&webpubsub::Stats) -> u64| run.clients.iter().map(of).sum::<u64>();
    // Each loss is reported once, so there are no more losses than links, first ones and recovered
    // ones; and every client's last link was closed, not lost.
    let losses: u64 = run.logs.iter().map(|log| check::losses(log)).sum();
    let links = service.connections_opened + service.recoveries_accepted;
    let clients = (settings.publishers + settings.subscribers) as u64;
    let must = [
        (losses + clients <= links, "more links were lost than there were"),
        (service.max_executions <= 1, "a call was executed twice under one ack id"),
        (
            (acked..=acked + open).contains(&service.publications),
            "the publications carried out are not those acked, and some of the others",
        ),
        (
            service.duplicates >= count(Fate::AckedDuplicate),
            "more Duplicate answers arrived than were given",
        ),
        (service.failed_acks == 0, "the emulator refused a call"),
        (service.malformed == 0, "the emulator got malformed input"),
        (sum(|s| s.malformed) == 0, "a client got a frame that it could not read"),
        (sum(|s| s.calls_pending) == 0, "calls are pending after the close"),
    ];
    must.iter().filter(|(holds, _)| !holds).map(|(_, what)| (*what).to_owned()).collect()
}

fn too_little(settings: &Settings, run: &Material) -> Vec<String> {
    let reliable = run.protocol.is_reliable();
    let sum = |of: fn(&webpubsub::Stats) -> u64| run.clients.iter().map(of).sum::<u64>();
    let unbroken = run.logs.iter().filter(|log| !check::lost_session(log)).count() as u64;
    let wanted = wanted_hits(settings);
    let mut found = vec![("events handled", run.emulator.events), ("pauses", run.pauses)];
    if reliable {
        found.push(("recoveries", sum(|s| s.recoveries)));
        found.push(("Duplicate answers", run.emulator.duplicates));
        found.push(("client that never lost its session", unbroken));
    } else {
        found.push(("new connections", sum(|s| s.reconnects)));
    }
    found.extend(run.preview.iter().filter(|(label, _)| *label != "  never sent"));
    let none = found.iter().filter(|(_, n)| *n == 0).map(|(what, _)| format!("no {what}"));
    let few = KINDS
        .iter()
        .zip(run.hits)
        .filter(|((kind, _, _), hits)| kind.applies(reliable) && *hits < wanted);
    let few =
        few.map(|((_, kind, _), hits)| format!("`{kind}` was hit {hits} times, not {wanted}"));
    none.chain(few).collect()
}

/// 5 hits of each kind in a minute with a fault every 100 ms; in proportion otherwise.
fn wanted_hits(settings: &Settings) -> u64 {
    let slower = (settings.fault_every.as_secs_f64() / 0.1).max(1.0);
    (5.0 * (settings.share().as_secs_f64() / 60.0).min(1.0) / slower) as u64
}

fn figures(settings: &Settings, run: &Material) -> Vec<(&'static str, String)> {
    let service = &run.emulator;
    let seconds = run.time.as_secs_f64();
    let sum = |of: fn(&webpubsub::Stats) -> u64| run.clients.iter().map(of).sum::<u64>();
    let both = || run.sent.iter().chain(&run.events);
    let count = |fate| both().map(|sent| sent.count(fate)).sum::<u64>();
    let all = both().map(|sent| sent.fates.len() as u64).sum::<u64>();
    let unbroken = run.logs.iter().filter(|log| !check::lost_session(log)).count();
    let is_message = |e: &&Entry| matches!(e, Entry::Message { .. } | Entry::Answer { .. });
    let received = run.logs.iter().flatten().filter(is_message).count();
    let numbers = [
        ("calls", all),
        ("  acked", count(Fate::Acked) + count(Fate::AckedDuplicate)),
        ("  of these as Duplicate", count(Fate::AckedDuplicate)),
        ("  outcome unknown", count(Fate::Unknown)),
        ("  blamed by a Close", count(Fate::Blamed)),
        ("  fired without an ack", count(Fate::Fired)),
        ("resends", sum(|s| s.messages_out).saturating_sub(all + settings.subscribers as u64)),
        ("events handled", service.events),
        ("received", received as u64),
        ("  repeats dropped", sum(|s| s.duplicates)),
        ("  dropped, `Lagged`", sum(|s| s.dropped)),
        ("recoveries", sum(|s| s.recoveries)),
        ("new connections", sum(|s| s.reconnects)),
        ("clients never broken", unbroken as u64),
        ("unacked high water", service.unacked_high_water),
        ("sessions overflowed", service.overflows),
        ("pauses of consumers", run.pauses),
    ];
    let mut figures = vec![("seconds", format!("{seconds:.1}"))];
    let numbers = numbers.into_iter().chain(run.preview.iter().copied());
    figures.extend(numbers.map(|(label, n)| (label, n.to_string())));
    figures.push(("  longest, s", format!("{:.1}", run.longest_pause.as_secs_f64())));
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(client: usize, kept: bool) -> Ended {
        Ended { client, id: String::new(), kept, cause: "why".to_owned() }
    }

    #[test]
    fn only_a_fragile_subscriber_beyond_the_limit_may_lose_a_session_that_nobody_ended() {
        let wrong = |ended: &[Ended], overflows| of_sessions(ended, overflows, 4).len();
        assert_eq!(wrong(&[ended(5, false)], 1), 0);
        assert_eq!(wrong(&[ended(5, false), ended(7, false)], 1), 1, "one overflow, two losses");
        assert_eq!(wrong(&[ended(5, false)], 0), 1, "nobody was beyond the limit");
        assert_eq!(wrong(&[ended(5, true)], 1), 1, "the service still kept it");
        assert_eq!(wrong(&[ended(4, false)], 1), 1, "a robust one");
        assert_eq!(wrong(&[ended(1, false)], 1), 1, "a publisher");
    }
}
