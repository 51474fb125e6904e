//! `quorate bench disturb`: what goes wrong at one queue or one follower, and what another queue feels of it.
//!
//! ```text
//! rate on two queues:   undisturbed ─► fault ─► disturbed ─► repair ─► recovering ─► caught up
//!                            ▲─────────────────── rounds ───────────────────────────────┘
//! ```
//! One queue is measured, the other one has the fault, or more to catch up with. A follower that fails leads
//! neither. Phases alternate, so that what else the machine does falls on each of them; ratios are those of
//! the medians over rounds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use hdrhistogram::Histogram;
use quorate_client::{Client, Consumer, Delivery};
use serde_json::json;

use crate::commands::bench::body::Bodies;
use crate::commands::bench::latency::OPEN_IN_FLIGHT;
use crate::commands::bench::load::{self, Carries, Tasks, Until, WARM_UP};
use crate::commands::bench::record::{self, Recorder};
use crate::commands::bench::report::{self, Report};
use crate::commands::bench::schedule::Schedule;
use crate::commands::bench::stage::{Own, Stage};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session;
use crate::units;

/// Options of `disturb`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What goes wrong.
    #[arg(long, value_enum, default_value_t = Fault::SlowConsumer, value_name = "FAULT")]
    fault: Fault,
    /// Messages a second to each of the two queues.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: u64,
    /// Rounds of undisturbed, disturbed, recovering.
    #[arg(long, value_name = "N", default_value_t = 3)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    /// Seconds of each phase to measure.
    #[arg(long, value_name = "N", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Size of a message's body, 16 B to 512 KiB.
    #[arg(long, value_name = "SIZE", default_value = "1024", value_parser = units::parse_body_size)]
    size: u64,
    /// Messages at full speed that a follower that was stopped misses besides.
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=100_000_000))]
    missed: u64,
    #[command(flatten)]
    pub own: Own,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// A consumer of the other queue takes ten messages a second and holds a thousand.
    SlowConsumer,
    /// A follower is frozen (SIGSTOP), then goes on.
    PausedFollower,
    /// A follower's disk is below its reserve, so that it takes nothing in, then has room again.
    FullFollower,
    /// A follower is stopped, misses messages, and is started again.
    StoppedFollower,
}

/// A consumer that is slow rests this long after each message.
const SLOW_REST: Duration = Duration::from_millis(100);
/// Messages that a consumer takes ahead.
const PREFETCH: u32 = 1000;
/// Between a fault and what is measured of it: nodes start, and notice.
const SETTLE: Duration = Duration::from_secs(2);
/// Replicas that are so many entries behind, under load, are not behind.
const LAG_OF_NONE: u64 = 16;
/// How long a follower may take to catch up.
const CAUGHT_UP_LIMIT: Duration = Duration::from_secs(300);

/// Measures.
pub async fn run(args: &Args, stage: &mut Stage) -> Result<Report, Failure> {
    let client = stage.open().await?;
    let queues = stage.create_queues(&client, 2).await?;
    let [measured, other] = [&queues[0], &queues[1]];
    let slow = Arc::new(AtomicBool::new(false));
    let mut consuming = Tasks::new();
    for (queue, slow) in [(measured, Arc::default()), (other, Arc::clone(&slow))] {
        consuming.spawn(consume(load::consumer(&client, queue, PREFETCH).await?, slow));
    }
    let pair = Pair { args, client: &client, measured, other };
    let (phases, catching_up) = load::beside(&mut consuming, pair.rounds(stage, &slow)).await?;
    drop(consuming);
    let mut report = Report::new("disturb");
    let fault = args.fault.to_possible_value().map(|value| value.get_name().to_owned());
    let fault = fault.unwrap_or_default();
    report.figure("fault", "fault", fault.as_str(), fault.as_str());
    report.count("rate", args.rate);
    report.count("rounds", args.rounds);
    report.count("seconds", args.seconds);
    report.size(args.size);
    tell(&mut report, &phases);
    if args.fault != Fault::SlowConsumer {
        let caught_up = median(catching_up.iter().map(Duration::as_secs_f64).collect());
        report.seconds("caught_up_s", "caught up after", Duration::from_secs_f64(caught_up));
        if args.fault == Fault::StoppedFollower {
            let loaded = WARM_UP.as_secs() + args.seconds;
            let missed = args.missed + 2 * args.rate * loaded;
            let took = Duration::from_secs_f64(caught_up);
            report.rate("caught_up_per_s", "caught up, messages/s", missed, took);
        }
    }
    report.resident(stage);
    report.disk(stage.probed());
    Ok(report)
}

fn tell(report: &mut Report, phases: &[Phase; 3]) {
    let [undisturbed, disturbed, recovering] = phases;
    report.latency_of("undisturbed_us", "undisturbed", &undisturbed.latency_us);
    report.latency_of("disturbed_us", "disturbed", &disturbed.latency_us);
    report.latency_of("recovering_us", "recovering", &recovering.latency_us);
    let named = ["undisturbed", "disturbed", "recovering"].iter().zip(phases);
    for (name, phase) in named {
        report.hidden(&format!("{name}_p99_us_runs"), json!(phase.p99s));
    }
    let base = median(undisturbed.p99s.clone());
    for (name, phase) in [("disturbed", disturbed), ("recovering", recovering)] {
        let ratio = report::round(median(phase.p99s.clone()) / base.max(1.0));
        let text = format!("{ratio:.2} x undisturbed, medians over rounds");
        report.figure(&format!("{name}_p99_ratio"), &format!("p99 {name}"), ratio, text);
    }
}

/// Latencies of one phase over all rounds.
struct Phase {
    latency_us: Histogram<u64>,
    p99s: Vec<f64>,
}

impl Default for Phase {
    fn default() -> Self {
        Self { latency_us: record::histogram(), p99s: Vec::new() }
    }
}

impl Phase {
    fn add(&mut self, latency_us: Histogram<u64>) {
        self.p99s.push(latency_us.value_at_quantile(0.99) as f64);
        self.latency_us.add(latency_us).expect("of the same bounds");
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 if values.is_empty() => 0.0,
        0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

/// The queue that is measured, and the other one.
struct Pair<'a> {
    args: &'a Args,
    client: &'a Client,
    measured: &'a str,
    other: &'a str,
}

impl Pair<'_> {
    /// All rounds: latencies by phase, and how long the follower took to catch up in each round.
    async fn rounds(
        &self,
        stage: &mut Stage,
        slow: &AtomicBool,
    ) -> Result<([Phase; 3], Vec<Duration>), Failure> {
        let mut phases = [Phase::default(), Phase::default(), Phase::default()];
        let mut catching_up = Vec::new();
        for _ in 0..self.args.rounds {
            let [undisturbed, disturbed, recovering] = &mut phases;
            undisturbed.add(self.load(stage, WARM_UP).await?);
            let follower = self.follower(stage).await?;
            self.begin(stage, slow, follower).await?;
            disturbed.add(self.load(stage, WARM_UP).await?);
            self.miss(stage).await?;
            self.end(stage, slow, follower).await?;
            let (latency_us, caught_up) = self.recover(stage, follower, Instant::now()).await?;
            recovering.add(latency_us);
            catching_up.push(caught_up);
        }
        Ok((phases, catching_up))
    }

    /// Publishes to both queues at the rate; returns latencies of the measured one's confirms, those of the
    /// first `skip` left out.
    async fn load(&self, stage: &mut Stage, skip: Duration) -> Result<Histogram<u64>, Failure> {
        let size = self.args.size as usize;
        let length = skip + Duration::from_secs(self.args.seconds);
        let measured = load::producer(self.client, self.measured, OPEN_IN_FLIGHT, size).await?;
        let other = load::producer(self.client, self.other, OPEN_IN_FLIGHT, size).await?;
        let begin = Instant::now();
        let recorder = || Arc::new(Recorder::of_open_loop(begin + skip));
        let (seen, unseen) = (recorder(), recorder());
        let producers = vec![
            (measured, Bodies::shared(size), Arc::clone(&seen)),
            (other, Bodies::shared(size), Arc::clone(&unseen)),
        ];
        let schedule = Schedule::new(begin, 2 * self.args.rate, length);
        let mut tasks = load::open_all(producers, schedule, Carries::Number)?;
        stage.watch(load::finish(&mut tasks)).await?;
        seen.check()?;
        unseen.check()?;
        Ok(seen.take().latency_us)
    }

    /// A node that leads neither queue.
    async fn follower(&self, stage: &mut Stage) -> Result<usize, Failure> {
        let mut leaders = Vec::new();
        for queue in [self.measured, self.other] {
            let leader = self.client.locate(queue).await;
            let leader = leader.map_err(|error| session::failure("find a leader", &error))?;
            leaders.push(leader.node_id);
        }
        let mut nodes = stage.nodes()?.list().iter();
        let follower = nodes.position(|node| !leaders.contains(&node.id));
        follower.ok_or_else(|| Failure::new(Exit::Failed, "each node leads one of the two queues"))
    }

    async fn begin(
        &self,
        stage: &mut Stage,
        slow: &AtomicBool,
        follower: usize,
    ) -> Result<(), Failure> {
        // More than any disk has free.
        const RESERVE: (&str, &str) = ("QUORATE_LIMITS_DISK_RESERVE_BYTES", "1000000000000000000");
        let nodes = stage.nodes()?;
        match self.args.fault {
            Fault::SlowConsumer => slow.store(true, Ordering::Relaxed),
            Fault::PausedFollower => nodes.pause(follower),
            Fault::StoppedFollower => nodes.stop(follower).await?,
            Fault::FullFollower => {
                nodes.stop(follower).await?;
                nodes.start_with(follower, &[RESERVE])?;
            }
        }
        stage.watch(rest(SETTLE)).await
    }

    async fn end(
        &self,
        stage: &mut Stage,
        slow: &AtomicBool,
        follower: usize,
    ) -> Result<(), Failure> {
        let nodes = stage.nodes()?;
        match self.args.fault {
            Fault::SlowConsumer => slow.store(false, Ordering::Relaxed),
            Fault::PausedFollower => nodes.resume(follower),
            Fault::StoppedFollower => nodes.start(follower)?,
            Fault::FullFollower => {
                nodes.stop(follower).await?;
                nodes.start(follower)?;
            }
        }
        Ok(())
    }

    /// Publishes to the other queue what a stopped follower is to miss.
    async fn miss(&self, stage: &mut Stage) -> Result<(), Failure> {
        const IN_FLIGHT: usize = 1024;
        if self.args.fault != Fault::StoppedFollower || self.args.missed == 0 {
            return Ok(());
        }
        let size = self.args.size as usize;
        let producer = load::producer(self.client, self.other, IN_FLIGHT, size).await?;
        let (until, recorder) = (Until::Sent(self.args.missed), Recorder::of_closed_loop());
        let bodies = Bodies::shared(size);
        let now = Instant::now();
        stage.watch(load::closed(producer, IN_FLIGHT, until, bodies, now, Arc::new(recorder))).await
    }

    /// The load once more, from the first message on, and how long the follower takes to catch up under it.
    async fn recover(
        &self,
        stage: &mut Stage,
        follower: usize,
        begun: Instant,
    ) -> Result<(Histogram<u64>, Duration), Failure> {
        let node = stage.nodes()?.list()[follower].id;
        let queues = [self.measured.to_owned(), self.other.to_owned()];
        let watching = tokio::spawn(caught_up(self.client.clone(), queues, node, begun));
        let latency_us = self.load(stage, Duration::ZERO).await?;
        let caught_up = stage.watch(async { Ok(watching.await) }).await?;
        let caught_up = caught_up.map_err(|error| {
            Failure::new(Exit::Failed, format!("the task that watches a follower ended: {error}"))
        })??;
        Ok((latency_us, caught_up))
    }
}

async fn rest(length: Duration) -> Result<(), Failure> {
    tokio::time::sleep(length).await;
    Ok(())
}

/// Waits until the node's replicas of all queues are level with their leaders; returns the time since `begun`.
async fn caught_up(
    client: Client,
    queues: [String; 2],
    node: u64,
    begun: Instant,
) -> Result<Duration, Failure> {
    const LOOK_EVERY: Duration = Duration::from_millis(25);
    for queue in &queues {
        loop {
            let described = client.describe_queue(queue.as_str()).await;
            let described =
                described.map_err(|error| session::failure("describe queue", &error))?;
            let replica = described.replicas.iter().find(|replica| replica.node_id == node);
            if replica.is_some_and(|replica| replica.lag <= LAG_OF_NONE) {
                break;
            }
            if begun.elapsed() > CAUGHT_UP_LIMIT {
                let what = format!("node {node} has not caught up within {CAUGHT_UP_LIMIT:?}");
                return Err(Failure::new(Exit::Failed, what));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    Ok(begun.elapsed())
}

/// Takes and acks messages until it is dropped; while it is slow, one at a time with a rest.
async fn consume(mut consumer: Consumer, slow: Arc<AtomicBool>) -> Result<(), Failure> {
    loop {
        let is_slow = slow.load(Ordering::Relaxed);
        let batch = consumer.next_batch(if is_slow { 1 } else { PREFETCH as usize }).await;
        let batch: Result<Vec<Delivery>, _> = batch.into_iter().collect();
        let batch = batch.map_err(|error| session::failure("consume", &error))?;
        if batch.is_empty() {
            return Err(Failure::new(Exit::Failed, "consume: the stream of deliveries has ended"));
        }
        batch.into_iter().for_each(Delivery::ack_later);
        if is_slow {
            tokio::time::sleep(SLOW_REST).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(Vec::new()), 0.0);
    }
}
