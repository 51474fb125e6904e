//! `quorate consumer list QUEUE`.

use std::io::Write;
use std::time::Duration;

use quorate_client::{ConsumerList, Consumers};

use crate::args::{Format, Global};
use crate::failure::Failure;
use crate::{session, units, watch};

/// Options of `consumer list`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The queue.
    queue: String,
    /// Show them again and again, every second unless another time is given, until Ctrl-C.
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "1s")]
    #[arg(value_parser = units::parse_duration)]
    watch: Option<Duration>,
}

/// Lists them once, or until it is interrupted.
pub async fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    watch::repeat(args.watch, async || {
        let listing = client.list_consumers(args.queue.as_str(), Consumers::All);
        let list = session::within(global, "list consumers", listing).await?;
        show(&list, global)
    })
    .await
}

fn show(list: &ConsumerList, global: &Global) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match global.output {
        Format::Json => {
            for consumer in &list.consumers {
                writeln!(out, "{}", super::json(consumer))?;
            }
        }
        Format::Table => {
            write!(out, "{}", super::table(&list.consumers))?;
            if list.queue_paused {
                writeln!(out, "the queue is paused: nobody is handed anything")?;
            }
        }
    }
    out.flush()?;
    Ok(())
}
