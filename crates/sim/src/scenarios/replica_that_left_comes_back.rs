//! A queue moves from three nodes to one of them while another is cut off, then back to all three; the one that
//! was cut off takes itself for a voter of three still, and asks the one that has returned, with an empty log,
//! for its vote. If it got it, it would lead over entries that were committed without it. (Found here, by
//! random faults; a replica therefore keeps what it once had.)

use futures_util::FutureExt;
use quorate_client::ChangeReplicasRequest;
use tokio::time::sleep;

use super::{Plan, SETTLE_LIMIT, Scenario, between, drain, steady};
use crate::events::Record;
use crate::faults;
use crate::workload::{Load, Workload};
use crate::world::Cluster;

pub(super) const SCENARIO: Scenario = Scenario {
    name: NAME,
    about: "a replica leaves, and returns to be asked for its vote by one that knows nothing of it",
    run: |plan, record| run(plan, record).boxed(),
};

/// As the search for planted bugs names it too.
pub(crate) const NAME: &str = "replica_that_left_comes_back";

async fn run(_: Plan, record: Record) -> Result<(), String> {
    let cluster = Cluster::start(5, record);
    let load = Load { queues: 1, moves_leaders: false, ..steady() };
    let workload = Workload::start(&cluster, load).await?;
    let group = workload.queues()[0].group;
    sleep(between(500, 2_000)).await;
    let place = |voters: Vec<u64>, remove: Vec<u64>| {
        let change = ChangeReplicasRequest { voters, remove, ..Default::default() };
        faults::place(&cluster, group, change)
    };
    // Who leads the catalog has to be reached by all that follow: the queue is elsewhere.
    let catalog = cluster.leader(0).ok_or("the catalog has no leader")?;
    let nodes = cluster.nodes().into_iter().filter(|node| *node != catalog);
    let mut holders: Vec<u64> = nodes.collect();
    let mut others = holders.split_off(3);
    others.push(catalog);
    place(holders.clone(), others).await;
    faults::settled(&cluster, &[group], SETTLE_LIMIT).await?;
    let leader = cluster.leader(group).ok_or("the queue has no leader")?;
    let [stale, other] =
        holders.iter().copied().filter(|node| *node != leader).collect::<Vec<_>>()[..]
    else {
        return Err(format!("the queue is held by {holders:?}"));
    };
    cluster.isolate(stale);
    sleep(between(200, 1_000)).await;
    place(vec![leader], vec![stale, other]).await;
    faults::settled(&cluster, &[group], SETTLE_LIMIT).await?;
    sleep(between(500, 1_500)).await;
    cluster.partition(&[leader], &[other]);
    place(vec![leader, stale, other], Vec::new()).await;
    sleep(between(1_000, 2_000)).await;
    cluster.rejoin(stale);
    cluster.partition(&[leader], &[stale, other]);
    sleep(between(4_000, 6_000)).await;
    cluster.heal_network();
    drain(&cluster, &workload).await
}
