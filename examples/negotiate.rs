//! The usual deployment: the program asks its own app server for the client access URL, again for
//! each new connection, so that the token is always fresh.
//!
//! ```sh
//! cargo run --features emulator --example negotiate                                     # brings its own tiny app server
//! NEGOTIATE_URL='http://…/negotiate' cargo run --features emulator --example negotiate  # asks yours
//! ```
//!
//! The answer is a JSON object with the field `url`, as the service's server libraries make it.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use webpubsub::emulator::Emulator;
use webpubsub::{Attempt, Client, ClientAccess, Event, Reconnect, Role, UrlSource};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), BoxError> {
    let emulator = Arc::new(Emulator::start()?);
    let (negotiate, embedded) = match std::env::var("NEGOTIATE_URL") {
        Ok(url) => (url, false),
        Err(_) => (app_server(Arc::clone(&emulator))?, true),
    };
    println!("asking {negotiate} for client access URLs");

    let source = UrlSource::provider(move |attempt| ask(&negotiate, attempt));
    let reconnect = Reconnect::new().backoff(Duration::from_millis(100), Duration::from_secs(30));
    let client = Client::builder(source).reconnect(Some(reconnect)).connect()?;
    println!("connected as user {}", client.user_id().as_deref().unwrap_or("(none)"));
    client.join_group("chat")?;

    if embedded {
        // The service closes the connection for good; a new one needs a new URL.
        emulator.faults().close_connections(1008, "maintenance");
    }
    loop {
        match client.recv_timeout(Duration::from_secs(10))? {
            Some(Event::Connected(c)) if c.gap_possible => break,
            Some(Event::Disconnected(lost)) => println!("disconnected: {:#}", lost.cause),
            Some(Event::GroupMessage(m)) => println!("{}: {}", m.group, m.payload),
            Some(_) => {}
            None if embedded => return Err("no new connection within 10 s".into()),
            None => {} // a real service: stay and listen
        }
    }
    println!("connected anew with a fresh URL");
    client.publish("chat", "still a member")?;
    client.close()?;
    Ok(())
}

/// What the program under `/negotiate` is asked: one blocking HTTP request, which takes no longer
/// than the client waits.
fn ask(negotiate: &str, attempt: &Attempt) -> Result<String, BoxError> {
    let limit = Some(attempt.time_left());
    let request = ureq::get(negotiate).config().timeout_global(limit).build();
    let body = request.call()?.body_mut().read_to_string()?;
    let answer: serde_json::Value = serde_json::from_str(&body)?;
    let url = answer["url"].as_str().ok_or("the app server's answer has no field `url`")?;
    Ok(url.to_owned())
}

/// A stand-in for the app server: it knows the user, and mints a URL for each request.
fn app_server(emulator: Arc<Emulator>) -> Result<String, BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}/negotiate", listener.local_addr()?);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let access = ClientAccess::new()
                .user_id("anna")
                .role(Role::join_leave())
                .role(Role::send())
                .lifetime(Duration::from_secs(300));
            let Ok(url) = emulator.url_for("hub", &access) else { continue };
            // Read the request's head, then answer.
            let head = BufReader::new(&stream).lines();
            head.map_while(Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
            let body = serde_json::json!({ "url": url }).to_string();
            let _ = write!(
                &stream,
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
                 Connection: close\r\n\r\n{body}",
                body.len()
            );
            println!("(app server: minted a URL)");
        }
    });
    Ok(url)
}
