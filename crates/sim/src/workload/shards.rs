//! A sharded queue of the workload: producers publish to it by keys, through the SDK, which hashes, and by single calls to
//! whichever node, which hashes then; and who consumes has all of its shards. Each shard is a queue of the workload too,
//! with readers, slots and seeks, and drains as any other.

use std::sync::Arc;
use std::time::Duration;

use madsim::rand::seq::SliceRandom;
use madsim::rand::{Rng, thread_rng};
use quorate_client::{Client, Message, Pending, Producer, PublishError, QueueSettings};
use quorate_proto::v1;
use quorate_proto::v1::queue_service_client::QueueServiceClient;
use tokio::time::{sleep, timeout};
use tonic::transport::Endpoint;

use super::{Habits, Queue, Shared, body, habits, producer};
use crate::events::{Event, MessageId};
use crate::world::Cluster;

/// Its name.
const NAME: &str = "sharded";
/// Keys that messages have.
const KEYS: u32 = 12;

/// The queue as a whole, and its shards in the order in which keys are spread over them.
#[derive(Clone, Debug)]
pub(super) struct Sharded {
    pub whole: Queue,
    pub shards: Vec<Queue>,
}

impl Sharded {
    fn groups(&self) -> &[u64] {
        &self.whole.shards
    }
}

pub(super) async fn create(
    cluster: &Cluster,
    client: &Client,
    shards: u32,
    settings: QueueSettings,
) -> Result<Sharded, String> {
    let mut tries = 0;
    while let Err(error) = client.create_sharded_queue(NAME, shards, settings.clone()).await {
        if tries == 20 {
            return Err(format!("create {NAME}: {error}"));
        }
        sleep(Duration::from_millis(250)).await;
        tries += 1;
    }
    let mut queues = Vec::new();
    for number in 0..shards {
        let name = format!("{NAME}@{number}");
        let described = loop {
            match client.describe_queue(name.as_str()).await {
                Ok(described) => break described,
                Err(error) if tries == 40 => return Err(format!("describe {name}: {error}")),
                Err(_) => sleep(Duration::from_millis(250)).await,
            }
            tries += 1;
        };
        let sought = habits::is_sought(&settings);
        let habits = Habits { shard: true, sought, ..Habits::default() };
        let group = described.group_id;
        let what = format!("{name} is group {group}: {settings:?} {habits:?}");
        cluster.record().tell(Event::Note(&what));
        queues.push(Queue { name, group, habits, shards: Vec::new() });
    }
    let groups = queues.iter().map(|shard| shard.group).collect();
    let habits = Habits { shard: true, ..Habits::default() };
    let whole = Queue { name: NAME.to_owned(), group: 0, habits, shards: groups };
    Ok(Sharded { whole, shards: queues })
}

/// Some key, and whether it is one of a group, too.
fn random_key() -> (String, bool) {
    let number = thread_rng().gen_range(0..KEYS);
    (format!("order {number}"), number % 2 == 0)
}

/// It may enter at any shard, as far as others know; where it has to, `key_at_one_shard` knows.
fn sent(shared: &Shared, sharded: &Sharded, id: MessageId, key: &str) {
    let record = shared.cluster.record();
    record.tell(Event::Keyed { shards: sharded.groups(), id, key });
    sharded.groups().iter().for_each(|group| record.tell(Event::Sent { group: *group, id }));
}

/// Publishes through the SDK.
pub(super) async fn produce(shared: Arc<Shared>, client: Client, sharded: Sharded) {
    while !shared.is_quiet() {
        let number = shared.next_producer();
        let (name, level) = (format!("producer-{number}"), producer::random_level());
        let opened = producer::open(&client, &sharded.whole, &name, 0, level).await;
        let Some(producer) = opened else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        for sequence in 0..thread_rng().gen_range(20..400) {
            if shared.is_quiet() {
                break;
            }
            let id = MessageId { producer: number, sequence };
            send(&shared, &producer, &sharded, id).await;
            sleep(shared.load.pause.mul_f64(thread_rng().gen_range(0.0..2.0))).await;
        }
        producer.close().await;
    }
}

async fn send(shared: &Arc<Shared>, producer: &Producer, sharded: &Sharded, id: MessageId) {
    let (key, is_group) = random_key();
    sent(shared, sharded, id, &key);
    let message = Message::new(body::make(id, producer::bytes()));
    let message = if is_group { message.group_key(key) } else { message.shard_key(key) };
    match producer.send(message).await {
        Ok(pending) => {
            drop(tokio::spawn(outcome(shared.clone(), sharded.clone(), id, pending)));
        }
        Err(error) => not_entered(shared, sharded, id, error),
    }
}

async fn outcome(shared: Arc<Shared>, sharded: Sharded, id: MessageId, pending: Pending) {
    match pending.await {
        Ok(receipt) => {
            let group = sharded.whole.group_of(receipt.shard);
            producer::told(&shared, group, id, Ok(receipt));
        }
        Err(error) => not_entered(&shared, &sharded, id, error),
    }
}

fn not_entered(shared: &Shared, sharded: &Sharded, id: MessageId, error: PublishError) {
    for group in sharded.groups() {
        producer::told(shared, *group, id, Err(error.clone()));
    }
}

/// Publishes by single calls to some node, which finds the shard.
pub(super) async fn route(shared: Arc<Shared>, sharded: Sharded) {
    while !shared.is_quiet() {
        sleep(Duration::from_millis(thread_rng().gen_range(100..2_000))).await;
        let addresses = shared.cluster.addresses();
        let Some(address) = addresses.choose(&mut thread_rng()) else { continue };
        let id = MessageId { producer: shared.next_producer(), sequence: 0 };
        let (key, is_group) = random_key();
        sent(&shared, &sharded, id, &key);
        let published = timeout(producer::DEADLINE, publish(address, id, &key, is_group)).await;
        let record = shared.cluster.record();
        let Some(confirmed) = published.ok().flatten() else {
            let unknown = |group: &u64| record.tell(Event::Unknown { group: *group, id });
            sharded.groups().iter().for_each(unknown);
            continue;
        };
        let receipt = confirmed.receipt.unwrap_or_default();
        let shard = sharded.shards.iter().find(|shard| shard.name == confirmed.shard);
        let Some(group) = shard.map(|shard| shard.group) else {
            record.violate(format!("key_at_one_shard: {id} is in {:?}", confirmed.shard));
            return;
        };
        record.tell(Event::Confirmed {
            group,
            id,
            offset: Some(receipt.first_offset),
            duplicate: receipt.duplicate,
            level: receipt.level(),
            position: receipt.position.unwrap_or_default(),
        });
    }
}

async fn publish(
    address: &str,
    id: MessageId,
    key: &str,
    is_group: bool,
) -> Option<v1::PublishResponse> {
    let channel = Endpoint::from_shared(format!("http://{address}")).ok()?.connect().await.ok()?;
    let (group_key, shard_key) = if is_group { (key, "") } else { ("", key) };
    let body = body::make(id, producer::bytes());
    let message = v1::Message { body, group_key: group_key.to_owned(), ..v1::Message::default() };
    let request = v1::PublishRequest {
        queue: NAME.to_owned(),
        messages: vec![message],
        shard_key: shard_key.to_owned(),
        ..v1::PublishRequest::default()
    };
    let published = QueueServiceClient::new(channel).publish(request).await;
    published.ok().map(|response| response.into_inner())
}
