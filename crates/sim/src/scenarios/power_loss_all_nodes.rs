//! All nodes lose their power at the same moment, again and again, under load: what was confirmed was
//! flushed on a majority, so it is there when they are back. (Found elsewhere: acknowledged messages
//! lost, because a flush was only made every two minutes.)

use futures_util::FutureExt;
use tokio::time::sleep;

use super::{Plan, Scenario, between, drain, steady};
use crate::events::Record;
use crate::workload::Workload;
use crate::world::Cluster;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "power_loss_all_nodes",
    about: "all nodes lose their power at once, under load",
    run: |plan, record| run(plan, record).boxed(),
};

async fn run(plan: Plan, record: Record) -> Result<(), String> {
    let cluster = Cluster::start(plan.nodes, record);
    let workload = Workload::start(&cluster, steady()).await?;
    for _ in 0..4 {
        sleep(between(500, 3_000)).await;
        cluster.lose_power_in_a_write(&cluster.nodes()).await;
        for node in cluster.nodes() {
            sleep(between(10, 800)).await;
            cluster.start_again(node);
        }
    }
    drain(&cluster, &workload).await
}
