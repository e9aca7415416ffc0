//! What is printed at the start: how the emulator is reached.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use serde_json::json;
use webpubsub::emulator::Emulator;

use super::certificate::CertificateFile;

pub(super) struct Report<'a> {
    pub(super) emulator: &'a Emulator,
    pub(super) hub: &'a str,
    pub(super) url: &'a str,
    pub(super) certificate: Option<&'a CertificateFile>,
}

impl Report<'_> {
    pub(super) fn print(&self, as_json: bool) {
        print_line(&if as_json { self.json() } else { self.text() });
    }

    fn negotiate(&self) -> String {
        format!("{}/negotiate", self.emulator.endpoint())
    }

    fn json(&self) -> String {
        json!({
            "endpoint": self.emulator.endpoint(),
            "connectionString": self.emulator.connection_string(),
            "hub": self.hub,
            "url": self.url,
            "negotiate": self.negotiate(),
            "certificate": self.certificate.map(|c| c.path().display().to_string()),
        })
        .to_string()
    }

    fn text(&self) -> String {
        let mut text = format!(
            "endpoint:          {}\n\
             connection string: {}\n\
             client access URL: {}\n\
             fresh URLs:        {}\n",
            self.emulator.endpoint(),
            self.emulator.connection_string(),
            self.url,
            self.negotiate(),
        );
        let mut trust = String::new();
        if let Some(certificate) = self.certificate {
            let _ = writeln!(text, "root certificate:  {}", certificate.path().display());
            let _ = writeln!(text, "\nIt is a new one after each start. How to trust it:");
            for (platform, how) in certificate.trust() {
                let _ = writeln!(text, "    {platform:<22} {how}");
            }
            if cfg!(target_os = "linux") {
                trust = format!("SSL_CERT_FILE={} ", certificate.path().display());
            }
        }
        let _ = write!(
            text,
            "\nTry it, in another terminal and in the folder of the crate `webpubsub`:\n    \
             {trust}WEBPUBSUB_URL='{}' cargo run -q --example chat\n\
             \n`help` lists faults and app-server calls. Ctrl-C ends.",
            self.url
        );
        text
    }
}

/// `println!` would panic when whoever reads our output has gone.
pub(super) fn print_line(text: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
