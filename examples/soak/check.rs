//! What must hold, as pure functions over what each client was told.
//!
//! **Delivery.** The numbers of one publisher, as one subscriber receives them, go up strictly over
//! the subscriber's whole life: nothing comes twice and nothing out of order, on one connection or
//! across several. That is more than the service promises, but here it must hold: the service
//! executes each ack id at most once, a publisher writes its calls in order and sends them again in
//! order, and a new connection joins the group only after the old one was given up, so that it
//! receives nothing that was published before. One exception: what a plain client wrote on a link
//! that it then gave up may be executed late, when the service reads on. So in plain subprotocols
//! only what was acked must be in order; the rest must not come twice either.
//!
//! **Loss.** An acked message may be missing in two places only: between two connections of the
//! subscriber, where `Connected` said `gap_possible`, and where `Lagged` stands, no more of them than
//! it says. So one that never lost its session and never lagged has them all.

use std::collections::{BTreeMap, BTreeSet};

/// One event of a client, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    Message {
        publisher: usize,
        n: usize,
    },
    /// What the event handler answered to this client's own event.
    Answer {
        n: usize,
    },
    Connected {
        gap_possible: bool,
    },
    Recovering,
    Recovered,
    Disconnected {
        maybe_lost: u64,
    },
    Reconnecting,
    Lagged {
        count: u64,
    },
    Stopped,
    /// Never to be seen in this program: `JoinFailed`, a foreign message.
    Strange,
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Acked,
    /// Acked as `Duplicate`: executed before, under the same id.
    AckedDuplicate,
    /// `OutcomeUnknown`: may have been executed, or not.
    Unknown,
    /// `Refused` by a Close that blames the client: the same.
    Blamed,
    /// Fire and forget: nobody knows.
    Fired,
}

impl Fate {
    pub(crate) fn is_acked(self) -> bool {
        matches!(self, Self::Acked | Self::AckedDuplicate)
    }
}

/// Everything that one client sent, numbered from 0: its publications, or its events.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    pub(crate) fates: Vec<Fate>,
    /// From here on there were no more faults, and everybody was connected and a member.
    pub(crate) calm_from: usize,
}

impl Sent {
    pub(crate) fn count(&self, fate: Fate) -> u64 {
        self.fates.iter().filter(|one| **one == fate).count() as u64
    }
}

/// The grammar of a client's lifecycle events. `Recovering` may follow `Recovering`: the new link
/// was lost before the recovery was complete, and each loss is reported.
pub(crate) fn grammar(log: &[Entry]) -> Result<(), String> {
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum At {
        Start,
        Up,
        Recovering,
        Over,
        Stopped,
    }
    let mut at = At::Start;
    for (i, entry) in log.iter().enumerate() {
        at = match (at, entry) {
            (At::Start, Entry::Connected { gap_possible: false }) => At::Up,
            (
                At::Up | At::Recovering,
                Entry::Message { .. } | Entry::Answer { .. } | Entry::Lagged { .. },
            ) => at,
            (At::Up | At::Recovering, Entry::Recovering) => At::Recovering,
            (At::Recovering, Entry::Recovered) => At::Up,
            (At::Up | At::Recovering, Entry::Disconnected { .. }) => At::Over,
            (At::Over, Entry::Reconnecting) => At::Over,
            (At::Over, Entry::Connected { gap_possible: true }) => At::Up,
            (At::Up | At::Recovering | At::Over, Entry::Stopped) => At::Stopped,
            _ => return Err(format!("event {i}: {entry:?} while {at:?}")),
        };
    }
    if at == At::Stopped { Ok(()) } else { Err(format!("the events end while {at:?}")) }
}

/// How many losses of a link the client reported as to be recovered.
pub(crate) fn losses(log: &[Entry]) -> u64 {
    log.iter().filter(|e| matches!(e, Entry::Recovering)).count() as u64
}

/// Whether the client ever lost its session.
pub(crate) fn lost_session(log: &[Entry]) -> bool {
    log.iter().any(|e| matches!(e, Entry::Connected { gap_possible: true }))
}

/// How many calls the client's events reported as lost with their session.
pub(crate) fn reported_lost(log: &[Entry]) -> u64 {
    let lost = |e: &Entry| if let Entry::Disconnected { maybe_lost } = e { *maybe_lost } else { 0 };
    log.iter().map(lost).sum()
}

/// How many messages the client reported as dropped.
pub(crate) fn lagged(log: &[Entry]) -> u64 {
    log.iter().map(|e| if let Entry::Lagged { count } = e { *count } else { 0 }).sum()
}

/// A consumer that waits for room drops nothing, but for the end of a session: what is held then
/// enters the queue up to a bound, and `Lagged` says how much did not. So a connection on which it
/// lagged ends with `Disconnected`.
pub(crate) fn lagged_only_at_ends(log: &[Entry]) -> bool {
    let last = |is: fn(&Entry) -> bool| log.iter().rposition(is);
    last(|e| matches!(e, Entry::Lagged { .. })) <= last(|e| matches!(e, Entry::Disconnected { .. }))
}

/// Where in a subscriber's life something stands: how many connections it had had by then, and how
/// many times it had lagged.
type Place = (usize, usize);

/// Everything wrong with what one subscriber received; see the module. `strict`: no message may be
/// executed late.
pub(crate) fn delivery(log: &[Entry], publishers: &[Sent], strict: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let (mut at, mut lagged) = ((0, 0), 0);
    // By publisher: the messages that came, each with its place.
    let mut received: BTreeMap<usize, BTreeMap<usize, Place>> = BTreeMap::new();
    let mut last: BTreeMap<usize, usize> = BTreeMap::new();
    for entry in log {
        match *entry {
            Entry::Connected { .. } => at.0 += 1,
            Entry::Lagged { count } => {
                at.1 += 1;
                lagged += count;
            }
            Entry::Message { publisher, n } => {
                let what = format!("message {n} of publisher {publisher}");
                let Some(fate) = publishers.get(publisher).and_then(|sent| sent.fates.get(n))
                else {
                    wrong.push(format!("{what} came and was never sent"));
                    continue;
                };
                if received.entry(publisher).or_default().insert(n, at).is_some() {
                    wrong.push(format!("{what} came a second time"));
                    continue;
                }
                if !strict && !fate.is_acked() {
                    continue;
                }
                match last.insert(publisher, n) {
                    Some(before) if before > n => {
                        wrong.push(format!("{what} came too late, after {before}"));
                        last.insert(publisher, before);
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    let mut by_lag = 0;
    for (p, sent) in publishers.iter().enumerate() {
        let none = BTreeMap::new();
        wrong.extend(holes(p, sent, received.get(&p).unwrap_or(&none), at, &mut by_lag));
    }
    if by_lag > lagged {
        wrong.push(format!("{by_lag} acked messages are missing, and `Lagged` said {lagged}"));
    }
    wrong
}

/// Acked messages that are missing where they must not be. Counts in `by_lag` those for which
/// nothing but `Lagged` can be the reason.
fn holes(
    p: usize,
    sent: &Sent,
    received: &BTreeMap<usize, Place>,
    end: Place,
    by_lag: &mut u64,
) -> Vec<String> {
    let mut wrong = Vec::new();
    // The places of acked messages only: what is executed late says nothing of its neighbours.
    let acked = |n: usize| sent.fates.get(n).is_some_and(|fate| fate.is_acked());
    let places: Vec<(usize, Place)> =
        received.iter().filter(|(n, _)| acked(**n)).map(|(n, at)| (*n, *at)).collect();
    for n in (0..sent.fates.len()).filter(|n| acked(*n) && !received.contains_key(n)) {
        let next = places.partition_point(|(m, _)| *m < n);
        // Between which places it fell: the group was joined on the first connection before
        // anything was sent, and all was drained on the last one.
        let before = if next == 0 { (1, 0) } else { places[next - 1].1 };
        let after = places.get(next).map_or(end, |(_, at)| *at);
        if before == after {
            wrong.push(format!(
                "message {n} of publisher {p} was acked and is missing, and there was no gap \
                 (connection {} of {})",
                before.0, end.0
            ));
        } else if before.0 == after.0 {
            *by_lag += 1;
        } else if n >= sent.calm_from {
            wrong.push(format!("message {n} of publisher {p} is missing, from after the faults"));
        }
    }
    wrong
}

/// Everything wrong with the answers to one client's events. They come without an order, because a
/// handler may still run when a link is lost and the next event is handled on the new one. But the
/// service sends an answer before the ack; where the ack was lost with a session, so was it.
pub(crate) fn answers(log: &[Entry], events: &Sent) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut came = BTreeSet::new();
    for entry in log {
        if let Entry::Answer { n } = *entry
            && !came.insert(n)
        {
            wrong.push(format!("the answer to event {n} came a second time"));
        }
    }
    let whole = !lost_session(log);
    for (n, fate) in events.fates.iter().enumerate() {
        let must = *fate == Fate::Acked || (whole && *fate == Fate::AckedDuplicate);
        if must && !came.contains(&n) {
            wrong.push(format!("event {n} was acked, and its answer is missing"));
        }
    }
    wrong
}

#[path = "check_tests.rs"]
#[cfg(test)]
mod tests;
