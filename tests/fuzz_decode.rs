//! The body of the fuzz target, run for a short time on random bytes and on mutated vectors.

use std::time::{Duration, Instant};

use webpubsub::__codecs::{Decoder, Frame, decode_upstream, encode_downstream, encode_upstream};
use webpubsub::{Bytes, Protocol, Text};

use crate::protocol_vectors::{frame_bytes, load};

include!("support/fuzz_body.rs");

const TIME: Duration = Duration::from_secs(2);

/// xorshift64*: the same seed gives the same inputs.
pub(crate) struct Random(u64);

impl Random {
    /// The seed must not be 0.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit.max(1)
    }
}

/// One small change: a byte, a piece left out, doubled, or taken from another frame.
fn mutate(random: &mut Random, data: &mut Vec<u8>, other: &[u8]) {
    let at = random.below(data.len() + 1);
    let end = (at + random.below(16)).min(data.len());
    match random.below(5) {
        0 => data.insert(at, random.next() as u8),
        1 if at < data.len() => data[at] ^= 1 << random.below(8),
        2 => drop(data.drain(at..end)),
        3 => {
            let piece = data[at..end].to_vec();
            data.splice(at..at, piece);
        }
        _ => {
            let from = random.below(other.len());
            let to = (from + random.below(40)).min(other.len());
            data.splice(at..end, other[from..to].iter().copied());
        }
    }
}

#[test]
fn mutated_frames_never_panic_and_survive_the_wire() {
    let seed = std::env::var("WEBPUBSUB_FUZZ_SEED")
        .map_or(0x9e37_79b9_7f4a_7c15, |s| s.parse().expect("a number above 0"));
    println!("WEBPUBSUB_FUZZ_SEED={seed}");
    let mut random = Random::new(seed);
    let frames: Vec<Vec<u8>> = load().iter().map(frame_bytes).collect();
    frames.iter().for_each(|frame| check(frame));

    let (start, mut inputs) = (Instant::now(), 0u32);
    while start.elapsed() < TIME {
        let mut data = match random.below(8) {
            0 => (0..random.below(64)).map(|_| random.next() as u8).collect(),
            _ => frames[random.below(frames.len())].clone(),
        };
        for _ in 0..random.below(4) {
            let other = random.below(frames.len());
            mutate(&mut random, &mut data, &frames[other]);
        }
        // A failed assertion does not show its input.
        if let Err(panic) = std::panic::catch_unwind(|| check(&data)) {
            eprintln!("the input: {:?}", String::from_utf8_lossy(&data));
            std::panic::resume_unwind(panic);
        }
        inputs += 1;
    }
    println!("{inputs} inputs");
}
