//! `quorate bench backlog`: messages that pile up, what they take while they stand, and how fast they drain.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use quorate_client::{Client, Delivery, Message};
use tokio::sync::watch;

use crate::commands::bench::body::Bodies;
use crate::commands::bench::load::{self, Tasks, Until};
use crate::commands::bench::record::Recorder;
use crate::commands::bench::report::Report;
use crate::commands::bench::stage::{self, Site, Stage};
use crate::commands::bench::usage::Meter;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session;
use crate::units;

/// Options of `backlog`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Messages of the backlog.
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    messages: u64,
    /// Size of a message's body, 16 B to 512 KiB.
    #[arg(long, value_name = "SIZE", default_value = "1024", value_parser = units::parse_body_size)]
    size: u64,
    /// Producers that publish it.
    #[arg(long, value_name = "N", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=256))]
    producers: u64,
    /// Consumers that drain it.
    #[arg(long, value_name = "N", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=256))]
    consumers: u64,
    /// Messages that each consumer takes ahead.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_535))]
    prefetch: u32,
    /// Restart the queue's leader while the backlog stands, and tell how long it takes to be back.
    #[arg(long, conflicts_with = "connect")]
    restart: bool,
    #[command(flatten)]
    pub site: Site,
}

/// Enough to fill the largest batches.
const IN_FLIGHT: usize = 2048;
/// How long a node that was restarted may take to be back.
const BACK_LIMIT: Duration = Duration::from_secs(120);

/// Measures.
pub async fn run(args: &Args, stage: &mut Stage) -> Result<Report, Failure> {
    let client = stage.open().await?;
    let queue = stage.create_queues(&client, 1).await?.remove(0);
    let mut report = Report::new("backlog");
    report.count("messages", args.messages);
    report.size(args.size);
    report.count("producers", args.producers);
    report.count("consumers", args.consumers);
    report.count("prefetch", args.prefetch.into());
    let meter = Meter::start(stage.pids().as_deref());
    let last = args.messages / 10;
    let published = publish(args, stage, &client, &queue, args.messages - last).await?;
    let published_last = publish(args, stage, &client, &queue, last).await?;
    let took = published + published_last;
    report.rate("publish_per_s", "published/s", args.messages, took);
    report.rate("publish_last_per_s", "published/s, the last tenth", last, published_last);
    report.resident(stage);
    let mut standing = args.messages;
    let cost = if args.restart {
        let cost = meter.finish();
        let back = restart(stage, &client, &queue).await?;
        standing += 1;
        report.seconds("restart_serves_s", "restart, serves after", back.serves);
        report.seconds("restart_s", "restart, caught up after", back.caught_up);
        cost
    } else {
        meter.finish()
    };
    report.cost(&cost, args.messages, args.size);
    let meter = Meter::start(stage.pids().as_deref());
    let drained = drain(args, stage, &client, &queue, standing).await?;
    let cost = meter.finish();
    report.rate("messages_per_s", "consumed + acked/s", standing, drained.all);
    let first = standing.div_ceil(10);
    report.rate("drain_first_per_s", "consumed/s, the first tenth", first, drained.first);
    let millions = standing as f64 / 1e6;
    let cpu = cost.node_cpu.map(|cpu| cpu.as_secs_f64() / millions);
    let text = cpu.map(|cpu| format!("{cpu:.1} s a million messages"));
    report.optional("drain_node_cpu_s_per_million", "node CPU, draining", cpu, text);
    report.disk(stage.probed());
    Ok(report)
}

async fn publish(
    args: &Args,
    stage: &mut Stage,
    client: &Client,
    queue: &str,
    messages: u64,
) -> Result<Duration, Failure> {
    let size = args.size as usize;
    let mut producers = Vec::new();
    for _ in 0..args.producers {
        producers.push(load::producer(client, queue, IN_FLIGHT, size).await?);
    }
    let begun = Instant::now();
    let recorder = Arc::new(Recorder::of_closed_loop());
    let mut tasks = Tasks::new();
    for (number, producer) in (0..).zip(producers) {
        let at = |number: u64| messages * number / args.producers;
        let until = Until::Sent(at(number + 1) - at(number));
        let (bodies, recorder) = (Bodies::shared(size), Arc::clone(&recorder));
        tasks.spawn(load::closed(producer, IN_FLIGHT, until, bodies, begun, recorder));
    }
    stage.watch(load::finish(&mut tasks)).await?;
    Ok(begun.elapsed())
}

/// Times from the first consumer's start.
struct Drained {
    /// A tenth of the messages was taken.
    first: Duration,
    /// All are taken and acked.
    all: Duration,
}

async fn drain(
    args: &Args,
    stage: &mut Stage,
    client: &Client,
    queue: &str,
    standing: u64,
) -> Result<Drained, Failure> {
    let (drained, until) = watch::channel(false);
    let (drained, taken) = (Arc::new(drained), Arc::new(AtomicU64::new(0)));
    let first = Arc::new(OnceLock::new());
    let begun = Instant::now();
    let mut tasks = Tasks::new();
    for _ in 0..args.consumers {
        let consumer = load::consumer(client, queue, args.prefetch).await?;
        let (drained, taken) = (Arc::clone(&drained), Arc::clone(&taken));
        let first = Arc::clone(&first);
        let seen = move |burst: &[Delivery]| {
            let burst = burst.len() as u64;
            let taken = taken.fetch_add(burst, Ordering::Relaxed) + burst;
            if taken >= standing.div_ceil(10) {
                first.get_or_init(|| begun.elapsed());
            }
            if taken >= standing {
                drained.send_replace(true);
            }
        };
        tasks.spawn(load::consume(consumer, until.clone(), seen));
    }
    stage.watch(load::finish(&mut tasks)).await?;
    let all = begun.elapsed();
    Ok(Drained { first: first.get().copied().unwrap_or(all), all })
}

/// Times from the start of the node's process.
struct Back {
    /// It answers calls.
    serves: Duration,
    /// Its replica has all that was confirmed, a message of the meantime included.
    caught_up: Duration,
}

/// Stops the queue's leader in order, confirms a message without it, and starts it again.
async fn restart(stage: &mut Stage, client: &Client, queue: &str) -> Result<Back, Failure> {
    let leader = client.locate(queue).await;
    let leader = leader.map_err(|error| session::failure("find the queue's leader", &error))?;
    let nodes = stage.nodes()?;
    let index = nodes.index_of(leader.node_id)?;
    let address = nodes.list()[index].address.to_string();
    nodes.stop(index).await?;
    let running = nodes.running();
    let meantime = nodes.watch(async {
        let others = stage::connect(&running).await?;
        let producer = load::producer(&others, queue, 1, 16).await?;
        let published = producer.publish(Message::new("while it was down")).await;
        published.map_err(|error| session::failure("publish while a node is down", &error))?;
        Ok(others)
    });
    let others = meantime.await?;
    let begun = Instant::now();
    nodes.start(index)?;
    nodes.watch(back(&others, queue, leader.node_id, &address, begun)).await
}

async fn back(
    others: &Client,
    queue: &str,
    node: u64,
    address: &str,
    begun: Instant,
) -> Result<Back, Failure> {
    const LOOK_EVERY: Duration = Duration::from_millis(10);
    let mut serves = None;
    while begun.elapsed() < BACK_LIMIT {
        if serves.is_none() {
            let builder = Client::builder().addresses([address]).request_timeout(BACK_LIMIT);
            serves = builder.connect().await.ok().map(|_| begun.elapsed());
        }
        let described = others.describe_queue(queue).await;
        let described = described.map_err(|error| session::failure("describe queue", &error))?;
        let replica = described.replicas.iter().find(|replica| replica.node_id == node);
        // It was one message behind when it was stopped, so no lag is news of its new run.
        if let (Some(serves), Some(0)) = (serves, replica.map(|replica| replica.lag)) {
            return Ok(Back { serves, caught_up: begun.elapsed() });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let what = format!("node {node} has not caught up within {BACK_LIMIT:?} of its start");
    Err(Failure::new(Exit::Failed, what))
}
