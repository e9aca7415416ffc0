//! What the session is doing, in the program's terms.

use std::time::Instant;

use super::Session;
use super::lifecycle::Phase;
use crate::state::ClientState;

/// The variants of [`ClientState`], for who wants to know whether it has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StateKind {
    Connecting,
    Connected,
    Recovering,
    Waiting,
    Stopped,
}

impl<W> Session<W> {
    pub(crate) fn state_kind(&self) -> StateKind {
        match &self.phase {
            _ if self.ended.is_some() => StateKind::Stopped,
            Phase::Open { .. } => StateKind::Connected,
            _ if self.recovery.is_some() => StateKind::Recovering,
            Phase::Waiting { .. } => StateKind::Waiting,
            _ => StateKind::Connecting,
        }
    }

    /// Attempts to connect since the last loss.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempt
    }

    pub(crate) fn state(&self, now: Instant) -> ClientState {
        if let Some(cause) = &self.ended {
            return ClientState::Stopped(cause.clone());
        }
        let since = self.since.unwrap_or(now);
        match &self.phase {
            Phase::Open { since } => ClientState::Connected { since: *since },
            _ if self.recovery.is_some() => ClientState::Recovering { since },
            Phase::Waiting { until, cause: Some(cause) } => {
                let cause = cause.clone();
                ClientState::Waiting { attempt: self.attempt, until: *until, cause }
            }
            _ => ClientState::Connecting { attempt: self.attempt.max(1), since },
        }
    }
}
