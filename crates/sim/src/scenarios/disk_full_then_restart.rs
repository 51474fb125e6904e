//! A node's disk fills up, the node is killed and comes back with the disk still full: it starts, keeps
//! what it has, and goes on once there is room. (Found elsewhere: a stream was gone after a restart
//! on a full disk.)

use futures_util::FutureExt;
use madsim::rand::{Rng, thread_rng};
use tokio::time::sleep;

use super::{Plan, Scenario, between, drain, steady};
use crate::events::{Event, Record};
use crate::workload::Workload;
use crate::world::Cluster;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "disk_full_then_restart",
    about: "nodes are restarted with a full disk",
    run: |plan, record| run(plan, record).boxed(),
};

async fn run(plan: Plan, record: Record) -> Result<(), String> {
    let cluster = Cluster::start(plan.nodes, record.clone());
    let workload = Workload::start(&cluster, steady()).await?;
    for round in 0..4 {
        sleep(between(500, 2_000)).await;
        let all = cluster.nodes();
        // The last round fills all disks: nobody takes messages, and nothing is lost.
        let nodes = match round {
            3 => all,
            _ => vec![all[thread_rng().gen_range(0..all.len())]],
        };
        for node in &nodes {
            record.tell(Event::Fault { kind: "disk_full", what: &node.to_string() });
            let disk = cluster.disk(*node);
            disk.set_capacity(disk.used_bytes());
        }
        sleep(between(500, 2_000)).await;
        for node in &nodes {
            cluster.kill(*node);
            sleep(between(50, 500)).await;
            cluster.start_again(*node);
        }
        sleep(between(500, 3_000)).await;
        for node in nodes {
            cluster.disk(node).set_capacity(u64::MAX);
        }
    }
    drain(&cluster, &workload).await
}
