//! The results.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::{Latencies, Run};

const PERCENTILES: [f64; 5] = [50.0, 90.0, 99.0, 99.9, 100.0];

pub(crate) fn text(run: &Run, length: Duration, ack: &Latencies, delivery: &Latencies) {
    let seconds = length.as_secs_f64();
    let c = &run.counts;
    for (name, count) in [("published", &c.sent), ("acked", &c.acked), ("received", &c.received)] {
        let count = count.load(Relaxed);
        let rate = count as f64 / seconds;
        let megabytes = rate * run.options.size as f64 / 1e6;
        println!("{name:<10} {count:>10}   {rate:>10.0} msg/s   {megabytes:>8.2} MB/s of payload");
    }
    println!(
        "failed     {:>10}   lost sessions of subscribers {}",
        c.failed.load(Relaxed),
        c.lost_sessions.load(Relaxed)
    );
    println!("latency in ms      p50        p90        p99      p99.9        max");
    for (name, latencies) in [("to ack", ack), ("to subscriber", delivery)] {
        print!("{name:<13}");
        for p in PERCENTILES {
            print!(" {:>10.3}", latencies.value_at_percentile(p) as f64 / 1e3);
        }
        println!();
    }
}

pub(crate) fn json(run: &Run, length: Duration, ack: &Latencies, delivery: &Latencies) {
    let latency = |latencies: &Latencies| {
        let at = |p: f64| latencies.value_at_percentile(p);
        let [p50, p90, p99, p999, max] = PERCENTILES.map(at);
        serde_json::json!({
            "count": latencies.len(), "mean": latencies.mean(),
            "p50": p50, "p90": p90, "p99": p99, "p99.9": p999, "max": max,
        })
    };
    let seconds = length.as_secs_f64();
    let (o, c) = (&run.options, &run.counts);
    let get = |counter: &AtomicU64| counter.load(Relaxed);
    let result = serde_json::json!({
        "publishers": o.publishers, "subscribers": o.subscribers, "size": o.size,
        "rate": o.rate, "fire": o.fire, "plain": o.plain, "seconds": seconds,
        "published": get(&c.sent), "acked": get(&c.acked), "received": get(&c.received),
        "failed": get(&c.failed), "lost_sessions": get(&c.lost_sessions),
        "published_per_second": get(&c.sent) as f64 / seconds,
        "received_per_second": get(&c.received) as f64 / seconds,
        "ack_latency_us": latency(ack), "delivery_latency_us": latency(delivery),
    });
    println!("{result}");
}
