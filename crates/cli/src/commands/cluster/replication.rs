//! `quorate cluster replication [QUEUE]`: how far each replica of each queue is.

use std::io::Write;
use std::time::Duration;

use quorate_client::{Client, QueueReplication, ReplicaProgress, ReplicaRole, ReplicaState};
use serde_json::{Value, json};

use crate::args::{Format, Global};
use crate::failure::Failure;
use crate::session;
use crate::table::Table;
use crate::units;
use crate::watch;

/// Options of `cluster replication`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "sent, written, flushed, applied: positions in the queue's log, as the leader has sent them, the \
replica has taken them in, has them on disk, and has applied them. The lag is what a replica lacks on disk; in time, how \
old the oldest entry is that it lacks, as the leader knows, so the way there and back is part of it."
)]
pub struct Args {
    /// Only this queue.
    queue: Option<String>,
    /// Show it again and again, every second unless another time is given, until Ctrl-C.
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "1s")]
    #[arg(value_parser = units::parse_duration)]
    watch: Option<Duration>,
    /// Only replicas that are not in sync, or behind.
    #[arg(long)]
    lagging: bool,
}

/// Shows it once, or until it is interrupted.
pub async fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    watch::repeat(args.watch, async || show(&client, args, global).await).await
}

async fn show(client: &Client, args: &Args, global: &Global) -> Result<(), Failure> {
    let asking = client.replication(args.queue.as_deref());
    let queues = session::within(global, "ask for the replication", asking).await?;
    let rows = queues.iter().flat_map(|queue| queue.replicas.iter().map(move |r| (queue, r)));
    let shown = rows.filter(|(_, replica)| !args.lagging || is_behind(replica));
    let mut out = std::io::stdout().lock();
    match global.output {
        Format::Json => {
            for (queue, replica) in shown {
                writeln!(out, "{}", json(queue, replica))?;
            }
        }
        Format::Table => {
            let headers = [
                "queue",
                ">node",
                "role",
                "state",
                ">sent",
                ">written",
                ">flushed",
                ">applied",
                ">lag",
                ">lag bytes",
                ">lag time",
                "in sync",
            ];
            let mut table = Table::new(&headers);
            for (queue, replica) in shown {
                table.row(row(queue, replica));
            }
            writeln!(out, "{table}")?;
        }
    }
    out.flush()?;
    Ok(())
}

fn is_behind(replica: &ReplicaProgress) -> bool {
    replica.lag_entries > 0 || !replica.in_sync
}

fn role(replica: &ReplicaProgress) -> &'static str {
    match replica.role() {
        ReplicaRole::Leader => "leader",
        ReplicaRole::Follower => "follower",
        ReplicaRole::Observer => "observer",
        ReplicaRole::Unspecified => "unknown",
    }
}

fn state(replica: &ReplicaProgress) -> &'static str {
    match replica.state() {
        ReplicaState::Streaming => "streaming",
        ReplicaState::CatchingUp => "catching up",
        ReplicaState::Away => "away",
        ReplicaState::Unspecified => "unknown",
    }
}

fn row(queue: &QueueReplication, replica: &ReplicaProgress) -> [String; 12] {
    let index = |index: Option<u64>| index.map_or("-".to_owned(), |index| index.to_string());
    // One that has not answered its leader yet has no lag to tell.
    let known = replica.flushed_index.is_some();
    let if_known = |figure: String| if known { figure } else { "-".to_owned() };
    let time = match replica.lag_ms {
        Some(ms) => units::duration(Duration::from_millis(ms)),
        None => "beyond the log".to_owned(),
    };
    [
        queue.queue.clone(),
        replica.node_id.to_string(),
        role(replica).to_owned(),
        state(replica).to_owned(),
        index(replica.sent_index),
        index(replica.written_index),
        index(replica.flushed_index),
        index(replica.applied_index),
        if_known(units::count(replica.lag_entries)),
        if_known(units::bytes(replica.lag_bytes)),
        if_known(time),
        if_known(if replica.in_sync { "yes" } else { "no" }.to_owned()),
    ]
}

fn json(queue: &QueueReplication, replica: &ReplicaProgress) -> Value {
    json!({
        "queue": queue.queue, "group_id": queue.group_id, "last_index": queue.last_index,
        "node_id": replica.node_id, "role": role(replica), "state": state(replica),
        "sent_index": replica.sent_index, "written_index": replica.written_index,
        "flushed_index": replica.flushed_index, "applied_index": replica.applied_index,
        "lag_entries": replica.lag_entries, "lag_bytes": replica.lag_bytes,
        "lag_ms": replica.lag_ms, "in_sync": replica.in_sync,
        "sent_log_bytes": replica.sent_log_bytes, "sent_snapshot_bytes": replica.sent_snapshot_bytes,
    })
}
