//! Clients that connect in the background.

use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use webpubsub::{Client, ErrorKind, Event, Publish, Reconnect};

use crate::support::{Fake, WATCHDOG, emulator, hold, next_event, within};

#[test]
fn close_ends_a_first_dial_that_hangs_and_those_who_wait_for_it() {
    within(WATCHDOG, || {
        let silent = Fake::start(hold);
        let client = Client::builder(silent.url()).connect_in_background().expect("started");
        let call = client.start(Publish::new("g", "x")).expect("waits");
        let early = client.wait_connected(Duration::from_millis(50)).expect_err("hangs");
        assert_eq!(early.kind(), ErrorKind::Timeout);
        let other = client.clone();
        let waiter = thread::spawn(move || other.wait_connected(Duration::MAX));
        thread::sleep(Duration::from_millis(50));
        let start = Instant::now();
        let _ = client.close();
        assert!(waiter.join().expect("joined").expect_err("closed").is_closed());
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        assert!(call.wait().expect_err("closed").is_closed());
    });
}

#[test]
fn calls_wait_for_the_first_connection() {
    within(WATCHDOG, || {
        let emulator = emulator();
        let client = Client::builder(emulator.url("hub")).connect_in_background().expect("started");
        client.publish("g", "x").expect("acked");
        client.wait_connected(Duration::MAX).expect("connected");
        assert!(matches!(next_event(&client), Event::Connected(e) if !e.gap_possible));
        client.close().expect("closed");
    });
}

#[test]
fn attempts_are_limited_as_after_a_loss() {
    within(WATCHDOG, || {
        let port =
            TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("addr").port();
        let url = format!("ws://127.0.0.1:{port}/client/hubs/h?access_token=SECRET");
        let ms = Duration::from_millis(1);
        let reconnect = Reconnect::new().backoff(ms, ms).max_attempts(Some(2));
        let client = Client::builder(url)
            .reconnect(Some(reconnect))
            .connect_in_background()
            .expect("started");
        assert_eq!(
            client.wait_connected(Duration::MAX).expect_err("stopped").kind(),
            ErrorKind::Connect
        );
        let events: Vec<Event> = client.events().iter().collect();
        assert!(
            matches!(&*events, [Event::Reconnecting(e), Event::Stopped(_)] if e.attempt == 2),
            "{events:?}"
        );
    });
}
