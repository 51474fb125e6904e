//! Messages sent at fixed times, however the system is doing: latency counts from when a message was due,
//! so a stall is felt by all that should have been sent during it (no coordinated omission).
//!
//! ```text
//! thread with exact sleeps ── due times ──► sending task ── confirms ──► waiting task ──► outcomes
//! ```

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use super::{DRAIN_LIMIT, Metric, Phases, Plan, QUEUE, body, latencies, percentiles, record};
use crate::system::{Cluster, Confirm, Entry, Producer};

/// Most unconfirmed messages of a producer.
pub const WINDOW: usize = 8_192;
/// How long a failed attempt to send holds up the next.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// What became of a message.
#[derive(Debug)]
pub struct Outcome {
    pub due: Instant,
    /// When it was confirmed, or why it was not.
    pub confirmed: Result<Instant>,
}

/// Latency of confirmations.
pub async fn confirms(
    cluster: &mut dyn Cluster,
    per_second: u32,
    plan: &Plan,
) -> Result<Vec<Metric>> {
    let producer = cluster.producer(QUEUE, WINDOW, Entry::Leader).await?;
    let phases = Phases::begin(plan.seconds);
    let mut histogram = latencies();
    for outcome in send(producer, per_second, phases.until).join().await? {
        let confirmed = outcome.confirmed.context("publish")?;
        if phases.contain(outcome.due) {
            record(&mut histogram, confirmed - outcome.due);
        }
    }
    Ok(percentiles(&histogram).into())
}

/// Latency to the consumer.
pub async fn end_to_end(
    cluster: &mut dyn Cluster,
    per_second: u32,
    plan: &Plan,
) -> Result<Vec<Metric>> {
    let mut consumer = cluster.consumer(QUEUE, plan.prefetch).await.context("open a consumer")?;
    let producer = cluster.producer(QUEUE, WINDOW, Entry::Leader).await?;
    let phases = Phases::begin(plan.seconds);
    let epoch = phases.from;
    let shared = Arc::new(Mutex::new(latencies()));
    let histogram = Arc::clone(&shared);
    let mut consuming: JoinSet<Result<()>> = JoinSet::new();
    consuming.spawn(async move {
        let mut bodies = Vec::new();
        loop {
            consumer.receive(&mut bodies).await?;
            let now = Instant::now();
            for body in bodies.drain(..) {
                // The message that showed that the cluster works carries no time.
                let due = body.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
                let due = due.and_then(|nanos| epoch.checked_add(Duration::from_nanos(nanos)));
                if let Some(due) = due.filter(|due| phases.contain(*due)) {
                    let mut histogram = histogram.lock().unwrap_or_else(PoisonError::into_inner);
                    record(&mut histogram, now - due);
                }
            }
            consumer.ack().await?;
        }
    });
    let sending = send_stamped(producer, per_second, phases.until, Some(epoch)).join();
    let outcomes = tokio::select! {
        outcomes = sending => outcomes?,
        ended = consuming.join_next() => {
            ended.context("a consumer")?.context("the consumer's task")??;
            Vec::new()
        }
    };
    let in_time = outcomes.iter().filter(|outcome| phases.contain(outcome.due)).count() as u64;
    for outcome in outcomes {
        outcome.confirmed.context("publish")?;
    }
    let received = || shared.lock().unwrap_or_else(PoisonError::into_inner).len();
    let drained = Instant::now() + DRAIN_LIMIT;
    while received() < in_time && Instant::now() < drained {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    anyhow::ensure!(received() >= in_time, "{} of {in_time} were delivered", received());
    let histogram = shared.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(percentiles(&histogram).into())
}

/// Tasks that send; they end with this.
pub struct Sending {
    tasks: JoinSet<()>,
    outcomes: JoinHandle<Vec<Outcome>>,
}

impl Sending {
    /// Waits until each message has an outcome.
    pub async fn join(mut self) -> Result<Vec<Outcome>> {
        let outcomes = (&mut self.outcomes).await.context("the confirming task");
        self.tasks.shutdown().await;
        outcomes
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.outcomes.abort();
    }
}

/// Sends 1 KB messages until a moment.
pub fn send(producer: Producer, per_second: u32, until: Instant) -> Sending {
    send_stamped(producer, per_second, until, None)
}

fn send_stamped(
    mut producer: Producer,
    per_second: u32,
    until: Instant,
    epoch: Option<Instant>,
) -> Sending {
    let (due_times, mut due) = mpsc::unbounded_channel();
    // A runtime's timer counts milliseconds; the system's sleep is exact to about 60 us.
    std::thread::spawn(move || keep_time(per_second, until, &due_times));
    let (sent, mut confirms) = mpsc::unbounded_channel::<(Instant, Result<Confirm>)>();
    let mut tasks = JoinSet::new();
    let payload = body(1024);
    tasks.spawn(async move {
        while let Some(due) = due.recv().await {
            let confirm = producer.send(stamped(&payload, epoch, due)).await;
            let failed = confirm.is_err();
            if sent.send((due, confirm)).is_err() {
                return;
            }
            if failed {
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
        drop(sent);
        // A producer of some systems ends its connection when dropped: it stays until all is confirmed.
        std::future::pending::<()>().await;
        drop(producer);
    });
    let outcomes = tokio::spawn(async move {
        let mut outcomes = Vec::new();
        let mut waiting = FuturesUnordered::new();
        let mut give_up = Box::pin(tokio::time::sleep_until((until + DRAIN_LIMIT).into()));
        let mut open = true;
        while open || !waiting.is_empty() {
            tokio::select! {
                biased;
                Some(outcome) = waiting.next() => outcomes.push(outcome),
                next = confirms.recv(), if open => match next {
                    Some((due, Ok(confirm))) => waiting.push(async move {
                        let confirmed = confirm.await.map(|()| Instant::now());
                        Outcome { due, confirmed }
                    }),
                    Some((due, Err(error))) => {
                        outcomes.push(Outcome { due, confirmed: Err(error) });
                    }
                    None => open = false,
                },
                () = &mut give_up => break,
            }
        }
        outcomes
    });
    Sending { tasks, outcomes }
}

fn keep_time(per_second: u32, until: Instant, due_times: &mpsc::UnboundedSender<Instant>) {
    let interval = Duration::from_secs(1) / per_second;
    let mut due = Instant::now();
    while due < until {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if due_times.send(due).is_err() {
            return;
        }
        due += interval;
    }
}

fn stamped(payload: &Bytes, epoch: Option<Instant>, due: Instant) -> Bytes {
    match epoch {
        Some(epoch) => {
            // Before the epoch is warm-up: marked as never due.
            let nanos = due.checked_duration_since(epoch).map(|since| since.as_nanos() as u64);
            let mut body = BytesMut::with_capacity(payload.len());
            body.put_u64(nanos.unwrap_or(u64::MAX));
            body.put_slice(&payload[8..]);
            body.freeze()
        }
        None => payload.clone(),
    }
}
