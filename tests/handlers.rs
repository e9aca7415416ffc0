//! A slow event handler is no dead peer: while it runs, the service answers nothing on that link.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use webpubsub::emulator::{Emulator, EventAnswer};
use webpubsub::{Client, Event, KeepAlive, Recovery, SendEvent, SimpleClient};

use crate::support::{WATCHDOG, eventually};

const INTERVAL: Duration = Duration::from_millis(200);
const DEAD_AFTER: Duration = Duration::from_millis(400);
const SLOW: Duration = Duration::from_secs(3);

/// An emulator whose event handler takes its time, and how often that ran.
fn slow_emulator() -> (Emulator, Arc<AtomicU32>) {
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    let builder = Emulator::builder().event_handler(move |event| {
        counted.fetch_add(1, SeqCst);
        thread::sleep(SLOW);
        EventAnswer::Message(event.payload.clone())
    });
    (builder.start().expect("emulator"), runs)
}

fn connect(emulator: &Emulator) -> Client {
    let builder = Client::builder(emulator.url("hub"))
        .keep_alive(Some(KeepAlive::new().ping_after(INTERVAL).dead_after(DEAD_AFTER)));
    builder.recovery(Recovery::new().attempt_interval(INTERVAL)).connect().expect("connect")
}

/// Nothing but messages and the first `Connected` came, and the handler ran once.
fn undisturbed(events: impl IntoIterator<Item = Event>, runs: &AtomicU32, emulator: &Emulator) {
    let mut events = events.into_iter().filter(|event| !matches!(event, Event::ServerMessage(_)));
    assert!(matches!(events.next(), Some(Event::Connected(_))));
    let more = events.next();
    assert!(more.is_none(), "{more:?}");
    assert_eq!(runs.load(SeqCst), 1, "runs of the handler");
    assert_eq!(emulator.stats().upgrades_attempted, 1);
}

#[test]
fn a_slow_event_handler_is_no_dead_peer() {
    thread::scope(|scope| {
        scope.spawn(a_call_waits_for_it);
        scope.spawn(an_event_that_nobody_waits_for_keeps_the_link_too);
        scope.spawn(a_frame_of_a_simple_client_is_such_an_event);
    });
}

fn a_call_waits_for_it() {
    let (emulator, runs) = slow_emulator();
    let client = connect(&emulator);
    let start = Instant::now();
    let ack = client.send_event("slow", "x").expect("the handler's answer");
    assert!(start.elapsed() >= SLOW && !ack.duplicate);
    undisturbed(client.events().try_iter(), &runs, &emulator);
    // Pings go on; the emulator reads them when its handler is through.
    assert!(emulator.wait_until(WATCHDOG, |s| s.pings >= 5), "{:?}", emulator.stats());
}

fn an_event_that_nobody_waits_for_keeps_the_link_too() {
    let (emulator, runs) = slow_emulator();
    let client = connect(&emulator);
    client.fire_and_forget(SendEvent::new("slow", "x")).expect("sent");
    assert!(emulator.wait_until(WATCHDOG, |s| s.events == 1));
    client.publish("g", "x").expect("acked behind it");
    undisturbed(client.events().try_iter(), &runs, &emulator);
}

fn a_frame_of_a_simple_client_is_such_an_event() {
    let (emulator, runs) = slow_emulator();
    let builder = SimpleClient::builder(emulator.url("hub"))
        .keep_alive(Some(KeepAlive::new().ping_after(INTERVAL).dead_after(DEAD_AFTER)));
    let client = builder.connect().expect("connect");
    client.send("x").expect("sent");
    let answered = || client.stats().messages_in == 1 || !client.state().is_connected();
    eventually("answered", answered);
    undisturbed(client.events().try_iter(), &runs, &emulator);
}
