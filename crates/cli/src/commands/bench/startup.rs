//! `quorate bench startup`: from the start of three processes to the first confirm, on empty directories and on
//! ones with data.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::commands::bench::body::Bodies;
use crate::commands::bench::load::{self, Tasks, Until};
use crate::commands::bench::record::Recorder;
use crate::commands::bench::report::{self, Report};
use crate::commands::bench::stage::{self, Own, Stage};
use crate::failure::Failure;
use crate::units;

/// Options of `startup`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Starts of each kind.
    #[arg(long, value_name = "N", default_value_t = 3)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=100))]
    runs: u64,
    /// Messages of 1 KiB that are there at a start with data.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=100_000_000))]
    messages: u64,
    #[command(flatten)]
    pub own: Own,
}

const QUEUE: &str = "bench";
const SIZE: usize = 1024;
const IN_FLIGHT: usize = 2048;

/// Measures.
pub async fn run(args: &Args, stage: &mut Stage) -> Result<Report, Failure> {
    stage.probe().await?;
    let (mut empty, mut again) = (Vec::new(), Vec::new());
    for number in 0..args.runs {
        if number > 0 {
            stage.renew(&args.own).await?;
        }
        empty.push(start(stage).await?);
        fill(args, stage).await?;
        stage.nodes()?.stop_all().await;
        again.push(start(stage).await?);
    }
    let mut report = Report::new("startup");
    report.count("runs", args.runs);
    report.count("messages", args.messages);
    spread(&mut report, "start_s", "new cluster", &mut empty);
    spread(&mut report, "restart_s", "with data", &mut again);
    report.resident(stage);
    report.disk(stage.probed());
    Ok(report)
}

async fn start(stage: &mut Stage) -> Result<Duration, Failure> {
    let nodes = stage.nodes()?;
    let addresses = nodes.addresses();
    let begun = Instant::now();
    nodes.start_all()?;
    nodes.watch(stage::first_confirm(&addresses, QUEUE, begun)).await
}

async fn fill(args: &Args, stage: &mut Stage) -> Result<(), Failure> {
    let client = stage::connect(&stage.nodes()?.addresses()).await?;
    let producer = load::producer(&client, QUEUE, IN_FLIGHT, SIZE).await?;
    let (until, recorder) = (Until::Sent(args.messages), Arc::new(Recorder::of_closed_loop()));
    let mut tasks = Tasks::new();
    let (bodies, origin) = (Bodies::shared(SIZE), Instant::now());
    tasks.spawn(load::closed(producer, IN_FLIGHT, until, bodies, origin, recorder));
    stage.watch(load::finish(&mut tasks)).await
}

/// Median, and the range of the runs.
fn spread(report: &mut Report, name: &str, label: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let seconds: Vec<f64> = times.iter().map(|time| report::round(time.as_secs_f64())).collect();
    let (Some(first), Some(last)) = (times.first(), times.last()) else { return };
    let median = times[times.len() / 2];
    let text = format!(
        "first confirm after {} ({} to {})",
        units::duration(median),
        units::duration(*first),
        units::duration(*last)
    );
    report.figure(name, label, report::round(median.as_secs_f64()), text);
    report.hidden(&format!("{name}_runs"), json!(seconds));
}
