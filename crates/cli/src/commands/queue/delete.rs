//! `quorate queue delete NAME`.

use std::io::Write;

use serde_json::json;

use crate::args::{Format, Global};
use crate::commands::queue::{confirm, describe};
use crate::failure::Failure;
use crate::session;
use crate::units;

/// Options of `queue delete`.
#[derive(Debug, clap::Args)]
pub struct Args {
    name: String,
    /// Refuse if the queue holds messages.
    #[arg(long)]
    if_empty: bool,
    #[command(flatten)]
    confirm: confirm::Consent,
}

/// Removes the queue, after the question.
pub async fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let name = args.name.as_str();
    let queue = session::within(global, "describe queue", client.describe_queue(name)).await?;
    let held = queue
        .counts
        .as_ref()
        .map(|counts| counts.ready + counts.leased + counts.delayed + counts.blocked + counts.dead);
    let shown = held.map_or("an unknown number of".to_owned(), units::count);
    let replicas = describe::nodes(&queue);
    let mut out = std::io::stdout();
    if args.confirm.dry_run {
        let would = json!({ "queue": name, "would_drop": held, "replicas": replicas });
        match global.output {
            Format::Json => writeln!(out, "{would}")?,
            Format::Table => writeln!(
                out,
                "queue {name} with {shown} messages would be removed from {replicas} nodes"
            )?,
        }
        return Ok(());
    }
    confirm::consent(&args.confirm, &format!("Remove queue {name} with {shown} messages?"))?;
    let deleting = client.delete_queue(name, args.if_empty);
    session::within(global, "delete queue", deleting).await?;
    match global.output {
        Format::Json => writeln!(out, "{}", json!({ "queue": name, "deleted": true }))?,
        Format::Table => writeln!(out, "queue {name} is removed")?,
    }
    Ok(())
}
