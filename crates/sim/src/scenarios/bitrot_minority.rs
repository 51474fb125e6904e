//! Bits flip in the log of one node of three: it finds out, refuses to start and says why; the
//! majority loses nothing, and the damage does not spread. (Found elsewhere: damage on a minority
//! truncated committed messages on the majority.)

use futures_util::FutureExt;
use tokio::time::sleep;

use super::{Plan, Scenario, between, drain, steady};
use crate::events::Record;
use crate::faults::{self, Kind, Target};
use crate::workload::Workload;
use crate::world::Cluster;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "bitrot_minority",
    about: "bits of one node's log flip",
    run: |plan, record| run(plan, record).boxed(),
};

async fn run(plan: Plan, record: Record) -> Result<(), String> {
    let cluster = Cluster::start(plan.nodes, record);
    let workload = Workload::start(&cluster, steady()).await?;
    let groups = workload.queues().iter().map(|queue| queue.group).collect();
    let target = Target { cluster: cluster.clone(), groups, clients: Vec::new() };
    for _ in 0..5 {
        sleep(between(500, 3_000)).await;
        faults::inject(&target, Kind::BitFlip).await;
    }
    drain(&cluster, &workload).await
}
