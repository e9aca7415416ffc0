//! `wps emulator`: the emulator of the service as a program of its own.
//!
//! Threads: this one waits for a signal; one reads commands from standard input; the others are the
//! emulator's and the log's.

mod certificate;
mod command;
mod console;
mod flags;
mod report;

use std::sync::Arc;
use std::time::Duration;

use log::LevelFilter;
use webpubsub::crossbeam_channel::bounded;
use webpubsub::emulator::{Emulator, EventAnswer};
use webpubsub::{ClientAccess, Result, Role};

use certificate::CertificateFile;
use console::Console;
pub(crate) use flags::Flags;
use flags::{Answer, LogLevel};
use report::Report;

use crate::{Failure, logger};

/// The access key if none is given. A fixed one, so that a URL or a connection string in somebody's
/// configuration is good after a restart. It is no secret: the emulator listens on 127.0.0.1 only.
const DEVELOPMENT_KEY: &str = "wps-emulator-development-key-that-is-no-secret";
/// The URL that is printed may be pasted into a configuration, and work for a day.
const URL_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Runs until a signal to end comes.
pub(crate) fn run(flags: &Flags) -> Result<(), Failure> {
    // Before anything that has to be cleaned up.
    let (end, ended) = bounded(1);
    ctrlc::set_handler(move || _ = end.try_send(()))
        .map_err(|e| Failure::new("no handler for signals can be set", e))?;
    logger::install(match flags.log {
        LogLevel::Connections => LevelFilter::Info,
        LogLevel::Messages | LogLevel::Frames => LevelFilter::Debug,
    });

    let emulator = Arc::new(start(flags)?);
    let url = emulator.url_for(&flags.hub, &access(flags).lifetime(URL_LIFETIME))?;
    let certificate = emulator
        .root_certificate_pem()
        .map(|pem| CertificateFile::save(emulator.port(), &pem))
        .transpose()
        .map_err(|e| Failure::new("the root certificate cannot be written", e))?;
    let console = Console::new(Arc::clone(&emulator), flags.hub.clone(), flags.json);
    for fault in flags.faults() {
        console.fault(fault);
    }
    let report = Report {
        emulator: &emulator,
        hub: &flags.hub,
        url: &url,
        certificate: certificate.as_ref(),
    };
    report.print(flags.json);
    console.read_standard_input().map_err(|e| Failure::new("standard input cannot be read", e))?;

    // Fails only if the handler is gone, and then there is nothing to wait for.
    let _ = ended.recv();
    log::info!(target: "wps", "stopped by a signal");
    Ok(())
}

fn start(flags: &Flags) -> Result<Emulator> {
    let key = flags.key.as_deref().unwrap_or(DEVELOPMENT_KEY);
    let builder = Emulator::builder()
        .port(flags.port)
        .tls(flags.tls)
        .access_key(key)
        .allow_anonymous(flags.anonymous)
        .connected_after_recovery(flags.connected_after_recovery)
        .negotiate(&flags.hub, access(flags))
        .log_frames(flags.log == LogLevel::Frames)
        .record_frames(0);
    let Some(answer) = flags.event_answer else { return builder.start() };
    builder
        .failed_event_closes_connection(answer == Answer::Drop)
        .event_handler(move |event| match answer {
            Answer::Echo => EventAnswer::Message(event.payload.clone()),
            Answer::Ack => EventAnswer::Nothing,
            Answer::Fail | Answer::Drop => EventAnswer::Failure,
        })
        .start()
}

/// What the printed URL and those of `/negotiate` grant.
fn access(flags: &Flags) -> ClientAccess {
    let roles = match flags.roles.as_slice() {
        [] => {
            vec![Role::join_leave(), Role::send(), Role::set_group_state(), Role::get_group_state()]
        }
        roles => roles.to_vec(),
    };
    let access = ClientAccess::new().roles(roles).groups(&flags.groups);
    flags.user.iter().fold(access, |access, user| access.user_id(user))
}
