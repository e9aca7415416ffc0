//! Sequence ids and signs of life.

use std::time::Instant;

use super::{ms, secs};
use crate::session::{Beat, Inbox, KeepAlive, Verdict};

/// The message `id`, handled at once.
fn receive(inbox: &mut Inbox, id: u64, now: Instant) -> (Verdict, Option<u64>) {
    let verdict = inbox.check(id);
    (verdict, inbox.handled(10, now))
}

#[test]
fn duplicates_are_dropped_but_acknowledged_again() {
    let now = Instant::now();
    let mut inbox = Inbox::default();
    for id in 1..=3 {
        assert_eq!(receive(&mut inbox, id, now), (Verdict::Deliver, None));
    }
    assert_eq!(inbox.ack(), Some(3));
    assert_eq!(inbox.ack(), None);
    assert_eq!(receive(&mut inbox, 2, now), (Verdict::Duplicate, None));
    assert_eq!(inbox.due(now + ms(500)), Some(3), "never less than before");
    assert_eq!(receive(&mut inbox, 4, now), (Verdict::Deliver, None));
}

#[test]
fn a_gap_is_delivered() {
    let now = Instant::now();
    let mut inbox = Inbox::default();
    assert_eq!(receive(&mut inbox, 5, now).0, Verdict::Deliver);
    assert_eq!(receive(&mut inbox, u64::MAX, now).0, Verdict::Deliver);
    assert_eq!(inbox.ack(), Some(u64::MAX));
}

#[test]
fn v04_an_ack_is_due_after_200_messages_however_dense() {
    let now = Instant::now();
    let mut inbox = Inbox::default();
    let acks: Vec<_> = (1..=1000).filter_map(|id| receive(&mut inbox, id, now).1).collect();
    assert_eq!(acks, [200, 400, 600, 800, 1000]);
}

#[test]
fn an_ack_is_due_after_a_mebibyte() {
    let now = Instant::now();
    let mut inbox = Inbox::default();
    inbox.check(1);
    assert_eq!(inbox.handled((1 << 20) - 1, now), None);
    inbox.check(2);
    assert_eq!(inbox.handled(1, now), Some(2));
    inbox.check(3);
    assert_eq!(inbox.handled(1, now), None, "the count starts anew");
}

#[test]
fn an_ack_is_due_half_a_second_after_the_first_unacknowledged_message() {
    let now = Instant::now();
    let mut inbox = Inbox::default();
    assert_eq!((inbox.next_wake(), inbox.due(now)), (None, None));
    receive(&mut inbox, 1, now);
    receive(&mut inbox, 2, now + ms(400));
    assert_eq!(inbox.next_wake(), Some(now + ms(500)));
    assert_eq!(inbox.due(now + ms(499)), None);
    assert_eq!(inbox.due(now + ms(500)), Some(2));
    assert_eq!((inbox.next_wake(), inbox.due(now + secs(9))), (None, None));
}

#[test]
fn j11_the_id_of_a_frame_that_cannot_be_read_counts() {
    // The reader treats it as any other: `check`, then `handled`.
    let now = Instant::now();
    let mut inbox = Inbox::default();
    receive(&mut inbox, 1, now);
    assert_eq!(inbox.due(now + secs(1)), Some(1));
}

#[test]
fn p03_a_message_that_waits_for_room_in_the_queue_is_not_acknowledged() {
    let now = Instant::now();
    let mut inbox = Inbox::default();
    receive(&mut inbox, 1, now);
    assert_eq!(inbox.check(2), Verdict::Deliver);
    assert_eq!(inbox.due(now + ms(500)), Some(1), "2 is not in the queue");
    assert_eq!(inbox.handled(10, now + secs(1)), None);
    assert_eq!(inbox.due(now + ms(1_500)), Some(2));
}

#[test]
fn a_new_connection_numbers_from_one() {
    let now = Instant::now();
    let mut inbox = Inbox::default();
    receive(&mut inbox, 900, now);
    inbox.count_replayed();
    inbox.reset();
    assert!(!inbox.is_counting());
    assert_eq!(inbox.due(now + secs(1)), None, "nothing of the old one is acknowledged");
    assert_eq!(receive(&mut inbox, 1, now).0, Verdict::Deliver);
}

#[test]
fn a_recovery_goes_on_with_the_numbers_and_counts_what_comes_again() {
    let now = Instant::now();
    let mut inbox = Inbox::default();
    for id in 1..=5 {
        receive(&mut inbox, id, now);
    }
    inbox.count_replayed();
    for (id, verdict) in [(4, Verdict::Duplicate), (5, Verdict::Duplicate), (6, Verdict::Deliver)] {
        assert_eq!(receive(&mut inbox, id, now).0, verdict);
    }
    inbox.count_replayed(); // a second link before the pong
    assert!(inbox.is_counting());
    assert_eq!((inbox.replayed(), inbox.take_replayed(), inbox.take_replayed()), (3, 3, 0));
    receive(&mut inbox, 7, now);
    assert_eq!(inbox.replayed(), 0);
    assert_eq!(inbox.ack(), Some(7));
}

#[test]
fn p05_silence_is_answered_with_a_ping_and_then_with_the_end() {
    let t = Instant::now();
    let mut k = KeepAlive::new(Some(secs(10)), secs(20), t);
    assert_eq!(k.next_wake(), Some(t + secs(10)));
    assert_eq!(k.due(t + ms(9_999)), None);
    assert_eq!(k.due(t + secs(10)), Some(Beat::Ping));
    assert_eq!(k.due(t + secs(10)), None, "one ping");
    assert_eq!(k.next_wake(), Some(t + secs(20)));
    assert_eq!(k.due(t + ms(19_999)), None);
    assert_eq!(k.due(t + secs(20)), Some(Beat::Dead));
}

#[test]
fn anything_heard_is_a_sign_of_life() {
    let t = Instant::now();
    let mut k = KeepAlive::new(Some(secs(10)), secs(20), t);
    assert_eq!(k.due(t + secs(10)), Some(Beat::Ping));
    k.heard(t + secs(19));
    assert_eq!(k.next_wake(), Some(t + secs(29)));
    assert_eq!(k.due(t + secs(20)), None);
    assert_eq!(k.due(t + secs(29)), Some(Beat::Ping));
}

#[test]
fn a_machine_that_slept_asks_before_it_gives_up() {
    let t = Instant::now();
    let mut k = KeepAlive::new(Some(secs(10)), secs(20), t);
    let woke = t + secs(3_600);
    assert_eq!(k.due(woke), Some(Beat::Ping));
    assert_eq!(k.due(woke + ms(9_999)), None);
    assert_eq!(k.due(woke + secs(10)), Some(Beat::Dead));
}

#[test]
fn keep_alive_can_be_off() {
    let t = Instant::now();
    let mut k = KeepAlive::new(None, secs(20), t);
    assert_eq!((k.next_wake(), k.due(t + secs(3_600))), (None, None));
}

#[test]
fn a_peer_that_makes_room_for_an_upload_is_alive_though_it_says_nothing() {
    let start = Instant::now();
    let at = |s| start + secs(s);
    let mut k = KeepAlive::new(Some(secs(10)), secs(20), start);
    assert_eq!(k.due(at(10)), Some(Beat::Ping));
    k.moved(at(15));
    assert_eq!(k.due(at(20)), None);
    assert_eq!(k.due(at(35)), Some(Beat::Dead));
}
