//! The flags of `wps emulator`.

use clap::{Args, ValueEnum};
use webpubsub::Role;

use super::command::{Command, Fault, help, latency};

/// How the emulator is started.
#[derive(Debug, Args)]
#[command(after_long_help = format!("Commands on standard input:\n{}", help()))]
pub(crate) struct Flags {
    /// The TCP port; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    pub(super) port: u16,

    /// The hub of the printed URL and of the commands; any hub name works
    #[arg(long, default_value = "chat")]
    pub(super) hub: String,

    /// Serves wss and https, with a certificate made at the start
    #[arg(long)]
    pub(super) tls: bool,

    /// The access key [default: a fixed one that is no secret, so with `--port` URLs stay
    /// good over restarts]
    #[arg(long, value_parser = key)]
    pub(super) key: Option<String>,

    /// The user id in the printed URL and in those of /negotiate [default: none]
    #[arg(long)]
    pub(super) user: Option<String>,

    /// A role in these URLs, such as sendToGroup or webpubsub.joinLeaveGroup.room1; repeatable
    /// [default: to join, leave and send to any group]
    #[arg(long = "role", value_name = "ROLE", value_parser = role)]
    pub(super) roles: Vec<Role>,

    /// A group that clients with these URLs are in from the start; repeatable
    #[arg(long = "group", value_name = "GROUP")]
    pub(super) groups: Vec<String>,

    /// How events are answered [default: there is no event handler, so they fail]
    #[arg(long, value_enum)]
    pub(super) event_answer: Option<Answer>,

    /// Clients without a token may connect, without user and roles
    #[arg(long)]
    pub(super) anonymous: bool,

    /// A recovered connection gets a new `connected` first; the official JavaScript client goes on
    /// with its streams only then
    #[arg(long)]
    pub(super) connected_after_recovery: bool,

    /// A delay before what the service writes, in milliseconds or as 20ms, 1s
    #[arg(long, value_name = "MS", value_parser = latency)]
    latency: Option<Fault>,

    /// A command to begin with, such as "http 503 2"; repeatable
    #[arg(long = "fault", value_name = "COMMAND", value_parser = fault)]
    faults: Vec<Fault>,

    /// What is logged
    #[arg(long, value_enum, default_value_t = LogLevel::Messages)]
    pub(super) log: LogLevel,

    /// Prints JSON: one object on one line, and one for each command
    #[arg(long)]
    pub(super) json: bool,
}

/// What an event is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Answer {
    /// The event's data comes back as a message, then the ack
    Echo,
    /// The ack alone
    Ack,
    /// The ack says InternalServerError; a simple client is closed with 1011
    Fail,
    /// The connection is closed with 1011
    Drop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogLevel {
    /// Who connects, is refused, is closed, and why; faults
    Connections,
    /// Groups, publications, events and failed calls too
    Messages,
    /// Each frame too, shortened; payloads are in it, tokens are not
    Frames,
}

impl Flags {
    /// What is carried out before the address is printed.
    pub(super) fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.latency.iter().chain(&self.faults)
    }
}

fn key(text: &str) -> Result<String, String> {
    // It is a field of the connection string.
    match text.is_empty() || text.contains(';') || text.trim() != text {
        true => Err("a key is not empty, without `;` and without white space at its ends".into()),
        false => Ok(text.into()),
    }
}

/// With or without the prefix that all roles have. The service ignores a role that it does not know;
/// here that would be a typing error.
fn role(text: &str) -> Result<Role, String> {
    const KNOWN: [&str; 2] = ["joinLeaveGroup", "sendToGroup"];
    const STATES: [&str; 2] = ["setGroupState", "getGroupState"];
    let name = text.strip_prefix("webpubsub.").unwrap_or(text);
    let rest = |known: &[&str]| known.iter().find_map(|known| name.strip_prefix(known));
    let is_known = match (rest(&KNOWN), rest(&STATES)) {
        (Some(rest), _) => rest.is_empty() || rest.starts_with('.') || rest.starts_with("s."),
        (None, Some(rest)) => rest.is_empty() || rest.starts_with('.'),
        (None, None) => false,
    };
    if !is_known {
        return Err(
            "the roles are joinLeaveGroup and sendToGroup, alone for any group, or followed \
             by .GROUP or s.PATTERN, and setGroupState and getGroupState, alone or followed by \
             .PATTERN"
                .into(),
        );
    }
    format!("webpubsub.{name}").parse().map_err(|e: webpubsub::Error| e.to_string())
}

fn fault(text: &str) -> Result<Fault, String> {
    match text.parse()? {
        Command::Fault(fault) if fault.is_for_the_start() => Ok(fault),
        _ => Err("it is about what is there now, and at the start nothing is".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_need_no_prefix_and_unknown_ones_are_refused() {
        for (text, role) in [
            ("sendToGroup", "webpubsub.sendToGroup"),
            ("webpubsub.joinLeaveGroup.a.b", "webpubsub.joinLeaveGroup.a.b"),
            ("sendToGroups.room-*", "webpubsub.sendToGroups.room-*"),
            ("getGroupState", "webpubsub.getGroupState"),
            ("setGroupState.room-*", "webpubsub.setGroupState.room-*"),
        ] {
            assert_eq!(super::role(text).unwrap().as_str(), role);
        }
        for text in [
            "",
            "admin",
            "setGroupStates.a",
            "sendToGroupX",
            "webpubsub.",
            "sendToGroup.",
            "sendToGroups.\\x",
        ] {
            assert!(role(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_key_fits_into_a_connection_string() {
        assert!(key("a=b==").is_ok());
        for text in ["", "a;b", " a", "a\n"] {
            assert!(key(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_acts_on_connections_is_refused_at_the_start() {
        assert!(fault("http 503 2").is_ok() && fault("no-recovery").is_ok());
        for text in ["cut", "close 1012", "list", "send-to-all x", "nonsense"] {
            assert!(fault(text).is_err(), "{text}");
        }
    }
}
