//! The report: a table with a column for each subprotocol, then what was violated.

use std::fmt;

use super::faults::KINDS;
use super::run::Settings;
use super::verdict::Column;

pub(crate) struct Report {
    seed: u64,
    columns: Vec<Column>,
    pub(crate) violations: Vec<String>,
    /// Why the run proves nothing, if it does not.
    pub(crate) too_little: Vec<String>,
}

impl Report {
    pub(crate) fn new(settings: &Settings, columns: Vec<Column>) -> Self {
        let seed = settings.seed;
        let all = |of: fn(&Column) -> &Vec<String>| {
            let name =
                |column: &Column, why: &String| format!("{} (seed {seed}): {why}", column.name);
            columns.iter().flat_map(|c| of(c).iter().map(move |why| name(c, why))).collect()
        };
        let violations = all(|column| &column.violations);
        let too_little = all(|column| &column.too_little);
        Self { seed, columns, violations, too_little }
    }

    fn row(
        &self,
        f: &mut fmt::Formatter<'_>,
        label: &str,
        cell: impl Fn(&Column) -> String,
    ) -> fmt::Result {
        write!(f, "{label:<26}")?;
        for column in &self.columns {
            write!(f, "{:>width$}", cell(column), width = column.name.len().max(11) + 2)?;
        }
        writeln!(f)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.row(f, &format!("seed {}", self.seed), |column| column.name.to_owned())?;
        let labels = self.columns.first().map(|column| &column.figures);
        for (i, (label, _)) in labels.into_iter().flatten().enumerate() {
            self.row(f, label, |column| column.figures[i].1.clone())?;
        }
        self.row(f, "faults: hits of ordered", |column| {
            let (hits, ordered) =
                column.faults.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            format!("{hits} of {ordered}")
        })?;
        for (i, (_, label, _)) in KINDS.iter().enumerate() {
            self.row(f, &format!("  {label}"), |column| match column.faults[i] {
                (_, 0) => "-".to_owned(),
                (hits, ordered) => format!("{hits} of {ordered}"),
            })?;
        }
        for why in &self.too_little {
            writeln!(f, "TOO LITTLE TROUBLE: {why}")?;
        }
        /// One fault of ours can break thousands of messages.
        const SHOWN: usize = 20;
        for why in self.violations.iter().take(SHOWN) {
            writeln!(f, "VIOLATION: {why}")?;
        }
        match self.violations.len() {
            0 => write!(f, "no violation"),
            n => write!(f, "{n} violations"),
        }
    }
}
