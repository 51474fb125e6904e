//! Producers and consumers at work, as an application would do it, writing down what they see.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use quorate_client::{Client, Consumer, Delivery, Message, Pending, PublishError, SettleError};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::history::{History, Key, Seen};

/// Messages that one producer has in flight at most.
const IN_FLIGHT: usize = 64;
/// Messages that one consumer takes ahead.
const PREFETCH: u32 = 64;
/// What a replica that a consumer takes from may lag.
const MAX_LAG: Duration = Duration::from_secs(2);
/// Body size in bytes.
const BODY_BYTES: usize = 200;
/// Time between two messages of one producer: a steady load that leaves the machine room to breathe.
const PACE: Duration = Duration::from_millis(3);
/// How long a producer retries: longer than anything that is done to the cluster.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(40);
/// After everything is delivered: time for a delivery that should not be to show itself.
const LINGER: Duration = Duration::from_millis(700);
/// How long a consumer waits before it attaches again after it failed for good.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// A load on one queue.
#[derive(Debug)]
pub struct Load {
    history: Arc<History>,
    client: Client,
    queue: String,
    stop_producing: Arc<AtomicBool>,
    stop_consuming: Arc<AtomicBool>,
    producers: Vec<JoinHandle<()>>,
    consumers: Vec<JoinHandle<()>>,
}

#[derive(Clone)]
struct Worker {
    history: Arc<History>,
    client: Client,
    queue: String,
    number: u32,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// Starts producers and consumers, each on its own.
    #[must_use]
    pub fn start(client: &Client, queue: &str, producers: u32, consumers: u32) -> Self {
        let history = Arc::new(History::default());
        let (stop_producing, stop_consuming) = (Arc::<AtomicBool>::default(), Arc::default());
        let worker = |number, stop: &Arc<AtomicBool>| Worker {
            history: history.clone(),
            client: client.clone(),
            queue: queue.to_owned(),
            number,
            stop: stop.clone(),
        };
        let producers =
            (0..producers).map(|number| tokio::spawn(worker(number, &stop_producing).produce()));
        let producers = producers.collect();
        let consumers =
            (0..consumers).map(|number| tokio::spawn(worker(number, &stop_consuming).consume()));
        let consumers = consumers.collect();
        Self {
            client: client.clone(),
            queue: queue.to_owned(),
            history,
            stop_producing,
            stop_consuming,
            producers,
            consumers,
        }
    }

    /// What has happened so far.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Waits until `count` more messages are confirmed.
    ///
    /// # Panics
    /// When that takes longer than `limit`.
    pub async fn confirmed_more(&self, count: usize, limit: Duration) {
        let goal = self.history.confirmed_count() + count;
        let reached = wait_until(limit, || self.history.confirmed_count() >= goal).await;
        let failures = self.history.failures();
        assert!(reached, "{count} more messages were not confirmed within {limit:?}: {failures:?}");
    }

    /// Ends producing, waits until everything confirmed is delivered and the queue is empty, ends
    /// consuming, and checks the history.
    ///
    /// # Panics
    /// When that takes longer than `limit`, or a promise was broken.
    pub async fn finish(self, limit: Duration) -> Arc<History> {
        self.stop_producing.store(true, Ordering::Relaxed);
        for producer in self.producers {
            producer.await.expect("a producer has panicked");
        }
        let delivered = wait_until(limit, || self.history.outstanding() == 0).await;
        let history = &self.history;
        if delivered {
            wait_empty(&self.client, &self.queue, limit).await;
            tokio::time::sleep(LINGER).await;
        }
        self.stop_consuming.store(true, Ordering::Relaxed);
        for consumer in self.consumers {
            consumer.await.expect("a consumer has panicked");
        }
        let summary = history.summary();
        println!("{}: {summary:?}, failures {:?}", self.queue, history.failures());
        history.check();
        self.history
    }
}

/// Waits until a queue holds nothing any more.
///
/// # Panics
/// When that takes longer than `limit`.
pub async fn wait_empty(client: &Client, queue: &str, limit: Duration) {
    let begun = Instant::now();
    loop {
        let counts =
            client.describe_queue(queue).await.map(|queue| queue.counts.unwrap_or_default());
        if let Ok(counts) = &counts
            && counts.ready + counts.leased + counts.delayed + counts.blocked + counts.dead == 0
        {
            return;
        }
        assert!(begun.elapsed() < limit, "{queue} is not empty after {limit:?}: {counts:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Looks until something holds; false if it does not within `limit`.
pub async fn wait_until(limit: Duration, holds: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    while !holds() {
        if begun.elapsed() > limit {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    true
}

impl Worker {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    async fn produce(self) {
        let building = self
            .client
            .producer(&self.queue)
            .in_flight(IN_FLIGHT)
            .deadline(PUBLISH_DEADLINE)
            .build();
        let producer = building.await.expect("open a producer");
        let (sent, mut receipts) = mpsc::channel::<(Key, Pending)>(IN_FLIGHT);
        let send = async {
            for number in 0.. {
                if self.stopped() {
                    break;
                }
                let key = Key { producer: self.number, number };
                self.history.attempted(key);
                match producer.send(Message::new(key.body(BODY_BYTES))).await {
                    Ok(pending) => drop(sent.send((key, pending)).await),
                    Err(error) => self.history.refused(key, error.to_string()),
                }
                tokio::time::sleep(PACE).await;
            }
            drop(sent);
        };
        let collect = async {
            while let Some((key, pending)) = receipts.recv().await {
                match pending.await {
                    Ok(receipt) => {
                        let offset = receipt.offset.expect("level QUORUM has offsets");
                        self.history.confirmed(key, offset);
                    }
                    Err(error @ PublishError::UnknownOutcome { .. }) => {
                        self.history.unknown(key, error.to_string());
                    }
                    Err(error) => self.history.refused(key, error.to_string()),
                }
            }
        };
        tokio::join!(send, collect);
        producer.close().await;
    }

    async fn consume(self) {
        while !self.stopped() {
            let name = format!("consumer-{}", self.number);
            let mut consumer = self.client.consumer(&self.queue).name(name).prefetch(PREFETCH);
            // Every other one takes from whichever replica.
            if self.number % 2 == 1 {
                consumer = consumer.max_lag(MAX_LAG);
            }
            match consumer.build().await {
                Ok(consumer) => self.take(consumer).await,
                // The queue may be between two leaders.
                Err(_) => tokio::time::sleep(AGAIN_AFTER).await,
            }
        }
    }

    async fn take(&self, mut consumer: Consumer) {
        let mut acks = FuturesUnordered::new();
        while !self.stopped() {
            tokio::select! {
                Some((key, token, outcome)) = acks.next(), if !acks.is_empty() => {
                    self.settled(key, token, outcome);
                }
                delivery = consumer.next() => match delivery {
                    Some(Ok(delivery)) => {
                        if let Some(key) = self.record(&delivery) {
                            acks.push(ack(key, delivery));
                        }
                    }
                    Some(Err(error)) => println!("consumer {}: {error}", self.number),
                    None => return,
                },
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
        }
        let rest = async {
            while let Some((key, token, outcome)) = acks.next().await {
                self.settled(key, token, outcome);
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(5), rest).await;
        consumer.close().await;
    }

    fn record(&self, delivery: &Delivery) -> Option<Key> {
        let seen = Seen {
            consumer: self.number,
            offset: delivery.offset,
            token: delivery.token,
            attempt: delivery.attempt,
        };
        self.history.delivered(&delivery.body, seen)
    }

    fn settled(&self, key: Key, token: u64, outcome: Result<(), SettleError>) {
        if outcome.is_ok() {
            self.history.acked(key, token);
        }
    }
}

async fn ack(key: Key, delivery: Delivery) -> (Key, u64, Result<(), SettleError>) {
    let token = delivery.token;
    (key, token, delivery.ack().await)
}
