//! `quorate settle QUEUE HELD...`.

use std::io::Write;
use std::time::Duration;

use quorate_client::{Held, Settlement};

use crate::args::{Format, Global};
use crate::failure::Failure;
use crate::{session, units};

/// Options of `settle`; without one of --nack, --put-back, --reject and --extend the messages are acknowledged.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The queue.
    queue: String,
    /// What `receive --output json` shows as `held`.
    #[arg(required = true)]
    held: Vec<Held>,
    /// Give them back to the queue, not before TIME; 0s for at once, or after the queue's back-off.
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    #[arg(conflicts_with_all = ["put_back", "reject", "extend"])]
    nack: Option<Duration>,
    /// Give them back untouched: at once, and as if they had not been delivered.
    #[arg(long, conflicts_with_all = ["reject", "extend"])]
    put_back: bool,
    /// They are not wanted, and leave the queue.
    #[arg(long, conflicts_with = "extend")]
    reject: bool,
    /// Hold them for TIME from now.
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    extend: Option<Duration>,
}

impl Args {
    fn settlement(&self) -> (Settlement, &'static str) {
        if self.put_back {
            return (Settlement::PutBack, "put back");
        }
        match (self.nack, self.reject, self.extend) {
            (Some(delay), _, _) => (Settlement::Nack(Some(delay)), "given back"),
            (None, true, _) => (Settlement::Reject, "rejected"),
            (None, false, Some(lease)) => (Settlement::Extend(lease), "extended"),
            (None, false, None) => (Settlement::Ack, "acknowledged"),
        }
    }
}

/// Settles messages that were received, one after the other; ends at the first that cannot be.
pub async fn run(args: Args, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let receiver = client.pull_consumer(args.queue.as_str());
    let (settlement, done) = args.settlement();
    for &held in &args.held {
        let doing = format!("settle the message at offset {}", held.offset);
        session::within(global, &doing, receiver.settle(held, settlement)).await?;
        let mut out = std::io::stdout().lock();
        match global.output {
            Format::Table => writeln!(out, "offset {} is {done}", held.offset)?,
            Format::Json => {
                let line = serde_json::json!({ "offset": held.offset, "settled": done });
                writeln!(out, "{line}")?;
            }
        }
    }
    Ok(())
}
