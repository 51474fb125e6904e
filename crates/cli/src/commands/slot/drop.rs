//! `quorate slot drop QUEUE SLOT`.

use std::io::Write;

use quorate_client::SlotState;
use serde_json::json;

use crate::args::{Format, Global};
use crate::commands::queue::confirm;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session;
use crate::units;

/// Options of `slot drop`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The queue.
    queue: String,
    /// The slot.
    slot: String,
    #[command(flatten)]
    confirm: confirm::Consent,
}

/// Removes the slot, after the question; nothing is asked of one that is lost.
pub async fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let (queue, name) = (args.queue.as_str(), args.slot.as_str());
    let slots = session::within(global, "list slots", client.list_slots(queue)).await?;
    let Some(slot) = slots.iter().find(|slot| slot.slot == name) else {
        return Err(Failure::new(Exit::NotFound, format!("queue {queue:?} has no slot {name:?}"))
            .reason("SLOT_NOT_FOUND")
            .cure(format!("`quorate slot list {queue}` shows its slots")));
    };
    let kept = format!("{} of settled messages", units::bytes(slot.retained_bytes));
    let mut out = std::io::stdout();
    if args.confirm.dry_run {
        let would =
            json!({ "queue": queue, "slot": name, "would_release_bytes": slot.retained_bytes });
        match global.output {
            Format::Json => writeln!(out, "{would}")?,
            Format::Table => writeln!(out, "slot {name} would be removed; it keeps {kept}")?,
        }
        return Ok(());
    }
    if slot.state() != SlotState::Lost {
        confirm::consent(&args.confirm, &format!("Remove slot {name}, which keeps {kept}?"))?;
    }
    session::within(global, "drop slot", client.drop_slot(queue, name)).await?;
    match global.output {
        Format::Json => {
            writeln!(out, "{}", json!({ "queue": queue, "slot": name, "dropped": true }))?
        }
        Format::Table => writeln!(out, "slot {name} is removed")?,
    }
    Ok(())
}
