//! The commands of standard input and of `--fault`: their grammar.

use std::str::FromStr;
use std::time::Duration;

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Fault(Fault),
    Call(Call),
    List,
    Help,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    Cut { connection: Option<String> },
    CutBeforeAck { times: u64 },
    Freeze { during: Duration },
    NoRecovery { times: u64 },
    Http { status: u16, times: u32 },
    Close { code: u16, reason: String },
    Latency { delay: Option<Duration> },
    Clear,
}

/// What an app server does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    ToAll { text: String },
    ToGroup { group: String, text: String },
    ToUser { user: String, text: String },
    ToConnection { connection: String, text: String },
    Close { connection: String, reason: String },
}

/// How each command is written, and what it does.
const COMMANDS: [(&str, &str); 15] = [
    ("cut [ID]", "cuts all TCP connections, or one; reliable sessions can be recovered"),
    (
        "cut-before-ack [TIMES]",
        "carries out the next call, then cuts the connection; the ack is lost",
    ),
    ("freeze TIME", "neither reads nor writes for that long, such as 3s or 500ms"),
    ("no-recovery [TIMES]", "refuses the next recoveries by Close 1008; without TIMES all"),
    (
        "http STATUS [TIMES]",
        "answers the next upgrade, or this many, with that status (300 to 599)",
    ),
    ("close CODE [REASON]", "sends a Close frame on all connections, such as close 1012"),
    ("latency TIME|off", "a delay before what the service writes"),
    ("clear", "ends all faults, latency included"),
    ("send-to-all TEXT", "as the app server: a message to every connection of the hub"),
    ("send-to-group GROUP TEXT", "as the app server: a message to a group"),
    ("send-to-user USER TEXT", "as the app server: a message to a user"),
    ("send-to-connection ID TEXT", "as the app server: a message to a connection"),
    ("close-connection ID [REASON]", "as the app server: disconnected, Close 1000, session over"),
    ("list", "the connections of the hub"),
    ("help", "this text"),
];

/// All commands, one a line.
pub(super) fn help() -> String {
    let lines: Vec<_> = COMMANDS.iter().map(|(usage, what)| format!("{usage:<30}{what}")).collect();
    lines.join("\n")
}

impl Fault {
    /// Whether it makes sense before any client is connected.
    pub(super) fn is_for_the_start(&self) -> bool {
        !matches!(self, Self::Cut { .. } | Self::Close { .. } | Self::Clear)
    }
}

impl FromStr for Command {
    type Err = String;

    /// A line. The error says what would have been right.
    fn from_str(line: &str) -> Result<Self, String> {
        let (name, rest) = first_word(line);
        let Some((usage, _)) = COMMANDS.iter().find(|(usage, _)| first_word(usage).0 == name)
        else {
            let names: Vec<_> = COMMANDS.iter().map(|(usage, _)| first_word(usage).0).collect();
            return Err(format!("no such command `{name}`; there are: {}", names.join(", ")));
        };
        parse(name, rest).map_err(|what| format!("{what}; usage: {usage}"))
    }
}

fn parse(name: &str, rest: &str) -> Result<Command, String> {
    let (first, second) = first_word(rest);
    let words = rest.split_whitespace().count();
    let most = match name {
        "clear" | "list" | "help" => 0,
        "cut" | "cut-before-ack" | "freeze" | "no-recovery" | "latency" => 1,
        "http" => 2,
        _ => usize::MAX,
    };
    if words > most {
        return Err(match most {
            0 => format!("`{name}` takes no argument"),
            1 => format!("`{name}` takes one word at most"),
            most => format!("`{name}` takes {most} words at most"),
        });
    }
    Ok(match name {
        "list" => Command::List,
        "help" => Command::Help,
        "send-to-all" | "send-to-group" | "send-to-user" | "send-to-connection"
        | "close-connection" => Command::Call(parse_call(name, rest)?),
        _ => Command::Fault(parse_fault(name, first, second)?),
    })
}

fn parse_fault(name: &str, first: &str, second: &str) -> Result<Fault, String> {
    Ok(match name {
        "cut" => Fault::Cut { connection: optional(first).map(Into::into) },
        "cut-before-ack" => Fault::CutBeforeAck { times: times(first, 1)? },
        "freeze" => Fault::Freeze { during: parse_time(first)? },
        "no-recovery" => Fault::NoRecovery { times: times(first, u64::MAX)? },
        "http" => {
            let status = number(first, "a status", 300..=599)?;
            let times = u32::try_from(times(second, 1)?);
            Fault::Http { status, times: times.map_err(|_| format!("`{second}` is too large"))? }
        }
        "close" => {
            let code = number(first, "a close code", 1000..=4999)?;
            let reason = second.to_owned();
            // RFC 6455: section 7.4 says which codes can be sent, 5.5 how long a reason can be.
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(format!("{code} cannot be sent in a Close frame"));
            }
            if reason.len() > 123 {
                return Err("a reason has 123 bytes at most".into());
            }
            Fault::Close { code, reason }
        }
        "latency" => Fault::Latency { delay: parse_latency(first)? },
        _ => Fault::Clear,
    })
}

fn parse_call(name: &str, rest: &str) -> Result<Call, String> {
    let (first, text) = first_word(rest);
    let text = text.to_owned();
    let word =
        |what: &str| optional(first).map(Into::into).ok_or_else(|| format!("{what} is missing"));
    Ok(match name {
        "send-to-group" => Call::ToGroup { group: word("a group")?, text },
        "send-to-user" => Call::ToUser { user: word("a user")?, text },
        "send-to-connection" => Call::ToConnection { connection: word("a connection id")?, text },
        "close-connection" => Call::Close { connection: word("a connection id")?, reason: text },
        _ => Call::ToAll { text: rest.into() },
    })
}

/// The first word, and the rest without the white space around it.
fn first_word(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

fn optional(word: &str) -> Option<&str> {
    Some(word).filter(|word| !word.is_empty())
}

fn times(text: &str, default: u64) -> Result<u64, String> {
    optional(text).map_or(Ok(default), |text| {
        text.parse().map_err(|_| format!("`{text}` is not a number of times"))
    })
}

fn number(text: &str, what: &str, allowed: std::ops::RangeInclusive<u16>) -> Result<u16, String> {
    let wrong = || format!("{what} from {} to {} is required", allowed.start(), allowed.end());
    text.parse().ok().filter(|number| allowed.contains(number)).ok_or_else(wrong)
}

/// A number with its unit: `500ms`, `3s`, `2m`, `1h`.
fn parse_time(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let in_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        _ => 0,
    };
    let number: u64 = number.parse().unwrap_or(0);
    match number.checked_mul(in_ms) {
        // An hour is longer than anybody waits, and no sum of times overflows.
        Some(ms @ 1..=3_600_000) => Ok(Duration::from_millis(ms)),
        _ => Err(format!("`{text}` is not a time such as 500ms, 3s or 2m, an hour at most")),
    }
}

/// A time, or a number of milliseconds. `off` and 0 are none.
fn parse_latency(text: &str) -> Result<Option<Duration>, String> {
    match text {
        "off" | "0" | "0ms" | "0s" | "0m" | "0h" => Ok(None),
        _ if text.bytes().all(|b| b.is_ascii_digit()) => parse_time(&format!("{text}ms")).map(Some),
        _ => parse_time(text).map(Some),
    }
}

/// The value of the flag `--latency`.
pub(super) fn latency(text: &str) -> Result<Fault, String> {
    Ok(Fault::Latency { delay: parse_latency(text)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(line: &str) -> Command {
        line.parse().unwrap_or_else(|e| panic!("{line}: {e}"))
    }

    #[test]
    fn every_command_is_understood() {
        let second = Duration::from_secs(1);
        let fault = Command::Fault;
        for (line, command) in [
            ("cut", fault(Fault::Cut { connection: None })),
            (" cut  c1 ", fault(Fault::Cut { connection: Some("c1".into()) })),
            ("cut-before-ack", fault(Fault::CutBeforeAck { times: 1 })),
            ("cut-before-ack 3", fault(Fault::CutBeforeAck { times: 3 })),
            ("freeze 3s", fault(Fault::Freeze { during: 3 * second })),
            ("freeze 250ms", fault(Fault::Freeze { during: second / 4 })),
            ("no-recovery", fault(Fault::NoRecovery { times: u64::MAX })),
            ("no-recovery 1", fault(Fault::NoRecovery { times: 1 })),
            ("http 503 2", fault(Fault::Http { status: 503, times: 2 })),
            ("http 401", fault(Fault::Http { status: 401, times: 1 })),
            ("close 1012", fault(Fault::Close { code: 1012, reason: String::new() })),
            ("close 4000 see you", fault(Fault::Close { code: 4000, reason: "see you".into() })),
            ("latency 20ms", fault(Fault::Latency { delay: Some(second / 50) })),
            ("latency 20", fault(Fault::Latency { delay: Some(second / 50) })),
            ("latency off", fault(Fault::Latency { delay: None })),
            ("latency 0", fault(Fault::Latency { delay: None })),
            ("latency 0ms", fault(Fault::Latency { delay: None })),
            ("latency 1h", fault(Fault::Latency { delay: Some(3600 * second) })),
            ("clear", fault(Fault::Clear)),
            ("send-to-all a b", Command::Call(Call::ToAll { text: "a b".into() })),
            (
                "send-to-group g a  b",
                Command::Call(Call::ToGroup { group: "g".into(), text: "a  b".into() }),
            ),
            (
                "send-to-user u",
                Command::Call(Call::ToUser { user: "u".into(), text: String::new() }),
            ),
            (
                "send-to-connection c x",
                Command::Call(Call::ToConnection { connection: "c".into(), text: "x".into() }),
            ),
            (
                "close-connection c bye bye",
                Command::Call(Call::Close { connection: "c".into(), reason: "bye bye".into() }),
            ),
            ("list", Command::List),
            ("help", Command::Help),
        ] {
            assert_eq!(good(line), command, "{line}");
        }
    }

    #[test]
    fn a_wrong_line_is_answered_with_what_is_right() {
        for (line, part) in [
            ("freez 3s", "cut, cut-before-ack, freeze, "),
            ("freeze", "usage: freeze TIME"),
            ("freeze 3", "such as 500ms, 3s or 2m"),
            ("freeze 0s", "usage: freeze TIME"),
            ("freeze 99999999999999999999s", "usage: freeze TIME"),
            ("freeze 3s 4s", "one word at most"),
            ("http", "300 to 599"),
            ("http 200", "300 to 599"),
            ("http 503 x", "not a number of times"),
            ("http 503 99999999999", "too large"),
            ("close", "1000 to 4999"),
            ("close 1005", "cannot be sent"),
            ("close 1012 é", ""),
            ("latency", "usage: latency TIME|off"),
            ("clear all", "takes no argument"),
            ("send-to-group", "a group is missing"),
        ] {
            match line.parse::<Command>() {
                Err(said) => assert!(said.contains(part), "{line}: {said}"),
                Ok(command) => assert_eq!(part, "", "{line}: {command:?}"),
            }
        }
        let long = format!("close 1012 {}", "r".repeat(124));
        assert!(long.parse::<Command>().unwrap_err().contains("123 bytes"));
    }

    #[test]
    fn the_help_names_every_command() {
        assert_eq!(help().lines().count(), COMMANDS.len());
    }
}
