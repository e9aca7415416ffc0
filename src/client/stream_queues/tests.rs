//! Which stream a message belongs to, what becomes of it at a bound, and how streams end; without a
//! thread, and in virtual time.

use super::*;
use crate::client::queue::Queue;
use crate::client::queues::{Queues, Route};
use crate::message::{Disconnected, Event, JoinFailed, Stopped, StreamPart};
use crate::session::EventQueue;

struct Scene {
    queues: Queues,
    events: Receiver<Event>,
    routes: Arc<Routes>,
    now: Instant,
}

fn config() -> StreamConfig {
    let queue = QueueConfig::new().max_messages(2).overflow(Overflow::Stop);
    StreamConfig { from_start: false, silence_timeout: None, max_streams: 4, queue }
}

fn message(group: &str, id: &str, number: u64) -> Event {
    part_of(group, id, number, &number.to_string(), false)
}

fn end(group: &str, id: &str, number: u64) -> Event {
    part_of(group, id, number, "", true)
}

fn part_of(group: &str, id: &str, number: u64, text: &str, end_of_stream: bool) -> Event {
    let part =
        StreamPart { stream_id: id.into(), stream_sequence_id: number, end_of_stream, error: None };
    let mut message = GroupMessage::new(group, text);
    message.stream = Some(Box::new(part));
    Event::GroupMessage(message)
}

impl Scene {
    fn new() -> Self {
        let (main, events) = Queue::new(
            Some(QueueConfig::new()),
            Arc::default(),
            Arc::new(AtomicBool::new(true)),
            None,
        );
        let (routes, now) = (Arc::<Routes>::default(), Instant::now());
        Self { queues: Queues::new(main, Arc::clone(&routes), now), events, routes, now }
    }

    fn subscribe(
        &self,
        group: Option<&str>,
        config: StreamConfig,
    ) -> (u64, Receiver<StreamReader>) {
        let id = self.routes.next_id();
        let common = Common { routes: Arc::clone(&self.routes), ..Common::default() };
        let group = group.map(Arc::from);
        let (route, streams) = StreamRoute::new(id, group, config, Arc::default(), common);
        self.routes.add_streams(route);
        (id, streams)
    }

    /// As the delivery does it.
    fn arrive(&mut self, event: Event) -> Room {
        let room = self.queues.room(Bound::Normal, &event);
        if room == Room::Yes {
            self.queues.push(event, Some(10));
        }
        room
    }

    fn all(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            assert_eq!(self.arrive(event), Room::Yes);
        }
    }

    fn event(&mut self, event: Event) {
        self.queues.push(event, None);
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
        self.queues.round(self.now);
        if self.queues.next_wake().is_some_and(|at| at <= self.now) {
            self.queues.tick(false);
        }
    }

    /// How many messages have entered the event queue.
    fn in_event_queue(&self) -> usize {
        self.events.try_iter().filter(|event| matches!(event, Event::GroupMessage(_))).count()
    }
}

/// What can be read of a stream: its parts, and `.` in order, or the kind of the error.
fn read(stream: &mut StreamReader) -> String {
    let mut out = String::new();
    loop {
        match stream.try_recv() {
            Ok(Some(part)) => out.push_str(part.text().expect("text")),
            Ok(None) => return out,
            Err(_) if stream.is_complete() => return out + ".",
            Err(error) => return format!("{out} {:?}", error.kind()),
        }
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::Disconnected, "lost")
}

#[test]
fn each_stream_goes_to_a_queue_of_its_own_and_to_no_other() {
    let mut s = Scene::new();
    let (_, streams) = s.subscribe(Some("g"), config());
    s.all([message("g", "a", 1), message("g", "b", 1), message("g", "a", 2), end("g", "a", 3)]);
    let (mut a, mut b) = (streams.recv().expect("a"), streams.recv().expect("b"));
    assert_eq!((a.stream_id(), b.stream_id(), a.group()), ("a", "b", "g"));
    assert_eq!((read(&mut a), read(&mut b)), ("12.".into(), "1".into()));
    assert_eq!(s.in_event_queue(), 0);
}

#[test]
fn other_messages_and_streams_of_other_groups_go_where_they_would_without_it() {
    let mut s = Scene::new();
    let (_, streams) = s.subscribe(Some("g"), config());
    s.all([Event::GroupMessage(GroupMessage::new("g", "x")), message("h", "a", 1)]);
    assert_eq!((s.in_event_queue(), streams.len()), (2, 0));
    let (id, end) = (s.routes.next_id(), Arc::default());
    let (queue, events) =
        Queue::new(Some(QueueConfig::new()), Arc::default(), Arc::new(AtomicBool::new(true)), None);
    s.routes.add(&"g".into(), Route::new(id, queue, end));
    s.all([message("g", "a", 1), Event::GroupMessage(GroupMessage::new("g", "y"))]);
    assert_eq!((events.len(), streams.len(), s.in_event_queue()), (1, 1, 0));
}

#[test]
fn two_subscriptions_get_every_stream_and_one_of_all_groups_tells_groups_apart() {
    let mut s = Scene::new();
    let ((_, one), (_, all)) = (s.subscribe(Some("g"), config()), s.subscribe(None, config()));
    s.all([message("g", "a", 1), message("h", "a", 1), message("h", "a", 2), end("g", "a", 2)]);
    assert_eq!((one.len(), all.len()), (1, 2));
    let (mut g, mut h) = (all.recv().expect("g"), all.recv().expect("h"));
    assert_eq!((read(&mut g), g.group()), ("1.".into(), "g"));
    assert_eq!((read(&mut h), h.group()), ("12".into(), "h"));
    assert_eq!(read(&mut one.recv().expect("g")), "1.");
}

#[test]
fn s13_a_full_queue_ends_its_stream_and_no_other() {
    let mut s = Scene::new();
    let (_, streams) = s.subscribe(Some("g"), config());
    s.all((1..=9).map(|n| message("g", "a", n)));
    s.all([message("g", "b", 1), end("g", "a", 10), message("g", "a", 1)]);
    let all: Vec<_> = streams.try_iter().map(|mut stream| read(&mut stream)).collect();
    assert_eq!(all, ["12 QueueFull", "1", "1"], "and its id may come again");
}

#[test]
fn the_end_of_a_full_stream_has_room() {
    let mut s = Scene::new();
    let (_, streams) = s.subscribe(Some("g"), config());
    s.all([message("g", "a", 1), message("g", "a", 2), end("g", "a", 3)]);
    assert_eq!(read(&mut streams.recv().expect("a")), "12.");
}

#[test]
fn dropping_the_newest_would_be_a_gap_so_it_ends_the_stream() {
    let mut s = Scene::new();
    let queue = config().queue.overflow(Overflow::DropNewest);
    let (_, streams) = s.subscribe(Some("g"), StreamConfig { queue, ..config() });
    s.all((1..=3).map(|n| message("g", "a", n)));
    assert_eq!(read(&mut streams.recv().expect("a")), "12 QueueFull");
}

#[test]
fn a_queue_that_waits_holds_up_its_stream_until_it_is_read_or_thrown_away() {
    let mut s = Scene::new();
    let queue = config().queue.overflow(Overflow::Wait);
    let (_, streams) = s.subscribe(Some("g"), StreamConfig { queue, ..config() });
    s.all([message("g", "a", 1), message("g", "a", 2), message("g", "b", 1)]);
    assert_eq!(s.arrive(message("g", "a", 3)), Room::Wait);
    assert_eq!(s.queues.unread(), Unread { group: Some("g".into()), messages: 2 });
    let mut a = streams.recv().expect("a");
    assert!(a.try_recv().expect("open").is_some());
    assert_eq!(s.arrive(message("g", "a", 3)), Room::Yes);
    assert_eq!(s.arrive(message("g", "a", 4)), Room::Wait);
    drop(a);
    assert_eq!(s.arrive(message("g", "a", 4)), Room::Yes);
    assert_eq!(streams.len(), 1, "only b: the rest of a is thrown away");
}

#[test]
fn s13_a_stream_that_is_thrown_away_collects_nothing_and_its_id_may_come_again() {
    let mut s = Scene::new();
    let (_, streams) = s.subscribe(Some("g"), config());
    s.all([message("g", "a", 1)]);
    drop(streams.recv().expect("a"));
    s.all([message("g", "a", 2), message("g", "a", 3), end("g", "a", 4)]);
    assert_eq!((streams.len(), s.in_event_queue()), (0, 0));
    s.all([message("g", "a", 1)]);
    assert_eq!(read(&mut streams.recv().expect("again")), "1");
}

#[test]
fn streams_that_nobody_takes_are_bounded_and_what_has_no_room_is_counted() {
    let mut s = Scene::new();
    let (_, streams) = s.subscribe(Some("g"), config());
    for n in 0..100 {
        s.all([message("g", &n.to_string(), 1), end("g", &n.to_string(), 2)]);
    }
    assert_eq!(streams.len(), 4);
    assert_eq!(s.queues.dropped(), 96);
    assert_eq!(read(&mut streams.recv().expect("0")), "1.");
    s.all([message("g", "x", 1)]);
    assert_eq!(streams.len(), 4);
}

#[test]
fn s18_ignored_streams_whose_end_never_comes_take_no_room() {
    let mut s = Scene::new();
    let (_, streams) = s.subscribe(Some("g"), StreamConfig { from_start: true, ..config() });
    s.all((0..100).map(|n| message("g", &n.to_string(), 7)));
    assert_eq!(streams.len(), 0);
    s.all([message("g", "x", 1), end("g", "x", 2)]);
    assert_eq!(read(&mut streams.recv().expect("x")), "1.");
    assert_eq!(s.queues.dropped(), 0, "they were to be ignored");
}

#[test]
fn s14_gaps_and_repetitions_end_a_stream() {
    let mut s = Scene::new();
    let (_, streams) = s.subscribe(Some("g"), config());
    s.all([message("g", "gap", 1), message("g", "gap", 3), end("g", "gap", 4)]);
    s.all([message("g", "twice", 1), message("g", "twice", 1), end("g", "twice", 2)]);
    let all: Vec<_> = streams.try_iter().map(|mut stream| read(&mut stream)).collect();
    assert_eq!(all, ["1 StreamFailed", "1 StreamFailed"]);
}

#[test]
fn s15_a_new_connection_ends_all_and_a_stop_is_no_orderly_end() {
    let mut s = Scene::new();
    let (_, streams) = s.subscribe(None, config());
    s.all([message("g", "a", 1), message("h", "a", 1)]);
    s.event(Event::Disconnected(Disconnected::new("c", lost())));
    let all: Vec<_> = streams.try_iter().map(|mut stream| read(&mut stream)).collect();
    assert_eq!(all, ["1 Disconnected", "1 Disconnected"]);
    s.all([message("g", "a", 2)]);
    let mut a = streams.recv().expect("from the middle");
    s.event(Event::Stopped(Stopped { cause: Error::closed() }));
    assert_eq!(read(&mut a), "2 Closed");
    assert!(!a.is_complete() && streams.recv().is_err());
}

#[test]
fn a_refused_join_ends_the_subscriptions_of_the_group() {
    let mut s = Scene::new();
    let ((_, g), (_, h)) = (s.subscribe(Some("g"), config()), s.subscribe(Some("h"), config()));
    let error = Error::new(ErrorKind::Refused, "no");
    s.event(Event::JoinFailed(JoinFailed { group: "g".into(), error }));
    assert!(g.recv().is_err());
    s.all([message("g", "a", 1), message("h", "a", 1)]);
    assert_eq!((h.len(), s.in_event_queue()), (1, 1), "the group has no stream subscription left");
}

#[test]
fn a_leave_ends_the_streams_of_its_group_and_what_comes_until_then_is_for_nobody() {
    let mut s = Scene::new();
    let ((id, g), (_, all)) = (s.subscribe(Some("g"), config()), s.subscribe(None, config()));
    s.all([message("g", "a", 1), message("h", "a", 1)]);
    s.routes.remove_streams(Some(&"g".into()), id, Some(7));
    assert!(s.queues.awaits_leave(7));
    assert_eq!(s.arrive(message("g", "a", 2)), Room::Discard);
    assert_eq!(read(&mut g.recv().expect("a")), "1 Closed");
    s.queues.released("g", 7);
    let all: Vec<_> = all.try_iter().map(|mut stream| read(&mut stream)).collect();
    assert_eq!(all, ["1 StreamFailed", "1"]);
}

#[test]
fn s17_silence_ends_a_stream_only_if_that_is_asked_for() {
    let mut s = Scene::new();
    let limit = Some(Duration::from_secs(10));
    let (_, patient) = s.subscribe(Some("g"), config());
    let (_, strict) = s.subscribe(Some("g"), StreamConfig { silence_timeout: limit, ..config() });
    s.all([message("g", "a", 1)]);
    let (mut patient, mut strict) = (patient.recv().expect("a"), strict.recv().expect("a"));
    s.advance(Duration::from_secs(9));
    s.all([message("g", "a", 2)]);
    s.advance(Duration::from_secs(9));
    assert_eq!((read(&mut patient), read(&mut strict)), ("12".into(), "12".into()));
    s.advance(Duration::from_secs(1));
    assert_eq!(read(&mut strict), " Timeout");
    s.advance(Duration::from_secs(86_400));
    s.all([message("g", "a", 3)]);
    assert_eq!(read(&mut patient), "3");
    assert_eq!(s.queues.next_wake(), None);
}

#[test]
fn what_is_held_for_want_of_room_is_no_silence() {
    let mut s = Scene::new();
    let limit = Some(Duration::from_secs(10));
    let (_, streams) = s.subscribe(Some("g"), StreamConfig { silence_timeout: limit, ..config() });
    s.all([message("g", "a", 1)]);
    s.queues.round(s.now + Duration::from_secs(10));
    s.queues.tick(true);
    let mut a = streams.recv().expect("a");
    assert_eq!(read(&mut a), "1");
    assert_eq!(s.queues.next_wake(), Some(s.now + Duration::from_secs(20)));
}

#[test]
fn a_part_with_which_a_stream_ends_comes_before_the_end() {
    let mut s = Scene::new();
    let (_, streams) = s.subscribe(Some("g"), config());
    s.all([message("g", "a", 1), part_of("g", "a", 2, "last", true)]);
    assert_eq!(read(&mut streams.recv().expect("a")), "1last.");
}
