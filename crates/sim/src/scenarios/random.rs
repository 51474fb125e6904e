//! A random workload under random faults; then everything is healed, and must drain and agree.

use futures_util::FutureExt;
use tokio::time::Instant;

use super::{Plan, Scenario, drain};
use crate::events::{Event, Record};
use crate::faults::{self, Target};
use crate::workload::{Load, Workload};
use crate::world::Cluster;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "random",
    about: "a random workload under a random subset of all faults, then healed and drained",
    run: |plan, record| run(plan, record).boxed(),
};

async fn run(plan: Plan, record: Record) -> Result<(), String> {
    let cluster = Cluster::start(plan.nodes, record.clone());
    let workload = Workload::start(&cluster, Load::random()).await?;
    let groups = workload.queues().iter().map(|queue| queue.group).chain([0]).collect();
    let target = Target { cluster: cluster.clone(), groups, clients: workload.machines() };
    let kinds = faults::subset();
    record.tell(Event::Note(&format!("faults: {kinds:?}")));
    faults::run(&target, &kinds, Instant::now() + plan.time).await;
    drain(&cluster, &workload).await
}
