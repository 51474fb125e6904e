//! One message is never settled while thousands pass behind it: the log is reclaimed all the same, on
//! every node. (Found elsewhere: one stuck message held the whole log on the disk.)

use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use quorate_client::{Message, QueueSettings};
use tokio::time::sleep;

use super::{Plan, Scenario};
use crate::events::Record;
use crate::world::Cluster;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "stuck_head_message_disk_bounded",
    about: "one message stays, thousands pass behind it",
    run: |plan, record| run(plan, record).boxed(),
};

/// Bytes that pass behind the stuck message.
const PASSING: usize = 6 << 20;
const BODY: usize = 16 << 10;
/// Sixteen segments of the simulated nodes.
const DISK_MAX: u64 = 2 << 20;

async fn run(plan: Plan, record: Record) -> Result<(), String> {
    let cluster = Cluster::start(plan.nodes, record);
    let machine = cluster.client_machine("application");
    let using = cluster.clone();
    machine.spawn(async move { pass(&using).await }).await.map_err(|error| error.to_string())??;
    // The last checkpoint is due by its age.
    sleep(Duration::from_secs(12)).await;
    for node in cluster.nodes() {
        let used = cluster.disk(node).used_bytes();
        if used > DISK_MAX {
            return Err(format!("node {node} holds {used} bytes for one message of {BODY}"));
        }
    }
    Ok(())
}

async fn pass(cluster: &Cluster) -> Result<(), String> {
    let client = cluster.client().await;
    let settings = QueueSettings { replicas: 3, lease_ms: 60_000, ..QueueSettings::default() };
    let text = |error: &dyn std::error::Error| error.to_string();
    client.create_queue("stuck", settings).await.map_err(|e| text(&e))?;
    let producer = client.producer("stuck").in_flight(16).build().await.map_err(|e| text(&e))?;
    let mut consumer = client.consumer("stuck").prefetch(64).build().await.map_err(|e| text(&e))?;
    let body = || Message::new(Bytes::from(vec![7; BODY]));
    producer.publish(body()).await.map_err(|e| text(&e))?;
    let stuck = consumer.next().await.ok_or("the consumer ended")?.map_err(|e| text(&e))?;
    for _ in 0..PASSING / BODY {
        let receipt = producer.publish(body()).await.map_err(|e| text(&e))?;
        let delivery = consumer.next().await.ok_or("the consumer ended")?.map_err(|e| text(&e))?;
        if Some(delivery.offset) != receipt.offset {
            return Err(format!("{} came in place of {:?}", delivery.offset, receipt.offset));
        }
        delivery.ack().await.map_err(|e| text(&e))?;
    }
    // Still leased, and there.
    stuck.ack().await.map_err(|e| text(&e))
}
