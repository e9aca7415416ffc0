//! The floor's side.

use std::hint::black_box;
use std::time::{Duration, Instant};

use webpubsub::Protocol;

use super::cases::{WINDOW, protocol_for};
use super::support::numbers::percentile;
use super::support::peer::Peer;
use super::support::raw::Raw;

/// The clock is asked once in so many rounds.
pub(crate) const LOOK: u64 = 64;
/// Numbered messages are acknowledged after so many, as the client does.
const ACK_COUNT: u64 = 200;
/// How often the sender of [`send_while_receiving`] sends.
pub(crate) const SEND_EVERY: Duration = Duration::from_micros(500);

pub(crate) fn round_trip(peer: &Peer, size: usize, length: Duration) -> Vec<f64> {
    let mut raw = Raw::connect(peer, Protocol::ReliableJson);
    let data = "x".repeat(size);
    let mut id = 0;
    let mut once = || {
        id += 1;
        let start = Instant::now();
        raw.send("bench", Some(id), &data);
        assert_eq!(raw.read_ack(), id);
        start.elapsed()
    };
    percentiles(length, &mut once)
}

/// p50 and p99, after a tenth of the time for warming up.
pub(crate) fn percentiles(length: Duration, once: &mut dyn FnMut() -> Duration) -> Vec<f64> {
    let warm = Instant::now() + length / 10;
    while Instant::now() < warm {
        once();
    }
    let mut samples = Vec::with_capacity(1 << 16);
    let end = Instant::now() + length;
    while Instant::now() < end {
        samples.push(once());
    }
    vec![percentile(&mut samples, 0.5), percentile(&mut samples, 0.99)]
}

pub(crate) fn pipelined(peer: &Peer, size: usize, batch: usize, length: Duration) -> f64 {
    let mut raw = Raw::connect(peer, Protocol::ReliableJson);
    let data = "x".repeat(size);
    let (mut sent, mut acked) = (0, 0);
    let start = Instant::now();
    while start.elapsed() < length {
        for _ in 0..LOOK.div_ceil(batch as u64) {
            while sent - acked > (WINDOW - batch) as u64 {
                acked = raw.read_ack();
            }
            for _ in 0..batch {
                sent += 1;
                raw.write("bench", Some(sent), &data);
            }
            raw.flush();
        }
    }
    while acked < sent {
        acked = raw.read_ack();
    }
    sent as f64 / start.elapsed().as_secs_f64()
}

pub(crate) fn fire(peer: &Peer, size: usize, batch: usize, length: Duration) -> f64 {
    let mut raw = Raw::connect(peer, Protocol::ReliableJson);
    let data = "x".repeat(size);
    let mut sent = 0;
    let start = Instant::now();
    while start.elapsed() < length {
        for _ in 0..LOOK.div_ceil(batch as u64) {
            for _ in 0..batch {
                sent += 1;
                raw.write("bench", None, &data);
            }
            raw.flush();
        }
    }
    // The ack of the last one says that the peer has taken them all.
    raw.send("bench", Some(1), &data);
    raw.read_ack();
    sent as f64 / start.elapsed().as_secs_f64()
}

pub(crate) fn receive(peer: &Peer, flood: &str, size: usize, length: Duration) -> f64 {
    let mut raw = Raw::connect(peer, protocol_for(flood));
    raw.send(&format!("flood/{flood}/{size}"), None, "");
    let mut unacked = 0;
    let mut one = || {
        let number = raw.read(|message| {
            black_box((&message.group, &message.from_user_id, message.data));
            message.sequence_id
        });
        if let Some(number) = number {
            unacked += 1;
            if unacked == ACK_COUNT {
                unacked = 0;
                raw.sequence_ack(number);
            }
        }
    };
    rate(length, &mut one)
}

/// After a fifth of the time, in which buffers fill and grow.
pub(crate) fn rate(length: Duration, one: &mut dyn FnMut()) -> f64 {
    let mut count = |length: Duration| {
        let start = Instant::now();
        let mut count = 0;
        while start.elapsed() < length {
            for _ in 0..LOOK {
                one();
            }
            count += LOOK;
        }
        count as f64 / start.elapsed().as_secs_f64()
    };
    count(length / 5);
    count(length)
}

pub(crate) fn send_while_receiving(peer: &Peer, size: usize, length: Duration) -> f64 {
    let mut raw = Raw::connect(peer, Protocol::Json);
    raw.send(&format!("flood/mixed/{size}"), None, "");
    let data = "x".repeat(size);
    let mut samples = Vec::new();
    // One send takes a few microseconds; there must be enough of them for a percentile.
    let end = Instant::now() + length * 2;
    let mut next = Instant::now();
    while next < end {
        for _ in 0..LOOK {
            raw.read(|message| {
                black_box(message.data);
            });
        }
        let start = Instant::now();
        if start >= next {
            raw.send("bench", None, &data);
            samples.push(start.elapsed());
            next = start + SEND_EVERY;
        }
    }
    percentile(&mut samples, 0.99)
}
