//! The main job, step by step: connect, join a group, publish, get the ack, receive, stop.
//!
//! ```sh
//! cargo run --features emulator --example quickstart                          # against the embedded emulator
//! WEBPUBSUB_URL='wss://…' cargo run --features emulator --example quickstart  # against the real service
//! ```

use std::time::Duration;

use webpubsub::emulator::Emulator;
use webpubsub::{Client, Event};

fn main() -> webpubsub::Result<()> {
    // The emulator, if there is one, lives until the end of `main`.
    let (url, _emulator) = match std::env::var("WEBPUBSUB_URL") {
        Ok(url) => (url, None),
        Err(_) => {
            println!("WEBPUBSUB_URL is not set: using the embedded emulator");
            let emulator = Emulator::start()?;
            (emulator.url("quickstart"), Some(emulator))
        }
    };

    let client = Client::connect(url)?;
    println!("connected as {}", client.connection_id().as_deref().unwrap_or("?"));

    let ack = client.join_group("chat")?;
    println!("joined the group `chat` (ack {})", ack.ack_id);

    let ack = client.publish("chat", "hello from Rust")?;
    println!("published a message (ack {})", ack.ack_id);

    // We are a member of the group, so our own message comes back.
    loop {
        match client.recv_timeout(Duration::from_secs(10))? {
            Some(Event::GroupMessage(m)) => {
                println!("received from `{}`: {}", m.group, m.text()?);
                break;
            }
            Some(_) => {} // lifecycle events, such as `Connected`
            None => panic!("no message within 10 s"),
        }
    }

    client.close()?;
    println!("stopped");
    Ok(())
}
