//! Requests: plain values that say what to send. A client sends them in one of several ways.

use std::borrow::Cow;
use std::fmt::Display;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::pending::PendingAck;
use super::shared::{Call, Shared};
use crate::error::{Error, Result};
use crate::message::{Ack, Entries, Payload};
use crate::protocol::{self, Frame, MAX_MESSAGE, SendContent, SendToGroup, Upstream, rules};
use crate::session::{CallKind, Key};

/// What a client can send and get an answer to: [`Publish`], [`SendEvent`],
/// [`JoinGroup`], [`LeaveGroup`], [`AnyRequest`] for batches that mix them, and with the feature
/// `preview` `Invoke`, `SetGroupState` and `ClearGroupState`.
///
/// The methods that take one are [`Client::call`](crate::Client::call),
/// [`start`](crate::Client::start), [`try_start`](crate::Client::try_start) and their like for many
/// requests. No other crate can implement this trait, and nobody needs to import it.
pub trait Request: sealed::Sealed {
    /// What a call returns that has succeeded.
    type Outcome;
    /// A call under way.
    type Pending: sealed::PendingCall<Outcome = Self::Outcome>;
}

/// A request that can go without an ack: [`Publish`] and [`SendEvent`]. Joining
/// and leaving cannot, because the client follows its membership by their acks.
pub trait FireAndForget: Request {}

pub(super) mod sealed {
    use super::super::pending::{Registration, Waiter};
    use crate::error::Result;

    /// Keeps methods of public traits for this crate.
    #[derive(Debug)]
    pub struct Internal;

    pub trait Sealed {
        #[doc(hidden)]
        fn into_parts(self, _: Internal) -> super::Parts<'static>;
    }

    /// A call under way, from the inside.
    pub trait PendingCall: Sized {
        #[doc(hidden)]
        type Outcome;

        #[doc(hidden)]
        fn register(registration: Registration, _: Internal) -> (Self, Waiter);

        #[doc(hidden)]
        fn outcome(&self, _: Internal) -> Result<Self::Outcome>;

        /// Without waiting.
        #[doc(hidden)]
        fn known_outcome(&self, _: Internal) -> Option<Result<Self::Outcome>>;
    }
}

/// What every request is made of.
#[derive(Debug, Clone)]
pub struct Parts<'a> {
    what: What<'a>,
    options: Options,
}

#[derive(Debug, Clone)]
enum What<'a> {
    Join(Name<'a>),
    Leave(Name<'a>),
    Publish(Name<'a>, Payload),
    Event(Name<'a>, Payload),
    Invoke(Name<'a>, Payload),
    SetState(Name<'a>, Entries),
    ClearState(Name<'a>),
    WatchState(Name<'a>),
    UnwatchState(Name<'a>),
}

/// The short forms of the calls borrow the name, requests own it.
#[derive(Debug, Clone)]
enum Name<'a> {
    Borrowed(&'a str),
    Owned(Arc<str>),
}

impl Deref for Name<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(name) => name,
            Self::Owned(name) => name,
        }
    }
}

impl Name<'_> {
    fn to_arc(&self) -> Arc<str> {
        match self {
            Self::Borrowed(name) => Arc::from(*name),
            Self::Owned(name) => Arc::clone(name),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Options {
    timeout: Option<Duration>,
    ack_id: Option<u64>,
    no_echo: bool,
    ttl_seconds: Option<u32>,
    metadata: Option<Entries>,
}

/// A publication to a group. Membership is not needed.
///
#[cfg_attr(feature = "emulator", doc = "```")]
#[cfg_attr(not(feature = "emulator"), doc = "```ignore")]
/// # use webpubsub::{Client, Publish, emulator::Emulator};
/// # use std::time::Duration;
/// # fn main() -> webpubsub::Result<()> {
/// # let emulator = Emulator::start()?;
/// # let client = Client::connect(emulator.url("chat"))?;
/// client.call(Publish::new("chat", "hello").no_echo().timeout(Duration::from_secs(3)))?;
/// client.fire_and_forget(Publish::new("chat", &b"\x01\x02"[..]))?;
/// # client.close() }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a request does nothing until a client sends it"]
pub struct Publish {
    group: Arc<str>,
    data: Payload,
    options: Options,
}

/// An event for the app server, whose handler answers before the ack comes.
///
#[cfg_attr(feature = "emulator", doc = "```")]
#[cfg_attr(not(feature = "emulator"), doc = "```ignore")]
/// # use webpubsub::{Client, SendEvent, emulator::{Emulator, EventAnswer}};
/// # fn main() -> webpubsub::Result<()> {
/// # let emulator = Emulator::builder().event_handler(|_| EventAnswer::Nothing).start()?;
/// # let client = Client::connect(emulator.url("chat"))?;
/// let pending = client.start(SendEvent::new("order.new", "a dozen eggs"))?;
/// // … other work …
/// pending.wait()?;
/// # client.close() }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a request does nothing until a client sends it"]
pub struct SendEvent {
    name: Arc<str>,
    data: Payload,
    options: Options,
}

/// Joining a group. The client joins it again after a new connection.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a request does nothing until a client sends it"]
pub struct JoinGroup {
    group: Arc<str>,
    options: Options,
}

/// Leaving a group.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a request does nothing until a client sends it"]
pub struct LeaveGroup {
    group: Arc<str>,
    options: Options,
}

/// Any of the requests, for batches that mix them.
///
#[cfg_attr(feature = "emulator", doc = "```")]
#[cfg_attr(not(feature = "emulator"), doc = "```ignore")]
/// # use webpubsub::{AnyRequest, Client, JoinGroup, Publish, emulator::Emulator};
/// # fn main() -> webpubsub::Result<()> {
/// # let emulator = Emulator::start()?;
/// # let client = Client::connect(emulator.url("chat"))?;
/// let both: [AnyRequest; 2] = [JoinGroup::new("a").into(), Publish::new("b", "hi").into()];
/// assert_eq!(client.call_all(both)?, 2);
/// # client.close() }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a request does nothing until a client sends it"]
pub struct AnyRequest(Any);

#[derive(Debug, Clone, PartialEq)]
enum Any {
    Publish(Publish),
    Event(SendEvent),
    Join(JoinGroup),
    Leave(LeaveGroup),
}

impl Publish {
    /// A publication to this group. Text, bytes and JSON values turn into a [`Payload`] by
    /// themselves.
    pub fn new(group: impl AsRef<str>, data: impl Into<Payload>) -> Self {
        Self { group: group.as_ref().into(), data: data.into(), options: Options::default() }
    }

    /// This connection does not get its own message. The same user's other connections do. Default: a
    /// member gets it.
    pub fn no_echo(mut self) -> Self {
        self.options.no_echo = true;
        self
    }

    /// How long the service may keep the message, 0 to 300 seconds (preview; not in the service's
    /// public documentation). That a message which waits longer for a lost receiver is dropped is
    /// an assumption. Default: none is sent.
    pub fn ttl_seconds(mut self, seconds: u32) -> Self {
        self.options.ttl_seconds = Some(seconds);
        self
    }
}

impl SendEvent {
    /// An event of this name. Text, bytes and JSON values turn into a [`Payload`] by themselves.
    pub fn new(name: impl AsRef<str>, data: impl Into<Payload>) -> Self {
        Self { name: name.as_ref().into(), data: data.into(), options: Options::default() }
    }
}

impl JoinGroup {
    /// Joining this group.
    pub fn new(group: impl AsRef<str>) -> Self {
        Self { group: group.as_ref().into(), options: Options::default() }
    }
}

impl LeaveGroup {
    /// Leaving this group.
    pub fn new(group: impl AsRef<str>) -> Self {
        Self { group: group.as_ref().into(), options: Options::default() }
    }
}

macro_rules! timeout {
    ($($request:ty),*) => { $(
        impl $request {
            /// The deadline of this call, counted from when the client is asked to make it: waiting for a
            /// connection, writing, and the ack. Default:
            /// [`ClientBuilder::call_timeout`](crate::ClientBuilder::call_timeout).
            pub fn timeout(mut self, limit: Duration) -> Self {
                self.options.timeout = Some(limit);
                self
            }
        }
    )* };
}
timeout!(Publish, SendEvent, JoinGroup, LeaveGroup);

macro_rules! message_options {
    ($($request:ty),*) => { $(
        impl $request {
            /// Use this ack id instead of a generated one. Default: one that goes up with each call.
            ///
            /// The service runs an id at most once per connection; a repetition succeeds with
            /// [`Ack::duplicate`]. Ids generated later are larger. An id below those generated so
            /// far may be one that was used already, and then the call succeeds without being run.
            pub fn ack_id(mut self, id: u64) -> Self {
                self.options.ack_id = Some(id);
                self
            }

            /// A small pair of strings beside the payload (preview; not in the service's public
            /// documentation). The key consists of HTTP token characters, the value of at most
            /// 1024 ASCII characters. Each call adds. Default: none.
            pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
                self.options.metadata.get_or_insert_default().insert(key.into(), value.into());
                self
            }
        }

        impl FireAndForget for $request {}
    )* };
}
message_options!(Publish, SendEvent);

macro_rules! requests {
    ($($request:ty, $variant:ident, |$self:ident| $what:expr;)*) => { $(
        impl sealed::Sealed for $request {
            fn into_parts($self, _: sealed::Internal) -> Parts<'static> {
                Parts { what: $what, options: $self.options }
            }
        }

        impl Request for $request {
            type Outcome = Ack;
            type Pending = PendingAck;
        }

        impl From<$request> for AnyRequest {
            fn from(request: $request) -> Self {
                Self(Any::$variant(request))
            }
        }
    )* };
}
requests! {
    Publish, Publish, |self| What::Publish(Name::Owned(self.group), self.data);
    SendEvent, Event, |self| What::Event(Name::Owned(self.name), self.data);
    JoinGroup, Join, |self| What::Join(Name::Owned(self.group));
    LeaveGroup, Leave, |self| What::Leave(Name::Owned(self.group));
}

impl sealed::Sealed for AnyRequest {
    fn into_parts(self, internal: sealed::Internal) -> Parts<'static> {
        match self.0 {
            Any::Publish(request) => request.into_parts(internal),
            Any::Event(request) => request.into_parts(internal),
            Any::Join(request) => request.into_parts(internal),
            Any::Leave(request) => request.into_parts(internal),
        }
    }
}

impl Request for AnyRequest {
    type Outcome = Ack;
    type Pending = PendingAck;
}

impl<'a> Parts<'a> {
    fn new(what: What<'a>) -> Self {
        Self { what, options: Options::default() }
    }

    pub(super) fn join(group: &'a str) -> Self {
        Self::new(What::Join(Name::Borrowed(group)))
    }

    pub(super) fn with_timeout(mut self, limit: Option<Duration>) -> Self {
        self.options.timeout = limit;
        self
    }

    pub(super) fn leave(group: &'a str) -> Self {
        Self::new(What::Leave(Name::Borrowed(group)))
    }

    pub(super) fn publish(group: &'a str, data: Payload) -> Self {
        Self::new(What::Publish(Name::Borrowed(group), data))
    }

    pub(super) fn event(name: &'a str, data: Payload) -> Self {
        Self::new(What::Event(Name::Borrowed(name), data))
    }

    #[cfg_attr(not(feature = "preview"), allow(dead_code))]
    pub(super) fn invoke(name: Arc<str>, data: Payload) -> Self {
        Self::new(What::Invoke(Name::Owned(name), data))
    }

    #[cfg_attr(not(feature = "preview"), allow(dead_code))]
    pub(super) fn set_state(group: Arc<str>, state: Entries) -> Self {
        Self::new(What::SetState(Name::Owned(group), state))
    }

    #[cfg_attr(not(feature = "preview"), allow(dead_code))]
    pub(super) fn clear_state(group: Arc<str>) -> Self {
        Self::new(What::ClearState(Name::Owned(group)))
    }

    #[cfg_attr(not(feature = "preview"), allow(dead_code))]
    pub(super) fn watch_state(group: &'a str) -> Self {
        Self::new(What::WatchState(Name::Borrowed(group)))
    }

    #[cfg_attr(not(feature = "preview"), allow(dead_code))]
    pub(super) fn unwatch_state(group: &'a str) -> Self {
        Self::new(What::UnwatchState(Name::Borrowed(group)))
    }

    #[cfg_attr(not(feature = "preview"), allow(dead_code))]
    pub(super) fn with_metadata(mut self, metadata: Option<Entries>) -> Self {
        self.options.metadata = metadata;
        self
    }

    /// Checks and encodes.
    pub(super) fn prepare(self, shared: &Shared, now: Instant) -> Result<Call> {
        self.check()?;
        let id = shared.next_id(self.options.ack_id);
        let (kind, deadline) = (self.kind(), self.deadline(shared, now));
        let key = match kind {
            CallKind::Invoke => Key::Invocation(id),
            _ => Key::Ack(id),
        };
        let frame = self.encode(shared, Some(id))?;
        Ok(Call::new(key, kind, frame, deadline))
    }

    /// Checks and encodes a message that nobody waits for. It gets a key of its own if it must wait.
    pub(super) fn unacked(self, shared: &Shared, now: Instant) -> Result<Call> {
        if self.options.ack_id.is_some() {
            return Err(Error::invalid("`ack_id` and `fire_and_forget` exclude each other"));
        }
        self.check()?;
        let (kind, deadline) = (self.kind(), self.deadline(shared, now));
        Ok(Call::new(Key::Unacked(0), kind, self.encode(shared, None)?, deadline))
    }

    fn deadline(&self, shared: &Shared, now: Instant) -> Instant {
        let limit = self.options.timeout.unwrap_or(shared.config.call_timeout);
        // A limit too long for the clock is a long one.
        now.checked_add(limit).unwrap_or_else(|| now + Duration::from_secs(86_400 * 365))
    }

    /// What the service would answer by closing the connection is refused here.
    fn check(&self) -> Result<()> {
        match &self.what {
            What::Join(group)
            | What::Leave(group)
            | What::Publish(group, _)
            | What::ClearState(group)
            | What::WatchState(group)
            | What::UnwatchState(group) => rule("group name", rules::group(group))?,
            What::SetState(group, state) => {
                rule("group name", rules::group(group))?;
                rule("group state", rules::group_state(state))?;
            }
            What::Event(name, _) | What::Invoke(name, _) => {
                rule("event name", rules::event(name))?;
            }
        }
        if let What::Publish(_, Payload::Json(json))
        | What::Event(_, Payload::Json(json))
        | What::Invoke(_, Payload::Json(json)) = &self.what
        {
            rule("payload", rules::json_data(json.as_str()))?;
        }
        if let Some(metadata) = &self.options.metadata {
            rule("metadata", rules::metadata(metadata))?;
        }
        if let Some(seconds) = self.options.ttl_seconds {
            rule("ttl_seconds", rules::ttl_seconds(seconds))?;
        }
        Ok(())
    }

    fn kind(&self) -> CallKind {
        match &self.what {
            What::Join(group) => CallKind::Join(group.to_arc()),
            What::Leave(group) => CallKind::Leave(group.to_arc()),
            What::Publish(..) => CallKind::Message,
            What::Event(..) => CallKind::Event,
            What::Invoke(..) => CallKind::Invoke,
            What::SetState(group, _) => CallKind::SetState(group.to_arc()),
            What::ClearState(group) => CallKind::ClearState(group.to_arc()),
            What::WatchState(group) => CallKind::WatchState(group.to_arc()),
            What::UnwatchState(_) => CallKind::UnwatchState,
        }
    }

    /// `ack_id`: or the id of an invocation.
    fn encode(self, shared: &Shared, ack_id: Option<u64>) -> Result<Frame> {
        let Options { no_echo, ttl_seconds, metadata, .. } = self.options;
        let metadata = metadata.map(Cow::Owned);
        let message = match &self.what {
            What::Join(group) => Upstream::JoinGroup { group: Cow::Borrowed(group), ack_id },
            What::Leave(group) => Upstream::LeaveGroup { group: Cow::Borrowed(group), ack_id },
            What::Publish(group, payload) => Upstream::SendToGroup(SendToGroup {
                group: Cow::Borrowed(group),
                ack_id,
                no_echo,
                ttl_seconds,
                metadata,
                content: SendContent::Payload(payload.clone()),
            }),
            What::Event(name, payload) => Upstream::Event(protocol::SendEvent {
                event: Cow::Borrowed(name),
                ack_id,
                metadata,
                payload: payload.clone(),
            }),
            What::Invoke(name, payload) => Upstream::Invoke(protocol::Invoke {
                invocation_id: ack_id.unwrap_or_default().to_string().into(),
                event: Cow::Borrowed(name),
                metadata,
                payload: Some(payload.clone()),
            }),
            What::SetState(group, state) => Upstream::SetGroupState {
                group: Cow::Borrowed(group),
                ack_id,
                state: Some(state.clone()),
            },
            What::ClearState(group) => {
                Upstream::SetGroupState { group: Cow::Borrowed(group), ack_id, state: None }
            }
            What::WatchState(group) => {
                Upstream::SubscribeGroupState { group: Cow::Borrowed(group), ack_id }
            }
            What::UnwatchState(group) => {
                Upstream::UnsubscribeGroupState { group: Cow::Borrowed(group), ack_id }
            }
        };
        let frame = shared.encode(&message)?;
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
