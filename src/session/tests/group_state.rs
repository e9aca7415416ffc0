//! The list of a watched group, and its changes.

use std::time::{Duration, Instant};

use super::secs;
use crate::message::Entries;
use crate::protocol::{Decoder, Downstream, Frame, Protocol};
use crate::session::group_state::{Change, GroupStates, Member};

struct Scene {
    states: GroupStates,
    now: Instant,
}

impl Scene {
    fn new() -> Self {
        Self { states: GroupStates::default(), now: Instant::now() }
    }

    /// Watched, with these in the first list.
    fn listed(items: &str) -> Self {
        let mut s = Self::new();
        s.list(items);
        assert_eq!(s.changes(), "");
        s
    }

    /// Words of `ID=VALUE@TIME`, or `ID@TIME` for one that is cleared.
    fn list(&mut self, items: &str) {
        match decode("groupStateSnapshot", items) {
            Downstream::GroupStateSnapshot { items, .. } => self.states.snapshot(self.now, items),
            other => panic!("{other:?}"),
        }
    }

    fn update(&mut self, items: &str) {
        match decode("groupStateUpdate", items) {
            Downstream::GroupStateUpdate { items, .. } => self.states.update(self.now, items),
            other => panic!("{other:?}"),
        }
    }

    fn members(&self) -> String {
        self.states.members().iter().map(shown).collect::<Vec<_>>().join(" ")
    }

    /// All changes that are to be told.
    fn changes(&mut self) -> String {
        let mut out = Vec::new();
        while self.states.has_change() {
            match self.states.next_change() {
                Some(Change::Set(member)) => out.push(format!("+{}", shown(&member))),
                Some(Change::Cleared(member)) => out.push(format!("-{}", shown(&member))),
                Some(Change::Replaced) => out.push("replaced".into()),
                None => panic!("it said that there is one"),
            }
        }
        assert_eq!(self.states.next_change(), None);
        out.join(" ")
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }
}

fn shown(member: &Member) -> String {
    assert_eq!(member.user_id, Some(format!("user {}", member.connection_id)));
    format!("{}={}", member.connection_id, member.state.get("v").cloned().unwrap_or_default())
}

/// As the service writes them.
fn decode(kind: &str, items: &str) -> Downstream {
    let items = items.split_whitespace().map(|item| {
        let (what, at) = item.split_once('@').unwrap();
        let (id, state) = match what.split_once('=') {
            Some((id, value)) => (id, format!(r#""state":{{"v":"{value}"}},"#)),
            None => (what, String::new()),
        };
        format!(r#"{{"connectionId":"{id}","userId":"user {id}",{state}"updatedAt":{at}}}"#)
    });
    let items = items.collect::<Vec<_>>().join(",");
    let frame = format!(r#"{{"type":"{kind}","group":"g","items":[{items}]}}"#);
    Decoder::new(Protocol::ReliableJson).decode(&Frame::Text(frame.into())).unwrap()
}

#[test]
fn a_list_and_updates_make_the_members() {
    let mut s = Scene::new();
    assert!(!s.states.is_listed());
    s.list("b=1@10 a=1@10");
    assert!(s.states.is_listed());
    assert_eq!(s.members(), "a=1 b=1");
    assert_eq!(s.changes(), "", "the first list is read by who asked for it");
    s.update("a=2@11 c=1@9");
    s.update("b@12");
    assert_eq!(s.members(), "a=2 c=1");
    assert_eq!(s.changes(), "+a=2 +c=1 -b=1");
    s.update("c=@13");
    assert_eq!(s.members(), "a=2 c=", "an empty state is a state");
}

#[test]
fn the_newest_counts_and_not_the_last() {
    let mut s = Scene::listed("a=new@20");
    s.update("a=old@19 a=same@20 a@20");
    assert_eq!((s.members(), s.changes()), ("a=new".into(), String::new()));
    s.update("a@30");
    s.update("a=late@29");
    assert_eq!((s.members(), s.changes()), (String::new(), "-a=new".into()));
}

#[test]
fn updates_before_the_first_list_are_merged_into_it() {
    let mut s = Scene::new();
    s.update("a=new@20 b@20 c=only@20");
    assert!(!s.states.has_change() && !s.states.is_listed());
    s.list("a=old@10 b=old@10 d=1@10");
    assert_eq!(s.members(), "a=new c=only d=1");
    assert_eq!(s.changes(), "");
}

#[test]
fn a_later_list_replaces_what_it_lacks_unless_that_is_newer() {
    let mut s = Scene::listed("a=1@10 b=1@10");
    s.update("c=1@20 d=1@20");
    s.wait(secs(299));
    s.update("d=2@30");
    s.list("a=2@25");
    assert_eq!(s.members(), "a=2 c=1 d=2");
    assert_eq!(s.changes(), "replaced");
    s.wait(secs(1));
    s.list("a=2@25");
    assert_eq!(s.members(), "a=2 d=2", "c was updated five minutes ago");
    // So are those that were cleared.
    s.update("d@40");
    s.list("a=2@25 d=2@30");
    assert_eq!(s.members(), "a=2");
    s.wait(secs(300));
    s.list("a=2@25");
    s.list("a=2@25 d=2@30");
    assert_eq!(s.members(), "a=2 d=2");
}

#[test]
fn changes_are_conflated_for_each_member() {
    let mut s = Scene::listed("a=1@1");
    s.update("b=1@2");
    s.update("a=2@3");
    s.update("b=2@4");
    s.update("a=3@5");
    assert_eq!(s.changes(), "+b=2 +a=3");
    // Set and cleared unseen: nothing. Cleared and set again: one change.
    s.update("c=1@6");
    s.update("c@7");
    s.update("a@8");
    s.update("a=4@9");
    s.update("b@10");
    assert_eq!(s.changes(), "+a=4 -b=2");
    s.update("b@11");
    assert_eq!(s.changes(), "", "it was cleared before");
}

#[test]
fn members_that_come_and_go_unseen_leave_nothing_behind() {
    let mut s = Scene::listed("");
    for n in 0..1_000 {
        s.update(&format!("c{n}=1@{}", 2 * n));
        s.update(&format!("c{n}@{}", 2 * n + 1));
    }
    assert_eq!(s.changes(), "");
    assert_eq!(s.members(), "");
    let debug = format!("{:?}", s.states);
    assert!(debug.len() < 100_000, "{} bytes are left", debug.len());
    // The last of the cleared ones are remembered, so that an older update changes nothing.
    s.update("c999=1@5");
    s.update("c800=1@5");
    assert_eq!(s.members(), "");
}

#[test]
fn a_list_that_may_be_cut_off_removes_nobody() {
    let mut s = Scene::listed("z=1@1");
    let many = |n: usize| (0..n).map(|i| format!("m{i:03}=1@2")).collect::<Vec<_>>().join(" ");
    s.list(&many(200));
    assert!(s.states.is_truncated());
    assert!(s.members().ends_with("z=1"));
    assert_eq!(s.changes(), "replaced");
    s.list(&many(199));
    assert!(!s.states.is_truncated());
    assert!(!s.members().contains("z=1") && !s.members().contains("m199"));
}

#[test]
fn after_a_new_connection_the_old_list_stays_until_there_is_a_new_one() {
    let mut s = Scene::listed("a=1@10 b=1@10");
    s.update("a=2@11");
    s.states.new_connection();
    assert_eq!(s.members(), "a=2 b=1");
    assert!(!s.states.is_listed());
    assert_eq!(s.changes(), "");
    s.update("c=1@5");
    assert_eq!(s.members(), "a=2 b=1");
    s.states.new_connection(); // and once more
    s.update("d=1@5");
    s.list("b=1@10");
    assert_eq!(s.members(), "b=1 d=1", "nothing is left of the connections before");
    assert_eq!(s.changes(), "replaced");
    s.update("b@12 d=2@12");
    assert_eq!(s.changes(), "-b=1 +d=2");
}

#[test]
fn a_change_behind_an_unread_replacement_is_part_of_it() {
    let mut s = Scene::listed("a=1@10");
    s.list("a=2@20 b=1@20");
    s.update("b@30 c=1@30");
    assert_eq!(s.states.next_change(), Some(Change::Replaced));
    assert_eq!(s.members(), "a=2 c=1");
    assert_eq!(s.changes(), "");
    s.update("c@40");
    assert_eq!(s.changes(), "-c=1");
}

#[test]
fn random_changes_end_in_what_the_service_has() {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    for seed in 0..100 {
        let mut rng = StdRng::seed_from_u64(seed);
        // The watch begins with the first list.
        let mut s = Scene::listed("");
        let mut truth: std::collections::BTreeMap<String, (i64, String)> = Default::default();
        // What a reader knows that has followed the changes alone.
        let mut known = Entries::new();
        let mut held: Vec<String> = Vec::new();
        for time in 1..200_i64 {
            let id = format!("m{}", rng.random_range(0..6));
            let item = match rng.random_bool(0.6) {
                true => {
                    truth.insert(id.clone(), (time, time.to_string()));
                    format!("{id}={time}@{time}")
                }
                false => {
                    truth.remove(&id);
                    format!("{id}@{time}")
                }
            };
            // Updates may be late, and so may lists.
            held.push(item);
            match rng.random_range(0..20) {
                0..2 => {
                    let list = truth.iter().map(|(id, (at, v))| format!("{id}={v}@{at}"));
                    s.list(&list.collect::<Vec<_>>().join(" "));
                }
                2..8 => {}
                8 => {
                    s.states.new_connection();
                    held.clear();
                    let list = truth.iter().map(|(id, (at, v))| format!("{id}={v}@{at}"));
                    s.list(&list.collect::<Vec<_>>().join(" "));
                }
                _ => std::mem::take(&mut held).iter().for_each(|item| s.update(item)),
            }
            if rng.random_bool(0.2) {
                follow(&mut s, &mut known);
            }
        }
        held.iter().for_each(|item| s.update(item));
        follow(&mut s, &mut known);
        let truth: Entries = truth.into_iter().map(|(id, (_, value))| (id, value)).collect();
        assert_eq!(list(&s), truth, "seed {seed}");
        assert_eq!(known, truth, "seed {seed}");
    }
}

fn list(s: &Scene) -> Entries {
    s.states.members().into_iter().map(|m| (m.connection_id, m.state["v"].clone())).collect()
}

fn follow(s: &mut Scene, known: &mut Entries) {
    while let Some(change) = s.states.next_change() {
        match change {
            Change::Set(m) => {
                known.insert(m.connection_id, m.state["v"].clone());
            }
            Change::Cleared(m) => {
                assert!(known.remove(&m.connection_id).is_some(), "it was told of");
            }
            Change::Replaced => *known = list(s),
        }
    }
}
