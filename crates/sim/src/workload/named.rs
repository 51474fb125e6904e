//! Producers of the workload that name what they publish, so that it can be published again: by another producer, on the
//! other client machine too, at the same time or later, whatever became of the first.

use std::sync::Arc;
use std::time::Duration;

use madsim::rand::{Rng, thread_rng};
use quorate_client::{Batch, Client, Message};
use tokio::time::sleep;

use super::{Queue, Shared, body, producer};
use crate::events::{Event, MessageId};

/// Batches that may be published again; those before them may not.
const AGAIN_MAX: usize = 24;

/// A batch with an id.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    group: u64,
    number: u32,
    /// Of each body.
    bytes: Vec<usize>,
}

impl Named {
    fn ids(&self) -> impl Iterator<Item = MessageId> + '_ {
        (0..self.bytes.len() as u32).map(|sequence| MessageId { producer: self.number, sequence })
    }

    fn batch(&self) -> Batch {
        let messages = self.ids().zip(&self.bytes);
        let messages = messages.map(|(id, bytes)| Message::new(body::make(id, *bytes)));
        Batch::new(messages).id(format!("id-{}", self.number))
    }
}

pub(super) async fn run(shared: Arc<Shared>, client: Client, queue: Queue) {
    while !shared.is_quiet() {
        sleep(Duration::from_millis(thread_rng().gen_range(50..900))).await;
        let again = thread_rng().gen_bool(0.5).then(|| again(&shared, &queue)).flatten();
        let named = again.unwrap_or_else(|| new(&shared, &queue));
        if thread_rng().gen_bool(0.3) {
            let (shared, client) = (shared.clone(), client.clone());
            let (queue, named) = (queue.clone(), named.clone());
            tokio::spawn(async move { publish(&shared, &client, &queue, &named).await });
        }
        publish(&shared, &client, &queue, &named).await;
    }
}

fn again(shared: &Shared, queue: &Queue) -> Option<Named> {
    let named = shared.named();
    let of_queue: Vec<_> = named.iter().filter(|named| named.group == queue.group).collect();
    let last = of_queue.len().checked_sub(1)?;
    Some(of_queue[thread_rng().gen_range(0..=last)].clone())
}

fn new(shared: &Shared, queue: &Queue) -> Named {
    let count = thread_rng().gen_range(1..5);
    let bytes = (0..count).map(|_| producer::bytes()).collect();
    let named = Named { group: queue.group, number: shared.next_producer(), bytes };
    for id in named.ids() {
        shared.cluster.record().tell(Event::Sent { group: queue.group, id });
    }
    let mut all = shared.named();
    if all.len() == AGAIN_MAX {
        all.pop_front();
    }
    all.push_back(named.clone());
    named
}

async fn publish(shared: &Shared, client: &Client, queue: &Queue, named: &Named) {
    let (group, record) = (queue.group, shared.cluster.record());
    let name = format!("namer-{}", shared.next_producer());
    let level = producer::random_level();
    let Some(producer) = producer::open(client, queue, &name, 0, level).await else { return };
    match producer.publish_batch(named.batch()).await {
        Ok(receipts) => {
            for (id, receipt) in named.ids().zip(receipts) {
                producer::told(shared, group, id, Ok(receipt));
            }
        }
        // Another attempt may bring it there, or has.
        Err(_) => named.ids().for_each(|id| record.tell(Event::Unknown { group, id })),
    }
    producer.close().await;
}
