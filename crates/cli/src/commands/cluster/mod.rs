//! `quorate cluster …`: the nodes, a file for each verb.

mod join;
mod status;

use clap::Subcommand;

use crate::args::Global;
use crate::failure::Failure;

/// Verbs of `cluster`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the nodes and what they carry.
    Status,
    /// Register a new node and prepare its data directory; start it with `quorate server` then.
    Join(join::Args),
}

/// Runs one verb.
pub async fn run(command: Command, global: &Global) -> Result<(), Failure> {
    match command {
        Command::Status => status::run(global).await,
        Command::Join(args) => join::run(&args, global).await,
    }
}
