//! What happens to the connection, for people: lines of standard error.

use webpubsub::Event;

/// Prints what is worth knowing while a command runs; messages are not.
pub(crate) fn print(event: &Event) {
    let line = match event {
        Event::Connected(c) if c.gap_possible => {
            format!("connected again as {}; messages may be missing here", c.connection_id)
        }
        Event::Recovering(r) => format!("the link is lost ({:#}); recovering", r.cause),
        Event::Recovered(_) => "recovered; nothing is lost".into(),
        Event::Reconnecting(r) => {
            format!("not connected ({:#}); attempt {} in {:?}", r.cause, r.attempt, r.delay)
        }
        Event::Lagged(n) => format!("{n} messages are missing here"),
        _ => return,
    };
    eprintln!("wps: {line}");
}
