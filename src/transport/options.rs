//! How connections are opened, the same for each one of a client.

use std::time::Duration;

use super::proxy::Proxy;
use super::tls::TlsConfig;
use crate::secret::Secret;

/// How to connect.
#[derive(Clone)]
pub(crate) struct DialOptions {
    /// The limit of each step; the answer to the upgrade may take all the time that is left.
    pub(crate) step: Duration,
    /// The operating system's buffers, if a test chose a size.
    pub(crate) socket_buffer: Option<usize>,
    pub(crate) tls: TlsConfig,
    /// `None`: connect directly.
    pub(crate) proxy: Option<Proxy>,
    pub(crate) user_agent: String,
    /// Names and values, checked.
    pub(crate) headers: Vec<(String, Secret)>,
}
