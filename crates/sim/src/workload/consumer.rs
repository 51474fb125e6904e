//! A consumer of the workload: takes its time, acknowledges most, gives some back, forgets some,
//! and now and then closes, or is dropped with what it holds.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use madsim::rand::{Rng, thread_rng};
use quorate_client::{Client, Consumer, Delivery};
use tokio::time::{sleep, timeout};

use super::{Queue, Shared, body, habits};
use crate::events::{Event, Settle};

pub(super) async fn run(shared: Arc<Shared>, client: Client, queue: Queue) {
    loop {
        let prefetch = thread_rng().gen_range(1..if queue.habits.slow { 4 } else { 40 });
        let mut consumer = client.consumer(queue.name.as_str()).prefetch(prefetch);
        // Half of them take from whichever replica, which may then lag too much, or stop.
        if thread_rng().gen_bool(0.5) {
            consumer = consumer.max_lag(Duration::from_millis(thread_rng().gen_range(100..3_000)));
        }
        // In the end all is to be taken.
        let filters = queue.habits.filtered && !shared.is_draining() && thread_rng().gen_bool(0.5);
        if filters {
            consumer = consumer.filter([habits::flavour(), habits::flavour()]);
        }
        let opened = consumer.build().await;
        let Ok(consumer) = opened else {
            sleep(Duration::from_millis(200)).await;
            continue;
        };
        let number = shared.next_consumer();
        attend(&shared, &queue, number, consumer, filters).await;
    }
}

/// Takes deliveries until the stream ends or the consumer has had enough.
async fn attend(
    shared: &Arc<Shared>,
    queue: &Queue,
    number: u32,
    mut consumer: Consumer,
    filters: bool,
) {
    let enough = thread_rng().gen_range(50..600);
    // A consumer that is shown nothing for long begins anew, as a careful application would; one that filters is not shown
    // what others want.
    let patience = Duration::from_secs(if filters { 2 } else { 20 });
    for _ in 0..enough {
        if filters && shared.is_draining() {
            break;
        }
        let next = timeout(patience, consumer.next()).await;
        let Ok(Some(Ok(delivery))) = next else { break };
        let id = body::read(&delivery.body);
        shared.cluster.record().tell(Event::Delivered {
            group: queue.group_of(delivery.shard),
            consumer: number,
            offset: delivery.offset,
            attempt: delivery.attempt,
            token: delivery.token,
            id,
        });
        tokio::spawn(handle(shared.clone(), queue.clone(), number, delivery));
        if !shared.is_draining() && thread_rng().gen_bool(0.3) {
            sleep(Duration::from_millis(thread_rng().gen_range(1..30))).await;
        }
    }
    if thread_rng().gen_bool(0.5) {
        consumer.close().await;
    }
}

async fn handle(shared: Arc<Shared>, queue: Queue, consumer: u32, delivery: Delivery) {
    let group = queue.group_of(delivery.shard);
    let draining = shared.is_draining();
    let trouble = !draining && thread_rng().gen_range(0..100) < shared.load.trouble_percent;
    let work = match trouble {
        false => thread_rng().gen_range(0..if queue.habits.slow { 400 } else { 40 }),
        true => thread_rng().gen_range(0..4_000),
    };
    if !draining {
        sleep(Duration::from_millis(work)).await;
    }
    let settle = match trouble.then(|| thread_rng().gen_range(0..10)) {
        None | Some(0..=3) => Settle::Ack,
        Some(4..=5) => Settle::Nack(0),
        Some(6..=7) => Settle::Nack(thread_rng().gen_range(1..3_000)),
        Some(8) => Settle::PutBack,
        Some(_) => Settle::Reject,
    };
    let record = shared.cluster.record();
    let (offset, token) = (delivery.offset, delivery.token);
    record.tell(Event::Settling { group, consumer, offset, token, settle });
    let outcome = match settle {
        Settle::Ack => delivery.ack().await,
        Settle::Nack(0) => delivery.nack(None).await,
        Settle::Nack(delay) => delivery.nack(Some(Duration::from_millis(delay.into()))).await,
        Settle::Reject => delivery.reject().await,
        Settle::PutBack => delivery.put_back().await,
    };
    let error = outcome.err().map(|error| error.to_string());
    let error = error.as_deref();
    record.tell(Event::Settled { group, consumer, offset, token, settle, error });
}
