//! Who waits for streams: event loops and threads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use webpubsub::Client;

use super::Publisher;
use crate::support::{WATCHDOG, client, emulator, eventually};

#[test]
fn a_program_that_looks_only_when_woken_sees_streams_parts_and_ends() {
    let emulator = emulator();
    let (wake, wakes) = crossbeam_channel::bounded(1);
    let client = Client::builder(emulator.url("hub"))
        .on_wake(move || {
            let _ = wake.try_send(());
        })
        .connect()
        .expect("connect");
    let streams = client.subscribe_streams("g").expect("subscribe");
    let look_until = |what: &str, condition: &mut dyn FnMut() -> bool| {
        let end = Instant::now() + WATCHDOG;
        while !condition() {
            assert!(wakes.recv_deadline(end).is_ok(), "watchdog: no wake-up, never {what}");
        }
    };
    let mut publisher = Publisher::new(&emulator);
    for round in 0..20 {
        publisher.start("a");
        publisher.part("a", 1);
        let mut a = None;
        look_until("a stream", &mut || {
            a = a.take().or_else(|| streams.try_recv().expect("open"));
            a.is_some()
        });
        let mut a = a.expect("a stream");
        look_until("its part", &mut || a.try_recv().expect("open").is_some());
        publisher.part("a", 2);
        look_until("another part", &mut || a.try_recv().expect("open").is_some());
        match round % 2 {
            0 => publisher.end("a"),
            _ => publisher.abort("a", "", "E"),
        }
        look_until("the end", &mut || a.try_recv().is_err());
        assert_eq!(a.is_complete(), round % 2 == 0);
    }
}

#[test]
fn streams_are_read_by_threads_of_their_own() {
    let emulator = emulator();
    let client = client(&emulator);
    let streams = client.subscribe_streams("g").expect("subscribe");
    let parts = AtomicUsize::new(0);
    thread::scope(|s| {
        let parts = &parts;
        for _ in 0..4 {
            let streams = streams.receiver().clone();
            s.spawn(move || {
                for stream in streams {
                    parts.fetch_add(stream.into_iter().flatten().count(), Ordering::Relaxed);
                }
            });
        }
        let mut publisher = Publisher::new(&emulator);
        for n in 0..50 {
            publisher.whole(&n.to_string(), 10);
        }
        publisher.sync();
        eventually("all read", || parts.load(Ordering::Relaxed) == 500);
        streams.unsubscribe().expect("left");
    });
}
