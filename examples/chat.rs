//! A chat: several people in one room, lines from standard input.
//!
//! ```sh
//! cargo run -q --features emulator --example chat -- anna kitchen  # name and room; both may be left out
//! ```
//!
//! Without `WEBPUBSUB_URL` an emulator is started inside this program, and the line to paste into
//! a second terminal is printed. With it all take part in the hub that it leads to; its token
//! needs the roles to join the room's group and to send to it. Several people may use the same
//! URL, so the name travels in the message and not as the connection's user id.
//!
//! Ctrl-C or the end of input leaves: what was typed is delivered first.

use std::io::BufRead as _;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use webpubsub::crossbeam_channel::{Receiver, bounded, select};
use webpubsub::emulator::Emulator;
use webpubsub::{Client, Event, Payload, Publish};

/// One line, as it travels.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    from: String,
    text: String,
}

fn main() -> webpubsub::Result<()> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| format!("guest-{}", std::process::id()));
    let room = args.next().unwrap_or_else(|| "lobby".to_owned());
    if args.next().is_some() || name.starts_with('-') {
        eprintln!("usage: chat [NAME [ROOM]]; the service's URL comes from WEBPUBSUB_URL");
        std::process::exit(2);
    }

    // The emulator, if there is one, lives until the end of `main`.
    let (url, _emulator) = match std::env::var("WEBPUBSUB_URL") {
        Ok(url) => (url, None),
        Err(_) => {
            let emulator = Emulator::start()?;
            let url = emulator.url("chat");
            println!(
                "WEBPUBSUB_URL is not set: using the embedded emulator. In a second terminal:"
            );
            println!(
                "    WEBPUBSUB_URL='{url}' cargo run -q --features emulator --example chat -- bob {room}"
            );
            (url, Some(emulator))
        }
    };

    let client = Client::connect(url)?;
    client.join_group(&room)?;
    say(&client, &room, &name, "(came in)")?;
    println!("you are `{name}` in `{room}`; end of input or Ctrl-C leaves");

    let (leave, ctrl_c) = bounded(1);
    ctrlc::set_handler(move || _ = leave.try_send(())).expect("a handler for Ctrl-C");
    let events = client.events();
    let lines = lines_of_standard_input();
    loop {
        select! {
            recv(lines) -> line => match line {
                Ok(line) => {
                    if let Err(e) = say(&client, &room, &name, &line) {
                        println!("(not sent: {e:#})");
                    }
                }
                Err(_) => break, // the end of the input
            },
            recv(events) -> event => match event {
                Ok(Event::Stopped(stopped)) => return Err(stopped.cause),
                Ok(event) => show(&event),
                Err(_) => break, // not before `Stopped`
            },
            recv(ctrl_c) -> _ => break,
        }
    }

    // Without a link this would wait for one, and whoever leaves does not want to wait for long.
    let good_bye = line(&name, "(left)")?;
    let said = client.call(Publish::new(&room, good_bye).no_echo().timeout(Duration::from_secs(2)));
    if let Err(e) = said {
        println!("(left without a good-bye: {e})");
    }
    client.close()?;
    events.iter().for_each(|event| show(&event)); // what came until the end
    println!("left");
    Ok(())
}

/// Sends one line to the others; returns when the service has it.
fn say(client: &Client, room: &str, name: &str, text: &str) -> webpubsub::Result<()> {
    client.call(Publish::new(room, line(name, text)?).no_echo())?;
    Ok(())
}

fn line(from: &str, text: &str) -> webpubsub::Result<Payload> {
    Payload::from_json(&Line { from: from.to_owned(), text: text.to_owned() })
}

fn show(event: &Event) {
    match event {
        Event::GroupMessage(message) => match message.json::<Line>() {
            Ok(line) => println!("{}: {}", line.from, line.text),
            Err(_) => println!("(somebody sent what is not a line of this chat)"),
        },
        Event::Recovering(_) => println!("(the link was lost; trying to recover it)"),
        Event::Recovered(_) => println!("(the link is back)"),
        Event::Disconnected(lost) => println!("(disconnected: {:#})", lost.cause),
        Event::Connected(c) if c.gap_possible => println!("(connected anew)"),
        _ => {}
    }
}

/// Standard input cannot be waited for together with anything else, so a thread reads it. It may
/// still be reading when `main` returns; the end of the program ends it.
fn lines_of_standard_input() -> Receiver<String> {
    let (sender, lines) = bounded(0);
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if !line.trim().is_empty() && sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}
