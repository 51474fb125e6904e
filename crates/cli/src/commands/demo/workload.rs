//! The demo's producers and consumers: ordinary users of the SDK that write down what they see.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use quorate_client::{Client, Consumer, Delivery, Message, Pending, SettleError};
use tokio::sync::mpsc;

use crate::commands::demo::ledger::{Id, Ledger};
use crate::failure::Failure;
use crate::session;

/// Messages that one producer has in flight: enough to fill a batch while the one before is on its way.
const IN_FLIGHT: usize = 256;
/// Messages that one consumer takes ahead.
const PREFETCH: u32 = 512;
/// How long a producer retries: longer than any failover, shorter than the demo.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(60);

/// What producers and consumers share.
#[derive(Clone)]
pub struct Work {
    pub client: Client,
    pub queue: &'static str,
    pub ledger: Arc<Ledger>,
    /// Body size in bytes.
    pub size: usize,
    /// Set once the leader is killed. The last quarter waits for it, so that even a short run has a failover.
    pub killed: Arc<AtomicBool>,
    /// Set once everything is drained.
    pub drained: Arc<AtomicBool>,
}

/// A body that carries its number, and content that depends on it.
pub fn body(id: Id, size: usize) -> Bytes {
    let mut body = BytesMut::with_capacity(size.max(8) + 8);
    body.put_u64_le(id);
    let mut state = id;
    while body.len() < size {
        body.put_u64_le(split_mix(&mut state));
    }
    body.truncate(size.max(8));
    body.freeze()
}

/// SplitMix64 (Steele, Lea, Flood 2014): content that no compression and no mix-up survives unseen.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Publishes the messages of one producer; returns when each has its receipt or its failure.
pub async fn produce(work: Work, ids: std::ops::Range<Id>) -> Result<(), Failure> {
    let building =
        work.client.producer(work.queue).in_flight(IN_FLIGHT).deadline(PUBLISH_DEADLINE).build();
    let producer = building.await.map_err(|error| session::failure("open producer", &error))?;
    let (pending, mut receipts) = mpsc::channel::<(Id, Instant, Pending)>(IN_FLIGHT * 2);
    let held_back = ids.end - (ids.end - ids.start) / 4;
    let send = async {
        for id in ids {
            while id >= held_back && !work.killed.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let body = body(id, work.size);
            work.ledger.attempted(id, crc32c::crc32c(&body));
            let handed_over = Instant::now();
            match producer.send(Message::new(body)).await {
                Ok(sent) => {
                    let _ = pending.send((id, handed_over, sent)).await;
                }
                Err(_) => work.ledger.failed(),
            }
        }
        drop(pending);
    };
    let collect = async {
        while let Some((id, handed_over, pending)) = receipts.recv().await {
            match pending.await {
                Ok(_) => work.ledger.confirmed(id, handed_over),
                Err(error) => {
                    tracing::warn!(id, %error, "publish failed");
                    work.ledger.failed();
                }
            }
        }
    };
    tokio::join!(send, collect);
    producer.close().await;
    Ok(())
}

/// Takes and acks messages until everything is drained.
pub async fn consume(work: Work, name: String) -> Result<(), Failure> {
    const TRY_AGAIN_AFTER: Duration = Duration::from_millis(200);
    while !work.drained.load(Ordering::Relaxed) {
        let building =
            work.client.consumer(work.queue).name(name.as_str()).prefetch(PREFETCH).build();
        match building.await {
            Ok(consumer) => take(&work, consumer).await,
            // As an application would: the queue may be between two leaders.
            Err(_) => tokio::time::sleep(TRY_AGAIN_AFTER).await,
        }
    }
    Ok(())
}

/// Acks are waited for side by side, so that the ledger knows which ones the cluster has confirmed.
async fn take(work: &Work, mut consumer: Consumer) {
    const LOOK_UP_EVERY: Duration = Duration::from_millis(50);
    let mut acks = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some((id, attempt, outcome)) = acks.next(), if !acks.is_empty() => {
                settled(&work.ledger, id, attempt, &outcome);
            }
            delivery = consumer.next() => match delivery {
                Some(Ok(delivery)) => match record(&work.ledger, &delivery) {
                    Some(id) => acks.push(ack(id, delivery)),
                    None => work.ledger.strange(),
                },
                // The SDK has given this session up; the caller opens another.
                Some(Err(_)) | None => break,
            },
            () = tokio::time::sleep(LOOK_UP_EVERY) => {}
        }
        if work.drained.load(Ordering::Relaxed) {
            break;
        }
    }
    let rest = async {
        while let Some((id, attempt, outcome)) = acks.next().await {
            settled(&work.ledger, id, attempt, &outcome);
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), rest).await;
    let _ = tokio::time::timeout(Duration::from_secs(5), consumer.close()).await;
}

fn settled(ledger: &Ledger, id: Id, attempt: u32, outcome: &Result<(), SettleError>) {
    match outcome {
        Ok(()) => ledger.acked(id, attempt),
        Err(_) => ledger.ack_unconfirmed(),
    }
}

fn record(ledger: &Ledger, delivery: &Delivery) -> Option<Id> {
    let id = Id::from_le_bytes(delivery.body.get(..8)?.try_into().ok()?);
    ledger.delivered(id, crc32c::crc32c(&delivery.body), delivery.offset, delivery.attempt);
    Some(id)
}

async fn ack(id: Id, delivery: Delivery) -> (Id, u32, Result<(), SettleError>) {
    let attempt = delivery.attempt;
    (id, attempt, delivery.ack().await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_its_size_and_its_number_and_differs_from_others() {
        for size in [8, 9, 100, 1024] {
            let one = body(7, size);
            assert_eq!(one.len(), size);
            assert_eq!(one[..8], 7u64.to_le_bytes());
        }
        assert_ne!(crc32c::crc32c(&body(7, 1024)[8..]), crc32c::crc32c(&body(8, 1024)[8..]));
    }
}
