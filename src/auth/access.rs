//! What an access token grants.

use std::time::Duration;

use serde::Serialize;

use super::role::{Role, check_group};
use crate::error::{Error, Result};

/// What a client access token grants, to be minted by
/// [`ConnectionString::client_access_url`](crate::ConnectionString::client_access_url).
///
/// Without anything set, the client is anonymous, may receive and send events, and is in no group.
/// Nothing here fails: values are checked when the URL is minted.
///
/// ```
/// use std::time::Duration;
/// use webpubsub::{ClientAccess, Role};
///
/// let access = ClientAccess::new()
///     .user_id("anna")
///     .role(Role::join_leave_groups("rooms.*"))
///     .role(Role::send_to_group("chat"))
///     .group("chat")
///     .lifetime(Duration::from_secs(300));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct ClientAccess {
    user_id: Option<String>,
    roles: Vec<Role>,
    groups: Vec<String>,
    lifetime: Duration,
}

impl Default for ClientAccess {
    fn default() -> Self {
        Self {
            user_id: None,
            roles: Vec::new(),
            groups: Vec::new(),
            lifetime: Duration::from_secs(60 * 60),
        }
    }
}

impl ClientAccess {
    /// An anonymous client without roles and groups.
    pub fn new() -> Self {
        Self::default()
    }

    /// The user that the client belongs to. Default: none. An empty id counts as none.
    pub fn user_id(mut self, id: impl Into<String>) -> Self {
        self.user_id = Some(id.into()).filter(|id| !id.is_empty());
        self
    }

    /// Adds a role. Default: none.
    pub fn role(mut self, role: Role) -> Self {
        self.roles.push(role);
        self
    }

    /// Adds roles.
    pub fn roles(mut self, roles: impl IntoIterator<Item = Role>) -> Self {
        self.roles.extend(roles);
        self
    }

    /// Adds a group that the client is a member of once connected; no role is needed for that.
    /// Default: none. A name is not blank and has at most 1024 characters (UTF-16 units).
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.groups.push(group.into());
        self
    }

    /// Adds groups that the client is a member of once connected.
    pub fn groups<I>(mut self, groups: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.groups.extend(groups.into_iter().map(Into::into));
        self
    }

    /// For how long the URL can be used to connect; a connection that is up outlives it.
    /// Default: 60 minutes. Not zero; rounded up to whole seconds.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// The claims of a token issued at `now` (seconds since 1970), if all values are good.
    pub(super) fn claims(&self, audience: String, now: u64) -> Result<MintedClaims<'_>> {
        for role in &self.roles {
            role.check()?;
        }
        for group in &self.groups {
            check_group("group name of a client access", group)?;
        }
        Ok(MintedClaims {
            role: self.roles.iter().map(Role::as_str).collect(),
            group: &self.groups,
            iat: now,
            exp: self.expiry(now)?,
            aud: audience,
            sub: self.user_id.as_deref(),
        })
    }

    fn expiry(&self, now: u64) -> Result<u64> {
        if self.lifetime.is_zero() {
            return Err(Error::config("the lifetime of a client access must not be zero"));
        }
        let fraction = u64::from(self.lifetime.subsec_nanos() > 0);
        self.lifetime
            .as_secs()
            .checked_add(fraction)
            .and_then(|secs| secs.checked_add(now))
            .ok_or_else(|| Error::config("the lifetime of a client access is too long"))
    }
}

/// The payload of a minted token, in the order in which the service's own SDKs write it.
#[derive(Serialize)]
pub(super) struct MintedClaims<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    role: Vec<&'a str>,
    #[serde(rename = "webpubsub.group", skip_serializing_if = "<[String]>::is_empty")]
    group: &'a [String],
    iat: u64,
    exp: u64,
    aud: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn payload(access: &ClientAccess) -> String {
        serde_json::to_string(&access.claims("https://h".into(), 1000).unwrap()).unwrap()
    }

    #[test]
    fn claims_stand_in_the_order_of_the_sdks() {
        let access = ClientAccess::new()
            .user_id("u1")
            .role(Role::send())
            .roles([Role::join_leave_group("a")])
            .group("g0")
            .groups(["g1"]);
        assert_eq!(
            payload(&access),
            concat!(
                r#"{"role":["webpubsub.sendToGroup","webpubsub.joinLeaveGroup.a"],"#,
                r#""webpubsub.group":["g0","g1"],"iat":1000,"exp":4600,"aud":"https://h","sub":"u1"}"#,
            )
        );
    }

    #[test]
    fn what_is_not_set_is_not_written() {
        let bare = r#"{"iat":1000,"exp":4600,"aud":"https://h"}"#;
        assert_eq!(payload(&ClientAccess::new()), bare);
        assert_eq!(payload(&ClientAccess::default().user_id("")), bare);
    }

    #[test]
    fn lifetime_rounds_up_to_whole_seconds() {
        for (lifetime, exp) in [
            (Duration::from_nanos(1), 1001),
            (Duration::from_secs(1), 1001),
            (Duration::from_millis(1001), 1002),
            (Duration::from_secs(86_400), 87_400),
        ] {
            let access = ClientAccess::new().lifetime(lifetime);
            assert_eq!(access.claims(String::new(), 1000).unwrap().exp, exp, "{lifetime:?}");
        }
    }

    #[test]
    fn bad_values_are_refused_when_minting() {
        let new = ClientAccess::new;
        for (access, says) in [
            (new().lifetime(Duration::ZERO), "lifetime of a client access must not be zero"),
            (new().lifetime(Duration::MAX), "lifetime of a client access is too long"),
            (
                new().lifetime(Duration::from_secs(u64::MAX)),
                "lifetime of a client access is too long",
            ),
            (new().group(" "), "group name of a client access: a group name must not be empty"),
            (new().group("g".repeat(1025)), "at most 1024 characters (UTF-16 units)"),
            (new().role(Role::send_to_group("")), "group name of a role: a group name must not"),
            (new().role(Role::custom("")), "role must not be blank"),
        ] {
            let error = access.claims(String::new(), 1000).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
