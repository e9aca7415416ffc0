//! One call with options, to be sent in one of three ways.

use std::borrow::Cow;
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handle::Client;
use super::pending::PendingAck;
use super::shared::Call;
use crate::error::{Error, Result};
use crate::message::{Ack, Metadata, Payload};
use crate::protocol::{Frame, MAX_MESSAGE, SendContent, SendEvent, SendToGroup, Upstream, rules};
use crate::session::{CallKind, Key};

/// A call that is being put together.
///
/// Made by [`Client::to_group`], [`Client::event`], [`Client::join`] and [`Client::leave`]; sent by
/// [`wait`](Request::wait), [`start`](Request::start) or
/// [`fire_and_forget`](Request::fire_and_forget).
///
/// ```no_run
/// # fn main() -> webpubsub::Result<()> {
/// # let client = webpubsub::Client::connect("wss://example/client/hubs/h")?;
/// client.to_group("chat", "hello").no_echo().wait()?;
/// let pending = client.event("order.new", &b"\x01\x02"[..]).start()?;
/// let ack = pending.wait()?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "nothing is sent until `wait`, `start` or `fire_and_forget`"]
pub struct Request<'a> {
    client: &'a Client,
    what: What<'a>,
    ack_id: Option<u64>,
    no_echo: bool,
    ttl_seconds: Option<u32>,
    metadata: Option<Metadata>,
    timeout: Option<Duration>,
}

#[derive(Debug)]
pub(super) enum What<'a> {
    Join(Cow<'a, str>),
    Leave(Cow<'a, str>),
    Publish(Cow<'a, str>, Payload),
    Event(Cow<'a, str>, Payload),
}

impl<'a> Request<'a> {
    pub(super) fn new(client: &'a Client, what: What<'a>) -> Self {
        Self {
            client,
            what,
            ack_id: None,
            no_echo: false,
            ttl_seconds: None,
            metadata: None,
            timeout: None,
        }
    }

    /// Publications only: this connection does not get its own message. The same user's other
    /// connections do.
    pub fn no_echo(mut self) -> Self {
        self.no_echo = true;
        self
    }

    /// Publications and events only: use this ack id instead of a generated one.
    ///
    /// The service runs an id at most once per connection; a repetition succeeds with
    /// [`Ack::duplicate`]. Ids generated later are larger. An id below those generated so far may
    /// be one that was used already, and then the call succeeds without being run.
    pub fn ack_id(mut self, id: u64) -> Self {
        self.ack_id = Some(id);
        self
    }

    /// Publications only: how long the service may keep the message, 0 to 300 seconds (preview;
    /// not in the service's public documentation). That a message which waits longer for a lost
    /// receiver is dropped is an assumption.
    pub fn ttl_seconds(mut self, seconds: u32) -> Self {
        self.ttl_seconds = Some(seconds);
        self
    }

    /// Publications and events only: a small pair of strings beside the payload (preview; not in
    /// the service's public documentation). The key consists of HTTP token characters, the value
    /// of at most 1024 ASCII characters.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.get_or_insert_default().insert(key.into(), value.into());
        self
    }

    /// The deadline of this call, from now: waiting for a connection, writing, and the ack.
    /// Default: [`ClientBuilder::call_timeout`](crate::ClientBuilder::call_timeout).
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Sends and blocks until the service has acked, at most until the deadline.
    ///
    /// # Errors
    /// `InvalidRequest` (nothing was sent), `Refused`, `Timeout`, `OutcomeUnknown`, `Closed`, or
    /// what ended the client.
    pub fn wait(self) -> Result<Ack> {
        self.begin()?.wait()
    }

    /// Sends and returns while the ack is under way. Blocks only while the connection takes no
    /// more data. Any number of calls may be started: at most
    /// [`max_in_flight`](crate::ClientBuilder::max_in_flight) are sent and unacked, the others
    /// wait in order, in memory.
    ///
    /// # Errors
    /// `InvalidRequest`, `Timeout`, `Closed`, or what ended the client (nothing was sent).
    pub fn start(self) -> Result<PendingAck> {
        self.begin()
    }

    /// Sends without asking for an ack: returns when the frame is in the out-buffer, and no
    /// outcome is ever reported. Without a connection it waits for one like any call. (Joining and
    /// leaving do not wait for a connection: the client follows them, so that membership can be
    /// restored.)
    ///
    /// What is still in the out-buffer when the connection is lost is lost with it; the event that
    /// reports the loss counts it. [`Client::close`] flushes.
    ///
    /// # Errors
    /// `InvalidRequest`, `Timeout`, `Closed`, or what ended the client (nothing was sent).
    pub fn fire_and_forget(self) -> Result<()> {
        if !self.is_message() {
            // Membership is followed by its ack, so that it can be restored; nobody waits for it.
            return self.begin().map(drop);
        }
        let shared = self.client.shared();
        let now = Instant::now();
        let call = self.unacked(now)?;
        shared.fire(now, call.deadline, [call])
    }

    fn begin(self) -> Result<PendingAck> {
        let shared = self.client.shared();
        let now = Instant::now();
        shared.start_one(now, self.prepare(now)?)
    }

    /// Checks and encodes.
    pub(super) fn prepare(self, now: Instant) -> Result<Call> {
        self.check()?;
        let id = self.client.shared().next_id(self.ack_id);
        let (kind, deadline) = (self.kind(), self.deadline(now));
        let frame = self.encode(Some(id))?;
        Ok(Call::new(Key::Ack(id), kind, frame, deadline))
    }

    /// Checks and encodes a message that nobody waits for. It gets a key of its own if it must wait.
    pub(super) fn unacked(self, now: Instant) -> Result<Call> {
        if self.ack_id.is_some() {
            return Err(Error::invalid("`ack_id` and `fire_and_forget` exclude each other"));
        }
        self.check()?;
        let (kind, deadline) = (self.kind(), self.deadline(now));
        Ok(Call::new(Key::Unacked(0), kind, self.encode(None)?, deadline))
    }

    pub(super) fn is_of(&self, client: &Client) -> bool {
        Arc::ptr_eq(self.client.shared(), client.shared())
    }

    pub(super) fn is_message(&self) -> bool {
        matches!(self.what, What::Publish(..) | What::Event(..))
    }

    fn deadline(&self, now: Instant) -> Instant {
        let limit = self.timeout.unwrap_or(self.client.shared().config.call_timeout);
        // A limit too long for the clock is a long one.
        now.checked_add(limit).unwrap_or_else(|| now + Duration::from_secs(86_400 * 365))
    }

    /// What the service would answer by closing the connection is refused here.
    fn check(&self) -> Result<()> {
        let is_publication = matches!(self.what, What::Publish(..));
        match &self.what {
            What::Join(group) | What::Leave(group) | What::Publish(group, _) => {
                rule("group name", rules::group(group))?;
            }
            What::Event(name, _) => rule("event name", rules::event(name))?,
        }
        if let What::Publish(_, Payload::Json(json)) | What::Event(_, Payload::Json(json)) =
            &self.what
        {
            rule("payload", rules::json_data(json.as_str()))?;
        }
        if let Some(metadata) = &self.metadata {
            rule("metadata", rules::metadata(metadata))?;
        }
        if let Some(seconds) = self.ttl_seconds {
            rule("ttl_seconds", rules::ttl_seconds(seconds))?;
        }
        if !is_publication && (self.no_echo || self.ttl_seconds.is_some()) {
            return Err(Error::invalid("`no_echo` and `ttl_seconds` apply to publications only"));
        }
        if !self.is_message() && (self.ack_id.is_some() || self.metadata.is_some()) {
            return Err(Error::invalid(
                "`ack_id` and `metadata` apply to publications and events only",
            ));
        }
        Ok(())
    }

    fn kind(&self) -> CallKind {
        match &self.what {
            What::Join(group) => CallKind::Join(Arc::from(&**group)),
            What::Leave(group) => CallKind::Leave(Arc::from(&**group)),
            What::Publish(..) => CallKind::Message,
            What::Event(..) => CallKind::Event,
        }
    }

    fn encode(self, ack_id: Option<u64>) -> Result<Frame> {
        let metadata = self.metadata.map(Cow::Owned);
        let message = match self.what {
            What::Join(group) => Upstream::JoinGroup { group, ack_id },
            What::Leave(group) => Upstream::LeaveGroup { group, ack_id },
            What::Publish(group, payload) => Upstream::SendToGroup(SendToGroup {
                group,
                ack_id,
                no_echo: self.no_echo,
                ttl_seconds: self.ttl_seconds,
                metadata,
                content: SendContent::Payload(payload),
            }),
            What::Event(name, payload) => {
                Upstream::Event(SendEvent { event: name, ack_id, metadata, payload })
            }
        };
        let frame = self.client.shared().encode(&message)?;
        let frame = frame.ok_or_else(|| Error::invalid("this client has no subprotocol"))?;
        check_size(frame.as_bytes().len())?;
        Ok(frame)
    }
}

pub(super) fn check_size(len: usize) -> Result<()> {
    if len > MAX_MESSAGE {
        return Err(Error::invalid(format!(
            "the message is {len} bytes long when encoded; the service takes at most {MAX_MESSAGE}"
        )));
    }
    Ok(())
}

pub(super) fn rule(what: &str, check: Result<(), impl Display>) -> Result<()> {
    check.map_err(|why| Error::invalid(format!("invalid {what}: {why}")))
}
