//! A leader is cut off, others elect another one, and when it is back it finds answers to what it had asked for
//! before: its followers did follow it when they wrote them. It must not take that for a proof that they do now, and
//! tell readers that its state is up to date.

use futures_util::FutureExt;
use tokio::time::sleep;

use super::{Plan, Scenario, between, drain, steady};
use crate::events::Record;
use crate::workload::{Load, Workload};
use crate::world::Cluster;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "leader_returns_to_old_answers",
    about: "a leader is back from a partition, to answers from before it, while it is read",
    run: |plan, record| run(plan, record).boxed(),
};

async fn run(plan: Plan, record: Record) -> Result<(), String> {
    let cluster = Cluster::start(plan.nodes, record);
    let load = Load {
        queues: 1,
        pause: std::time::Duration::from_millis(4),
        reader_pause: std::time::Duration::from_millis(15),
        ..steady()
    };
    let workload = Workload::start(&cluster, load).await?;
    let group = workload.queues()[0].group;
    for _ in 0..12 {
        sleep(between(200, 1_000)).await;
        let Some(leader) = cluster.leader(group) else { continue };
        // What it asks for arrives; the answers are on their way until it is back.
        for node in cluster.nodes().into_iter().filter(|node| *node != leader) {
            cluster.cut_one_way(node, leader);
        }
        sleep(between(2, 60)).await;
        cluster.isolate(leader);
        sleep(between(900, 2_500)).await;
        cluster.heal_network();
    }
    drain(&cluster, &workload).await
}
