//! The service without sockets, in virtual time.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::emulator::builder::Limits;
use crate::emulator::delivery::Delivery;
use crate::emulator::events::EventAnswer;
use crate::emulator::grants::Grants;
use crate::emulator::inbound::{Inbound, Started};
use crate::emulator::outbox::{Fate, Out, Outbox};
use crate::emulator::server_session::Kind;
use crate::emulator::service::{Handshake, Service, Settings};
use crate::protocol::{Frame, Protocol};

/// One client of the hub under test.
struct Client {
    id: Arc<str>,
    outbox: Arc<Outbox>,
    token: String,
}

struct Bench {
    service: Service,
    now: Duration,
    links: u64,
}

impl Bench {
    fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::default();
        change(&mut settings);
        let service = Service::new(settings, [7; 32]);
        Self { service, now: Duration::ZERO, links: 0 }
    }

    fn outbox(&mut self) -> Arc<Outbox> {
        self.links += 1;
        Outbox::new(self.links)
    }

    fn connect(&mut self, kind: Kind, user: &str) -> Client {
        let outbox = self.outbox();
        let handshake = Handshake {
            hub: "h".into(),
            user: (!user.is_empty()).then(|| user.into()),
            kind,
            grants: Grants::new(["webpubsub.joinLeaveGroup", "webpubsub.sendToGroup.g"]),
            groups: vec!["g".into()],
        };
        let id = self.service.connect(handshake, Arc::clone(&outbox));
        let mut client = Client { id, outbox, token: String::new() };
        if let Some(connected) = client.sent().first() {
            client.token = connected["reconnectionToken"].as_str().unwrap_or_default().into();
        }
        client
    }

    fn reliable(&mut self) -> Client {
        self.connect(Kind::PubSub(Protocol::ReliableJson), "")
    }

    fn up(&mut self, client: &Client, text: &str) -> Started {
        let inbound = Inbound::data(Some(Protocol::Json), Frame::Text(text.into()), usize::MAX);
        self.service.receive(self.now, &client.id, client.outbox.link, inbound)
    }

    fn lose(&mut self, client: &Client) {
        self.service.receive(self.now, &client.id, client.outbox.link, Inbound::end());
    }

    fn recover(&mut self, client: &mut Client) -> bool {
        self.service.expire(self.now);
        client.outbox = self.outbox();
        let outbox = Arc::clone(&client.outbox);
        self.service.recover("h", &client.id, &client.token, &outbox, self.now).is_some()
    }

    fn publish(&mut self, text: &str) {
        let delivery = Delivery::to_group("g".into(), None, text.into());
        self.service.publish(self.now, "h", &delivery, None);
    }

    fn lives(&self, client: &Client) -> bool {
        self.service.sessions.contains_key(&client.id)
    }
}

impl Client {
    fn outs(&self) -> Vec<Out> {
        self.outbox.take_written(usize::MAX)
    }

    fn sent(&self) -> Vec<Value> {
        let json = |out| match out {
            Out::Frame(Frame::Text(text)) => serde_json::from_str(&text).ok(),
            _ => None,
        };
        self.outs().into_iter().filter_map(json).collect()
    }

    fn numbers(&self) -> Vec<u64> {
        self.sent().iter().filter_map(|m| m["sequenceId"].as_u64()).collect()
    }
}

const SEND: &str = r#"{"type":"sendToGroup","group":"g","ackId":7,"dataType":"text","data":"x"}"#;

#[test]
fn replay_has_what_was_not_acknowledged_and_keeps_its_numbers() {
    let mut bench = Bench::new(|_| ());
    let mut client = bench.reliable();
    for text in ["a", "b", "c"] {
        bench.publish(text);
    }
    assert_eq!(client.numbers(), [1, 2, 3]);
    bench.up(&client, r#"{"type":"sequenceAck","sequenceId":2}"#);
    bench.lose(&client);
    bench.publish("d");
    assert!(bench.recover(&mut client));
    bench.publish("e");
    assert_eq!(client.numbers(), [3, 4, 5]);
}

#[test]
fn a_lost_session_lives_for_its_retention_and_not_longer() {
    let mut bench = Bench::new(|_| ());
    let mut client = bench.reliable();
    bench.lose(&client);
    bench.now = Duration::from_millis(29_999);
    assert!(bench.recover(&mut client));
    // The time starts afresh with each loss; the first loss no longer counts.
    bench.now = Duration::from_secs(40);
    bench.service.expire(bench.now);
    assert!(bench.lives(&client));
    bench.lose(&client);
    bench.now = Duration::from_secs(70);
    assert!(!bench.recover(&mut client));
    assert!(matches!(&client.outs()[..], [Out::Close { code: 1008, .. }]));
}

#[test]
fn recovery_needs_the_token_and_a_reliable_session() {
    let mut bench = Bench::new(|_| ());
    let mut client = bench.reliable();
    let token = std::mem::replace(&mut client.token, "wrong".into());
    assert!(!bench.recover(&mut client));
    client.token = token;
    assert!(bench.recover(&mut client));
    let mut plain = bench.connect(Kind::PubSub(Protocol::Json), "");
    assert!(!bench.recover(&mut plain));
    bench.lose(&plain);
    assert!(bench.lives(&client));
}

#[test]
fn connected_after_recovery_comes_first_with_a_token_that_works() {
    let mut bench = Bench::new(|m| m.connected_after_recovery = true);
    let mut client = bench.reliable();
    bench.publish("a");
    let old = client.token.clone();
    assert!(bench.recover(&mut client));
    let sent = client.sent();
    assert_eq!((&sent[0]["event"], &sent[1]["sequenceId"]), (&"connected".into(), &1.into()));
    client.token = sent[0]["reconnectionToken"].as_str().unwrap().into();
    assert_ne!(client.token, old);
    assert!(bench.recover(&mut client));
    client.token = old;
    assert!(bench.recover(&mut client));
}

#[test]
fn the_message_too_many_ends_the_session_also_while_it_is_away() {
    let limits = Limits { unacked_messages: 2, ..Limits::default() };
    let mut bench = Bench::new(|m| m.limits = limits);
    let (here, away) = (bench.reliable(), bench.reliable());
    bench.lose(&away);
    bench.publish("a");
    bench.publish("b");
    assert!(bench.lives(&here) && bench.lives(&away));
    bench.up(&here, r#"{"type":"sequenceAck","sequenceId":99}"#);
    bench.publish("c");
    assert!(bench.lives(&here) && !bench.lives(&away));
    bench.publish("d");
    bench.publish("e");
    assert!(!bench.lives(&here) && here.outbox.fate().is_some());
}

#[test]
fn a_slow_client_without_recovery_is_bounded_too() {
    let limits = Limits { outbound_frames: 2, ..Limits::default() };
    let mut bench = Bench::new(|m| m.limits = limits);
    let client = bench.connect(Kind::PubSub(Protocol::Json), "");
    bench.publish("a");
    bench.publish("b");
    assert_eq!(client.sent().len(), 2);
    for text in ["c", "d"] {
        bench.publish(text);
        assert!(bench.lives(&client));
    }
    bench.publish("e");
    assert!(!bench.lives(&client));
}

const PING: &str = r#"{"type":"ping"}"#;

#[test]
fn acks_and_pongs_are_queued_frames_like_messages() {
    for (protocol, most) in [(Protocol::Json, 1000), (Protocol::ReliableJson, 1032)] {
        let mut bench = Bench::new(|_| ());
        let client = bench.connect(Kind::PubSub(protocol), "");
        for i in 0..most / 4 {
            bench.publish("a");
            bench.up(&client, PING);
            // An echo and its ack.
            bench.up(&client, &SEND.replace('7', &i.to_string()));
        }
        assert!(bench.lives(&client), "{protocol:?}");
        bench.up(&client, PING);
        assert!(!bench.lives(&client), "{protocol:?}");
        assert_eq!((client.outbox.fate(), client.outs()), (Some(Fate::Cut), vec![]));
        assert_eq!(bench.service.counters.stats().overflows, 1);
    }
}

#[test]
fn what_is_taken_and_not_written_is_queued_still() {
    let limits = Limits { outbound_frames: 2, ..Limits::default() };
    let mut bench = Bench::new(|m| m.limits = limits);
    let client = bench.connect(Kind::PubSub(Protocol::Json), "");
    bench.up(&client, PING);
    bench.up(&client, PING);
    assert_eq!(client.outbox.take(usize::MAX).len(), 2);
    client.outbox.keep_taken(1);
    bench.up(&client, PING);
    assert!(bench.lives(&client), "one of three is written");
    bench.up(&client, PING);
    assert!(!bench.lives(&client));
}

#[test]
fn a_full_replay_leaves_room_for_32_acks_also_when_it_is_doubled() {
    for doubled in [false, true] {
        let mut bench = Bench::new(|_| ());
        let mut client = bench.reliable();
        bench.service.plan.duplicate_replay = doubled;
        bench.lose(&client);
        for _ in 0..1000 {
            bench.publish("a");
        }
        assert!(bench.recover(&mut client));
        for _ in 0..32 {
            bench.up(&client, PING);
        }
        assert!(bench.lives(&client));
        bench.up(&client, PING);
        assert!(!bench.lives(&client));
    }
}

#[test]
fn a_message_whose_time_is_over_fills_no_window_and_is_not_replayed() {
    let frame = Limits { unacked_messages: 2, ..Limits::default() };
    let bytes = Limits { unacked_bytes: 250, ..Limits::default() };
    for (limits, time, lives) in
        [(&frame, 4, false), (&frame, 5, true), (&bytes, 4, false), (&bytes, 5, true)]
    {
        let mut bench = Bench::new(|m| m.limits = limits.clone());
        let mut client = bench.reliable();
        bench.lose(&client);
        let sender = bench.connect(Kind::PubSub(Protocol::Json), "");
        for _ in 0..2 {
            bench.up(&sender, &SEND.replace("\"ackId\":7", "\"ttlSeconds\":5"));
        }
        bench.now = Duration::from_secs(time);
        bench.publish("c");
        assert_eq!(bench.lives(&client), lives, "after {time} s");
        if lives {
            assert!(bench.recover(&mut client));
            assert_eq!(client.numbers(), [3]);
        }
    }
}

#[test]
fn a_refused_request_pushes_no_ack_id_out_of_the_memory() {
    let limits = Limits { remembered_ack_ids: 2, ..Limits::default() };
    let mut bench = Bench::new(|m| m.limits = limits);
    let client = bench.connect(Kind::PubSub(Protocol::Json), "");
    let send = |id: &str, group: &str| SEND.replace("\"g\"", group).replace('7', id);
    for (id, group) in
        [("1", "\"g\""), ("2", "\"g\""), ("3", "\"no\""), ("4", "\"no\""), ("1", "\"g\"")]
    {
        bench.up(&client, &send(id, group));
    }
    assert_eq!(bench.service.executions.get(&client.id, 1), 1);
    bench.up(&client, &send("3", "\"g\""));
    bench.up(&client, &send("1", "\"g\""));
    assert_eq!(bench.service.executions.get(&client.id, 1), 2, "3 has pushed it out");
}

#[test]
fn an_ack_id_runs_once_and_a_refused_one_may_run_again() {
    let mut bench = Bench::new(|_| ());
    let mut client = bench.reliable();
    bench.up(&client, SEND);
    bench.lose(&client);
    assert!(bench.recover(&mut client));
    bench.up(&client, SEND);
    let sent = client.sent();
    assert_eq!(sent[0]["data"], "x");
    assert_eq!(sent[1]["error"]["message"], "Message with ack-id: 7 has been processed");
    assert_eq!(bench.service.executions.get(&client.id, 7), 1);
    for _ in 0..2 {
        bench.up(&client, &SEND.replace("\"g\"", "\"other\"").replace('7', "8"));
        let ack = client.sent().remove(0);
        assert_eq!(ack["error"]["name"], "Forbidden");
        let text = "The client does not have permission to send to group 'other'.";
        assert_eq!(ack["error"]["message"], text);
    }
}

#[test]
fn no_echo_leaves_out_the_connection_but_not_its_user() {
    let mut bench = Bench::new(|_| ());
    let kind = Kind::PubSub(Protocol::Json);
    let (one, two) = (bench.connect(kind.clone(), "u"), bench.connect(kind, "u"));
    bench.up(&one, &SEND.replace("\"ackId\"", "\"noEcho\":true,\"ackId\""));
    assert_eq!(one.sent()[0]["type"], "ack");
    assert_eq!(two.sent()[0]["fromUserId"], "u");
    bench.up(&one, r#"{"type":"leaveGroup","group":"g"}"#);
    bench.up(&one, &SEND.replace('7', "8"));
    assert_eq!(one.sent().len(), 1, "an ack, and no message to a group that was left");
}

#[test]
fn a_cut_before_the_ack_stops_all_input_of_that_transport() {
    let mut bench = Bench::new(|_| ());
    let mut client = bench.reliable();
    bench.service.plan.drop_before_ack = 1;
    bench.up(&client, SEND);
    bench.up(&client, &SEND.replace('7', "8"));
    assert!(matches!(&client.outs()[..], [Out::Frame(_), Out::Cut]));
    assert_eq!(bench.service.executions.get(&client.id, 7), 1);
    assert_eq!(bench.service.executions.get(&client.id, 8), 0);
    assert!(bench.recover(&mut client));
    bench.service.plan.duplicate_replay = true;
    assert_eq!(client.numbers(), [1]);
    bench.up(&client, r#"{"type":"sequenceAck","sequenceId":1}"#);
    bench.publish("b");
    assert!(bench.recover(&mut client));
    assert_eq!(client.numbers(), [1, 2, 2]);
}

#[test]
fn events_go_to_the_handler_and_its_answer_comes_before_the_ack() {
    let mut bench = Bench::new(|m| m.has_handler = true);
    let client = bench.reliable();
    let event = r#"{"type":"event","event":"e","ackId":1,"dataType":"text","data":"x"}"#;
    let got = bench.up(&client, event).expect("an event");
    assert_eq!((&*got.event, got.payload.text().unwrap()), ("e", "x"));
    bench.service.answer(bench.now, &client.id, EventAnswer::Message("y".into()));
    let sent = client.sent();
    assert_eq!((&sent[0]["from"], &sent[1]["success"]), (&"server".into(), &true.into()));
    bench.up(&client, &event.replace("\"ackId\":1", "\"ackId\":2"));
    bench.service.answer(bench.now, &client.id, EventAnswer::Failure);
    assert_eq!(client.sent()[0]["error"]["name"], "InternalServerError");
    assert!(bench.up(&client, &event.replace("\"ackId\":1", "\"ackId\":2")).is_some());
}
