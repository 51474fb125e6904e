//! Compares the machines with their references over millions of random logs.
//!
//! ```text
//! cargo run --release -p quorate-machine --example check -- --sequences 5000000 --seed 1
//! cargo run --release -p quorate-machine --example check -- catalog --sequences 1000000
//! cargo run --release -p quorate-machine --example check -- --depth 5      every short log
//! cargo run --release -p quorate-machine --example check -- --replay SEED  a log that failed
//! ```

use std::process::ExitCode;

#[path = "../tests/check/mod.rs"]
mod check;

use check::catalog::Catalog;
use check::queue::{Queue, alphabet, scenes};
use check::{Failure, Figures, Subject, campaign, exhaustive};

/// Sequences between two lines of output.
const REPORT: u64 = 500_000;

struct Options {
    catalog: bool,
    sequences: u64,
    seed: u64,
    depth: Option<u32>,
    replay: Option<u64>,
}

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("{why}; see the head of examples/check.rs");
            return ExitCode::from(2);
        }
    };
    let outcome = match options {
        Options { depth: Some(depth), .. } => every_short_log(depth),
        Options { catalog: true, .. } => run::<Catalog>(&options),
        _ => run::<Queue>(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options =
            Self { catalog: false, sequences: 1_000_000, seed: 1, depth: None, replay: None };
        while let Some(argument) = arguments.next() {
            let mut number = || {
                let value = arguments.next().and_then(|value| value.parse().ok());
                value.ok_or(format!("{argument} takes a number"))
            };
            match argument.as_str() {
                "queue" => options.catalog = false,
                "catalog" => options.catalog = true,
                "--sequences" => options.sequences = number()?,
                "--seed" => options.seed = number()?,
                "--depth" => options.depth = Some(number()? as u32),
                "--replay" => options.replay = Some(number()?),
                _ => return Err(format!("unknown argument {argument}")),
            }
        }
        Ok(options)
    }
}

fn run<S: Subject>(options: &Options) -> Result<(), Box<Failure>> {
    if let Some(sequence) = options.replay {
        let tally = campaign::replay::<S>(sequence)?;
        println!("sequence {sequence} is as it should be: {tally}");
        return Ok(());
    }
    let mut figures = Figures::default();
    while figures.sequences < options.sequences {
        let from = figures.sequences;
        let to = options.sequences.min(from + REPORT);
        figures.add(&campaign::run::<S>(options.seed, from..to)?);
        println!("{} from seed {}: {figures}", S::NAME, options.seed);
    }
    println!("{}", figures.tally);
    Ok(())
}

fn every_short_log(depth: u32) -> Result<(), Box<Failure>> {
    for (scene, entries) in scenes() {
        let figures = exhaustive::run::<Queue>(&entries, &alphabet(), depth)?;
        println!("{scene}, then every {depth} of {} steps: {figures}", alphabet().len());
        println!("{}", figures.tally);
    }
    Ok(())
}
