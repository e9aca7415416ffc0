//! All that the window does with its client, but for showing the state and closing. Nothing here
//! waits, so the window never freezes.

use std::time::Duration;

use webpubsub::{Client, PendingAck, Publish, Result, Subscription};

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
    pub(crate) fn new(url: String, wake: impl Fn() + Send + Sync + 'static) -> Result<Self> {
        // On a network that stands still, the window is not to stay for long after it is closed.
        let builder = Client::builder(url).close_timeout(Duration::from_millis(300));
        let client = builder.on_wake(wake).connect_in_background()?;
        let room = client.subscribe_in_background(ROOM)?;
        Ok(Self { client, room, sent: Vec::new(), lines: Vec::new() })
    }

    /// Takes all that has come: a wake-up may stand for several things.
    pub(crate) fn look(&mut self) {
        while let Ok(Some(event)) = self.room.try_recv() {
            self.lines.push(event.to_string()); // a message, or a gap where it is
        }
        self.sent.retain(|call| {
            let seen = call.try_wait();
            self.lines.extend(seen.as_ref().err().map(|e| format!("not acknowledged: {e:#}")));
            matches!(seen, Ok(None))
        });
    }

    pub(crate) fn say(&mut self, text: String) {
        match self.client.try_start(Publish::new(ROOM, text)) {
            Ok(call) => self.sent.push(call),
            Err(e) => self.lines.push(format!("not sent: {e:#}")),
        }
    }
}
