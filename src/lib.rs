//! stub
mod auth;
mod client;
#[cfg(feature = "emulator")]
pub mod emulator;
mod error;
mod message;
pub mod protocol;
mod secret;
mod session;
mod transport;

pub use auth::{ClientAccess, ConnectionString, Role};
pub use client::{
    Client, ClientBuilder, Overflow, PendingAck, Request, SimpleClient, SimpleClientBuilder, Stats,
    UrlSource,
};
pub use error::{Error, ErrorKind, Result};
pub use message::{
    Ack, Connected, Disconnected, Event, GroupMessage, Metadata, Payload, RawJson, Reconnecting,
    Recovered, Recovering, RejoinFailed, ServerMessage, Stopped, StreamFailure, StreamPart, Text,
};
pub use protocol::Protocol;
pub use secret::Secret;
pub use transport::TlsBackend;

pub use bytes::Bytes;
pub use crossbeam_channel;
pub use url::Url;
