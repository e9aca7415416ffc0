//! The client against the floor: a raw single-threaded tungstenite + serde loop that does the same
//! work, on the same kind of socket, with the client's read buffer size, in the same run.
//!
//! ```sh
//! cargo bench --bench floor                    # some minutes
//! cargo bench --bench floor -- --quick         # under a minute, for CI
//! cargo bench --bench floor -- --transport ws receive   # what has `receive` in its name
//! cargo bench --bench floor -- --only ours --seconds 5 fire_one_256B   # for a profiler
//! ```
//!
//! Floor and client alternate; the lines show medians. Ratios are client / floor, of rates and of
//! latencies alike. No number makes this fail.

#[path = "../support/mod.rs"]
mod support;

mod capacity;
mod cases;
mod floor;
mod ours;

use std::collections::HashMap;
use std::time::Duration;

use cases::{Case, Target};
use support::Transport;
use support::args::Args;
use support::numbers::{cpu_time, median, min_max, note_machine, show};
use support::peer::{Peer, be_the_peer_if_asked};

fn main() {
    be_the_peer_if_asked();
    let Some(args) = Args::parse() else { return };
    let (alternations, seconds) = if args.quick { (5, 0.025) } else { (7, 0.3) };
    let length = Duration::from_secs_f64(args.seconds.unwrap_or(seconds));
    note_machine();
    for transport in args.transports() {
        let peer = Peer::start(transport);
        if args.only.is_none() {
            capacity::show(&peer, length);
        }
        let cases = cases::all().into_iter().filter(|case| {
            let names = case.names();
            names.iter().any(|name| args.wants(name))
        });
        for case in cases {
            match args.only.as_deref() {
                None => compare(&case, &peer, length, alternations),
                Some(side) => one_side(&case, &peer, length, side),
            }
        }
    }
    note_machine();
}

/// One measurement of one side, for a profiler.
fn one_side(case: &Case, peer: &Peer, length: Duration, side: &str) {
    let before = cpu_time();
    let measured = if side == "floor" { case.floor(peer, length) } else { case.ours(peer, length) };
    let cpu = cpu_time().zip(before).map(|(after, before)| after - before);
    let values = measured;
    if let (Some(cpu), Some(rate), "msg/s") = (cpu, values.first(), case.unit) {
        let each = cpu.as_secs_f64() * 1e9 / (rate * length.as_secs_f64());
        println!("cpu side={side} about {each:.0} ns of this process per message");
    }
    for (name, value) in case.names().iter().zip(&values) {
        println!("only side={side} metric={name} value={} unit={}", show(*value), case.unit);
    }
}

fn compare(case: &Case, peer: &Peer, length: Duration, alternations: usize) {
    let names = case.names();
    let mut sides: HashMap<&str, [Vec<f64>; 2]> = HashMap::new();
    for _ in 0..alternations {
        let floor = case.floor(peer, length);
        let ours = case.ours(peer, length);
        for (i, name) in names.iter().enumerate() {
            let [floors, oursides] = sides.entry(name).or_default();
            floors.extend(floor.get(i));
            oursides.extend(ours.get(i));
        }
    }
    for (i, name) in names.iter().enumerate() {
        let Some([floor, ours]) = sides.get(name.as_str()) else { continue };
        report(name, peer.transport, case, case.target(i, peer.transport), floor, ours);
    }
}

fn report(
    name: &str,
    transport: Transport,
    case: &Case,
    target: Option<Target>,
    floors: &[f64],
    ours: &[f64],
) {
    let (floor, our) = (median(floors), median(ours));
    let ratio = our / floor;
    let transport = transport.name();
    println!(
        "metric={name} transport={transport} floor={} ours={} unit={} ratio={ratio:.3} target={} {}",
        show(floor),
        show(our),
        case.unit,
        target.map_or("-".into(), |t| t.to_string()),
        if target.is_none_or(|t| t.holds(ratio)) { "ok" } else { "short" },
    );
    let ratios: Vec<f64> = floors.iter().zip(ours).map(|(f, o)| o / f).collect();
    let ((low, high), (floor_low, floor_high), (our_low, our_high)) =
        (min_max(&ratios), min_max(floors), min_max(ours));
    println!(
        "spread metric={name} transport={transport} min={low:.3} max={high:.3} median={:.3} \
         floor_min={} floor_max={} ours_min={} ours_max={}",
        median(&ratios),
        show(floor_low),
        show(floor_high),
        show(our_low),
        show(our_high),
    );
    if let Some(reference) = case.reference(name, transport) {
        // Of a latency the larger one is worse.
        let worse = if case.unit == "us" { floor / reference } else { reference / floor };
        if worse > 1.25 {
            println!(
                "note metric={name} transport={transport} the floor is {worse:.2} times worse than \
                 the reference ({}): this machine, or what else it does now, is slower",
                show(reference),
            );
        }
    }
}
