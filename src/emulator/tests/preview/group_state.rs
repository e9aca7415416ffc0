use super::*;
use crate::emulator::virtual_service::Fault;

fn set(ack_id: u64, state: Value) -> Value {
    json!({"type": "setGroupState", "group": "g", "ackId": ack_id, "state": state})
}

fn clear(ack_id: u64) -> Value {
    json!({"type": "setGroupState", "group": "g", "ackId": ack_id})
}

fn follow(ack_id: u64) -> Value {
    json!({"type": "subscribeGroupState", "group": "g", "ackId": ack_id})
}

fn unfollow(ack_id: u64) -> Value {
    json!({"type": "unsubscribeGroupState", "group": "g", "ackId": ack_id})
}

fn leave() -> Value {
    json!({"type": "leaveGroup", "group": "g"})
}

/// `1 ok`, `1 NAME: text`; of states each member's `k`, or `-` if it is cleared, and the time.
fn short(peer: &Peer, of: &[&Peer]) -> Vec<String> {
    let member = |item: &Value| {
        let name = of.iter().position(|p| item["connectionId"] == *p.id).unwrap();
        let state = item["state"].as_object().map(|state| state.get("k"));
        let state = match state {
            None => "-".to_owned(),
            Some(k) => k.map_or("{}".to_owned(), |k| k.as_str().unwrap().to_owned()),
        };
        format!(" {name}={state}@{}", item["updatedAt"])
    };
    let shorten = |m: Value| {
        let items = || m["items"].as_array().unwrap().iter().map(member).collect::<String>();
        match m["type"].as_str().unwrap() {
            "groupStateUpdate" => format!("update{}", items()),
            "groupStateSnapshot" => format!("snapshot{}", items()),
            "ack" if m["success"] == true => format!("{} ok", m["ackId"]),
            "ack" => {
                let part = |field: &str| m["error"][field].as_str().unwrap().to_owned();
                format!("{} {}: {}", m["ackId"], part("name"), part("message"))
            }
            other => panic!("{other}"),
        }
    };
    peer.got().into_iter().map(shorten).collect()
}

fn two(service: &mut VirtualService) -> (Peer, Peer) {
    (Peer::member(service, Protocol::ReliableJson), Peer::member(service, Protocol::ReliableJson))
}

#[test]
fn followers_get_an_ack_a_snapshot_and_updates_the_setter_included() {
    let mut service = VirtualService::new(1, |m| m.started_at = ms(1_000_000));
    let (a, b) = two(&mut service);
    let of = [&a, &b];
    a.up(&mut service, ms(5), set(1, json!({"k": "v", "other": ""})));
    assert_eq!(short(&a, &of), ["1 ok"], "it does not follow");
    a.up(&mut service, ms(6), follow(2));
    b.up(&mut service, ms(6), follow(1));
    a.up(&mut service, ms(7), set(3, json!({"k": "w"})));
    assert_eq!(
        short(&a, &of),
        ["2 ok", "snapshot 0=v@1000005", "update 0=w@1000007", "3 ok"],
        "the update before its ack"
    );
    a.up(&mut service, ms(7), set(4, json!({})));
    a.up(&mut service, ms(9), clear(5));
    a.up(&mut service, ms(9), clear(6));
    let updates = ["0=w@1000007", "0={}@1000008", "0=-@1000009", "0=-@1000010"];
    let updates = updates.map(|update| format!("update {update}"));
    let got = short(&b, &of);
    assert_eq!(got[..2], ["1 ok", "snapshot 0=v@1000005"]);
    assert_eq!(got[2..], updates, "a time rises, and a clear is told though nothing was set");
    b.up(&mut service, ms(10), unfollow(2));
    a.up(&mut service, ms(10), set(7, json!({"k": "x"})));
    b.up(&mut service, ms(10), follow(3));
    b.up(&mut service, ms(10), follow(4));
    let again = ["2 ok", "3 ok", "snapshot 0=x@1000011", "4 ok", "snapshot 0=x@1000011"];
    assert_eq!(short(&b, &of), again);
    assert_eq!(service.group_states("g")[&a.id]["k"], "x");
    assert_eq!(service.stats().group_state_changes, 6);
}

#[test]
fn requests_are_checked_in_the_order_id_role_size_membership() {
    let mut service = VirtualService::new(1, |_| ());
    let peer = Peer::new(&mut service, Protocol::Json);
    let none =
        service.connect_with_roles(Some(Protocol::Json), None, &["webpubsub.joinLeaveGroup"]);
    let none = Peer::of(none);
    let big = json!({"ké": "v".repeat(510)});
    let fits = json!({"ké": "v".repeat(509)});
    for message in [set(1, big.clone()), follow(2), unfollow(3), set(1, fits.clone())] {
        none.up(&mut service, T0, message);
    }
    let forbidden = [
        "1 Forbidden: Permission denied.",
        "2 Forbidden: No permission to get states of group g.",
        "3 ok",
        "1 Duplicate: Message with ack-id: 1 has been processed",
    ];
    assert_eq!(short(&none, &[]), forbidden);
    for message in [set(1, big), set(2, fits.clone()), clear(3), follow(4), unfollow(5)] {
        peer.up(&mut service, T0, message);
    }
    let refused = [
        "1 BadRequest: State payload exceeds maximum size 512 bytes.",
        "2 Forbidden: Not a member of group.",
        "3 Forbidden: Not a member of group.",
        "4 Forbidden: Not a member of group g.",
        "5 ok",
    ];
    assert_eq!(short(&peer, &[]), refused);
    peer.join(&mut service, "g");
    for message in [set(2, fits.clone()), set(6, fits), unfollow(5)] {
        peer.up(&mut service, T0, message);
    }
    let got = short(&peer, &[]);
    assert_eq!(got[0], "2 Duplicate: Message with ack-id: 2 has been processed");
    assert_eq!((&*got[1], got[2].split(':').next()), ("6 ok", Some("5 Duplicate")));
    // Without an id every refusal is silent.
    none.up(&mut service, T0, json!({"type": "setGroupState", "group": "g", "state": {}}));
    none.up(&mut service, T0, json!({"type": "subscribeGroupState", "group": "g"}));
    assert_eq!(none.got(), Vec::<Value>::new());
}

#[test]
fn a_state_ends_with_the_membership_and_its_owner_is_not_told() {
    let mut service = VirtualService::new(1, |_| ());
    let (a, b) = two(&mut service);
    let of = [&a, &b];
    for peer in of {
        peer.up(&mut service, T0, follow(1));
    }
    a.up(&mut service, T0, set(2, json!({"k": "v"})));
    a.got();
    b.got();
    a.up(&mut service, ms(3), leave());
    a.join(&mut service, "g");
    b.up(&mut service, ms(4), set(2, json!({"k": "w"})));
    assert!(short(&a, &of).is_empty(), "it follows no more");
    assert_eq!(short(&b, &of), ["update 0=-@3", "update 1=w@4", "2 ok"]);
    a.up(&mut service, ms(5), follow(3));
    assert_eq!(short(&a, &of), ["3 ok", "snapshot 1=w@4"]);
    service.leave(ms(6), &b.id, "g");
    assert_eq!(short(&a, &of), ["update 1=-@6"], "removed by the app server");
    service.leave(ms(6), &a.id, "g");
    assert!(service.group_states("g").is_empty() && short(&b, &of).is_empty());
}

#[test]
fn a_state_outlives_a_link_that_is_recovered_and_ends_with_the_session() {
    let mut service = VirtualService::new(1, |_| ());
    let (mut a, mut b) = two(&mut service);
    b.up(&mut service, T0, follow(1));
    a.up(&mut service, T0, set(1, json!({"k": "v"})));
    short(&b, &[&a]);
    b.up(&mut service, T0, json!({"type": "sequenceAck", "sequenceId": 2}));
    for peer in [&a, &b] {
        service.reset(T0, &peer.on);
    }
    a.recover(&mut service, ms(10));
    a.up(&mut service, ms(10), set(2, json!({"k": "w"})));
    b.recover(&mut service, ms(10));
    let update = b.got().remove(0);
    assert_eq!(
        (&update["sequenceId"], &update["items"][0]["state"]["k"]),
        (&json!(3), &json!("w"))
    );
    assert_eq!(service.group_states("g").len(), 1);
    service.reset(ms(20), &a.on);
    service.lives(ms(30_019), "");
    assert!(short(&b, &[&a]).is_empty());
    service.lives(ms(30_020), "");
    assert_eq!(short(&b, &[&a]), ["update 0=-@30020"]);
    assert!(service.group_states("g").is_empty());
}

#[test]
fn a_snapshot_has_the_first_members_by_connection_id() {
    let mut service = VirtualService::new(1, |m| m.limits.group_state_items = 2);
    let mut peers: Vec<Peer> = (0..4).map(|_| Peer::member(&mut service, Protocol::Json)).collect();
    peers.sort_by(|a, b| a.id.cmp(&b.id));
    // The last ones first, and the very first without a state.
    for peer in peers[1..].iter().rev() {
        peer.up(&mut service, T0, set(1, json!({"k": "v"})));
        peer.got();
    }
    let of: Vec<&Peer> = peers.iter().collect();
    peers[0].up(&mut service, T0, follow(1));
    assert_eq!(short(&peers[0], &of), ["1 ok", "snapshot 1=v@1 2=v@1"]);
}

#[test]
fn a_follower_that_does_not_read_loses_its_session() {
    let mut service = VirtualService::new(1, |m| m.limits.unacked_messages = 2);
    let (a, b) = two(&mut service);
    b.up(&mut service, T0, set(1, json!({"k": "v"})));
    b.up(&mut service, T0, follow(2));
    for ack_id in 1..=2 {
        assert!(service.lives(T0, &b.id));
        a.up(&mut service, T0, set(ack_id, json!({"k": "v"})));
    }
    assert!(!service.lives(T0, &b.id));
    assert_eq!(service.group_states("g").keys().collect::<Vec<_>>(), [&a.id]);
}

#[test]
fn a_fault_lets_updates_come_before_the_snapshot_and_the_ack() {
    let mut service = VirtualService::new(1, |_| ());
    let (a, b) = two(&mut service);
    a.up(&mut service, T0, set(1, json!({"k": "old"})));
    service.preview().hold_snapshots = true;
    b.up(&mut service, T0, follow(1));
    a.up(&mut service, ms(2), set(2, json!({"k": "new"})));
    service.heal();
    assert_eq!(short(&b, &[&a]), ["1 ok", "update 0=new@2", "snapshot 0=old@1"]);
    service.preview().hold_snapshots = true;
    service.fault(Fault::HoldAcks(true));
    b.up(&mut service, T0, follow(2));
    a.up(&mut service, ms(3), clear(3));
    service.heal();
    assert_eq!(short(&b, &[&a]), ["update 0=-@3", "2 ok", "snapshot 0=new@2"]);
}

#[cfg(feature = "protobuf")]
#[test]
fn states_travel_in_protobuf_too() {
    use crate::protocol::{Decoder, Downstream, Upstream, encode_upstream};
    let protocol = Protocol::ReliableProtobuf;
    let mut service = VirtualService::new(1, |_| ());
    let on = service.connect(Some(protocol), None);
    service.join(on.connection_id().unwrap(), "g");
    on.take(usize::MAX);
    let requests = [
        Upstream::SubscribeGroupState { group: "g".into(), ack_id: None },
        Upstream::SetGroupState {
            group: "g".into(),
            ack_id: None,
            state: Some(Default::default()),
        },
        Upstream::SetGroupState { group: "g".into(), ack_id: None, state: None },
    ];
    for request in requests {
        service.receive(ms(1), &on, encode_upstream(protocol, &request).unwrap());
    }
    let mut decoder = Decoder::new(protocol);
    let shown = on.take(usize::MAX).into_iter().map(|out| {
        let Out::Frame(frame) = out else { panic!("{out:?}") };
        match decoder.decode(&frame).unwrap() {
            Downstream::GroupStateSnapshot { items, sequence_id, .. } => (items, sequence_id),
            Downstream::GroupStateUpdate { items, sequence_id, .. } => (items, sequence_id),
            other => panic!("{other:?}"),
        }
    });
    let shown: Vec<_> = shown
        .map(|(items, id)| (items.first().map(|i| (i.state.clone(), i.updated_at)), id))
        .collect();
    let empty = (Some(Default::default()), 1);
    assert_eq!(shown, [(None, Some(1)), (Some(empty), Some(2)), (Some((None, 2)), Some(3))]);
}
