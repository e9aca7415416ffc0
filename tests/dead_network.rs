//! A network that dies without a word. `ci/dead-network.sh` runs the two halves in network
//! namespaces of their own and cuts the link between them: with loopback alone nothing can.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use webpubsub::emulator::{Emulator, EventAnswer};
use webpubsub::{Client, ClientBuilder, Event, SendEvent};

use crate::support::within;

const LIMIT: Duration = Duration::from_secs(30);

fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; see ci/dead-network.sh"))
}

/// The emulator listens on loopback only, so its connections are relayed to it.
#[test]
#[ignore = "one half of ci/dead-network.sh"]
fn service() {
    let emulator = Emulator::builder()
        .allow_anonymous(true)
        .event_handler(|_| {
            thread::sleep(Duration::from_secs(60));
            EventAnswer::Nothing
        })
        .start()
        .expect("emulator");
    let listener = TcpListener::bind(setting("DEAD_NETWORK_ADDRESS")).expect("bind");
    for outside in listener.incoming().flatten() {
        let inside = TcpStream::connect(("127.0.0.1", emulator.port())).expect("emulator");
        let (from, to) = (outside.try_clone().expect("clone"), inside.try_clone().expect("clone"));
        thread::spawn(move || relay(from, to));
        thread::spawn(move || relay(inside, outside));
    }
}

fn relay(mut from: TcpStream, mut to: TcpStream) {
    let mut buf = [0; 4096];
    while let Ok(n) = from.read(&mut buf) {
        if n == 0 || to.write_all(&buf[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[test]
#[ignore = "one half of ci/dead-network.sh"]
fn clients() {
    let connect = |settings: fn(ClientBuilder) -> ClientBuilder| {
        let url = format!("ws://{}/client/hubs/hub", setting("DEAD_NETWORK_ADDRESS"));
        settings(Client::builder(url)).connect().expect("connect")
    };
    let silent = connect(|builder| builder.keep_alive(None));
    let writing = connect(|builder| builder.keep_alive(None));
    let writing_late = connect(|builder| builder.keep_alive(None));
    let waiting = connect(|builder| builder);
    // The service is silent from here on, as its handler runs.
    let call = waiting
        .start(SendEvent::new("slow", "x").timeout(Duration::from_secs(120)))
        .expect("start");

    let (ready, cut) = (setting("DEAD_NETWORK_READY"), PathBuf::from(setting("DEAD_NETWORK_CUT")));
    std::fs::write(ready, "").expect("write");
    within(LIMIT, move || {
        while !cut.exists() {
            thread::sleep(Duration::from_millis(10));
        }
    });
    let start = Instant::now();
    writing.fire_and_forget(SendEvent::new("unacknowledged", "x")).expect("written");
    let watch = |what: &'static str, client: &Client| {
        let client = client.clone();
        thread::spawn(move || {
            loop {
                let left = (LIMIT + Duration::from_secs(10)).saturating_sub(start.elapsed());
                match client.recv_timeout(left).expect("open") {
                    Some(Event::Recovering(lost)) => {
                        println!("{what}: {:.1} s: {}", start.elapsed().as_secs_f64(), lost.cause);
                        return start.elapsed() < LIMIT;
                    }
                    Some(_) => {}
                    None => {
                        println!("{what}: not noticed within {:?}", start.elapsed());
                        return false;
                    }
                }
            }
        })
    };
    let late = writing_late.clone();
    thread::spawn(move || {
        // As late as the ping of a client that heard something just before.
        thread::sleep(Duration::from_secs(10));
        late.fire_and_forget(SendEvent::new("unacknowledged", "x")).expect("written");
    });
    let watched = [
        watch("nothing under way, no keep-alive", &silent),
        watch("one unacknowledged write, no keep-alive", &writing),
        watch("one unacknowledged write after 10 s, no keep-alive", &writing_late),
        watch("pings while an event handler runs", &waiting),
    ];
    let noticed = watched.map(|thread| thread.join().expect("joined"));
    drop(call);
    assert!(noticed.iter().all(|in_time| *in_time), "noticed within {LIMIT:?}: {noticed:?}");
}
