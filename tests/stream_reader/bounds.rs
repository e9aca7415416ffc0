//! What is bounded, and what a slow or vanished reader does to others.

use webpubsub::{ErrorKind, Event, Overflow, Subscribe, SubscribeStreams};

use super::{Publisher, complete, failed, ms, next, none, numbers, part, rest, small};
use crate::support::{WATCHDOG, client, client_over, emulator, eventually, reliable_protocols};

#[test]
fn s13_a_stream_that_is_not_read_is_bounded_and_the_others_and_the_acks_go_on() {
    for protocol in reliable_protocols(true) {
        let emulator = emulator();
        let client = client_over(&emulator, protocol);
        let spec = SubscribeStreams::new("g").queue(small(Overflow::Stop));
        let streams = client.subscribe_streams(spec).expect("subscribe");
        let mut publisher = Publisher::new(&emulator);
        publisher.start("slow");
        publisher.start("fast");
        publisher.part("slow", 1);
        publisher.part("fast", 1);
        let (mut slow, mut fast) = (next(&streams), next(&streams));
        assert_eq!(part(&mut fast), "1");
        // More than the service keeps without an ack.
        for n in 2..=2500 {
            publisher.part("slow", n);
            if n % 500 == 0 {
                publisher.sync();
            }
        }
        for n in 2..=50 {
            publisher.part("fast", n);
            assert_eq!(part(&mut fast), n.to_string());
        }
        eventually("acknowledged", || emulator.connections("hub").iter().all(|c| c.unacked == 0));
        assert_eq!(emulator.stats().overflows, 0);
        let (parts, error) = rest(&mut slow);
        assert_eq!(parts, numbers(1..=2));
        assert_eq!(error.expect("full").kind(), ErrorKind::QueueFull);
        publisher.end("slow");
        publisher.end("fast");
        assert_eq!(complete(&mut fast), [""; 0]);
        assert!(none(&streams));
        assert!(client.state().is_connected());
    }
}

#[test]
fn a_queue_that_waits_loses_nothing_and_holds_up_what_comes_behind() {
    let emulator = emulator();
    let client = client(&emulator);
    let spec = SubscribeStreams::new("g").queue(small(Overflow::Wait));
    let streams = client.subscribe_streams(spec).expect("subscribe");
    let other = client.subscribe("other").expect("subscribe");
    let mut publisher = Publisher::new(&emulator);
    publisher.start("a");
    (1..=10).for_each(|n| publisher.part("a", n));
    publisher.end("a");
    publisher.sync();
    client.publish("other", "behind").expect("acks are settled all the same");
    let mut a = next(&streams);
    assert!(matches!(other.recv_timeout(ms(100)), Ok(None)), "its place is behind the parts");
    assert_eq!(complete(&mut a), numbers(1..=10));
    assert!(matches!(other.recv_timeout(WATCHDOG), Ok(Some(Event::GroupMessage(_)))));
}

#[test]
fn s13_a_dropped_reader_throws_the_rest_away_and_holds_up_nothing() {
    let emulator = emulator();
    let client = client(&emulator);
    let spec = SubscribeStreams::new("g").queue(small(Overflow::Wait));
    let streams = client.subscribe_streams(spec).expect("subscribe");
    let mut publisher = Publisher::new(&emulator);
    publisher.start("a");
    (1..=10).for_each(|n| publisher.part("a", n));
    publisher.sync();
    drop(next(&streams));
    (11..=3000).for_each(|n| publisher.part("a", n));
    publisher.end("a");
    publisher.whole("b", 2);
    assert_eq!(complete(&mut next(&streams)), numbers(1..=2));
    assert!(none(&streams));
    eventually("acknowledged", || emulator.connections("hub").iter().all(|c| c.unacked == 0));
    publisher.whole("a", 1);
    assert_eq!(complete(&mut next(&streams)), numbers(1..=1));
}

#[test]
fn s18_ignored_streams_whose_end_never_comes_do_not_take_the_room_of_others() {
    let emulator = emulator();
    let client = client(&emulator);
    let mut publisher = Publisher::new(&emulator);
    let ids: Vec<_> = (0..20).map(|n| format!("old-{n}")).collect();
    for id in &ids {
        publisher.start(id);
        publisher.part(id, 1);
    }
    publisher.sync();
    let spec = SubscribeStreams::new("g").from_start().max_streams(2);
    let streams = client.subscribe_streams(spec).expect("subscribe");
    ids.iter().for_each(|id| publisher.part(id, 2));
    publisher.whole("new", 2);
    let mut stream = next(&streams);
    assert_eq!((stream.stream_id(), client.stats().dropped), ("new", 0));
    assert_eq!(complete(&mut stream), numbers(1..=2));
}

#[test]
fn more_streams_than_asked_for_are_thrown_away_and_counted() {
    let emulator = emulator();
    let client = client(&emulator);
    let spec = SubscribeStreams::new("g").max_streams(2);
    let streams = client.subscribe_streams(spec).expect("subscribe");
    let mut publisher = Publisher::new(&emulator);
    for id in ["a", "b", "c"] {
        publisher.start(id);
        publisher.part(id, 1);
    }
    let (mut a, _b) = (next(&streams), next(&streams));
    publisher.sync();
    eventually("counted", || client.stats().dropped == 1);
    publisher.end("c");
    publisher.end("a");
    assert_eq!(complete(&mut a), numbers(1..=1));
    publisher.whole("d", 1);
    let mut d = next(&streams);
    assert_eq!(complete(&mut d), numbers(1..=1));
    assert_eq!(d.stream_id(), "d");
}

#[test]
fn other_queues_of_a_client_are_not_touched_by_a_full_stream() {
    let emulator = emulator();
    let client = client(&emulator);
    let spec = SubscribeStreams::new("g").queue(small(Overflow::DropNewest));
    let streams = client.subscribe_streams(spec).expect("subscribe");
    let room = client.subscribe(Subscribe::new("room")).expect("subscribe");
    let mut publisher = Publisher::new(&emulator);
    publisher.whole("a", 100);
    publisher.sync();
    client.publish("room", "through").expect("ack");
    assert!(matches!(room.recv_timeout(WATCHDOG), Ok(Some(Event::GroupMessage(_)))));
    assert_eq!(failed(&mut next(&streams)).kind(), ErrorKind::QueueFull, "no gap without a word");
    assert_eq!(client.stats().dropped, 0);
}
