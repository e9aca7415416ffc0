//! The protobuf subprotocols: one `Up` or `Down` message per binary frame.
//!
//! Invariants: payloads and names of what comes in are slices of the frame until somebody needs
//! them otherwise; whether a field is there is told by its presence, never by its value, where the
//! schema knows the difference; what has no number in the published schemas is refused, not
//! guessed.
//!
//! JSON is written as JSON (field 4). An older schema put it into the text field, where nothing
//! tells it from text, so it is read as the text that it then is.

mod down;
mod payload;
mod up;
mod wire;

pub(super) use down::{decode as decode_downstream, encode as encode_downstream, encode_bare_end};
pub(super) use up::{decode as decode_upstream, encode as encode_upstream, group_of};

use std::borrow::Cow;

use bytes::Bytes;
use prost::Message;

use super::{Frame, Malformed};
use crate::error::Error;

/// Why a frame is malformed. Never quotes the frame, which may hold data and tokens.
type Why = Cow<'static, str>;

const NOT_PROTOBUF: &str = "not a valid protobuf message";

/// The bytes of a frame.
fn bytes(frame: &Frame) -> Result<&Bytes, Malformed> {
    match frame {
        Frame::Binary(bytes) => Ok(bytes),
        Frame::Text(_) => Err(Malformed {
            wrong_frame_kind: true,
            ..Malformed::new("a text frame in a protobuf subprotocol")
        }),
    }
}

fn frame(message: &impl Message) -> Frame {
    Frame::Binary(message.encode_to_vec().into())
}

/// For messages that the published schemas have no number for.
fn no_form(what: &str) -> Error {
    Error::invalid(format!(
        "`{what}` has no form in the protobuf subprotocols; use a JSON subprotocol for it"
    ))
}

/// Text inside the frame.
fn text(bytes: &Bytes) -> Result<&str, Why> {
    std::str::from_utf8(bytes).map_err(|_| "a string is not valid UTF-8".into())
}

/// The string, or `missing` as the reason; a string without presence is missing if it is empty.
fn need<'a>(value: &'a str, missing: &'static str) -> Result<&'a str, Why> {
    if value.is_empty() { Err(missing.into()) } else { Ok(value) }
}

/// An empty string counts as absent.
fn full(value: String) -> Option<String> {
    Some(value).filter(|value| !value.is_empty())
}
