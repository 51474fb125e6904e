//! `quorate consumer seek QUEUE --to OFFSET|first|next|TIME`.

use std::io::Write;
use std::time::{Duration, SystemTime};

use quorate_client::{SeekTo, Sought};
use serde_json::json;

use crate::args::{Format, Global};
use crate::commands::queue::confirm;
use crate::failure::Failure;
use crate::session;
use crate::units;

/// Options of `consumer seek`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  quorate consumer seek orders --to 1000   from offset 1000 on, once more\n  \
quorate consumer seek orders --to 2h     what was published in the last two hours\n  \
quorate consumer seek orders --to first  all that is there\n  \
quorate consumer seek orders --to next   nothing of what is there\n\nThe way back is there only in queues created \
with --retain or --retain-bytes. What a consumer has, what is for later and what is dead stays what it is."
)]
pub struct Args {
    /// The queue: all of its consumers are meant.
    queue: String,
    /// This offset; `first`, from which on all is there; `next`, behind the last; or what was published so long ago, e.g. 2h. A
    /// bare number is an offset.
    #[arg(long, value_name = "OFFSET|first|next|TIME", value_parser = parse_to)]
    to: To,
    #[command(flatten)]
    confirm: confirm::Consent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    First,
    Next,
    Offset(u64),
    Ago(Duration),
}

impl To {
    fn asked(self) -> SeekTo {
        match self {
            Self::First => SeekTo::First,
            Self::Next => SeekTo::Next,
            Self::Offset(offset) => SeekTo::Offset(offset),
            Self::Ago(ago) => {
                let time = SystemTime::now().checked_sub(ago);
                SeekTo::Time(time.unwrap_or(SystemTime::UNIX_EPOCH))
            }
        }
    }
}

fn parse_to(text: &str) -> Result<To, String> {
    match text {
        "first" => return Ok(To::First),
        "next" => return Ok(To::Next),
        _ => {}
    }
    match text.parse() {
        Ok(offset) => Ok(To::Offset(offset)),
        Err(_) => units::parse_duration(text).map(To::Ago).map_err(|_| {
            format!("{text:?} is no offset and no time span; write 1000, 2h, first or next")
        }),
    }
}

/// Says what it would do, asks, and does it.
pub async fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let (queue, to) = (args.queue.as_str(), args.to.asked());
    let looking = client.preview_seek(queue, to);
    let would = session::within(global, "look at what a seek would do", looking).await?;
    let mut out = std::io::stdout();
    if args.confirm.dry_run {
        match global.output {
            Format::Json => writeln!(out, "{}", json(queue, &would, true))?,
            Format::Table => writeln!(out, "{}", text(queue, &would, "would be"))?,
        }
        return Ok(());
    }
    let Sought { offset, replayed, skipped } = would;
    let question = format!(
        "Set the consumers of queue {queue} to offset {offset}, so that {} settled messages are handed out again and {} \
         that wait are skipped?",
        units::count(replayed),
        units::count(skipped)
    );
    confirm::consent(&args.confirm, &question)?;
    // To where was asked about: no more is skipped than that, whatever has come or was let go of since.
    let seeking = client.seek_consumers(queue, SeekTo::Offset(offset));
    let sought = session::within(global, "seek", seeking).await?;
    match global.output {
        Format::Json => writeln!(out, "{}", json(queue, &sought, false))?,
        Format::Table => writeln!(out, "{}", text(queue, &sought, "are"))?,
    }
    Ok(())
}

fn text(queue: &str, sought: &Sought, are: &str) -> String {
    let (replayed, skipped) = (units::count(sought.replayed), units::count(sought.skipped));
    format!(
        "consumers of queue {queue} {are} set to offset {}: {replayed} settled messages ready again, {skipped} skipped",
        sought.offset
    )
}

fn json(queue: &str, sought: &Sought, dry_run: bool) -> serde_json::Value {
    json!({
        "queue": queue, "offset": sought.offset, "replayed": sought.replayed, "skipped": sought.skipped,
        "dry_run": dry_run,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_an_offset_a_time_or_an_end() {
        assert_eq!(parse_to("1000"), Ok(To::Offset(1_000)));
        assert_eq!(parse_to("2h"), Ok(To::Ago(Duration::from_secs(7_200))));
        assert_eq!((parse_to("first"), parse_to("next")), (Ok(To::First), Ok(To::Next)));
        for wrong in ["", "-1", "last", "yesterday"] {
            assert!(parse_to(wrong).is_err(), "{wrong:?} was accepted");
        }
    }
}
