//! Nodes are killed while queues are created and deleted: a queue whose creation was confirmed is
//! there afterwards, and takes messages. (Found elsewhere: a stream vanished after a kill.)

use std::time::Duration;

use futures_util::FutureExt;
use quorate_client::{Client, Message, QueueSettings};
use tokio::time::{Instant, sleep};

use super::{Plan, Scenario, between, drain, steady};
use crate::events::Record;
use crate::faults::{self, Kind, Target};
use crate::workload::Workload;
use crate::world::Cluster;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "kill_during_create",
    about: "nodes are killed while queues are created",
    run: |plan, record| run(plan, record).boxed(),
};

async fn run(plan: Plan, record: Record) -> Result<(), String> {
    let cluster = Cluster::start(plan.nodes, record);
    let workload = Workload::start(&cluster, steady()).await?;
    let target = Target { cluster: cluster.clone(), groups: vec![0], clients: Vec::new() };
    let machine = cluster.client_machine("creator");
    let creating = cluster.clone();
    let created = machine.spawn(async move { create(&creating).await });
    for _ in 0..6 {
        sleep(between(50, 700)).await;
        faults::inject(&target, Kind::KillLeader).await;
    }
    let created = created.await.map_err(|error| error.to_string())?;
    let using = cluster.clone();
    let used = machine.spawn(async move { every_one_takes_a_message(&using, created).await });
    drain(&cluster, &workload).await?;
    used.await.map_err(|error| error.to_string())?
}

/// Names of the queues whose creation was confirmed.
async fn create(cluster: &Cluster) -> Vec<String> {
    let client = cluster.client().await;
    let mut created = Vec::new();
    for number in 0..12 {
        let name = format!("made-{number}");
        let settings = QueueSettings { replicas: 3, ..QueueSettings::default() };
        if client.create_queue(name.as_str(), settings).await.is_ok() {
            created.push(name);
        }
        sleep(between(1, 200)).await;
    }
    created
}

async fn every_one_takes_a_message(cluster: &Cluster, names: Vec<String>) -> Result<(), String> {
    let client = cluster.client().await;
    let until = Instant::now() + Duration::from_secs(60);
    for name in names {
        while let Err(error) = publish(&client, &name).await {
            if Instant::now() > until {
                return Err(format!("kill_during_create: {name} was created, but: {error}"));
            }
            sleep(Duration::from_millis(200)).await;
        }
    }
    Ok(())
}

async fn publish(client: &Client, name: &str) -> Result<(), String> {
    let producer = client.producer(name).deadline(Duration::from_secs(5)).build().await;
    let producer = producer.map_err(|error| error.to_string())?;
    producer.publish(Message::new("there")).await.map(drop).map_err(|error| error.to_string())
}
