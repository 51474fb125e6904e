//! What can happen in a run: anything (`random`), or one of the named scenarios, each of which is a
//! way in which replicated queues are known to have lost messages, or their way.

mod bitrot_minority;
mod disk_full_then_restart;
mod healthy_soak;
mod kill_during_create;
pub(crate) mod leader_back_before_it_is_missed;
mod leader_change_between_deliver_and_ack;
mod leader_read_error;
mod leader_returns_to_old_answers;
mod many_queues_restart;
mod membership_under_partition;
mod parked_queue_wakes;
mod power_loss_all_nodes;
mod power_loss_during_election;
mod random;
pub(crate) mod replica_that_left_comes_back;
mod retry_storm;
mod rolling_restart_hashes;
mod stuck_head_message_disk_bounded;
mod wiped_node_returns;

use std::time::Duration;

use futures_util::future::BoxFuture;
use madsim::rand::{Rng, thread_rng};
use quorate_client::QueueSettings;

use crate::events::Record;
use crate::faults::{self, Target};
use crate::workload::{Load, Workload};
use crate::world::Cluster;

/// Sizes of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Nodes that found the cluster.
    pub nodes: usize,
    /// How long faults go on, for scenarios that take as long as they are told.
    pub time: Duration,
}

/// A kind of run.
pub struct Scenario {
    /// As the command line names it.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// Runs it; an error is what did not hold.
    pub run: fn(Plan, Record) -> BoxFuture<'static, Result<(), String>>,
}

/// Anything may happen.
pub static RANDOM: Scenario = random::SCENARIO;

/// The named ones.
pub static NAMED: &[&Scenario] = &[
    &bitrot_minority::SCENARIO,
    &disk_full_then_restart::SCENARIO,
    &healthy_soak::SCENARIO,
    &kill_during_create::SCENARIO,
    &leader_change_between_deliver_and_ack::SCENARIO,
    &leader_back_before_it_is_missed::SCENARIO,
    &leader_read_error::SCENARIO,
    &leader_returns_to_old_answers::SCENARIO,
    &many_queues_restart::SCENARIO,
    &membership_under_partition::SCENARIO,
    &parked_queue_wakes::SCENARIO,
    &power_loss_all_nodes::SCENARIO,
    &power_loss_during_election::SCENARIO,
    &replica_that_left_comes_back::SCENARIO,
    &retry_storm::SCENARIO,
    &rolling_restart_hashes::SCENARIO,
    &stuck_head_message_disk_bounded::SCENARIO,
    &wiped_node_returns::SCENARIO,
];

/// The scenario of a name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Scenario> {
    if name == RANDOM.name {
        return Some(&RANDOM);
    }
    NAMED.iter().copied().find(|scenario| scenario.name == name)
}

/// Within so long after the last fault everything is confirmed, delivered and applied.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);
const SETTLE_LIMIT: Duration = Duration::from_secs(60);

/// What every run comes to in the end: all is healed, the queues drain, the replicas agree.
async fn drain(cluster: &Cluster, workload: &Workload) -> Result<(), String> {
    let clients = workload.machines();
    let groups: Vec<u64> = workload.queues().iter().map(|queue| queue.group).collect();
    faults::heal(&Target { cluster: cluster.clone(), groups: groups.clone(), clients });
    workload.drain(DRAIN_LIMIT).await?;
    let replicas = faults::settled(cluster, &groups, SETTLE_LIMIT).await?;
    cluster.settle(&replicas, SETTLE_LIMIT).await
}

/// A load that leaves no message untouched: what a scenario needs that says itself what happens.
fn steady() -> Load {
    Load {
        queues: 2,
        producers: 2,
        consumers: 2,
        pause: Duration::from_millis(20),
        settings: Some(QueueSettings {
            replicas: 3,
            lease_ms: 2_000,
            session_grace_ms: 2_000,
            ..QueueSettings::default()
        }),
        habits: false,
        keys: 0,
        trouble_percent: 5,
        rivals: false,
        readers: true,
        reader_pause: Duration::from_millis(750),
        slots: true,
        shards: 0,
        moves_leaders: true,
    }
}

fn between(from_ms: u64, to_ms: u64) -> Duration {
    Duration::from_millis(thread_rng().gen_range(from_ms..to_ms))
}
