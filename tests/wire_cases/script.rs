//! The case files: reading them, and deciding whether an answer is the recorded one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::value::RawValue;

use super::link::is_connected;
use super::notation::{expand, range_of};

/// A case: what a client does, and what the service was seen to answer.
pub(super) struct Case {
    /// `group: name`.
    pub(super) title: String,
    pub(super) steps: Vec<Step>,
    /// By link; without one, no answer is recorded and any will do.
    pub(super) recorded: BTreeMap<String, Vec<String>>,
}

pub(super) struct Step {
    /// The link's name; empty in a case with only one.
    pub(super) link: String,
    pub(super) verb: String,
    pub(super) rest: String,
}

/// What each link heard, in the order in which they were opened.
pub(super) type Answers = Vec<(String, Vec<String>)>;

pub(super) fn directory() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wire_cases"))
}

/// All cases, in the order of the files.
pub(super) fn load() -> Vec<Case> {
    let entries = fs::read_dir(directory().join("cases")).expect("the directory of the cases");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    let cases = files.iter().flat_map(|file| {
        let group = file.file_stem().unwrap_or_default().to_string_lossy();
        let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        parse(&group, &text)
    });
    cases.collect()
}

/// The titles of the cases in which the emulator is known to answer something else.
pub(super) fn load_known() -> Vec<String> {
    let text = fs::read_to_string(directory().join("known.txt")).expect("known.txt");
    let titles = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    titles.map(str::to_owned).collect()
}

fn parse(group: &str, text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix("case ") {
            let (title, recorded) = (format!("{group}: {name}"), BTreeMap::new());
            cases.push(Case { title, steps: Vec::new(), recorded });
            continue;
        }
        let case = cases.last_mut().unwrap_or_else(|| panic!("{group}: before any case: {line}"));
        parse_line(case, line.trim_start());
    }
    cases
}

/// `[link: ][1..3 ]verb[ rest]`.
fn parse_line(case: &mut Case, line: &str) {
    let is_name = |name: &&str| name.chars().all(|c| c.is_ascii_lowercase());
    let named = line.split_once(": ").filter(|(name, _)| is_name(name));
    let (link, line) = named.unwrap_or(("", line));
    let counted = line.split_once(' ').and_then(|(range, line)| Some((range_of(range)?, line)));
    let repeats = match counted {
        Some((range, line)) => range.map(|n| line.replace('#', &n.to_string())).collect(),
        None => vec![line.to_owned()],
    };
    for line in repeats {
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        if verb == "<" {
            let recorded = case.recorded.entry(link.to_owned()).or_default();
            let text = expand(rest, &|_| None);
            let text = String::from_utf8(text).expect("UTF-8");
            recorded.extend(Some(text).filter(|text| text != "(nothing)"));
        } else {
            let (link, verb, rest) = (link.to_owned(), verb.to_owned(), rest.to_owned());
            case.steps.push(Step { link, verb, rest });
        }
    }
}

impl Case {
    /// Whether as many answers have come on this link as are recorded.
    pub(super) fn is_complete(&self, link: &str, heard: &[String]) -> bool {
        let recorded = self.recorded.get(link);
        recorded.is_none_or(|recorded| compared(recorded, heard).count() >= recorded.len())
    }

    /// Whether this is what was recorded. A link for which nothing is recorded is not compared.
    pub(super) fn agrees(&self, answers: &Answers) -> bool {
        self.recorded.iter().all(|(link, recorded)| {
            let heard = answers.iter().find(|(name, _)| name == link);
            let heard = heard.map_or(&[][..], |(_, heard)| heard);
            compared(recorded, heard)
                .map(|line| plain(line))
                .eq(recorded.iter().map(|line| plain(line)))
        })
    }
}

/// What counts of the answers on a link: the way in only if it is a part of the record.
fn compared<'a>(recorded: &[String], heard: &'a [String]) -> impl Iterator<Item = &'a String> {
    let with_start = recorded.iter().any(|line| is_start(line));
    heard.iter().filter(move |line| with_start || !is_start(line))
}

/// The answer to the upgrade, or the first message of a session.
fn is_start(line: &str) -> bool {
    line.starts_with("101 ") || is_connected(line)
}

/// What is compared: JSON but for the order of the message's keys, and the refusal of an upgrade but
/// for its text.
fn plain(line: &str) -> String {
    if line.starts_with("HTTP ") {
        return line.chars().take("HTTP 400".len()).collect();
    }
    let Ok(json) = serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(line) else {
        return line.to_owned();
    };
    let fields = json.iter().map(|(key, raw)| format!("{key:?}:{raw}"));
    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
}

#[test]
fn only_what_means_the_same_is_equal() {
    let same = |a: &str, b: &str| plain(a) == plain(b);
    assert!(same(r#"{"a":"\u0027","b":{"d":1,"c":2}}"#, r#"{"b":{"d":1,"c":2},"a":"\u0027"}"#));
    assert!(!same(r#"{"a":1,"userId":null}"#, r#"{"a":1}"#));
    assert!(!same(r#"{"a":"\u0027"}"#, r#"{"a":"'"}"#));
    assert!(same(r#"{"a":[1e400,"\ud800"]}"#, r#"{"a":[1e400,"\ud800"]}"#));
    assert!(same("HTTP 401", "HTTP 401 The token is not valid."));
    assert!(!same("HTTP 401", "HTTP 400"));
    assert!(!same(r#"{"userId":""}"#, "{}"));
    assert!(!same(r#"{"a":{"userId":null}}"#, r#"{"a":{}}"#));
    assert!(!same(r#"{"a":1e400}"#, r#"{"a":null}"#));
    assert!(!same(r#"Close 1007 "x""#, r#"Close 1007 "y""#));
}

#[test]
fn a_case_is_read_from_its_lines() {
    let text = "# about\ncase a: b\n  old: open json\n  old: 1..2 > {\"n\":#}\n  \
                old: < {{x*2}}\n  < (nothing)\n\ncase c\n  >\n";
    let [first, second] = &parse("g", text)[..] else { panic!("two cases") };
    assert_eq!((&*first.title, &*second.title), ("g: a: b", "g: c"));
    let steps = first.steps.iter().map(|s| format!("{}|{}|{}", s.link, s.verb, s.rest));
    assert!(steps.eq(["old|open|json", "old|>|{\"n\":1}", "old|>|{\"n\":2}"]));
    assert_eq!((first.recorded["old"].len(), first.recorded[""].len()), (1, 0));
    let heard = |old: &[&str], other: &[&str]| {
        let lines = |lines: &[&str]| lines.iter().map(|l| (*l).to_owned()).collect();
        first.agrees(&vec![("old".to_owned(), lines(old)), (String::new(), lines(other))])
    };
    assert!(heard(&["101 json", "xx"], &[]));
    assert!(!heard(&["xx", "y"], &[]));
    assert!(!heard(&[], &[]));
    assert!(!heard(&["xx"], &["y"]));
    assert!(second.recorded.is_empty());
}
