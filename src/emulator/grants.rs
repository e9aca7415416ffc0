//! What a connection may do with groups, from its roles.
//!
//! Invariants: a role that is unknown, malformed or above a limit grants nothing and is no error,
//! because the service drops such roles without a word; a check costs at most pattern length times
//! group length, whatever the pattern.

use std::collections::HashSet;

/// Limits of the service, for joining and for sending each.
const MAX_LITERALS: usize = 1000;
const MAX_PATTERNS: usize = 9;
const MAX_STARS: usize = 5;
const MAX_CHARS: usize = 1024;

/// The group permissions of one connection.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    join_leave: Permission,
    send: Permission,
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
            grants.add(role.as_ref());
        }
        grants
    }

    /// Adds a role during the connection.
    pub(crate) fn add(&mut self, role: &str) {
        if let Some((permission, scope)) = self.locate(role) {
            permission.add(scope);
        }
    }

    /// Takes a role away. Others that allow the same stay in force.
    pub(crate) fn remove(&mut self, role: &str) {
        if let Some((permission, scope)) = self.locate(role) {
            permission.remove(scope);
        }
    }

    /// May join and leave this group.
    pub(crate) fn may_join_leave(&self, group: &str) -> bool {
        self.join_leave.allows(group)
    }

    /// May publish to this group.
    pub(crate) fn may_send(&self, group: &str) -> bool {
        self.send.allows(group)
    }

    fn locate<'a>(&mut self, role: &'a str) -> Option<(&mut Permission, Scope<'a>)> {
        let (permission, rest) = if let Some(rest) = role.strip_prefix("webpubsub.joinLeaveGroup") {
            (&mut self.join_leave, rest)
        } else {
            (&mut self.send, role.strip_prefix("webpubsub.sendToGroup")?)
        };
        let scope = if rest.is_empty() {
            Scope::Any
        } else if let Some(group) = rest.strip_prefix('.') {
            Scope::Group(group)
        } else {
            Scope::Pattern(rest.strip_prefix("s.")?)
        };
        Some((permission, scope))
    }
}

/// What follows the permission's name in a role.
enum Scope<'a> {
    Any,
    Group(&'a str),
    Pattern(&'a str),
}

#[derive(Debug, Default)]
struct Permission {
    any: bool,
    /// Group names; those of patterns without a wildcard too.
    literals: HashSet<String>,
    patterns: Vec<Pattern>,
}

impl Permission {
    fn add(&mut self, scope: Scope<'_>) {
        match scope {
            Scope::Any => self.any = true,
            Scope::Group(group) => self.add_literal(group.to_owned()),
            Scope::Pattern(text) => match Pattern::parse(text) {
                Some(Parsed::Literal(group)) => self.add_literal(group),
                Some(Parsed::Wildcard(pattern)) => self.add_pattern(pattern),
                None => {}
            },
        }
    }

    fn add_literal(&mut self, group: String) {
        if !group.is_empty() && self.literals.len() < MAX_LITERALS {
            self.literals.insert(group);
        }
    }

    fn add_pattern(&mut self, pattern: Pattern) {
        if self.patterns.len() < MAX_PATTERNS && !self.patterns.contains(&pattern) {
            self.patterns.push(pattern);
        }
    }

    fn remove(&mut self, scope: Scope<'_>) {
        match scope {
            Scope::Any => self.any = false,
            Scope::Group(group) => {
                self.literals.remove(group);
            }
            Scope::Pattern(text) => match Pattern::parse(text) {
                Some(Parsed::Literal(group)) => {
                    self.literals.remove(&group);
                }
                Some(Parsed::Wildcard(pattern)) => self.patterns.retain(|p| *p != pattern),
                None => {}
            },
        }
    }

    fn allows(&self, group: &str) -> bool {
        self.any || self.literals.contains(group) || self.patterns.iter().any(|p| p.matches(group))
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
        if text.chars().count() > MAX_CHARS || text.matches('*').count() > MAX_STARS {
            return None;
        }
        let mut tokens = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '?' => Token::One,
                '*' if chars.next_if_eq(&'*').is_some() => Token::DottedRun,
                '*' => Token::Run,
                '\\' => Token::Char(chars.next().filter(|c| matches!(c, '\\' | '*' | '?'))?),
                c => Token::Char(c),
            });
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
        assert!(!matches(r"a\b", "ab"));
        assert!(!matches(r"*\", "a"));
        assert!(matches(&"?".repeat(1024), &"a".repeat(1024)));
        assert!(!matches(&format!("**{}", "?".repeat(1023)), &"a".repeat(1023)));
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
    fn roles_come_and_go_during_the_connection() {
        let mut grants = Grants::new(["webpubsub.sendToGroups.a.*"]);
        for role in ["webpubsub.sendToGroup.b", "webpubsub.sendToGroup", "webpubsub.sendToGroup"] {
            grants.add(role);
        }
        assert!(grants.may_send("c"));
        grants.remove("webpubsub.sendToGroup");
        assert!(!grants.may_send("c") && grants.may_send("b") && grants.may_send("a.x"));
        grants.remove("webpubsub.sendToGroup.b");
        grants.remove("webpubsub.sendToGroups.a.*");
        grants.remove("webpubsub.sendToGroups.a.*");
        assert!(!grants.may_send("b") && !grants.may_send("a.x"));
    }

    #[test]
    fn the_worst_pattern_is_not_slow() {
        let pattern = format!("{0}*{0}*{0}*{0}*{0}*b", "a".repeat(200));
        // 1,048,576 steps; a matcher that tries every split would not end.
        assert!(!matches(&pattern, &"a".repeat(1024)));
    }
}
