//! Getting in: connection strings, access tokens and roles.
//!
//! A [`ConnectionString`] holds the service's address and key. It mints client access URLs, whose
//! token says what [`ClientAccess`] asks for: user, [`Role`]s, groups, lifetime.
//!
//! Invariants: no `Debug`, `Display` or error of this module holds a key or a token; nothing is
//! minted that the service would refuse or silently ignore by a rule known here; values are
//! checked when a URL is minted, so building a [`ClientAccess`] cannot fail. No socket, no thread;
//! the clock is read in one place ([`ConnectionString::client_access_url`]).

mod access;
#[cfg(any(test, feature = "emulator"))]
pub(crate) mod claims;
mod connection_string;
mod role;
pub(crate) mod token;

pub use access::ClientAccess;
pub use connection_string::ConnectionString;
pub use role::Role;
