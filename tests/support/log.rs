//! What clients log, told apart by the names of their threads.

use std::sync::{Mutex, Once, PoisonError};
use std::thread;

static LINES: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

struct Collector;

impl log::Log for Collector {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }
    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let name = thread::current().name().unwrap_or_default().to_owned();
            let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
            lines.push((name, record.args().to_string()));
        }
    }
    fn flush(&self) {}
}

/// From here on the warnings of this process are kept.
pub(crate) fn log_of_threads() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Collector).expect("the only logger");
        log::set_max_level(log::LevelFilter::Warn);
    });
}

/// The lines with this part that threads of this name have logged.
pub(crate) fn logged_by(thread: &str, part: &str) -> Vec<String> {
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    let of_thread = lines.iter().filter(|(name, line)| name == thread && line.contains(part));
    of_thread.map(|(_, line)| line.clone()).collect()
}
