//! The scenarios: what is run, for whom, and what is measured.
//!
//! Every run has a fresh cluster in an empty directory, so no system inherits what another scenario left.

mod closed_loop;
mod consume;
mod failover;
mod idle;
mod open_loop;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use hdrhistogram::Histogram;

use crate::node::{Node, Usage};
use crate::system::{self, Cluster, Entry, Kind, Setup};

/// Longest that one run may take.
const RUN_LIMIT: Duration = Duration::from_secs(300);
/// How long a system may take to start.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// What is sent before a measurement begins.
const WARM_UP: Duration = Duration::from_secs(1);
/// How long what is under way at the end of a run may take.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);

/// A named measurement.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    pub about: &'static str,
    shape: Shape,
}

#[derive(Debug, Clone, Copy)]
enum Shape {
    Startup,
    Publish(closed_loop::Load),
    OpenLoop { per_second: u32 },
    EndToEnd { per_second: u32 },
    Flow,
    Backlog,
    Failover(Entry),
    Idle,
}

/// All scenarios, in the order of the tables.
pub const ALL: [Scenario; 14] = [
    publish("publish-1x256", "1 producer, 256 in flight, 1 KB", 1, 256, 1, 1024),
    publish("publish-8x128", "8 producers, 128 in flight each, one queue, 1 KB", 8, 128, 1, 1024),
    publish("publish-8-queues", "8 producers, 128 in flight each, 8 queues, 1 KB", 8, 128, 8, 1024),
    publish("publish-100b", "8 producers, 128 in flight each, one queue, 100 B", 8, 128, 1, 100),
    publish("publish-16kb", "8 producers, 128 in flight each, one queue, 16 KB", 8, 128, 1, 16_384),
    publish("confirm-1", "1 producer, 1 in flight, 1 KB", 1, 1, 1, 1024),
    Scenario {
        name: "confirm-1000",
        about: "confirms of 1,000 messages of 1 KB a second, from the time when each was due",
        shape: Shape::OpenLoop { per_second: 1_000 },
    },
    Scenario {
        name: "confirm-5000",
        about: "confirms of 5,000 messages of 1 KB a second, from the time when each was due",
        shape: Shape::OpenLoop { per_second: 5_000 },
    },
    Scenario {
        name: "end-to-end",
        about: "from the time when a message was due to its delivery, 2,000 of 1 KB a second",
        shape: Shape::EndToEnd { per_second: 2_000 },
    },
    Scenario {
        name: "flow",
        about: "publish, consume and acknowledge at full speed: 8 producers x 128, 4 consumers, one queue, 1 KB",
        shape: Shape::Flow,
    },
    Scenario {
        name: "backlog",
        about: "one consumer takes and acknowledges a backlog of 1 KB messages, the last ack confirmed",
        shape: Shape::Backlog,
    },
    Scenario {
        name: "failover-survivor",
        about: "leader killed with -9 at 1,000 a second, the client at another node",
        shape: Shape::Failover(Entry::Follower),
    },
    Scenario {
        name: "failover-leader",
        about: "leader killed with -9 at 1,000 a second, the client at the leader",
        shape: Shape::Failover(Entry::Leader),
    },
    Scenario { name: "idle", about: "queues that nobody uses", shape: Shape::Idle },
];

/// Start to first confirm is part of each run; this one measures nothing else.
pub const STARTUP: Scenario = Scenario {
    name: "startup",
    about: "three empty nodes, from their start to the first confirm",
    shape: Shape::Startup,
};

const fn publish(
    name: &'static str,
    about: &'static str,
    producers: usize,
    window: usize,
    queues: usize,
    body_bytes: usize,
) -> Scenario {
    let load = closed_loop::Load { producers, window, queues, body_bytes };
    Scenario { name, about, shape: Shape::Publish(load) }
}

impl Scenario {
    /// Whether a system takes part: `WAIT` without Sentinel fails over to nobody, and a stream that nobody
    /// uses is a key in Redis.
    pub fn applies_to(&self, kind: Kind) -> bool {
        let is_redis = matches!(kind, Kind::RedisEverysec | Kind::RedisAlways);
        !(is_redis && matches!(self.shape, Shape::Failover(_) | Shape::Idle))
    }
}

/// How runs are made.
#[derive(Debug, Clone)]
pub struct Plan {
    pub setup: Setup,
    pub seconds: f64,
    pub prefetch: u16,
    pub backlog: u64,
    /// Idle queues of Quorate, and of the others.
    pub idle_queues: (usize, usize),
}

/// A measured value; its name ends with its unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    pub name: &'static str,
    pub value: f64,
}

fn metric(name: &'static str, value: f64) -> Metric {
    Metric { name, value }
}

/// Runs a scenario once on a fresh cluster under `data`.
pub async fn run(scenario: &Scenario, kind: Kind, plan: &Plan, data: &Path) -> Result<Vec<Metric>> {
    let directory = tempfile::Builder::new()
        .prefix(&format!("{}-", kind.name()))
        .tempdir_in(data)
        .context("make a directory for the nodes")?;
    let run = run_in(scenario, kind, plan, directory.path());
    let measured = tokio::time::timeout(RUN_LIMIT, run).await;
    measured.with_context(|| format!("not done after {RUN_LIMIT:?}"))?
}

async fn run_in(
    scenario: &Scenario,
    kind: Kind,
    plan: &Plan,
    directory: &Path,
) -> Result<Vec<Metric>> {
    let started = Instant::now();
    let mut cluster = system::start(kind, &plan.setup, directory)?;
    let cluster = cluster.as_mut();
    until_confirmed(cluster, kind.attempt_limit()).await.context("start")?;
    let startup = started.elapsed();
    cluster.verify().await.context("verify the cluster")?;
    let fresh = system::usage(cluster)?;
    let measured = match scenario.shape {
        Shape::Startup => Ok(vec![metric("start to first confirm s", startup.as_secs_f64())]),
        Shape::Publish(load) => closed_loop::run(cluster, load, plan).await,
        Shape::OpenLoop { per_second } => open_loop::confirms(cluster, per_second, plan).await,
        Shape::EndToEnd { per_second } => open_loop::end_to_end(cluster, per_second, plan).await,
        Shape::Flow => consume::flow(cluster, plan).await,
        Shape::Backlog => consume::backlog(cluster, plan).await,
        Shape::Failover(entry) => failover::run(cluster, entry).await,
        Shape::Idle => {
            let (ours, theirs) = plan.idle_queues;
            let queues = if kind == Kind::Quorate { ours } else { theirs };
            idle::run(cluster, queues).await
        }
    };
    let mut metrics = match measured {
        Ok(metrics) => metrics,
        Err(error) if matches!(scenario.shape, Shape::Failover(_)) => return Err(error),
        // A node that has died says more than the client that missed it.
        Err(error) => {
            cluster.nodes().iter_mut().try_for_each(Node::check)?;
            return Err(error);
        }
    };
    if matches!(scenario.shape, Shape::Startup | Shape::Publish(_)) {
        metrics.push(metric("RSS fresh MB", fresh.rss_bytes / 1e6));
    }
    if matches!(scenario.shape, Shape::Publish(_)) {
        metrics.push(metric("RSS after MB", system::usage(cluster)?.rss_bytes / 1e6));
    }
    Ok(metrics)
}

/// The queue that most scenarios use.
const QUEUE: &str = "q-0";

/// Tries to create the queue and to publish until the system, which is starting, confirms a message.
async fn until_confirmed(cluster: &mut dyn Cluster, attempt_limit: Duration) -> Result<()> {
    let started = Instant::now();
    loop {
        let attempt = tokio::time::timeout(attempt_limit, first_confirm(cluster)).await;
        let last = match attempt {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => anyhow::anyhow!("no answer within {attempt_limit:?}"),
        };
        cluster.nodes().iter_mut().try_for_each(Node::check)?;
        if started.elapsed() > READY_LIMIT {
            return Err(last.context(format!("not ready after {READY_LIMIT:?}")));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn first_confirm(cluster: &dyn Cluster) -> Result<()> {
    cluster.create_queue(QUEUE).await?;
    let mut producer = cluster.producer(QUEUE, 1, Entry::Leader).await?;
    producer.send(body(1024)).await?.await
}

/// Bytes that do not compress.
fn body(bytes: usize) -> Bytes {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let random = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    });
    random.take(bytes).collect()
}

/// When a measurement begins and ends.
#[derive(Debug, Clone, Copy)]
struct Phases {
    from: Instant,
    until: Instant,
}

impl Phases {
    fn begin(seconds: f64) -> Phases {
        let from = Instant::now() + WARM_UP;
        Phases { from, until: from + Duration::from_secs_f64(seconds) }
    }

    fn contain(&self, moment: Instant) -> bool {
        self.from <= moment && moment < self.until
    }

    fn seconds(&self) -> f64 {
        (self.until - self.from).as_secs_f64()
    }

    /// Waits for the measurement's end; returns what the nodes have used during it, and a counter's growth.
    async fn measure(
        &self,
        cluster: &mut dyn Cluster,
        count: impl Fn() -> u64,
    ) -> Result<(Usage, u64)> {
        tokio::time::sleep_until(self.from.into()).await;
        let (before, first) = (system::usage(cluster)?, count());
        tokio::time::sleep_until(self.until.into()).await;
        let (after, last) = (system::usage(cluster)?, count());
        let used = Usage {
            cpu_seconds: after.cpu_seconds - before.cpu_seconds,
            written_bytes: after.written_bytes - before.written_bytes,
            rss_bytes: after.rss_bytes,
        };
        Ok((used, last - first))
    }
}

/// Microseconds, up to five minutes. The bounds are explicit because a histogram that grows by itself does not
/// grow in `saturating_record`: it counts what is beyond its first range as the smallest values of all.
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 300_000_000, 3).expect("valid bounds")
}

pub fn record(histogram: &mut Histogram<u64>, latency: Duration) {
    histogram.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
}

fn percentiles(histogram: &Histogram<u64>) -> [Metric; 2] {
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
    [metric("p50 ms", at(0.5)), metric("p99 ms", at(0.99))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_is_not_counted_as_fast() {
        let mut histogram = latencies();
        let slow = [Duration::from_micros(2_048), Duration::from_millis(5), Duration::from_secs(9)];
        slow.iter().for_each(|latency| record(&mut histogram, *latency));
        assert!(histogram.min() >= 2_048, "{}", histogram.min());
        let [p50, p99] = percentiles(&histogram);
        assert!((p50.value - 5.0).abs() < 0.01 && (p99.value - 9_000.0).abs() < 9.0);
    }
}
