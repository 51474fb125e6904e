//! `quorate bench publish`: how many messages a second are confirmed, with each producer keeping its window full.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::commands::bench::body::Bodies;
use crate::commands::bench::load::{self, Shape, Tasks, Until, WARM_UP};
use crate::commands::bench::plot;
use crate::commands::bench::record::Recorder;
use crate::commands::bench::report::Report;
use crate::commands::bench::stage::{Site, Stage};
use crate::failure::Failure;
use crate::units;

/// Options of `publish`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Producers at work, spread over the queues in turn.
    #[arg(long, value_name = "N", default_value_t = 8)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=10_000))]
    producers: u64,
    /// Messages that each producer has in flight.
    #[arg(long, value_name = "N", default_value_t = 128)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=65_536))]
    in_flight: u64,
    /// Queues; at most as many as producers.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=10_000))]
    queues: u64,
    #[command(flatten)]
    pub shape: Shape,
    #[command(flatten)]
    pub site: Site,
}

impl Args {
    /// Each queue has a producer.
    pub fn check(&self) -> Result<(), Failure> {
        if self.queues > self.producers {
            let (queues, producers) = (self.queues, self.producers);
            let what = format!("{queues} queues for {producers} producers: some would stay empty");
            return Err(Failure::usage(what).cure(format!("--producers {queues}")));
        }
        plot::check(self.shape.plot.as_deref())
    }
}

/// Measures.
pub async fn run(args: &Args, stage: &mut Stage) -> Result<Report, Failure> {
    let client = stage.open().await?;
    let queues = stage.create_queues(&client, args.queues).await?;
    let (in_flight, size) = (args.in_flight as usize, args.shape.size as usize);
    let length = Duration::from_secs(args.shape.seconds);
    let origin = Instant::now();
    let mut recorder = Recorder::of_closed_loop();
    if args.shape.plot.is_some() {
        recorder = recorder.with_timeline(origin, WARM_UP + length);
    }
    let (recorder, ended) = (Arc::new(recorder), Arc::new(AtomicBool::new(false)));
    let mut tasks = Tasks::new();
    for queue in queues.iter().cycle().take(args.producers as usize) {
        let producer = load::producer(&client, queue, in_flight, size).await?;
        let (until, recorder) = (Until::Told(Arc::clone(&ended)), Arc::clone(&recorder));
        tasks.spawn(load::closed(
            producer,
            in_flight,
            until,
            Bodies::shared(size),
            origin,
            recorder,
        ));
    }
    let pids = stage.pids();
    let measuring = async { Ok(load::measure(pids, length, &recorder).await) };
    let span = stage.watch(load::beside(&mut tasks, measuring)).await?;
    let mut report = Report::new("publish");
    report.count("producers", args.producers);
    report.count("in_flight", args.in_flight);
    report.count("queues", args.queues);
    report.size(args.shape.size);
    report.count("seconds", args.shape.seconds);
    let record = recorder.take();
    let messages = record.latency_us.len();
    report.rate("messages_per_s", "messages/s", messages, span.took);
    report.latency(&record.latency_us);
    report.cost(&span.cost, messages, args.shape.size);
    report.resident(stage);
    report.disk(stage.probed());
    ended.store(true, Ordering::Relaxed);
    stage.watch(load::finish(&mut tasks)).await?;
    if let (Some(path), Some(timeline)) = (&args.shape.plot, &record.timeline) {
        let title = format!(
            "publish: {} producers, {} in flight each, {}",
            args.producers,
            args.in_flight,
            units::bytes(args.shape.size)
        );
        plot::write(path, &title, timeline, None)?;
    }
    Ok(report)
}
