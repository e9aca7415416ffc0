//! What must hold, as pure functions over what each client was told.
//!
//! **Delivery.** The numbers of one publisher, as one subscriber receives them, go up strictly
//! over the subscriber's whole life: nothing comes twice and nothing out of order, on one
//! connection or across several. That is more than the service promises, but here it must hold:
//! the service executes each ack id at most once, a publisher writes its calls in order and sends
//! them again in order, and a new connection joins the group only after the old one was given up,
//! so that it receives nothing that was published before. (A message whose outcome is unknown may
//! in general be executed late. Not here: no fault ends a session and leaves its old link, with
//! unread frames in it, to the emulator.)
//!
//! **Loss.** An acked message may be missing in one place only: between two connections of the
//! subscriber, where `Connected` said `gap_possible`. So one that never lost its session has them
//! all, and for the others no hole may lie inside a connection.

use std::collections::BTreeMap;

/// One event of a client, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    Message {
        publisher: usize,
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
    Stopped,
    /// Never to be seen in this program: `Lagged`, `RejoinFailed`, a foreign message.
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
}

/// Everything one publisher did; its messages are numbered from 0.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    pub(crate) fates: Vec<Fate>,
    /// From here on there were no more faults, and everybody was connected and a member.
    pub(crate) calm_from: usize,
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
            (At::Up | At::Recovering, Entry::Message { .. }) => at,
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

/// Everything wrong with what one subscriber received; see the module.
pub(crate) fn delivery(log: &[Entry], publishers: &[Sent]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut connection = 0usize;
    // By publisher: number and connection of each message, in order of arrival.
    let mut received: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
    for entry in log {
        match *entry {
            Entry::Connected { .. } => connection += 1,
            Entry::Message { publisher, n } => {
                let list = received.entry(publisher).or_default();
                if let Some(&(last, _)) = list.last().filter(|(last, _)| n <= *last) {
                    let what = if list.iter().any(|(seen, _)| *seen == n) {
                        "came a second time"
                    } else {
                        "came too late"
                    };
                    wrong
                        .push(format!("message {n} of publisher {publisher} {what}, after {last}"));
                    continue;
                }
                list.push((n, connection));
            }
            _ => {}
        }
    }
    for (&p, list) in &received {
        match publishers.get(p) {
            Some(sent) if list.iter().all(|(n, _)| *n < sent.fates.len()) => {}
            _ => wrong.push(format!("messages of publisher {p} came that were never sent")),
        }
    }
    for (p, sent) in publishers.iter().enumerate() {
        let none = Vec::new();
        let list = received.get(&p).unwrap_or(&none);
        wrong.extend(holes(p, sent, list, connection));
    }
    wrong
}

/// Acked messages that are missing where they must not be.
fn holes(p: usize, sent: &Sent, list: &[(usize, usize)], connections: usize) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut next = 0; // the first in `list` that is not below `n`
    for (n, fate) in sent.fates.iter().enumerate() {
        if list.get(next).is_some_and(|(m, _)| *m == n) {
            next += 1;
            continue;
        }
        if *fate == Fate::Unknown {
            continue;
        }
        // The connections that it fell between: the group was joined on the first one before
        // anything was sent, and all was drained on the last one.
        let before = if next == 0 { 1 } else { list[next - 1].1 };
        let after = list.get(next).map_or(connections, |(_, connection)| *connection);
        if before == after {
            wrong.push(format!(
                "message {n} of publisher {p} was acked and is missing, and there was no gap \
                 (connection {before} of {connections})"
            ));
        } else if n >= sent.calm_from {
            wrong.push(format!("message {n} of publisher {p} is missing, from after the faults"));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use Entry::{Disconnected, Reconnecting, Recovered, Recovering, Stopped};

    const FIRST: Entry = Entry::Connected { gap_possible: false };
    const AGAIN: Entry = Entry::Connected { gap_possible: true };
    const LOST: Entry = Disconnected { maybe_lost: 1 };

    fn m(n: usize) -> Entry {
        Entry::Message { publisher: 0, n }
    }

    /// Six messages, number 2 with an unknown outcome, the last one sent after the faults.
    fn sent() -> [Sent; 1] {
        let mut fates = vec![Fate::Acked; 6];
        fates[2] = Fate::Unknown;
        [Sent { fates, calm_from: 5 }]
    }

    fn complaints(log: &[Entry]) -> usize {
        delivery(log, &sent()).len()
    }

    #[test]
    fn an_unbroken_subscriber_must_have_all_that_was_acked_once_and_in_order() {
        assert_eq!(complaints(&[FIRST, m(0), m(1), m(3), m(4), m(5)]), 0);
        assert_eq!(complaints(&[FIRST, m(0), m(1), m(2), m(3), m(4), m(5)]), 0);
        assert_eq!(complaints(&[FIRST, m(1), m(3), m(4), m(5)]), 1, "the first is missing");
        assert_eq!(complaints(&[FIRST, m(0), m(1), m(3), m(5)]), 1, "one is missing");
        assert_eq!(complaints(&[FIRST, m(0), m(1), m(3), m(4)]), 1, "the last is missing");
        assert_eq!(complaints(&[FIRST, m(0), m(1), m(3), m(3), m(4), m(5)]), 1, "twice");
        assert_eq!(complaints(&[FIRST, m(0), m(1), m(3), m(4), m(5), m(2)]), 1, "late");
        assert_eq!(complaints(&[FIRST]), 5);
        assert!(complaints(&[FIRST, m(0), m(1), m(3), m(4), m(5), m(6)]) > 0, "never sent");
    }

    #[test]
    fn a_lost_session_excuses_a_hole_at_its_end_and_nowhere_else() {
        assert_eq!(complaints(&[FIRST, m(0), AGAIN, m(4), m(5)]), 0);
        assert_eq!(complaints(&[FIRST, AGAIN, m(5)]), 0);
        assert_eq!(complaints(&[FIRST, m(0), AGAIN, m(3), m(5)]), 1, "inside the second");
        assert_eq!(complaints(&[FIRST, m(1), AGAIN, m(4), m(5)]), 1, "inside the first");
        assert_eq!(complaints(&[FIRST, m(0), m(1), AGAIN, m(1), m(3), m(4), m(5)]), 1, "twice");
        assert_eq!(complaints(&[FIRST, m(0), AGAIN, m(4)]), 1, "after the faults");
        assert_eq!(complaints(&[FIRST, m(0), AGAIN]), 1, "after the faults");
    }

    #[test]
    fn the_grammar_is_kept() {
        for good in [
            &[FIRST, Stopped][..],
            &[FIRST, m(0), Recovering, m(1), Recovered, m(2), LOST, Reconnecting, AGAIN, Stopped],
            &[FIRST, Recovering, LOST, Reconnecting, Reconnecting, Stopped],
            &[FIRST, Recovering, m(0), Recovering, m(1), Recovered, Stopped],
        ] {
            assert_eq!(grammar(good), Ok(()), "{good:?}");
        }
        for bad in [
            &[][..],
            &[FIRST],
            &[AGAIN, Stopped],
            &[FIRST, FIRST, Stopped],
            &[FIRST, Stopped, Stopped],
            &[FIRST, Stopped, m(0)],
            &[FIRST, Recovered, Stopped],
            &[FIRST, LOST, m(0), AGAIN, Stopped],
            &[FIRST, Recovering, AGAIN, Stopped],
            &[FIRST, Entry::Strange, Stopped],
        ] {
            assert!(grammar(bad).is_err(), "{bad:?}");
        }
        assert!(lost_session(&[FIRST, LOST, AGAIN]) && !lost_session(&[FIRST, Recovering]));
        assert_eq!(losses(&[FIRST, Recovering, Recovering, Recovered]), 2);
        assert_eq!(reported_lost(&[FIRST, LOST, Reconnecting, AGAIN, LOST]), 2);
    }
}
