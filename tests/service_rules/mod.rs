//! The rules of the service that its clients meet, one test each, against the emulator: raw frames,
//! unless the rule is about the client.
//!
//! | module | rules |
//! | --- | --- |
//! | `calls` | events that fail or have no handler, answers to events, acks before a cut |
//! | `connect` | the events `connect`, `connected`, `disconnected`; subprotocols of the upgrade |
//! | `endings` | close codes in both directions, refused recoveries, reconnection tokens |
//! | `handshake` | tokens and their claims, parameters of the URL, simple clients, aborted upgrades |
//! | `limits` | permissions for groups, group names, queues, remembered ack ids, sizes |
//! | `preview` | invocations, streams, group state |
//! | `text` | JSON: null, nesting, repeated keys, escapes; protobuf data over JSON |

pub(crate) mod calls;
mod connect;
mod endings;
mod handshake;
mod limits;
#[cfg(feature = "__codecs")]
mod preview;
mod text;
