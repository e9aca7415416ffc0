//! States in groups, over real sockets and every subprotocol.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use webpubsub::crossbeam_channel::bounded;
use webpubsub::emulator::Emulator;
use webpubsub::{
    ClearGroupState, Client, ClientAccess, ClientBuilder, ErrorKind, Event, GroupStateChange,
    GroupStateMember, GroupStateWatch, Protocol, Reconnect, Recovery, Role, SetGroupState,
    UrlSource,
};

use crate::support::{WATCHDOG, emulator, eventually, protocols, reliable_protocols, within};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn access() -> ClientAccess {
    ClientAccess::new()
        .role(Role::join_leave())
        .role(Role::set_group_state())
        .role(Role::get_group_state())
}

fn builder(emulator: &Emulator, user: &str, protocol: Protocol) -> ClientBuilder {
    let url = emulator.url_for("hub", &access().user_id(user)).expect("URL");
    Client::builder(url)
        .protocol(protocol)
        .reconnect(Some(Reconnect::new().backoff(ms(10), ms(50))))
        .recovery(Recovery::new().attempt_interval(ms(20)))
}

fn member_of(emulator: &Emulator, user: &str, protocol: Protocol) -> Client {
    builder(emulator, user, protocol).connect().expect("connected")
}

fn next(watch: &GroupStateWatch) -> GroupStateChange {
    watch.recv_timeout(WATCHDOG).expect("open").expect("watchdog: no change")
}

/// The next change, which must be a state.
fn set(watch: &GroupStateWatch) -> GroupStateMember {
    match next(watch) {
        GroupStateChange::Set(member) => member,
        other => panic!("{other:?}"),
    }
}

/// The users in a list, and what they have under the key `k`.
fn shown(members: &[GroupStateMember]) -> Vec<(String, String)> {
    let shown = members.iter().map(|member| {
        let user = member.user_id.as_deref().unwrap_or_default();
        (user.to_owned(), member.state.get("k").cloned().unwrap_or_default())
    });
    let mut shown: Vec<_> = shown.collect();
    shown.sort();
    shown
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

#[test]
fn who_watches_sees_each_state_until_it_is_gone() {
    for protocol in protocols() {
        let emulator = emulator();
        let anna = member_of(&emulator, "anna", protocol);
        let bob = member_of(&emulator, "bob", protocol);
        anna.join_group("g").expect("joined");
        anna.set_group_state("g", [("k", "1"), ("other", "")]).expect("set");
        let watch = bob.watch_group_state("g").expect("watched");
        assert_eq!(watch.group(), "g");
        assert_eq!(shown(&watch.members()), pairs(&[("anna", "1")]));
        assert!(!watch.is_truncated());
        assert_eq!(watch.try_recv().expect("open"), None);

        // One's own too: a watch is a member.
        bob.set_group_state("g", [("k", "2")]).expect("set");
        let member = set(&watch);
        assert_eq!(Some(member.connection_id), bob.connection_id());
        assert_eq!(member.user_id.as_deref(), Some("bob"));
        assert!(member.updated_at.elapsed().expect("not in the future") < WATCHDOG);
        assert_eq!(shown(&watch.members()), pairs(&[("anna", "1"), ("bob", "2")]));

        // It is replaced as a whole; cleared is something else than empty.
        let nothing: [(&str, &str); 0] = [];
        anna.set_group_state("g", nothing).expect("set");
        let member = set(&watch);
        assert!(member.state.is_empty());
        anna.call(SetGroupState::new("g", [("k", "3")]).timeout(WATCHDOG)).expect("set");
        set(&watch);
        anna.clear_group_state("g").expect("cleared");
        let GroupStateChange::Cleared(member) = next(&watch) else { panic!("cleared") };
        assert_eq!(shown(&[member]), pairs(&[("anna", "3")]));

        // By leaving, and by going.
        anna.set_group_state("g", [("k", "4")]).expect("set");
        set(&watch);
        anna.leave_group("g").expect("left");
        assert!(matches!(next(&watch), GroupStateChange::Cleared(_)));
        bob.start(ClearGroupState::new("g")).expect("started").wait().expect("cleared");
        assert!(matches!(next(&watch), GroupStateChange::Cleared(_)));
        assert_eq!(watch.members(), []);
        anna.join_group("g").expect("joined");
        anna.set_group_state("g", [("k", "5")]).expect("set");
        set(&watch);
        anna.close().expect("closed");
        assert!(matches!(next(&watch), GroupStateChange::Cleared(_)));
        assert_eq!(bob.stats().malformed, 0);
    }
}

#[test]
fn changes_are_merged_however_slowly_they_are_read() {
    for protocol in protocols() {
        let emulator = emulator();
        let anna = member_of(&emulator, "anna", protocol);
        let bob = member_of(&emulator, "bob", protocol);
        let watch = bob.watch_group_state("g").expect("watched");
        anna.join_group("g").expect("joined");
        let states = (0..300).map(|n| SetGroupState::new("g", [("k", n.to_string())]));
        assert_eq!(anna.call_all(states).expect("all set"), 300);
        eventually("the last state", || shown(&watch.members()) == pairs(&[("anna", "299")]));
        let member = set(&watch);
        assert_eq!(shown(&[member]), pairs(&[("anna", "299")]));
        assert_eq!(watch.try_recv().expect("open"), None);
        // What came and went unseen is no change at all.
        let carl = member_of(&emulator, "carl", protocol);
        carl.join_group("g").expect("joined");
        carl.set_group_state("g", [("k", "x")]).expect("set");
        carl.clear_group_state("g").expect("cleared");
        anna.set_group_state("g", [("k", "last")]).expect("set");
        eventually("the last state", || shown(&watch.members()) == pairs(&[("anna", "last")]));
        let member = set(&watch);
        assert_eq!(shown(&[member]), pairs(&[("anna", "last")]));
        assert_eq!(watch.try_recv().expect("open"), None);
    }
}

#[test]
fn an_update_that_overtakes_the_list_wins() {
    for protocol in protocols() {
        within(WATCHDOG, move || {
            let emulator = emulator();
            let anna = member_of(&emulator, "anna", protocol);
            let bob = member_of(&emulator, "bob", protocol);
            anna.join_group("g").expect("joined");
            anna.set_group_state("g", [("k", "old")]).expect("set");
            emulator.faults().hold_group_state_snapshots(true);
            let watching = {
                let bob = bob.clone();
                thread::spawn(move || bob.watch_group_state("g").expect("watched"))
            };
            // The request of the watch is its second call.
            eventually("asked for", || bob.stats().calls_acked == 2);
            assert!(!watching.is_finished(), "there is no list yet");
            anna.set_group_state("g", [("k", "new")]).expect("set");
            emulator.faults().hold_group_state_snapshots(false);
            let watch = watching.join().expect("watched");
            assert_eq!(shown(&watch.members()), pairs(&[("anna", "new")]));
            assert_eq!(watch.try_recv().expect("open"), None);
        });
    }
}

#[test]
fn a_list_that_does_not_come_is_waited_for_within_the_limit() {
    let emulator = emulator();
    let builder = builder(&emulator, "bob", Protocol::ReliableJson).call_timeout(ms(200));
    let bob = builder.connect().expect("connected");
    emulator.faults().hold_group_state_snapshots(true);
    let error = bob.watch_group_state("g").expect_err("no list");
    assert!(error.is_timeout() && error.may_have_been_delivered());
    assert!(error.to_string().contains("no list"), "{error}");
    // Everything is taken back.
    eventually("left", || bob.groups().is_empty());
}

#[test]
fn a_recovered_session_misses_nothing() {
    for protocol in reliable_protocols(true) {
        let emulator = emulator();
        let anna = member_of(&emulator, "anna", protocol);
        let bob = member_of(&emulator, "bob", protocol);
        anna.join_group("g").expect("joined");
        let watch = bob.watch_group_state("g").expect("watched");
        assert!(emulator.faults().drop_connection(&bob.connection_id().expect("connected")));
        anna.set_group_state("g", [("k", "1")]).expect("set");
        let member = set(&watch);
        assert_eq!(shown(&[member]), pairs(&[("anna", "1")]));
        eventually("recovered", || bob.stats().recoveries == 1);
        assert_eq!(bob.stats().reconnects, 0);
        // What comes again is no change.
        assert_eq!(watch.try_recv().expect("open"), None);
        // The numbers of such messages are acknowledged as all others are.
        assert!(emulator.wait_until(WATCHDOG, |stats| stats.sequence_acks > 0), "no sequence ack");
    }
}

#[test]
fn a_new_connection_watches_again_and_sets_the_own_state_again() {
    for protocol in protocols() {
        let emulator = emulator();
        let anna = member_of(&emulator, "anna", protocol);
        let bob = member_of(&emulator, "bob", protocol);
        let watch = bob.watch_group_state("g").expect("watched");
        anna.join_group("g").expect("joined");
        anna.set_group_state("g", [("k", "1")]).expect("set");
        bob.set_group_state("g", [("k", "2")]).expect("set");
        for _ in 0..2 {
            set(&watch);
        }
        let old = bob.connection_id();
        emulator.faults().close_connections(1011, "again");
        // Until then Anna may be seen to go.
        while next(&watch) != GroupStateChange::Replaced {}
        let both = pairs(&[("anna", "1"), ("bob", "2")]);
        eventually("both states", || {
            while watch.try_recv().expect("open").is_some() {}
            shown(&watch.members()) == both && emulator.group_states("hub", "g").len() == 2
        });
        assert_ne!(bob.connection_id(), old);
        // And it goes on.
        anna.set_group_state("g", [("k", "3")]).expect("set");
        while shown(&[set(&watch)]) != pairs(&[("anna", "3")]) {}
        // What was cleared stays so.
        anna.clear_group_state("g").expect("cleared");
        emulator.faults().close_connections(1011, "again");
        eventually("only one state", || {
            while watch.try_recv().expect("open").is_some() {}
            anna.stats().reconnects == 2
                && bob.stats().reconnects == 2
                && anna.groups().len() == 1
                && emulator.group_states("hub", "g").len() == 1
                && shown(&watch.members()) == pairs(&[("bob", "2")])
        });
        anna.ping().expect("alive");
        assert_eq!(emulator.group_states("hub", "g").len(), 1);
    }
}

#[test]
fn a_missing_role_or_membership_is_named() {
    for protocol in protocols() {
        let emulator = emulator();
        let url = |access: &ClientAccess| emulator.url_for("hub", access).expect("URL");
        let connect = |access: &ClientAccess| {
            Client::builder(url(access)).protocol(protocol).connect().expect("connected")
        };
        let joins = ClientAccess::new().role(Role::join_leave());
        let client = connect(&joins);
        client.join_group("g").expect("joined");
        for error in [
            client.set_group_state("g", [("k", "v")]).expect_err("no role"),
            client.clear_group_state("g").expect_err("no role"),
        ] {
            assert_eq!(error.service_error_name(), Some("Forbidden"));
            assert!(error.is_refused());
            assert!(error.to_string().contains("`webpubsub.setGroupState.g`"), "{error}");
        }
        let error = client.watch_group_state("g").expect_err("no role");
        assert_eq!(error.service_error_name(), Some("Forbidden"));
        assert!(error.to_string().contains("`webpubsub.getGroupState.g`"), "{error}");
        let error = client.watch_group_state("h").expect_err("no role");
        assert!(error.to_string().contains("`webpubsub.getGroupState.h`"), "{error}");
        eventually("left again", || client.groups().len() == 1);

        let states =
            ClientAccess::new().role(Role::set_group_state()).role(Role::get_group_state());
        let client = connect(&states);
        let error = client.set_group_state("g", [("k", "v")]).expect_err("no member");
        assert!(error.to_string().contains("must be a member"), "{error}");
        let error = client.watch_group_state("g").expect_err("no role to join");
        assert!(error.to_string().contains("`webpubsub.joinLeaveGroup.g`"), "{error}");
    }
}

#[test]
fn what_the_service_would_not_take_is_refused_here() {
    let emulator = emulator();
    let client = member_of(&emulator, "anna", Protocol::ReliableJson);
    client.join_group("g").expect("joined");
    client.set_group_state("g", [("é".repeat(6), "x".repeat(500))]).expect("512 bytes");
    let error = client.set_group_state("g", [("é".repeat(6), "x".repeat(501))]).expect_err("513");
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    let says = "at most 512 bytes in all, not 513";
    assert!(error.to_string().contains(says), "{error}");
    for error in [
        client.set_group_state(" ", [("k", "v")]).expect_err("blank"),
        client.clear_group_state("").expect_err("blank"),
        client.watch_group_state("").expect_err("blank"),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        assert!(error.to_string().contains("group name"), "{error}");
    }
    let state = emulator.group_states("hub", "g");
    assert_eq!(state.values().next().expect("still set")["é".repeat(6).as_str()].len(), 500);
}

#[test]
fn a_watch_holds_its_group_and_its_drop_gives_it_up() {
    for protocol in protocols() {
        let emulator = emulator();
        let anna = member_of(&emulator, "anna", protocol);
        let bob = member_of(&emulator, "bob", protocol);
        let watch = bob.watch_group_state("g").expect("watched");
        let error = bob.leave_group("g").expect_err("it is held");
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        assert!(error.to_string().contains("a watch of its states"), "{error}");
        bob.set_group_state("g", [("k", "1")]).expect("set");
        drop(watch);
        eventually("left", || {
            bob.groups().is_empty() && emulator.group_states("hub", "g").is_empty()
        });

        // Where something else holds the group, only the watch ends.
        bob.join_group("g").expect("joined");
        let (first, second) = (bob.watch_group_state("g"), bob.watch_group_state("g"));
        let (first, second) = (first.expect("watched"), second.expect("watched"));
        // The list that was sent for the second one.
        assert_eq!(next(&first), GroupStateChange::Replaced);
        drop(first);
        anna.join_group("g").expect("joined");
        anna.set_group_state("g", [("k", "1")]).expect("set");
        assert!(matches!(next(&second), GroupStateChange::Set(_)));
        let unsubscribed = || {
            let frames = emulator.frames().into_iter();
            frames
                .filter(|frame| {
                    let text = String::from_utf8_lossy(&frame.bytes);
                    // Protobuf: field 17, its length, and the group.
                    text.contains("unsubscribeGroupState") || frame.bytes.starts_with(b"\x8a\x01")
                })
                .count()
        };
        assert_eq!(unsubscribed(), 0);
        drop(second);
        eventually("told", || unsubscribed() == 1);
        assert_eq!(bob.groups().len(), 1);
    }
}

/// 200 members are what a list has at most, and there is no sign that some are missing.
#[test]
fn a_list_that_may_be_cut_off_says_so() {
    let emulator = emulator();
    let bob = member_of(&emulator, "bob", Protocol::ReliableJson);
    let watch = bob.watch_group_state("g").expect("watched");
    for (length, truncated) in [(200, true), (199, false)] {
        let item = |n: usize| json!({"connectionId": format!("c{n}"), "state": {}, "updatedAt": n});
        let items: Vec<Value> = (0..length).map(item).collect();
        let list = json!({"type": "groupStateSnapshot", "group": "g", "items": items});
        emulator.faults().send_raw_text(None, &list.to_string());
        assert_eq!(next(&watch), GroupStateChange::Replaced);
        assert_eq!((watch.members().len(), watch.is_truncated()), (length, truncated));
    }
}

/// The token of the second connection grants less.
#[test]
fn a_watch_that_a_new_connection_cannot_have_ends() {
    for (second, says) in [
        (ClientAccess::new().role(Role::join_leave()), "webpubsub.getGroupState.g"),
        (ClientAccess::new(), "webpubsub.joinLeaveGroup.g"),
    ] {
        let emulator = emulator();
        let urls = [access(), second].map(|access| emulator.url_for("hub", &access).expect("URL"));
        let asked = AtomicUsize::new(0);
        let source = UrlSource::provider(move |_| {
            let n = asked.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>(urls[n.min(1)].clone())
        });
        let backoff = Reconnect::new().backoff(ms(10), ms(50));
        let client = Client::builder(source).reconnect(Some(backoff)).connect().expect("connected");
        let watch = client.watch_group_state("g").expect("watched");
        client.set_group_state("g", [("k", "v")]).expect("set");
        set(&watch);
        emulator.faults().close_connections(1011, "again");
        let error = loop {
            match watch.recv_timeout(WATCHDOG) {
                Ok(change) => assert!(change.is_some(), "watchdog"),
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(watch.members().len(), 1, "what was known last");
        client.ping().expect("the client goes on");
    }
}

#[test]
fn close_ends_a_watch_and_who_waits_there() {
    within(WATCHDOG, || {
        let emulator = emulator();
        let bob = member_of(&emulator, "bob", Protocol::ReliableJson);
        let watch = bob.watch_group_state("g").expect("watched");
        bob.set_group_state("g", [("k", "v")]).expect("set");
        let (read, has_read) = bounded(1);
        thread::scope(|scope| {
            let reading = scope.spawn(|| {
                assert!(matches!(watch.recv().expect("a change"), GroupStateChange::Set(_)));
                read.send(()).expect("heard");
                watch.recv().expect_err("the end")
            });
            has_read.recv_timeout(WATCHDOG).expect("watchdog");
            bob.close().expect("closed");
            assert!(reading.join().expect("no panic").is_closed());
        });
        assert!(watch.try_recv().expect_err("the end").is_closed());
        assert!(bob.watch_group_state("g").expect_err("closed").is_closed());
        assert!(bob.set_group_state("g", [("k", "v")]).expect_err("closed").is_closed());
    });
}

#[test]
fn on_wake_is_called_for_a_change_and_for_the_end() {
    let emulator = emulator();
    let (wake, wakes) = bounded(1);
    let builder = builder(&emulator, "bob", Protocol::ReliableJson);
    let bob = builder.on_wake(move || {
        let _ = wake.try_send(());
    });
    let bob = bob.connect().expect("connected");
    let watch = bob.watch_group_state("g").expect("watched");
    let anna = member_of(&emulator, "anna", Protocol::ReliableJson);
    anna.join_group("g").expect("joined");
    let end = Instant::now() + WATCHDOG;
    for n in 0..200 {
        let state = n.to_string();
        anna.set_group_state("g", [("k", &*state)]).expect("set");
        loop {
            match watch.try_recv().expect("open") {
                Some(GroupStateChange::Set(member)) if member.state["k"] == state => break,
                Some(_) => {}
                None => wakes.recv_deadline(end).expect("watchdog: no wake-up"),
            }
        }
    }
    emulator.faults().close_connections(1011, "again");
    while watch.try_recv().expect("open") != Some(GroupStateChange::Replaced) {
        wakes.recv_deadline(end).expect("watchdog: no wake-up");
    }
}

/// A program that reads no events has its states all the same, whatever is published to the group.
#[test]
fn messages_of_the_group_do_not_hold_it_up() {
    let emulator = emulator();
    let bob = member_of(&emulator, "bob", Protocol::ReliableJson);
    let watch = bob.watch_group_state("g").expect("watched");
    let anna = member_of(&emulator, "anna", Protocol::ReliableJson);
    anna.join_group("g").expect("joined");
    for n in 0..2_000 {
        emulator.send_to_group("hub", "g", n.to_string()).expect("sent");
        // The service ends a connection for which too much waits.
        if n % 500 == 499 {
            eventually("received", || bob.stats().messages_in == n + 1);
        }
    }
    anna.set_group_state("g", [("k", "v")]).expect("set");
    set(&watch);
    assert_eq!(bob.stats().reconnects, 0);
    assert!(bob.stats().dropped > 0, "more than the event queue takes");
    let messages = bob.events().try_iter().filter(|e| matches!(e, Event::GroupMessage(_)));
    assert!(messages.count() > 0, "they come to the event queue");
}
