//! The leader is gone, and a node loses its power while the others elect: a vote that was given and
//! forgotten would make two leaders of one term. (Found elsewhere: split brain after a single loss of
//! power, because the vote was not durable.)

use futures_util::FutureExt;
use tokio::time::sleep;

use super::{Plan, Scenario, between, drain, steady};
use crate::events::Record;
use crate::workload::Workload;
use crate::world::{Cluster, Status};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "power_loss_during_election",
    about: "voters lose their power while a leader is elected",
    run: |plan, record| run(plan, record).boxed(),
};

async fn run(plan: Plan, record: Record) -> Result<(), String> {
    let cluster = Cluster::start(plan.nodes, record);
    let workload = Workload::start(&cluster, steady()).await?;
    let group = workload.queues()[0].group;
    for _ in 0..5 {
        sleep(between(500, 2_000)).await;
        let Some(leader) = cluster.leader(group) else { continue };
        cluster.kill(leader);
        // The election begins 750 to 1,000 ms after the leader was last heard of.
        sleep(between(700, 1_100)).await;
        for node in cluster.nodes().into_iter().filter(|node| *node != leader) {
            cluster.lose_power_in_a_write(&[node]).await;
            sleep(between(1, 30)).await;
            cluster.start_again(node);
        }
        sleep(between(1, 1_500)).await;
        if cluster.status(leader) == Status::Down {
            cluster.start_again(leader);
        }
    }
    drain(&cluster, &workload).await
}
