//! A program like the one in the README, as a package of its own beside the build's other output:
//! how large, how many crates, how soon its first ack is there.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::child::trust;
use super::support::args::Args;
use super::support::numbers::median;
use super::support::peer::Peer;
use super::{line, spread};

const MAIN: &str = r#"
use webpubsub::{Client, Event};

fn main() -> webpubsub::Result<()> {
    let client = Client::connect(std::env::var("WEBPUBSUB_URL").expect("a client access URL"))?;
    client.join_group("chat")?;
    println!("acked");
    client.publish("chat", "hello")?;
    for event in client.events() {
        if let Event::GroupMessage(m) = event {
            println!("{}: {}", m.group, m.text()?);
        }
    }
    Ok(())
}
"#;

/// Linux, default features, build dependencies counted, and this crate itself.
const MOST_CRATES: f64 = 88.0;

struct Program {
    package: PathBuf,
    target: PathBuf,
}

pub(crate) fn measure(args: &Args) {
    let program = match Program::write() {
        Ok(program) => program,
        Err(why) => return println!("skip program: {why}"),
    };
    if args.wants("crates") {
        match program.crates() {
            Ok(count) => line("crates", "-", None, count, "crates", Some(MOST_CRATES)),
            Err(why) => println!("skip crates: {why}"),
        }
    }
    if !args.wants("program") && !args.wants("start") {
        return;
    }
    let binary = match program.build() {
        Ok(binary) => binary,
        Err(why) => return println!("skip program: {why}"),
    };
    if args.wants("program") {
        match program.stripped_size(&binary) {
            Ok(size) => line("program_stripped", "-", None, size, "KiB", None),
            Err(why) => println!("skip program_stripped: {why}"),
        }
    }
    if args.wants("start") {
        for transport in args.transports() {
            let peer = Peer::start(transport);
            let times = if args.quick { 5 } else { 20 };
            let times: Vec<_> = (0..times).map(|_| Program::first_ack(&binary, &peer)).collect();
            let name = peer.transport.name();
            line("start_to_first_ack", name, None, median(&times), "ms", None);
            spread("start_to_first_ack", name, &times);
        }
    }
}

impl Program {
    fn write() -> Result<Self, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        // This binary is `TARGET/release/deps/footprint-…`.
        let exe = env::current_exe().map_err(text)?;
        let target = exe.ancestors().nth(3).ok_or("no target directory")?.to_owned();
        let package = target.join("footprint-program");
        fs::create_dir_all(package.join("src")).map_err(text)?;
        let manifest = format!(
            "[package]\nname = \"footprint-program\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
             [dependencies]\nwebpubsub = {{ path = {root:?} }}\n[workspace]\n"
        );
        fs::write(package.join("Cargo.toml"), manifest).map_err(text)?;
        fs::write(package.join("src/main.rs"), MAIN).map_err(text)?;
        // The same versions as here. A checkout without a lock file takes the newest.
        let _ = fs::copy(root.join("Cargo.lock"), package.join("Cargo.lock"));
        Ok(Self { package, target })
    }

    fn cargo(&self, args: &[&str]) -> Result<String, String> {
        let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(args)
            .arg("--manifest-path")
            .arg(self.package.join("Cargo.toml"))
            .env("CARGO_TARGET_DIR", &self.target)
            .output()
            .map_err(text)?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(error.lines().next().unwrap_or("cargo failed").to_owned());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn crates(&self) -> Result<f64, String> {
        let tree = self.cargo(&["tree", "-e", "normal,build", "--prefix", "none", "-f", "{p}"])?;
        let crates: BTreeSet<_> = tree
            .lines()
            .filter(|line| !line.starts_with("footprint-program"))
            .map(|line| line.split_whitespace().take(2).collect::<Vec<_>>())
            .filter(|name| !name.is_empty())
            .collect();
        Ok(crates.len() as f64)
    }

    fn build(&self) -> Result<PathBuf, String> {
        self.cargo(&["build", "--release"])?;
        let name = format!("footprint-program{}", env::consts::EXE_SUFFIX);
        Ok(self.target.join("release").join(name))
    }

    fn stripped_size(&self, binary: &Path) -> Result<f64, String> {
        let copy = self.package.join("stripped");
        let status = Command::new("strip").arg("-o").arg(&copy).arg(binary).status();
        if !status.map_err(text)?.success() {
            return Err("strip failed".into());
        }
        Ok(fs::metadata(&copy).map_err(text)?.len() as f64 / 1024.0)
    }

    /// In milliseconds, with the start of the process.
    fn first_ack(binary: &Path, peer: &Peer) -> f64 {
        let mut command = Command::new(binary);
        command.env("WEBPUBSUB_URL", peer.url()).envs(trust(peer)).stdout(Stdio::piped());
        let start = Instant::now();
        let mut child = command.spawn().expect("start the program");
        let mut out = BufReader::new(child.stdout.take().expect("its output"));
        let mut first = String::new();
        out.read_line(&mut first).expect("its first line");
        let taken = start.elapsed().as_secs_f64() * 1e3;
        assert_eq!(first.trim_end(), "acked");
        let _ = child.kill();
        let _ = child.wait();
        taken
    }
}

fn text(e: std::io::Error) -> String {
    e.to_string()
}
