//! What a connection may do with groups: by its roles, and by what the app server granted or revoked.
//!
//! Invariants: a role that is unknown, malformed or above a limit grants nothing and is no error,
//! because the service drops such roles without a word; a group that was revoked is denied whatever
//! the roles say, until it is granted again; a check costs at most pattern length times group length,
//! whatever the pattern.

use std::collections::HashSet;

use crate::protocol::rules;

/// Limits of the service, for joining and for sending each.
const MAX_LITERALS: usize = 1000;
const MAX_PATTERNS: usize = 9;
/// Escaped ones do not count.
const MAX_STARS: usize = 5;

/// A permission that the app server grants or revokes for one group at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Permission {
    /// To join and leave the group.
    JoinLeaveGroup,
    /// To publish to the group.
    SendToGroup,
}

/// The group permissions of one connection.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    join_leave: Scope,
    send: Scope,
    set_state: Scope,
    get_state: Scope,
}

impl Grants {
    /// The permissions that these roles give.
    pub(crate) fn new<I>(roles: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut grants = Self::default();
        for role in roles {
            grants.add_role(role.as_ref());
        }
        grants
    }

    fn add_role(&mut self, role: &str) {
        for (name, scope) in [
            ("webpubsub.setGroupState", &mut self.set_state),
            ("webpubsub.getGroupState", &mut self.get_state),
        ] {
            // Group or pattern, under the same name.
            match role.strip_prefix(name) {
                Some("") => scope.any = true,
                Some(rest) => {
                    if let Some(pattern) = rest.strip_prefix('.') {
                        scope.add_pattern(pattern);
                    }
                }
                None => {}
            }
        }
        let (scope, rest) = if let Some(rest) = role.strip_prefix("webpubsub.joinLeaveGroup") {
            (&mut self.join_leave, rest)
        } else if let Some(rest) = role.strip_prefix("webpubsub.sendToGroup") {
            (&mut self.send, rest)
        } else {
            return;
        };
        if rest.is_empty() {
            scope.any = true;
        } else if let Some(group) = rest.strip_prefix('.') {
            scope.add_literal(group);
        } else if let Some(pattern) = rest.strip_prefix("s.") {
            scope.add_pattern(pattern);
        }
    }

    /// Allows one group during the connection, whether it was revoked before or not. False: the
    /// limit of single groups is reached.
    pub(crate) fn grant(&mut self, permission: Permission, group: &str) -> bool {
        let scope = self.scope(permission);
        scope.denied.remove(group);
        scope.allows(group) || scope.add_literal(group)
    }

    /// Denies one group, also under a role that covers it. False: the limit of single groups is
    /// reached.
    pub(crate) fn revoke(&mut self, permission: Permission, group: &str) -> bool {
        let scope = self.scope(permission);
        scope.literals.remove(group);
        if scope.allows(group) {
            if scope.denied.len() >= MAX_LITERALS {
                return false;
            }
            scope.denied.insert(group.to_owned());
        }
        true
    }

    /// May join and leave this group.
    pub(crate) fn may_join_leave(&self, group: &str) -> bool {
        self.join_leave.allows(group)
    }

    /// May publish to this group.
    pub(crate) fn may_send(&self, group: &str) -> bool {
        self.send.allows(group)
    }

    /// May set and clear its own state in this group.
    pub(crate) fn may_set_state(&self, group: &str) -> bool {
        self.set_state.allows(group)
    }

    /// May follow the states in this group.
    pub(crate) fn may_get_state(&self, group: &str) -> bool {
        self.get_state.allows(group)
    }

    fn scope(&mut self, permission: Permission) -> &mut Scope {
        match permission {
            Permission::JoinLeaveGroup => &mut self.join_leave,
            Permission::SendToGroup => &mut self.send,
        }
    }
}

/// The groups that one permission covers.
#[derive(Debug, Default)]
struct Scope {
    any: bool,
    /// Group names; those of patterns without a wildcard too.
    literals: HashSet<String>,
    patterns: Vec<Pattern>,
    /// Revoked ones that the rest would allow.
    denied: HashSet<String>,
}

impl Scope {
    /// False if the group is not covered then.
    fn add_literal(&mut self, group: &str) -> bool {
        if rules::group(group).is_ok() && self.literals.len() < MAX_LITERALS {
            self.literals.insert(group.to_owned());
        }
        self.literals.contains(group)
    }

    fn add_pattern(&mut self, text: &str) {
        let pattern = match Pattern::parse(text) {
            Some(Parsed::Wildcard(pattern)) => pattern,
            Some(Parsed::Literal(group)) => {
                self.add_literal(&group);
                return;
            }
            None => return,
        };
        if self.patterns.len() < MAX_PATTERNS && !self.patterns.contains(&pattern) {
            self.patterns.push(pattern);
        }
    }

    fn allows(&self, group: &str) -> bool {
        let covered = self.any
            || self.literals.contains(group)
            || self.patterns.iter().any(|p| p.matches(group));
        covered && !self.denied.contains(group)
    }
}

/// A pattern with at least one wildcard.
#[derive(Debug, PartialEq, Eq)]
struct Pattern(Vec<Token>);

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Char(char),
    /// `?`: one character but not `.`
    One,
    /// `*`: any run without `.`
    Run,
    /// `**`: any run
    DottedRun,
}

enum Parsed {
    Literal(String),
    Wildcard(Pattern),
}

impl Pattern {
    fn parse(text: &str) -> Option<Parsed> {
        if rules::is_longer_than_a_group(text) {
            return None;
        }
        let mut tokens = Vec::new();
        let mut stars = 0;
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '?' => Token::One,
                '*' if chars.next_if_eq(&'*').is_some() => {
                    stars += 2;
                    Token::DottedRun
                }
                '*' => {
                    stars += 1;
                    Token::Run
                }
                '\\' => Token::Char(chars.next().filter(|c| matches!(c, '\\' | '*' | '?'))?),
                c => Token::Char(c),
            });
        }
        if stars > MAX_STARS {
            return None;
        }
        let literal = |token: &Token| match token {
            Token::Char(c) => Some(*c),
            _ => None,
        };
        Some(match tokens.iter().map(literal).collect() {
            Some(group) => Parsed::Literal(group),
            None => Parsed::Wildcard(Self(tokens)),
        })
    }

    /// Dynamic programming, one row per character of the group: `row[i]` says whether the first
    /// `i` tokens match the characters so far.
    fn matches(&self, group: &str) -> bool {
        let mut row = vec![false; self.0.len() + 1];
        row[0] = true;
        for (i, token) in self.0.iter().enumerate() {
            row[i + 1] = row[i] && matches!(token, Token::Run | Token::DottedRun);
        }
        for c in group.chars() {
            // The old value of `row[i]`, which the new one has overwritten.
            let mut before = std::mem::take(&mut row[0]);
            for (i, token) in self.0.iter().enumerate() {
                let matched = match token {
                    Token::Char(t) => before && *t == c,
                    Token::One => before && c != '.',
                    Token::Run => row[i] || (row[i + 1] && c != '.'),
                    Token::DottedRun => row[i] || row[i + 1],
                };
                before = std::mem::replace(&mut row[i + 1], matched);
            }
        }
        row[self.0.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, group: &str) -> bool {
        Grants::new([format!("webpubsub.sendToGroups.{pattern}")]).may_send(group)
    }

    #[test]
    fn plain_roles_grant_their_own_permission_only() {
        let none = Grants::new::<[&str; 0]>([]);
        assert!(!none.may_join_leave("a") && !none.may_send("a"));
        let join = Grants::new(["webpubsub.joinLeaveGroup"]);
        assert!(join.may_join_leave("a.b") && !join.may_send("a.b"));
        let send = Grants::new(["webpubsub.sendToGroup"]);
        assert!(!send.may_join_leave("a") && send.may_send("a"));
        let one = Grants::new(["webpubsub.joinLeaveGroup.a.*", "webpubsub.sendToGroup.b"]);
        assert!(one.may_join_leave("a.*") && !one.may_join_leave("a.b"));
        assert!(one.may_send("b") && !one.may_send("B") && !one.may_send("b.c"));
    }

    #[test]
    fn the_roles_for_states_have_groups_and_patterns_under_one_name() {
        let set = Grants::new(["webpubsub.setGroupState"]);
        assert!(set.may_set_state("a") && !set.may_get_state("a") && !set.may_send("a"));
        let get = Grants::new(["webpubsub.getGroupState.a.*", "webpubsub.getGroupState.b"]);
        assert!(get.may_get_state("a.x") && get.may_get_state("b") && !get.may_get_state("bb"));
        assert!(!get.may_set_state("a.x"));
        let literal = Grants::new([r"webpubsub.setGroupState.a\*"]);
        assert!(literal.may_set_state("a*") && !literal.may_set_state("ab"));
        let odd = Grants::new(["webpubsub.setGroupStates.a", "webpubsub.setGroupState."]);
        assert!(!odd.may_set_state("a") && !odd.may_set_state(""));
    }

    #[test]
    fn patterns_match_by_the_rules() {
        for (pattern, yes, no) in [
            (
                "chat-*",
                &["chat-1", "chat-", "chat-a*b"][..],
                &["chat.1", "xchat-1", "chat-1.2"][..],
            ),
            ("a.*", &["a.x", "a."], &["a.x.y", "b.x", "a", "A.x"]),
            ("a.**", &["a.x", "a.x.y", "a."], &["b.x", "a"]),
            ("a.?1", &["a.x1", "a.11", "a.é1"], &["a.1", "a..1", "a.xy1"]),
            (r"l\*s", &["l*s"], &["lXs", r"l\*s"]),
            (r"\?\\*", &[r"?\", r"?\x"], &[r"x\", "?"]),
            ("**", &["a", "a.b.c", "."], &[]),
            ("*", &["a", "é"], &["a.b", "."]),
            ("***", &["a", "a.b"], &[]),
            ("*.x", &["a.x", ".x"], &["a.b.x", "x"]),
            ("**.x", &["a.x", "a.b.x", ".x"], &["x", "a.x.y"]),
            ("**b*", &["b", "a.b", "ab.bc", "bb"], &["b.", "a"]),
            ("*a*b*", &["ab", "xaxbx", "aab"], &["ba", "a.b"]),
            ("?", &["a", "é"], &["", ".", "ab"]),
            ("plain", &["plain"], &["plai", "plainx"]),
        ] {
            for group in yes {
                assert!(matches(pattern, group), "{pattern} should match {group}");
            }
            for group in no {
                assert!(!matches(pattern, group), "{pattern} should not match {group}");
            }
        }
    }

    #[test]
    fn invalid_patterns_and_unknown_roles_grant_nothing() {
        assert!(matches("*.*.*.*.*", "a.b.c.d.e"));
        assert!(!matches("*.*.*.*.*.*", "a.b.c.d.e.f"));
        assert!(!matches("***.***", "a.b"));
        assert!(matches(r"\******", "*a.b"), "an escaped star is none of the five");
        assert!(!matches(r"\*******", "*a.b"));
        assert!(matches(r"\*\*\*\*\*\*", "******"));
        assert!(!matches(r"a\b", "ab"));
        assert!(!matches(r"*\", "a"));
        assert!(matches(&"?".repeat(1024), &"a".repeat(1024)));
        assert!(!matches(&format!("**{}", "?".repeat(1023)), &"a".repeat(1023)));
        assert!(matches(&format!("{}*", "🎉".repeat(511)), &"🎉".repeat(512)));
        assert!(!matches(&format!("{}*", "🎉".repeat(512)), &"🎉".repeat(512)));
        let odd = Grants::new([
            "",
            "admin",
            "webpubsub.sendToGroup.",
            "webpubsub.sendToGroups",
            "webpubsub.sendToGroups.",
            "webpubsub.sendToGroupX",
            "Webpubsub.sendToGroup",
        ]);
        assert!(!odd.may_send("a") && !odd.may_send("") && !odd.may_send("X"));
    }

    #[test]
    fn limits_count_literals_and_patterns_apart() {
        let literals = (0..1001).map(|i| format!("webpubsub.sendToGroup.l{i}"));
        let patterns = (0..10).map(|i| format!("webpubsub.sendToGroups.p{i}.*"));
        let grants = Grants::new(literals.chain(patterns));
        assert!(grants.may_send("l999") && !grants.may_send("l1000"));
        assert!(grants.may_send("p8.x") && !grants.may_send("p9.x"));
    }

    #[test]
    fn a_revoked_group_is_denied_under_every_role_until_it_is_granted() {
        for role in
            ["webpubsub.sendToGroup", "webpubsub.sendToGroup.a", "webpubsub.sendToGroups.a*"]
        {
            let mut grants = Grants::new([role]);
            for _ in 0..2 {
                assert!(grants.revoke(Permission::SendToGroup, "a"));
                assert!(!grants.may_send("a"), "{role}");
            }
            assert_eq!(grants.may_send("ab"), !role.ends_with('a'), "{role}");
            assert!(grants.grant(Permission::SendToGroup, "a") && grants.may_send("a"), "{role}");
        }
    }

    #[test]
    fn one_group_at_a_time_is_granted_and_revoked_by_its_literal_name() {
        let mut grants = Grants::new(["webpubsub.sendToGroup.b"]);
        assert!(grants.grant(Permission::JoinLeaveGroup, "a*"));
        assert!(grants.may_join_leave("a*") && !grants.may_join_leave("ab"));
        assert!(!grants.may_send("a*"), "the other permission is not touched");
        assert!(grants.revoke(Permission::SendToGroup, "*") && grants.may_send("b"));
        assert!(grants.revoke(Permission::JoinLeaveGroup, "a*"));
        assert!(!grants.may_join_leave("a*"));
    }

    #[test]
    fn single_groups_are_bounded_and_room_is_made_by_the_opposite_call() {
        let (mut few, mut all) = (Grants::default(), Grants::new(["webpubsub.sendToGroup"]));
        let send = Permission::SendToGroup;
        for i in 0..1000 {
            assert!(few.grant(send, &format!("g{i}")) && all.revoke(send, &format!("g{i}")));
        }
        assert!(!few.grant(send, "more") && !few.may_send("more"));
        assert!(!all.revoke(send, "more") && all.may_send("more"));
        assert!(few.grant(send, "g0") && all.revoke(send, "g0"));
        assert!(few.revoke(send, "g0") && few.grant(send, "more") && few.may_send("more"));
        assert!(all.grant(send, "g0") && all.revoke(send, "more") && !all.may_send("more"));
    }

    #[test]
    fn the_worst_pattern_is_not_slow() {
        let pattern = format!("{0}*{0}*{0}*{0}*{0}*b", "a".repeat(200));
        // 1,048,576 steps; a matcher that tries every split would not end.
        assert!(!matches(&pattern, &"a".repeat(1024)));
    }
}
