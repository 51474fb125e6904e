//! All nodes are restarted in turn, in good order, several times over: the replicas of every queue hold
//! the same state afterwards. (Found elsewhere: replicas that differed after a restart or an
//! upgrade.)

use futures_util::FutureExt;
use tokio::time::sleep;

use super::{Plan, Scenario, between, drain, steady};
use crate::events::Record;
use crate::workload::Workload;
use crate::world::Cluster;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "rolling_restart_hashes",
    about: "all nodes are restarted in turn",
    run: |plan, record| run(plan, record).boxed(),
};

async fn run(plan: Plan, record: Record) -> Result<(), String> {
    let cluster = Cluster::start(plan.nodes, record);
    let workload = Workload::start(&cluster, steady()).await?;
    for _ in 0..3 {
        for node in cluster.nodes() {
            sleep(between(300, 1_500)).await;
            cluster.shut_down(node).await;
            sleep(between(10, 500)).await;
            cluster.start_again(node);
        }
    }
    drain(&cluster, &workload).await
}
