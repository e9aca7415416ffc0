//! The PubSub client: joins the group `group1`, prints the outcome, then prints what comes.
//!
//! ```sh
//! cargo run --features emulator --example pubsub                          # against the embedded emulator
//! WEBPUBSUB_URL='wss://…' cargo run --features emulator --example pubsub  # against the real service
//! ```
//!
//! With the embedded emulator others publish to the group and then the service closes the
//! connection, so the program ends by itself. With a URL it runs until you press Ctrl-C; the URL's
//! token needs the role to join `group1` (`webpubsub.joinLeaveGroup.group1`).

use std::thread;
use std::time::Duration;

use webpubsub::emulator::Emulator;
use webpubsub::{Client, Event, Reconnect};

const HUB: &str = "pubsub";
const GROUP: &str = "group1";

fn main() -> webpubsub::Result<()> {
    let (url, emulator) = match std::env::var("WEBPUBSUB_URL") {
        Ok(url) => (url, None),
        Err(_) => {
            println!("WEBPUBSUB_URL is not set: using the embedded emulator");
            let emulator = Emulator::start()?;
            (emulator.url(HUB), Some(emulator))
        }
    };

    // The last act of the emulator is to close the connection, and here that is the end. A client
    // with default settings would make a new connection and join its groups again.
    let client =
        Client::builder(url).reconnect(emulator.is_none().then(Reconnect::new)).connect()?;
    println!("connected as {}; Ctrl-C ends", client.connection_id().as_deref().unwrap_or("?"));

    // The handler runs on a thread of its own, so it may block while the client closes.
    let for_ctrl_c = client.clone();
    ctrlc::set_handler(move || drop(for_ctrl_c.close())).expect("a handler for Ctrl-C");

    match client.join_group(GROUP) {
        Ok(ack) => println!("joined `{GROUP}` (ack {})", ack.ack_id),
        Err(e) if e.is_refused() => {
            println!("not joined: {e}"); // we go on, and see only what the service sends to us
        }
        Err(e) => return Err(e),
    }
    let service = emulator.map(|emulator| thread::spawn(move || play_the_others(&emulator)));

    let mut end = None;
    for event in client.events() {
        print(&event);
        if let Event::Stopped(stopped) = event {
            end = Some(stopped.cause);
        }
    }
    let played = service.is_some();
    if let Some(service) = service {
        service.join().expect("the service's side does not panic")?;
    }
    match end {
        Some(cause) if !played && !cause.is_closed() => Err(cause), // such as an expired token
        _ => Ok(()),
    }
}

fn print(event: &Event) {
    match event {
        Event::GroupMessage(m) => println!("from the group `{}`: {}", m.group, m.payload),
        Event::ServerMessage(m) => println!("from the service: {}", m.payload),
        Event::Connected(c) if c.gap_possible => {
            println!("connected anew; messages may be missing")
        }
        Event::Recovering(r) => println!("link lost, recovering: {:#}", r.cause),
        Event::Recovered(r) => println!("recovered; {} messages came again", r.replayed),
        Event::Disconnected(d) => match &d.service_message {
            Some(why) => println!("disconnected: {:#} ({why})", d.cause),
            None => println!("disconnected: {:#}", d.cause),
        },
        Event::Reconnecting(r) => println!("attempt {} in {:.1?}", r.attempt, r.delay),
        Event::JoinFailed(r) => println!("not joined again: `{}`: {:#}", r.group, r.error),
        Event::Stopped(s) => println!("stopped: {:#}", s.cause),
        _ => {}
    }
}

/// What other clients and an app server would do; in between, a lost link that is recovered.
fn play_the_others(emulator: &Emulator) -> webpubsub::Result<()> {
    let pause = || thread::sleep(Duration::from_millis(300));
    emulator.send_to_group(HUB, GROUP, "hello, group")?;
    pause();
    for connection in emulator.connections(HUB) {
        emulator.faults().drop_connection(&connection.id);
    }
    emulator.send_to_group(HUB, GROUP, "sent while the link was down")?;
    let _ = emulator.wait_until(Duration::from_secs(5), |s| s.recoveries_accepted > 0);
    pause();
    emulator.send_to_all(HUB, "that was all")?;
    for connection in emulator.connections(HUB) {
        emulator.close_connection(HUB, &connection.id, Some("closed by the app server"));
    }
    let _ = emulator.wait_until(Duration::from_secs(5), |s| s.currently_open == 0);
    Ok(())
}
