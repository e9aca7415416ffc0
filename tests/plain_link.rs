//! A plain link is not overrun by what the client itself sends.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use webpubsub::{Client, Protocol, Publish};

use crate::support::{Fake, peer, upgrade_by_hand};

/// The service cuts a plain link for which this many frames are unsent, acks included.
const LIMIT: usize = 1000;

/// A service on a busy core: writes only when the client has nothing more to send until then.
fn answer_late(mut stream: std::net::TcpStream, most_unsent: &AtomicUsize) {
    upgrade_by_hand(&mut stream, "Sec-WebSocket-Protocol: json.webpubsub.azure.v1\r\n");
    stream.write_all(&peer::connected()).expect("write");
    let (call, calls) = mpsc::channel();
    let mut reads = stream.try_clone().expect("clone");
    thread::spawn(move || {
        while let Some((_, payload)) = peer::read_frame(&mut reads) {
            let _ = call.send(payload);
        }
    });
    while let Ok(first) = calls.recv() {
        let mut payloads = vec![first];
        while let Ok(next) = calls.recv_timeout(Duration::from_millis(20)) {
            payloads.push(next);
        }
        let ids = payloads.iter().filter_map(|payload| {
            serde_json::from_slice::<serde_json::Value>(payload).ok()?.get("ackId")?.as_u64()
        });
        let mut unsent = Vec::new();
        for id in ids {
            unsent.push(peer::text(&format!(r#"{{"type":"ack","ackId":{id},"success":true}}"#)));
            unsent.push(peer::text(
                r#"{"type":"message","from":"group","group":"g","dataType":"text","data":"x"}"#,
            ));
        }
        most_unsent.fetch_max(unsent.len(), SeqCst);
        if unsent.len() >= LIMIT || stream.write_all(&unsent.concat()).is_err() {
            return;
        }
    }
}

#[test]
fn calls_in_flight_and_their_echoes_stay_below_the_limit_of_the_service() {
    const BURSTS: usize = 40;
    let most_unsent = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&most_unsent);
    let fake = Fake::start(move |stream| answer_late(stream, &seen));
    let builder = Client::builder(fake.url()).protocol(Protocol::Json).event_queue(None);
    let client = builder.connect().expect("connect");
    let calls = client.start_all((0..BURSTS * 256).map(|_| Publish::new("g", "x")));
    for (i, call) in calls.expect("start").into_iter().enumerate() {
        if let Err(error) = call.wait() {
            let unsent = most_unsent.load(SeqCst);
            panic!("call {i}, with {unsent} frames unsent: {error}");
        }
    }
    let unsent = most_unsent.load(SeqCst);
    assert!(unsent > LIMIT / 4, "{unsent}: the peer was not slow");
}
