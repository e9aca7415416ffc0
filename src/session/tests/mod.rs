//! The session in virtual time: no sleep, no thread, no socket.
//!
//! Tests that show a known defect of another client to be absent here bear its id in front: `j` for
//! the JavaScript client (`s` for its preview features), `p` for Python, `c` for C#, `v` for Java.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod calls;
mod counts;
mod deadlines;
mod events;
pub(crate) mod grammar;
mod group_state;
mod groups;
mod invocation;
mod keep_alive;
mod lifecycle;
mod random;
mod receiver;
mod reconnect;
mod recovery;
mod scenario;
mod service;
mod state;
mod states;
mod stream_model;
mod stream_reader;
mod stream_writer;
mod streams;
mod subscriptions;

use scenario::{Scenario, ms, secs};
