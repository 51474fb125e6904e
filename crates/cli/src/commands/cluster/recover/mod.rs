//! `quorate cluster recover …`: going on without a majority, which loses what only the lost replicas had.
//!
//! ```text
//!  QUEUE... | --all        asks the cluster: its catalog has a majority     queues
//!  --catalog --data DIR    on a node that does not run                      catalog ── start ──► then the queues
//! ```
//! Without `--accept-loss` both only show what there is.

mod catalog;
mod queues;

use std::path::PathBuf;
use std::str::FromStr;

use crate::args::Global;
use crate::failure::Failure;

/// Options of `cluster recover`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  quorate cluster recover orders                  what would be lost\n  \
quorate cluster recover orders --accept-loss --at-least 3:1043\n  quorate cluster recover --all --accept-loss\n  \
quorate cluster recover --catalog --data DIR    on a node that does not run, if the catalog has lost its \
majority\n\nFor nodes that are lost for ever; what comes back by itself needs none of this. Without --accept-loss \
nothing is changed, and the code is 7 if there is something to recover. Ends with code 6 where there is a majority, \
4 where nothing is left that could go on, 5 if there is no such queue. docs/OPERATIONS.md, \"When a majority is \
lost\", has the steps."
)]
pub struct Args {
    /// Queues whose replicas have lost their majority.
    #[arg(value_name = "QUEUE", required_unless_present_any = ["all", "catalog"])]
    #[arg(conflicts_with_all = ["all", "catalog"])]
    queues: Vec<String>,
    /// Every queue that has lost the majority of its replicas.
    #[arg(long, conflicts_with = "catalog")]
    all: bool,
    /// The catalog, on a node that does not run: it leads the catalog alone from its next start on.
    #[arg(long, requires = "data")]
    catalog: bool,
    /// Data directory of that node.
    #[arg(long, value_name = "DIR", requires = "catalog")]
    data: Option<PathBuf>,
    /// Go on, and give up what only the lost replicas had.
    #[arg(long)]
    accept_loss: bool,
    /// Only if the replica that goes on has its log up to there, as was shown without --accept-loss; for one queue.
    #[arg(long, value_name = "TERM:INDEX", requires = "accept_loss")]
    #[arg(conflicts_with_all = ["all", "catalog"])]
    at_least: Option<AtLeast>,
    /// Do not wait until the queues are led again.
    #[arg(long, conflicts_with = "catalog")]
    no_wait: bool,
}

/// `TERM:INDEX`, a position in a queue's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct AtLeast {
    term: u64,
    index: u64,
}

impl FromStr for AtLeast {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (term, index) = text.split_once(':').ok_or("write TERM:INDEX, e.g. 3:1043")?;
        let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is no number"));
        Ok(Self { term: number(term)?, index: number(index)? })
    }
}

/// Shows what is left, and goes on with it if the loss is accepted.
pub async fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    match &args.data {
        Some(data) => catalog::run(data, args.accept_loss, global).await,
        None => queues::run(args, global).await,
    }
}
