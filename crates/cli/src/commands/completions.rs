//! `quorate completions SHELL`.

use std::io::Write;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::failure::Failure;

/// Options of `completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: quorate completions bash > /etc/bash_completion.d/quorate")]
pub struct Args {
    /// The shell to complete for.
    pub shell: Shell,
}

/// Prints the script. Written in one go, so that a closed pipe is told like any other.
pub fn run(args: &Args) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::args::Args::command(), "quorate", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(())
}
