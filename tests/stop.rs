//! Stop wins in every state: `close` from another thread, and the drop of the last handle.
//!
//! This file is compiled once for each reliable subprotocol; see `all.rs`.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use webpubsub::emulator::{Emulator, StallAt};
use webpubsub::{
    Client, ClientBuilder, Event, Publish, QueueConfig, Reconnect, Recovery, UrlSource,
};

use crate::examples::example;
use crate::support::{WATCHDOG, emulator, eventually, threads_named};

const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
static RUN: AtomicU32 = AtomicU32::new(0);
/// Of the clients' threads; the runs go side by side.
const NAME: &str = if super::RELIABLE.is_text() { "stop-j" } else { "stop-p" };

/// Short retry times, and a thread name of its own to count.
fn quick(builder: ClientBuilder, name: &str) -> ClientBuilder {
    let ms = Duration::from_millis;
    builder
        .protocol(super::RELIABLE)
        .reconnect(Some(Reconnect::new().backoff(ms(20), ms(20))))
        .recovery(Recovery::new().attempt_interval(ms(20)))
        .name(name)
}

/// Brings a client into a state, stops it in both ways, and looks at what is left.
fn matrix(state: &str, tls: bool, bring: impl Fn(&Emulator, ClientBuilder) -> Client) {
    let prompt = !state.starts_with("blocked writer") && !state.starts_with("no connected");
    if tls && cfg!(not(feature = "_tls")) {
        return;
    }
    for way in ["close", "drop"] {
        let emulator = Emulator::builder().tls(tls).start().expect("emulator");
        let name = format!("{NAME}-{}", RUN.fetch_add(1, Ordering::Relaxed));
        let builder = Client::builder(emulator.url("hub")).tls(emulator.tls_config());
        let client = bring(&emulator, quick(builder, &name));
        let events = client.events().clone();
        let start = Instant::now();
        if way == "close" {
            let other = client.clone();
            // A flush that the peer does not take is reported, but never holds us.
            let closer = thread::spawn(move || drop(other.close()));
            closer.join().expect("joined");
            let late = client.join_group("g").expect_err("closed");
            assert!(late.is_closed(), "{state}: {late:?}");
        }
        drop(client);
        let took = start.elapsed();
        // Closing waits for its timeout only where a peer takes nothing or does not answer;
        // dropping at most for one slice of a blocked write.
        let limit = if prompt { CLOSE_TIMEOUT } else { CLOSE_TIMEOUT * 5 };
        assert!(took < limit, "{state} {way}: {took:?}");
        if way == "drop" {
            assert!(took < Duration::from_secs(1), "{state} drop: {took:?}");
        }
        eventually(&format!("{state} {way}: thread gone"), || threads_named(&name) == 0);
        let all: Vec<Event> = events.iter().collect();
        assert!(matches!(all.last(), Some(Event::Stopped(_))), "{state} {way}: {:?}", all.last());
        emulator.faults().clear();
        assert!(
            emulator.wait_until(WATCHDOG, |s| s.currently_open == 0),
            "{state} {way}: a socket is left"
        );
        // A stalled emulator may still find the request of a connection that is gone by now.
        thread::sleep(Duration::from_millis(200));
        let attempts = emulator.stats().upgrades_attempted;
        thread::sleep(Duration::from_millis(300));
        assert_eq!(emulator.stats().upgrades_attempted, attempts, "{state} {way}: connected again");
    }
}

fn wait_for(client: &Client, wanted: impl Fn(&Event) -> bool) {
    loop {
        let event = client.recv_timeout(WATCHDOG).expect("open").expect("watchdog: no such event");
        if wanted(&event) {
            return;
        }
    }
}

#[test]
fn open_and_idle() {
    matrix("idle", false, |_, builder| builder.connect().expect("connect"));
    matrix("idle over TLS", true, |_, builder| builder.connect().expect("connect"));
}

#[test]
fn open_with_calls_under_way() {
    matrix("calls", false, |emulator, builder| {
        let client = builder.connect().expect("connect");
        emulator.faults().hold_acks(true);
        let pending: Vec<_> =
            (0..2000).map(|_| client.start(Publish::new("g", "x")).expect("start")).collect();
        // Each of them is told, though nobody may be left to close.
        thread::spawn(move || {
            for one in pending {
                assert!(one.wait().expect_err("ended").is_closed());
            }
        });
        client
    });
}

#[test]
fn open_with_a_full_queue() {
    matrix("full queue", false, |emulator, builder| {
        let client = builder
            .event_queue(Some(
                QueueConfig::new().max_messages(1).max_messages_during_calls(1).max_bytes(1 << 20),
            ))
            .connect()
            .expect("connect");
        for _ in 0..50 {
            emulator.send_to_all("hub", "x").expect("sent");
        }
        eventually("full", || client.stats().queue_len >= 1);
        client
    });
}

#[test]
fn open_with_a_peer_that_does_not_read() {
    matrix("blocked writer", false, |emulator, builder| {
        let client = builder.socket_buffer_size(8 * 1024).connect().expect("connect");
        emulator.faults().freeze(true);
        let full = Arc::new(AtomicBool::new(false));
        let writer = (client.clone(), Arc::clone(&full));
        thread::spawn(move || {
            let body = "x".repeat(500_000);
            let (client, full) = writer;
            for _ in 0..100 {
                let limit = Duration::from_millis(200);
                let sent = client.fire_and_forget(Publish::new("g", body.as_str()).timeout(limit));
                if sent.is_err() {
                    break;
                }
            }
            full.store(true, Ordering::SeqCst);
        });
        eventually("full", || full.load(Ordering::SeqCst));
        client
    });
}

#[test]
fn j01_recovering_against_refusals() {
    matrix("recovering", false, |emulator, builder| {
        let client = builder.connect().expect("connect");
        emulator.faults().refuse_recoveries(1_000_000, 502);
        emulator.faults().drop_connections();
        wait_for(&client, |e| matches!(e, Event::Recovering(_)));
        let before = emulator.stats().upgrades_attempted;
        assert!(emulator.wait_until(WATCHDOG, |s| s.upgrades_attempted > before + 2));
        client
    });
}

#[test]
fn p07_in_backoff_and_in_refused_reconnects() {
    matrix("refused reconnects", false, |emulator, builder| {
        let client = builder.connect().expect("connect");
        emulator.faults().refuse_next_upgrades(1_000_000, 503, None);
        emulator.faults().close_connections(1008, "");
        let before = emulator.stats().upgrades_attempted;
        assert!(emulator.wait_until(WATCHDOG, |s| s.upgrades_attempted > before + 2));
        client
    });
    matrix("long backoff", false, |emulator, builder| {
        let hour = Duration::from_secs(3600);
        let client = builder
            .reconnect(Some(Reconnect::new().backoff(hour, hour)))
            .connect()
            .expect("connect");
        emulator.faults().close_connections(1008, "");
        wait_for(&client, |e| matches!(e, Event::Reconnecting(_)));
        client
    });
}

fn stalled(state: &str, tls: bool, at: StallAt) {
    for recover in [false, true] {
        matrix(&format!("{state}, recovery: {recover}"), tls, |emulator, builder| {
            let client = builder.connect().expect("connect");
            emulator.faults().stall(at, true);
            if recover {
                emulator.faults().drop_connections();
                wait_for(&client, |e| matches!(e, Event::Recovering(_)));
            } else {
                emulator.faults().close_connections(1008, "");
                wait_for(&client, |e| matches!(e, Event::Reconnecting(_)));
            }
            // By now the attempt hangs, or is about to: both must be cut short.
            thread::sleep(Duration::from_millis(100));
            client
        });
    }
}

#[test]
fn dialing_with_a_peer_that_does_not_accept() {
    stalled("stalled accept", false, StallAt::Accept);
}

#[test]
fn dialing_with_a_stalled_tls_handshake() {
    stalled("stalled TLS", true, StallAt::Tls);
}

#[test]
fn v07_dialing_with_a_stalled_upgrade() {
    stalled("stalled upgrade", false, StallAt::Upgrade);
    stalled("stalled upgrade over TLS", true, StallAt::Upgrade);
}

#[test]
fn j15_dialing_without_connected() {
    stalled("no connected", false, StallAt::Connected);
}

fn anonymous() -> Emulator {
    Emulator::builder().allow_anonymous(true).start().expect("emulator")
}

/// The audience of a token names the host, so these need a hub without tokens.
fn by_name(emulator: &Emulator) -> String {
    emulator.url("hub").split('?').next().expect("path").to_owned()
}

#[test]
fn c03_in_the_name_look_up_and_in_the_tcp_connection() {
    // A listener whose backlog is full swallows connections.
    let hole = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = hole.local_addr().expect("address");
    let mut fill = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        fill.push(stream);
    }
    // A name that is looked up for ever; one address that hangs; two that race.
    for hanging in [0, 1, 2] {
        let look_up = hanging == 0;
        for way in ["close", "drop"] {
            let emulator = anonymous();
            let name = format!("{NAME}-{}", RUN.fetch_add(1, Ordering::Relaxed));
            let first = SocketAddr::from(([127, 0, 0, 1], emulator.port()));
            let looked = Arc::new(AtomicU32::new(0));
            let seen = Arc::clone(&looked);
            let url = by_name(&emulator).replace("127.0.0.1", "service.test");
            let builder = Client::builder(url).resolver(move |_, _| {
                match seen.fetch_add(1, Ordering::SeqCst) {
                    0 => Ok(vec![first]),
                    _ if look_up => loop {
                        thread::park();
                    },
                    _ => Ok(vec![address; hanging]),
                }
            });
            let client = quick(builder, &name).connect().expect("connect");
            emulator.faults().drop_connections();
            eventually("looked up again", || looked.load(Ordering::SeqCst) > 1);
            thread::sleep(Duration::from_millis(50));
            let start = Instant::now();
            if way == "close" {
                client.close().expect("close");
            }
            drop(client);
            assert!(start.elapsed() < CLOSE_TIMEOUT * 5, "look-up {look_up} {way}");
            eventually("thread gone", || threads_named(&name) == 0);
            eventually("no dialing thread", || threads_named("webpubsub-dial") == 0);
            assert!(emulator.wait_until(WATCHDOG, |s| s.currently_open == 0));
        }
    }
}

#[test]
fn while_the_url_provider_hangs_and_from_inside_of_it() {
    for inside in [false, true] {
        let emulator = emulator();
        let name = format!("{NAME}-{}", RUN.fetch_add(1, Ordering::Relaxed));
        let asked = Arc::new(AtomicU32::new(0));
        let slot: Arc<std::sync::Mutex<Option<Client>>> = Arc::default();
        let url = emulator.url("hub");
        let (seen, from) = (Arc::clone(&asked), Arc::clone(&slot));
        let source = UrlSource::provider(move |_| -> Result<String, String> {
            if seen.fetch_add(1, Ordering::SeqCst) == 0 {
                return Ok(url.clone());
            }
            if inside {
                let client = from.lock().expect("lock").take().expect("client");
                client.close().map_err(|e| e.to_string())?;
                return Err("closed".into());
            }
            loop {
                thread::park();
            }
        });
        let client = quick(Client::builder(source), &name).connect().expect("connect");
        let events = client.events().clone();
        if inside {
            *slot.lock().expect("lock") = Some(client.clone());
        }
        emulator.faults().close_connections(1008, "");
        eventually("asked again", || asked.load(Ordering::SeqCst) > 1);
        if !inside {
            client.close().expect("close");
        }
        eventually("thread gone", || threads_named(&name) == 0);
        assert!(matches!(events.iter().last(), Some(Event::Stopped(_))));
    }
}

#[test]
fn j02_a_process_that_returns_from_main_after_close_ends_at_once() {
    // The quickstart is such a program.
    let mut quickstart = example("quickstart");
    let start = Instant::now();
    let status = quickstart.stdout(std::process::Stdio::null()).status().expect("started");
    assert!(status.success());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}
