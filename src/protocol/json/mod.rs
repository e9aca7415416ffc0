//! The JSON subprotocols: one object per text frame.
//!
//! Decoding reads a frame into one flat struct of borrowed fields and then builds the message from
//! those that its `type` needs. serde's internally tagged enums would buffer the whole frame first,
//! which costs several times as much. Payloads stay slices of the frame.

mod down;
mod read;
mod up;
mod write;

pub(super) use down::{decode as decode_downstream, encode as encode_downstream, encode_bare_end};
pub(super) use up::{decode as decode_upstream, encode as encode_upstream, group_of};
