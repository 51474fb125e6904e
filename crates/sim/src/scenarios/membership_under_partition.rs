//! Nodes join the cluster, become voters of its catalog, take queues over and leave again, while the network
//! is cut in two: no group ever has two leaders in a term, and no message is lost. (Found elsewhere: a change
//! of members during a partition lost acknowledged messages.)

use futures_util::FutureExt;
use tokio::time::sleep;

use super::{Plan, Scenario, between, drain, steady};
use crate::events::Record;
use crate::faults::{self, Kind, Target};
use crate::workload::Workload;
use crate::world::Cluster;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "membership_under_partition",
    about: "nodes join and leave, and queues move, while the network is cut",
    run: |plan, record| run(plan, record).boxed(),
};

async fn run(plan: Plan, record: Record) -> Result<(), String> {
    let cluster = Cluster::start(plan.nodes, record);
    let workload = Workload::start(&cluster, steady()).await?;
    let groups = workload.queues().iter().map(|queue| queue.group).chain([0]).collect();
    let target = Target { cluster: cluster.clone(), groups, clients: workload.machines() };
    let joining = target.clone();
    let joins = tokio::spawn(async move {
        for _ in 0..3 {
            sleep(between(200, 3_000)).await;
            faults::inject(&joining, Kind::Join).await;
            for _ in 0..2 {
                sleep(between(50, 1_000)).await;
                faults::inject(&joining, Kind::Move).await;
            }
        }
        faults::inject(&joining, Kind::Leave).await;
    });
    for kind in [Kind::Split, Kind::Isolate, Kind::Bridge, Kind::Split, Kind::OneWay] {
        faults::inject(&target, kind).await;
        sleep(between(50, 800)).await;
    }
    joins.await.map_err(|error| error.to_string())?;
    drain(&cluster, &workload).await
}
