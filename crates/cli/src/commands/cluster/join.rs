//! `quorate cluster join`: a new node gets its number and its identity before its first start.
//!
//! The cluster registers the node, then the data directory is marked with what it answered. The broker owns
//! the format of that mark, so it does both.

use std::io::Write;
use std::path::PathBuf;

use serde_json::json;

use crate::args::{Format, Global};
use crate::exit::Exit;
use crate::failure::Failure;

/// Options of `cluster join`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Data directory of the new node; must be empty or not exist.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// host:port at which the other nodes will reach the new one.
    #[arg(long, value_name = "HOST:PORT")]
    address: String,
    /// Failure domain of the new node.
    #[arg(long, value_name = "NAME", default_value = "")]
    zone: String,
}

/// Registers the node and writes its identity.
pub async fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    let joining = quorate_broker::join(&args.data, &global.server, &args.address, &args.zone);
    let joined = match tokio::time::timeout(global.timeout, joining).await {
        Ok(joined) => joined.map_err(|error| {
            Failure::new(Exit::Failed, format!("join the cluster: {error}")).cure(
                "`quorate cluster status` shows whether the cluster is up; --data must be empty",
            )
        })?,
        Err(_) => {
            let what = format!("join the cluster: no answer within {:?}", global.timeout);
            return Err(Failure::new(Exit::Unavailable, what).reason("TIMEOUT"));
        }
    };
    let start = format!("quorate server --data {} --listen {}", args.data.display(), args.address);
    let mut out = std::io::stdout().lock();
    match global.output {
        Format::Json => writeln!(
            out,
            "{}",
            json!({ "node_id": joined.node_id, "cluster_id": joined.cluster_id.to_string() })
        )?,
        Format::Table => writeln!(
            out,
            "node {} is registered in cluster {}; start it:\n  {start}",
            joined.node_id, joined.cluster_id
        )?,
    }
    Ok(())
}
