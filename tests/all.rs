//! All integration tests in one binary. `support` holds what they share.
//!
//! What the life of a connection is about (`defects`, `stop`) runs over each reliable subprotocol:
//! the same files are compiled again below, with another one as [`RELIABLE`].
//!
//! What reads and writes frames itself needs the feature `__codecs`, which is on in the repository.

#![allow(clippy::duplicate_mod)] // on purpose, see above

use webpubsub::Protocol;

const RELIABLE: Protocol = Protocol::ReliableJson;
/// Its plain sister.
#[cfg(feature = "__codecs")]
const PLAIN: Protocol = Protocol::Json;

#[cfg(feature = "protobuf")]
#[path = "."] // so that the paths below start here
mod over_protobuf {
    use webpubsub::Protocol;

    const RELIABLE: Protocol = Protocol::ReliableProtobuf;
    #[cfg(feature = "__codecs")]
    const PLAIN: Protocol = Protocol::Protobuf;

    #[cfg(feature = "__codecs")]
    #[path = "defects.rs"]
    mod defects;
    #[path = "stop.rs"]
    mod stop;
}

mod background;
mod calls;
mod closing;
mod concurrency;
mod connecting;
mod dead_network;
mod deadlines;
#[cfg(feature = "__codecs")]
mod defects;
mod defects_json;
mod emulator_http;
mod examples;
mod full_queue;
#[cfg(feature = "__codecs")]
mod fuzz_decode;
#[cfg(feature = "preview")]
mod group_state;
mod handlers;
mod hostile;
#[cfg(feature = "__codecs")]
mod interop;
#[cfg(all(feature = "preview", feature = "__codecs"))]
mod invocations;
mod kinds;
mod memory;
mod messages;
mod ping;
mod plain_link;
#[cfg(feature = "__codecs")]
mod protocol_vectors;
mod proxies;
mod requests;
mod service_rules;
mod simple;
mod slow_frames;
#[cfg(feature = "preview")]
mod soak;
mod sources;
mod stop;
#[cfg(feature = "preview")]
mod stream_reader;
#[cfg(feature = "preview")]
mod stream_writer;
mod subscriptions;
mod support;
mod tls;
mod wake;
mod wire_cases;
