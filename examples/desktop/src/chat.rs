//! All that a window needs to do with a client. Nothing here waits, so the window never freezes.

use webpubsub::{Client, Event, PendingAck, Publish, Subscription, UrlSource};

pub(crate) const ROOM: &str = "room";

pub(crate) struct Chat {
    pub(crate) client: Client,
    room: Subscription,
    /// What was typed and has no outcome yet.
    pub(crate) sent: Vec<PendingAck>,
    pub(crate) lines: Vec<String>,
}

impl Chat {
    /// `wake` runs on the client's thread: it only asks the window to look.
    pub(crate) fn new<F>(url: impl Into<UrlSource>, wake: F) -> webpubsub::Result<Self>
    where
        F: Fn() + Send + Sync + 'static,
    {
        let client = Client::builder(url).on_wake(wake).connect_in_background()?;
        let room = client.subscribe_in_background(ROOM)?;
        Ok(Self { client, room, sent: Vec::new(), lines: Vec::new() })
    }

    /// Takes all that has come: a wake-up may stand for several things.
    pub(crate) fn look(&mut self) {
        while let Ok(Some(event)) = self.room.try_recv() {
            self.lines.push(line(&event));
        }
        self.sent.retain(|call| match call.try_wait() {
            Ok(acked) => acked.is_none(),
            Err(e) => {
                self.lines.push(format!("(not sent: {e:#})"));
                false
            }
        });
    }

    pub(crate) fn say(&mut self, text: String) {
        match self.client.try_start(Publish::new(ROOM, text)) {
            Ok(call) => self.sent.push(call),
            Err(e) => self.lines.push(format!("(not sent: {e:#})")),
        }
    }
}

/// A message, or a gap between messages, where it is.
fn line(event: &Event) -> String {
    match event {
        Event::GroupMessage(message) => match &message.from_user_id {
            Some(user) => format!("{user}: {}", message.payload),
            None => message.payload.to_string(),
        },
        Event::Connected(_) => "(connected anew: messages may be missing here)".to_owned(),
        Event::Lagged(skipped) => format!("({skipped} messages skipped here)"),
        Event::Stopped(stopped) => format!("(the end: {:#})", stopped.cause),
        other => format!("{other:?}"),
    }
}
