//! A queue is parked: no replica has timers, nothing is sent for it. Then its leader goes, in one way or
//! another, and somebody publishes: the queue has a leader again within the bound of a failover, and all
//! that was confirmed is there. With nobody publishing it keeps its place too.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use madsim::rand::{Rng, thread_rng};
use quorate_client::{Client, Message, Producer, QueueSettings};
use tokio::time::{Instant, sleep, timeout};

use super::{Plan, Scenario, between};
use crate::events::{Event, Record};
use crate::world::{Cluster, Status};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "parked_queue_wakes",
    about: "the leader of a parked queue goes, and the queue is used again",
    run: |plan, record| run(plan, record).boxed(),
};

const QUEUE: &str = "parked";
const ROUNDS: usize = 12;
/// Every replica is parked within so long after the last call, all nodes being there.
const PARK_LIMIT: Duration = Duration::from_secs(20);
/// From the call to its receipt, through a node that is there, when the leader's process ended.
const ENDED_LIMIT: Duration = Duration::from_millis(1_500);
/// The same when nothing happened to the leader: it takes the first command that comes, so that no client
/// has to ask twice.
const AWAKE_LIMIT: Duration = Duration::from_millis(60);
/// Until another leads, when it is only silent: an election timeout to notice it, the turn of a rank,
/// and a second election if two stood against each other.
const SUCCESSION_LIMIT: Duration = Duration::from_millis(2_000);
/// Until a client that was sent to the silent node has turned to another.
const HEALED_LIMIT: Duration = Duration::from_secs(20);

/// What happens to the leader.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// Its process ends.
    Killed,
    /// Its process ends, and another begins before anybody may have noticed.
    Replaced,
    /// Its machine loses power and comes back.
    PowerLost,
    /// It is cut off from the others.
    Isolated,
    /// It stands still.
    Paused,
    /// It hands over in good order.
    ShutDown,
    /// Nothing: the queue only sleeps for long.
    Nothing,
}

const FATES: [Fate; 7] = [
    Fate::Killed,
    Fate::Replaced,
    Fate::PowerLost,
    Fate::Isolated,
    Fate::Paused,
    Fate::ShutDown,
    Fate::Nothing,
];

async fn run(plan: Plan, record: Record) -> Result<(), String> {
    let cluster = Cluster::start(plan.nodes, record);
    let machine = cluster.client_machine("application");
    let using = cluster.clone();
    machine
        .spawn(async move { use_queue(&using).await })
        .await
        .map_err(|error| error.to_string())?
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

async fn use_queue(cluster: &Cluster) -> Result<(), String> {
    let client = cluster.client().await;
    let settings = QueueSettings { replicas: 3, ..QueueSettings::default() };
    let group = client.create_queue(QUEUE, settings).await.map_err(text)?.queue.group_id;
    publish(&client.producer(QUEUE).build().await.map_err(text)?).await.map_err(text)?;
    for round in 0..ROUNDS {
        let leader = parked(cluster, group).await?;
        let led = cluster.record().leader(group);
        let fate = FATES[thread_rng().gen_range(0..FATES.len())];
        cluster
            .record()
            .tell(Event::Note(&format!("round {round}: the leader {leader} is {fate:?}")));
        strike(cluster, leader, fate).await;
        if thread_rng().gen_bool(0.3) {
            // Nobody needs the queue for a while.
            sleep(between(500, 8_000)).await;
        }
        let begun = Instant::now();
        let limit = match fate {
            Fate::Isolated | Fate::Paused => {
                another_leads(cluster, group, leader).await?;
                cluster.heal_network();
                cluster.resume(leader);
                HEALED_LIMIT
            }
            Fate::Nothing => AWAKE_LIMIT,
            _ => ENDED_LIMIT,
        };
        timeout(limit, publish_beside(cluster, leader))
            .await
            .map_err(|_| format!("liveness: no receipt within {limit:?} after {fate:?}"))??;
        if matches!(fate, Fate::Nothing) && cluster.record().leader(group) != led {
            return Err(format!("the leader changed though nothing happened: {led:?}"));
        }
        let took = begun.elapsed();
        cluster.record().tell(Event::Note(&format!("confirmed after {took:?}")));
        if cluster.status(leader) != Status::Running {
            cluster.start_again(leader);
        }
    }
    everything_is_there(&client).await
}

/// As an application that comes by the other nodes.
async fn publish_beside(cluster: &Cluster, leader: u64) -> Result<(), String> {
    let others = cluster.addresses_of(|node| node != leader);
    let client = Client::connect(others).await.map_err(text)?;
    let producer = client.producer(QUEUE).build().await.map_err(text)?;
    publish(&producer).await.map_err(text)
}

async fn publish(producer: &Producer) -> Result<(), quorate_client::PublishError> {
    producer.publish(Message::new(Bytes::from_static(b"work"))).await.map(|_| ())
}

/// Waits until every replica is parked; returns the leader.
async fn parked(cluster: &Cluster, group: u64) -> Result<u64, String> {
    let begun = Instant::now();
    while begun.elapsed() < PARK_LIMIT {
        let (nodes, record) = (cluster.nodes(), cluster.record());
        if let Some(leader) = cluster.leader(group)
            && nodes.iter().all(|node| record.is_parked(*node, group))
        {
            return Ok(leader);
        }
        sleep(Duration::from_millis(20)).await;
    }
    Err(format!("liveness: an idle queue is not parked after {PARK_LIMIT:?}"))
}

/// A client tells less here: in simulation, a connection that a silent node had begun holds up the
/// others of a server.
async fn another_leads(cluster: &Cluster, group: u64, before: u64) -> Result<(), String> {
    let elected = cluster.new_leader(group, Some(before));
    timeout(SUCCESSION_LIMIT, elected)
        .await
        .map(|_| ())
        .map_err(|_| format!("liveness: no other leader than {before} within {SUCCESSION_LIMIT:?}"))
}

async fn strike(cluster: &Cluster, leader: u64, fate: Fate) {
    match fate {
        Fate::Killed => cluster.kill(leader),
        Fate::Replaced => {
            cluster.kill(leader);
            sleep(between(1, 200)).await;
            cluster.start_again(leader);
        }
        Fate::PowerLost => {
            cluster.lose_power(leader);
            sleep(between(1, 1_000)).await;
            cluster.start_again(leader);
        }
        Fate::Isolated => cluster.isolate(leader),
        Fate::Paused => cluster.pause(leader),
        Fate::ShutDown => cluster.shut_down(leader).await,
        Fate::Nothing => sleep(between(1_000, 20_000)).await,
    }
}

/// One message a round, and the first.
async fn everything_is_there(client: &Client) -> Result<(), String> {
    let mut consumer = client.consumer(QUEUE).prefetch(64).build().await.map_err(text)?;
    for offset in 0..=ROUNDS as u64 {
        let next = timeout(Duration::from_secs(10), consumer.next()).await;
        let next = next.map_err(|_| format!("liveness: message {offset} is not delivered"))?;
        let delivery = next.ok_or("the consumer ended")?.map_err(text)?;
        delivery.ack().await.map_err(text)?;
    }
    Ok(())
}
