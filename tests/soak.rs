//! The soak of `examples/soak`, short and with a fixed seed.

#[path = "../examples/soak/check.rs"]
mod check;
#[path = "../examples/soak/endings.rs"]
mod endings;
#[path = "../examples/soak/faults.rs"]
mod faults;
#[path = "../examples/soak/inject.rs"]
mod inject;
#[path = "../examples/soak/invocations.rs"]
mod invocations;
#[path = "../examples/soak/listener.rs"]
mod listener;
#[path = "../examples/soak/publisher.rs"]
mod publisher;
#[path = "../examples/soak/report.rs"]
mod report;
#[path = "../examples/soak/run.rs"]
mod run;
#[path = "../examples/soak/streams.rs"]
mod streams;
#[path = "../examples/soak/verdict.rs"]
mod verdict;

use std::time::Duration;

use webpubsub::Protocol;

use crate::support::within;

#[test]
fn nothing_is_lost_or_repeated_through_random_faults() {
    let settings = run::Settings {
        time: Duration::from_secs(8),
        seed: 20_240_607,
        publishers: 4,
        subscribers: 4,
        fault_every: Duration::from_millis(100),
        protocols: Protocol::ALL.to_vec(),
    };
    println!("seed {}", settings.seed);
    let report = within(Duration::from_secs(100), move || run::run(&settings));
    println!("{report}");
    assert!(report.violations.is_empty(), "{report}");
}
