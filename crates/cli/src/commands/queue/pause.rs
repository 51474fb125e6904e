//! `quorate queue pause NAME` and `quorate queue resume NAME`.

use std::io::Write;

use quorate_client::{ConsumerControl, Consumers};
use serde_json::json;

use crate::args::{Format, Global};
use crate::failure::Failure;
use crate::session;

/// Options of `queue pause` and `queue resume`.
#[derive(Debug, clap::Args)]
pub struct Args {
    name: String,
}

/// Pauses or resumes the queue as a whole.
pub async fn run(args: &Args, pause: bool, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let name = args.name.as_str();
    let (what, doing) = match pause {
        true => (ConsumerControl::Pause, "pause queue"),
        false => (ConsumerControl::Resume, "resume queue"),
    };
    let asking = client.control_consumers(name, Consumers::All, what);
    let consumers = session::within(global, doing, asking).await?;
    let mut out = std::io::stdout().lock();
    match global.output {
        Format::Json => {
            writeln!(out, "{}", json!({ "queue": name, "paused": pause, "consumers": consumers }))?
        }
        Format::Table if pause => {
            writeln!(out, "queue {name} is paused: its {consumers} consumers are handed nothing")?
        }
        Format::Table => writeln!(out, "queue {name} goes on, with {consumers} consumers")?,
    }
    Ok(())
}
