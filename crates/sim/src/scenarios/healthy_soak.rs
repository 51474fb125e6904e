//! Nothing goes wrong: then nothing may, no publish fails, and no leader changes. (Found elsewhere:
//! acknowledged messages lost, and clients stuck, in a healthy cluster.)

use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::sleep;

use super::{Plan, Scenario, drain, steady};
use crate::events::Record;
use crate::workload::{Load, Workload};
use crate::world::Cluster;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "healthy_soak",
    about: "nothing goes wrong",
    run: |plan, record| run(plan, record).boxed(),
};

async fn run(plan: Plan, record: Record) -> Result<(), String> {
    let cluster = Cluster::start(plan.nodes, record.clone());
    // Without what refuses messages: a limit, or a rival.
    let settings = steady().settings;
    let load = Load { settings, rivals: false, moves_leaders: false, ..Load::random() };
    let workload = Workload::start(&cluster, load).await?;
    let leaders = |record: &Record| {
        let groups = workload.queues().iter().map(|queue| queue.group);
        groups.map(|group| record.leader(group)).collect::<Vec<_>>()
    };
    sleep(Duration::from_secs(2)).await;
    let before = leaders(&record);
    sleep(plan.time).await;
    if before != leaders(&record) {
        return Err(format!("leaders changed: {before:?}, now {:?}", leaders(&record)));
    }
    let counters = record.counters();
    if counters.unknown + counters.refused > 0 {
        return Err(format!("publishes failed in a healthy cluster: {counters:?}"));
    }
    drain(&cluster, &workload).await
}
