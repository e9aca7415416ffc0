//! A full event queue hides nothing: no lost link, no drop, no cause.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use webpubsub::emulator::Emulator;
use webpubsub::{
    Client, ClientBuilder, Event, Overflow, Protocol, Publish, QueueConfig, Reconnect, Recovery,
};

use crate::support::log::{log_of_threads, logged_by};
use crate::support::{
    Fake, WATCHDOG, client, emulator, eventually, next_event, peer, upgrade_by_hand,
};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Short retry times.
fn quick(emulator: &Emulator) -> ClientBuilder {
    Client::builder(emulator.url("hub"))
        .reconnect(Some(Reconnect::new().backoff(ms(10), ms(50))))
        .recovery(Recovery::new().attempt_interval(ms(20)))
}

const SENT: u64 = 60;

/// A client whose queue of ten messages is full, with more messages on their way.
fn behind(emulator: &Emulator, builder: ClientBuilder) -> Client {
    behind_with(emulator, builder, Overflow::Wait)
}

fn behind_with(emulator: &Emulator, builder: ClientBuilder, overflow: Overflow) -> Client {
    let queue = QueueConfig::new().max_messages(10).max_messages_during_calls(10);
    let client = builder.event_queue(Some(queue.overflow(overflow))).connect().expect("connect");
    client.join_group("full").expect("join");
    send(emulator, "full", 0..SENT);
    // `Connected` is one of them.
    eventually("full", || client.stats().queue_len > 10);
    client
}

fn send(emulator: &Emulator, group: &str, numbers: std::ops::Range<u64>) {
    for i in numbers {
        emulator.send_to_group("hub", group, i.to_string()).expect("sent");
    }
}

/// The messages that come until there are that many, or none comes for 3 s.
fn take(client: &Client, most: u64) -> Vec<u64> {
    let mut numbers = Vec::new();
    while (numbers.len() as u64) < most {
        match client.recv_timeout(ms(3000)) {
            Ok(Some(Event::GroupMessage(message))) => {
                numbers.push(message.text().expect("text").parse().expect("a number"));
            }
            Ok(Some(_)) => {}
            _ => break,
        }
    }
    numbers
}

fn is_complete(numbers: &[u64], expected: u64) -> bool {
    numbers.iter().copied().eq(0..expected)
}

#[test]
fn a_lost_link_is_noticed_and_recovered_while_the_queue_is_full() {
    type Lose = fn(&Emulator, &Client);
    let ways: [(&str, Lose); 4] = [
        ("an end", |emulator, _| emulator.faults().drop_connections()),
        ("a reset", |emulator, _| emulator.faults().reset_connections()),
        ("a Close", |emulator, _| emulator.faults().close_connections(1001, "")),
        ("a failed write", |emulator, client| {
            emulator.faults().reset_connections();
            let write = client.fire_and_forget(Publish::new("other", "x").timeout(ms(5000)));
            write.expect("written, at the latest on the next link");
        }),
    ];
    for ((way, lose), tls) in ways.into_iter().flat_map(|way| [(way, false), (way, true)]) {
        if tls && !cfg!(feature = "_tls") {
            continue;
        }
        let emulator = Emulator::builder().tls(tls).start().expect("emulator");
        let client = behind(&emulator, quick(&emulator).tls(emulator.tls_config()));
        let lost = Instant::now();
        lose(&emulator, &client);
        let recovered = emulator.wait_until(ms(1000), |s| s.recoveries_accepted == 1);
        assert!(recovered, "{way}, TLS {tls}: not recovered after {:?}", lost.elapsed());
        let numbers = take(&client, SENT);
        assert!(is_complete(&numbers, SENT), "{way}, TLS {tls}: {numbers:?}");
        assert_eq!(emulator.stats().connections_opened, 1, "{way}, TLS {tls}");
    }
}

/// The session is kept for a shorter time than the consumer needs for its queue.
fn all_arrive(retention: Duration, busy: Duration) {
    let emulator = Emulator::builder()
        .limits(|limits| limits.retention = retention)
        .start()
        .expect("emulator");
    let client = quick(&emulator)
        .recovery(Recovery::new().attempt_interval(ms(20)).give_up_after(retention))
        .connect()
        .expect("connect");
    client.join_group("g").expect("join");
    // As many as the service bears unacknowledged; then more than the queue holds.
    send(&emulator, "g", 0..900);
    eventually("read", || client.stats().messages_in >= 900);
    eventually("acknowledged", || emulator.connections("hub").iter().all(|c| c.unacked < 500));
    send(&emulator, "g", 900..1100);
    eventually("full", || client.stats().queue_len > 1024);
    emulator.faults().drop_connections();
    thread::sleep(busy);
    send(&emulator, "g", 1100..1120);
    let numbers = take(&client, 1120);
    assert!(is_complete(&numbers, 1120), "{} of 1120 arrived", numbers.len());
    assert_eq!(emulator.stats().connections_opened, 1, "the session was lost");
}

#[test]
fn nothing_is_lost_with_the_link_while_the_consumer_is_busy() {
    all_arrive(ms(1000), ms(1500));
}

#[test]
#[ignore = "takes 35 s"]
fn nothing_is_lost_while_the_consumer_is_busy_for_longer_than_the_service_waits() {
    all_arrive(Duration::from_secs(30), Duration::from_secs(33));
}

const PLAIN: &str = "Sec-WebSocket-Protocol: json.webpubsub.azure.v1\r\n";

#[test]
fn what_a_plain_link_brought_comes_before_the_news_of_its_loss() {
    // What the reader does not take fits into the system's buffer, so that the end is seen behind it.
    const FLOOD: u64 = 1500;
    for by_reset in [false, true] {
        let (send, lose) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (asked, told) = (Arc::clone(&send), Arc::clone(&lose));
        let fake = Fake::start(move |mut stream| {
            use std::io::Write;
            upgrade_by_hand(&mut stream, PLAIN);
            stream.write_all(&peer::connected()).expect("write");
            eventually("asked to", || asked.load(SeqCst));
            let mut frames = Vec::new();
            for i in 0..FLOOD {
                frames.extend(peer::text(&format!(
                    r#"{{"type":"message","from":"group","group":"g","dataType":"text","data":"{i}"}}"#
                )));
            }
            if !by_reset {
                frames.extend(peer::close(4001));
            }
            stream.write_all(&frames).expect("write");
            eventually("told to", || told.load(SeqCst));
            if by_reset {
                peer::reset(stream);
            }
        });
        let builder = Client::builder(fake.url()).protocol(Protocol::Json).reconnect(None);
        let client = builder
            .event_queue(Some(QueueConfig::new().max_messages(10)))
            .connect()
            .expect("connect");
        // A queue that nobody asks for would drop what it has no room for.
        let events = client.events();
        send.store(true, SeqCst);
        eventually("full", || client.stats().queue_len > 10);
        // Now the reader takes as much more as it may.
        thread::sleep(ms(200));
        lose.store(true, SeqCst);
        let lost = Instant::now();
        while client.state().is_connected() && lost.elapsed() < ms(1000) {
            thread::sleep(ms(5));
        }
        assert!(!client.state().is_connected(), "by reset {by_reset}: not noticed within 1 s");
        let events: Vec<Event> = events.iter().collect();
        let is_message = |event: &&Event| matches!(event, Event::GroupMessage(_));
        let messages = events.iter().filter(is_message).count() as u64;
        // A reset takes away what the system still holds.
        let least = if by_reset { 1000 } else { FLOOD };
        assert!(messages >= least, "by reset {by_reset}: {messages} messages");
        let behind: Vec<_> =
            events.iter().skip_while(|e| !matches!(e, Event::Disconnected(_))).collect();
        let [Event::Disconnected(lost), Event::Stopped(_)] = behind[..] else {
            panic!("by reset {by_reset}: {behind:?}");
        };
        // The Close frame stood behind all that the reader had no room for.
        assert_eq!(lost.cause.close_code(), (!by_reset).then_some(4001));
    }
}

#[test]
fn fire_and_forget_on_a_dead_link_waits_for_the_next_one() {
    let emulator = emulator();
    let receiver = client(&emulator);
    receiver.join_group("g").expect("join");
    let sender = behind(&emulator, quick(&emulator));
    emulator.faults().refuse_recoveries(1_000_000, 502);
    emulator.faults().drop_connection(&sender.connection_id().expect("connected"));
    assert!(emulator.wait_until(ms(5000), |s| s.currently_open == 1));
    thread::sleep(ms(100));

    let fire =
        |i: u64, limit| sender.fire_and_forget(Publish::new("g", i.to_string()).timeout(limit));
    let mut accepted = 0;
    for i in 0..5 {
        let start = Instant::now();
        match fire(i, ms(100)) {
            Ok(()) => accepted += 1,
            Err(error) => {
                assert!(error.is_timeout() && !error.may_have_been_delivered(), "{error:?}");
                assert!(start.elapsed() >= ms(95), "{:?}", start.elapsed());
            }
        }
    }
    assert_eq!(accepted, 0, "of 5 were accepted without a link");
    thread::scope(|scope| {
        let fired = scope.spawn(|| {
            for i in 0..50 {
                fire(i, ms(10_000)).expect("sent on the next link");
            }
        });
        thread::sleep(ms(100));
        emulator.faults().refuse_recoveries(0, 502);
        fired.join().expect("joined");
    });
    let numbers = take(&receiver, 50);
    assert!(is_complete(&numbers, 50), "{numbers:?}");
}

#[test]
fn close_lets_all_that_was_read_into_the_queue_before_stopped() {
    let emulator = emulator();
    let client = behind(&emulator, quick(&emulator));
    thread::sleep(ms(100));
    client.close().expect("close");
    let events: Vec<Event> = client.events().iter().collect();
    assert!(matches!(events.last(), Some(Event::Stopped(_))), "{:?}", events.last());
    assert!(!events.iter().any(|e| matches!(e, Event::Lagged(_))), "{events:?}");
    let numbers = events.iter().filter_map(|event| match event {
        Event::GroupMessage(message) => Some(message.text().expect("text").to_owned()),
        _ => None,
    });
    let numbers: Vec<_> = numbers.collect();
    let expected: Vec<_> = (0..SENT).map(|i| i.to_string()).collect();
    assert_eq!(numbers, expected);
    assert_eq!(client.stats().dropped, 0);
}

#[test]
fn the_last_drops_are_reported_though_nothing_more_comes() {
    let emulator = emulator();
    let client = behind_with(&emulator, quick(&emulator), Overflow::DropNewest);
    eventually("dropped", || client.stats().dropped == SENT - 10);
    assert!(is_complete(&take(&client, 10), 10));
    let room = Instant::now();
    let event = client.recv_timeout(ms(1000)).expect("open");
    assert!(matches!(event, Some(Event::Lagged(50))), "after {:?}: {event:?}", room.elapsed());
    assert!(client.recv_timeout(ms(600)).expect("open").is_none(), "reported once");
}

/// A client that is so far behind that its connection may suffer from it.
fn far_behind(emulator: &Emulator) -> Client {
    let client = behind(emulator, quick(emulator));
    send(emulator, "full", SENT..900);
    eventually("read", || client.stats().messages_in >= 900);
    client
}

#[test]
fn a_full_queue_is_worth_a_warning() {
    const NAME: &str = "full-queue";
    log_of_threads();
    let emulator = emulator();
    let client = behind(&emulator, quick(&emulator).name(NAME));
    send(&emulator, "full", SENT..2 * SENT);
    eventually("read", || client.stats().messages_in >= 2 * SENT);
    let warnings = logged_by(NAME, "the event queue is full");
    let named = format!("[{NAME}] the event queue is full");
    assert!(matches!(&warnings[..], [one] if one.starts_with(&named)), "{warnings:?}");
}

fn names_the_queue(error: &webpubsub::Error) -> bool {
    let text = error.to_string();
    text.contains("the event queue is full (") && text.contains("`event_queue(None)`")
}

#[test]
fn the_timeout_and_the_recovery_that_a_full_queue_may_have_caused_name_it() {
    let emulator = emulator();
    let client = far_behind(&emulator);
    emulator.faults().hold_acks(true);
    let error = client.call(Publish::new("g", "x").timeout(ms(200))).expect_err("no ack");
    assert!(error.is_timeout() && names_the_queue(&error), "{error}");
    emulator.faults().drop_connections();
    // Only then somebody reads.
    assert!(emulator.wait_until(WATCHDOG, |s| s.recoveries_accepted == 1));
    let recovering = loop {
        if let Event::Recovering(recovering) = next_event(&client) {
            break recovering;
        }
    };
    assert!(names_the_queue(&recovering.cause), "{}", recovering.cause);
}

#[test]
fn so_does_the_end_of_the_session() {
    let emulator = emulator();
    let client = far_behind(&emulator);
    emulator.faults().close_connections(1008, "");
    assert!(emulator.wait_until(WATCHDOG, |s| s.connections_opened == 2));
    let lost = loop {
        if let Event::Disconnected(lost) = next_event(&client) {
            break lost;
        }
    };
    assert!(names_the_queue(&lost.cause), "{}", lost.cause);
}
