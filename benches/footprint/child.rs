//! What is weighed in a process of its own: memory, threads, wake-ups.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use webpubsub::Client;

use super::support::Transport;
use super::support::peer::{Peer, Target};
use super::{PATIENCE, line};

const TASK: &str = "WEBPUBSUB_BENCH_TASK";
const NUMBER: &str = "WEBPUBSUB_BENCH_NUMBER";
const PORT: &str = "WEBPUBSUB_BENCH_PORT";
const PEM: &str = "WEBPUBSUB_BENCH_PEM";

/// At 500 connections, in KiB.
const MEMORY_TARGETS: [(&str, f64); 2] = [("ws", 40.0), ("wss", 75.0)];

/// Runs a task of this program in a second process.
///
/// There the clients have default options: what they could share they must be able to share. So
/// the peer's certificate is added to the system's own by the environment.
pub(crate) fn run(task: &str, number: usize, peer: &Peer) {
    let status = Command::new(env::current_exe().expect("the path of this program"))
        .env(TASK, task)
        .env(NUMBER, number.to_string())
        .env(PORT, peer.port.to_string())
        .env(PEM, &peer.pem)
        .envs(trust(peer))
        .status();
    assert!(status.expect("start a process").success(), "{task} failed");
}

/// For OpenSSL: a file with the system's certificates and the peer's. Nothing for `ws`.
pub(crate) fn trust(peer: &Peer) -> Option<(&'static str, PathBuf)> {
    if peer.pem.is_empty() {
        return None;
    }
    let bundles = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];
    let system = bundles.iter().find_map(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    let file = trust_file();
    fs::write(&file, system + "\n" + &peer.pem).expect("write the certificates");
    Some(("SSL_CERT_FILE", file))
}

fn trust_file() -> PathBuf {
    env::temp_dir().join(format!("webpubsub-bench-{}.pem", std::process::id()))
}

/// Removes what [`trust`] left.
pub(crate) fn tidy_up() {
    let _ = fs::remove_file(trust_file());
}

/// In a second process this does not return.
pub(crate) fn be_the_child_if_asked() {
    let Ok(task) = env::var(TASK) else { return };
    let number = |name: &str| env::var(name).ok()?.parse().ok();
    let amount: usize = number(NUMBER).expect("a number");
    let pem = env::var(PEM).unwrap_or_default();
    let transport = if pem.is_empty() { Transport::Ws } else { Transport::Wss };
    let port = number(PORT).and_then(|port| port.try_into().ok()).expect("a port");
    let peer = Target::new(transport, port, pem);
    match task.as_str() {
        "connect" => super::connecting(&peer, amount),
        _ if proc_status().is_none() => {
            println!("skip task={task} transport={}: there is no /proc", transport.name());
        }
        "memory" => weigh(&peer, amount),
        _ => sleep(&peer, Duration::from_secs(amount as u64)),
    }
    std::process::exit(0);
}

fn weigh(peer: &Target, most: usize) {
    let transport = peer.transport.name();
    let connect = || Client::connect(peer.url()).expect("connect");
    let before = proc_status().unwrap_or_default();
    let mut clients = Vec::new();
    let mut last = (0, before.clone());
    let target = MEMORY_TARGETS.iter().find(|(name, _)| *name == transport).map(|(_, kib)| *kib);
    for count in [1, 100, 500].into_iter().filter(|count| *count <= most) {
        clients.resize_with(count, &connect);
        thread::sleep(PATIENCE);
        let now = proc_status().unwrap_or_default();
        let per = |key: &str, from: &HashMap<String, f64>, clients: usize| {
            (now[key] - from[key]) / clients as f64
        };
        let threads = per("Threads", &before, count);
        line(&format!("threads_at_{count}"), transport, None, threads, "per_conn", Some(1.0));
        let memory = per("VmRSS", &before, count);
        let target = target.filter(|_| count == 500);
        line(&format!("memory_at_{count}"), transport, None, memory, "KiB_per_conn", target);
        let more = per("VmRSS", &last.1, count - last.0);
        line(&format!("memory_more_to_{count}"), transport, None, more, "KiB_per_conn", None);
        last = (count, now);
    }
    // Buffers that grow with use, and the pieces that the allocator keeps.
    let data = "x".repeat(4096);
    for client in &clients {
        client.publish("bench", data.as_str()).expect("an ack");
    }
    let used = proc_status().unwrap_or_default()["VmRSS"] - before["VmRSS"];
    let used = used / clients.len() as f64;
    line("memory_after_a_4KiB_send", transport, None, used, "KiB_per_conn", None);
}

fn sleep(peer: &Target, length: Duration) {
    const CLIENTS: usize = 10;
    let connect = |keep_alive| {
        let builder = Client::builder(peer.url());
        let builder = if keep_alive { builder } else { builder.keep_alive(None) };
        builder.connect().expect("connect")
    };
    for (keep_alive, name) in [(false, "idle_wake_ups"), (true, "idle_wake_ups_keep_alive")] {
        let clients: Vec<_> = (0..CLIENTS).map(|_| connect(keep_alive)).collect();
        thread::sleep(PATIENCE);
        let before = wake_ups();
        thread::sleep(length);
        let woken = (wake_ups() - before) / CLIENTS as f64;
        let target = (!keep_alive).then_some(0.0);
        line(
            name,
            peer.transport.name(),
            None,
            woken,
            &format!("in_{}s", length.as_secs()),
            target,
        );
        drop(clients);
        thread::sleep(PATIENCE);
    }
}

/// The numbers in `/proc/self/status`; sizes are in KiB.
fn proc_status() -> Option<HashMap<String, f64>> {
    numbers(&fs::read_to_string("/proc/self/status").ok()?)
}

fn numbers(status: &str) -> Option<HashMap<String, f64>> {
    let line = |line: &str| {
        let (key, value) = line.split_once(':')?;
        Some((key.to_owned(), value.split_whitespace().next()?.parse().ok()?))
    };
    Some(status.lines().filter_map(line).collect())
}

/// How often all threads but the main one went to sleep by themselves, and so were woken.
fn wake_ups() -> f64 {
    let main = std::process::id().to_string();
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    tasks
        .filter(|task| task.file_name().to_str() != Some(&main))
        .filter_map(|task| fs::read_to_string(task.path().join("status")).ok())
        .filter_map(|status| numbers(&status)?.get("voluntary_ctxt_switches").copied())
        .sum()
}
