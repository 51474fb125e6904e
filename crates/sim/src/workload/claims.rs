//! Producers of the workload that race for offsets: each publishes on the condition that its message gets the one that it
//! believes to be next, and learns from being refused.

use std::sync::Arc;
use std::time::Duration;

use madsim::rand::{Rng, thread_rng};
use quorate_client::{Batch, Client, Producer};
use tokio::time::sleep;

use super::{Queue, Shared, producer};
use crate::events::{Event, MessageId};

pub(super) async fn run(shared: Arc<Shared>, client: Client, queue: Queue) {
    let mut expected = 0;
    while !shared.is_quiet() {
        let number = shared.next_producer();
        let name = format!("claimer-{number}");
        let level = producer::random_level();
        let Some(producer) = producer::open(&client, &queue, &name, 0, level).await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let claims = thread_rng().gen_range(10..100);
        for sequence in 0..claims {
            if shared.is_quiet() {
                break;
            }
            let id = MessageId { producer: number, sequence };
            expected = claim(&shared, &producer, &queue, id, expected).await;
            let pause = shared.load.pause.mul_f64(thread_rng().gen_range(0.0..2.0));
            sleep(pause).await;
        }
        producer.close().await;
    }
}

/// Claims an offset; which one is next then, as far as is known.
async fn claim(
    shared: &Shared,
    producer: &Producer,
    queue: &Queue,
    id: MessageId,
    expected: u64,
) -> u64 {
    let (group, record) = (queue.group, shared.cluster.record());
    record.tell(Event::Sent { group, id });
    let message = producer::random_message(shared, queue, id);
    let claimed = producer.publish_batch(Batch::from(message).expect_offset(expected)).await;
    let claimed = claimed.map(|receipts| receipts[0]);
    let got = match &claimed {
        Ok(receipt) => receipt.offset.map(Ok),
        Err(error) => error.next_offset().map(Err),
    };
    producer::told(shared, group, id, claimed);
    if let Some(got) = got {
        record.tell(Event::Claimed { group, id, expected, got });
    }
    got.map_or(expected, |got| got.map_or_else(|next| next, |offset| offset + 1))
}
