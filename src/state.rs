//! What a client is doing at the moment.

use std::fmt::{self, Write as _};
use std::time::Instant;

use crate::error::{Error, described};
use crate::message::OneLine;

/// What a client is doing; see [`Client::state`](crate::Client::state). `Display` prints a line for
/// people.
///
/// New variants and fields may be added: end a `match` with `_ => {}`.
///
#[cfg_attr(feature = "emulator", doc = "```")]
#[cfg_attr(not(feature = "emulator"), doc = "```ignore")]
/// # use webpubsub::{Client, emulator::Emulator};
/// # fn main() -> webpubsub::Result<()> {
/// # let emulator = Emulator::start()?;
/// let client = Client::builder(emulator.url("chat")).connect_in_background()?;
/// client.wait_connected(std::time::Duration::from_secs(30))?;
/// assert!(client.state().is_connected());
/// client.close()?;
/// assert_eq!(client.state().to_string(), "stopped: the client was closed");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ClientState {
    /// An attempt to make a new connection is under way.
    #[non_exhaustive]
    Connecting {
        /// Counts from 1 at the start and after each loss.
        attempt: u32,
        /// When this attempt began.
        since: Instant,
    },
    /// The connection is up.
    #[non_exhaustive]
    Connected {
        /// When it came up, or came back.
        since: Instant,
    },
    /// The link is lost, and the connection is being recovered.
    #[non_exhaustive]
    Recovering {
        /// When the link was lost.
        since: Instant,
    },
    /// The next attempt to make a new connection comes after a pause.
    #[non_exhaustive]
    Waiting {
        /// The number of that attempt.
        attempt: u32,
        /// When it begins.
        until: Instant,
        /// Why the connection was lost, or why the last attempt failed.
        cause: Error,
    },
    /// The client has ended, for this reason; `Closed` if the program closed it.
    Stopped(Error),
}

impl ClientState {
    /// True while the connection is up.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. })
    }

    /// True after the end of the client.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        matches!(self, Self::Stopped(_))
    }
}

impl fmt::Display for ClientState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = OneLine(f);
        match self {
            Self::Connecting { attempt: 1, .. } => f.write_str("connecting"),
            Self::Connecting { attempt, .. } => write!(f, "connecting (attempt {attempt})"),
            Self::Connected { .. } => f.write_str("connected"),
            Self::Recovering { .. } => f.write_str("recovering the connection"),
            Self::Waiting { attempt, until, cause } => {
                let left = until.saturating_duration_since(Instant::now()).as_secs_f32();
                write!(f, "attempt {attempt} to connect in {left:.1} s: {}", described(cause))
            }
            Self::Stopped(cause) => write!(f, "stopped: {}", described(cause)),
        }
    }
}
