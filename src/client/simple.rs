//! The client without a subprotocol: raw frames.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};

use super::builder::SimpleClientBuilder;
use super::handle::{Handle, common_calls};
use super::request::check_size;
use super::shared::{Call, Shared};
use super::source::UrlSource;
use super::stats::Stats;
use super::wake::may_block;
use crate::error::Result;
use crate::message::{Event, Payload};
use crate::protocol::Frame;
use crate::session::{CallKind, Key};
use crate::state::ClientState;

/// A client that sends and receives plain text and binary frames.
///
/// By default each frame sent becomes the event `message` for the app server; with
/// [`SimpleClientBuilder::publish_to`] it is published to one group. What comes in carries no
/// envelope, so everything arrives as [`Event::ServerMessage`] with a text or binary payload:
/// there is no sender, no group, no ack and no recovery.
///
/// Threads, cloning and the end are as with [`Client`](crate::Client). A lost connection ends the
/// client ([`Event::Disconnected`] has close code and reason), unless
/// [`SimpleClientBuilder::reconnect`] was asked for.
///
#[cfg_attr(feature = "emulator", doc = "```")]
#[cfg_attr(not(feature = "emulator"), doc = "```ignore")]
/// # use webpubsub::{Event, SimpleClient, emulator::Emulator};
/// # fn main() -> webpubsub::Result<()> {
/// # let emulator = Emulator::start()?;
/// # let url = emulator.url("chat");
/// // Each frame is published to the group; without that it is an event for the app server.
/// let client = SimpleClient::builder(url).publish_to("chat").connect()?;
/// client.send("hello")?;
/// # emulator.send_to_all("chat", "hello")?;
/// for event in client.events() {
///     if let Event::ServerMessage(message) = event {
///         println!("{}", message.payload);
/// #       break;
///     }
/// }
/// # client.close() }
/// ```
#[derive(Clone)]
pub struct SimpleClient(Arc<Handle>);

impl SimpleClient {
    /// Connects with a client access URL and default settings; blocks for at most 30 s.
    ///
    /// # Errors
    /// As [`Client::connect`](crate::Client::connect), without `SessionStart`.
    pub fn connect(url: impl Into<UrlSource>) -> Result<Self> {
        Self::builder(url).connect()
    }

    /// Settings, then [`SimpleClientBuilder::connect`].
    pub fn builder(url: impl Into<UrlSource>) -> SimpleClientBuilder {
        SimpleClientBuilder::new(url.into())
    }

    pub(super) fn from_shared(shared: Arc<Shared>) -> Self {
        Self(Arc::new(Handle(shared)))
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }

    /// Sends one frame: text and JSON as a text frame, bytes and protobuf as a binary one. Returns
    /// when it is in the out-buffer; blocks while the connection takes no more data, or (with
    /// reconnecting, or in the background) while there is none, for at most the call timeout.
    ///
    /// # Errors
    /// `InvalidRequest` above 1 MiB, `Timeout`, `Closed`, or what ended the client (nothing was
    /// sent).
    pub fn send(&self, data: impl Into<Payload>) -> Result<()> {
        let now = Instant::now();
        let call = self.call_of(data.into(), now)?;
        self.shared().fire(now, call.deadline, [call])
    }

    /// As [`send`](Self::send), but never blocks: for a thread that must not wait, such as that of a
    /// user interface.
    ///
    /// # Errors
    /// As [`send`](Self::send), and `WouldBlock` if the connection takes no more data or there is
    /// none (nothing was sent).
    pub fn try_send(&self, data: impl Into<Payload>) -> Result<()> {
        let now = Instant::now();
        let call = self.call_of(data.into(), now)?;
        self.shared().try_fire(now, call)
    }

    fn call_of(&self, data: Payload, now: Instant) -> Result<Call> {
        let frame = match data {
            Payload::Text(text) => Frame::Text(text),
            Payload::Json(json) => Frame::Text(json.as_str().into()),
            Payload::Binary(bytes) | Payload::Protobuf(bytes) => Frame::Binary(bytes),
        };
        check_size(frame.as_bytes().len())?;
        let deadline = now + self.shared().config.call_timeout;
        Ok(Call::new(Key::Unacked(0), CallKind::Event, frame, deadline))
    }
}

common_calls!(SimpleClient);
