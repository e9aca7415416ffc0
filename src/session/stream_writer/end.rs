//! The last message of a stream, and what its answer means.

use super::Emit;
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::{NamedError, StreamEndError};

#[derive(Debug)]
pub(super) enum Last {
    End,
    Abort(StreamEndError),
}

/// The last message is written, or waits for a link.
#[derive(Debug)]
pub(super) struct Ending {
    last: Last,
    written: bool,
    /// It was written to a link that was lost, so its answer may be lost.
    lost: bool,
}

impl Ending {
    pub(super) fn new(last: Last) -> Self {
        Self { last, written: false, lost: false }
    }

    pub(super) fn link_lost(&mut self) {
        self.lost |= self.written;
    }

    /// It is written now, for the first time or again.
    pub(super) fn write(&mut self) -> Emit {
        self.written = true;
        match &self.last {
            Last::End => Emit::End,
            Last::Abort(error) => Emit::Abort(error.clone()),
        }
    }

    /// What `streamClosed` means. `alive`: the service cannot have ended the stream by itself.
    pub(super) fn outcome(&self, error: Option<&NamedError>, alive: bool) -> Result<()> {
        let Some(named) = error else { return Ok(()) };
        match &self.last {
            // Gone is what it was to be.
            Last::Abort(_) => Ok(()),
            Last::End if self.lost && named.name == "StreamNotFound" => {
                // All fragments were accepted before the first end was written. So if it was not
                // idleness, only that end can have removed the stream.
                if alive {
                    return Ok(());
                }
                let text = "the end of the stream was written to a connection that was lost; it is \
                            unknown whether the service took it or ended the stream as idle";
                Err(Error::new(ErrorKind::OutcomeUnknown, text).maybe_delivered(true))
            }
            Last::End => Err(refused(error, "the stream did not end in order", true)),
        }
    }
}

/// The service ended the stream, or did not take it at all.
pub(super) fn refused(error: Option<&NamedError>, what: &str, begun: bool) -> Error {
    let mut text = String::from(what);
    let name = error.map_or("", |error| error.name.as_str());
    let message = error.and_then(|error| error.message.as_deref()).unwrap_or_default();
    for part in [name, message] {
        if !part.is_empty() {
            text.extend([": ", part]);
        }
    }
    let error = Error::new(ErrorKind::Refused, text).maybe_delivered(begun);
    if name.is_empty() { error } else { error.with_service_name(name) }
}

/// For subscribers, why the stream was given up.
pub(super) fn code(code: &str) -> StreamEndError {
    StreamEndError { message: None, user_error_code: Some(code.to_owned()) }
}
