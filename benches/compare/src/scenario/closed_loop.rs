//! Producers that keep a number of messages unconfirmed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::FutureExt;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use super::{DRAIN_LIMIT, Metric, Phases, Plan, body, latencies, metric, percentiles, record};
use crate::system::{Cluster, Confirm, Entry, Producer};

/// Producers and what they send.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub producers: usize,
    /// Most unconfirmed messages of each.
    pub window: usize,
    pub queues: usize,
    pub body_bytes: usize,
}

/// Throughput, its cost, and the latency under it.
pub async fn run(cluster: &mut dyn Cluster, load: Load, plan: &Plan) -> Result<Vec<Metric>> {
    for queue in 1..load.queues {
        cluster.create_queue(&format!("q-{queue}")).await.context("create a queue")?;
    }
    let (phases, mut producers, confirmed) = begin(cluster, load, plan.seconds).await?;
    let (used, messages) = phases.measure(cluster, || confirmed.load(Ordering::Relaxed)).await?;
    let mut histogram = latencies();
    while let Some(done) = producers.join_next().await {
        histogram.add(done.context("a producer's task")??).context("same bounds")?;
    }
    let payload = messages as f64 * load.body_bytes as f64;
    let mut metrics = Vec::new();
    metrics.push(metric("k msg/s", messages as f64 / phases.seconds() / 1e3));
    metrics.extend(percentiles(&histogram));
    metrics.push(metric("CPU s/M msg", used.cpu_seconds / messages as f64 * 1e6));
    metrics.push(metric("written/payload", used.written_bytes / payload));
    Ok(metrics)
}

/// Starts the producers; each resolves to its latencies.
pub async fn begin(
    cluster: &dyn Cluster,
    load: Load,
    seconds: f64,
) -> Result<(Phases, JoinSet<Result<Histogram<u64>>>, Arc<AtomicU64>)> {
    let mut opened = Vec::new();
    for index in 0..load.producers {
        let queue = format!("q-{}", index % load.queues);
        let producer = cluster.producer(&queue, load.window, Entry::Leader).await;
        opened.push(producer.context("open a producer")?);
    }
    let confirmed = Arc::new(AtomicU64::new(0));
    let body = body(load.body_bytes);
    let phases = Phases::begin(seconds);
    let mut tasks = JoinSet::new();
    for producer in opened {
        let confirmed = Arc::clone(&confirmed);
        tasks.spawn(keep_in_flight(producer, load.window, body.clone(), phases, confirmed));
    }
    Ok((phases, tasks, confirmed))
}

async fn keep_in_flight(
    mut producer: Producer,
    window: usize,
    body: Bytes,
    phases: Phases,
    confirmed: Arc<AtomicU64>,
) -> Result<Histogram<u64>> {
    let mut histogram = latencies();
    let mut in_flight: VecDeque<(Instant, Confirm)> = VecDeque::with_capacity(window);
    while Instant::now() < phases.until {
        while in_flight.len() < window {
            let sent_at = Instant::now();
            in_flight.push_back((sent_at, producer.send(body.clone()).await.context("publish")?));
        }
        // Wait for the oldest; those confirmed with it are taken without waiting.
        let mut outcome = match in_flight.front_mut() {
            Some((_, confirm)) => {
                let waited = tokio::time::timeout(DRAIN_LIMIT, confirm).await;
                Some(waited.context("no confirmation")?)
            }
            None => None,
        };
        while let Some(result) = outcome {
            result.context("confirm")?;
            let now = Instant::now();
            if let Some((sent_at, _)) = in_flight.pop_front()
                && phases.contain(now)
            {
                record(&mut histogram, now - sent_at);
            }
            confirmed.fetch_add(1, Ordering::Relaxed);
            outcome = in_flight.front_mut().and_then(|(_, confirm)| confirm.now_or_never());
        }
    }
    let rest = futures_util::future::join_all(in_flight.into_iter().map(|(_, confirm)| confirm));
    let rest = tokio::time::timeout(DRAIN_LIMIT, rest).await.context("no confirmation")?;
    rest.into_iter().collect::<Result<()>>().context("confirm")?;
    Ok(histogram)
}

/// Publishes a number of messages and waits for all confirmations.
pub async fn fill(cluster: &dyn Cluster, load: Load, messages: u64) -> Result<()> {
    let body = body(load.body_bytes);
    let mut tasks = JoinSet::new();
    for index in 0..load.producers as u64 {
        let producer = cluster.producer(super::QUEUE, load.window, Entry::Leader).await;
        let mut producer = producer.context("open a producer")?;
        let body = body.clone();
        let share =
            messages / load.producers as u64 + u64::from(index < messages % load.producers as u64);
        tasks.spawn(async move {
            let mut in_flight: VecDeque<Confirm> = VecDeque::with_capacity(load.window);
            for _ in 0..share {
                if in_flight.len() == load.window
                    && let Some(oldest) = in_flight.pop_front()
                {
                    oldest.await?;
                }
                in_flight.push_back(producer.send(body.clone()).await?);
            }
            for confirm in in_flight {
                confirm.await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.context("a producer's task")?.context("fill the queue")?;
    }
    Ok(())
}
