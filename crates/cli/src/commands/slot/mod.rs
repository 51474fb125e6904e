//! `quorate slot …`: read positions that hold the log back, a file for each verb.

mod advance;
mod create;
mod drop;
mod list;

use clap::Subcommand;
use quorate_client::{SlotDescription, SlotState};
use serde_json::{Value, json};

use crate::args::Global;
use crate::failure::Failure;

/// Verbs of `slot`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a slot; succeeds if it exists with the same parameters.
    Create(create::Args),
    /// Move a slot forward, without reading.
    Advance(advance::Args),
    /// List the slots of a queue, or of all.
    List(list::Args),
    /// Remove a slot: it keeps nothing any more.
    Drop(drop::Args),
}

/// Runs one verb.
pub async fn run(command: Command, global: &Global) -> Result<(), Failure> {
    match command {
        Command::Create(args) => create::run(args, global).await,
        Command::Advance(args) => advance::run(&args, global).await,
        Command::List(args) => list::run(&args, global).await,
        Command::Drop(args) => drop::run(&args, global).await,
    }
}

fn state(slot: &SlotDescription) -> &'static str {
    match slot.state() {
        SlotState::Reserved => "reserved",
        SlotState::Extended => "extended",
        SlotState::Unreserved => "unreserved",
        SlotState::Lost => "lost",
        SlotState::Unspecified => "unknown",
    }
}

fn json(slot: &SlotDescription) -> Value {
    json!({
        "queue": slot.queue, "slot": slot.slot, "position": slot.position, "state": state(slot),
        "retained_bytes": slot.retained_bytes, "lag_messages": slot.lag_messages,
        "max_retained_bytes": slot.max_retained_bytes, "max_idle_ms": slot.max_idle_ms,
        "waiting_since_ms": slot.waiting_since_ms, "lost_from": slot.lost_from,
    })
}
