//! What the event queue delivers: messages, and the life of the connection.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use super::{GroupMessage, ServerMessage};
use crate::error::{Error, described};

/// What the event queue delivers, in arrival order.
///
/// New kinds may be added: end a `match` with `_ => {}`. `Display` writes one line for people, in
/// which line breaks and other control characters are escaped.
///
/// A program's own tests make the events that they need:
///
/// ```
/// use webpubsub::{Connected, Event, GroupMessage};
///
/// /// What a window shows.
/// fn line(event: &Event) -> Option<String> {
///     match event {
///         Event::GroupMessage(m) => Some(format!("{}: {}", m.group, m.payload)),
///         Event::Connected(c) if c.gap_possible => Some("(something may be missing here)".into()),
///         Event::Stopped(_) => Some(event.to_string()),
///         _ => None,
///     }
/// }
///
/// let message = Event::GroupMessage(GroupMessage::new("chat", "hello"));
/// assert_eq!(line(&message).as_deref(), Some("chat: hello"));
///
/// let mut anew = Connected::new("connection-2");
/// anew.gap_possible = true;
/// assert!(line(&Event::Connected(anew)).is_some());
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A message to a group of which this connection is a member.
    GroupMessage(GroupMessage),
    /// A message from the service side. The simple client gets everything as this.
    ServerMessage(ServerMessage),
    /// A connection is up.
    Connected(Connected),
    /// The link was lost and the session is being recovered; calls just take longer. May come more
    /// than once before [`Event::Recovered`], if the new link is lost at once.
    Recovering(Recovering),
    /// The session is back on a new link: nothing was lost, nothing is repeated.
    Recovered(Recovered),
    /// The session is over. What follows is [`Event::Reconnecting`] or [`Event::Stopped`].
    Disconnected(Disconnected),
    /// A new connection will be tried after a delay.
    Reconnecting(Reconnecting),
    /// A group joined before could not be joined again on the new connection.
    JoinFailed(JoinFailed),
    /// This many messages were dropped here, because the queue was full and its policy is to drop.
    Lagged(u64),
    /// The client has ended, or the subscription whose queue this is; always the last event. A
    /// subscription can end alone, so ask [`Client::state`](crate::Client::state) about the client.
    Stopped(Stopped),
}

/// See [`Event::Connected`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Connected {
    /// The service's id of this connection; empty for the simple client, which is not told.
    pub connection_id: Arc<str>,
    /// The user id in the access token (or given by the app server).
    pub user_id: Option<Arc<str>>,
    /// This connection replaces a lost one: messages sent to us in between may be missing.
    pub gap_possible: bool,
}

/// See [`Event::Recovering`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Recovering {
    /// The id of the connection that is being recovered; the service's logs have the same.
    pub connection_id: Arc<str>,
    /// Why the link was lost; [`Error::close_code`] is that of the Close frame, if one came.
    pub cause: Error,
    /// Fire-and-forget messages that had not left this program when the link was lost.
    pub unsent: u64,
}

/// See [`Event::Recovered`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Recovered {
    /// How many messages came on the new link before the service answered its first ping: those
    /// sent again because they were not acknowledged (repetitions among them are not delivered),
    /// and those that were published meanwhile.
    pub replayed: u64,
}

/// See [`Event::Disconnected`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Disconnected {
    /// The id of the connection that is over, which the service's logs have too; empty for the
    /// simple client.
    pub connection_id: Arc<str>,
    /// Why the session is over; [`Error::close_code`] is that of the Close frame, if one came.
    pub cause: Error,
    /// The reason in the Close frame.
    pub reason: String,
    /// What the service said in a `disconnected` message before it closed.
    pub service_message: Option<String>,
    /// Messages whose fate is unknown: calls in flight that failed with
    /// [`ErrorKind::OutcomeUnknown`](crate::ErrorKind::OutcomeUnknown), and fire-and-forget messages
    /// that had not left.
    pub maybe_lost: u64,
}

/// See [`Event::Reconnecting`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Reconnecting {
    /// Counts from 1 after each loss; 2 for the second attempt of a client that connects in the
    /// background. The delay depends on earlier losses too, see
    /// [`Reconnect::backoff`](crate::Reconnect::backoff).
    pub attempt: u32,
    /// The wait before this attempt.
    pub delay: Duration,
    /// Why the connection was lost, or why the last attempt failed.
    pub cause: Error,
}

/// See [`Event::JoinFailed`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct JoinFailed {
    /// The group.
    pub group: Arc<str>,
    /// Why.
    pub error: Error,
}

/// See [`Event::Stopped`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stopped {
    /// Why; [`ErrorKind::Closed`](crate::ErrorKind::Closed) if the program itself closed the client, or
    /// ended the subscription.
    pub cause: Error,
}

// The constructors are for a program's own tests: they take what every such event has, and further
// fields can be set.

impl Connected {
    /// A first connection without a user id.
    pub fn new(connection_id: impl Into<Arc<str>>) -> Self {
        Self { connection_id: connection_id.into(), user_id: None, gap_possible: false }
    }
}

impl Recovering {
    /// A loss that left nothing unsent.
    pub fn new(connection_id: impl Into<Arc<str>>, cause: Error) -> Self {
        Self { connection_id: connection_id.into(), cause, unsent: 0 }
    }
}

impl Recovered {
    /// A recovery after which this many messages came.
    #[must_use]
    pub fn new(replayed: u64) -> Self {
        Self { replayed }
    }
}

impl Disconnected {
    /// The end of a session that lost no message, without words of the service.
    pub fn new(connection_id: impl Into<Arc<str>>, cause: Error) -> Self {
        Self {
            connection_id: connection_id.into(),
            cause,
            reason: String::new(),
            service_message: None,
            maybe_lost: 0,
        }
    }
}

impl Reconnecting {
    /// The announcement of an attempt.
    #[must_use]
    pub fn new(attempt: u32, delay: Duration, cause: Error) -> Self {
        Self { attempt, delay, cause }
    }
}

impl JoinFailed {
    /// A group that was not joined.
    pub fn new(group: impl Into<Arc<str>>, error: Error) -> Self {
        Self { group: group.into(), error }
    }
}

impl Stopped {
    /// The end of a client.
    #[must_use]
    pub fn new(cause: Error) -> Self {
        Self { cause }
    }
}

/// One line for people: messages as `GROUP: DATA` or `USER in GROUP: DATA`, everything else in words,
/// with the causes of errors.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = OneLine(f);
        match self {
            Self::GroupMessage(m) => {
                if let Some(user) = &m.from_user_id {
                    write!(line, "{user} in ")?;
                }
                write!(line, "{}: {}", m.group, m.payload)
            }
            Self::ServerMessage(m) => write!(line, "service: {}", m.payload),
            Self::Connected(e) => e.write(&mut line),
            Self::Recovering(e) => {
                let (id, cause) = (&e.connection_id, described(&e.cause));
                write!(line, "link of `{id}` lost, recovering: {cause}")?;
                if e.unsent > 0 { write!(line, "; {} not sent", count(e.unsent)) } else { Ok(()) }
            }
            Self::Recovered(e) => write!(line, "recovered, {} replayed", count(e.replayed)),
            Self::Disconnected(e) => e.write(&mut line),
            Self::Reconnecting(Reconnecting { attempt, delay, cause }) => {
                write!(line, "attempt {attempt} to connect in {delay:.1?}: {}", described(cause))
            }
            Self::JoinFailed(JoinFailed { group, error }) => {
                write!(line, "group `{group}` not joined: {}", described(error))
            }
            Self::Lagged(dropped) => {
                write!(line, "{} dropped, because the queue was full", count(*dropped))
            }
            Self::Stopped(e) => write!(line, "stopped: {}", described(&e.cause)),
        }
    }
}

impl Connected {
    fn write(&self, line: &mut OneLine<'_, '_>) -> fmt::Result {
        line.write_str("connected")?;
        if !self.connection_id.is_empty() {
            write!(line, " as `{}`", self.connection_id)?;
        }
        if let Some(user) = &self.user_id {
            write!(line, ", user `{user}`")?;
        }
        if self.gap_possible {
            line.write_str("; messages sent since the last connection was lost may be missing")?;
        }
        Ok(())
    }
}

impl Disconnected {
    fn write(&self, line: &mut OneLine<'_, '_>) -> fmt::Result {
        line.write_str("connection")?;
        if !self.connection_id.is_empty() {
            write!(line, " `{}`", self.connection_id)?;
        }
        write!(line, " is over: {}", described(&self.cause))?;
        if let Some(said) = &self.service_message {
            write!(line, "; the service said: {said}")?;
        }
        match self.maybe_lost {
            0 => Ok(()),
            lost => write!(line, "; {} may be lost", count(lost)),
        }
    }
}

fn count(messages: u64) -> String {
    format!("{messages} message{}", if messages == 1 { "" } else { "s" })
}

/// Escapes control characters: what others send must neither break the line nor command a terminal.
pub(crate) struct OneLine<'a, 'b>(pub(crate) &'a mut fmt::Formatter<'b>);

impl fmt::Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut plain = text.split_inclusive(char::is_control);
        plain.try_for_each(|part| match part.chars().next_back().filter(|c| c.is_control()) {
            None => self.0.write_str(part),
            Some(control) => {
                self.0.write_str(&part[..part.len() - control.len_utf8()])?;
                write!(self.0, "{}", control.escape_default())
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn each_event_is_one_line() {
        let cause = || Error::new(ErrorKind::Disconnected, "the link\nbroke");
        let mut from_anna = GroupMessage::new("chat", "two\nlines\u{1b}[2J");
        from_anna.from_user_id = Some("anna".into());
        let mut again = Connected::new("c2");
        again.gap_possible = true;
        again.user_id = Some("me".into());
        let mut recovering = Recovering::new("c1", cause());
        recovering.unsent = 1;
        let mut over = Disconnected::new("c1", cause());
        over.service_message = Some("bye".into());
        over.maybe_lost = 2;
        let delay = Duration::from_millis(1234);
        for (event, line) in [
            (Event::GroupMessage(from_anna), r"anna in chat: two\nlines\u{1b}[2J"),
            (Event::GroupMessage(GroupMessage::new("chat", "é")), "chat: é"),
            (
                Event::ServerMessage(ServerMessage::new(&b"abc"[..])),
                "service: <3 bytes of binary data>",
            ),
            (Event::Connected(Connected::new("")), "connected"),
            (
                Event::Connected(again),
                "connected as `c2`, user `me`; messages sent since the last connection was lost may \
                 be missing",
            ),
            (
                Event::Recovering(recovering),
                r"link of `c1` lost, recovering: the link\nbroke; 1 message not sent",
            ),
            (Event::Recovered(Recovered::new(3)), "recovered, 3 messages replayed"),
            (
                Event::Disconnected(over),
                r"connection `c1` is over: the link\nbroke; the service said: bye; 2 messages may be lost",
            ),
            (
                Event::Disconnected(Disconnected::new("", cause())),
                r"connection is over: the link\nbroke",
            ),
            (
                Event::Reconnecting(Reconnecting::new(2, delay, cause())),
                r"attempt 2 to connect in 1.2s: the link\nbroke",
            ),
            (
                Event::JoinFailed(JoinFailed::new("g", cause())),
                r"group `g` not joined: the link\nbroke",
            ),
            (Event::Lagged(1), "1 message dropped, because the queue was full"),
            (Event::Stopped(Stopped::new(Error::closed())), "stopped: the client was closed"),
        ] {
            assert_eq!(event.to_string(), line);
        }
    }

    #[test]
    fn a_url_providers_own_words_are_left_out() {
        let cause = Error::new(ErrorKind::UrlProvider, "the provider failed");
        let cause = cause.with_source("GET https://app/?token=SECRET");
        let line = Event::Stopped(Stopped::new(cause)).to_string();
        assert_eq!(line, "stopped: the provider failed");
    }
}
