//! The one error type of the crate.
//!
//! [`Error`] is cheap to clone, because one lost connection fails many callers and each of them
//! gets the same cause. [`Error::kind`] says which step failed; [`std::error::Error::source`]
//! keeps what lay below. `Display` prints this layer only, so a report that walks the sources
//! repeats nothing; `{:#}` and `Debug` print the causes too. No text of an error ever holds an access token, a key or a reconnection token.

use std::fmt;
use std::io;
use std::sync::Arc;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, with its cause.
///
/// `Clone` is cheap. Match on [`Error::kind`], or ask the predicates.
///
/// ```
/// # use webpubsub::{Error, ErrorKind};
/// fn advice(error: &Error) -> &'static str {
///     match error {
///         e if e.may_have_been_delivered() => "look whether it happened",
///         e if e.is_refused() => "ask for the role that is missing",
///         e if e.is_permanent() => "change something first",
///         _ => "try again later",
///     }
/// }
/// // A program's own tests make the errors that they need.
/// let timeout = Error::new(ErrorKind::Timeout, "no ack came");
/// assert_eq!(advice(&timeout), "try again later");
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    maybe_delivered: bool,
    service_name: Option<String>,
    user_error_code: Option<String>,
    http_status: Option<u16>,
    close_code: Option<u16>,
    retry_after: Option<std::time::Duration>,
    /// The client that it comes from has ended.
    stopped: bool,
}

/// The step that failed. New kinds may be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The configuration is wrong: URL, connection string, option, or a `wss` URL in a build
    /// without TLS. Nothing was sent.
    Config,
    /// A call was refused locally, because the service would have closed the connection over it
    /// (names, sizes, metadata). Nothing was sent.
    InvalidRequest,
    /// The closure that supplies client access URLs failed, panicked or took too long.
    UrlProvider,
    /// The host name could not be resolved.
    NameLookup,
    /// No TCP connection to the service (or to the proxy).
    Connect,
    /// The proxy refused or broke the tunnel.
    Proxy,
    /// The TLS handshake failed: certificate, host name, protocol version.
    Tls,
    /// The WebSocket upgrade was refused or broken; see [`Error::http_status`].
    Upgrade,
    /// The service did not grant the subprotocol that was asked for.
    Subprotocol,
    /// The connection came up, but the service's `connected` message did not come.
    SessionStart,
    /// A time limit of the call passed. (A step of connecting that took too long has that step's
    /// kind.)
    Timeout,
    /// The service refused the call; see [`Error::service_error_name`]. Or it closed the connection
    /// over something that was in flight: then [`Error::close_code`] is set instead, and each call
    /// that was in flight gets this.
    Refused,
    /// The connection was lost for good while the call was under way: it may or may not have been
    /// executed.
    OutcomeUnknown,
    /// The connection is gone.
    Disconnected,
    /// There is no room for the call at the moment, and it was not to wait. Nothing was sent.
    WouldBlock,
    /// The program took the call back before it was sent.
    Cancelled,
    /// A queue is full and its policy is [`Overflow::Stop`](crate::Overflow::Stop): the client, the
    /// subscription or the stream that it belongs to has ended.
    QueueFull,
    /// The client was closed.
    Closed,
    /// A payload is not of the kind that was asked for, or could not be parsed or serialized.
    Payload,
    /// A stream that was read did not come to its end in order (preview): its publisher gave it up or
    /// the service ended it, see [`Error::service_error_name`] and [`Error::user_error_code`]; or
    /// without a name, parts of it are missing or came twice, or its group was left.
    StreamFailed,
    /// A bug in this crate, reported instead of a panic.
    Internal,
}

impl Error {
    /// An error as a program's own tests may need one, in the way of [`std::io::Error::new`].
    ///
    /// It carries nothing but its kind and its text. Only [`ErrorKind::OutcomeUnknown`] implies
    /// that something [may have been delivered](Self::may_have_been_delivered).
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            kind,
            message: message.into(),
            source: None,
            maybe_delivered: kind == ErrorKind::OutcomeUnknown,
            service_name: None,
            user_error_code: None,
            http_status: None,
            close_code: None,
            retry_after: None,
            stopped: false,
        }))
    }

    fn edit(self, change: impl FnOnce(&mut Inner)) -> Self {
        // Only ever called on an error that was just made, so the `Arc` is unshared.
        match Arc::try_unwrap(self.0) {
            Ok(mut inner) => {
                change(&mut inner);
                Self(Arc::new(inner))
            }
            Err(shared) => {
                debug_assert!(false, "a shared error is not changed: {}", shared.message);
                Self(shared)
            }
        }
    }

    pub(crate) fn with_source(
        self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        let source = source.into();
        self.edit(|inner| inner.source = Some(source))
    }

    pub(crate) fn maybe_delivered(self, maybe: bool) -> Self {
        self.edit(|inner| inner.maybe_delivered = maybe)
    }

    pub(crate) fn with_service_name(self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.edit(|inner| inner.service_name = Some(name))
    }

    pub(crate) fn with_user_error_code(self, code: Option<String>) -> Self {
        self.edit(|inner| inner.user_error_code = code)
    }

    pub(crate) fn with_http_status(self, status: u16) -> Self {
        self.edit(|inner| inner.http_status = Some(status))
    }

    pub(crate) fn with_close_code(self, code: Option<u16>) -> Self {
        self.edit(|inner| inner.close_code = code)
    }

    pub(crate) fn with_retry_after(self, after: Option<std::time::Duration>) -> Self {
        self.edit(|inner| inner.retry_after = after)
    }

    /// The client has ended, so nothing that it is asked for can succeed.
    pub(crate) fn permanent(self) -> Self {
        self.edit(|inner| inner.stopped = true)
    }

    /// The facts that another error carries besides its message.
    pub(crate) fn with_facts_of(self, other: &Self) -> Self {
        let other = &other.0;
        self.edit(|inner| {
            inner.service_name.clone_from(&other.service_name);
            inner.user_error_code.clone_from(&other.user_error_code);
            inner.http_status = other.http_status;
            inner.close_code = other.close_code;
            inner.retry_after = other.retry_after;
        })
    }

    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Config, message)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidRequest, message)
    }

    pub(crate) fn closed() -> Self {
        Self::new(ErrorKind::Closed, "the client was closed")
    }

    /// Which step failed.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the message of the failed call may have reached the service all the same.
    ///
    /// `false` means that it certainly did not take effect: nothing was written, or the service
    /// refused it before it did anything.
    #[must_use]
    pub fn may_have_been_delivered(&self) -> bool {
        self.0.maybe_delivered
    }

    /// The name that the service gave in its ack, such as `Forbidden` or `InternalServerError`.
    /// The set is open: compare with the names that you know.
    #[must_use]
    pub fn service_error_name(&self) -> Option<&str> {
        self.0.service_name.as_deref()
    }

    /// The code that the publisher of a stream gave when it ended the stream with an error (preview);
    /// the [service's name](Self::service_error_name) is `UserError` then.
    ///
    /// ```
    /// # use webpubsub::Error;
    /// fn why(error: &Error) -> String {
    ///     match error.user_error_code() {
    ///         Some(code) => format!("given up by its publisher: {code}"),
    ///         None => error.to_string(),
    ///     }
    /// }
    /// # assert_eq!(why(&Error::new(webpubsub::ErrorKind::StreamFailed, "a gap")), "a gap");
    /// ```
    #[must_use]
    pub fn user_error_code(&self) -> Option<&str> {
        self.0.user_error_code.as_deref()
    }

    /// The HTTP status that refused the WebSocket upgrade.
    #[must_use]
    pub fn http_status(&self) -> Option<u16> {
        self.0.http_status
    }

    /// The WebSocket close code that ended the connection, if a Close frame came.
    #[must_use]
    pub fn close_code(&self) -> Option<u16> {
        self.0.close_code
    }

    /// How long the service asked to wait (`Retry-After` of a refused upgrade).
    #[must_use]
    pub fn retry_after(&self) -> Option<std::time::Duration> {
        self.0.retry_after
    }

    /// True if the time limit of a call passed.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.kind() == ErrorKind::Timeout
    }

    /// True if the client was closed by its own program.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.kind() == ErrorKind::Closed
    }

    /// True if the service refused the call and did nothing of it, for example for want of a role.
    ///
    /// Never true together with [`may_have_been_delivered`](Self::may_have_been_delivered): where a
    /// handler failed half way, or an earlier connection may have executed the call, only
    /// [`kind`](Self::kind) is [`ErrorKind::Refused`].
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.kind() == ErrorKind::Refused && !self.may_have_been_delivered()
    }

    /// True if the same again cannot succeed: a wrong configuration or request, a subprotocol that
    /// is not granted, a [refusal](Self::is_refused), a client that is closed or has stopped, or an
    /// upgrade refused by HTTP 4xx other than 408, 425 and 429.
    ///
    /// For a program that makes attempts of its own. With a fresh access token an attempt that was
    /// refused with 401 or 403 is not the same any more.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        use ErrorKind::{Closed, Config, InvalidRequest, Subprotocol};
        matches!(self.kind(), Config | InvalidRequest | Subprotocol | Closed)
            || self.is_refused()
            || self.0.stopped
            || self.http_status().filter(|_| self.kind() == ErrorKind::Upgrade).is_some_and(
                |status| matches!(status, 400..=499) && !matches!(status, 408 | 425 | 429),
            )
    }
}

/// For functions that return `std::io::Result`. The kind is the nearest one of `std`; this error is
/// the [inner error](io::Error::get_ref).
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::Config | ErrorKind::InvalidRequest => io::ErrorKind::InvalidInput,
            ErrorKind::Payload => io::ErrorKind::InvalidData,
            ErrorKind::Timeout => io::ErrorKind::TimedOut,
            ErrorKind::WouldBlock => io::ErrorKind::WouldBlock,
            ErrorKind::Closed => io::ErrorKind::NotConnected,
            ErrorKind::Disconnected | ErrorKind::OutcomeUnknown => io::ErrorKind::ConnectionAborted,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// `{}` prints this layer only, `{:#}` the causes too.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if f.alternate() { self.write_causes(f) } else { Ok(()) }
    }
}

/// Readable, because `fn main() -> webpubsub::Result<()>` prints it: the kind, the message and the
/// causes.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.0.message)?;
        self.write_causes(f)
    }
}

impl Error {
    fn write_causes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            write!(f, "; caused by: {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|e| &**e as &(dyn std::error::Error + 'static))
    }
}

/// An error with its causes, for a log or a line of text. What a URL provider of the program says
/// may hold a token, so that is left out.
pub(crate) fn described(error: &Error) -> String {
    match error.kind() {
        ErrorKind::UrlProvider => error.to_string(),
        _ => format!("{error:#}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn clones_share_kind_and_source() {
        let low = io::Error::other("low");
        let e = Error::new(ErrorKind::Tls, "high").with_source(low).maybe_delivered(true);
        let c = e.clone();
        assert_eq!(c.kind(), ErrorKind::Tls);
        assert_eq!(c.to_string(), "high");
        assert_eq!(format!("{c:#}"), "high; caused by: low");
        assert_eq!(format!("{c:?}"), "Tls: high; caused by: low");
        assert_eq!(c.source().map(ToString::to_string).as_deref(), Some("low"));
        assert!(c.may_have_been_delivered());
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }

    #[test]
    fn a_refusal_is_certain_and_never_perhaps_delivered() {
        let refused = |maybe| Error::new(ErrorKind::Refused, "no").maybe_delivered(maybe);
        assert!(refused(false).is_refused() && !refused(false).may_have_been_delivered());
        assert!(!refused(true).is_refused() && refused(true).may_have_been_delivered());
        assert!(Error::new(ErrorKind::OutcomeUnknown, "?").may_have_been_delivered());
    }

    #[test]
    fn what_cannot_succeed_a_second_time_is_permanent() {
        let permanent = |kind| Error::new(kind, "x").is_permanent();
        for kind in [
            ErrorKind::Config,
            ErrorKind::InvalidRequest,
            ErrorKind::Subprotocol,
            ErrorKind::Refused,
            ErrorKind::Closed,
        ] {
            assert!(permanent(kind), "{kind:?}");
        }
        for kind in [ErrorKind::Connect, ErrorKind::Timeout, ErrorKind::OutcomeUnknown] {
            assert!(!permanent(kind), "{kind:?}");
        }
        assert!(!Error::new(ErrorKind::Refused, "x").maybe_delivered(true).is_permanent());
        let status = |n| Error::new(ErrorKind::Upgrade, "x").with_http_status(n).is_permanent();
        assert!([400, 401, 403, 404].into_iter().all(status));
        assert!(![302, 408, 425, 429, 500, 503].into_iter().any(status));
    }

    #[test]
    fn as_an_io_error_it_keeps_itself() {
        for (kind, expected) in [
            (ErrorKind::Timeout, io::ErrorKind::TimedOut),
            (ErrorKind::WouldBlock, io::ErrorKind::WouldBlock),
            (ErrorKind::Config, io::ErrorKind::InvalidInput),
            (ErrorKind::Tls, io::ErrorKind::Other),
        ] {
            let error = io::Error::from(Error::new(kind, "text"));
            assert_eq!((error.kind(), error.to_string().as_str()), (expected, "text"));
            let inner = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
            assert_eq!(inner.map(Error::kind), Some(kind));
        }
    }
}
