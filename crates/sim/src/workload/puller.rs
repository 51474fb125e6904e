//! A consumer of the workload that has no stream: it takes a batch a call, and settles one by one, or does not.

use std::sync::Arc;
use std::time::Duration;

use madsim::rand::{Rng, thread_rng};
use quorate_client::{Client, PullConsumer, Received, Settlement};
use tokio::time::sleep;

use super::{Queue, Shared, body, habits};
use crate::events::{Event, Settle};

/// Ends when the queues are drained: each of its calls is an entry, also where there is nothing.
pub(super) async fn run(shared: Arc<Shared>, client: Client, queue: Queue) {
    while !shared.is_draining() {
        sleep(Duration::from_millis(thread_rng().gen_range(5..400))).await;
        let mut puller = client.pull_consumer(queue.name.as_str());
        if thread_rng().gen_bool(0.3) {
            puller = puller.lease(Duration::from_millis(thread_rng().gen_range(300..4_000)));
        }
        if queue.habits.filtered && thread_rng().gen_bool(0.4) {
            puller = puller.filter([habits::flavour()]);
        }
        let most = thread_rng().gen_range(1..20);
        let wait = Duration::from_millis(thread_rng().gen_range(0..3_000));
        let Ok(messages) = puller.receive(most, wait).await else { continue };
        let number = shared.next_consumer();
        for message in messages {
            shared.cluster.record().tell(Event::Delivered {
                group: queue.group,
                consumer: number,
                offset: message.held.offset,
                attempt: message.attempt,
                token: message.held.token,
                id: body::read(&message.body),
            });
            let handled = handle(shared.clone(), queue.group, number, puller.clone(), message);
            tokio::spawn(handled);
        }
    }
}

async fn handle(
    shared: Arc<Shared>,
    group: u64,
    consumer: u32,
    puller: PullConsumer,
    message: Received,
) {
    let draining = shared.is_draining();
    let trouble = !draining && thread_rng().gen_range(0..100) < shared.load.trouble_percent;
    if !draining {
        let work = if trouble { 4_000 } else { 40 };
        sleep(Duration::from_millis(thread_rng().gen_range(0..work))).await;
    }
    if trouble && thread_rng().gen_bool(0.2) {
        let longer = Duration::from_millis(thread_rng().gen_range(200..3_000));
        let _ = puller.settle(message.held, Settlement::Extend(longer)).await;
    }
    let settle = match trouble.then(|| thread_rng().gen_range(0..10)) {
        None | Some(0..=2) => Settle::Ack,
        Some(3..=4) => Settle::Nack(0),
        Some(5..=6) => Settle::Nack(thread_rng().gen_range(1..3_000)),
        Some(7) => Settle::PutBack,
        Some(_) => Settle::Reject,
    };
    let how = match settle {
        Settle::Ack => Settlement::Ack,
        Settle::Nack(0) => Settlement::Nack(None),
        Settle::Nack(delay_ms) => Settlement::Nack(Some(Duration::from_millis(delay_ms.into()))),
        Settle::Reject => Settlement::Reject,
        Settle::PutBack => Settlement::PutBack,
    };
    let (offset, token) = (message.held.offset, message.held.token);
    let record = shared.cluster.record();
    record.tell(Event::Settling { group, consumer, offset, token, settle });
    let outcome = puller.settle(message.held, how).await;
    let error = outcome.err().map(|error| error.to_string());
    let error = error.as_deref();
    record.tell(Event::Settled { group, consumer, offset, token, settle, error });
}
