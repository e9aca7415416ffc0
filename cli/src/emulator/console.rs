//! Carries out commands, those of standard input above all.

use std::io::{self, BufRead as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use webpubsub::emulator::{ConnectionInfo, Emulator, Faults};

use super::command::{Call, Command, Fault, help};
use super::report::print_line;

pub(super) struct Console {
    emulator: Arc<Emulator>,
    hub: String,
    json: bool,
    /// Which `freeze` is the present one; the end of an earlier one changes nothing. Held while the
    /// fault changes, so that both change together.
    freeze: Arc<Mutex<u64>>,
}

/// What a command has to say.
pub(super) struct Outcome {
    text: String,
    /// In JSON: false for a connection that does not exist.
    ok: bool,
    /// In JSON: what else there is to say, by its name.
    more: Option<(&'static str, Value)>,
}

impl From<String> for Outcome {
    fn from(text: String) -> Self {
        Self { text, ok: true, more: None }
    }
}

impl Outcome {
    fn no_connection(id: &str) -> Self {
        Self { text: format!("there is no connection {id}"), ok: false, more: None }
    }
}

impl Console {
    pub(super) fn new(emulator: Arc<Emulator>, hub: String, json: bool) -> Self {
        Self { emulator, hub, json, freeze: Arc::default() }
    }

    /// Reads commands on a thread of its own, to the end of the input.
    pub(super) fn read_standard_input(self) -> io::Result<()> {
        thread::Builder::new().name("commands".into()).spawn(move || {
            for line in io::stdin().lock().split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                if !line.trim().is_empty() {
                    self.answer(line.trim());
                }
            }
        })?;
        Ok(())
    }

    fn answer(&self, line: &str) {
        let done = line.parse().and_then(|command| self.carry_out(&command));
        print_line(&match (done, self.json) {
            (Ok(done), true) => {
                let said = if done.ok { "text" } else { "error" };
                let mut answer = json!({ "command": line, "ok": done.ok, said: done.text });
                if let Some((name, value)) = done.more {
                    answer[name] = value;
                }
                answer.to_string()
            }
            (Ok(done), false) => done.text,
            (Err(why), true) => json!({ "command": line, "ok": false, "error": why }).to_string(),
            (Err(why), false) => format!("not done: {why}"),
        });
    }

    fn carry_out(&self, command: &Command) -> Result<Outcome, String> {
        Ok(match command {
            Command::Fault(fault) => self.fault(fault),
            Command::Call(call) => self.call(call).map_err(|e| format!("{e:#}"))?,
            Command::List => self.list(),
            Command::Help => help().into(),
        })
    }

    pub(super) fn fault(&self, fault: &Fault) -> Outcome {
        let faults = self.emulator.faults();
        let mut ok = true;
        let done = match fault {
            Fault::Cut { connection: None } => {
                faults.drop_connections();
                "all connections are cut".into()
            }
            Fault::Cut { connection: Some(id) } => {
                ok = faults.drop_connection(id);
                if ok { format!("{id} is cut") } else { format!("{id} has no connection") }
            }
            Fault::CutBeforeAck { times } => {
                faults.drop_before_next_ack(*times);
                format!("cut before the ack of {}", some(*times, "call"))
            }
            Fault::Freeze { during } => {
                self.freeze(&faults, *during);
                format!("frozen for {during:?}")
            }
            Fault::NoRecovery { times } => {
                faults.recovery_closes_1008(*times);
                match *times {
                    u64::MAX => "no recovery succeeds".into(),
                    times => format!("no recovery for {}", some(times, "attempt")),
                }
            }
            Fault::Http { status, times } => {
                faults.refuse_next_upgrades(*times, *status, None);
                format!("HTTP {status} for {}", some((*times).into(), "upgrade"))
            }
            Fault::Close { code, reason } => {
                faults.close_connections(*code, reason);
                format!("Close {code} is sent to all")
            }
            Fault::Latency { delay } => {
                faults.latency(*delay);
                delay.map_or("no latency".into(), |delay| format!("a latency of {delay:?}"))
            }
            Fault::Clear => {
                let mut present = lock(&self.freeze);
                *present += 1;
                faults.clear();
                "no faults".into()
            }
        };
        log::info!(target: "wps", "fault: {done}");
        Outcome { ok, ..done.into() }
    }

    fn freeze(&self, faults: &Faults, during: Duration) {
        let mut present = lock(&self.freeze);
        *present += 1;
        faults.freeze(true);
        let thaw = {
            let (this, freeze, faults) = (*present, Arc::clone(&self.freeze), faults.clone());
            move || {
                thread::sleep(during);
                let present = lock(&freeze);
                if *present == this {
                    faults.freeze(false);
                    log::info!(target: "wps", "no longer frozen");
                }
            }
        };
        // Without a thread that ends it, it must not go on.
        if thread::Builder::new().name("freeze".into()).spawn(thaw).is_err() {
            faults.freeze(false);
        }
    }

    fn call(&self, call: &Call) -> webpubsub::Result<Outcome> {
        let (emulator, hub) = (&self.emulator, self.hub.as_str());
        let sent = match call {
            Call::ToAll { text } => emulator.send_to_all(hub, text.as_str())?,
            Call::ToGroup { group, text } => emulator.send_to_group(hub, group, text.as_str())?,
            Call::ToUser { user, text } => emulator.send_to_user(hub, user, text.as_str())?,
            Call::ToConnection { connection, text } => {
                if !emulator.send_to_connection(hub, connection, text.as_str())? {
                    return Ok(Outcome::no_connection(connection));
                }
                1
            }
            Call::Close { connection, reason } => {
                return Ok(match emulator.close_connection(hub, connection, Some(reason)) {
                    true => format!("{connection} is closed").into(),
                    false => Outcome::no_connection(connection),
                });
            }
        };
        let text = format!("sent to {}", some(sent as u64, "connection"));
        Ok(Outcome { text, ok: true, more: Some(("count", sent.into())) })
    }

    fn list(&self) -> Outcome {
        let connections = self.emulator.connections(&self.hub);
        let mut lines =
            vec![format!("{} in hub {}", some(connections.len() as u64, "session"), self.hub)];
        lines.extend(connections.iter().map(line));
        let connections = connections.iter().map(|c| {
            json!({
                "id": c.id,
                "userId": c.user_id,
                "groups": c.groups,
                "isOpen": c.is_open,
                "unacked": c.unacked,
            })
        });
        let more = Some(("connections", connections.collect()));
        Outcome { text: lines.join("\n"), ok: true, more }
    }
}

fn lock(freeze: &Mutex<u64>) -> MutexGuard<'_, u64> {
    freeze.lock().unwrap_or_else(PoisonError::into_inner)
}

fn line(connection: &ConnectionInfo) -> String {
    let ConnectionInfo { id, user_id, groups, is_open, unacked, .. } = connection;
    let user = user_id.as_deref().map_or("no user".into(), |user| format!("user {user}"));
    let groups = match groups.as_slice() {
        [] => "no groups".into(),
        groups => format!("groups {}", groups.join(", ")),
    };
    let state = if *is_open { "open" } else { "lost, waits for recovery" };
    format!("{id}  {user}, {groups}, {state}, {unacked} unacknowledged")
}

/// A number of things, such as `1 call` and `2 calls`.
fn some(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}
