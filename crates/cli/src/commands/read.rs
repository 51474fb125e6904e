//! `quorate read QUEUE`: looks at messages without taking them.

use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use quorate_client::{ReadMessage, Reader, ReaderBuilder};

use crate::args::Global;
use crate::failure::Failure;
use crate::message;
use crate::session;
use crate::stop::Stop;
use crate::units;

/// Options of `read`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  quorate read orders                 what is in the queue now\n  \
quorate read orders --from 1000 -f  from offset 1000 on, and what comes\n  \
quorate read orders --since 10m     what was published in the last ten minutes\n  \
quorate read orders --slot archive  what the slot needs; it is moved behind what was printed\n\nSettled messages can be \
read only in queues created with --retain or --retain-bytes, and as long as a slot needs them."
)]
pub struct Args {
    /// The queue.
    queue: String,
    /// Begin at this offset, or the first after it that can be read.
    #[arg(long, value_name = "OFFSET", conflicts_with_all = ["since", "next"])]
    from: Option<u64>,
    /// Begin with what was published so long ago.
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration, conflicts_with = "next")]
    since: Option<Duration>,
    /// Begin behind the last message.
    #[arg(long)]
    next: bool,
    /// Read through this slot: from its position on, settled messages too, and move it behind what was written to
    /// standard output. What was written and not moved behind, as after a crash, comes again.
    #[arg(long, value_name = "SLOT", conflicts_with_all = ["from", "since", "next"])]
    slot: Option<String>,
    /// End after this many messages.
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Wait for further messages until Ctrl-C.
    #[arg(short, long)]
    follow: bool,
    /// How old what is read may be; default 1s.
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    #[arg(conflicts_with = "linearizable")]
    max_staleness: Option<Duration>,
    /// See everything that was confirmed before.
    #[arg(long)]
    linearizable: bool,
    /// Prefer a replica of this zone.
    #[arg(long, value_name = "ZONE", default_value = "", hide_default_value = true)]
    zone: String,
}

impl Args {
    fn apply(&self, mut reader: ReaderBuilder) -> ReaderBuilder {
        if let Some(offset) = self.from {
            reader = reader.from_offset(offset);
        }
        if let Some(ago) = self.since {
            let since = SystemTime::now().checked_sub(ago);
            reader = reader.from_time(since.unwrap_or(SystemTime::UNIX_EPOCH));
        }
        if self.next {
            reader = reader.from_next();
        }
        if let Some(slot) = &self.slot {
            reader = reader.slot(slot.as_str());
        }
        if let Some(count) = self.count {
            reader = reader.limit(count);
        }
        if let Some(bound) = self.max_staleness {
            reader = reader.max_staleness(bound);
        }
        if self.linearizable {
            reader = reader.linearizable();
        }
        if self.follow {
            reader = reader.follow();
        }
        reader.zone(self.zone.as_str())
    }
}

/// Reads and prints.
pub async fn run(args: Args, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let mut stop = Stop::new()?;
    let mut reader = args.apply(client.reader(args.queue.as_str())).build();
    let outcome = tokio::select! {
        biased;
        () = stop.requested() => Ok(()),
        outcome = print(&mut reader, &args, global) => outcome,
    };
    // Whatever ended it: the slot goes behind what was printed.
    let closed = session::within(global, "move the slot", reader.close()).await;
    outcome.and(closed)
}

async fn print(reader: &mut Reader, args: &Args, global: &Global) -> Result<(), Failure> {
    let doing = format!("read {:?}", args.queue);
    while let Some(message) = reader.next().await {
        let message = message.map_err(|error| session::failure(&doing, &error))?;
        let ReadMessage { offset, published_at, headers, body } = message;
        let published = published_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let published_ms = published.as_millis() as u64;
        let facts = [("offset", offset.into()), ("published_at_ms", published_ms.into())];
        message::print(global.output, facts, &headers, &body)?;
        if args.slot.is_some() {
            reader.confirm(offset).map_err(|error| session::failure(&doing, &error))?;
        }
    }
    Ok(())
}
