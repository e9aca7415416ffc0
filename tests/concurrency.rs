//! Many threads on one client, floods, idleness, both directions at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use webpubsub::emulator::Emulator;
use webpubsub::{Client, Event, Publish};

use crate::support::{WATCHDOG, client, emulator, next_group_message, within};

#[test]
fn p01_no_ack_is_lost_however_fast_it_comes() {
    const THREADS: usize = 8;
    const CALLS: usize = 10_000;
    let emulator = emulator();
    let client = Client::builder(emulator.url("hub")).event_queue(None).connect().expect("connect");
    let slowest = within(Duration::from_secs(120), {
        let client = client.clone();
        move || {
            let run = || {
                let worst = |_| {
                    let start = Instant::now();
                    client.publish("g", "x").expect("ack");
                    start.elapsed()
                };
                (0..CALLS).map(worst).max().unwrap_or_default()
            };
            thread::scope(|s| {
                let workers: Vec<_> = (0..THREADS).map(|_| s.spawn(run)).collect();
                workers.into_iter().map(|w| w.join().expect("joined")).max()
            })
        }
    });
    // A missed wake-up would sit out its 30 s.
    assert!(slowest < Some(Duration::from_secs(10)), "{slowest:?}");
    assert_eq!(emulator.stats().acks, (THREADS * CALLS) as u64);
    assert_eq!(client.stats().calls_pending, 0);
}

#[test]
fn a_caller_who_never_drains_still_gets_its_acks() {
    let emulator = emulator();
    let (victim, flooder) = (client(&emulator), client(&emulator));
    victim.join_group("flood").expect("join");
    let stop = Arc::new(AtomicBool::new(false));
    let flood = thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let body = "x".repeat(256);
            let mut sent = 0u32;
            while !stop.load(Ordering::Relaxed) && sent < 100_000 {
                flooder.call(Publish::new("flood", body.as_str())).expect("send");
                sent += 1;
            }
        }
    });
    let queued = within(Duration::from_secs(120), {
        let victim = victim.clone();
        move || {
            // Calls until the queue has long passed its soft bound.
            let end = Instant::now() + Duration::from_secs(60);
            while victim.stats().queue_len < 3000 && Instant::now() < end {
                victim.call(Publish::new("elsewhere", "mine")).expect("ack");
            }
            victim.stats().queue_len
        }
    });
    stop.store(true, Ordering::Relaxed);
    flood.join().expect("joined");
    assert!(queued >= 3000, "the queue reached only {queued}");
    assert!(queued <= 16 * 1024 + 1);
    victim.close().expect("close");
}

#[test]
fn each_threads_order_is_the_order_on_the_wire() {
    const THREADS: usize = 4;
    const MESSAGES: usize = 50_000;
    // The receiver gets everything: it must not lose its session to the service's own bounds.
    let emulator = Emulator::builder()
        .limits(|l| {
            l.unacked_messages = usize::MAX;
            l.outbound_frames = usize::MAX;
            l.unacked_bytes = usize::MAX;
            l.outbound_bytes = usize::MAX;
        })
        .start()
        .expect("emulator");
    let (sender, receiver) = (client(&emulator), client(&emulator));
    receiver.join_group("g").expect("join");
    within(Duration::from_secs(240), move || {
        thread::scope(|s| {
            for t in 0..THREADS {
                let sender = &sender;
                s.spawn(move || {
                    for i in 0..MESSAGES {
                        let text = format!("{t} {i}");
                        sender.fire_and_forget(Publish::new("g", text)).expect("fire");
                    }
                });
            }
            let mut next = [0; THREADS];
            for _ in 0..THREADS * MESSAGES {
                let message = next_group_message(&receiver);
                let text = message.text().expect("text");
                let (t, i) = text.split_once(' ').expect("two numbers");
                let (t, i): (usize, usize) = (t.parse().expect("t"), i.parse().expect("i"));
                assert_eq!(next[t], i, "thread {t}");
                next[t] += 1;
            }
        });
    });
}

/// Voluntary context switches of the reader threads of this process, by the kernel's count.
#[cfg(target_os = "linux")]
fn reader_switches() -> Vec<(String, u64)> {
    let mut found = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").expect("proc").flatten() {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let switches = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
        if name.trim() == "idle-reader" {
            let n = switches.and_then(|s| s.trim().parse().ok()).unwrap_or(0);
            found.push((task.file_name().to_string_lossy().into_owned(), n));
        }
    }
    found
}

#[cfg(target_os = "linux")]
#[test]
fn an_idle_client_never_wakes_up() {
    let emulator = emulator();
    let client = Client::builder(emulator.url("hub"))
        .name("idle-reader")
        .keep_alive(None)
        .connect()
        .expect("connect");
    client.join_group("g").expect("join");
    client.publish("g", "x").expect("send");
    next_group_message(&client);
    // Let the acknowledgement of that message leave, which is due after 500 ms.
    thread::sleep(Duration::from_millis(1500));
    let before = reader_switches();
    assert_eq!(before.len(), 1);
    thread::sleep(Duration::from_secs(3));
    assert_eq!(reader_switches(), before);
    client.publish("g", "still there").expect("send");
}

#[cfg(feature = "_tls")]
#[test]
fn four_megabytes_both_ways_at_once_over_tls() {
    const MESSAGES: usize = 64;
    let emulator = Emulator::builder().tls(true).start().expect("emulator");
    let connect = || {
        Client::builder(emulator.url("hub"))
            .tls(emulator.tls_config())
            .socket_buffer_size(16 * 1024)
            .connect()
            .expect("connect")
    };
    let clients = [connect(), connect()];
    clients[0].join_group("to-0").expect("join");
    clients[1].join_group("to-1").expect("join");
    within(Duration::from_secs(120), move || {
        thread::scope(|s| {
            for me in 0..2 {
                let clients = &clients;
                s.spawn(move || {
                    let group = format!("to-{}", 1 - me);
                    for i in 0..MESSAGES {
                        let body = format!("{i} {}", "x".repeat(64 * 1024));
                        clients[me].fire_and_forget(Publish::new(&group, body)).expect("fire");
                    }
                });
                s.spawn(move || {
                    for i in 0..MESSAGES {
                        let message = next_group_message(&clients[me]);
                        assert!(message.text().expect("text").starts_with(&format!("{i} ")));
                    }
                });
            }
        });
    });
}

#[test]
fn events_can_be_selected_beside_other_channels() {
    let emulator = emulator();
    let client = client(&emulator);
    let events = client.events();
    let (tx, rx) = crossbeam_channel::bounded::<u8>(1);
    let mut seen = Vec::new();
    tx.send(1).expect("send");
    while seen.len() < 2 {
        webpubsub::crossbeam_channel::select! {
            recv(rx) -> n => seen.push(format!("number {}", n.expect("open"))),
            recv(events) -> event => match event.expect("open") {
                Event::Connected(_) => seen.push("connected".into()),
                other => panic!("unexpected {other:?}"),
            },
            default(WATCHDOG) => panic!("watchdog"),
        }
        if seen.len() == 1 && seen[0].starts_with("number") {
            continue;
        }
    }
    seen.sort();
    assert_eq!(seen, ["connected", "number 1"]);
}
