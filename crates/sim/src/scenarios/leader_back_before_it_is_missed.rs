//! A leader loses its power in the middle of a write and is back before anybody has missed it: what it had
//! sent to others and not flushed itself is gone from its log. If it led on, it would give the same place in
//! the log to something else.

use futures_util::FutureExt;
use tokio::time::sleep;

use super::{Plan, Scenario, between, drain, steady};
use crate::events::Record;
use crate::workload::{Load, Workload};
use crate::world::{Cluster, Status};

pub(super) const SCENARIO: Scenario = Scenario {
    name: NAME,
    about: "a leader loses its power in a write and is back at once",
    run: |plan, record| run(plan, record).boxed(),
};

/// As the search for planted bugs names it too.
pub(crate) const NAME: &str = "leader_back_before_it_is_missed";

async fn run(plan: Plan, record: Record) -> Result<(), String> {
    let cluster = Cluster::start(plan.nodes, record);
    let load = Load { producers: 2, pause: std::time::Duration::from_millis(8), ..steady() };
    let workload = Workload::start(&cluster, load).await?;
    let group = workload.queues()[0].group;
    for _ in 0..12 {
        sleep(between(300, 1_500)).await;
        let Some(leader) = cluster.leader(group) else { continue };
        cluster.lose_power_in_a_write(&[leader]).await;
        sleep(between(1, 20)).await;
        if cluster.status(leader) == Status::Down {
            cluster.start_again(leader);
        }
    }
    drain(&cluster, &workload).await
}
