//! `quorate queue …`: administration of queues, a file for each verb.

pub mod confirm;
pub mod create;
mod delete;
pub mod describe;
pub mod diff;
mod explain;
mod list;
mod pause;
mod peek;
mod purge;
mod redrive;
mod relocate;
mod replica;
mod transfer;
mod update;

use clap::Subcommand;

use crate::args::Global;
use crate::failure::Failure;

/// Verbs of `queue`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a queue; succeeds if it exists with the same settings.
    Create(create::Args),
    /// Change settings of a queue while it is used.
    Update(update::Args),
    /// List the queues.
    List(list::Args),
    /// Look at messages without taking them.
    Peek(peek::Args),
    /// Show one queue: settings, replicas, counts, consumers.
    Describe(describe::Args),
    /// Say where a message is and why nobody gets it; or why a queue's replicas are where they are.
    Explain(explain::Args),
    /// Change which nodes hold a queue.
    #[command(subcommand)]
    Replica(replica::Command),
    /// Hand out nothing any more, to nobody, until it is resumed; messages are taken and leases stay.
    Pause(pause::Args),
    /// Hand out messages again.
    Resume(pause::Args),
    /// Send messages of a dead-letter queue back to where they died.
    Redrive(redrive::Args),
    /// Take the ready messages of a queue to another one, once each.
    Move(relocate::Args),
    /// Drop every message of a queue, or those before an offset or a time.
    Purge(purge::Args),
    /// Remove a queue and its messages.
    Delete(delete::Args),
}

/// Runs one verb.
pub async fn run(command: Command, global: &Global) -> Result<(), Failure> {
    match command {
        Command::Create(args) => create::run(args, global).await,
        Command::Update(args) => update::run(args, global).await,
        Command::List(args) => list::run(&args, global).await,
        Command::Peek(args) => peek::run(&args, global).await,
        Command::Describe(args) => describe::run(&args, global).await,
        Command::Explain(args) => explain::run(&args, global).await,
        Command::Replica(command) => replica::run(command, global).await,
        Command::Pause(args) => pause::run(&args, true, global).await,
        Command::Resume(args) => pause::run(&args, false, global).await,
        Command::Redrive(args) => redrive::run(args, global).await,
        Command::Move(args) => relocate::run(args, global).await,
        Command::Purge(args) => purge::run(&args, global).await,
        Command::Delete(args) => delete::run(&args, global).await,
    }
}
