//! Medians, percentiles and how numbers are printed.

use std::time::Duration;

pub(crate) fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

pub(crate) fn min_max(values: &[f64]) -> (f64, f64) {
    let sorted = sorted(values);
    (sorted.first().copied().unwrap_or(f64::NAN), sorted.last().copied().unwrap_or(f64::NAN))
}

/// In microseconds; sorts the samples.
pub(crate) fn percentile(samples: &mut [Duration], p: f64) -> f64 {
    samples.sort_unstable();
    let at = ((samples.len() as f64 * p) as usize).min(samples.len().saturating_sub(1));
    samples.get(at).map_or(f64::NAN, |d| d.as_secs_f64() * 1e6)
}

/// Three digits that matter, and no more than whole numbers above.
pub(crate) fn show(value: f64) -> String {
    match value {
        v if v >= 1000.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.3}"),
    }
}

/// What the machine was doing beside, where the system tells.
pub(crate) fn load_average() -> String {
    std::fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| text.split_whitespace().next().map(str::to_owned))
        .unwrap_or_else(|| "?".into())
}

/// The processor time of this process so far, where the system tells. On a busy machine it differs
/// less from run to run than anything that a clock on the wall measures.
pub(crate) fn cpu_time() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // Behind the name, which is in parentheses: 11 other fields, then user and system ticks.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut ticks = fields.split_whitespace().skip(11).map_while(|n| n.parse::<u64>().ok());
    // Linux shows ticks of 10 ms to programs, whatever its own are.
    Some(Duration::from_millis(10) * (ticks.next()? + ticks.next()?).try_into().ok()?)
}

pub(crate) fn note_machine() {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("# cores={cores} load_average={}", load_average());
}
