//! `quorate slot advance QUEUE SLOT OFFSET`.

use std::io::Write;

use crate::args::{Format, Global};
use crate::failure::Failure;
use crate::session;

/// Options of `slot advance`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The queue.
    queue: String,
    /// The slot.
    slot: String,
    /// The first message that it needs from now on: behind the last one that is done with.
    offset: u64,
}

/// Moves the slot and says where it is.
pub async fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let moving = client.advance_slot(args.queue.as_str(), args.slot.as_str(), args.offset);
    let slot = session::within(global, "advance slot", moving).await?;
    let mut out = std::io::stdout().lock();
    match global.output {
        Format::Json => writeln!(out, "{}", super::json(&slot))?,
        Format::Table => writeln!(out, "slot {} is at {}", args.slot, slot.position)?,
    }
    Ok(())
}
