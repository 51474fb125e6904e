//! `quorate bench idle`: many queues that nobody uses: what they take, and how long a restart takes with them.

use std::time::{Duration, Instant};

use quorate_client::Client;

use crate::commands::bench::report::{self, Report};
use crate::commands::bench::stage::{self, Site, Stage};
use crate::commands::bench::usage::Meter;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session;

/// Options of `idle`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Queues.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=100_000))]
    queues: u64,
    /// Seconds of idling to measure.
    #[arg(long, value_name = "N", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    #[command(flatten)]
    pub site: Site,
}

/// After the creation: elections and checkpoints come to rest.
const SETTLE: Duration = Duration::from_secs(2);
/// How long all queues together may take to find leaders.
const LEADERS_LIMIT: Duration = Duration::from_secs(300);

/// Measures.
pub async fn run(args: &Args, stage: &mut Stage) -> Result<Report, Failure> {
    let client = stage.open().await?;
    let begun = Instant::now();
    let queues = stage.create_queues(&client, args.queues).await?;
    let created = begun.elapsed();
    let mut report = Report::new("idle");
    report.count("queues", args.queues);
    report.count("seconds", args.seconds);
    report.seconds("creation_s", "creation", created);
    idle(args, stage, &mut report).await?;
    report.resident(stage);
    report.disk(stage.probed());
    if !args.site.connect {
        let (confirmed, led) = restart(stage, &queues).await?;
        report.seconds("restart_s", "restart, first confirm", confirmed);
        report.seconds("restart_all_led_s", "restart, all queues led", led);
    }
    Ok(report)
}

async fn idle(args: &Args, stage: &mut Stage, report: &mut Report) -> Result<(), Failure> {
    let (pids, length) = (stage.pids(), Duration::from_secs(args.seconds));
    let idling = async {
        tokio::time::sleep(SETTLE).await;
        let (meter, begun) = (Meter::start(pids.as_deref()), Instant::now());
        tokio::time::sleep(length).await;
        Ok((begun.elapsed(), meter.finish()))
    };
    let (took, cost) = stage.watch(idling).await?;
    let percent = cost.node_cpu.map(|cpu| 100.0 * cpu.as_secs_f64() / took.as_secs_f64());
    let text = percent.map(|percent| format!("{percent:.1} % of one core, all nodes"));
    report.optional("cpu_percent", "CPU", percent, text);
    let written = cost.written_bytes.map(|bytes| bytes as f64 / took.as_secs_f64() / 1000.0);
    let text = written.map(|kb| format!("{:.1} kB/s, all nodes", report::round(kb)));
    report.optional("disk_kb_per_s", "written", written, text);
    Ok(())
}

/// Stops and starts all nodes; returns the times to the first confirm and until each queue is led.
async fn restart(stage: &mut Stage, queues: &[String]) -> Result<(Duration, Duration), Failure> {
    let nodes = stage.nodes()?;
    nodes.stop_all().await;
    let begun = Instant::now();
    nodes.start_all()?;
    let addresses = nodes.addresses();
    nodes
        .watch(async {
            let confirmed = stage::first_confirm(&addresses, &queues[0], begun).await?;
            let client = stage::connect(&addresses).await?;
            Ok((confirmed, all_led(&client, queues.len() as u64, begun).await?))
        })
        .await
}

/// One node's status counts what it has opened so far; the listing, which costs more, has the last word.
async fn all_led(client: &Client, queues: u64, begun: Instant) -> Result<Duration, Failure> {
    const LOOK_EVERY: Duration = Duration::from_millis(20);
    while begun.elapsed() < LEADERS_LIMIT {
        let status = client.status().await;
        let status = status.map_err(|error| session::failure("show the cluster", &error))?;
        if status.queues >= queues && status.queues_without_leader == 0 {
            let at = begun.elapsed();
            let listed = client.list_queues().await;
            let listed = listed.map_err(|error| session::failure("list queues", &error))?;
            if listed.iter().filter(|queue| queue.leader.is_some()).count() as u64 >= queues {
                return Ok(at);
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Err(Failure::new(Exit::Unavailable, format!("not all queues are led after {LEADERS_LIMIT:?}"))
        .reason("NO_QUORUM"))
}
