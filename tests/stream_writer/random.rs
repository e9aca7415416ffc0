//! Faults at random: whatever happens, subscribers see a prefix of what was sent, each fragment once
//! and in order, and after a `finish` that succeeds the whole.

use std::thread;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::support::within;

const ROUNDS: u64 = 12;

fn go_wrong(rng: &mut StdRng, scene: &Scene, stream_id: &str) {
    let faults = scene.emulator.faults();
    let connection = scene.client.connection_id();
    match rng.random_range(0..100) {
        0..25 => faults.refuse_next_fragments(1, rng.random_range(1..4)),
        25..40 => faults.lose_next_stream_acks(rng.random_range(1..3)),
        40..60 => {
            faults.hold_stream_acks(true);
            thread::sleep(ms(rng.random_range(0..40)));
            faults.hold_stream_acks(false);
        }
        60..70 => {
            let _ = connection.is_some_and(|id| faults.drop_connection(&id));
        }
        70..80 => faults.drop_after_frames(rng.random_range(1..30)),
        80..83 => faults.lose_next_stream_closes(1),
        90..93 => faults.recovery_closes_1008(1),
        93..95 => {
            let _ = connection.map(|id| faults.fail_stream(&id, stream_id, "Forbidden", "why"));
        }
        _ => {}
    }
}

fn round(seed: u64, protocol: Protocol) -> bool {
    let mut rng = StdRng::seed_from_u64(seed);
    let scene = Scene::over(protocol);
    let mut stream = scene.open_with(|open| {
        open.stream_id("s")
            .max_unacked_fragments(rng.random_range(1..40))
            .stall_timeout(ms(4_000))
            .timeout(ms(6_000))
    });
    let mut sent = 0;
    for number in 1..=rng.random_range(10..300_u32) {
        if rng.random_bool(0.05) {
            go_wrong(&mut rng, &scene, "s");
        }
        match stream.send(number.to_string()) {
            Ok(()) => sent = number,
            Err(_) => break,
        }
    }
    let acked = stream.acked();
    let outcome = stream.finish();
    // Also where nobody could tell the service: a stream that is not ended ends as idle.
    let ended = scene.emulator.wait_until(ms(2_000), |stats| stats.streams_closed == 1);
    if !ended {
        scene.emulator.advance_clock(Duration::from_secs(301));
    }
    let (seen, end) = scene.viewer.see("s");
    println!("{seed}: sent {sent}, acked {acked}, seen {}, {end:?}, {outcome:?}", seen.len());
    assert_eq!(seen, numbers(seen.len() as u32), "a prefix, each once, in order");
    assert!(acked <= seen.len() as u64 && seen.len() as u32 <= sent);
    if end == End::InOrder {
        assert_eq!(seen.len() as u32, sent, "a stream that looks complete is");
    }
    if outcome.is_ok() {
        assert_eq!((end, seen.len() as u32), (End::InOrder, sent));
    }
    outcome.is_ok()
}

#[test]
fn subscribers_see_a_prefix_and_after_success_the_whole() {
    within(WATCHDOG * 6, || {
        let protocols: Vec<Protocol> = Protocol::ALL.to_vec();
        let rounds: Vec<_> = (0..ROUNDS)
            .map(|seed| {
                let protocol = protocols[seed as usize % protocols.len()];
                thread::spawn(move || round(seed, protocol))
            })
            .collect();
        let succeeded: usize =
            rounds.into_iter().map(|round| usize::from(round.join().expect("no panic"))).sum();
        // Else little would have been tested.
        assert!((2..ROUNDS as usize).contains(&succeeded), "{succeeded} of {ROUNDS}");
    });
}
