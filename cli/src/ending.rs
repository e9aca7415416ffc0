//! How a command ends before it is done: by Ctrl-C or SIGTERM, and by `--timeout`.
//!
//! Whatever the main thread waits for then (a connection, an ack, standard input, a pipe that nobody
//! reads), another thread says goodbye to the service and ends the process.

use std::process;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use webpubsub::{Client, UrlSource};

use crate::Failure;

/// The goodbye to the service takes this long at most.
const CLOSE: Duration = Duration::from_secs(1);
/// And the process ends after this time, whatever hangs.
const END: Duration = Duration::from_millis(1500);

/// What a shell expects of a program that SIGINT has ended.
const INTERRUPTED: i32 = 130;
const TIMED_OUT: i32 = 1;

/// Whoever is first decides the exit code: the command, a signal or the time limit.
pub(crate) struct Ending(Arc<Shared>);

#[derive(Default)]
struct Shared {
    decided: AtomicBool,
    client: Mutex<Option<Client>>,
}

impl Ending {
    /// From here on a signal ends the program, and so does the time limit, counted from now.
    pub(crate) fn new(limit: Option<Duration>) -> Result<Self, Failure> {
        let shared = Arc::new(Shared::default());
        let by_signal = Arc::clone(&shared);
        ctrlc::set_handler(move || by_signal.end(INTERRUPTED, None))
            .map_err(|e| Failure::new("no handler for signals can be set", e))?;
        if let Some(limit) = limit {
            let by_time = Arc::clone(&shared);
            let timer = move || {
                thread::sleep(limit);
                by_time.end(TIMED_OUT, Some(format!("not done within {limit:?} (--timeout)")));
            };
            spawn("timeout", timer)?;
        }
        Ok(Self(shared))
    }

    /// Connects, and makes that client the one which a signal closes. Until then there is nothing to
    /// close, and a signal ends the process at once.
    pub(crate) fn connect(&self, source: UrlSource) -> Result<Client, Failure> {
        let client = Client::builder(source).close_timeout(CLOSE).connect()?;
        *self.0.client() = Some(client.clone());
        Ok(client)
    }

    /// What the command came to, unless the end was decided before: then this waits for it.
    pub(crate) fn settle(&self, outcome: Result<(), Failure>) -> Result<(), Failure> {
        while self.0.decided.swap(true, AcqRel) {
            thread::park();
        }
        outcome
    }
}

impl Shared {
    fn client(&self) -> std::sync::MutexGuard<'_, Option<Client>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, exit_code: i32, why: Option<String>) {
        if self.decided.swap(true, AcqRel) {
            return;
        }
        // First, because standard error may be a pipe that nobody reads.
        let limit = spawn("end", move || {
            thread::sleep(END);
            process::exit(exit_code);
        });
        let client = self.client().take();
        if let (Some(client), Ok(())) = (client, limit) {
            // Calls without an outcome are cut off, as was asked for.
            let _ = client.close();
        }
        if let Some(why) = why {
            eprintln!("wps: {why}");
        }
        process::exit(exit_code);
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let thread = thread::Builder::new().name(name.into()).spawn(work);
    thread.map(drop).map_err(|e| Failure::new("no thread can be started", e))
}
