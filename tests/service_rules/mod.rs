//! The rules of the service that its clients meet, one test each, against the emulator: raw frames,
//! unless the rule is about the client.

mod calls;
mod connect;
mod endings;
mod handshake;
mod limits;
mod text;
