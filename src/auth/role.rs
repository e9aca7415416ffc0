//! Roles: what a client may do beyond receiving and sending events.
//!
//! A role is a text on the wire. The rules for the group or pattern in it are checked when a token
//! is minted; the service itself drops a bad pattern without a word.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Group names and patterns may have this many characters.
const MAX_CHARS: usize = 1024;
/// A pattern may have this many `*` characters, those of `**` and escaped ones counted.
const MAX_STARS: usize = 5;

const JOIN_LEAVE: &str = "webpubsub.joinLeaveGroup";
const JOIN_LEAVE_ONE: &str = "webpubsub.joinLeaveGroup.";
const JOIN_LEAVE_PATTERN: &str = "webpubsub.joinLeaveGroups.";
const SEND: &str = "webpubsub.sendToGroup";
const SEND_ONE: &str = "webpubsub.sendToGroup.";
const SEND_PATTERN: &str = "webpubsub.sendToGroups.";

/// A permission of a client.
///
/// The constructors check nothing; minting a URL does
/// ([`ConnectionString::client_access_url`](crate::ConnectionString::client_access_url)), and so
/// does [`str::parse`]. The rules: a group name is not blank and has at most 1024 characters; a
/// pattern has 1 to 1024 characters, at most 5 of them `*`, and `\` stands only before `\`, `*` or
/// `?`.
///
/// In a pattern `?` is one character but not `.`, `*` any run of characters without `.`, `**` any
/// run at all. Letter case matters.
///
/// `Display` gives the wire text, such as `webpubsub.sendToGroup.chat`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Role(String);

impl Role {
    /// May join and leave any group.
    #[must_use]
    pub fn join_leave() -> Self {
        Self(JOIN_LEAVE.into())
    }

    /// May join and leave this group.
    #[must_use]
    pub fn join_leave_group(group: impl AsRef<str>) -> Self {
        Self::with(JOIN_LEAVE_ONE, group.as_ref())
    }

    /// May join and leave the groups that match the pattern.
    #[must_use]
    pub fn join_leave_groups(pattern: impl AsRef<str>) -> Self {
        Self::with(JOIN_LEAVE_PATTERN, pattern.as_ref())
    }

    /// May publish to any group, member or not.
    #[must_use]
    pub fn send() -> Self {
        Self(SEND.into())
    }

    /// May publish to this group, member or not.
    #[must_use]
    pub fn send_to_group(group: impl AsRef<str>) -> Self {
        Self::with(SEND_ONE, group.as_ref())
    }

    /// May publish to the groups that match the pattern, member or not.
    #[must_use]
    pub fn send_to_groups(pattern: impl AsRef<str>) -> Self {
        Self::with(SEND_PATTERN, pattern.as_ref())
    }

    /// A role by its wire text, for those that have no constructor here.
    ///
    /// A text of one of the known forms is the same role as its constructor gives.
    #[must_use]
    pub fn custom(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The wire text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn with(prefix: &str, rest: &str) -> Self {
        Self(format!("{prefix}{rest}"))
    }

    pub(super) fn check(&self) -> Result<()> {
        let rest = |prefixes: [&str; 2]| prefixes.iter().find_map(|p| self.0.strip_prefix(p));
        if let Some(group) = rest([JOIN_LEAVE_ONE, SEND_ONE]) {
            check_group("group name of a role", group)
        } else if let Some(pattern) = rest([JOIN_LEAVE_PATTERN, SEND_PATTERN]) {
            check_pattern(pattern)
        } else if self.0.trim().is_empty() {
            Err(Error::config("a role must not be blank"))
        } else {
            Ok(())
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Role {
    type Err = Error;

    /// A role by its wire text, checked at once.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) if the text is blank, or its group or
    /// pattern breaks a rule.
    fn from_str(text: &str) -> Result<Self> {
        let role = Self::custom(text);
        role.check()?;
        Ok(role)
    }
}

/// `what` is the field's name in the error.
pub(super) fn check_group(what: &str, group: &str) -> Result<()> {
    if group.trim().is_empty() {
        return Err(Error::config(format!("the {what} must not be blank")));
    }
    check_length(what, group)
}

fn check_pattern(pattern: &str) -> Result<()> {
    let what = "group pattern of a role";
    if pattern.is_empty() {
        return Err(Error::config(format!("the {what} must not be empty")));
    }
    check_length(what, pattern)?;
    let stars = pattern.matches('*').count();
    if stars > MAX_STARS {
        return Err(Error::config(format!(
            "the {what} has {stars} `*` characters, at most {MAX_STARS} are allowed"
        )));
    }
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if c == '\\' && !matches!(chars.next(), Some('\\' | '*' | '?')) {
            return Err(Error::config(format!(
                "the {what} has a `\\` that is not followed by `\\`, `*` or `?`"
            )));
        }
    }
    Ok(())
}

fn check_length(what: &str, text: &str) -> Result<()> {
    let chars = text.chars().count();
    if chars > MAX_CHARS {
        return Err(Error::config(format!(
            "the {what} has {chars} characters, at most {MAX_CHARS} are allowed"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn constructors_give_the_wire_text() {
        for (role, text) in [
            (Role::join_leave(), "webpubsub.joinLeaveGroup"),
            (Role::join_leave_group("a.b"), "webpubsub.joinLeaveGroup.a.b"),
            (Role::join_leave_groups("a.*"), "webpubsub.joinLeaveGroups.a.*"),
            (Role::send(), "webpubsub.sendToGroup"),
            (Role::send_to_group("chat"), "webpubsub.sendToGroup.chat"),
            (Role::send_to_groups("a.**"), "webpubsub.sendToGroups.a.**"),
            (Role::custom("webpubsub.getGroupState"), "webpubsub.getGroupState"),
        ] {
            assert_eq!(role.to_string(), text);
            assert_eq!(text.parse::<Role>().unwrap(), role);
        }
    }

    #[test]
    fn good_names_and_patterns_pass() {
        for role in [
            Role::send_to_group("*?\\ é"),
            Role::send_to_group("g".repeat(1024)),
            Role::send_to_group("é".repeat(1024)),
            Role::send_to_groups("?".repeat(1024)),
            Role::send_to_groups("*.**.**"),
            Role::join_leave_groups(r"a\*b\?c\\"),
            Role::custom("anything else"),
        ] {
            role.check().unwrap();
        }
    }

    #[test]
    fn bad_names_and_patterns_name_the_field_and_the_rule() {
        for (role, says) in [
            (Role::send_to_group(""), "the group name of a role must not be blank"),
            (Role::join_leave_group(" \t"), "the group name of a role must not be blank"),
            (Role::send_to_group("g".repeat(1025)), "has 1025 characters, at most 1024"),
            (Role::send_to_groups(""), "the group pattern of a role must not be empty"),
            (Role::send_to_groups("?".repeat(1025)), "has 1025 characters, at most 1024"),
            (Role::join_leave_groups("**.**.**"), "has 6 `*` characters, at most 5"),
            (Role::join_leave_groups(r"\*\*\*\*\*\*"), "has 6 `*` characters, at most 5"),
            (Role::send_to_groups(r"a\b"), r"a `\` that is not followed by `\`, `*` or `?`"),
            (Role::send_to_groups(r"a\"), r"a `\` that is not followed by `\`, `*` or `?`"),
            (Role::send_to_groups(r"a\\\"), r"a `\` that is not followed by `\`, `*` or `?`"),
            (Role::custom(" "), "a role must not be blank"),
            (Role::custom("webpubsub.sendToGroup."), "must not be blank"),
        ] {
            let error = role.check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(says), "{role}: {error}");
            assert!(role.as_str().parse::<Role>().is_err());
        }
    }
}
