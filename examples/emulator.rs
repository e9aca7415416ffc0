//! The emulator as a program of its own, for clients in other processes and other languages.
//!
//! ```sh
//! cargo run --example emulator                            # a free port, no TLS
//! cargo run --example emulator -- --port 8080 --hub chat --tls
//! ```
//!
//! Prints the endpoint, a connection string and a client access URL (all roles for groups, valid
//! for an hour), then the events that clients send to the app server. Runs until Ctrl-C. It
//! listens on 127.0.0.1 only, and its access key is a new one each time.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use webpubsub::crossbeam_channel::bounded;
use webpubsub::emulator::{Emulator, EventAnswer};
use webpubsub::{ClientAccess, Role};

const USAGE: &str = "\
usage: emulator [--port PORT] [--hub HUB] [--tls]
  --port PORT  the TCP port on 127.0.0.1; default: a free one
  --hub HUB    the hub of the URL that is printed; default: chat (all hubs exist)
  --tls        serve wss, with a certificate made at the start
  --help       this text";

struct Flags {
    port: u16,
    hub: String,
    tls: bool,
}

fn main() -> ExitCode {
    let flags = match parse(std::env::args().skip(1)) {
        Ok(Some(flags)) => flags,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(what) => {
            eprintln!("emulator: {what}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprint!("emulator: {e}");
            let mut cause = e.source();
            while let Some(e) = cause {
                eprint!(": {e}");
                cause = e.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

/// `None`: help was asked for.
fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Flags>, String> {
    let mut flags = Flags { port: 0, hub: "chat".to_owned(), tls: false };
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("`{arg}` needs a value"));
        match arg.as_str() {
            "--port" => {
                let text = value()?;
                flags.port = text.parse().map_err(|_| format!("`{text}` is not a port"))?;
            }
            "--hub" => flags.hub = value()?,
            "--tls" => flags.tls = true,
            "--help" | "-h" => return Ok(None),
            other => return Err(format!("unknown argument `{other}`")),
        }
    }
    Ok(Some(flags))
}

fn run(flags: &Flags) -> Result<(), Box<dyn std::error::Error>> {
    let (end, ctrl_c) = bounded(1);
    ctrlc::set_handler(move || _ = end.try_send(()))?;

    let emulator = Emulator::builder()
        .port(flags.port)
        .tls(flags.tls)
        .event_handler(|event| {
            // No `println!`: it would panic when whoever reads our output has gone.
            let (name, id, data) = (&event.event, &event.connection_id, &event.payload);
            let _ = writeln!(io::stdout(), "event `{name}` from {id}: {data}");
            EventAnswer::Nothing
        })
        .start()?;
    let access = ClientAccess::new().role(Role::join_leave()).role(Role::send());
    let url = emulator.url_for(&flags.hub, &access)?;

    println!("endpoint:          {}", emulator.endpoint());
    println!("connection string: {}", emulator.connection_string());
    println!("client access URL: {url}");
    let certificate = emulator.root_certificate_pem().map(|pem| save(emulator.port(), &pem));
    let certificate = certificate.transpose()?;
    if let Some(path) = &certificate {
        println!("root certificate:  {}", path.display());
    }
    println!("\nTry it in another terminal:");
    let trust = certificate.as_deref().map_or(String::new(), trust);
    println!("    {trust}WEBPUBSUB_URL='{url}' cargo run -q --example chat");
    println!("\nCtrl-C ends.");

    // Fails only if the handler is gone, and then there is nothing to wait for.
    let _ = ctrl_c.recv();
    println!("stopped");
    if let Some(path) = certificate {
        fs::remove_file(path)?;
    }
    Ok(())
}

/// Writes the root certificate (it is no secret) where other programs find it.
fn save(port: u16, pem: &str) -> io::Result<PathBuf> {
    let path = std::env::temp_dir().join(format!("webpubsub-emulator-{port}.pem"));
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    fs::File::create_new(&path)?.write_all(pem.as_bytes())?;
    Ok(path)
}

/// OpenSSL, which native-tls uses on Linux, takes further roots from this variable.
fn trust(path: &Path) -> String {
    if cfg!(target_os = "linux") {
        format!("SSL_CERT_FILE={} ", path.display())
    } else {
        String::new()
    }
}
