//! Handles and the one thread behind them.
//!
//! - [`shared`]: what all handles of a client and its reader have in common: the one lock, what the
//!   session asks for, what callers wait for, the end.
//! - [`batch`]: many calls at once.
//! - [`reader`]: THE loop: dial, read, hand over, keep time, stop; [`dialer`] opens links for it.
//! - [`queue`]: the bounds of one queue; [`queues`]: the event queue and those of subscriptions;
//!   [`stream_queues`]: those of the streams that are read.
//! - [`handle`], [`request`], [`pending`], [`subscription`], [`invocation`], [`group_state`],
//!   [`stream_subscription`], [`stream_reader`]: what programs call.
//! - [`builder`], [`options`], [`config`]: settings; [`source`], [`attempt`]: where the URL comes
//!   from; [`label`]: what log lines begin with.
//! - [`ping`]: round trips.
//! - [`simple`]: the client without a subprotocol.
//! - `stream_writer`: streams that the program publishes (feature `preview`).
//! - [`wake`]: the program's closure that is called when there is something to look at.
//!
//! Invariants: the session's lock is never held across a system call, a codec, a channel send or
//! user code; lock order is session, then a link's out-buffer; of the program's code only the closure
//! of `on_wake` runs on the reader, under no lock.

mod attempt;
mod batch;
mod builder;
mod config;
mod dialer;
#[cfg_attr(not(feature = "preview"), allow(dead_code, unreachable_pub))]
mod group_state;
mod handle;
#[cfg_attr(not(feature = "preview"), allow(dead_code, unreachable_pub))]
mod invocation;
mod label;
mod options;
mod pending;
mod ping;
mod queue;
mod queues;
mod reader;
mod request;
mod shared;
mod simple;
mod source;
mod stats;
#[cfg_attr(not(feature = "preview"), allow(dead_code, unreachable_pub))]
mod stream_queues;
#[cfg_attr(not(feature = "preview"), allow(dead_code, unreachable_pub))]
mod stream_reader;
#[cfg_attr(not(feature = "preview"), allow(dead_code, unreachable_pub))]
mod stream_subscription;
#[cfg(feature = "preview")]
mod stream_writer;
mod subscription;
mod wake;

pub use attempt::Attempt;
pub use builder::{ClientBuilder, SimpleClientBuilder};
pub use config::{KeepAlive, Overflow, QueueConfig, Reconnect, Recovery};
#[cfg(feature = "preview")]
pub use group_state::{
    ClearGroupState, GroupStateChange, GroupStateMember, GroupStateWatch, SetGroupState,
};
pub use handle::Client;
#[cfg(feature = "preview")]
pub use invocation::{Invoke, PendingReply};
pub use pending::PendingAck;
#[cfg(test)]
pub(crate) use queue::Queue;
#[cfg(test)]
pub(crate) use queues::{Queues, Route, Routes};
pub use request::{AnyRequest, FireAndForget, JoinGroup, LeaveGroup, Publish, Request, SendEvent};
pub use simple::SimpleClient;
pub use source::UrlSource;
pub use stats::Stats;
#[cfg(feature = "preview")]
pub use stream_reader::{StreamParts, StreamReader};
#[cfg(feature = "preview")]
pub use stream_subscription::{StreamSubscription, SubscribeStreams};
#[cfg(feature = "preview")]
pub use stream_writer::{OpenStream, StreamWriter};
pub use subscription::{Messages, Subscribe, Subscription};
