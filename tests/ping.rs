//! Round trips that a program asks for.

use std::thread;
use std::time::{Duration, Instant};

use webpubsub::emulator::StallAt;
use webpubsub::{Client, ErrorKind, KeepAlive, Reconnect, SimpleClient};

use crate::support::{WATCHDOG, emulator, within};

const SHORT: Duration = Duration::from_millis(300);

#[test]
fn each_of_many_threads_gets_the_pong_of_its_own_ping_beside_the_keep_alive() {
    const LATENCY: Duration = Duration::from_millis(20);
    within(WATCHDOG, || {
        let emulator = emulator();
        emulator.faults().latency(Some(LATENCY));
        let keep_alive = KeepAlive::new().ping_after(Duration::from_millis(7));
        let client = Client::builder(emulator.url("hub")).keep_alive(Some(keep_alive.clone()));
        let client = client.connect().expect("connected");
        let simple = SimpleClient::builder(emulator.url("hub")).keep_alive(Some(keep_alive));
        let simple = simple.connect().expect("connected");
        thread::scope(|scope| {
            for n in 0..8 {
                let (client, simple) = (&client, &simple);
                scope.spawn(move || {
                    for _ in 0..10 {
                        let begun = Instant::now();
                        let round_trip = if n % 2 == 0 { client.ping() } else { simple.ping() };
                        let round_trip = round_trip.expect("answered");
                        assert!(round_trip <= begun.elapsed(), "that of an earlier ping");
                        // The fault does not delay WebSocket Pongs.
                        let least = if n % 2 == 0 { LATENCY } else { Duration::ZERO };
                        assert!(round_trip >= least, "that of a later ping: {round_trip:?}");
                        thread::sleep(Duration::from_millis(3 * n));
                    }
                });
            }
        });
        assert!(client.stats().last_round_trip.is_some());
        client.close().expect("closed");
        simple.close().expect("closed");
    });
}

#[test]
fn without_a_pong_a_ping_ends_at_its_limit() {
    within(WATCHDOG, || {
        let emulator = emulator();
        let client = Client::builder(emulator.url("hub")).call_timeout(SHORT);
        let client = client.connect().expect("connected");
        emulator.faults().freeze(true);
        let begun = Instant::now();
        let error = client.ping().expect_err("no pong");
        assert!(error.is_timeout(), "{error:?}");
        assert!((SHORT..SHORT * 5).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        emulator.faults().freeze(false);
        // The late pong is not taken for that of the next ping.
        client.ping().expect("answered");
        client.close().expect("closed");
    });
}

#[test]
fn a_loss_and_a_close_end_the_wait_for_a_pong_at_once() {
    within(WATCHDOG, || {
        let emulator = emulator();
        let reconnect = Some(Reconnect::new());
        let client = Client::builder(emulator.url("hub")).reconnect(reconnect.clone());
        let client = client.connect().expect("connected");
        let simple = SimpleClient::builder(emulator.url("hub")).reconnect(reconnect);
        let simple = simple.connect().expect("connected");
        emulator.faults().freeze(true);
        thread::scope(|scope| {
            let pings = [
                scope.spawn(|| client.ping()),
                scope.spawn(|| client.ping()),
                scope.spawn(|| simple.ping()),
            ];
            thread::sleep(Duration::from_millis(50));
            // Nobody can connect again.
            emulator.faults().stall(StallAt::Upgrade, true);
            let begun = Instant::now();
            emulator.faults().reset_connections();
            for ping in pings {
                let error = ping.join().expect("no panic").expect_err("lost");
                assert_eq!(error.kind(), ErrorKind::Disconnected);
            }
            assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        });
        assert_eq!(client.ping().expect_err("down").kind(), ErrorKind::Disconnected);
        emulator.faults().clear();
        client.wait_connected(WATCHDOG).expect("connected again");
        client.ping().expect("answered");
        emulator.faults().freeze(true);
        thread::scope(|scope| {
            let ping = scope.spawn(|| client.ping());
            thread::sleep(Duration::from_millis(50));
            let begun = Instant::now();
            let _ = client.close();
            assert!(ping.join().expect("no panic").expect_err("closed").is_closed());
            assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        });
        assert!(client.ping().expect_err("closed").is_closed());
    });
}
