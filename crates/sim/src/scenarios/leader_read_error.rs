//! The device of a leader fails to read while it serves followers that lag and consumers that come
//! late: it stops, and no follower's log is harmed. (Found elsewhere: a read error on the leader
//! corrupted a follower's log.)

use futures_util::FutureExt;
use quorate_storage::disk::{Fault, Operation};
use tokio::time::sleep;

use super::{Plan, Scenario, between, drain, steady};
use crate::events::{Event, Record};
use crate::workload::Workload;
use crate::world::{Cluster, Status};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "leader_read_error",
    about: "a leader cannot read its log while followers catch up",
    run: |plan, record| run(plan, record).boxed(),
};

async fn run(plan: Plan, record: Record) -> Result<(), String> {
    let cluster = Cluster::start(plan.nodes, record.clone());
    let workload = Workload::start(&cluster, steady()).await?;
    let group = workload.queues()[0].group;
    for _ in 0..5 {
        sleep(between(500, 1_500)).await;
        let Some(leader) = cluster.leader(group) else { continue };
        let Some(follower) = cluster.nodes().into_iter().find(|node| *node != leader) else {
            continue;
        };
        // It comes back so late that it is served from the leader's disk.
        cluster.kill(follower);
        sleep(between(2_000, 5_000)).await;
        let disk = cluster.disk(leader);
        for call in 1..4 {
            disk.plan(Operation::Read, call, Fault::Error);
        }
        record.tell(Event::Fault { kind: "read_error", what: &leader.to_string() });
        if cluster.status(follower) == Status::Down {
            cluster.start_again(follower);
        }
        sleep(between(1_000, 3_000)).await;
        disk.clear_plans();
    }
    drain(&cluster, &workload).await
}
