//! Many seeds, a long run by hand, and schedules that once failed.

use std::time::{Duration, Instant};

use super::generate::Style;
use super::schedule::{Action, ClientSetup, Consume, DialFate, LinkFault, Schedule, Setup, What};
use super::shrink::{first_failure, run, run_seed};
use super::world::Summary;
use crate::client::Overflow;
use crate::emulator::virtual_service::Fault;
use crate::protocol::Protocol;
use crate::session::Bug;

const SEEDS: u64 = 2_000;

/// Every fourth seed from `offset`: the first client of each speaks the same subprotocol.
fn small_seeds(offset: u64) {
    let first = env("SEED", 0);
    let mut total = Summary::default();
    for seed in (first..first + env("SEEDS", SEEDS)).filter(|seed| seed % 4 == offset) {
        total.add(&run_seed(seed, Style::Small));
    }
    println!("{total:?}");
}

#[test]
fn seeds_of_json_break_no_promise() {
    small_seeds(0);
}

#[test]
fn seeds_of_reliable_json_break_no_promise() {
    small_seeds(1);
}

#[test]
fn seeds_of_protobuf_break_no_promise() {
    small_seeds(2);
}

#[test]
fn seeds_of_reliable_protobuf_break_no_promise() {
    small_seeds(3);
}

#[test]
fn each_deliberate_bug_is_caught() {
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        Bug::switch(Some(bug));
        let caught = first_failure(0..SEEDS);
        Bug::switch(None);
        println!("{bug:?}: {caught:?}");
        if caught.is_none() {
            missed.push(bug);
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

#[test]
#[ignore = "as long as SECONDS says"]
fn simulation_for_long() {
    let start = Instant::now();
    let end = Duration::from_secs(env("SECONDS", 20));
    let (mut total, mut runs) = (Summary::default(), 0u64);
    let first: u64 = env("SEED", 1_000_000);
    while start.elapsed() < end {
        let style = if runs % 4 == 0 { Style::Bulk } else { Style::Small };
        total.add(&run_seed(first + runs, style));
        runs += 1;
    }
    let seconds = start.elapsed().as_secs_f64();
    let rate = |n: u64| n as f64 / seconds;
    println!(
        "{runs} runs: {:.0} sessions/s, {:.0} frames/s, {:.0} faults/s; {total:?}",
        rate(total.sessions),
        rate(total.frames),
        rate(total.faults)
    );
}

fn env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

impl Summary {
    fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.faults += other.faults;
        self.sessions += other.sessions;
        self.recoveries += other.recoveries;
        self.losses += other.losses;
        self.time += other.time;
    }
}

/// One client that speaks reliable JSON, on a fast line.
fn alone() -> Setup {
    let client = ClientSetup {
        protocol: Protocol::ReliableJson,
        soft: 1024,
        hard: 16 * 1024,
        overflow: Overflow::Wait,
        auto_reconnect: true,
        rejoin: true,
        resend: false,
        url_provider: true,
        max_in_flight: 256,
        keep_alive: Some((1_000, 3_000)),
        call_timeout: 30_000,
        high_water: 1 << 20,
        socket: 1 << 18,
        callers_first: true,
    };
    let clients = vec![client];
    Setup {
        seed: 0,
        connected_after_recovery: false,
        failed_event_closes: false,
        latency: 100,
        calm: false,
        clients,
    }
}

fn replay(actions: Vec<(u32, Action)>) {
    if let Err(why) = run(&Schedule { setup: alone(), actions }) {
        panic!("{why}");
    }
}

/// "The reader spins": a keep-alive limit that came due without a link stayed due.
#[test]
fn a_silent_recovery_link_leaves_no_timer_behind() {
    replay(vec![
        (1563, Action::Dial { client: 0, fate: DialFate::Mute }),
        (1836, Action::Link { client: 0, fault: LinkFault::Fin }),
        (8408, Action::Publish { group: 2, count: 1, size: 34 }),
    ]);
}

/// The same for a sequence ack that comes due while the client dials.
#[test]
fn a_sequence_ack_that_is_due_without_a_link_waits_for_one() {
    let what = What::Join(0);
    replay(vec![
        (1000, Action::Call { client: 0, what, count: 1, within: 30_000, waits: true }),
        (1500, Action::Publish { group: 0, count: 1, size: 1 }),
        (1600, Action::Dial { client: 0, fate: DialFate::Hangs }),
        (1600, Action::Link { client: 0, fault: LinkFault::Reset }),
        (8000, Action::Publish { group: 0, count: 1, size: 1 }),
    ]);
}

/// "A caller caused an event": it took back the rejoin that had its call's id.
#[test]
fn a_call_that_has_just_ended_cannot_be_taken_back_as_a_rejoin() {
    let what = What::Join(1);
    replay(vec![
        (1537, Action::Call { client: 0, what, count: 1, within: 4_000, waits: true }),
        (1552, Action::Hub(Fault::HoldAcks(true))),
        (1552, Action::Link { client: 0, fault: LinkFault::LostClose { code: 1000 } }),
        (1552, Action::Hub(Fault::RefuseRecovery(1))),
        (9_000, Action::Hub(Fault::HoldAcks(false))),
    ]);
}

/// A client that answers a Close without a code in kind would end its session by that.
#[test]
fn a_close_without_a_code_costs_no_session() {
    replay(vec![
        (1_000, Action::Link { client: 0, fault: LinkFault::CloseWithoutCode }),
        (2_000, Action::Publish { group: 0, count: 1, size: 1 }),
    ]);
}

/// Messages that a subscription had dropped were never reported when another queue had made all wait
/// meanwhile.
#[test]
fn what_a_subscription_drops_while_another_queue_is_full_is_reported() {
    let mut setup = alone();
    setup.clients[0] = ClientSetup { soft: 4, hard: 8, ..setup.clients[0].clone() };
    let subscribe = |group, overflow| Action::Subscribe {
        client: 0,
        group,
        within: 500,
        waits: false,
        overflow,
    };
    let actions = vec![
        (1_000, subscribe(1, Overflow::Wait)),
        (1_000, subscribe(0, Overflow::DropNewest)),
        (2_000, Action::Consumer { client: 0, mode: Consume::Paused }),
        (3_000, Action::Publish { group: 0, count: 8, size: 6 }),
        (4_000, Action::Publish { group: 1, count: 30, size: 12 }),
    ];
    if let Err(why) = run(&Schedule { setup, actions }) {
        panic!("{why}");
    }
}
