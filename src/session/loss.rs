//! How a link ended or could not be opened, and what that means for the session.

use crate::error::{Error, ErrorKind};

/// How a link ended.
#[derive(Debug, Clone)]
pub(crate) struct Loss {
    /// With the code of the Close frame, if one came.
    pub(crate) error: Error,
    pub(crate) reason: String,
    /// The peer broke RFC 6455 or one of our limits.
    pub(crate) violation: bool,
    /// Fire-and-forget frames that had not left.
    pub(crate) unsent: u64,
}

impl Loss {
    pub(crate) fn of(error: Error) -> Self {
        Self { error, reason: String::new(), violation: false, unsent: 0 }
    }
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(super) enum Fate {
    Recover,
    /// The session is over.
    Over,
    /// It is over because of what we sent.
    BrokeRule,
}

pub(super) fn fate(loss: &Loss) -> Fate {
    match loss.error.close_code() {
        _ if loss.violation => Fate::Over,
        Some(1000 | 1008 | 1011) => Fate::Over,
        Some(1002 | 1003 | 1007 | 1009) => Fate::BrokeRule,
        _ => Fate::Recover,
    }
}

/// Asking again would bring the same answer.
pub(super) fn never_retried(error: &Error) -> bool {
    error.kind() == ErrorKind::Subprotocol || matches!(refusal_status(error), Some(300..=399))
}

/// The status by which the service refused the upgrade. A proxy's refusal is a network failure.
pub(super) fn refusal_status(error: &Error) -> Option<u16> {
    error.http_status().filter(|_| error.kind() == ErrorKind::Upgrade)
}

/// The fault is ours (RFC 9110 §15.5), so the same request would meet it again: except where it was
/// only too slow (408), too early (425) or one of too many (429).
pub(super) fn is_refusal(status: u16) -> bool {
    matches!(status, 400..=499) && !matches!(status, 408 | 425 | 429)
}
