//! The answer to an invocation.

use serde::de::DeserializeOwned;

use super::{Metadata, Payload};
use crate::error::{Error, ErrorKind, Result};

/// What the app server has answered to an invocation (preview).
///
/// ```
/// # #[cfg(feature = "preview")] {
/// use webpubsub::{Payload, Reply};
///
/// // As a program's own tests may need one.
/// let reply = Reply::new(Payload::from_json(&3).unwrap());
/// assert_eq!(reply.json::<i64>().unwrap(), 3);
/// assert!(Reply::new(None).text().is_err()); // an answer without data
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Reply {
    /// The data, if the answer has any.
    pub payload: Option<Payload>,
    /// Metadata, empty if the app server gave none.
    pub metadata: Metadata,
}

impl Reply {
    /// An answer as a program's own tests may need one; set the metadata as you like.
    pub fn new(payload: impl Into<Option<Payload>>) -> Self {
        Self { payload: payload.into(), metadata: Metadata::default() }
    }

    /// The text of the payload; see [`Payload::text`].
    ///
    /// # Errors
    /// [`ErrorKind::Payload`] if the payload is not text, or the answer has none.
    pub fn text(&self) -> Result<&str> {
        self.data()?.text()
    }

    /// The payload parsed from JSON; see [`Payload::json`].
    ///
    /// # Errors
    /// [`ErrorKind::Payload`] if the payload is not JSON or does not fit `T`, or the answer has none.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        self.data()?.json()
    }

    fn data(&self) -> Result<&Payload> {
        let none = || Error::new(ErrorKind::Payload, "the answer to the invocation has no data");
        self.payload.as_ref().ok_or_else(none)
    }
}
