//! The `connect` event, which comes before the answer to the upgrade.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::admission::{self, NewConnection};
use super::grants::Grants;
use super::http::{Refusal, Request};
use super::server::Shared;
use super::server_session::Kind;
use super::writer::Writer;
use crate::auth::Role;
use crate::protocol::Protocol;

/// A closure in the role of the app server's handler of the `connect` event.
pub(super) type ConnectHandler = dyn Fn(&ConnectRequest) -> ConnectAnswer + Send + Sync;

/// A client that wants to connect, as the app server would be asked about it. Its token is good.
///
/// `Debug` shows the names of the query parameters and headers, not their values.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct ConnectRequest {
    /// The hub.
    pub hub: String,
    /// The id that the connection will have.
    pub connection_id: String,
    /// The user id of the token.
    pub user_id: Option<String>,
    /// The roles of the token.
    pub roles: Vec<Role>,
    /// The groups of the token.
    pub groups: Vec<String>,
    /// The query parameters in order, without `access_token`.
    pub query: Vec<(String, String)>,
    /// The headers in order, the names in lower case, without `authorization`.
    pub headers: Vec<(String, String)>,
    /// The subprotocols that the client offers, in order.
    pub subprotocols: Vec<String>,
}

impl ConnectRequest {
    fn new(id: &Arc<str>, new: &NewConnection, request: &Request) -> Self {
        let without = |pairs: &[(String, String)], secret: &str| {
            pairs.iter().filter(|(name, _)| name != secret).cloned().collect()
        };
        Self {
            hub: new.handshake.hub.to_string(),
            connection_id: id.to_string(),
            user_id: new.handshake.user.as_deref().map(Into::into),
            roles: new.roles.iter().map(Role::custom).collect(),
            groups: new.handshake.groups.clone(),
            query: without(&request.query, "access_token"),
            headers: without(&request.headers, "authorization"),
            subprotocols: request.protocols.clone(),
        }
    }

    /// The first value of a query parameter.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The first value of a header, whose name may be in any letter case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

impl fmt::Debug for ConnectRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |pairs: &[(String, String)]| -> Vec<String> {
            pairs.iter().map(|(name, _)| name.clone()).collect()
        };
        f.debug_struct("ConnectRequest")
            .field("hub", &self.hub)
            .field("connection_id", &self.connection_id)
            .field("user_id", &self.user_id)
            .field("roles", &self.roles)
            .field("groups", &self.groups)
            .field("query", &names(&self.query))
            .field("headers", &names(&self.headers))
            .field("subprotocols", &self.subprotocols)
            .finish()
    }
}

/// What a handler of the `connect` event answers.
///
/// ```
/// use webpubsub::Role;
/// use webpubsub::emulator::{ConnectAnswer, Emulator};
///
/// # fn main() -> webpubsub::Result<()> {
/// let emulator = Emulator::builder()
///     .connect(|request| match request.parameter("room") {
///         Some(room) => ConnectAnswer::accept()
///             .user_id("anna")
///             .group(room)
///             .role(Role::send_to_group(room)),
///         None => ConnectAnswer::refuse(401, "which room?"),
///     })
///     .start()?;
/// # drop(emulator);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct ConnectAnswer {
    refusal: Option<(u16, String)>,
    user_id: Option<String>,
    roles: Vec<Role>,
    groups: Vec<String>,
    subprotocol: Option<String>,
}

impl ConnectAnswer {
    /// The client may connect, with what its token grants and what is added here.
    pub fn accept() -> Self {
        let (roles, groups) = (Vec::new(), Vec::new());
        Self { refusal: None, user_id: None, roles, groups, subprotocol: None }
    }

    /// The client may not connect. It gets a status of 400 to 499 and the text as they are, at
    /// once. Any other status counts as a handler that fails: the service tries again for
    /// [`Limits::connect_retry_time`](super::Limits::connect_retry_time) and then answers 500.
    ///
    /// The other methods change nothing about a refusal.
    pub fn refuse(status: u16, text: impl Into<String>) -> Self {
        Self { refusal: Some((status, text.into())), ..Self::accept() }
    }

    /// The user id, instead of the token's.
    pub fn user_id(mut self, id: impl Into<String>) -> Self {
        self.user_id = Some(id.into());
        self
    }

    /// Another role, beside the token's.
    pub fn role(mut self, role: Role) -> Self {
        self.roles.push(role);
        self
    }

    /// Another group that the connection is a member of from its start, beside the token's.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.groups.push(group.into());
        self
    }

    /// The subprotocol, one of those that the client offers. One that the service does not speak
    /// makes it a simple client. Default: the first that the service speaks.
    pub fn subprotocol(mut self, name: impl Into<String>) -> Self {
        self.subprotocol = Some(name.into());
        self
    }

    /// An accepted connection becomes what the answer says.
    fn carry_out(self, new: &mut NewConnection, request: &Request) -> Result<(), Refusal> {
        if let Some(name) = &self.subprotocol {
            let offered = request.protocols.iter().find(|p| p.eq_ignore_ascii_case(name));
            let offered = offered.ok_or_else(|| failed("chose a subprotocol not offered"))?;
            new.handshake.kind = match Protocol::from_name(offered) {
                Some(protocol) => Kind::PubSub(protocol),
                None => admission::simple_kind(request)?,
            };
            new.subprotocol = Some(offered.clone());
        }
        if self.groups.iter().any(|group| !admission::is_group_name(group)) {
            return Err(failed("named a group that is not valid"));
        }
        new.handshake.groups.extend(self.groups);
        if let Some(user) = self.user_id {
            new.handshake.user = Some(user.into());
        }
        let roles = new.roles.iter().map(String::as_str);
        new.handshake.grants = Grants::new(roles.chain(self.roles.iter().map(Role::as_str)));
        Ok(())
    }
}

/// Asks the handler, if there is one, on the connection's own thread and under no lock. `Err` is
/// the answer to the upgrade.
pub(super) fn ask(
    shared: &Shared,
    writer: &Writer,
    request: &Request,
    new: &mut NewConnection,
) -> Result<(), Refusal> {
    let Some(handler) = &shared.connect else { return Ok(()) };
    let id = shared.with(None, |service, _| service.new_id());
    let asked = ConnectRequest::new(&id, new, request);
    new.id = Some(id);
    let answer = catch_unwind(AssertUnwindSafe(|| handler(&asked)));
    let mut answer = answer.unwrap_or_else(|_| ConnectAnswer::refuse(500, ""));
    match answer.refusal.take() {
        None => answer.carry_out(new, request),
        Some((status @ 400..500, text)) => Err(Refusal::new(status, text)),
        Some(_) => {
            shared.switches.sleep(shared.connect_retry_time, || writer.is_over());
            Err(failed("failed"))
        }
    }
}

fn failed(how: &str) -> Refusal {
    Refusal::new(500, format!("The handler of the connect event {how}."))
}
