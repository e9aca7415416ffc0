//! The program as a child process, under a watchdog.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use webpubsub::crossbeam_channel::{Receiver, unbounded};
use webpubsub::{Client, Event, GroupMessage};

/// For steps that take milliseconds: some ten times what a slow machine needs.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(30);

/// `wps emulator`; killed when dropped.
pub(crate) struct Wps {
    child: Child,
    lines: Receiver<String>,
    log: Arc<Mutex<String>>,
    /// What was printed at the start, for people.
    pub(crate) first_lines: Vec<String>,
    /// The same with `--json`.
    pub(crate) json: Value,
}

impl Wps {
    /// With `--json`; the log is kept.
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut wps = Self::spawn(&[args, &["--json"]].concat(), true);
        wps.json = serde_json::from_str(&wps.next_line()).expect("a line of JSON");
        wps
    }

    /// The same, but nobody reads its standard error.
    pub(crate) fn start_unread(args: &[&str]) -> Self {
        let mut wps = Self::spawn(&[args, &["--json"]].concat(), false);
        wps.json = serde_json::from_str(&wps.next_line()).expect("a line of JSON");
        wps
    }

    pub(crate) fn start_for_people(args: &[&str]) -> Self {
        let mut wps = Self::spawn(args, true);
        while !wps.first_lines.last().is_some_and(|line| line.contains("Ctrl-C ends")) {
            let line = wps.next_line();
            wps.first_lines.push(line);
        }
        wps
    }

    fn spawn(args: &[&str], keep_log: bool) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_wps"))
            .arg("emulator")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program");
        let (tx, lines) = unbounded();
        let stdout = child.stdout.take().expect("a pipe");
        thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| tx.send(line))
        });
        let log = Arc::new(Mutex::new(String::new()));
        if keep_log {
            let (log, stderr) = (Arc::clone(&log), child.stderr.take().expect("a pipe"));
            thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                    log.push_str(&line);
                    log.push('\n');
                }
            });
        }
        Self { child, lines, log, first_lines: Vec::new(), json: Value::Null }
    }

    pub(crate) fn url(&self) -> String {
        self.json["url"].as_str().expect("a URL").to_owned()
    }

    pub(crate) fn port(&self) -> u16 {
        let endpoint = self.json["endpoint"].as_str().expect("an endpoint");
        endpoint.rsplit(':').next().expect("a port").parse().expect("a number")
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn next_line(&self) -> String {
        self.lines
            .recv_timeout(WATCHDOG)
            .unwrap_or_else(|_| panic!("no line; log:\n{}", self.log()))
    }

    pub(crate) fn line(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().expect("a pipe"), "{line}").expect("written");
    }

    /// Says a line; the answer, in JSON.
    pub(crate) fn say(&mut self, line: &str) -> Value {
        self.line(line);
        let answer: Value = serde_json::from_str(&self.next_line()).expect("a line of JSON");
        assert_eq!(answer["command"], line);
        answer
    }

    /// The same for a line that is right.
    pub(crate) fn command(&mut self, line: &str) -> Value {
        let answer = self.say(line);
        assert_eq!(answer["ok"], true, "{answer}");
        answer
    }

    /// The same for one that cannot be carried out.
    pub(crate) fn refused(&mut self, line: &str) -> Value {
        let answer = self.say(line);
        assert_eq!(answer["ok"], false, "{answer}");
        answer
    }

    pub(crate) fn close_standard_input(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Ends it by a signal; its exit code.
    pub(crate) fn end(mut self, signal: &str) -> Option<i32> {
        let kill = Command::new("kill").args(["-s", signal, &self.child.id().to_string()]).status();
        assert!(kill.expect("kill").success());
        exit_code(&mut self.child)
    }
}

impl Drop for Wps {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn exit_code(child: &mut Child) -> Option<i32> {
    let until = Instant::now() + WATCHDOG;
    while Instant::now() < until {
        if let Some(status) = child.try_wait().expect("a child") {
            return status.code();
        }
        thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    panic!("watchdog: it does not end");
}

/// Runs it with arguments with which it cannot start: exit code and standard error.
pub(crate) fn failed(args: &[&str]) -> (Option<i32>, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_wps"))
        .arg("emulator")
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    let code = exit_code(&mut child);
    let mut said = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
    (code, said)
}

pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + WATCHDOG;
    while !condition() {
        assert!(Instant::now() < end, "watchdog: never {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Takes events until one is right.
pub(crate) fn until(client: &Client, what: &str, is_right: impl Fn(&Event) -> bool) {
    loop {
        match client.recv_timeout(WATCHDOG).expect("the queue is open") {
            Some(event) if is_right(&event) => return,
            Some(_) => {}
            None => panic!("watchdog: never {what}"),
        }
    }
}

pub(crate) fn next_group_message(client: &Client) -> GroupMessage {
    loop {
        match client.recv_timeout(WATCHDOG).expect("the queue is open") {
            Some(Event::GroupMessage(message)) => return message,
            Some(_) => {}
            None => panic!("watchdog: no group message"),
        }
    }
}

/// An HTTP request with a small body; the whole answer.
pub(crate) fn ask(url: &str, method: &str, query: &str) -> String {
    let rest = url.strip_prefix("http://").expect("http");
    let (host, path) = rest.split_once('/').expect("a path");
    let mut socket = TcpStream::connect(host).expect("connect");
    socket.set_read_timeout(Some(WATCHDOG)).expect("timeout");
    let body = if method == "POST" { "{}" } else { "" };
    let request = format!(
        "{method} /{path}{query} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).expect("write");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer, and the end");
    answer
}

/// Sends one text frame, at most 125 bytes, as a client of the JSON subprotocol.
pub(crate) fn send_json(wps: &Wps, text: &str) -> TcpStream {
    let mut socket = TcpStream::connect(("127.0.0.1", wps.port())).expect("connect");
    let url = wps.url();
    let target = url.split_once("//").and_then(|(_, rest)| rest.split_once('/')).expect("a path").1;
    let request = format!(
        "GET /{target} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: json.webpubsub.azure.v1\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).expect("write");
    // RFC 6455, 5.2: a last text frame; masked, by zeros, which change nothing.
    let length = u8::try_from(text.len()).expect("short");
    let mut frame = vec![0x81, 0x80 | length, 0, 0, 0, 0];
    frame.extend_from_slice(text.as_bytes());
    socket.write_all(&frame).expect("write");
    socket
}
