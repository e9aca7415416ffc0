use super::*;
use crate::emulator::Permission;
use crate::emulator::virtual_service::Fate;

fn start(id: &str) -> Value {
    json!({"type": "sendToGroup", "group": "g", "stream": {"streamId": id}})
}

fn idle(id: &str, ms: u64) -> Value {
    json!({"type": "sendToGroup", "group": "g", "stream": {"streamId": id, "idleTimeoutMs": ms}})
}

fn data(id: &str, number: u64) -> Value {
    json!({"type": "streamData", "streamId": id, "streamSequenceId": number, "dataType": "text",
        "data": format!("{id}{number}")})
}

fn keepalive(id: &str) -> Value {
    json!({"type": "streamData", "streamId": id})
}

fn end(id: &str) -> Value {
    json!({"type": "streamEnd", "streamId": id})
}

/// `ack 2`, `nack 2 NAME`, `closed`, `closed NAME`; of subscribers' messages the stream's number and
/// data, or its end.
fn short(peer: &Peer) -> Vec<String> {
    let shorten = |m: Value| {
        let (number, error) = (&m["expectedSequenceId"], &m["error"]["name"]);
        let name = |name: &Value| name.as_str().map_or(String::new(), |name| format!(" {name}"));
        let part = &m["stream"];
        match m["type"].as_str().unwrap() {
            "streamAck" => format!("ack {number}"),
            "streamNack" => format!("nack {number}{}", name(&m["name"])),
            "streamClosed" => format!("closed{}", name(error)),
            "message" if part["endOfStream"] == true => {
                format!("{} end{}", part["streamSequenceId"], name(&part["error"]["name"]))
            }
            "message" => format!("{} {}", part["streamSequenceId"], m["data"].as_str().unwrap()),
            other => format!("{other} {}{}", m["success"], name(error)),
        }
    };
    peer.got().into_iter().map(shorten).collect()
}

/// A publisher, which is no member, and a subscriber.
fn two(service: &mut VirtualService) -> (Peer, Peer) {
    let reader = Peer::member(service, Protocol::ReliableJson);
    (Peer::new(service, Protocol::ReliableJson), reader)
}

#[test]
fn acks_are_batched_by_sixteen_fragments_or_twenty_milliseconds() {
    let mut service = VirtualService::new(1, |_| ());
    let (peer, reader) = two(&mut service);
    peer.up(&mut service, T0, start("s"));
    assert_eq!(short(&peer), ["ack 1"], "at once");
    for number in 1..=15 {
        peer.up(&mut service, ms(number), data("s", number));
    }
    assert!(short(&peer).is_empty());
    peer.up(&mut service, ms(16), data("s", 16));
    assert_eq!(short(&peer), ["ack 17"]);
    for number in 17..=18 {
        peer.up(&mut service, ms(13 + number), data("s", number));
    }
    service.lives(ms(49), "");
    assert!(short(&peer).is_empty());
    assert_eq!(service.next_expiry(), Some(ms(50)));
    service.take_touched();
    service.lives(ms(50), "");
    assert_eq!((short(&peer), service.take_touched().len()), (vec!["ack 19".to_owned()], 1));
    service.lives(ms(1000), "");
    assert!(short(&peer).is_empty());
    assert_eq!(service.next_expiry(), Some(ms(300_031)), "the idle time");
    let expected: Vec<String> = (1..=18).map(|n| format!("{n} s{n}")).collect();
    assert_eq!(short(&reader), expected);
    assert_eq!((service.stats().stream_fragments, service.stats().stream_acks), (18, 3));
}

#[test]
fn repeats_are_acknowledged_and_what_comes_too_early_is_not_accepted() {
    let mut service = VirtualService::new(1, |_| ());
    let (peer, reader) = two(&mut service);
    peer.up(&mut service, T0, start("s"));
    peer.up(&mut service, T0, data("s", 1));
    peer.up(&mut service, T0, data("s", 3));
    peer.up(&mut service, T0, data("s", 4));
    let early = ["ack 1", "nack 2 InvalidSequenceId", "nack 2 InvalidSequenceId"];
    assert_eq!(short(&peer), early);
    peer.up(&mut service, T0, data("s", 1));
    assert_eq!(short(&peer), ["ack 2"]);
    service.lives(ms(100), "");
    assert!(short(&peer).is_empty(), "nothing is left to acknowledge");
    peer.up(&mut service, ms(100), data("s", 2));
    assert_eq!(short(&reader), ["1 s1", "2 s2"]);
    assert_eq!(service.stats().stream_nacks, 2);
}

#[test]
fn a_stream_ends_by_its_publisher_and_its_id_may_start_again() {
    let mut service = VirtualService::new(1, |_| ());
    let (peer, reader) = two(&mut service);
    let mut abort = end("s");
    abort["error"] = json!({"message": "gave up", "userErrorCode": "E42"});
    for message in [start("s"), data("s", 1), end("s"), start("s"), end("s"), start("s"), abort] {
        peer.up(&mut service, T0, message);
    }
    assert_eq!(short(&peer), ["ack 1", "closed", "ack 1", "closed", "ack 1", "closed"]);
    let mut got = reader.got();
    let error = json!({"name": "UserError", "message": "gave up", "userErrorCode": "E42"});
    let last = json!({"type": "message", "from": "group", "group": "g", "fromUserId": "u",
        "dataType": "text", "data": "", "sequenceId": 4,
        "stream": {"streamId": "s", "streamSequenceId": 1, "endOfStream": true, "error": error}});
    assert_eq!(got.pop(), Some(last));
    let numbers = got.iter().map(|m| m["stream"]["streamSequenceId"].as_u64().unwrap());
    assert_eq!(numbers.collect::<Vec<_>>(), [1, 2, 1]);
    assert_eq!((service.stats().streams_opened, service.stats().streams_closed), (3, 3));
    assert_eq!(service.next_expiry(), None);
}

#[test]
fn what_belongs_to_no_stream_is_answered_by_its_end() {
    let mut service = VirtualService::new(1, |_| ());
    let (peer, other) = two(&mut service);
    other.up(&mut service, T0, start("s"));
    for message in [data("s", 1), keepalive("s"), end("s")] {
        peer.up(&mut service, T0, message);
        assert_eq!(short(&peer), ["closed StreamNotFound"]);
    }
    assert_eq!(short(&other), ["ack 1"], "the stream of another connection");
}

#[test]
fn a_start_is_refused_without_the_role_for_an_id_in_use_and_above_the_limit() {
    let mut service = VirtualService::new(1, |m| m.limits.streams_per_connection = 2);
    let (peer, _reader) = two(&mut service);
    let mut acknowledged = start("s");
    acknowledged["ackId"] = 1.into();
    for message in [acknowledged.clone(), start("s"), start("t"), start("u"), acknowledged] {
        peer.up(&mut service, T0, message);
    }
    let refused = ["ack 1", "ack true", "closed BadRequest", "ack 1", "closed BadRequest"];
    let got = short(&peer);
    assert_eq!(
        (&got[..5], &got[5..]),
        (&refused.map(str::to_owned)[..], &["ack false Duplicate".to_owned()][..])
    );
    peer.up(&mut service, T0, data("s", 1));
    peer.up(&mut service, T0, data("s", 1));
    assert_eq!(short(&peer), ["ack 2"], "the one in use goes on");

    service.revoke(&peer.id, Permission::SendToGroup, "g");
    let mut acknowledged = start("v");
    acknowledged["ackId"] = 2.into();
    peer.up(&mut service, T0, acknowledged);
    assert_eq!(short(&peer), ["closed Forbidden", "ack false Forbidden"]);
}

#[test]
fn the_role_is_looked_at_with_each_fragment() {
    let mut service = VirtualService::new(1, |_| ());
    let (peer, reader) = two(&mut service);
    peer.up(&mut service, T0, start("s"));
    peer.up(&mut service, T0, data("s", 1));
    service.revoke(&peer.id, Permission::SendToGroup, "g");
    peer.up(&mut service, T0, keepalive("s"));
    peer.up(&mut service, T0, data("s", 2));
    assert_eq!(short(&peer), ["ack 1", "closed Forbidden"]);
    assert_eq!(short(&reader), ["1 s1", "2 end Forbidden"]);
}

#[test]
fn a_stream_without_activity_ends_and_a_repeat_is_no_activity() {
    let mut service = VirtualService::new(1, |_| ());
    let (peer, reader) = two(&mut service);
    peer.up(&mut service, T0, idle("s", 300));
    peer.up(&mut service, ms(200), keepalive("s"));
    peer.up(&mut service, ms(400), data("s", 1));
    peer.up(&mut service, ms(600), data("s", 1));
    assert_eq!(short(&peer), ["ack 1", "ack 2", "ack 2"]);
    service.lives(ms(699), "");
    assert!(short(&peer).is_empty());
    service.lives(ms(700), "");
    assert_eq!(short(&peer), ["closed IdleTimeout"]);
    assert_eq!(short(&reader), ["1 s1", "2 end IdleTimeout"]);

    peer.up(&mut service, T0, start("default"));
    service.lives(ms(300_000 - 1), "");
    assert_eq!(short(&peer), ["ack 1"]);
    service.lives(ms(300_000), "");
    assert_eq!(short(&peer), ["closed IdleTimeout"]);
    assert_eq!(service.stats().stream_keepalives, 1);
}

#[test]
fn a_recovered_publisher_goes_on_and_what_it_was_told_meanwhile_is_lost() {
    let mut service = VirtualService::new(1, |_| ());
    let (mut peer, reader) = two(&mut service);
    for message in [start("s"), idle("short", 1000), data("s", 1)] {
        peer.up(&mut service, T0, message);
    }
    short(&peer);
    service.reset(T0, &peer.on);
    peer.recover(&mut service, ms(1000));
    assert!(short(&peer).is_empty(), "the idle time ran on");
    for message in [data("s", 1), data("s", 2), keepalive("short"), end("s")] {
        peer.up(&mut service, ms(1000), message);
    }
    assert_eq!(short(&peer), ["ack 2", "closed StreamNotFound", "closed"]);
    assert_eq!(short(&reader), ["1 s1", "1 end IdleTimeout", "2 s2", "3 end"]);
}

#[test]
fn subscribers_learn_that_a_publishers_session_has_ended() {
    let mut service = VirtualService::new(1, |_| ());
    let (peer, reader) = two(&mut service);
    peer.up(&mut service, T0, start("s"));
    peer.up(&mut service, T0, data("s", 1));
    service.reset(T0, &peer.on);
    service.lives(ms(29_999), "");
    assert_eq!(short(&reader), ["1 s1"]);
    service.lives(ms(30_000), "");
    assert_eq!(short(&reader), ["2 end Cancelled"]);

    let plain = Peer::new(&mut service, Protocol::Json);
    plain.up(&mut service, ms(30_000), start("s"));
    service.close(ms(30_000), &plain.on, Some(1000));
    assert_eq!(short(&reader), ["1 end Cancelled"]);
    assert_eq!((service.next_expiry(), service.stats().streams_closed), (None, 2));
}

#[test]
fn a_member_gets_its_own_stream_unless_it_wants_no_echo() {
    let mut service = VirtualService::new(1, |_| ());
    let (reader, member) =
        (Peer::member(&mut service, Protocol::Json), Peer::member(&mut service, Protocol::Json));
    let mut silent = start("s");
    silent["noEcho"] = true.into();
    for message in [silent, data("s", 1), end("s")] {
        member.up(&mut service, T0, message);
    }
    assert_eq!((short(&member).len(), short(&reader).len()), (2, 2));
    for message in [start("s"), data("s", 1), end("s")] {
        member.up(&mut service, T0, message);
    }
    assert_eq!(short(&member), ["ack 1", "1 s1", "2 end", "closed"]);
}

#[test]
fn fragments_are_numbered_and_replayed_like_all_messages() {
    let mut service = VirtualService::new(1, |_| ());
    let (peer, mut reader) = two(&mut service);
    for message in [start("s"), data("s", 1), data("s", 2)] {
        peer.up(&mut service, T0, message);
    }
    reader.up(&mut service, T0, json!({"type": "sequenceAck", "sequenceId": 1}));
    service.reset(T0, &reader.on);
    peer.up(&mut service, T0, end("s"));
    reader.recover(&mut service, T0);
    let got = reader.got();
    let numbers = got.iter().map(|m| m["sequenceId"].as_u64().unwrap());
    assert_eq!(numbers.collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn a_subscriber_that_does_not_read_loses_its_session_and_the_stream_goes_on() {
    let mut service = VirtualService::new(1, |m| m.limits.unacked_messages = 3);
    let (peer, reader) = two(&mut service);
    peer.up(&mut service, T0, start("s"));
    // It publishes too: its streams end while the message that ended it is on its way.
    reader.up(&mut service, T0, start("s"));
    let other = Peer::member(&mut service, Protocol::Json);
    for number in 1..=4 {
        peer.up(&mut service, T0, data("s", number));
        peer.up(&mut service, T0, data("s", number));
    }
    assert_eq!((service.lives(T0, &reader.id), reader.on.fate()), (false, Some(Fate::Cut)));
    assert_eq!(short(&peer), ["ack 1", "ack 2", "ack 3", "ack 4", "ack 5"]);
    let mut got = short(&other);
    got.sort();
    assert_eq!(got, ["1 end Cancelled", "1 s1", "2 s2", "3 s3", "4 s4"]);
}

#[test]
fn a_simple_client_gets_plain_frames_and_no_end() {
    let mut service = VirtualService::new(1, |_| ());
    let simple = service.connect(None, None);
    service.join(simple.connection_id().unwrap(), "g");
    let peer = Peer::new(&mut service, Protocol::Json);
    for message in [start("s"), data("s", 1), end("s")] {
        peer.up(&mut service, T0, message);
    }
    assert_eq!(simple.take(usize::MAX), [Out::Frame(Frame::Text("s1".into()))]);
}

#[test]
fn the_last_message_may_come_without_a_payload() {
    let mut service = VirtualService::new(1, |m| m.stream_end_without_payload = true);
    let (peer, reader) = two(&mut service);
    for message in [start("s"), data("s", 1), end("s")] {
        peer.up(&mut service, T0, message);
    }
    let last = json!({"type": "message", "from": "group", "group": "g", "fromUserId": "u",
        "sequenceId": 2, "stream": {"streamId": "s", "streamSequenceId": 2, "endOfStream": true}});
    assert_eq!(reader.got().pop(), Some(last));
}

#[cfg(feature = "protobuf")]
#[test]
fn protobuf_subscribers_get_both_forms_of_the_end() {
    use crate::protocol::{Decoder, Downstream};
    let sizes = [false, true].map(|bare| {
        let mut service = VirtualService::new(1, |m| m.stream_end_without_payload = bare);
        let reader = service.connect(Some(Protocol::Protobuf), None);
        service.join(reader.connection_id().unwrap(), "g");
        let peer = Peer::new(&mut service, Protocol::Json);
        reader.take(usize::MAX);
        for message in [start("s"), data("s", 1), end("s")] {
            peer.up(&mut service, T0, message);
        }
        let frames = reader.take(usize::MAX);
        let Out::Frame(frame) = &frames[1] else { panic!("{frames:?}") };
        let Ok(Downstream::GroupMessage(last)) = Decoder::new(Protocol::Protobuf).decode(frame)
        else {
            panic!("{frame:?}")
        };
        assert_eq!(last.payload.as_bytes(), b"");
        assert!(last.stream.unwrap().end_of_stream);
        frame.as_bytes().len()
    });
    // Two bytes for the payload and two for the text in it.
    assert_eq!(sizes[0] - sizes[1], 4);
}

#[test]
fn faults_refuse_starts_and_fragments() {
    let mut service = VirtualService::new(1, |_| ());
    let (peer, reader) = two(&mut service);
    (service.preview().ignore_starts, service.preview().refuse_starts) = (1, 1);
    peer.up(&mut service, T0, start("s"));
    assert!(short(&peer).is_empty());
    peer.up(&mut service, T0, start("s"));
    assert_eq!(short(&peer), ["closed InternalServerError"]);
    peer.up(&mut service, T0, start("s"));
    (service.preview().refuse_fragments_from, service.preview().refuse_fragments) = (2, 2);
    for number in [1, 2, 3, 2, 2] {
        peer.up(&mut service, T0, data("s", number));
    }
    let nacks = ["nack 2 TransientError", "nack 2 InvalidSequenceId", "nack 2 TransientError"];
    assert_eq!(short(&peer), [&["ack 1"], &nacks[..]].concat());
    peer.up(&mut service, T0, end("s"));
    assert_eq!(short(&reader), ["1 s1", "2 s2", "3 end"]);
}

#[test]
fn faults_hold_or_lose_what_the_publisher_is_told() {
    let mut service = VirtualService::new(1, |_| ());
    let (peer, reader) = two(&mut service);
    service.preview().hold_stream_acks = true;
    for message in [start("s"), data("s", 1), start("t"), end("t")] {
        peer.up(&mut service, T0, message);
    }
    service.lives(ms(100), "");
    assert_eq!(short(&peer), ["closed"]);
    service.heal();
    assert_eq!(short(&peer), ["ack 2"]);
    (service.preview().lose_stream_acks, service.preview().lose_stream_closes) = (1, 1);
    peer.up(&mut service, ms(100), data("s", 2));
    service.lives(ms(200), "");
    peer.up(&mut service, ms(200), end("s"));
    assert!(short(&peer).is_empty());
    assert_eq!(short(&reader), ["1 s1", "1 end", "2 s2", "3 end"]);
}

#[test]
fn faults_skip_and_repeat_fragments_and_end_a_stream() {
    let mut service = VirtualService::new(1, |_| ());
    let (peer, reader) = two(&mut service);
    peer.up(&mut service, T0, start("s"));
    (service.preview().skip_fragments, service.preview().repeat_fragments) = (1, 1);
    for number in 1..=3 {
        peer.up(&mut service, T0, data("s", number));
    }
    let error = crate::emulator::receive::named("InternalServerError", "broken");
    assert!(service.service.fail_stream(&peer.id, "s", error.clone()));
    assert!(!service.service.fail_stream(&peer.id, "s", error));
    assert_eq!(short(&peer), ["ack 1", "closed InternalServerError"]);
    assert_eq!(short(&reader), ["2 s2", "2 s2", "3 s3", "4 end InternalServerError"]);
}
