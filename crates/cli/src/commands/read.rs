//! `quorate read QUEUE`: looks at messages without taking them.

use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use quorate_client::{ReadMessage, Reader, ReaderBuilder};

use crate::args::Global;
use crate::failure::Failure;
use crate::message;
use crate::session;
use crate::units;

/// Options of `read`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  quorate read orders                 what is in the queue now\n  \
quorate read orders --from 1000 -f  from offset 1000 on, and what comes\n  \
quorate read orders --since 10m     what was published in the last ten minutes\n\nSettled messages can be read \
only in queues created with --retain or --retain-bytes."
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
    let mut reader = args.apply(client.reader(args.queue.as_str())).build();
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => Ok(()),
        outcome = print(&mut reader, &args, global) => outcome,
    }
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
    }
    Ok(())
}
