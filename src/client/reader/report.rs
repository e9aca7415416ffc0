//! What the reader thread says to the outside, besides the event queue: log lines, the counters, and
//! the outcome of the first connection.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::super::group_state::StateLost;
use super::super::label::Label;
use super::super::queues::Queues;
use super::super::shared::Shared;
use crate::error::{Error, Result, described};
use crate::message::Event;
use crate::session::{Receiver, Unread};

/// A full queue is worth a warning this often.
const FULL_EVERY: Duration = Duration::from_secs(10);
/// And unreadable frames this often, however many come.
const UNREADABLE_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Report {
    /// What each line begins with.
    label: Arc<Label>,
    /// Told once: the first connection is up, or has failed. `None` if nobody waits for it.
    ready: Option<Sender<Result<()>>>,
    stopped: bool,
    warned_full: Option<Instant>,
    warned_unasked: bool,
    warned_unreadable: Option<Instant>,
    /// Unreadable frames that no line has mentioned.
    unmentioned: u64,
    pub(super) bytes_in: u64,
}

impl Report {
    pub(super) fn new(label: Arc<Label>, ready: Option<Sender<Result<()>>>) -> Self {
        Self {
            label,
            ready,
            stopped: false,
            warned_full: None,
            warned_unasked: false,
            warned_unreadable: None,
            unmentioned: 0,
            bytes_in: 0,
        }
    }

    /// Nobody waits for the first connection (any more), so calls may be under way.
    pub(super) fn is_ready(&self) -> bool {
        self.ready.is_none()
    }

    /// The last event has been reported.
    pub(super) fn stopped(&self) -> bool {
        self.stopped
    }

    pub(super) fn dial_failed(&self, error: &Error) {
        log::debug!("{} connecting failed: {}", self.label, described(error));
    }

    pub(super) fn event(&mut self, event: &Event) {
        let label = &self.label;
        match event {
            Event::Connected(connected) => {
                label.connection(&connected.connection_id);
                log::info!("{label} connected as `{}`", connected.connection_id);
                self.tell_ready(Ok(()));
            }
            Event::Stopped(stopped) => {
                match stopped.cause.is_closed() {
                    true => log::info!("{label} stopped"),
                    // The caller gets the error.
                    false if self.ready.is_some() => {}
                    false => log::error!("{label} stopped: {}", described(&stopped.cause)),
                }
                self.stopped = true;
                self.tell_ready(Err(stopped.cause.clone()));
            }
            Event::Recovering(e) => {
                log::warn!("{label} link lost, recovering: {}", described(&e.cause));
            }
            Event::Recovered(e) => {
                log::info!("{label} recovered; {} messages replayed", e.replayed);
            }
            Event::Disconnected(e) => {
                log::warn!("{label} disconnected: {}", described(&e.cause));
            }
            Event::Reconnecting(e) => {
                let why = described(&e.cause);
                log::info!("{label} attempt {} in {:?}: {why}", e.attempt, e.delay);
            }
            Event::JoinFailed(e) => {
                log::warn!("{label} group `{}` not joined: {}", e.group, described(&e.error));
            }
            _ => {}
        }
    }

    pub(super) fn state_lost(&self, lost: &StateLost) {
        let (label, why) = (&self.label, described(&lost.error));
        match lost.watch {
            true => log::warn!("{label} states in group `{}` not watched: {why}", lost.group),
            false => log::warn!("{label} state in group `{}` not set again: {why}", lost.group),
        }
    }

    fn tell_ready(&mut self, outcome: Result<()>) {
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(outcome);
        }
    }

    /// A consumer that is too slow fills the queue again and again. `asked`: somebody reads the event
    /// queue.
    pub(super) fn queue_full(&mut self, now: Instant, unread: &Unread, asked: bool) {
        if unread.group.is_none() && !asked {
            if !std::mem::replace(&mut self.warned_unasked, true) {
                log::warn!(
                    "{} nobody reads the event queue, so what comes there is dropped from now on; read \
                     `events()`, or ask for `event_queue(None)`",
                    self.label
                );
            }
            return;
        }
        if is_due(&mut self.warned_full, now, FULL_EVERY) {
            let queue = match &unread.group {
                None => "the event queue".to_owned(),
                Some(group) => format!("the queue of a subscription of `{group}`"),
            };
            log::warn!("{} {queue} is full: {} events are unread", self.label, unread.messages);
        }
    }

    pub(super) fn unreadable(&mut self, now: Instant, why: &str) {
        self.unmentioned += 1;
        if is_due(&mut self.warned_unreadable, now, UNREADABLE_EVERY) {
            let count = std::mem::take(&mut self.unmentioned);
            log::warn!(
                "{} a frame could not be read and was skipped ({count} since the last): {why}",
                self.label
            );
        }
    }

    pub(super) fn counters(&self, shared: &Shared, receiver: &Receiver, queue: &Queues) {
        let (counters, counts) = (&shared.counters, receiver.counts());
        counters.bytes_in.store(self.bytes_in, Relaxed);
        counters.messages_in.store(counts.messages, Relaxed);
        counters.duplicates.store(counts.duplicates, Relaxed);
        counters.dropped.store(counts.dropped + queue.dropped(), Relaxed);
        counters.malformed.store(counts.malformed, Relaxed);
        counters.queue_high_water.store(queue.main().high_water() as u64, Relaxed);
    }
}

fn is_due(last: &mut Option<Instant>, now: Instant, every: Duration) -> bool {
    let due = last.is_none_or(|at| now.saturating_duration_since(at) >= every);
    if due {
        *last = Some(now);
    }
    due
}
