//! Options of the program, the same for `quorate-sim`, `cargo xtask sim` and `quorate sim`.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Searches for runs in which an invariant does not hold.
#[derive(Parser, Debug, Clone)]
#[command(name = "quorate-sim", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do instead of a sweep.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The sweep.
    #[command(flatten)]
    pub sweep: Sweep,
}

/// What else there is to do.
#[derive(Subcommand, Debug, Clone)]
pub enum Command {
    /// Run each seed twice and compare the traces byte by byte.
    Determinism(Sweep),
    /// Run with each of the planted bugs until it is caught; needs a build with the feature `planted`.
    Planted {
        /// Only this bug; all of them unless given.
        #[arg(long)]
        bug: Option<String>,
        /// Seeds within which each has to be caught.
        #[arg(long, default_value_t = 200)]
        within: u64,
        /// What is run.
        #[command(flatten)]
        sweep: Sweep,
    },
    /// List the scenarios.
    Scenarios,
}

/// Which runs.
#[derive(Args, Debug, Clone)]
pub struct Sweep {
    /// Seeds, as `1..1000`, both ends included, or one.
    #[arg(long, default_value = "1..100", value_parser = seeds)]
    pub seeds: Seeds,
    /// A scenario by name, `random`, or `all` for every named one.
    #[arg(long, default_value = "random")]
    pub scenario: String,
    /// Nodes that found the cluster: 3 to 5.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=5))]
    pub nodes: u8,
    /// Simulated seconds with faults, for the `random` scenario; draining comes on top.
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// Go on with further seeds until so many minutes of real time have passed.
    #[arg(long)]
    pub minutes: Option<f64>,
    /// Runs at a time; as many as there are cores unless given.
    #[arg(long)]
    pub jobs: Option<usize>,
    /// Write the trace of the run to this file; for one seed.
    #[arg(long)]
    pub trace: Option<PathBuf>,
    /// Print the summary as one JSON object on the last line.
    #[arg(long)]
    pub json: bool,
}

/// A range of seeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seeds(pub RangeInclusive<u64>);

fn seeds(text: &str) -> Result<Seeds, String> {
    let number = |text: &str| {
        text.trim_start_matches('=').parse::<u64>().map_err(|_| format!("`{text}` is no seed"))
    };
    let range = match text.split_once("..") {
        None => {
            let seed = number(text)?;
            seed..=seed
        }
        Some((first, last)) => number(first)?..=number(last)?,
    };
    if range.is_empty() { Err(format!("`{text}` holds no seed")) } else { Ok(Seeds(range)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_one_or_a_range_with_both_ends() {
        assert_eq!(seeds("7").unwrap().0, 7..=7);
        assert_eq!(seeds("1..1000").unwrap().0, 1..=1000);
        assert_eq!(seeds("1..=3").unwrap().0, 1..=3);
        assert!(seeds("5..1").is_err());
        assert!(seeds("one").is_err());
    }
}
