//! What goes wrong in other clients of the service, one test each. The names begin with the ids of
//! the table in `docs/defects.md`, which says where the others are tested.
//!
//! This file is compiled once for each reliable subprotocol; see `all.rs`.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use webpubsub::__codecs::{Frame, Upstream, decode_upstream};
use webpubsub::emulator::{Direction, Emulator, EventAnswer, RecordedFrame, StallAt};
use webpubsub::{
    Client, ClientAccess, ClientBuilder, ErrorKind, Event, KeepAlive, Overflow, Publish,
    QueueConfig, Reconnect, Recovery, SendEvent,
};

use super::{PLAIN, RELIABLE};
use crate::support::{
    WATCHDOG, client_over, emulator, emulator_with_handler, eventually, next_event,
    next_group_message, threads_named,
};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Short retry times.
fn quick(emulator: &Emulator) -> ClientBuilder {
    Client::builder(emulator.url("hub"))
        .protocol(RELIABLE)
        .reconnect(Some(Reconnect::new().backoff(ms(10), ms(50))))
        .recovery(Recovery::new().attempt_interval(ms(20)))
}

/// The next lifecycle event; messages are skipped.
fn lifecycle(client: &Client) -> Event {
    loop {
        match next_event(client) {
            Event::GroupMessage(_) | Event::ServerMessage(_) => {}
            event => return event,
        }
    }
}

macro_rules! expect {
    ($client:expr, $kind:pat) => {{
        let event = lifecycle($client);
        assert!(matches!(event, $kind), "{event:?}");
        event
    }};
}

/// A client over the subprotocol that this run is about.
fn client(emulator: &Emulator) -> Client {
    client_over(emulator, RELIABLE)
}

/// What clients sent that the closure picks, in order: the message and its bytes.
fn sent(
    emulator: &Emulator,
    pick: impl Fn(&Upstream<'_>) -> bool,
) -> Vec<(Upstream<'static>, Vec<u8>)> {
    let decode = |f: RecordedFrame| {
        let frame = match f.binary {
            true => Frame::Binary(f.bytes.clone().into()),
            false => Frame::Text(f.text.as_str().into()),
        };
        Some((decode_upstream(RELIABLE, &frame).ok()?, f.bytes))
    };
    let up = emulator.frames().into_iter().filter(|f| f.direction == Direction::Up);
    up.filter_map(decode).filter(|(message, _)| pick(message)).collect()
}

fn publications(message: &Upstream<'_>) -> bool {
    matches!(message, Upstream::SendToGroup(_))
}

fn joins(message: &Upstream<'_>) -> bool {
    matches!(message, Upstream::JoinGroup { .. })
}

#[test]
fn j05_executed_before_a_drop_and_sent_again_means_executed_once() {
    let emulator = emulator();
    let (sender, receiver) = (quick(&emulator).connect().expect("connect"), client(&emulator));
    receiver.join_group("g").expect("join");
    emulator.faults().drop_before_next_ack(1);
    let ack = sender.publish("g", "once").expect("the ack of the second try");
    assert!(ack.duplicate);
    sender.publish("g", "next").expect("send");
    assert_eq!(next_group_message(&receiver).text().expect("text"), "once");
    assert_eq!(next_group_message(&receiver).text().expect("text"), "next");
    let id = sender.connection_id().expect("connected");
    assert_eq!(emulator.executions(&id, ack.ack_id), 1);
}

#[test]
fn p02_every_try_of_a_call_is_the_identical_message_with_all_its_options() {
    let emulator = Emulator::builder().record_frames(1000).start().expect("emulator");
    let client = quick(&emulator).connect().expect("connect");
    emulator.faults().drop_before_next_ack(1);
    let call = Publish::new("g", "once").no_echo().ack_id(77).metadata("k", "v");
    assert_eq!(client.call(call).expect("ack").ack_id, 77);
    let tries = sent(&emulator, publications);
    assert_eq!(tries.len(), 2);
    assert_eq!(tries[0].1, tries[1].1, "byte for byte");
    let Upstream::SendToGroup(send) = &tries[0].0 else { panic!("{tries:?}") };
    assert!(send.no_echo);
    assert_eq!(send.ack_id, Some(77));
    assert_eq!(send.metadata.as_deref().and_then(|m| m.get("k")).map(String::as_str), Some("v"));
}

#[test]
fn p10_on_a_new_connection_nothing_is_sent_again_unless_asked_for() {
    for resend in [false, true] {
        let emulator = Emulator::builder().record_frames(1000).start().expect("emulator");
        let reconnect = Reconnect::new().backoff(ms(10), ms(50)).resend_calls(resend);
        let client = quick(&emulator).reconnect(Some(reconnect)).connect().expect("connect");
        emulator.faults().hold_acks(true);
        let pending = client.start(Publish::new("g", "maybe")).expect("start");
        assert!(emulator.wait_until(WATCHDOG, |s| s.frames_in >= 1));
        emulator.faults().close_connections(1008, "");
        emulator.faults().hold_acks(false);
        let outcome = pending.wait();
        let tries = sent(&emulator, publications).len();
        if resend {
            outcome.expect("acked on the new connection");
            assert_eq!(tries, 2);
        } else {
            let error = outcome.expect_err("unknown");
            assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
            assert!(error.may_have_been_delivered());
            assert_eq!(tries, 1);
        }
    }
}

#[test]
fn j06_a_refusal_is_not_retried() {
    let emulator = emulator_with_handler();
    let access = ClientAccess::new();
    let url = emulator.url_for("hub", &access).expect("url");
    let client = Client::builder(url).protocol(RELIABLE).connect().expect("connect");
    let error = client.join_group("g").expect_err("no role");
    assert_eq!(error.service_error_name(), Some("Forbidden"));
    // A later call shows that nothing more of it was under way.
    client.send_event("e", "x").expect("allowed");
    assert_eq!(sent(&emulator, joins).len(), 1);
}

#[test]
fn p09_a_wrong_argument_is_refused_at_once_and_nothing_is_sent() {
    let emulator = emulator_with_handler();
    let client = client(&emulator);
    assert_eq!(client.join_group("").expect_err("blank").kind(), ErrorKind::InvalidRequest);
    client.send_event("e", "x").expect("allowed");
    assert!(sent(&emulator, joins).is_empty());
}

#[test]
fn j07_a_dense_stream_is_acknowledged_by_count() {
    let emulator = emulator();
    let client = client(&emulator);
    client.join_group("g").expect("join");
    let drain = thread::spawn({
        let client = client.clone();
        move || (0..5000).for_each(|_| drop(next_group_message(&client)))
    });
    // As fast as the window allows: the next batch goes when the last one has arrived.
    for batch in 1..=50u64 {
        for _ in 0..100 {
            emulator.send_to_group("hub", "g", "x").expect("sent");
        }
        eventually("arrived and acknowledged", || {
            client.stats().messages_in >= batch * 100
                && emulator.connections("hub").iter().all(|c| c.unacked < 200)
        });
    }
    drain.join().expect("joined");
    let high = emulator.stats().unacked_high_water;
    assert!(high <= 300, "{high} messages were unacknowledged");
}

#[test]
fn j08_a_wait_that_is_given_up_leaves_nothing_behind() {
    let emulator = emulator();
    let client = client(&emulator);
    emulator.faults().hold_acks(true);
    for _ in 0..20 {
        let call = Publish::new("g", "x").timeout(ms(5));
        assert!(client.call(call).expect_err("no ack").is_timeout());
    }
    assert_eq!(client.stats().calls_pending, 0);
    let detached = client.start(Publish::new("g", "x").timeout(ms(50))).expect("start");
    drop(detached);
    emulator.faults().hold_acks(false);
    client.publish("g", "x").expect("ack");
    eventually("all ended", || client.stats().calls_pending == 0);
}

#[test]
fn j09_one_hanging_attempt_does_not_eat_the_recovery() {
    for at in [StallAt::Accept, StallAt::Upgrade] {
        let emulator = emulator();
        let client = quick(&emulator)
            .recovery(Recovery::new().attempt_interval(ms(20)).attempt_timeout(ms(200)))
            .connect()
            .expect("connect");
        expect!(&client, Event::Connected(_));
        emulator.faults().stall(at, true);
        emulator.faults().drop_connections();
        expect!(&client, Event::Recovering(_));
        if at == StallAt::Upgrade {
            // While it hangs, one attempt after the other is given up and made anew.
            let before = emulator.stats().tcp_accepted;
            assert!(emulator.wait_until(WATCHDOG, |s| s.tcp_accepted >= before + 3));
        } else {
            thread::sleep(ms(500));
        }
        emulator.faults().stall(at, false);
        expect!(&client, Event::Recovered(_));
        client.join_group("g").expect("usable");
    }
}

#[test]
fn j10_a_silent_peer_is_noticed_while_the_session_can_be_recovered() {
    let emulator = emulator();
    let client = quick(&emulator)
        .keep_alive(Some(KeepAlive::new().ping_after(ms(100)).dead_after(ms(300))))
        .connect()
        .expect("connect");
    client.join_group("g").expect("join");
    expect!(&client, Event::Connected(_));
    emulator.faults().freeze(true);
    let frozen = Instant::now();
    expect!(&client, Event::Recovering(_));
    assert!(frozen.elapsed() < Duration::from_secs(5), "{:?}", frozen.elapsed());
    for i in 0..10 {
        emulator.send_to_group("hub", "g", i.to_string()).expect("sent");
    }
    emulator.faults().freeze(false);
    for i in 0..10 {
        assert_eq!(next_group_message(&client).text().expect("text"), i.to_string());
    }
    eventually("recovered", || client.stats().recoveries == 1);
}

#[test]
fn p05_a_silent_peer_ends_a_simple_client_too() {
    let emulator = emulator();
    let client = webpubsub::SimpleClient::builder(emulator.url("hub"))
        .keep_alive(Some(KeepAlive::new().ping_after(ms(100)).dead_after(ms(1500))))
        .connect()
        .expect("connect");
    // Answered pings keep it alive well past the limit, which a busy machine must not reach.
    assert!(matches!(client.recv_timeout(WATCHDOG), Ok(Some(Event::Connected(_)))));
    assert!(matches!(client.recv_timeout(ms(3000)), Ok(None)));
    emulator.faults().freeze(true);
    let Ok(Some(Event::Disconnected(lost))) = client.recv_timeout(WATCHDOG) else {
        panic!("not noticed")
    };
    assert!(lost.cause.to_string().contains("sign of life"), "{:?}", lost.cause);
}

#[test]
fn p05_a_peer_that_is_slow_to_take_an_upload_is_not_dead() {
    let emulator = emulator();
    let client = quick(&emulator)
        .keep_alive(Some(KeepAlive::new().ping_after(ms(100)).dead_after(ms(500))))
        .socket_buffer_size(16 * 1024)
        .connect()
        .expect("connect");
    expect!(&client, Event::Connected(_));
    emulator.faults().slow_read(Some(ms(60)));
    // Several callers fill the out-buffer, so that the answer to a ping comes a second later.
    let start = Instant::now();
    let body = "x".repeat(64 * 1024);
    thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                while start.elapsed() < ms(3000) {
                    client.fire_and_forget(Publish::new("g", body.as_str())).expect("fire");
                }
            });
        }
    });
    emulator.faults().slow_read(None);
    client.publish("g", "done").expect("ack");
    assert!(client.try_recv().expect("open").is_none(), "the link was given up");
}

#[test]
fn p05_a_quiet_but_living_connection_is_kept() {
    let emulator = emulator();
    let client = quick(&emulator)
        .keep_alive(Some(KeepAlive::new().ping_after(ms(50)).dead_after(ms(1000))))
        .connect()
        .expect("connect");
    expect!(&client, Event::Connected(_));
    assert!(client.recv_timeout(ms(2500)).expect("open").is_none());
    assert!(emulator.stats().pings >= 10);
    assert!(client.stats().last_round_trip.is_some());
}

#[test]
fn j16_connected_does_not_wait_for_rejoins_and_a_lost_ack_holds_nothing_back() {
    let emulator = emulator();
    let client = quick(&emulator).call_timeout(ms(500)).connect().expect("connect");
    client.join_group("a").expect("join");
    client.join_group("b").expect("join");
    expect!(&client, Event::Connected(_));
    emulator.faults().hold_acks(true);
    emulator.faults().close_connections(1008, "");
    expect!(&client, Event::Disconnected(_));
    expect!(&client, Event::Reconnecting(_));
    expect!(&client, Event::Connected(_));
    // Both rejoins were sent together; their acks do not come.
    for _ in 0..2 {
        let Event::JoinFailed(failed) = lifecycle(&client) else { panic!("not told") };
        assert!(failed.error.is_timeout());
    }
}

#[test]
fn p03_one_thread_whatever_the_load_and_one_order() {
    let emulator = emulator();
    let client = quick(&emulator).name("p03").connect().expect("connect");
    let flooder = client_over(&emulator, RELIABLE);
    client.join_group("g").expect("join");
    // A reader that gets no time at all would honestly overrun the service's limit of 1000.
    let read = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&read);
    let flood = thread::spawn(move || {
        for i in 0..3000u32 {
            eventually("read", || i < seen.load(Ordering::SeqCst) + 700);
            flooder.call(Publish::new("g", i.to_string())).expect("ack");
        }
    });
    for i in 0..3000u32 {
        read.store(i, Ordering::SeqCst);
        if i % 500 == 0 {
            assert_eq!(threads_named("p03"), 1);
            thread::sleep(ms(20)); // a slow consumer
        }
        assert_eq!(next_group_message(&client).text().expect("text"), i.to_string());
    }
    flood.join().expect("joined");
}

#[test]
fn p06_reconnecting_goes_on_until_it_succeeds() {
    let emulator = emulator();
    let client = quick(&emulator).connect().expect("connect");
    expect!(&client, Event::Connected(_));
    emulator.faults().refuse_next_upgrades(8, 503, None);
    emulator.faults().close_connections(1008, "gone");
    expect!(&client, Event::Disconnected(_));
    for attempt in 1..=9 {
        let Event::Reconnecting(r) = lifecycle(&client) else { panic!("attempt {attempt}") };
        assert_eq!(r.attempt, attempt);
    }
    let Event::Connected(connected) = lifecycle(&client) else { panic!("not connected") };
    assert!(connected.gap_possible);
}

#[test]
fn p08_connect_gives_the_client() {
    let emulator = emulator();
    let client: Client = Client::connect(emulator.url("hub")).expect("connect");
    assert!(client.state().is_connected() && client.connection_id().is_some());
}

#[test]
fn p11_one_deadline_covers_the_connection_the_writing_and_the_ack() {
    let emulator = emulator();
    let client = quick(&emulator).connect().expect("connect");
    emulator.faults().refuse_recoveries(1_000_000, 502);
    emulator.faults().drop_connections();
    eventually("noticed", || !client.state().is_connected());
    let start = Instant::now();
    let error = client.call(Publish::new("g", "x").timeout(ms(300))).expect_err("no connection");
    assert!(error.is_timeout() && !error.may_have_been_delivered(), "{error:?}");
    let error = client.fire_and_forget(Publish::new("g", "x").timeout(ms(300)));
    assert!(error.expect_err("no connection").is_timeout());
    assert!(start.elapsed() >= ms(600) && start.elapsed() < ms(6000), "{:?}", start.elapsed());
    assert_eq!(client.stats().calls_pending, 0);
}

#[test]
fn p12_acknowledging_goes_on_after_a_failed_send() {
    let emulator = emulator();
    let client = quick(&emulator).connect().expect("connect");
    client.join_group("g").expect("join");
    for round in 0..5u32 {
        for i in 0..400u32 {
            emulator.send_to_group("hub", "g", (round * 400 + i).to_string()).expect("sent");
        }
        // Cut while acknowledgements are under way.
        emulator.faults().drop_connections();
        for i in 0..400u32 {
            let message = next_group_message(&client);
            assert_eq!(message.text().expect("text"), (round * 400 + i).to_string());
        }
        // An ack that was lost with the link is made good by the next one, so that the service's
        // limit of 1000 is never reached.
        eventually("acknowledged", || emulator.connections("hub").iter().all(|c| c.unacked < 500));
    }
    assert_eq!(emulator.stats().connections_opened, 1, "the session survived");
}

#[test]
fn p13_a_backoff_of_zero_is_fine() {
    let emulator = emulator();
    let zero = Duration::ZERO;
    let client = quick(&emulator)
        .reconnect(Some(Reconnect::new().backoff(zero, zero)))
        .connect()
        .expect("connect");
    expect!(&client, Event::Connected(_));
    emulator.faults().refuse_next_upgrades(3, 503, None);
    emulator.faults().close_connections(1008, "");
    eventually("connected again", || client.stats().reconnects == 1);
}

#[test]
fn p15_one_client_serves_many_threads() {
    fn shared<T: Clone + Send + Sync + 'static>(_: &T) {}
    let emulator = emulator();
    let client = client(&emulator);
    shared(&client);
    thread::scope(|s| {
        for t in 0..8 {
            let client = &client;
            s.spawn(move || {
                let group = format!("g{t}");
                for i in 0..50u32 {
                    client.join_group(&group).expect("join");
                    client.publish(&group, i.to_string()).expect("send");
                    client.leave_group(&group).expect("leave");
                }
            });
        }
    });
    assert!(client.groups().is_empty());
    assert_eq!(client.stats().messages_in, 400);
}

#[test]
fn p16_a_connect_that_timed_out_never_connects_later() {
    let emulator = emulator();
    emulator.faults().stall(StallAt::Connected, true);
    let error = quick(&emulator).connect_timeout(ms(200)).name("p16").connect();
    assert_eq!(error.expect_err("stalled").kind(), ErrorKind::SessionStart);
    emulator.faults().stall(StallAt::Connected, false);
    eventually("thread gone", || threads_named("p16") == 0);
    assert!(emulator.wait_until(WATCHDOG, |s| s.currently_open == 0));
    thread::sleep(ms(300));
    assert_eq!(emulator.stats().upgrades_attempted, 1);
}

#[test]
fn c04_a_message_that_breaks_our_limit_does_not_come_round_for_ever() {
    let emulator = emulator();
    let client = quick(&emulator).max_message_bytes(10_000).connect().expect("connect");
    expect!(&client, Event::Connected(_));
    emulator.send_to_all("hub", "x".repeat(20_000)).expect("sent");
    expect!(&client, Event::Disconnected(_));
    expect!(&client, Event::Reconnecting(_));
    expect!(&client, Event::Connected(_));
    assert!(client.recv_timeout(ms(300)).expect("open").is_none(), "it came again");
}

#[test]
fn c05_server_and_group_messages_come_in_one_order_and_bounded() {
    let emulator = emulator();
    let client = quick(&emulator)
        .event_queue(Some(
            QueueConfig::new().max_messages(100).max_messages_during_calls(100).max_bytes(1 << 20),
        ))
        .connect()
        .expect("connect");
    client.join_group("g").expect("join");
    for i in 0..600 {
        if i % 2 == 0 {
            emulator.send_to_group("hub", "g", i.to_string()).expect("sent");
        } else {
            emulator.send_to_all("hub", i.to_string()).expect("sent");
        }
    }
    eventually("full", || client.stats().queue_len >= 100);
    thread::sleep(ms(50));
    assert!(client.stats().queue_len <= 101);
    let mut next = 0;
    while next < 600 {
        let text = match next_event(&client) {
            Event::GroupMessage(m) => m.text().expect("text").to_owned(),
            Event::ServerMessage(m) => m.text().expect("text").to_owned(),
            _ => continue,
        };
        assert_eq!(text, next.to_string());
        next += 1;
    }
}

#[test]
fn c07_reconnecting_is_settable() {
    let emulator = emulator();
    let reconnect = Reconnect::new().backoff(ms(10), ms(50)).max_attempts(Some(2));
    let client = quick(&emulator).reconnect(Some(reconnect)).connect().expect("connect");
    expect!(&client, Event::Connected(_));
    emulator.faults().refuse_next_upgrades(100, 503, None);
    emulator.faults().close_connections(1008, "");
    expect!(&client, Event::Disconnected(_));
    expect!(&client, Event::Reconnecting(_));
    expect!(&client, Event::Reconnecting(_));
    let Event::Stopped(stopped) = lifecycle(&client) else { panic!("goes on") };
    assert_eq!(stopped.cause.http_status(), Some(503));
    assert_eq!(client.join_group("g").expect_err("stopped").kind(), ErrorKind::Upgrade);
}

#[test]
fn c08_calls_while_the_link_is_down_wait_and_then_go() {
    let emulator = emulator();
    let client = quick(&emulator).connect().expect("connect");
    emulator.faults().refuse_recoveries(3, 502);
    emulator.faults().drop_connections();
    eventually("noticed", || !client.state().is_connected());
    let start = Instant::now();
    client.publish("g", "x").expect("sent after the recovery");
    client.fire_and_forget(Publish::new("g", "x")).expect("sent");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn v02_a_loss_for_good_fails_calls_at_once_and_not_at_their_deadlines() {
    let emulator = emulator();
    let client = quick(&emulator).protocol(PLAIN).connect().expect("connect");
    emulator.faults().hold_acks(true);
    let pending: Vec<_> =
        (0..50).map(|_| client.start(Publish::new("g", "x")).expect("start")).collect();
    assert!(emulator.wait_until(WATCHDOG, |s| s.frames_in >= 50));
    let start = Instant::now();
    emulator.faults().drop_connections();
    for one in pending {
        assert_eq!(one.wait().expect_err("lost").kind(), ErrorKind::OutcomeUnknown);
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn v03_an_overflow_silences_nothing() {
    let emulator = emulator();
    let client = quick(&emulator)
        .event_queue(Some(
            QueueConfig::new()
                .max_messages(10)
                .max_messages_during_calls(10)
                .max_bytes(1 << 20)
                .overflow(Overflow::DropNewest),
        ))
        .connect()
        .expect("connect");
    client.join_group("g").expect("join");
    for i in 0..200 {
        emulator.send_to_group("hub", "g", i.to_string()).expect("sent");
    }
    eventually("all came", || client.stats().messages_in == 200);
    client.publish("elsewhere", "x").expect("acks still come");
    let (mut messages, mut lagged) = (0, 0);
    emulator.send_to_group("hub", "g", "last").expect("sent");
    loop {
        match next_event(&client) {
            Event::GroupMessage(m) if m.text().expect("text") == "last" => break,
            Event::GroupMessage(_) => messages += 1,
            Event::Lagged(n) => lagged += n,
            _ => {}
        }
        if messages == 5 {
            // Now there is room, so the one that comes next is not dropped.
            emulator.send_to_group("hub", "g", "last").expect("sent");
        }
    }
    assert!(lagged > 0 && client.stats().dropped >= lagged);
}

#[test]
fn v06_after_a_recovery_no_group_is_joined_again_but_on_a_new_connection_they_are() {
    let emulator = Emulator::builder().record_frames(1000).start().expect("emulator");
    let client = quick(&emulator).connect().expect("connect");
    client.join_group("a").expect("join");
    client.join_group("b").expect("join");
    client.leave_group("b").expect("leave");
    expect!(&client, Event::Connected(_));
    emulator.faults().drop_connections();
    expect!(&client, Event::Recovering(_));
    expect!(&client, Event::Recovered(_));
    emulator.send_to_group("hub", "a", "still a member").expect("sent");
    next_group_message(&client);
    assert_eq!(sent(&emulator, joins).len(), 2);

    emulator.faults().close_connections(1008, "");
    expect!(&client, Event::Disconnected(_));
    expect!(&client, Event::Reconnecting(_));
    expect!(&client, Event::Connected(_));
    eventually("a member again", || emulator.send_to_group("hub", "a", "x").expect("sent") == 1);
    next_group_message(&client);
    let joins = sent(&emulator, joins);
    assert_eq!(joins.len(), 3);
    assert!(matches!(&joins[2].0, Upstream::JoinGroup { group, .. } if group == "a"));
}

#[test]
fn calls_started_through_a_drop_are_executed_once_each() {
    let executed = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&executed);
    let emulator = Emulator::builder()
        .event_handler(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            EventAnswer::Nothing
        })
        .start()
        .expect("emulator");
    let client = quick(&emulator).connect().expect("connect");
    let id = client.connection_id().expect("connected");
    let mut pending = Vec::new();
    for i in 0..5000 {
        if i % 1000 == 500 {
            emulator.faults().drop_before_next_ack(1);
        }
        pending.push(client.start(SendEvent::new("e", "x")).expect("start"));
    }
    let acks: Vec<_> = pending.iter().map(|p| p.wait().expect("ack")).collect();
    let ids: HashSet<u64> = acks.iter().map(|a| a.ack_id).collect();
    assert_eq!(ids.len(), 5000);
    assert!(ids.iter().all(|ack_id| emulator.executions(&id, *ack_id) == 1));
    assert_eq!(executed.load(Ordering::SeqCst), 5000);
    assert!(acks.iter().any(|a| a.duplicate), "no trouble was met");
    assert!(client.stats().recoveries >= 1);
}

#[test]
fn nothing_is_acknowledged_on_a_new_connection_before_it_is_one() {
    let emulator = Emulator::builder().record_frames(1000).start().expect("emulator");
    let client = quick(&emulator).connect().expect("connect");
    client.join_group("g").expect("join");
    emulator.send_to_group("hub", "g", "x").expect("sent");
    next_group_message(&client);
    // The message is not acknowledged yet; on the next connection it must not be.
    emulator.faults().stall(StallAt::Connected, true);
    emulator.faults().close_connections(1008, "");
    thread::sleep(ms(900));
    emulator.faults().stall(StallAt::Connected, false);
    eventually("connected anew", || client.stats().reconnects == 1);
    client.publish("g", "y").expect("send");
    let acks = sent(&emulator, |m| matches!(m, Upstream::SequenceAck { .. }));
    assert!(acks.is_empty(), "{acks:?}");
}

#[test]
fn frames_of_a_batch_that_timed_out_without_a_link_are_not_sent_later() {
    let emulator = emulator();
    let client = quick(&emulator).connect().expect("connect");
    emulator.faults().refuse_recoveries(1_000_000, 502);
    emulator.faults().drop_connections();
    eventually("noticed", || !client.state().is_connected());
    for _ in 0..3 {
        let batch = (0..100).map(|_| Publish::new("g", "late").timeout(ms(20)));
        assert!(client.fire_and_forget_all(batch).expect_err("no link").is_timeout());
    }
    assert_eq!(client.stats().calls_pending, 0);
    emulator.faults().clear();
    eventually("recovered", || client.stats().recoveries == 1);
    client.publish("g", "x").expect("send");
    assert_eq!(emulator.stats().publications, 1);
}

#[test]
fn one_callers_deadline_does_not_strand_the_frames_of_others() {
    let emulator = emulator();
    let client =
        quick(&emulator).keep_alive(None).socket_buffer_size(8 * 1024).connect().expect("connect");
    emulator.faults().freeze(true);
    let body = "x".repeat(900_000);
    thread::scope(|s| {
        s.spawn(|| {
            let call = Publish::new("g", body.as_str()).timeout(ms(300));
            assert!(client.call(call).expect_err("frozen").is_timeout());
        });
        eventually("writing", || client.stats().messages_out == 1);
        let other = s.spawn(|| client.call(Publish::new("g", "small")));
        thread::sleep(ms(800));
        emulator.faults().freeze(false);
        other.join().expect("joined").expect("acked, though the first writer has left");
    });
}

#[test]
fn a_deadline_holds_against_a_peer_that_takes_a_little_at_a_time() {
    let emulator = emulator();
    let client = quick(&emulator).socket_buffer_size(8 * 1024).connect().expect("connect");
    emulator.faults().slow_read(Some(ms(100)));
    let body = "x".repeat(500_000);
    let start = Instant::now();
    let batch = (0..30).map(|_| Publish::new("g", body.as_str()).timeout(ms(200)));
    let _pending = client.start_all(batch).expect("started");
    assert!(start.elapsed() < ms(2000), "{:?}", start.elapsed());
}

#[test]
fn calls_whose_time_is_up_free_their_places_though_nothing_comes_in() {
    let emulator = emulator();
    let client = quick(&emulator).keep_alive(None).max_in_flight(4).connect().expect("connect");
    emulator.faults().lose_next_acks(4);
    for _ in 0..4 {
        drop(client.start(Publish::new("g", "x").timeout(ms(50))).expect("start"));
    }
    thread::sleep(ms(100));
    client.call(Publish::new("g", "x").timeout(ms(5000))).expect("there is room again");
}

#[test]
fn a_deadline_is_told_between_two_connections_too() {
    let emulator = emulator();
    let hour = Duration::from_secs(3600);
    let client = quick(&emulator)
        .reconnect(Some(Reconnect::new().backoff(hour, hour)))
        .connect()
        .expect("connect");
    emulator.faults().close_connections(1008, "");
    eventually("noticed", || !client.state().is_connected());
    let pending = client.start(Publish::new("g", "x").timeout(ms(100))).expect("start");
    let told = pending.receiver().recv_timeout(WATCHDOG).expect("told");
    assert!(told.expect_err("no link").is_timeout());
}
