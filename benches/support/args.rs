//! The few arguments that the benches take, after `--`.

use super::Transport;

/// Parsed arguments.
#[derive(Debug, Default)]
pub(crate) struct Args {
    /// Short runs, for CI.
    pub(crate) quick: bool,
    /// `floor` or `ours`: one side only, for a profiler.
    pub(crate) only: Option<String>,
    /// Instead of the usual length of one measurement.
    pub(crate) seconds: Option<f64>,
    transport: Option<String>,
    /// Parts of names: what matches none of them is left out.
    filters: Vec<String>,
}

impl Args {
    /// `None`: not started by `cargo bench`; `cargo test --all-targets` starts benches too, and
    /// there is nothing to test in them.
    pub(crate) fn parse() -> Option<Self> {
        let mut args = Self::default();
        let mut is_bench = false;
        let mut list = std::env::args().skip(1);
        while let Some(arg) = list.next() {
            let mut value = || list.next().unwrap_or_else(|| usage(&format!("{arg}: no value")));
            match arg.as_str() {
                "--bench" => is_bench = true,
                "--quick" => args.quick = true,
                "--only" => args.only = Some(value()),
                "--seconds" => {
                    let given = value().parse();
                    args.seconds = Some(given.unwrap_or_else(|_| usage("--seconds: a number")));
                }
                "--transport" => args.transport = Some(value()),
                flag if flag.starts_with('-') => usage(&format!("{flag}: unknown")),
                _ => args.filters.push(arg),
            }
        }
        if is_bench {
            return Some(args);
        }
        println!("nothing is measured: start this with `cargo bench`");
        None
    }

    pub(crate) fn wants(&self, name: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|f| name.contains(f.as_str()))
    }

    pub(crate) fn transports(&self) -> impl Iterator<Item = Transport> {
        Transport::ALL
            .into_iter()
            .filter(|t| self.transport.as_deref().is_none_or(|wanted| wanted == t.name()))
    }
}

fn usage(what: &str) -> ! {
    eprintln!("{what}");
    eprintln!(
        "usage: cargo bench --bench NAME -- [--quick] [--transport ws|wss] [--only floor|ours] \
         [--seconds S] [PART_OF_A_METRIC_NAME ...]"
    );
    std::process::exit(2);
}
