//! Pings under way, the program's and the client's own, and the round trips that they measure.
//!
//! The subprotocol's `pong` carries nothing that names its ping, but each ping is answered, in order;
//! so all pings of a link are kept here, whoever sent them. A WebSocket Pong may answer several Pings
//! at once, or none (RFC 6455 §5.5.3), so those of the simple client carry a number.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::shared::{Shared, internal};
use super::wake::may_block;
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::Upstream;
use crate::session;
use crate::sync::OneShot;
use crate::transport::{Link, Op};

/// More pings than that without a pong are answered by none; the oldest is forgotten.
const MOST_UNDER_WAY: usize = 1000;

/// Where a thread waits for its pong.
pub(super) type Answer = Arc<OneShot<Result<Duration>>>;

/// The pings of the current link that have no pong yet, in the order in which they were sent. They are
/// noted under the lock under which they are appended, so that is their order on the wire too.
#[derive(Debug, Default)]
pub(super) struct Pings {
    under_way: VecDeque<Ping>,
    last_number: u64,
}

#[derive(Debug)]
struct Ping {
    number: u64,
    sent: Instant,
    /// `None`: nobody waits, it is one of the client's own.
    answer: Option<Answer>,
    /// Its pong did not come in time, so it is not expected any more: one pong that never comes must
    /// not make each later one count for the ping before its own.
    abandoned: bool,
}

/// A pong came: what that has measured, and who waits for it.
pub(super) type Answered = (Duration, Option<Answer>);

impl Pings {
    /// A ping leaves now; returns its number.
    fn sent(&mut self, now: Instant, answer: Option<Answer>) -> u64 {
        self.last_number += 1;
        if self.under_way.len() >= MOST_UNDER_WAY {
            self.under_way.pop_front();
        }
        self.under_way.push_back(Ping {
            number: self.last_number,
            sent: now,
            answer,
            abandoned: false,
        });
        self.last_number
    }

    /// Nobody waits for the answer any more.
    fn abandon(&mut self, number: u64) {
        if let Some(ping) = self.under_way.iter_mut().find(|ping| ping.number == number) {
            ping.abandoned = true;
        }
    }

    /// The subprotocol's pong: it answers the oldest ping that is still expected to be answered.
    fn pong(&mut self, now: Instant) -> Option<Answered> {
        while self.under_way.front().is_some_and(|ping| ping.abandoned) {
            self.under_way.pop_front();
        }
        let ping = self.under_way.pop_front()?;
        Some((now.saturating_duration_since(ping.sent), ping.answer))
    }

    /// A WebSocket Pong with this number: it answers the ping, and all before it.
    fn numbered_pong(&mut self, now: Instant, number: u64) -> Vec<Answered> {
        let answered = self.under_way.partition_point(|ping| ping.number <= number);
        let answered = self.under_way.drain(..answered).filter(|ping| !ping.abandoned);
        answered.map(|ping| (now.saturating_duration_since(ping.sent), ping.answer)).collect()
    }

    /// The link is gone: there will be no pongs. Returns who waits for one.
    pub(super) fn link_gone(&mut self) -> Vec<Answer> {
        self.under_way.drain(..).filter_map(|ping| ping.answer).collect()
    }
}

impl Shared {
    /// Appends a ping, under the lock: the subprotocol's, or a WebSocket Ping for the simple client.
    pub(super) fn append_ping(
        &self,
        pings: &mut Pings,
        link: &Link,
        now: Instant,
        answer: Option<Answer>,
    ) -> u64 {
        let number = pings.sent(now, answer);
        match self.protocol {
            Some(_) => self.append_own(link, &Upstream::Ping),
            None => {
                link.append(Op::Ping, &number.to_be_bytes());
                link.write_later();
            }
        }
        number
    }

    /// The keep-alive.
    pub(super) fn keep_alive_ping(&self, link: &Link) {
        let pings = &mut self.lock().pings;
        self.append_ping(pings, link, Instant::now(), None);
    }

    /// The subprotocol's pong, or a WebSocket Pong with its payload.
    pub(super) fn pong(&self, payload: Option<&[u8]>) {
        let now = Instant::now();
        let mut state = self.lock();
        let answered = match payload {
            None => state.pings.pong(now).into_iter().collect(),
            // One that nobody asked for has another payload.
            Some(payload) => payload.try_into().map_or_else(
                |_| Vec::new(),
                |number| state.pings.numbered_pong(now, u64::from_be_bytes(number)),
            ),
        };
        if let Some((round_trip, _)) = answered.last() {
            state.session.counts.round_trip = Some(*round_trip);
        }
        drop(state);
        for (round_trip, answer) in answered {
            if let Some(answer) = answer {
                answer.set(Ok(round_trip));
            }
        }
    }

    /// See [`Client::ping`](crate::Client::ping).
    pub(super) fn ping(&self) -> Result<Duration> {
        may_block()?;
        let now = Instant::now();
        let deadline = now + self.config.call_timeout;
        let answer = Answer::new(OneShot::new());
        let (link, number) = self.send_ping(now, &answer)?;
        // Only what the socket takes at once; the reader writes the rest. A write that waits for
        // room would not notice that the client is closed.
        self.flush(&link, now);
        answer.wait_until(deadline).unwrap_or_else(|| {
            self.lock().pings.abandon(number);
            let text = "no pong came within the call timeout";
            Err(Error::new(ErrorKind::Timeout, text).maybe_delivered(true))
        })
    }

    fn send_ping(&self, now: Instant, answer: &Answer) -> Result<(Arc<Link>, u64)> {
        let mut state = self.lock();
        if self.is_poisoned() {
            return Err(internal());
        }
        if let Some(cause) = state.session.ended() {
            return Err(session::ended_error(cause, false));
        }
        state.note_dead_link();
        let link = state.link.clone().filter(|_| state.session.is_open());
        let link = link.ok_or_else(|| {
            Error::new(ErrorKind::Disconnected, "there is no connection at the moment")
        })?;
        let number = self.append_ping(&mut state.pings, &link, now, Some(Arc::clone(answer)));
        Ok((link, number))
    }
}

/// For who waits for a pong when the link is lost, or the client ends.
pub(super) fn lost_pong(ended: Option<&Error>) -> Error {
    match ended {
        Some(cause) => session::ended_error(cause, true),
        None => Error::new(ErrorKind::Disconnected, "the connection was lost before the pong came")
            .maybe_delivered(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Answer {
        Answer::new(OneShot::new())
    }

    #[test]
    fn a_pong_answers_the_oldest_ping_whoever_sent_it() {
        let (mut pings, start) = (Pings::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let mine = answer();
        pings.sent(at(0), None);
        pings.sent(at(10), Some(Arc::clone(&mine)));
        let (own, waiter) = pings.pong(at(15)).expect("the keep-alive's");
        assert!(own == Duration::from_millis(15) && waiter.is_none());
        let (round_trip, waiter) = pings.pong(at(17)).expect("the program's");
        assert_eq!(round_trip, Duration::from_millis(7));
        assert!(Arc::ptr_eq(&waiter.expect("waits"), &mine));
        assert!(pings.pong(at(18)).is_none(), "nobody asked for it");
    }

    #[test]
    fn a_pong_that_never_comes_costs_its_own_ping_alone() {
        let (mut pings, start) = (Pings::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let lost = pings.sent(at(0), Some(answer()));
        pings.abandon(lost);
        pings.sent(at(100), Some(answer()));
        let (round_trip, waiter) = pings.pong(at(103)).expect("the later one's");
        assert!(round_trip == Duration::from_millis(3) && waiter.is_some());
        for _ in 0..2 * MOST_UNDER_WAY {
            pings.sent(at(200), None);
        }
        assert_eq!(pings.under_way.len(), MOST_UNDER_WAY);
    }

    #[test]
    fn a_numbered_pong_answers_all_up_to_its_ping() {
        let (mut pings, start) = (Pings::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let [_, second, third] = [0, 10, 20].map(|ms| pings.sent(at(ms), Some(answer())));
        let answered = pings.numbered_pong(at(25), second);
        let round_trips: Vec<u128> = answered.iter().map(|(trip, _)| trip.as_millis()).collect();
        assert_eq!(round_trips, [25, 15]);
        assert!(pings.numbered_pong(at(26), second).is_empty(), "again");
        assert_eq!(pings.numbered_pong(at(26), third).len(), 1);
    }

    #[test]
    fn with_the_link_go_its_pings() {
        let (mut pings, now) = (Pings::default(), Instant::now());
        pings.sent(now, Some(answer()));
        pings.sent(now, None);
        assert_eq!(pings.link_gone().len(), 1);
        assert!(pings.pong(now).is_none());
    }
}
