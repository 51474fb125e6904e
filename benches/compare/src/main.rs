//! `quorate-compare`: Quorate beside JetStream, RabbitMQ and Redis, on this machine, in turns.
//!
//! ```text
//! for each scenario: for each round: a disk probe, then each system: start 3 nodes, measure, kill, remove
//!                    └─► medians, ratios, a table
//! ```
//! See README.md for what is measured and what to think of when reading it.

mod disk;
mod node;
mod report;
mod scenario;
mod system;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use report::Row;
use scenario::{Plan, Scenario};
use system::{Kind, Setup};

/// Measures Quorate beside JetStream, RabbitMQ and Redis, each on three local nodes, in turns.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Scenarios to run, separated by commas; all unless given.
    #[arg(long, value_delimiter = ',', value_parser = scenario_names())]
    scenario: Vec<String>,
    /// Systems to run, separated by commas; all unless given.
    #[arg(long, value_delimiter = ',')]
    system: Vec<Kind>,
    /// How often each system runs each scenario.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Length of each measurement, after one second of warm-up.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Directory for the nodes' data: on the disk that is to be measured. What is put there is removed.
    #[arg(long, default_value = "data", value_name = "DIR")]
    data: PathBuf,
    /// Tables, or a line of JSON for each scenario and system.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Most unacknowledged messages of a consumer.
    #[arg(long, default_value_t = 1_000)]
    prefetch: u16,
    /// Messages of the backlog.
    #[arg(long, default_value_t = 200_000)]
    backlog: u64,
    /// Idle queues of Quorate.
    #[arg(long, default_value_t = 1_000)]
    idle_queues: usize,
    /// Idle queues of the others.
    #[arg(long, default_value_t = 500)]
    idle_queues_peers: usize,
    /// JetStream keeps acknowledged messages, as Redis does, instead of removing them as queues do.
    #[arg(long)]
    jetstream_keeps: bool,
    /// The quorate program.
    #[arg(long, default_value = "../../target/release/quorate", value_name = "PATH")]
    quorate: PathBuf,
    /// The nats-server program.
    #[arg(long, default_value = ".peers/bin/nats-server", value_name = "PATH")]
    nats_server: PathBuf,
    /// The redis-server program.
    #[arg(long, default_value = "redis-server", value_name = "PATH")]
    redis_server: PathBuf,
    /// Directory of rabbitmq-server and rabbitmqctl.
    #[arg(long, default_value = "/usr/lib/rabbitmq/bin", value_name = "DIR")]
    rabbitmq_bin: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Table,
    Json,
}

fn scenarios() -> impl Iterator<Item = Scenario> {
    std::iter::once(scenario::STARTUP).chain(scenario::ALL)
}

fn scenario_names() -> clap::builder::PossibleValuesParser {
    scenarios().map(|scenario| scenario.name).collect::<Vec<_>>().into()
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for signals")?;
        let mut terminate = signal(SignalKind::terminate()).context("listen for signals")?;
        // Whichever ends first, the other is dropped, and with it the nodes.
        tokio::select! {
            done = compare(&args) => done.map(|()| ExitCode::SUCCESS),
            _ = interrupt.recv() => Ok(ExitCode::from(130)),
            _ = terminate.recv() => Ok(ExitCode::from(143)),
        }
    })
}

async fn compare(args: &Args) -> Result<()> {
    std::fs::create_dir_all(&args.data)
        .with_context(|| format!("create {}", args.data.display()))?;
    let data = args.data.canonicalize().context("find the data directory")?;
    let plan = Plan {
        setup: Setup {
            quorate: args.quorate.clone(),
            nats_server: args.nats_server.clone(),
            redis_server: args.redis_server.clone(),
            rabbitmq_bin: args.rabbitmq_bin.clone(),
            keep_acked: args.jetstream_keeps,
        },
        seconds: args.seconds.into(),
        prefetch: args.prefetch,
        backlog: args.backlog,
        idle_queues: (args.idle_queues, args.idle_queues_peers),
    };
    let is_wanted =
        |name: &str| args.scenario.is_empty() || args.scenario.iter().any(|one| one == name);
    for scenario in scenarios().filter(|scenario| is_wanted(scenario.name)) {
        let kinds = Kind::ALL.into_iter().filter(|kind| scenario.applies_to(*kind));
        let kinds = kinds.filter(|kind| args.system.is_empty() || args.system.contains(kind));
        let mut rows: Vec<Row> = kinds.map(|kind| Row { kind, runs: Vec::new() }).collect();
        let mut probes = Vec::new();
        for round in 1..=args.rounds {
            let directory = data.clone();
            let probe = tokio::task::spawn_blocking(move || disk::probe(&directory));
            probes.push(probe.await.context("probe the disk")??);
            for row in &mut rows {
                let name = row.kind.name();
                eprintln!("{}: round {round} of {}: {name}", scenario.name, args.rounds);
                let run = scenario::run(&scenario, row.kind, &plan, &data).await;
                let run = run.map_err(|error| format!("{error:#}"));
                if let Err(error) = &run {
                    eprintln!("{}: {name}: failed: {error}", scenario.name);
                }
                row.runs.push(run);
            }
        }
        show(args.output, &scenario, &rows, &probes)?;
    }
    Ok(())
}

fn show(output: Output, scenario: &Scenario, rows: &[Row], probes: &[(f64, f64)]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match output {
        Output::Table => out.write_all(report::table(scenario, rows, probes).as_bytes())?,
        Output::Json => {
            for line in report::json(scenario, rows, probes) {
                writeln!(out, "{line}")?;
            }
        }
    }
    out.flush().context("write the result")
}
