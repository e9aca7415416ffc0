//! The root certificate as a file, for as long as the emulator runs, and how programs come to trust it.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Removes the file when dropped.
#[derive(Debug)]
pub(super) struct CertificateFile {
    path: PathBuf,
}

impl CertificateFile {
    /// Writes the certificate (it is no secret) where other programs find it, at the same place
    /// after each start on that port.
    pub(super) fn save(port: u16, pem: &str) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("webpubsub-emulator-{port}.pem"));
        // What an earlier run left when it was killed. Removed, not opened: it may be a link of
        // somebody else's.
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at(&path, &e)),
            _ => {}
        }
        let mut file = fs::File::create_new(&path).map_err(|e| at(&path, &e))?;
        let file_of_ours = Self { path };
        file.write_all(pem.as_bytes()).map_err(|e| at(&file_of_ours.path, &e))?;
        Ok(file_of_ours)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// One line per platform: its name, and what is to be put before the command or run first.
    pub(super) fn trust(&self) -> Vec<(&'static str, String)> {
        let pem = self.path.display();
        let store = self.path.with_extension("p12");
        let store = store.display();
        let mut lines = Vec::new();
        // OpenSSL takes its roots from this variable; on other systems the library of `native-tls`
        // knows only those of the system.
        if cfg!(target_os = "linux") {
            lines.push(("this crate's examples", format!("SSL_CERT_FILE={pem}")));
        }
        lines.push(("Node", format!("NODE_EXTRA_CA_CERTS={pem}")));
        lines.push(("Python", format!("SSL_CERT_FILE={pem}")));
        lines.push((
            "Java, first",
            format!(
                "rm -f {store} && keytool -importcert -noprompt -alias wps -file {pem} \
                 -keystore {store} -storetype PKCS12 -storepass changeit"
            ),
        ));
        lines.push((
            "Java, then",
            format!(
                "java -Djavax.net.ssl.trustStore={store} \
                 -Djavax.net.ssl.trustStorePassword=changeit"
            ),
        ));
        lines
    }
}

impl Drop for CertificateFile {
    fn drop(&mut self) {
        // It may have been removed by hand, and nobody is left to hear of anything else.
        let _ = fs::remove_file(&self.path);
    }
}

fn at(path: &Path, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}
