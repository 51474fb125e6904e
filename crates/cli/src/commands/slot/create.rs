//! `quorate slot create QUEUE SLOT`.

use std::io::Write;
use std::time::Duration;

use quorate_client::{SlotSettings, SlotStart};

use crate::args::{Format, Global};
use crate::failure::Failure;
use crate::{session, units};

/// Options of `slot create`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A slot keeps every message from its position on readable, settled or not, until it is moved on: by \
`quorate read --slot`, by `quorate slot advance`, or by an application. Beyond its bounds it keeps nothing, and is lost \
as soon as something that it needs is let go of."
)]
pub struct Args {
    /// The queue.
    queue: String,
    /// 1 to 128 characters of A-Z a-z 0-9 . _ -, starting with a letter or digit.
    slot: String,
    /// Where it begins: `first` (the first message from which on none is missing), `next` (behind the last one), or an
    /// offset.
    #[arg(long, value_name = "WHERE", default_value = "first", value_parser = parse_start)]
    from: SlotStart,
    /// Most bytes of settled messages that it keeps, on each replica; default 1GiB.
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    max_retained: Option<u64>,
    /// It keeps nothing once it had something to read and was not moved for so long; default: however long.
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    max_idle: Option<Duration>,
}

fn parse_start(text: &str) -> Result<SlotStart, String> {
    match text {
        "first" => Ok(SlotStart::First),
        "next" => Ok(SlotStart::Next),
        offset => offset
            .parse()
            .map(SlotStart::Offset)
            .map_err(|_| format!("{text:?} is neither `first` nor `next` nor an offset")),
    }
}

/// Creates the slot and says where it is.
pub async fn run(args: Args, global: &Global) -> Result<(), Failure> {
    if args.max_retained == Some(0) {
        return Err(Failure::usage("--max-retained: at least 1 byte; left out, it is 1GiB"));
    }
    let settings = SlotSettings {
        from: args.from,
        max_retained_bytes: args.max_retained.unwrap_or_default(),
        max_idle: args.max_idle,
    };
    let client = session::connect(global).await?;
    let creating = client.create_slot(args.queue.as_str(), args.slot.as_str(), settings);
    let created = session::within(global, "create slot", creating).await?;
    let mut out = std::io::stdout().lock();
    let (slot, at) = (&args.slot, created.slot.position);
    match global.output {
        Format::Json => {
            let mut line = super::json(&created.slot);
            line["created"] = created.created.into();
            writeln!(out, "{line}")?;
        }
        Format::Table if created.created => writeln!(out, "slot {slot} is created at {at}")?,
        Format::Table => {
            let state = super::state(&created.slot);
            writeln!(out, "slot {slot} exists already, with these parameters: at {at}, {state}")?;
        }
    }
    Ok(())
}
