//! `quorate sim`: the simulated world is compiled from the same sources for another runtime, so this binary
//! does not hold it; the command takes the same options and says what to run.

use quorate_sim::options;

use crate::exit::Exit;
use crate::failure::Failure;

/// Options of `sim`: those of `cargo xtask sim`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: quorate sim --seeds 1..1000 --scenario all")]
pub struct Args {
    #[command(subcommand)]
    command: Option<options::Command>,
    #[command(flatten)]
    sweep: options::Sweep,
}

/// Says which command runs the simulation.
pub fn run(_: &Args) -> Result<(), Failure> {
    let words: Vec<String> =
        std::env::args().skip_while(|word| word != "sim").map(|word| quoted(&word)).collect();
    let mut command = String::from("cargo xtask");
    words.iter().for_each(|word| {
        command.push(' ');
        command.push_str(word);
    });
    let what = "the simulation is not part of this binary: it is these sources built for a simulated \
                network, clock and disk";
    Err(Failure::new(Exit::Failed, what).cure(format!("in a checkout of the sources: {command}")))
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{word}'") }
}
