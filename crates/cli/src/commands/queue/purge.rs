//! `quorate queue purge NAME`.

use std::fmt;
use std::io::Write;
use std::time::{Duration, SystemTime};

use quorate_client::PurgeBefore;
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
    /// Only messages before this offset, or published longer ago than this time, e.g. 1000 or 2h. A bare number is an
    /// offset.
    #[arg(long, value_name = "OFFSET|TIME", value_parser = parse_before)]
    before: Option<Before>,
    #[command(flatten)]
    confirm: confirm::Consent,
}

/// What is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Offset(u64),
    Ago(Duration),
}

impl Before {
    fn asked(self) -> PurgeBefore {
        match self {
            Self::Offset(offset) => PurgeBefore::Offset(offset),
            Self::Ago(ago) => {
                let time = SystemTime::now().checked_sub(ago);
                PurgeBefore::Time(time.unwrap_or(SystemTime::UNIX_EPOCH))
            }
        }
    }
}

impl fmt::Display for Before {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offset(offset) => write!(f, "before offset {offset}"),
            Self::Ago(ago) => write!(f, "published more than {} ago", units::duration(*ago)),
        }
    }
}

fn parse_before(text: &str) -> Result<Before, String> {
    match text.parse() {
        Ok(offset) => Ok(Before::Offset(offset)),
        Err(_) => units::parse_duration(text)
            .map(Before::Ago)
            .map_err(|_| format!("{text:?} is no offset and no time span; write 1000 or 2h")),
    }
}

/// Drops what is before an offset or a time, after the question.
async fn run_before(args: &Args, before: Before, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let name = args.name.as_str();
    let mut out = std::io::stdout();
    if args.confirm.dry_run {
        // How many of them are held is known only once they go.
        let queue = session::within(global, "describe queue", client.describe_queue(name)).await?;
        let first = queue.counts.as_ref().map(|counts| counts.first_offset);
        let would =
            json!({ "queue": name, "would_purge": before.to_string(), "first_offset": first });
        let first = first.map_or("an unknown offset".to_owned(), |first| format!("offset {first}"));
        match global.output {
            Format::Json => writeln!(out, "{would}")?,
            Format::Table => writeln!(
                out,
                "messages {before} of queue {name} would be dropped; the oldest that it holds is at {first}"
            )?,
        }
        return Ok(());
    }
    confirm::consent(&args.confirm, &format!("Drop the messages {before} of queue {name}?"))?;
    let purging = client.purge_queue_before(name, before.asked());
    let (purged, next) = session::within(global, "purge queue", purging).await?;
    match global.output {
        Format::Json => {
            let done = json!({ "queue": name, "purged": purged, "next_offset": next });
            writeln!(out, "{done}")?;
        }
        // A sharded queue goes on at as many offsets as it has shards.
        Format::Table if next == 0 => {
            writeln!(out, "{} messages {before} of queue {name} are gone", units::count(purged))?
        }
        Format::Table => writeln!(
            out,
            "{} messages of queue {name} before offset {next} are gone",
            units::count(purged)
        )?,
    }
    Ok(())
}

/// Drops messages, after the question.
pub async fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    if let Some(before) = args.before {
        return run_before(args, before, global).await;
    }
    let client = session::connect(global).await?;
    let name = args.name.as_str();
    let queue = session::within(global, "describe queue", client.describe_queue(name)).await?;
    let held = queue
        .counts
        .as_ref()
        .map(|counts| counts.ready + counts.leased + counts.delayed + counts.blocked + counts.dead);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_number_is_an_offset_and_a_unit_makes_it_a_time() {
        assert_eq!(parse_before("1000"), Ok(Before::Offset(1_000)));
        assert_eq!(parse_before("2h"), Ok(Before::Ago(Duration::from_secs(7_200))));
        assert_eq!(
            parse_before("1s").map(|before| before.to_string()),
            Ok("published more than 1.00 s ago".to_owned())
        );
        for wrong in ["", "-1", "yesterday"] {
            assert!(parse_before(wrong).is_err(), "{wrong:?} was accepted");
        }
    }
}
