//! `quorate bench latency`: how long a confirm takes while messages come at a fixed rate, or one by one.
//!
//! At a fixed rate a message counts from when it was due, so a stall shows in all that would have been sent
//! meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quorate_client::Client;

use crate::commands::bench::body::Bodies;
use crate::commands::bench::load::{self, Carries, Shape, Span, Tasks, Until, WARM_UP};
use crate::commands::bench::plot;
use crate::commands::bench::record::{Record, Recorder};
use crate::commands::bench::report::Report;
use crate::commands::bench::schedule::Schedule;
use crate::commands::bench::stage::{Site, Stage};
use crate::commands::verify::Level;
use crate::failure::Failure;
use crate::units;

/// Options of `latency`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Messages a second of all producers together; 0 = each producer has one in flight.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    rate: u64,
    /// Producers at work.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=256))]
    producers: u64,
    /// Where a message has to be before its receipt comes.
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t)]
    ack: Level,
    #[command(flatten)]
    pub shape: Shape,
    #[command(flatten)]
    pub site: Site,
}

/// Most messages that an open loop has in flight at a producer: more than any rate makes in a second.
pub const OPEN_IN_FLIGHT: usize = 1 << 17;

/// Measures.
pub async fn run(args: &Args, stage: &mut Stage) -> Result<Report, Failure> {
    let client = stage.open().await?;
    let queue = stage.create_queues(&client, 1).await?.remove(0);
    let (span, record) = match args.rate {
        0 => one_by_one(args, stage, &client, &queue).await?,
        _ => at_a_rate(args, stage, &client, &queue).await?,
    };
    let mut report = Report::new("latency");
    report.count("rate", args.rate);
    report.count("producers", args.producers);
    report.size(args.shape.size);
    report.count("seconds", args.shape.seconds);
    let messages = record.latency_us.len();
    report.rate("messages_per_s", "messages/s", messages, span.took);
    report.latency(&record.latency_us);
    report.cost(&span.cost, messages, args.shape.size);
    report.resident(stage);
    report.disk(stage.probed());
    if let (Some(path), Some(timeline)) = (&args.shape.plot, &record.timeline) {
        let load = match args.rate {
            0 => "one in flight".to_owned(),
            rate => format!("{} messages/s", units::count(rate)),
        };
        plot::write(path, &format!("confirm latency at {load}"), timeline, None)?;
    }
    Ok(report)
}

async fn one_by_one(
    args: &Args,
    stage: &mut Stage,
    client: &Client,
    queue: &str,
) -> Result<(Span, Record), Failure> {
    let (size, length) = (args.shape.size as usize, Duration::from_secs(args.shape.seconds));
    let origin = Instant::now();
    let mut recorder = Recorder::of_closed_loop();
    if args.shape.plot.is_some() {
        recorder = recorder.with_timeline(origin, WARM_UP + length);
    }
    let (recorder, ended) = (Arc::new(recorder), Arc::new(AtomicBool::new(false)));
    let mut tasks = Tasks::new();
    for _ in 0..args.producers {
        let producer = load::producer_at(client, queue, 1, size, args.ack).await?;
        let (until, recorder) = (Until::Told(Arc::clone(&ended)), Arc::clone(&recorder));
        tasks.spawn(load::closed(producer, 1, until, Bodies::shared(size), origin, recorder));
    }
    let pids = stage.pids();
    let measuring = async { Ok(load::measure(pids, length, &recorder).await) };
    let span = stage.watch(load::beside(&mut tasks, measuring)).await?;
    ended.store(true, Ordering::Relaxed);
    stage.watch(load::finish(&mut tasks)).await?;
    Ok((span, recorder.take()))
}

async fn at_a_rate(
    args: &Args,
    stage: &mut Stage,
    client: &Client,
    queue: &str,
) -> Result<(Span, Record), Failure> {
    let (size, length) = (args.shape.size as usize, Duration::from_secs(args.shape.seconds));
    let mut producers = Vec::new();
    for _ in 0..args.producers {
        producers.push(load::producer_at(client, queue, OPEN_IN_FLIGHT, size, args.ack).await?);
    }
    let begin = Instant::now();
    let from = begin + WARM_UP;
    let mut recorder = Recorder::of_open_loop(from);
    if args.shape.plot.is_some() {
        recorder = recorder.with_timeline(begin, WARM_UP + length);
    }
    let recorder = Arc::new(recorder);
    let schedule = Schedule::new(begin, args.rate, WARM_UP + length);
    let producers =
        producers.into_iter().map(|one| (one, Bodies::shared(size), Arc::clone(&recorder)));
    let mut tasks = load::open_all(producers.collect(), schedule, Carries::Number)?;
    let pids = stage.pids();
    let measuring = async { Ok(load::measure_between(pids, from, from + length).await) };
    let mut span = stage.watch(load::beside(&mut tasks, measuring)).await?;
    stage.watch(load::finish(&mut tasks)).await?;
    recorder.check()?;
    let record = recorder.take();
    span.took = took(length, from, &record);
    Ok((span, record))
}

/// A cluster that cannot keep up takes longer than the schedule.
pub fn took(length: Duration, from: Instant, record: &Record) -> Duration {
    record.last.map_or(length, |last| length.max(last.saturating_duration_since(from)))
}
