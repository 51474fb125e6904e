//! `quorate cluster remove-node NODE`.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::args::{Format, Global};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::{session, units};

/// Time between two looks at what the node holds still.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Options of `cluster remove-node`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The replicas of the node move to other nodes first; then the node is forgotten, and stops if it runs. \
Its id is not given again. `quorate cluster undrain` takes it back as long as it holds something."
)]
pub struct Args {
    /// The node's id, as `quorate cluster status` shows it.
    node: u64,
    /// Do not wait until it holds nothing any more.
    #[arg(long)]
    no_wait: bool,
}

/// Has the node leave, and waits until it holds nothing.
pub async fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let mut left =
        session::within(global, "remove the node", client.remove_node(args.node)).await?;
    let begun = Instant::now();
    let mut removed = false;
    while !removed && !args.no_wait {
        let status = session::within(global, "ask for the status", client.status()).await?;
        let node = status.nodes.iter().find(|node| node.node_id == args.node);
        removed = node.is_none();
        left = node.map_or(0, |node| node.replicas);
        if removed {
            break;
        }
        if begun.elapsed() > global.timeout {
            let what = format!("node {} holds {} replicas still", args.node, units::count(left));
            return Err(Failure::new(Exit::Failed, what).reason("TIMEOUT").cure(
                "it goes on by itself; `quorate cluster status` shows how far it is, and --timeout waits longer",
            ));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let mut out = std::io::stdout().lock();
    match global.output {
        Format::Json => {
            writeln!(
                out,
                "{}",
                json!({ "node_id": args.node, "removed": removed, "replicas": left })
            )?;
        }
        Format::Table if removed => {
            writeln!(out, "node {} was removed; its data directory can be deleted", args.node)?;
        }
        Format::Table => {
            writeln!(
                out,
                "node {} is leaving; it holds {} replicas",
                args.node,
                units::count(left)
            )?;
        }
    }
    Ok(())
}
