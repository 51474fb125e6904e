//! A node comes back with an empty directory and its old name: it is refused, says why, and never votes;
//! the others go on. (Found elsewhere: a queue without a leader after a node returned under a new Raft
//! identity.)

use std::time::Duration;

use futures_util::FutureExt;
use madsim::rand::{Rng, thread_rng};
use tokio::time::sleep;

use super::{DRAIN_LIMIT, Plan, Scenario, between, steady};
use crate::events::{Event, Record};
use crate::workload::Workload;
use crate::world::{Cluster, Status};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "wiped_node_returns",
    about: "a node returns with an empty directory",
    run: |plan, record| run(plan, record).boxed(),
};

async fn run(plan: Plan, record: Record) -> Result<(), String> {
    let cluster = Cluster::start(plan.nodes, record.clone());
    let workload = Workload::start(&cluster, steady()).await?;
    sleep(between(500, 4_000)).await;
    let nodes = cluster.nodes();
    let node = nodes[thread_rng().gen_range(0..nodes.len())];
    cluster.kill(node);
    sleep(between(10, 2_000)).await;
    cluster.wipe(node);
    cluster.start_again(node);
    for _ in 0..150 {
        sleep(Duration::from_millis(100)).await;
        match cluster.status(node) {
            Status::Refused(reason) => {
                record.tell(Event::Note(&format!("node {node} was refused: {reason}")));
                return workload.drain(DRAIN_LIMIT).await;
            }
            Status::Running => return Err(format!("node {node} serves, with an empty directory")),
            _ => {}
        }
    }
    Err(format!("node {node} neither serves nor says why not: {:?}", cluster.status(node)))
}
