//! Answers are lost and late, so producers retry all the time: each message enters once, in its order.
//! (Found elsewhere: duplicates, and offsets that were not consistent, after retries.)

use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::sleep;

use super::{Plan, Scenario, between, drain, steady};
use crate::events::{Event, Record};
use crate::faults::{self, Kind, Target};
use crate::workload::Workload;
use crate::world::Cluster;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "retry_storm",
    about: "answers are lost, so that everything is retried",
    run: |plan, record| run(plan, record).boxed(),
};

async fn run(plan: Plan, record: Record) -> Result<(), String> {
    let cluster = Cluster::start(plan.nodes, record.clone());
    let workload = Workload::start(&cluster, steady()).await?;
    let groups = workload.queues().iter().map(|queue| queue.group).collect();
    let target = Target { cluster: cluster.clone(), groups, clients: workload.machines() };
    for _ in 0..4 {
        record.tell(Event::Fault { kind: "loss", what: "0.4" });
        cluster.set_loss(0.4);
        cluster.set_latency(Duration::from_millis(1)..Duration::from_millis(120));
        for kind in [Kind::IsolateClient, Kind::KillLeader, Kind::OneWay] {
            sleep(between(200, 1_000)).await;
            faults::inject(&target, kind).await;
        }
        cluster.heal_network();
        sleep(between(500, 1_500)).await;
    }
    drain(&cluster, &workload).await
}
