//! The fragments that are not acknowledged: their numbers, which are sent, and which again.

use std::collections::VecDeque;
use std::time::Instant;

use crate::protocol::Frame;

#[derive(Debug)]
pub(super) struct Flight {
    /// The number of the oldest one, and so what the service is known to expect.
    base: u64,
    fragments: VecDeque<Fragment>,
    bytes: usize,
    /// The number of the next one to send.
    next: u64,
    /// One past the highest number ever sent.
    top: u64,
    /// When that which was accepted last was sent first.
    confirmed_at: Instant,
    started_at: Instant,
    echo: Option<Echo>,
}

#[derive(Debug)]
struct Fragment {
    frame: Frame,
    sent_at: Option<Instant>,
}

/// Each fragment behind a refused one is refused too, with the same number. Those refusals ask for
/// nothing that is not done already.
#[derive(Debug)]
struct Echo {
    number: u64,
    left: u64,
    until: Instant,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Nack {
    /// All from the oldest on is to be sent again.
    Rewind,
    /// An echo of one that was heard before.
    Known,
}

impl Flight {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            base: 1,
            fragments: VecDeque::new(),
            bytes: 0,
            next: 1,
            top: 1,
            confirmed_at: now,
            started_at: now,
            echo: None,
        }
    }

    pub(super) fn started(&mut self, now: Instant) {
        self.started_at = now;
    }

    pub(super) fn confirm_start(&mut self) {
        self.confirmed_at = self.started_at;
    }

    /// Nothing that the service accepted was sent later than this, as far as is known.
    pub(super) fn confirmed_at(&self) -> Instant {
        self.confirmed_at
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fragments.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.fragments.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn acked(&self) -> u64 {
        self.base - 1
    }

    pub(super) fn next_number(&self) -> u64 {
        self.base + self.fragments.len() as u64
    }

    pub(super) fn any_sent(&self) -> bool {
        self.next > self.base
    }

    pub(super) fn push(&mut self, frame: Frame) {
        self.bytes += frame.as_bytes().len();
        self.fragments.push_back(Fragment { frame, sent_at: None });
    }

    pub(super) fn next_to_send(&mut self, now: Instant) -> Option<Frame> {
        let at = usize::try_from(self.next - self.base).ok()?;
        let fragment = self.fragments.get_mut(at)?;
        fragment.sent_at.get_or_insert(now);
        self.next += 1;
        self.top = self.top.max(self.next);
        Some(fragment.frame.clone())
    }

    pub(super) fn oldest(&self) -> Option<Frame> {
        self.fragments.front().map(|fragment| fragment.frame.clone())
    }

    /// The service expects this number next. Whether that is news; `None` if it cannot be.
    pub(super) fn acknowledge(&mut self, expected: u64) -> Option<bool> {
        if !(self.base..=self.top).contains(&expected) {
            return None;
        }
        let advanced = expected > self.base;
        while self.base < expected {
            let Fragment { frame, sent_at } = self.fragments.pop_front()?;
            self.bytes -= frame.as_bytes().len();
            self.confirmed_at = sent_at.unwrap_or(self.confirmed_at);
            self.base += 1;
        }
        self.next = self.next.max(self.base);
        if advanced {
            self.echo = None;
        }
        Some(advanced)
    }

    /// The oldest was refused for the moment: those behind it will be too, until this instant.
    pub(super) fn refused(&mut self, until: Instant) {
        let left = (self.next - self.base).saturating_sub(1);
        self.echo = Some(Echo { number: self.base, left, until });
    }

    /// One of those refusals, while all are to be sent again anyway.
    pub(super) fn echoed(&mut self) {
        if let Some(echo) = &mut self.echo {
            echo.left = echo.left.saturating_sub(1);
        }
    }

    /// The service expects the oldest and got another.
    pub(super) fn nacked(&mut self, now: Instant, until: Instant) -> Nack {
        if let Some(echo) = &mut self.echo
            && echo.number == self.base
            && echo.left > 0
            && now < echo.until
        {
            echo.left -= 1;
            return Nack::Known;
        }
        self.refused(until);
        self.rewind();
        Nack::Rewind
    }

    pub(super) fn rewind(&mut self) {
        self.next = self.base;
    }

    pub(super) fn forget(&mut self) {
        self.fragments = VecDeque::new();
        self.bytes = 0;
    }
}
