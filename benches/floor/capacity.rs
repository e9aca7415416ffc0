//! What the peer can do, asked by loops that do nothing else: if a floor comes near to this, it is
//! the peer that was measured.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use webpubsub::Protocol;

use super::cases::WINDOW;
use super::support::numbers::show as show_number;
use super::support::peer::Peer;
use super::support::raw::{Raw, Tunnel, publication};
use super::support::wire::{put_ack, put_client_frame};

/// The ack ids of a precomputed window all have six digits, so all answers are as long.
const FIRST_ID: u64 = 100_000;

pub(crate) fn show(peer: &Peer, length: Duration) {
    let transport = peer.transport.name();
    for size in [16, 256] {
        for (what, value) in [
            ("takes frames without ack", takes(peer, size, length)),
            ("answers calls, in windows of 256", answers(peer, size, length)),
            ("sends messages", sends(peer, size, length)),
        ] {
            println!("peer transport={transport} size={size} {what}: {} msg/s", show_number(value));
        }
    }
}

/// A connection behind the upgrade; nothing is in the raw client's buffer then.
fn open(peer: &Peer) -> Raw {
    Raw::connect(peer, Protocol::Json)
}

fn window(size: usize, ack: bool) -> Vec<u8> {
    let data = "x".repeat(size);
    let mut frames = Vec::new();
    for id in (FIRST_ID..).take(WINDOW) {
        let text = publication("bench", ack.then_some(id), &data);
        put_client_frame(&mut frames, text.as_bytes());
    }
    frames
}

fn takes(peer: &Peer, size: usize, length: Duration) -> f64 {
    let mut raw = open(peer);
    let frames = window(size, false);
    let mut count = 0;
    let start = Instant::now();
    while start.elapsed() < length {
        raw.ws.get_mut().write_all(&frames).expect("write");
        count += WINDOW;
    }
    raw.send("bench", Some(FIRST_ID), "");
    raw.read_ack();
    count as f64 / start.elapsed().as_secs_f64()
}

fn answers(peer: &Peer, size: usize, length: Duration) -> f64 {
    let mut raw = open(peer);
    let stream: &mut Tunnel = raw.ws.get_mut();
    let frames = window(size, true);
    let mut ack = Vec::new();
    put_ack(&mut ack, FIRST_ID.to_string().as_bytes());
    let mut answers = vec![0; ack.len() * WINDOW];
    let mut count = 0;
    let start = Instant::now();
    while start.elapsed() < length {
        stream.write_all(&frames).expect("write");
        stream.read_exact(&mut answers).expect("read");
        count += WINDOW;
    }
    count as f64 / start.elapsed().as_secs_f64()
}

fn sends(peer: &Peer, size: usize, length: Duration) -> f64 {
    let mut raw = open(peer);
    raw.send(&format!("flood/plain/{size}"), None, "");
    // All messages of a flood are as long as the first, of which more than a header comes at once.
    let stream: &mut Tunnel = raw.ws.get_mut();
    let mut header = [0; 4];
    stream.read_exact(&mut header).expect("read");
    let message = match header[1] {
        126 => 4 + usize::from(u16::from_be_bytes([header[2], header[3]])),
        short => 2 + usize::from(short),
    };
    let mut buffer = vec![0; 256 * 1024];
    let mut bytes = 0;
    let start = Instant::now();
    while start.elapsed() < length {
        bytes += stream.read(&mut buffer).expect("read");
    }
    bytes as f64 / message as f64 / start.elapsed().as_secs_f64()
}
