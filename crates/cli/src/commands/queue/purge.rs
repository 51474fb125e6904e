//! `quorate queue purge NAME`.

use std::io::Write;

use serde_json::json;

use crate::args::{Format, Global};
use crate::commands::queue::confirm;
use crate::failure::Failure;
use crate::session;
use crate::units;

/// Options of `queue purge`.
#[derive(Debug, clap::Args)]
pub struct Args {
    name: String,
    #[command(flatten)]
    confirm: confirm::Consent,
}

/// Drops all messages, after the question.
pub async fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let name = args.name.as_str();
    let queue = session::within(global, "describe queue", client.describe_queue(name)).await?;
    let held = queue
        .counts
        .as_ref()
        .map(|counts| counts.ready + counts.leased + counts.delayed + counts.dead);
    let shown = held.map_or("an unknown number of".to_owned(), units::count);
    let mut out = std::io::stdout();
    if args.confirm.dry_run {
        match global.output {
            Format::Json => writeln!(out, "{}", json!({ "queue": name, "would_purge": held }))?,
            Format::Table => writeln!(out, "{shown} messages of queue {name} would be dropped")?,
        }
        return Ok(());
    }
    confirm::consent(&args.confirm, &format!("Drop {shown} messages of queue {name}?"))?;
    let purged = session::within(global, "purge queue", client.purge_queue(name)).await?;
    match global.output {
        Format::Json => writeln!(out, "{}", json!({ "queue": name, "purged": purged }))?,
        Format::Table => {
            writeln!(out, "{} messages of queue {name} are gone", units::count(purged))?
        }
    }
    Ok(())
}
