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

use crate::args::Global;
use crate::failure::Failure;

/// Options of `cluster recover`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  quorate cluster recover orders                  what would be lost\n  \
quorate cluster recover orders --accept-loss\n  quorate cluster recover --all --accept-loss\n  \
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
    /// Do not wait until the queues are led again.
    #[arg(long, conflicts_with = "catalog")]
    no_wait: bool,
}

/// Shows what is left, and goes on with it if the loss is accepted.
pub async fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    match &args.data {
        Some(data) => catalog::run(data, args.accept_loss, global).await,
        None => queues::run(args, global).await,
    }
}
