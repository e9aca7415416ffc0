//! What becomes of that which arrives: a receiver, a queue that is full when told to be, and a clock
//! that stands still until told.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{ms, secs};
use crate::error::{Error, ErrorKind};
use crate::message::{Connected, Disconnected, Event, Recovering, ServerMessage, Stopped};
use crate::protocol::{Decoder, Downstream, Frame, Malformed, Protocol};
use crate::session::receiver::Input;
use crate::session::{Bound, EventQueue, KeepAliveConfig, Loss, Receiver, Room};

/// A queue for this many messages.
pub(super) struct Queue {
    pub(super) bound: usize,
    pub(super) full: Room,
    pub(super) events: VecDeque<Event>,
}

impl EventQueue for Queue {
    fn room(&mut self, bound: Bound, _: &Event) -> Room {
        let messages = self.events.iter().filter(|e| matches!(e, Event::ServerMessage(_))).count();
        let bound = self.bound + if bound == Bound::LastCall { 1000 } else { 0 };
        if messages < bound { Room::Yes } else { self.full }
    }
    fn push(&mut self, event: Event, _: Option<usize>) {
        self.events.push_back(event);
    }
}

struct Scene {
    receiver: Receiver,
    queue: Queue,
    base: Instant,
    now: Instant,
    acks: Vec<u64>,
    inputs: Vec<Input>,
    end: Option<Loss>,
    pings: u32,
    excuse: Option<Instant>,
    /// The link takes more data.
    room: bool,
}

impl Scene {
    fn new(bound: usize, full: Room) -> Self {
        let base = Instant::now();
        let config = KeepAliveConfig { interval: Some(secs(10)), dead_after: secs(20) };
        let mut scene = Self {
            receiver: Receiver::new(config, base),
            queue: Queue { bound, full, events: VecDeque::new() },
            base,
            now: base,
            acks: Vec::new(),
            inputs: Vec::new(),
            end: None,
            pings: 0,
            excuse: None,
            room: true,
        };
        scene.receiver.linked(base, None);
        scene
    }

    /// A link that is to recover the session: 5 s for each stretch.
    fn recovery_link(&mut self) {
        self.receiver.linked(self.now, Some((self.now + secs(5), secs(5))));
    }

    fn frame(&mut self, frame: Result<Downstream, Malformed>) {
        let urgent = self.receiver.frame(self.now, frame, 10);
        if urgent {
            self.hand_over();
        }
    }

    fn message(&mut self, id: u64) {
        self.frame(Ok(Downstream::ServerMessage(message(id))));
    }

    fn messages(&mut self, ids: std::ops::RangeInclusive<u64>) {
        ids.for_each(|id| self.message(id));
        self.hand_over();
    }

    fn hand_over(&mut self) {
        self.receiver.hand_over(self.now, &mut self.queue);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        self.inputs.extend(self.receiver.take_inputs());
        self.acks.extend(self.receiver.take_sequence_ack(self.now, self.room));
        self.pings += u32::from(self.receiver.take_ping());
        if let Some(end) = self.receiver.take_end() {
            self.end = Some(end);
        }
    }

    fn event(&mut self, event: Event) {
        self.receiver.event(self.now, event, &mut self.queue);
    }

    fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        while let Some(at) = self.receiver.next_wake().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            let excuse = self.excuse;
            self.receiver.tick(self.now, &mut self.queue, |_| excuse);
            self.carry_out();
            if self.end.is_some() {
                return;
            }
        }
        self.now = until;
    }

    /// Takes up to this many events, and says which.
    fn take(&mut self, n: usize) -> Vec<String> {
        let n = n.min(self.queue.events.len());
        self.queue.events.drain(..n).map(|event| name(&event)).collect()
    }

    fn take_inputs(&mut self) -> Vec<String> {
        self.inputs.drain(..).map(|input| format!("{input:?}")).collect()
    }
}

fn message(id: u64) -> ServerMessage {
    let mut message = ServerMessage::new(id.to_string());
    message.sequence_id = Some(id);
    message
}

fn name(event: &Event) -> String {
    match event {
        Event::ServerMessage(m) => m.sequence_id.map_or("?".into(), |id| id.to_string()),
        Event::Lagged(n) => format!("Lagged {n}"),
        Event::Connected(_) => "Connected".into(),
        Event::Recovering(_) => "Recovering".into(),
        Event::Disconnected(_) => "Disconnected".into(),
        Event::Stopped(_) => "Stopped".into(),
        other => panic!("{other:?}"),
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::Disconnected, "the link broke")
}

fn recovering() -> Event {
    Event::Recovering(Recovering::new("c", lost()))
}

fn disconnected() -> Event {
    Event::Disconnected(Disconnected::new("c", lost()))
}

fn connected() -> Event {
    Event::Connected(Connected { connection_id: "c".into(), user_id: None, gap_possible: true })
}

fn range(ids: std::ops::RangeInclusive<u64>) -> Vec<String> {
    ids.map(|id| id.to_string()).collect()
}

// --- sequence ids ------------------------------------------------------------------------------

#[test]
fn duplicates_are_dropped_but_acknowledged_again() {
    let mut s = Scene::new(100, Room::Wait);
    s.messages(1..=3);
    s.advance(ms(500));
    assert_eq!(s.acks, [3]);
    s.messages(2..=2);
    s.advance(ms(499));
    assert_eq!(s.acks, [3]);
    s.advance(ms(1));
    assert_eq!(s.acks, [3, 3], "never less than before");
    s.messages(4..=4);
    assert_eq!(s.take(9), range(1..=4));
    assert_eq!((s.receiver.counts().messages, s.receiver.counts().duplicates), (4, 1));
}

#[test]
fn v04_an_ack_is_due_after_200_messages_however_dense() {
    let mut s = Scene::new(10_000, Room::Wait);
    s.messages(1..=1000);
    assert_eq!(s.acks, [200, 400, 600, 800, 1000]);
}

#[test]
fn an_ack_is_due_after_a_mebibyte() {
    let mut s = Scene::new(100, Room::Wait);
    s.receiver.frame(s.now, Ok(Downstream::ServerMessage(message(1))), (1 << 20) - 1);
    s.hand_over();
    assert!(s.acks.is_empty());
    s.receiver.frame(s.now, Ok(Downstream::ServerMessage(message(2))), 1);
    s.hand_over();
    assert_eq!(s.acks, [2]);
    s.messages(3..=3);
    assert_eq!(s.acks, [2], "the count starts anew");
}

#[test]
fn j11_the_id_of_a_frame_that_cannot_be_read_counts_in_its_place() {
    let mut s = Scene::new(1, Room::Wait);
    let unreadable = |id| Err(Malformed { sequence_id: Some(id), ..Malformed::new("odd") });
    s.messages(1..=1);
    s.frame(unreadable(2));
    s.advance(ms(500));
    assert_eq!(s.acks, [2]);
    s.messages(3..=3);
    s.frame(unreadable(4));
    s.advance(ms(500));
    assert_eq!(s.acks, [2], "3 is not in the queue, so 4 waits behind it");
    assert_eq!(s.take(1), ["1"]);
    s.advance(ms(520));
    assert_eq!(s.take(9), ["3"]);
    assert_eq!(s.acks, [2, 4]);
    assert_eq!(s.receiver.counts().malformed, 2);
}

#[test]
fn a_peer_that_reads_nothing_gets_no_more_acknowledgments() {
    let mut s = Scene::new(10_000, Room::Wait);
    s.room = false;
    s.messages(1..=400);
    assert_eq!(s.receiver.next_wake(), Some(s.now + ms(500)), "no busy loop");
    s.advance(secs(2));
    assert!(s.acks.is_empty());
    s.room = true;
    s.advance(ms(500));
    assert_eq!(s.acks, [400]);
}

#[test]
fn a_new_connection_numbers_from_one_and_acknowledges_nothing_of_the_old_one() {
    let mut s = Scene::new(10_000, Room::Wait);
    s.messages(1..=150);
    s.event(disconnected());
    s.receiver.linked(s.now, None);
    s.advance(secs(1));
    assert!(s.acks.is_empty());
    s.event(connected());
    s.messages(1..=1);
    s.advance(secs(1));
    assert_eq!(s.acks, [1]);
}

#[test]
fn a_wild_sequence_id_ends_the_session() {
    let mut s = Scene::new(100, Room::Wait);
    s.messages(1..=2);
    s.messages(1_000_002..=1_000_002);
    assert!(s.end.is_none(), "a large gap is odd, but possible");
    s.messages(2_000_003..=2_000_003);
    let end = s.end.take().expect("the end");
    assert!(end.violation, "a recovery would bring it again");
    assert!(end.error.to_string().contains("2000003"), "{}", end.error);
    assert_eq!(s.take(9), ["1", "2", "1000002"]);
}

// --- a full queue --------------------------------------------------------------------------------

#[test]
fn p03_what_is_held_is_not_acknowledged_and_enters_in_order() {
    let mut s = Scene::new(2, Room::Wait);
    s.messages(1..=5);
    s.event(recovering_without_ids());
    s.advance(secs(1));
    assert_eq!(s.acks, [2]);
    assert!(s.receiver.is_full() && s.receiver.may_read());
    assert_eq!(s.take(2), range(1..=2));
    s.advance(ms(10));
    assert_eq!(s.take(2), range(3..=4));
    s.advance(ms(10));
    assert_eq!(s.take(9), ["5", "Lagged 7"], "a lifecycle event stays behind the messages");
    assert!(!s.receiver.is_full());
    s.advance(secs(1));
    assert_eq!(s.acks, [2, 5]);
}

/// Any event that says nothing about the link.
fn recovering_without_ids() -> Event {
    Event::Lagged(7)
}

#[test]
fn acks_behind_a_full_queue_are_told_at_once() {
    let mut s = Scene::new(1, Room::Wait);
    s.messages(1..=3);
    s.frame(Ok(Downstream::Ack { ack_id: 9, success: true, error: None }));
    s.hand_over();
    assert_eq!(s.take_inputs(), ["Ack { id: 9, success: true, error: None }"]);
}

#[test]
fn a_consumer_that_keeps_pace_waits_for_no_timer() {
    let mut s = Scene::new(2, Room::Wait);
    s.messages(1..=4);
    assert_eq!(s.take(2), range(1..=2));
    // The next read moves what was held, at the same instant.
    s.messages(5..=5);
    assert_eq!(s.take(9), range(3..=4));
}

#[test]
fn the_room_is_looked_at_soon_and_then_every_ten_milliseconds() {
    let mut s = Scene::new(1, Room::Wait);
    s.messages(1..=2);
    let mut looks = Vec::new();
    while looks.len() < 9 {
        let at = s.receiver.next_wake().expect("a look");
        looks.push((at - s.now).as_micros());
        s.now = at;
        s.receiver.tick(at, &mut s.queue, |_| None);
    }
    assert_eq!(looks, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000]);
}

#[test]
fn reading_stops_when_a_thousand_messages_are_held_and_pings_go_on_without_an_end() {
    let mut s = Scene::new(1, Room::Wait);
    s.messages(1..=1000);
    assert!(s.receiver.may_read(), "999 are held");
    assert!(s.receiver.is_behind());
    s.messages(1001..=1001);
    assert!(!s.receiver.may_read());
    s.advance(secs(60));
    assert_eq!((s.pings, s.end.is_none()), (6, true), "who does not listen may not judge");
    s.take(1);
    s.advance(ms(10));
    assert!(s.receiver.may_read());
}

#[test]
fn a_loss_that_is_recovered_drops_what_is_held_and_takes_it_again_from_the_replay() {
    let mut s = Scene::new(2, Room::Wait);
    s.messages(1..=5);
    s.event(recovering());
    s.recovery_link();
    s.messages(3..=6);
    assert_eq!(s.take(3), ["1", "2", "Recovering"]);
    s.advance(ms(10));
    assert_eq!(s.take(2), range(3..=4));
    s.advance(ms(10));
    assert_eq!(s.take(9), range(5..=6));
    assert_eq!((s.receiver.counts().messages, s.receiver.counts().duplicates), (6, 0));
}

#[test]
fn a_loss_for_good_lets_what_is_held_in_before_its_event() {
    for event in [disconnected(), Event::Stopped(Stopped { cause: Error::closed() })] {
        let last = name(&event);
        let mut s = Scene::new(2, Room::Wait);
        s.messages(1..=5);
        s.event(event);
        assert_eq!(s.take(9), [range(1..=5), vec![last]].concat());
        assert_eq!(s.receiver.counts().dropped, 0);
    }
}

#[test]
fn losses_in_a_row_do_not_fill_the_memory_of_a_program_that_reads_nothing() {
    let mut s = Scene::new(2, Room::Wait);
    for _ in 0..5 {
        s.messages(1..=500);
        s.event(disconnected());
        s.receiver.linked(s.now, None);
    }
    let messages = s.queue.events.iter().filter(|e| matches!(e, Event::ServerMessage(_))).count();
    assert!(messages <= 1002, "{messages}");
    let lagged: u64 =
        s.queue.events.iter().map(|e| if let Event::Lagged(n) = e { *n } else { 0 }).sum();
    assert_eq!(messages as u64 + lagged, 2500, "what is dropped is reported");
}

#[test]
fn the_end_of_the_stream_is_read_up_to_however_full_the_queue_is() {
    let mut s = Scene::new(1, Room::Wait);
    s.messages(1..=1001);
    assert!(!s.receiver.may_read());
    s.receiver.stream_ended();
    assert!(s.receiver.may_read());
    s.receiver.linked(s.now, None);
    assert!(!s.receiver.may_read(), "of that stream only");
}

#[test]
fn the_last_drops_are_reported_although_nothing_more_comes() {
    let mut s = Scene::new(2, Room::Drop);
    s.messages(1..=5);
    s.advance(secs(5));
    assert_eq!(s.take(1), ["1"]);
    s.advance(ms(500));
    assert_eq!(s.take(9), ["2", "Lagged 3"]);
    assert_eq!(s.acks, [5], "what the policy drops is handled");
    s.messages(6..=9);
    assert_eq!(s.take(1), ["6"]);
    s.messages(10..=10);
    assert_eq!(s.take(9), ["7", "Lagged 2", "10"], "where they would have been");
    s.advance(secs(60));
    assert!(s.take(9).is_empty());
}

#[test]
fn a_policy_that_stops_says_so_once_and_acknowledges_nothing_more() {
    let mut s = Scene::new(1, Room::Stop);
    s.messages(1..=3);
    let inputs = s.take_inputs();
    assert!(inputs.iter().all(|i| i.starts_with("Stop(QueueFull")), "{inputs:?}");
    assert!(!inputs.is_empty());
    s.advance(secs(1));
    assert_eq!(s.acks, [1]);
}

#[test]
fn without_a_queue_nothing_is_missed() {
    let mut s = Scene::new(0, Room::Discard);
    s.messages(1..=3);
    s.advance(secs(1));
    assert_eq!((s.acks.as_slice(), s.receiver.counts().dropped), ([3].as_slice(), 0));
    assert!(s.take(9).is_empty());
}

// --- recovery --------------------------------------------------------------------------------

#[test]
fn nothing_is_acknowledged_on_a_recovery_link_that_is_not_proved() {
    let mut s = Scene::new(10, Room::Wait);
    s.messages(1..=3);
    s.event(recovering());
    s.recovery_link();
    s.receiver.bytes(s.now, 200);
    s.advance(ms(5_500));
    assert!(s.acks.is_empty());
    s.messages(2..=3);
    assert_eq!(s.take_inputs(), ["Proved"]);
    assert_eq!(s.acks, [3]);
}

#[test]
fn whatever_comes_whole_proves_a_recovery_and_the_pong_ends_the_replay() {
    let proofs: [fn(&mut Scene); 4] = [
        |s| s.message(4),
        |s| assert!(s.receiver.control_frame(s.now)),
        |s| s.frame(Err(Malformed::new("odd"))),
        |s| s.frame(Ok(Downstream::Ack { ack_id: 1, success: true, error: None })),
    ];
    for proof in proofs {
        let mut s = Scene::new(100, Room::Wait);
        s.recovery_link();
        proof(&mut s);
        s.hand_over();
        assert_eq!(s.take_inputs()[0], "Proved");
        assert!(!s.receiver.control_frame(s.now), "only the first");
        s.messages(5..=6);
        s.frame(Ok(Downstream::Pong));
        let replayed = s.receiver.counts().messages;
        assert_eq!(s.take_inputs(), [format!("Recovered {{ replayed: {replayed} }}")]);
    }
}

#[test]
fn a_replay_without_a_pong_is_over_after_two_seconds() {
    let mut s = Scene::new(100, Room::Wait);
    s.recovery_link();
    s.messages(1..=3);
    s.advance(ms(1_999));
    assert_eq!(s.take_inputs(), ["Proved"]);
    s.advance(ms(1));
    assert_eq!(s.take_inputs(), ["Recovered { replayed: 3 }"]);
}

#[test]
fn a_replay_that_is_cut_is_counted_on() {
    let mut s = Scene::new(100, Room::Wait);
    s.recovery_link();
    s.messages(1..=3);
    s.event(recovering());
    s.recovery_link();
    s.messages(2..=4);
    s.frame(Ok(Downstream::Pong));
    assert_eq!(s.take_inputs(), ["Proved", "Proved", "Recovered { replayed: 6 }"]);
}

#[test]
fn a_recovery_link_that_brings_next_to_nothing_in_five_seconds_is_given_up() {
    let mut s = Scene::new(100, Room::Wait);
    s.recovery_link();
    s.advance(ms(4_000));
    s.receiver.bytes(s.now, 127);
    s.advance(ms(999));
    assert!(s.take_inputs().is_empty());
    s.advance(ms(1));
    assert_eq!(s.take_inputs(), ["Stalled"]);
    s.advance(secs(3));
    assert!(s.take_inputs().is_empty(), "once");
}

#[test]
fn a_slow_first_frame_is_waited_for_while_it_gets_on_but_not_for_ever() {
    let mut s = Scene::new(100, Room::Wait);
    s.recovery_link();
    for _ in 0..23 {
        s.receiver.bytes(s.now, 128);
        s.advance(secs(5));
        assert!(s.take_inputs().is_empty(), "{:?}", s.now - s.base);
    }
    s.receiver.bytes(s.now, 128);
    s.advance(secs(5));
    assert_eq!(s.take_inputs(), ["Stalled"]);
    assert_eq!(s.now - s.base, secs(120));
}

#[test]
fn another_connection_in_the_place_of_a_recovered_one_has_nothing_to_replay() {
    let mut s = Scene::new(100, Room::Wait);
    s.recovery_link();
    s.frame(Ok(Downstream::Connected {
        connection_id: "other".into(),
        user_id: None,
        reconnection_token: None,
    }));
    assert_eq!(s.take_inputs().len(), 2);
    s.event(connected());
    s.frame(Ok(Downstream::Pong));
    s.advance(secs(5));
    assert!(s.take_inputs().is_empty());
}

// --- signs of life -------------------------------------------------------------------------------

#[test]
fn a_silent_peer_is_the_end_unless_an_event_handler_may_run() {
    let mut s = Scene::new(100, Room::Wait);
    s.excuse = Some(s.now + secs(70));
    s.advance(secs(69));
    assert_eq!((s.pings, s.end.is_none()), (6, true));
    s.advance(secs(2));
    let end = s.end.take().expect("the end");
    assert!(!end.violation && end.error.kind() == ErrorKind::Disconnected);
}

#[test]
fn an_answer_to_an_invocation_reaches_the_session_whether_it_can_be_read_or_not() {
    let mut s = Scene::new(10, Room::Wait);
    let mut decoder = Decoder::new(Protocol::ReliableJson);
    s.message(1);
    for frame in [
        r#"{"type":"invokeResponse","invocationId":"1","success":true}"#,
        r#"{"type":"invokeResponse","invocationId":"2","success":true,"dataType":"cbor"}"#,
    ] {
        let decoded = decoder.decode(&Frame::Text(frame.into()));
        s.frame(decoded);
    }
    s.hand_over();
    let ids = s.inputs.iter().map(|input| match input {
        Input::Answer { id, answer } => (id.as_str(), answer.is_ok()),
        other => panic!("{other:?}"),
    });
    assert_eq!(ids.collect::<Vec<_>>(), [("1", true), ("2", false)]);
    assert_eq!(s.receiver.counts().malformed, 1);
}
