//! The settings of a session, as the builder made them.

use std::time::Duration;

#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// A reliable subprotocol: a dropped link can be recovered.
    pub(crate) recoverable: bool,
    /// The simple client: no `connected` message, no acks, no pong.
    pub(crate) simple: bool,
    /// The URL comes from a closure: a refused upgrade may be cured by asking it again.
    pub(crate) url_provider: bool,
    pub(crate) auto_reconnect: bool,
    /// The first connection is tried like those after a loss.
    pub(crate) background: bool,
    pub(crate) rejoin: bool,
    pub(crate) resend_on_new_connection: bool,
    pub(crate) max_reconnect_attempts: Option<u32>,
    /// One attempt to connect, all steps together, up to the `connected` message.
    pub(crate) connect_timeout: Duration,
    /// The share of it for each step, such as the `connected` message.
    pub(crate) step_timeout: Duration,
    /// How long the service keeps a lost session (at least 30 s by its specification).
    pub(crate) recovery_window: Duration,
    pub(crate) recovery_interval: Duration,
    pub(crate) recovery_attempt: Duration,
    pub(crate) backoff_min: Duration,
    pub(crate) backoff_max: Duration,
    /// A connection that lived this long resets the backoff.
    pub(crate) stable_after: Duration,
    pub(crate) call_timeout: Duration,
    pub(crate) close_timeout: Duration,
    pub(crate) max_in_flight: usize,
    pub(crate) max_in_flight_bytes: usize,
    /// Calls without an outcome, written or not.
    pub(crate) max_pending_calls: usize,
    /// Bytes of calls that are not written.
    pub(crate) max_pending_bytes: usize,
}

/// No limit is longer than a year: `Instant` cannot name every later time, and a sum that it cannot
/// name panics.
const LONGEST: Duration = Duration::from_secs(86_400 * 365);

impl Config {
    /// The same, with each duration short enough to be added to the time.
    pub(super) fn bounded(mut self) -> Self {
        for duration in [
            &mut self.connect_timeout,
            &mut self.step_timeout,
            &mut self.recovery_window,
            &mut self.recovery_interval,
            &mut self.recovery_attempt,
            &mut self.backoff_min,
            &mut self.backoff_max,
            &mut self.call_timeout,
            &mut self.close_timeout,
        ] {
            *duration = LONGEST.min(*duration);
        }
        self
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            recoverable: true,
            simple: false,
            url_provider: false,
            auto_reconnect: true,
            background: false,
            rejoin: true,
            resend_on_new_connection: false,
            max_reconnect_attempts: None,
            connect_timeout: Duration::from_secs(30),
            step_timeout: Duration::from_secs(10),
            recovery_window: Duration::from_secs(30),
            recovery_interval: Duration::from_secs(1),
            recovery_attempt: Duration::from_secs(5),
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(30),
            stable_after: Duration::from_secs(60),
            call_timeout: Duration::from_secs(30),
            close_timeout: Duration::from_secs(2),
            // The service cuts a plain link with 1000 unsent frames, and each call may bring two: its
            // ack and its own echo. So half of that, and again half for what others send. (It also
            // remembers only the last 1000 ack ids.)
            max_in_flight: 256,
            max_in_flight_bytes: 16 * 1024 * 1024,
            max_pending_calls: 65_536,
            max_pending_bytes: 64 * 1024 * 1024,
        }
    }
}
