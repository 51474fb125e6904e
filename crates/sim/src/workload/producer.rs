//! A producer of the workload: sends messages of random sizes at random times, several in flight,
//! and notes what it is told of each. Now and then it is closed and another takes its place; or a
//! rival comes under the same name and fences it off while it goes on.

use std::sync::Arc;
use std::time::Duration;

use madsim::rand::{Rng, thread_rng};
use quorate_client::{AckLevel, Client, Message, Pending, Producer, PublishError, Receipt};
use tokio::time::{Instant, sleep, timeout};

use super::{Queue, Shared, body, habits};
use crate::events::{Event, MessageId};

/// How long a producer of the workload tries.
pub(super) const DEADLINE: Duration = Duration::from_secs(8);

pub(super) fn bytes() -> usize {
    let mut random = thread_rng();
    match random.gen_range(0..20) {
        0 => random.gen_range(2_000..12_000),
        _ => random.gen_range(12..300),
    }
}

/// Mostly what is usual.
pub(super) fn random_level() -> AckLevel {
    match thread_rng().gen_range(0..10) {
        0..=1 => AckLevel::Accepted,
        2..=3 => AckLevel::All,
        _ => AckLevel::Quorum,
    }
}

pub(super) async fn open(
    client: &Client,
    queue: &Queue,
    name: &str,
    epoch: u32,
    ack: AckLevel,
) -> Option<Producer> {
    let mut random = thread_rng();
    let builder = client
        .producer(queue.name.as_str())
        .producer_id(name)
        .epoch(epoch)
        .in_flight(random.gen_range(1..32))
        .batch_messages(random.gen_range(1..12))
        .batch_bytes(32 << 10)
        .deadline(DEADLINE)
        .ack(ack);
    builder.build().await.ok()
}

pub(super) async fn run(shared: Arc<Shared>, client: Client, queue: Queue) {
    while !shared.is_quiet() {
        let number = shared.next_producer();
        let name = format!("producer-{number}");
        let Some(producer) = open(&client, &queue, &name, 0, random_level()).await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let messages = thread_rng().gen_range(20..400);
        if shared.load.rivals && thread_rng().gen_bool(0.2) {
            tokio::spawn(rival(shared.clone(), client.clone(), queue.clone(), name));
        }
        stream(&shared, &producer, &queue, number, messages).await;
        producer.close().await;
    }
}

async fn stream(
    shared: &Arc<Shared>,
    producer: &Producer,
    queue: &Queue,
    number: u32,
    messages: u32,
) {
    for sequence in 0..messages {
        if shared.is_quiet() {
            return;
        }
        send(shared, producer, queue, MessageId { producer: number, sequence }).await;
        let pause = shared.load.pause.mul_f64(thread_rng().gen_range(0.0..2.0));
        sleep(pause).await;
    }
}

/// A second program that believes to be the only one of its name, and takes the next epoch.
async fn rival(shared: Arc<Shared>, client: Client, queue: Queue, name: String) {
    sleep(Duration::from_millis(thread_rng().gen_range(200..5_000))).await;
    if let Some(producer) = open(&client, &queue, &name, 1, random_level()).await {
        let number = shared.next_producer();
        stream(&shared, &producer, &queue, number, 30).await;
        producer.close().await;
    }
}

async fn send(shared: &Arc<Shared>, producer: &Producer, queue: &Queue, id: MessageId) {
    let group = queue.group;
    shared.cluster.record().tell(Event::Sent { group, id });
    let message = random_message(shared, queue, id);
    match producer.send(message).await {
        Ok(pending) => drop(tokio::spawn(outcome(shared.clone(), group, id, pending))),
        Err(error) => told(shared, group, id, Err(error)),
    }
}

/// Mostly plain; now and then for later, of a group, to live for a while, or with a priority.
pub(super) fn random_message(shared: &Shared, queue: &Queue, id: MessageId) -> Message {
    let (mut message, habits) = (Message::new(body::make(id, bytes())), queue.habits);
    let mut random = thread_rng();
    if random.gen_bool(0.06) {
        message = message.delay(Duration::from_millis(random.gen_range(1..3_000)));
    }
    if shared.load.keys > 0 && random.gen_bool(0.5) {
        message = message.group_key(format!("key {}", random.gen_range(0..shared.load.keys)));
    }
    if random.gen_range(0..100) < habits.ttl_percent {
        message = message.ttl(Duration::from_millis(random.gen_range(1..4_000)));
    }
    if habits.priorities && random.gen_bool(0.4) {
        message = message.priority(random.gen_range(1..=9));
    }
    if habits.filtered && random.gen_bool(0.8) {
        message = message.header(habits::HEADER, habits::flavour());
    }
    message
}

async fn outcome(shared: Arc<Shared>, group: u64, id: MessageId, pending: Pending) {
    let outcome = pending.await;
    told(&shared, group, id, outcome);
}

pub(super) fn told(
    shared: &Shared,
    group: u64,
    id: MessageId,
    outcome: Result<Receipt, PublishError>,
) {
    let record = shared.cluster.record();
    match outcome {
        Ok(receipt) => {
            let Receipt { offset, duplicate, level, position, .. } = receipt;
            record.tell(Event::Confirmed { group, id, offset, duplicate, level, position });
        }
        // It is in the queue, but the error does not say where in the log.
        Err(PublishError::UnknownOutcome { .. } | PublishError::NotEnoughInSync { .. }) => {
            record.tell(Event::Unknown { group, id })
        }
        Err(error) => {
            record.tell(Event::Refused { group, id, reason: &error.to_string() });
        }
    }
}

/// Publishes one message; it has to be confirmed in time.
pub(super) async fn one(
    shared: &Arc<Shared>,
    client: &Client,
    queue: &Queue,
    until: Instant,
) -> Result<(), String> {
    let record = shared.cluster.record();
    let (group, number) = (queue.group, shared.next_producer());
    let mut last = String::from("no producer could be opened");
    for sequence in 0.. {
        if Instant::now() >= until {
            break;
        }
        let name = format!("drain-{number}");
        let Some(producer) = open(client, queue, &name, sequence, AckLevel::Quorum).await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let id = MessageId { producer: number, sequence };
        record.tell(Event::Sent { group, id });
        let published = producer.publish(Message::new(body::make(id, bytes())));
        let left = until.saturating_duration_since(Instant::now());
        let Ok(outcome) = timeout(left, published).await else {
            record.tell(Event::Unknown { group, id });
            break;
        };
        let confirmed = outcome.is_ok();
        last = outcome.as_ref().err().map(ToString::to_string).unwrap_or_default();
        told(shared, group, id, outcome);
        if confirmed {
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
    }
    Err(format!("liveness: no publish to {} was confirmed after the faults: {last}", queue.name))
}
