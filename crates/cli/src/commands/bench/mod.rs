//! `quorate bench`: figures of a cluster, a file for each scenario.
//!
//! ```text
//! stage: own cluster | running one ──► scenario: load ──► record ──► report ──► table | JSON
//!   probe: the disk alone                  │  schedule (open loop)    plot ──► picture
//!                                          └─ usage: CPU, disk, memory of the nodes
//! ```
//! Nodes and load share the machine, so figures are those of the whole; they mean something beside others of
//! the same machine and hour.

mod backlog;
mod body;
mod disturb;
mod e2e;
mod failover;
mod idle;
mod latency;
mod later;
mod load;
mod plot;
mod probe;
mod publish;
mod record;
mod report;
mod schedule;
mod stage;
mod startup;
mod usage;

use clap::Subcommand;

use crate::args::Global;
use crate::commands::bench::report::Report;
use crate::commands::bench::stage::{Own, Stage};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::stop::Stop;
use crate::units;

/// What to measure.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "Each starts three nodes of its own on this machine and removes them afterwards; \
with --connect most of them use a running cluster. Nodes take settings from QUORATE_RAFT_*, \
QUORATE_STORAGE_* and QUORATE_LIMITS_* variables. With -o json the last line is one object."
)]
pub enum Command {
    /// Throughput: producers that keep a number of messages in flight.
    Publish(publish::Args),
    /// Confirm latency at a fixed rate, measured from when a message was due.
    Latency(latency::Args),
    /// Publish, deliver, ack: latency to the consumer at a fixed rate, or at full speed.
    E2e(e2e::Args),
    /// A backlog: publishing it, its memory, draining it.
    Backlog(backlog::Args),
    /// Messages for later: their memory while they wait, and how late they come.
    Later(later::Args),
    /// The leader fails under load: the gap, and whether anything is lost or doubled.
    Failover(failover::Args),
    /// A consumer, a follower or a follower's disk fails: what the other queues feel, and the catching up.
    Disturb(disturb::Args),
    /// Many queues that do nothing: memory, CPU, restart.
    Idle(idle::Args),
    /// From the start of three nodes to the first confirm.
    Startup(startup::Args),
}

impl Command {
    fn own(&self) -> &Own {
        match self {
            Command::Publish(args) => &args.site.own,
            Command::Latency(args) => &args.site.own,
            Command::E2e(args) => &args.site.own,
            Command::Backlog(args) => &args.site.own,
            Command::Later(args) => &args.site.own,
            Command::Failover(args) => &args.own,
            Command::Disturb(args) => &args.own,
            Command::Idle(args) => &args.site.own,
            Command::Startup(args) => &args.own,
        }
    }

    fn connects(&self) -> bool {
        match self {
            Command::Publish(args) => args.site.connect,
            Command::Latency(args) => args.site.connect,
            Command::E2e(args) => args.site.connect,
            Command::Backlog(args) => args.site.connect,
            Command::Later(args) => args.site.connect,
            Command::Idle(args) => args.site.connect,
            Command::Failover(_) | Command::Disturb(_) | Command::Startup(_) => false,
        }
    }

    /// What clap cannot know: options that exclude each other by value.
    fn check(&self) -> Result<(), Failure> {
        match self {
            Command::Publish(args) => args.check(),
            Command::Latency(args) => plot::check(args.shape.plot.as_deref()),
            Command::E2e(args) => plot::check(args.shape.plot.as_deref()),
            Command::Failover(args) => plot::check(args.plot.as_deref()),
            Command::Later(args) => plot::check(args.plot.as_deref()),
            Command::Backlog(_) | Command::Disturb(_) | Command::Idle(_) | Command::Startup(_) => {
                Ok(())
            }
        }
    }

    async fn measure(&self, stage: &mut Stage) -> Result<Report, Failure> {
        match self {
            Command::Publish(args) => publish::run(args, stage).await,
            Command::Latency(args) => latency::run(args, stage).await,
            Command::E2e(args) => e2e::run(args, stage).await,
            Command::Backlog(args) => backlog::run(args, stage).await,
            Command::Later(args) => later::run(args, stage).await,
            Command::Failover(args) => failover::run(args, stage).await,
            Command::Disturb(args) => disturb::run(args, stage).await,
            Command::Idle(args) => idle::run(args, stage).await,
            Command::Startup(args) => startup::run(args, stage).await,
        }
    }
}

/// Measures and prints; whatever happens, nothing that was started or made stays behind.
pub async fn run(command: Command, global: &Global) -> Result<(), Failure> {
    command.check()?;
    let mut stop = Stop::new()?;
    let limit = command.own().limit;
    let mut stage = Stage::prepare(command.own(), command.connects(), global)?;
    let outcome = tokio::select! {
        biased;
        () = stop.requested() => None,
        outcome = tokio::time::timeout(limit, command.measure(&mut stage)) => {
            Some(outcome.unwrap_or_else(|_| Err(too_late(limit))))
        }
    };
    stage.leave(outcome.as_ref().is_some_and(Result::is_err)).await;
    match outcome {
        None => Err(Failure::new(Exit::Failed, "interrupted")),
        Some(outcome) => outcome?.print(global.output),
    }
}

fn too_late(limit: std::time::Duration) -> Failure {
    let what = format!("not done within {}", units::duration(limit));
    Failure::new(Exit::Failed, what).reason("TIMEOUT").cure("--limit with more time")
}
