//! What the emulator logs, at the target `webpubsub::emulator`.
//!
//! A logger is code of the program: it may be slow, and it may use the emulator. So nothing is
//! logged under the service's lock. The service collects [`Notes`], and whoever held the lock logs
//! them after letting go.
//!
//! Invariants: a line holds no payload, unless frames are logged, which the program has to ask for;
//! no line holds a token or a key; a line is one line, whatever a client has sent.

use std::fmt::{self, Write as _};

use log::Level;

use super::record::Direction;
use super::server_session::Kind;
use crate::protocol::Frame;

const TARGET: &str = "webpubsub::emulator";
/// A frame is shown up to this many characters.
const SHOWN: usize = 240;
/// As the service's JSON has it, without white space.
const TOKEN: &str = "\"reconnectionToken\":\"";

/// Logs at once. Not under a lock, see [`Notes`].
pub(super) fn write(level: Level, text: fmt::Arguments<'_>) {
    log::log!(target: TARGET, level, "{text}");
}

/// Lines that are logged once the service's lock is free.
#[derive(Debug, Default)]
pub(super) struct Notes(Vec<(Level, String)>);

impl Notes {
    /// Takes note of what clients and operators look for first: who connects, is refused or closed.
    pub(super) fn info(&mut self, text: impl FnOnce() -> String) {
        self.add(Level::Info, text);
    }

    /// Takes note of what happens within connections.
    pub(super) fn debug(&mut self, text: impl FnOnce() -> String) {
        self.add(Level::Debug, text);
    }

    fn add(&mut self, level: Level, text: impl FnOnce() -> String) {
        // The logger itself is not asked here, because it is code of the program.
        if level <= log::max_level() {
            self.0.push((level, text()));
        }
    }

    pub(super) fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    pub(super) fn log(self) {
        for (level, text) in self.0 {
            write(level, format_args!("{text}"));
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SimpleEvents => f.write_str("simple client"),
            Self::SimpleGroup { group, .. } => write!(f, "simple client of group {group:?}"),
            Self::PubSub(protocol) => f.write_str(protocol.name()),
        }
    }
}

/// Logs a frame that passed, shortened and without its reconnection token.
pub(super) fn frame(connection_id: &str, direction: Direction, frame: &Frame) {
    let way = match direction {
        Direction::Up => "from",
        Direction::Down => "to",
    };
    let shown = match frame {
        Frame::Text(text) => shortened(&without_token(text)),
        Frame::Binary(bytes) => {
            format!("{} bytes{}", bytes.len(), shortened(&as_protobuf(direction, frame)))
        }
    };
    write(Level::Debug, format_args!("{way} {connection_id}: {shown}"));
}

fn without_token(text: &str) -> String {
    let Some((before, rest)) = text.split_once(TOKEN) else { return text.to_owned() };
    let behind = rest.find('"').map_or("", |end| &rest[end..]);
    // Only the first one is cut out; what else may follow is not ours to show.
    match behind.contains(TOKEN) {
        true => format!("{before}{TOKEN}***"),
        false => format!("{before}{TOKEN}***{behind}"),
    }
}

/// A request's path without what stands behind a `?`, which can be a token: a client may have
/// encoded the `?` by mistake.
pub(super) fn path(path: &str) -> &str {
    path.split('?').next().unwrap_or_default()
}

/// One line, at most [`SHOWN`] characters and what is said about the rest.
pub(super) fn shortened(text: &str) -> String {
    let mut shown = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == SHOWN {
            let _ = write!(shown, "… ({} bytes)", text.len());
            break;
        }
        match c.is_control() {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

/// What the bytes mean in the protobuf subprotocols, if they mean anything there. A token is hidden
/// by its type.
#[cfg(feature = "protobuf")]
fn as_protobuf(direction: Direction, frame: &Frame) -> String {
    use crate::protocol::{Decoder, Protocol, decode_upstream};
    let shown = match direction {
        Direction::Up => decode_upstream(Protocol::Protobuf, frame).map(|m| format!("{m:?}")),
        Direction::Down => {
            Decoder::new(Protocol::Protobuf).decode(frame).map(|message| format!("{message:?}"))
        }
    };
    shown.map_or(String::new(), |shown| format!(", as protobuf {shown}"))
}

#[cfg(not(feature = "protobuf"))]
fn as_protobuf(_: Direction, _: &Frame) -> String {
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reconnection_tokens_are_hidden() {
        let frame = r#"{"connectionId":"c","reconnectionToken":"SECRET","userId":null}"#;
        let shown = r#"{"connectionId":"c","reconnectionToken":"***","userId":null}"#;
        assert_eq!(without_token(frame), shown);
        let twice = format!("{frame}{frame}");
        assert!(!without_token(&twice).contains("SECRET"));
        assert!(!without_token(r#"{"reconnectionToken":"SECRET"#).contains("SECRET"));
        assert_eq!(without_token("no token"), "no token");
    }

    #[test]
    fn a_frame_is_one_short_line() {
        assert_eq!(shortened("a\nb\té"), "a\\nb\\té");
        let long = "é".repeat(SHOWN + 1);
        let shown = shortened(&long);
        assert_eq!(shown, format!("{}… ({} bytes)", "é".repeat(SHOWN), 2 * (SHOWN + 1)));
    }

    #[cfg(feature = "protobuf")]
    #[test]
    fn a_protobuf_frame_is_shown_by_its_meaning_and_without_a_token() {
        use crate::protocol::{Downstream, Protocol, encode_downstream};
        use crate::secret::Secret;
        let connected = Downstream::Connected {
            connection_id: "c1".into(),
            user_id: None,
            reconnection_token: Some(Secret::new("SECRET")),
        };
        let frame = encode_downstream(Protocol::ReliableProtobuf, &connected).unwrap();
        let shown = as_protobuf(Direction::Down, &frame);
        assert!(shown.contains("c1") && !shown.contains("SECRET"), "{shown}");
        let noise = Frame::Binary(vec![0xff, 0xff].into());
        assert_eq!(as_protobuf(Direction::Up, &noise), "");
    }
}
