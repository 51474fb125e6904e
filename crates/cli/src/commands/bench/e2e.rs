//! `quorate bench e2e`: from publish to a consumer that acks.
//!
//! A message carries when it was due (or handed over, at full speed), and the consumer looks at the same clock:
//! both are in this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quorate_client::{Client, Delivery};
use tokio::sync::watch;

use crate::commands::bench::body::{self, Bodies};
use crate::commands::bench::latency::{OPEN_IN_FLIGHT, took};
use crate::commands::bench::load::{self, Carries, Shape, Span, Tasks, Until, WARM_UP};
use crate::commands::bench::plot;
use crate::commands::bench::record::{Record, Recorder, Sent};
use crate::commands::bench::report::Report;
use crate::commands::bench::schedule::Schedule;
use crate::commands::bench::stage::{Site, Stage};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::units;

/// Options of `e2e`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Messages a second of all producers together; 0 = full speed.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    rate: u64,
    /// Producers at work.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=256))]
    producers: u64,
    /// Consumers at work.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=256))]
    consumers: u64,
    /// Messages that each producer has in flight at full speed.
    #[arg(long, value_name = "N", default_value_t = 128)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=65_536))]
    in_flight: u64,
    /// Messages that each consumer takes ahead.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_535))]
    prefetch: u32,
    #[command(flatten)]
    pub shape: Shape,
    #[command(flatten)]
    pub site: Site,
}

/// After the last confirm of a fixed rate, deliveries may take this long.
const DELIVERED_LIMIT: Duration = Duration::from_secs(60);

/// Measures.
pub async fn run(args: &Args, stage: &mut Stage) -> Result<Report, Failure> {
    let client = stage.open().await?;
    let queue = stage.create_queues(&client, 1).await?.remove(0);
    let (drained, until) = watch::channel(false);
    let (span, record) = match args.rate {
        0 => full_speed(args, stage, &client, &queue, until, drained).await?,
        _ => at_a_rate(args, stage, &client, &queue, until, drained).await?,
    };
    let mut report = Report::new("e2e");
    report.count("rate", args.rate);
    report.count("producers", args.producers);
    report.count("consumers", args.consumers);
    if args.rate == 0 {
        report.count("in_flight", args.in_flight);
    }
    report.count("prefetch", args.prefetch.into());
    report.size(args.shape.size);
    report.count("seconds", args.shape.seconds);
    let messages = record.latency_us.len();
    report.rate("messages_per_s", "acked/s", messages, span.took);
    report.latency(&record.latency_us);
    report.cost(&span.cost, messages, args.shape.size);
    report.resident(stage);
    report.disk(stage.probed());
    if let (Some(path), Some(timeline)) = (&args.shape.plot, &record.timeline) {
        plot::write(path, "from publish to delivery", timeline, None)?;
    }
    Ok(report)
}

/// The consumers, which write down what they are given.
async fn consumers(
    args: &Args,
    client: &Client,
    queue: &str,
    drained: &watch::Receiver<bool>,
    origin: Instant,
    recorder: &Arc<Recorder>,
) -> Result<Tasks, Failure> {
    let mut tasks = Tasks::new();
    for _ in 0..args.consumers {
        let consumer = load::consumer(client, queue, args.prefetch).await?;
        let recorder = Arc::clone(recorder);
        let seen = move |burst: &[Delivery]| {
            let sent = burst.iter().filter_map(|delivery| sent(delivery, origin));
            recorder.done(sent, Instant::now());
        };
        tasks.spawn(load::consume(consumer, drained.clone(), seen));
    }
    Ok(tasks)
}

fn sent(delivery: &Delivery, origin: Instant) -> Option<Sent> {
    let micros = body::number(&delivery.body)?;
    let at = origin.checked_add(Duration::from_micros(micros))?;
    Some(Sent { number: delivery.offset, at })
}

fn with_timeline(args: &Args, recorder: Recorder, origin: Instant) -> Arc<Recorder> {
    let length = WARM_UP + Duration::from_secs(args.shape.seconds);
    Arc::new(match args.shape.plot {
        Some(_) => recorder.with_timeline(origin, length),
        None => recorder,
    })
}

async fn full_speed(
    args: &Args,
    stage: &mut Stage,
    client: &Client,
    queue: &str,
    until: watch::Receiver<bool>,
    drained: watch::Sender<bool>,
) -> Result<(Span, Record), Failure> {
    let (in_flight, size) = (args.in_flight as usize, args.shape.size as usize);
    let origin = Instant::now();
    let recorder = with_timeline(args, Recorder::of_closed_loop(), origin);
    let mut tasks = consumers(args, client, queue, &until, origin, &recorder).await?;
    let (confirms, ended) =
        (Arc::new(Recorder::of_closed_loop()), Arc::new(AtomicBool::new(false)));
    for _ in 0..args.producers {
        let producer = load::producer(client, queue, in_flight, size).await?;
        let (until, confirms) = (Until::Told(Arc::clone(&ended)), Arc::clone(&confirms));
        let bodies = Bodies::numbered(size);
        tasks.spawn(load::closed(producer, in_flight, until, bodies, origin, confirms));
    }
    let (pids, length) = (stage.pids(), Duration::from_secs(args.shape.seconds));
    let measuring = async { Ok(load::measure(pids, length, &recorder).await) };
    let span = stage.watch(load::beside(&mut tasks, measuring)).await?;
    ended.store(true, Ordering::Relaxed);
    drained.send_replace(true);
    stage.watch(load::finish(&mut tasks)).await?;
    Ok((span, recorder.take()))
}

async fn at_a_rate(
    args: &Args,
    stage: &mut Stage,
    client: &Client,
    queue: &str,
    until: watch::Receiver<bool>,
    drained: watch::Sender<bool>,
) -> Result<(Span, Record), Failure> {
    let (size, length) = (args.shape.size as usize, Duration::from_secs(args.shape.seconds));
    let mut producers = Vec::new();
    for _ in 0..args.producers {
        producers.push(load::producer(client, queue, OPEN_IN_FLIGHT, size).await?);
    }
    // The consumers are attached within this time; were they not, messages would wait and show it.
    let begin = Instant::now() + Duration::from_millis(200);
    let from = begin + WARM_UP;
    let recorder = with_timeline(args, Recorder::of_open_loop(from), begin);
    let mut consuming = consumers(args, client, queue, &until, begin, &recorder).await?;
    let schedule = Schedule::new(begin, args.rate, WARM_UP + length);
    let confirms = Arc::new(Recorder::of_open_loop(from));
    let producers =
        producers.into_iter().map(|one| (one, Bodies::numbered(size), Arc::clone(&confirms)));
    let mut producing = load::open_all(producers.collect(), schedule, Carries::DueSince(begin))?;
    let pids = stage.pids();
    let measuring = async {
        let span = load::measure_between(pids, from, from + length).await;
        load::finish(&mut producing).await?;
        confirms.check()?;
        delivered(&recorder, schedule.messages()).await?;
        Ok(span)
    };
    let mut span = stage.watch(load::beside(&mut consuming, measuring)).await?;
    drained.send_replace(true);
    stage.watch(load::finish(&mut consuming)).await?;
    let record = recorder.take();
    span.took = took(length, from, &record);
    Ok((span, record))
}

async fn delivered(recorder: &Recorder, messages: u64) -> Result<(), Failure> {
    const LOOK_EVERY: Duration = Duration::from_millis(5);
    let begun = Instant::now();
    while recorder.seen() < messages {
        if begun.elapsed() > DELIVERED_LIMIT {
            let (seen, all) = (units::count(recorder.seen()), units::count(messages));
            let what = format!("{seen} of {all} confirmed messages were delivered in time");
            return Err(Failure::new(Exit::Failed, what));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}
