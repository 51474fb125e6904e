//! `quorate queue update NAME`.

use std::io::Write;

use serde_json::json;

use crate::args::{Format, Global};
use crate::commands::queue::create::Options;
use crate::commands::queue::diff;
use crate::failure::Failure;
use crate::session;

/// Options of `queue update`; what is left out stays as it is.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  quorate queue update orders --max-messages 2000000\n  \
quorate queue update orders --retain 7d --lease 1m --dry-run\n  \
quorate queue update orders --max-bytes 0        back to the default: no limit\n  \
quorate queue update orders --dead-letter \"\"     back to the default: dropped\n\nWho uses the queue goes on: the next \
publish, delivery or lease is by the new settings. Messages beyond a lowered limit stay.")]
pub struct Args {
    /// The queue.
    name: String,
    #[command(flatten)]
    options: Options,
    /// Check the settings and show what would change, without changing it.
    #[arg(long)]
    dry_run: bool,
}

/// Changes the settings and shows what was changed.
pub async fn run(args: Args, global: &Global) -> Result<(), Failure> {
    let settings = args.options.settings()?;
    let fields = args.options.fields();
    if fields.is_empty() {
        return Err(Failure::usage("no setting was given that is to change")
            .cure("quorate queue update --help"));
    }
    let client = session::connect(global).await?;
    let name = args.name.as_str();
    let updating = client.update_queue(name, settings, &fields, args.dry_run);
    let updated = session::within(global, "update queue", updating).await?;
    let after = updated.queue.settings.unwrap_or_default();
    let changes = diff::changes(&updated.changed, &updated.before, &after);
    let mut out = std::io::stdout().lock();
    if global.output == Format::Json {
        let changed: Vec<_> = changes.iter().map(diff::Change::json).collect();
        let line = json!({
            "queue": name, "changes": changed, "dry_run": args.dry_run, "effective": updated.effective,
        });
        writeln!(out, "{line}")?;
        return Ok(());
    }
    for change in &changes {
        writeln!(out, "~ {change}")?;
    }
    let outcome = match (changes.is_empty(), args.dry_run, updated.effective) {
        (true, ..) => "has these settings already; nothing is changed",
        (false, true, _) => "would be changed so",
        (false, false, true) => "is changed",
        (false, false, false) => {
            "is changed; its leader takes it over as soon as a majority of its replicas is there"
        }
    };
    writeln!(out, "queue {name} {outcome}")?;
    Ok(())
}
