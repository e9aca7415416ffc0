//! The log on standard error: one line per record, with the time of day in UTC.
//!
//! A thread of its own writes, behind a bounded queue: a harness that reads nothing from our
//! standard error must not bring the emulator to a halt. Lines that find the queue full are lost,
//! and their number is reported.

use std::io::{self, Write as _};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use log::{Level, LevelFilter, Log, Metadata, Record};
use webpubsub::crossbeam_channel::{Receiver, Sender, bounded};

/// This many lines wait at most, some 2 MiB.
const QUEUE: usize = 16 * 1024;
/// At its end the program waits this long for the last lines.
const LAST_LINES: Duration = Duration::from_millis(500);

enum Entry {
    Line(String),
    /// Everything before it is written once the sender is dropped.
    Flush(Sender<()>),
}

struct Logger {
    entries: Sender<Entry>,
    lost: AtomicU64,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Logs what the crate `webpubsub` and this program report, up to that level.
pub(crate) fn install(level: LevelFilter) {
    let (tx, rx) = bounded(QUEUE);
    let logger = LOGGER.get_or_init(|| Logger { entries: tx, lost: AtomicU64::new(0) });
    // Fails only if there is a logger already, or no thread to be had: then nothing is logged.
    if log::set_logger(logger).is_ok()
        && thread::Builder::new().name("log".into()).spawn(move || write(&rx, logger)).is_ok()
    {
        log::set_max_level(level);
    }
}

/// Waits until what was logged so far is written, but not for long.
pub(crate) fn finish() {
    let Some(logger) = LOGGER.get() else { return };
    let (tx, rx) = bounded(0);
    if logger.entries.send_timeout(Entry::Flush(tx), LAST_LINES).is_ok() {
        // The sender is dropped, nothing is ever sent.
        let _ = rx.recv_timeout(LAST_LINES);
    }
}

fn write(entries: &Receiver<Entry>, logger: &Logger) {
    for entry in entries {
        // Nobody may be reading any more, and that is no reason to end.
        match entry {
            Entry::Line(line) => _ = io::stderr().write_all(line.as_bytes()),
            Entry::Flush(done) => drop(done),
        }
        let lost = logger.lost.swap(0, Relaxed);
        if lost > 0 {
            let _ = writeln!(io::stderr(), "{} {lost} lines of the log were lost", time_of_day());
        }
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        target.starts_with("webpubsub") || target.starts_with("wps")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            _ => "",
        };
        let line = format!("{} {level}{}\n", time_of_day(), record.args());
        if self.entries.try_send(Entry::Line(line)).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }

    fn flush(&self) {
        finish();
    }
}

/// Hours, minutes, seconds, milliseconds; in UTC, because the standard library knows no time zones.
fn time_of_day() -> String {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let of_day = since_1970.as_secs() % (24 * 60 * 60);
    let (hours, minutes, seconds) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}.{:03}Z", since_1970.subsec_millis())
}
