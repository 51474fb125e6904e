//! Nodes that join while other things happen.

use tokio::time::timeout;

use super::Target;
use crate::events::Event;

/// Most nodes of a simulated cluster.
const NODES_MAX: usize = 6;

pub(super) async fn join(target: &Target) {
    if target.cluster.nodes().len() >= NODES_MAX {
        return;
    }
    let limit = std::time::Duration::from_secs(8);
    let outcome = match timeout(limit, target.cluster.join()).await {
        Ok(Ok(node)) => format!("node {node} has joined"),
        Ok(Err(reason)) => format!("a node could not join: {reason}"),
        Err(_) => "a node could not join in time".to_owned(),
    };
    target.cluster.record().tell(Event::Note(&outcome));
}
