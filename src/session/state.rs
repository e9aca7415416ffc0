//! What the session is doing, in the program's terms.

use std::time::Instant;

use super::Session;
use super::lifecycle::Phase;
use crate::state::ClientState;

impl<W> Session<W> {
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
