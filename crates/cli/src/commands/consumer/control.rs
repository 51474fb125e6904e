//! `quorate consumer pause|resume|kick QUEUE NAME|SESSION`.

use std::io::Write;

use quorate_client::ConsumerControl;
use serde_json::json;

use crate::args::{Format, Global};
use crate::failure::Failure;
use crate::session;

/// Options of `consumer pause`, `resume` and `kick`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The queue.
    queue: String,
    /// A name, which means all that have it now, or a session of 32 hexadecimal digits.
    who: String,
}

/// Does it to all that are meant, and says how many these were.
pub async fn run(args: &Args, what: ConsumerControl, global: &Global) -> Result<(), Failure> {
    let (doing, done) = match what {
        ConsumerControl::Pause => ("pause consumer", "paused"),
        ConsumerControl::Kick => ("kick consumer", "kicked"),
        _ => ("resume consumer", "resumed"),
    };
    let client = session::connect(global).await?;
    let asking = client.control_consumers(args.queue.as_str(), super::who(&args.who), what);
    let consumers = session::within(global, doing, asking).await?;
    let mut out = std::io::stdout().lock();
    match global.output {
        Format::Json => {
            let line = json!({ "queue": args.queue, "who": args.who, done: consumers });
            writeln!(out, "{line}")?;
        }
        Format::Table if consumers == 1 => writeln!(out, "consumer {} is {done}", args.who)?,
        Format::Table => writeln!(out, "{consumers} consumers {} are {done}", args.who)?,
    }
    Ok(())
}
