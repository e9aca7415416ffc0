//! Setting and clearing the own state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::pending::PendingAck;
use super::super::request::{Parts, Request, sealed};
use crate::message::Ack;

/// Sets this connection's state in a group (preview); see `Client::set_group_state`.
///
#[cfg_attr(feature = "emulator", doc = "```")]
#[cfg_attr(not(feature = "emulator"), doc = "```ignore")]
/// # use webpubsub::{Client, SetGroupState, emulator::Emulator};
/// # fn main() -> webpubsub::Result<()> {
/// # let emulator = Emulator::start()?;
/// # use webpubsub::{ClientAccess, Role};
/// # let access = ClientAccess::new().role(Role::join_leave()).role(Role::set_group_state());
/// # let client = Client::connect(emulator.url_for("chat", &access)?)?;
/// # client.join_group("doc")?;
/// // A cursor that moves often need not wait for each ack.
/// let moved = client.start(SetGroupState::new("doc", [("cursor", "12:4")]))?;
/// // … other work …
/// moved.wait()?;
/// # client.close() }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a request does nothing until a client sends it"]
pub struct SetGroupState {
    group: Arc<str>,
    state: BTreeMap<String, String>,
    timeout: Option<Duration>,
}

/// Clears this connection's state in a group (preview); see `Client::clear_group_state`.
///
#[cfg_attr(feature = "emulator", doc = "```")]
#[cfg_attr(not(feature = "emulator"), doc = "```ignore")]
/// # use webpubsub::{ClearGroupState, Client, emulator::Emulator};
/// # fn main() -> webpubsub::Result<()> {
/// # let emulator = Emulator::start()?;
/// # use webpubsub::{ClientAccess, Role};
/// # let access = ClientAccess::new().role(Role::join_leave()).role(Role::set_group_state());
/// # let client = Client::connect(emulator.url_for("chat", &access)?)?;
/// # client.join_group("doc")?;
/// client.call(ClearGroupState::new("doc").timeout(std::time::Duration::from_secs(3)))?;
/// # client.close() }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a request does nothing until a client sends it"]
pub struct ClearGroupState {
    group: Arc<str>,
    timeout: Option<Duration>,
}

impl SetGroupState {
    /// The whole state: what was set before and is not in it is gone. An empty one is a state too.
    pub fn new<K: Into<String>, V: Into<String>>(
        group: impl AsRef<str>,
        state: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let state = state.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        Self { group: group.as_ref().into(), state, timeout: None }
    }
}

impl ClearGroupState {
    /// No state in this group.
    pub fn new(group: impl AsRef<str>) -> Self {
        Self { group: group.as_ref().into(), timeout: None }
    }
}

macro_rules! requests {
    ($($request:ty, |$self:ident| $parts:expr;)*) => { $(
        impl $request {
            /// The deadline of this call, counted from when it is sent: waiting for a connection,
            /// writing, and the ack. Default:
            /// [`ClientBuilder::call_timeout`](crate::ClientBuilder::call_timeout).
            pub fn timeout(mut self, limit: Duration) -> Self {
                self.timeout = Some(limit);
                self
            }
        }

        impl sealed::Sealed for $request {
            fn into_parts($self, _: sealed::Internal) -> Parts<'static> {
                $parts.with_timeout($self.timeout)
            }
        }

        impl Request for $request {
            type Outcome = Ack;
            type Pending = PendingAck;
        }
    )* };
}
requests! {
    SetGroupState, |self| Parts::set_state(self.group, self.state);
    ClearGroupState, |self| Parts::clear_state(self.group);
}
