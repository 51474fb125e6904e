//! All nodes go at once and come back, with many queues that nobody uses. Each queue is led again though
//! no client asks, also while a node stays away, and is parked once all are there; one that a client
//! asks for does not wait for its turn. (Found by us: thousands of timers ran out while their nodes were
//! still opening the others, and elections went on for ever.)

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use madsim::rand::{Rng, thread_rng};
use quorate_client::{Client, Message, QueueSettings};
use tokio::time::{Instant, sleep, timeout};

use super::{Plan, Scenario, between};
use crate::events::{Event, Record};
use crate::world::Cluster;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "many_queues_restart",
    about: "all nodes stop at once, with many idle queues, and start again",
    run: |plan, record| run(plan, record).boxed(),
};

/// Several of the portions in which a node has its groups led.
const QUEUES: usize = 120;
const ROUNDS: usize = 3;
/// Every queue is led within so long, a majority being there.
const LED_LIMIT: Duration = Duration::from_secs(6);
/// Every replica is parked within so long, all nodes being there.
const PARK_LIMIT: Duration = Duration::from_secs(20);
/// From the call to its receipt, a majority being there.
const WANTED_LIMIT: Duration = Duration::from_secs(3);

async fn run(plan: Plan, record: Record) -> Result<(), String> {
    let cluster = Cluster::start(plan.nodes, record);
    let machine = cluster.client_machine("application");
    let using = cluster.clone();
    machine.spawn(async move { restart(&using).await }).await.map_err(|error| error.to_string())?
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn name(queue: usize) -> String {
    format!("idle-{queue}")
}

async fn restart(cluster: &Cluster) -> Result<(), String> {
    let client = cluster.client().await;
    let mut groups = Vec::new();
    for queue in 0..QUEUES {
        let settings = QueueSettings { replicas: 3, ..QueueSettings::default() };
        let made = client.create_queue(&name(queue), settings).await.map_err(text)?;
        groups.push(made.queue.group_id);
    }
    drop(client);
    for round in 0..ROUNDS {
        all_parked(cluster, &groups).await?;
        let before = terms(cluster, &groups);
        for node in cluster.nodes() {
            match thread_rng().gen_bool(0.5) {
                true => cluster.lose_power(node),
                false => cluster.kill(node),
            }
        }
        let late = thread_rng().gen_bool(0.5).then(|| thread_rng().gen_range(1..=3));
        let note = format!("round {round}: all nodes start again, late: {late:?}");
        cluster.record().tell(Event::Note(&note));
        for node in cluster.nodes().into_iter().filter(|node| Some(*node) != late) {
            cluster.start_again(node);
            sleep(between(0, 400)).await;
        }
        if thread_rng().gen_bool(0.5) {
            let wanted = name(thread_rng().gen_range(0..QUEUES));
            timeout(WANTED_LIMIT, publish(cluster, late, &wanted)).await.map_err(|_| {
                format!("liveness: no receipt for {wanted} within {WANTED_LIMIT:?}")
            })??;
        }
        all_led(cluster, &groups, &before).await?;
        if let Some(late) = late {
            cluster.start_again(late);
        }
    }
    all_parked(cluster, &groups).await
}

fn terms(cluster: &Cluster, groups: &[u64]) -> Vec<u64> {
    let term = |group: &u64| cluster.record().leader(*group).map_or(0, |(_, term)| term);
    groups.iter().map(term).collect()
}

async fn publish(cluster: &Cluster, late: Option<u64>, queue: &str) -> Result<(), String> {
    let client = Client::connect(cluster.addresses_of(|node| Some(node) != late)).await;
    let producer = client.map_err(text)?.producer(queue).build().await.map_err(text)?;
    let receipt = producer.publish(Message::new(Bytes::from_static(b"work"))).await;
    receipt.map(|_| ()).map_err(text)
}

/// Waits until each group has a leader of a later term than `before`.
async fn all_led(cluster: &Cluster, groups: &[u64], before: &[u64]) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        let now = terms(cluster, groups);
        let missing = now.iter().zip(before).filter(|(now, before)| now <= before).count();
        if missing == 0 {
            let took = begun.elapsed();
            cluster.record().tell(Event::Note(&format!("all led after {took:?}")));
            return Ok(());
        }
        if begun.elapsed() > LED_LIMIT {
            return Err(format!("liveness: {missing} queues are not led after {LED_LIMIT:?}"));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until every replica is parked.
async fn all_parked(cluster: &Cluster, groups: &[u64]) -> Result<(), String> {
    let begun = Instant::now();
    let (nodes, record) = (cluster.nodes(), cluster.record());
    loop {
        let parked = |group: &&u64| nodes.iter().all(|node| record.is_parked(*node, **group));
        let awake = groups.len() - groups.iter().filter(parked).count();
        if awake == 0 {
            return Ok(());
        }
        if begun.elapsed() > PARK_LIMIT {
            return Err(format!("liveness: {awake} queues are not parked after {PARK_LIMIT:?}"));
        }
        sleep(Duration::from_millis(50)).await;
    }
}
