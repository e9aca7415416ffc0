//! What a URL provider is told of the attempt to connect that asks it.

use std::fmt;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError, never};

use crate::transport::Stop;

/// The attempt to connect that wants a URL: how long it can wait, and whether it still wants one.
///
/// What a [provider](crate::UrlSource::provider) does may take long, such as an HTTP request. With
/// [`time_left`](Self::time_left) it can limit that, and a loop can end early when
/// [`is_cancelled`](Self::is_cancelled).
///
/// ```
/// use std::time::Duration;
/// use webpubsub::Attempt;
///
/// fn ask_the_app_server(attempt: &Attempt) -> Result<String, String> {
///     // … an HTTP request with `attempt.time_left()` as its limit
/// #   assert!(!attempt.time_left().is_zero());
///     Ok("wss://demo.webpubsub.azure.com/client/hubs/chat?access_token=…".to_owned())
/// }
///
/// // In a test of such a function:
/// assert!(ask_the_app_server(&Attempt::new(Duration::from_secs(5))).is_ok());
/// ```
#[derive(Clone)]
pub struct Attempt {
    deadline: Instant,
    /// Disconnected on stop. It does not keep the client alive.
    stop: Receiver<()>,
}

/// A limit that the clock cannot express is as good as this one.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

impl Attempt {
    /// One that nobody cancels, for tests of a provider.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { deadline: Instant::now() + limit.min(LONGEST), stop: never() }
    }

    pub(super) fn until(deadline: Instant, stop: &Stop) -> Self {
        Self { deadline, stop: stop.receiver().clone() }
    }

    /// How long the attempt still waits for the URL; zero when it has given up. A URL that comes
    /// later serves the next attempt; after a late failure the next one asks again.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// The client has ended, or is being closed: nobody wants the URL any more. `close` does not
    /// wait for the provider.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.stop.try_recv() == Err(TryRecvError::Disconnected)
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt")
            .field("time_left", &self.time_left())
            .field("is_cancelled", &self.is_cancelled())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_cancelled_by_a_stop_and_by_the_end_of_the_client_and_by_nothing_else() {
        let alone = Attempt::new(Duration::MAX);
        assert!(!alone.is_cancelled() && alone.time_left() > Duration::from_secs(86_400));
        assert!(Attempt::new(Duration::ZERO).time_left().is_zero());

        let stop = Stop::new();
        let attempt = Attempt::until(Instant::now(), &stop);
        assert!(!attempt.is_cancelled() && attempt.time_left().is_zero());
        stop.stop();
        assert!(attempt.is_cancelled() && attempt.clone().is_cancelled());

        let stop = Stop::new();
        let attempt = Attempt::until(Instant::now(), &stop);
        drop(stop);
        assert!(attempt.is_cancelled());
    }
}
