//! The simple client: connects with a URL and prints what comes, as plain frames.
//!
//! ```sh
//! cargo run --features emulator --example simple                          # against the embedded emulator
//! WEBPUBSUB_URL='wss://…' cargo run --features emulator --example simple  # against the real service
//! ```
//!
//! With the embedded emulator the service's side says something and closes the connection, so the
//! program ends by itself. With a URL it runs until the service closes or you press Ctrl-C. To see
//! something then, send to the hub from the app server or from the Azure portal.

use std::thread;
use std::time::Duration;

use webpubsub::emulator::Emulator;
use webpubsub::{Error, ErrorKind, Event, Payload, SimpleClient};

const HUB: &str = "simple";

fn main() -> webpubsub::Result<()> {
    let (url, emulator) = match std::env::var("WEBPUBSUB_URL") {
        Ok(url) => (url, None),
        Err(_) => {
            println!("WEBPUBSUB_URL is not set: using the embedded emulator");
            let emulator = Emulator::start()?;
            (emulator.url(HUB), Some(emulator))
        }
    };

    let client = SimpleClient::connect(url)?;
    println!("connected; Ctrl-C ends");

    // The handler runs on a thread of its own, so it may block while the client closes.
    let for_ctrl_c = client.clone();
    ctrlc::set_handler(move || drop(for_ctrl_c.close())).expect("a handler for Ctrl-C");
    let service = emulator.map(|emulator| thread::spawn(move || play_the_service(&emulator)));

    let end = print_events(&client);
    if let Some(service) = service {
        service.join().expect("the service's side does not panic")?;
    }
    match end {
        Some(cause) if !is_orderly(&cause) => Err(cause),
        _ => Ok(()),
    }
}

/// Prints until the queue ends; gives what ended the client.
fn print_events(client: &SimpleClient) -> Option<Error> {
    let mut end = None;
    for event in client.events() {
        match event {
            Event::ServerMessage(message) => match &message.payload {
                Payload::Text(text) => println!("text: {text}"),
                other => println!("{} bytes: {:?}", other.as_bytes().len(), other.as_bytes()),
            },
            Event::Disconnected(lost) => println!("disconnected: {:#}", lost.cause),
            Event::Stopped(stopped) => end = Some(stopped.cause),
            _ => {}
        }
    }
    println!("stopped");
    end
}

/// Closed by us, or by the service in a friendly way.
fn is_orderly(cause: &Error) -> bool {
    cause.kind() == ErrorKind::Closed || cause.close_code() == Some(1000)
}

/// What an app server would do.
fn play_the_service(emulator: &Emulator) -> webpubsub::Result<()> {
    for text in ["hello", "this comes from the service's side", "good bye"] {
        emulator.send_to_all(HUB, text)?;
        thread::sleep(Duration::from_millis(300));
    }
    emulator.send_to_all(HUB, b"\x00\x01\x02")?;
    for connection in emulator.connections(HUB) {
        emulator.close_connection(HUB, &connection.id, Some("that was all"));
    }
    let _ = emulator.wait_until(Duration::from_secs(5), |stats| stats.currently_open == 0);
    Ok(())
}
