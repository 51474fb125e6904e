//! Consuming: beside publishing at full speed, and a backlog.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::task::JoinSet;

use super::closed_loop::{self, Load};
use super::{Metric, Plan, QUEUE, metric};
use crate::system::{self, Cluster};

const LOAD: Load = Load { producers: 8, window: 128, queues: 1, body_bytes: 1024 };
const CONSUMERS: usize = 4;
/// Longest wait for the next message of a backlog.
const STALL_LIMIT: Duration = Duration::from_secs(20);

/// Messages published, consumed and acknowledged at the same time.
pub async fn flow(cluster: &mut dyn Cluster, plan: &Plan) -> Result<Vec<Metric>> {
    let acked = Arc::new(AtomicU64::new(0));
    let mut consumers: JoinSet<Result<()>> = JoinSet::new();
    for _ in 0..CONSUMERS {
        let consumer = cluster.consumer(QUEUE, plan.prefetch).await;
        let mut consumer = consumer.context("open a consumer")?;
        let acked = Arc::clone(&acked);
        consumers.spawn(async move {
            let mut bodies = Vec::new();
            loop {
                consumer.receive(&mut bodies).await?;
                consumer.ack().await?;
                acked.fetch_add(bodies.len() as u64, Ordering::Relaxed);
                bodies.clear();
            }
        });
    }
    let (phases, mut producers, confirmed) =
        closed_loop::begin(cluster, LOAD, plan.seconds).await?;
    let (mut published, mut published_until) = (0, 0);
    let counting = async {
        tokio::time::sleep_until(phases.from.into()).await;
        published = confirmed.load(Ordering::Relaxed);
        tokio::time::sleep_until(phases.until.into()).await;
        published_until = confirmed.load(Ordering::Relaxed);
    };
    let measuring = phases.measure(cluster, || acked.load(Ordering::Relaxed));
    let (measured, ()) = tokio::join!(measuring, counting);
    let (used, messages) = measured?;
    if let Some(ended) = consumers.try_join_next() {
        ended.context("a consumer's task")?.context("consume")?;
        bail!("a consumer has ended");
    }
    while let Some(done) = producers.join_next().await {
        done.context("a producer's task")??;
    }
    anyhow::ensure!(messages > 0, "nothing was delivered");
    Ok(vec![
        metric("k acked/s", messages as f64 / phases.seconds() / 1e3),
        metric("k confirmed/s", (published_until - published) as f64 / phases.seconds() / 1e3),
        metric("CPU s/M acked", used.cpu_seconds / messages as f64 * 1e6),
    ])
}

/// One consumer empties a queue.
pub async fn backlog(cluster: &mut dyn Cluster, plan: &Plan) -> Result<Vec<Metric>> {
    closed_loop::fill(cluster, LOAD, plan.backlog).await?;
    // One message more: the one that showed that the cluster works.
    let total = plan.backlog + 1;
    let before = system::usage(cluster)?;
    let started = Instant::now();
    let mut consumer = cluster.consumer(QUEUE, plan.prefetch).await.context("open a consumer")?;
    let mut bodies = Vec::new();
    let mut taken = 0;
    loop {
        let received = tokio::time::timeout(STALL_LIMIT, consumer.receive(&mut bodies)).await;
        received.with_context(|| format!("stalled after {taken} of {total}"))??;
        taken += bodies.len() as u64;
        bodies.clear();
        if taken >= total {
            break;
        }
        consumer.ack().await?;
    }
    consumer.finish().await.context("acknowledge the rest")?;
    let seconds = started.elapsed().as_secs_f64();
    let after = system::usage(cluster)?;
    let cpu_seconds = after.cpu_seconds - before.cpu_seconds;
    Ok(vec![
        metric("k msg/s", taken as f64 / seconds / 1e3),
        metric("CPU s/M msg", cpu_seconds / taken as f64 * 1e6),
    ])
}
