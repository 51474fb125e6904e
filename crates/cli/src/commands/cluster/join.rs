//! `quorate cluster join`: a new node gets its number and its identity before its first start.
//!
//! The cluster registers the node, then the data directory is marked with what it answered. The broker owns
//! the format of that mark, so it does both.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use quorate_broker::JoinError;
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
        Ok(joined) => joined.map_err(|error| failure(&error))?,
        Err(_) => {
            let what = format!("join the cluster: no answer within {:?}", global.timeout);
            return Err(Failure::new(Exit::Unavailable, what).reason("TIMEOUT"));
        }
    };
    let data = args.data.display();
    let start = format!("quorate server --data {data} {}", listen_flags(&args.address));
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

fn failure(error: &JoinError) -> Failure {
    let exit = match error {
        JoinError::Unreachable { .. } => Exit::Unavailable,
        JoinError::Refused(_) => Exit::Refused,
        _ => Exit::Failed,
    };
    let failure = Failure::new(exit, format!("join the cluster: {error}"));
    let failure = match error {
        JoinError::Unreachable { .. } => failure.reason("UNREACHABLE"),
        _ => failure,
    };
    failure.cure("`quorate cluster status` shows whether the cluster is up; --data must be empty")
}

/// Flags with which a node is reached at `address`. A name cannot be listened at, so such a node listens at
/// all of its machine's addresses.
fn listen_flags(address: &str) -> String {
    match address.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => format!("--listen {address}"),
        Ok(address) => format!("--listen {address} --insecure"),
        Err(_) => {
            let port = address.rsplit_once(':').map_or(address, |(_, port)| port);
            format!("--listen 0.0.0.0:{port} --advertise {address} --insecure")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_loopback_the_start_needs_insecure() {
        assert_eq!(listen_flags("127.0.0.1:7104"), "--listen 127.0.0.1:7104");
        assert_eq!(listen_flags("[::1]:7104"), "--listen [::1]:7104");
        assert_eq!(listen_flags("10.0.0.4:7100"), "--listen 10.0.0.4:7100 --insecure");
        assert_eq!(
            listen_flags("node-4.example:7100"),
            "--listen 0.0.0.0:7100 --advertise node-4.example:7100 --insecure"
        );
    }

    #[test]
    fn a_refusal_is_code_6_and_silence_is_code_4() {
        let refused = JoinError::Refused("the address is taken".to_owned());
        assert_eq!(failure(&refused).exit(), Exit::Refused);
        let silent = JoinError::Unreachable { servers: "a:1".to_owned(), reason: String::new() };
        assert_eq!(failure(&silent).exit(), Exit::Unavailable);
    }
}
