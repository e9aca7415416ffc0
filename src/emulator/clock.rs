//! The emulator's clock: real time plus what the test added.
//!
//! Retention of lost sessions and the validity of tokens go by this clock; sockets do not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[derive(Debug)]
pub(super) struct Clock {
    start: Instant,
    ahead_ms: AtomicU64,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), ahead_ms: AtomicU64::new(0) }
    }

    /// Time since the emulator was started.
    pub(super) fn now(&self) -> Duration {
        self.start.elapsed() + self.ahead()
    }

    /// The calendar time that tokens are checked against, in seconds since 1970.
    pub(super) fn unix_seconds(&self) -> u64 {
        let real = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (real + self.ahead()).as_secs()
    }

    pub(super) fn advance(&self, by: Duration) {
        let ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX / 4);
        self.ahead_ms.fetch_add(ms, Ordering::SeqCst);
    }

    fn ahead(&self) -> Duration {
        Duration::from_millis(self.ahead_ms.load(Ordering::SeqCst))
    }
}
