//! Roles: what a client may do beyond receiving and sending events.
//!
//! A role is a text on the wire. The rules for the group or pattern in it are checked when a token
//! is minted; the service itself drops a bad pattern without a word.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::protocol::rules;

/// A pattern may have this many `*` characters, both of `**` counted and escaped ones not.
const MAX_STARS: usize = 5;

const JOIN_LEAVE: &str = "webpubsub.joinLeaveGroup";
const JOIN_LEAVE_ONE: &str = "webpubsub.joinLeaveGroup.";
const JOIN_LEAVE_PATTERN: &str = "webpubsub.joinLeaveGroups.";
const SEND: &str = "webpubsub.sendToGroup";
const SEND_ONE: &str = "webpubsub.sendToGroup.";
const SEND_PATTERN: &str = "webpubsub.sendToGroups.";
const SET_STATE: &str = "webpubsub.setGroupState";
const SET_STATE_PATTERN: &str = "webpubsub.setGroupState.";
const GET_STATE: &str = "webpubsub.getGroupState";
const GET_STATE_PATTERN: &str = "webpubsub.getGroupState.";

/// A permission of a client.
///
/// The constructors check nothing; minting a URL does
/// ([`ConnectionString::client_access_url`](crate::ConnectionString::client_access_url)), and so
/// does [`str::parse`]. The rules: a group name is not blank and has at most 1024 characters (UTF-16
/// units); a pattern has 1 to 1024 of them, at most 5 times `*` without a `\` before it, and `\`
/// stands only before `\`, `*` or `?`.
///
/// In a pattern `?` is one character but not `.`, `*` any run of characters without `.`, `**` any
/// run at all; `\*`, `\?` and `\\` stand for the character itself. Letter case matters.
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

    /// May set and clear its own state in any group of which it is a member (preview).
    #[must_use]
    pub fn set_group_state() -> Self {
        Self(SET_STATE.into())
    }

    /// May set and clear its own state in this group (preview).
    #[must_use]
    pub fn set_group_state_group(group: impl AsRef<str>) -> Self {
        Self::with(SET_STATE_PATTERN, &literal(group.as_ref()))
    }

    /// May set and clear its own state in the groups that match the pattern (preview).
    #[must_use]
    pub fn set_group_state_groups(pattern: impl AsRef<str>) -> Self {
        Self::with(SET_STATE_PATTERN, pattern.as_ref())
    }

    /// May follow the states in any group of which it is a member (preview).
    #[must_use]
    pub fn get_group_state() -> Self {
        Self(GET_STATE.into())
    }

    /// May follow the states in this group (preview).
    #[must_use]
    pub fn get_group_state_group(group: impl AsRef<str>) -> Self {
        Self::with(GET_STATE_PATTERN, &literal(group.as_ref()))
    }

    /// May follow the states in the groups that match the pattern (preview).
    #[must_use]
    pub fn get_group_state_groups(pattern: impl AsRef<str>) -> Self {
        Self::with(GET_STATE_PATTERN, pattern.as_ref())
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
        } else if let Some(pattern) = rest([SET_STATE_PATTERN, GET_STATE_PATTERN]) {
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

/// A pattern that matches this group only: the wire has no other form for one group here.
fn literal(group: &str) -> String {
    let escape = |c| ['\\'].into_iter().filter(move |_| matches!(c, '\\' | '*' | '?')).chain([c]);
    group.chars().flat_map(escape).collect()
}

/// `what` is the field's name in the error.
pub(super) fn check_group(what: &str, group: &str) -> Result<()> {
    rules::group(group).map_err(|why| Error::config(format!("invalid {what}: {why}")))
}

fn check_pattern(pattern: &str) -> Result<()> {
    let refused = |why: &str| Err(Error::config(format!("invalid group pattern of a role: {why}")));
    if pattern.is_empty() {
        return refused("it must not be empty");
    }
    if rules::is_longer_than_a_group(pattern) {
        return refused("it must have at most 1024 characters (UTF-16 units)");
    }
    let mut stars = 0;
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' => stars += 1,
            '\\' if !matches!(chars.next(), Some('\\' | '*' | '?')) => {
                return refused("a `\\` must be followed by `\\`, `*` or `?`");
            }
            _ => {}
        }
    }
    if stars > MAX_STARS {
        let why = format!("it has {stars} times `*` without `\\`, at most {MAX_STARS} are allowed");
        return refused(&why);
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
            (Role::set_group_state(), "webpubsub.setGroupState"),
            (Role::set_group_state_group(r"a*b?\c"), r"webpubsub.setGroupState.a\*b\?\\c"),
            (Role::set_group_state_groups("a.*"), "webpubsub.setGroupState.a.*"),
            (Role::get_group_state(), "webpubsub.getGroupState"),
            (Role::get_group_state_group("a.b"), "webpubsub.getGroupState.a.b"),
            (Role::get_group_state_groups("**"), "webpubsub.getGroupState.**"),
            (Role::custom("webpubsub.other"), "webpubsub.other"),
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
            Role::send_to_groups(r"\*\*\*\*\*\*****.*"),
            Role::join_leave_groups(r"a\*b\?c\\"),
            Role::custom("anything else"),
        ] {
            role.check().unwrap();
        }
    }

    #[test]
    fn bad_names_and_patterns_name_the_field_and_the_rule() {
        for (role, says) in [
            (
                Role::send_to_group(""),
                "group name of a role: a group name must not be empty or blank",
            ),
            (Role::join_leave_group(" \t"), "a group name must not be empty or blank"),
            (Role::send_to_group("g".repeat(1025)), "at most 1024 characters (UTF-16 units)"),
            (Role::send_to_group("🚀".repeat(513)), "at most 1024 characters (UTF-16 units)"),
            (Role::send_to_groups(""), "group pattern of a role: it must not be empty"),
            (Role::send_to_groups("?".repeat(1025)), "at most 1024 characters (UTF-16 units)"),
            (Role::send_to_groups("🚀".repeat(513)), "at most 1024 characters (UTF-16 units)"),
            (Role::join_leave_groups("**.**.**"), r"has 6 times `*` without `\`, at most 5"),
            (Role::join_leave_groups(r"\*******"), r"has 6 times `*` without `\`, at most 5"),
            (Role::send_to_groups(r"a\b"), r"a `\` must be followed by `\`, `*` or `?`"),
            (Role::send_to_groups(r"a\"), r"a `\` must be followed by `\`, `*` or `?`"),
            (Role::send_to_groups(r"a\\\"), r"a `\` must be followed by `\`, `*` or `?`"),
            (Role::set_group_state_group(""), "group pattern of a role: it must not be empty"),
            (Role::get_group_state_groups("*.*.*.*.*.*"), "has 6 times"),
            (Role::custom(" "), "a role must not be blank"),
            (Role::custom("webpubsub.sendToGroup."), "must not be empty or blank"),
        ] {
            let error = role.check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(says), "{role}: {error}");
            assert!(role.as_str().parse::<Role>().is_err());
        }
    }
}
