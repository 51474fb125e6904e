//! Many queues that nobody uses.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt};

use super::{Metric, metric};
use crate::system::{self, Cluster};

/// Calls under way at a time.
const CONCURRENCY: usize = 16;
/// What was begun at creation has settled by then.
const SETTLE: Duration = Duration::from_secs(5);
const MEASURE: Duration = Duration::from_secs(5);

/// What they cost to make and to keep.
pub async fn run(cluster: &mut dyn Cluster, queues: usize) -> Result<Vec<Metric>> {
    let started = Instant::now();
    let names: Vec<String> = (1..queues).map(|queue| format!("q-{queue}")).collect();
    let shared: &dyn Cluster = cluster;
    let calls = names.iter().map(|name| shared.create_queue(name));
    futures_util::stream::iter(calls)
        .buffer_unordered(CONCURRENCY)
        .try_collect::<()>()
        .await
        .context("create queues")?;
    let creation = started.elapsed();
    tokio::time::sleep(SETTLE).await;
    let (before, from) = (system::usage(cluster)?, Instant::now());
    tokio::time::sleep(MEASURE).await;
    let (after, seconds) = (system::usage(cluster)?, from.elapsed().as_secs_f64());
    Ok(vec![
        metric("queues", queues as f64),
        metric("creation s", creation.as_secs_f64()),
        metric("RSS MB", after.rss_bytes / 1e6),
        metric("CPU % of a core", (after.cpu_seconds - before.cpu_seconds) / seconds * 100.0),
    ])
}
