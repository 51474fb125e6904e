//! `quorate cluster …`: the nodes, a file for each verb.

mod join;
mod leaders;
mod receivers;
mod recover;
mod remove;
mod replication;
mod status;

use clap::Subcommand;

use crate::args::Global;
use crate::failure::Failure;

/// Verbs of `cluster`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the nodes and what they carry.
    Status,
    /// Show how far each replica of each queue is.
    Replication(replication::Args),
    /// Show what each replica has received from its leader, as it knows itself.
    Receivers(receivers::Args),
    /// Register a new node and prepare its data directory; start it with `quorate server` then.
    Join(join::Args),
    /// Take a node out of the cluster, alive or dead; what it holds moves to other nodes.
    RemoveNode(remove::Args),
    /// Go on with what is left after a majority of the replicas was lost for ever, of queues or of the catalog.
    Recover(recover::Args),
    /// Hand the leadership of a queue to another of its replicas.
    TransferLeader(leaders::Transfer),
    /// Have a node lead nothing, before its maintenance.
    Drain(leaders::Drain),
    /// Let a node lead again.
    Undrain(leaders::Drain),
    /// Give each queue to the leader that it was placed with.
    Balance,
}

/// Runs one verb.
pub async fn run(command: Command, global: &Global) -> Result<(), Failure> {
    match command {
        Command::Status => status::run(global).await,
        Command::Replication(args) => replication::run(&args, global).await,
        Command::Receivers(args) => receivers::run(&args, global).await,
        Command::Join(args) => join::run(&args, global).await,
        Command::RemoveNode(args) => remove::run(&args, global).await,
        Command::Recover(args) => recover::run(&args, global).await,
        Command::TransferLeader(args) => leaders::transfer(&args, global).await,
        Command::Drain(args) => leaders::drain(&args, global).await,
        Command::Undrain(args) => leaders::undrain(&args, global).await,
        Command::Balance => leaders::balance(global).await,
    }
}
