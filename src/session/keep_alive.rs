//! When to ask the peer for a sign of life, and when to give it up.

use std::time::{Duration, Instant};

/// How often a client asks for a sign of life (`None`: never), and when it gives up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeepAliveConfig {
    pub(crate) interval: Option<Duration>,
    pub(crate) dead_after: Duration,
}

/// The signs of life of one link.
#[derive(Debug)]
pub(super) struct KeepAlive {
    config: KeepAliveConfig,
    heard: Instant,
    /// The first and the last ping since something was heard.
    pinged: Option<(Instant, Instant)>,
    /// Silence proves nothing before then: the service may run an event handler.
    excused_until: Option<Instant>,
}

/// What silence calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Silence {
    Ping,
    Dead,
}

impl KeepAlive {
    pub(super) fn new(config: KeepAliveConfig, now: Instant) -> Self {
        Self { config, heard: now, pinged: None, excused_until: None }
    }

    /// Any inbound bytes, or a time during which nothing was read.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.pinged = None;
        self.excused_until = None;
    }

    /// The peer took data that had waited for it, which is a sign of life too. Without this, an
    /// answer that comes late behind a large upload would look like silence.
    pub(super) fn moved(&mut self, at: Instant) {
        self.heard = self.heard.max(at);
    }

    pub(super) fn next_wake(&self) -> Option<Instant> {
        let interval = self.config.interval?;
        Some(match self.pinged {
            None => self.heard + interval,
            Some((first, last)) => self.dead_at(interval, first).min(last + interval),
        })
    }

    /// A machine that slept finds both limits passed: the peer still gets its chance to answer the
    /// first ping.
    fn dead_at(&self, interval: Duration, first_ping: Instant) -> Instant {
        let answer_by = first_ping + self.config.dead_after.saturating_sub(interval);
        let dead_at = answer_by.max(self.heard + self.config.dead_after);
        self.excused_until.map_or(dead_at, |until| until.max(dead_at))
    }

    /// What is due. `excused_until` is asked before a silent peer counts as dead: it says until
    /// when silence since the given instant proves nothing.
    pub(super) fn due(
        &mut self,
        now: Instant,
        excused_until: impl FnOnce(Instant) -> Option<Instant>,
    ) -> Option<Silence> {
        let interval = self.config.interval?;
        if now < self.next_wake()? {
            return None;
        }
        let Some((first, last)) = self.pinged else {
            self.pinged = Some((now, now));
            return Some(Silence::Ping);
        };
        if now >= self.dead_at(interval, first) {
            self.excused_until = excused_until(self.heard).filter(|until| *until > now);
            if self.excused_until.is_none() {
                return Some(Silence::Dead);
            }
        }
        // Pings go on, so that TCP notices a network that died while nobody answers.
        (now >= last + interval).then(|| {
            self.pinged = Some((first, now));
            Silence::Ping
        })
    }
}
