//! The leader of a queue dies while consumers hold its messages: they settle with the next leader, and
//! no consumer stalls. (Found elsewhere: a consumer that was shown nothing any more after a change of
//! leader.)

use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::sleep;

use super::{Plan, Scenario, between, drain, steady};
use crate::events::Record;
use crate::faults::{self, Kind, Target};
use crate::workload::{Load, Workload};
use crate::world::Cluster;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "leader_change_between_deliver_and_ack",
    about: "leaders die while consumers hold messages",
    run: |plan, record| run(plan, record).boxed(),
};

async fn run(plan: Plan, record: Record) -> Result<(), String> {
    let cluster = Cluster::start(plan.nodes, record);
    // Half of the deliveries are held for up to four seconds.
    let load = Load { trouble_percent: 50, pause: Duration::from_millis(50), ..steady() };
    let workload = Workload::start(&cluster, load).await?;
    let groups = workload.queues().iter().map(|queue| queue.group).collect();
    let target = Target { cluster: cluster.clone(), groups, clients: Vec::new() };
    for _ in 0..4 {
        for kind in [Kind::KillLeader, Kind::Restart, Kind::Isolate] {
            sleep(between(300, 1_500)).await;
            faults::inject(&target, kind).await;
        }
    }
    drain(&cluster, &workload).await
}
