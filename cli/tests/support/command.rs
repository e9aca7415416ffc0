//! `wps listen`, `send` and `event` as child processes, under a watchdog.

// Each test program uses a part of it.
#![allow(dead_code)]

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub(crate) const WATCHDOG: Duration = Duration::from_secs(30);

/// What the program has come to.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) after: Duration,
}

/// A child; killed when dropped.
pub(crate) struct Running {
    child: Child,
    out: Option<JoinHandle<String>>,
    err: Arc<Mutex<String>>,
    err_reader: Option<JoinHandle<()>>,
}

pub(crate) fn start(args: &[&str]) -> Running {
    start_with(args, &[])
}

pub(crate) fn start_with(args: &[&str], variables: &[(&str, &str)]) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wps"));
    for name in ["WEBPUBSUB_URL", "WEBPUBSUB_CONNECTION_STRING", "WEBPUBSUB_HUB"] {
        command.env_remove(name);
    }
    let mut child = command
        .args(args)
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    let mut stdout = child.stdout.take().expect("a pipe");
    let out = thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).expect("text");
        text
    });
    let mut running = Running { child, out: Some(out), err: Arc::default(), err_reader: None };
    running.read_standard_error();
    running
}

impl Running {
    fn read_standard_error(&mut self) {
        let mut stderr = self.child.stderr.take().expect("a pipe");
        let err = Arc::clone(&self.err);
        self.err_reader = Some(thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(n @ 1..) = stderr.read(&mut part) {
                let text = String::from_utf8_lossy(&part[..n]);
                err.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
            }
        }));
    }

    /// Waits for a text on standard error.
    pub(crate) fn until_it_says(&self, text: &str) {
        let end = Instant::now() + WATCHDOG;
        while !self.said().contains(text) {
            assert!(Instant::now() < end, "watchdog: it never says {text:?}: {}", self.said());
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn said(&self) -> String {
        self.err.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn input(&mut self, bytes: &[u8]) {
        self.child.stdin.as_mut().expect("a pipe").write_all(bytes).expect("written");
    }

    pub(crate) fn interrupt(&self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", "INT", &id]).status().expect("kill").success());
    }

    /// Closes its standard input and waits for its end.
    pub(crate) fn end(mut self) -> Ended {
        drop(self.child.stdin.take());
        self.wait()
    }

    /// Waits for its end; its standard input stays open.
    pub(crate) fn wait(mut self) -> Ended {
        let since = Instant::now();
        let code = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status.code();
            }
            assert!(since.elapsed() < WATCHDOG, "watchdog: it does not end: {}", self.said());
            thread::sleep(Duration::from_millis(5));
        };
        let after = since.elapsed();
        let out = self.out.take().expect("once").join().expect("text");
        self.err_reader.take().expect("once").join().expect("text");
        Ended { code, out, err: self.said(), after }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends SIGINT: it must end within 2 s, by exit code 130.
pub(crate) fn interrupted(running: Running) -> Ended {
    running.interrupt();
    let ended = running.wait();
    assert_eq!(ended.code, Some(130), "{ended:?}");
    assert!(ended.after < Duration::from_secs(2), "{ended:?}");
    ended
}
