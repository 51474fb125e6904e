//! `quorate cluster receivers [QUEUE]`: what each replica has received, as it knows itself.

use std::io::Write;
use std::time::Duration;

use quorate_client::{Client, Receiver, ReceiverState, ReplicaRole};
use serde_json::{Value, json};

use crate::args::{Format, Global};
use crate::failure::Failure;
use crate::session;
use crate::table::Table;
use crate::units;
use crate::watch;

/// Options of `cluster receivers`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Each replica that does not lead tells of itself. received, flushed, committed, applied: positions in the \
queue's log that it has taken in, has on disk, knows to be committed, and has applied. heard: when its leader last said \
something in this queue; of a parked queue, which has no messages, when the leader's node did. stale: how old its state is \
at most, if a read has asked. `cluster replication` shows the same from the leaders' side."
)]
pub struct Args {
    /// Only this queue.
    queue: Option<String>,
    /// Only the replicas on this node.
    #[arg(long, value_name = "NODE")]
    node: Option<u64>,
    /// Show it again and again, every second unless another time is given, until Ctrl-C.
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "1s")]
    #[arg(value_parser = units::parse_duration)]
    watch: Option<Duration>,
}

/// Shows it once, or until it is interrupted.
pub async fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    watch::repeat(args.watch, async || show(&client, args, global).await).await
}

async fn show(client: &Client, args: &Args, global: &Global) -> Result<(), Failure> {
    let asking = client.receivers(args.queue.as_deref(), args.node);
    let receivers = session::within(global, "ask for the receivers", asking).await?;
    let mut out = std::io::stdout().lock();
    match global.output {
        Format::Json => {
            for receiver in &receivers {
                writeln!(out, "{}", json(receiver))?;
            }
        }
        Format::Table => {
            let headers = [
                "queue",
                ">node",
                "role",
                "state",
                "from",
                ">term",
                ">received",
                ">flushed",
                ">committed",
                ">applied",
                ">of the log",
                ">in snapshots",
                ">heard",
                ">stale",
            ];
            let mut table = Table::new(&headers);
            receivers.iter().for_each(|receiver| table.row(row(receiver)));
            writeln!(out, "{table}")?;
        }
    }
    out.flush()?;
    Ok(())
}

fn role(receiver: &Receiver) -> &'static str {
    match receiver.role() {
        ReplicaRole::Observer => "observer",
        _ => "voter",
    }
}

fn state(receiver: &Receiver) -> &'static str {
    match receiver.state() {
        ReceiverState::Streaming => "streaming",
        ReceiverState::CatchingUp => "catching up",
        ReceiverState::Snapshot => "snapshot",
        ReceiverState::Parked => "parked",
        ReceiverState::Away => "away",
        ReceiverState::Unreachable => "unreachable",
        ReceiverState::None => "none yet",
        ReceiverState::Unspecified => "unknown",
    }
}

/// When what the replica relies on was last heard of: its leader, or for a parked one the leader's node.
fn heard(receiver: &Receiver) -> Option<u64> {
    match receiver.state() {
        ReceiverState::Parked => receiver.node_heard_ms,
        _ => receiver.heard_ms,
    }
}

fn row(receiver: &Receiver) -> [String; 14] {
    const NOTHING: &str = "-";
    let index = |index: Option<u64>| index.map_or(NOTHING.to_owned(), |index| index.to_string());
    let time = |ms: Option<u64>| {
        ms.map_or(NOTHING.to_owned(), |ms| units::duration(Duration::from_millis(ms)))
    };
    let told = !matches!(receiver.state(), ReceiverState::Unreachable | ReceiverState::None);
    let if_told = |figure: String| if told { figure } else { NOTHING.to_owned() };
    let leader = receiver.leader.as_ref();
    let state = match receiver.transfer_bytes {
        Some(bytes) => format!("{}, {}", state(receiver), units::bytes(bytes)),
        None => state(receiver).to_owned(),
    };
    [
        receiver.queue.clone(),
        receiver.node_id.to_string(),
        role(receiver).to_owned(),
        state,
        leader.map_or(NOTHING.to_owned(), |from| format!("{} at {}", from.node_id, from.address)),
        if_told(receiver.term.to_string()),
        index(receiver.received_index),
        index(receiver.flushed_index),
        index(receiver.committed_index),
        index(receiver.applied_index),
        if_told(units::bytes(receiver.received_log_bytes)),
        if_told(units::bytes(receiver.received_snapshot_bytes)),
        time(heard(receiver)),
        time(receiver.staleness_ms),
    ]
}

fn json(receiver: &Receiver) -> Value {
    let leader = receiver.leader.as_ref();
    json!({
        "queue": receiver.queue, "group_id": receiver.group_id, "node_id": receiver.node_id,
        "role": role(receiver), "state": state(receiver),
        "leader": leader.map(|from| json!({ "node_id": from.node_id, "address": from.address })),
        "term": receiver.term, "received_index": receiver.received_index,
        "flushed_index": receiver.flushed_index, "committed_index": receiver.committed_index,
        "applied_index": receiver.applied_index,
        "received_log_bytes": receiver.received_log_bytes,
        "received_snapshot_bytes": receiver.received_snapshot_bytes,
        "transfer_bytes": receiver.transfer_bytes, "heard_ms": receiver.heard_ms,
        "node_heard_ms": receiver.node_heard_ms, "staleness_ms": receiver.staleness_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parked_replica_is_heard_of_by_its_leaders_node_and_one_that_is_not_reached_tells_nothing()
    {
        let mut receiver = Receiver {
            heard_ms: Some(90_000),
            node_heard_ms: Some(100),
            received_index: Some(12),
            ..Default::default()
        };
        receiver.set_state(ReceiverState::Parked);
        assert_eq!(row(&receiver)[12], "100 ms");
        receiver.set_state(ReceiverState::Away);
        assert_eq!(row(&receiver)[12], "1 min 30 s");
        receiver.set_state(ReceiverState::Snapshot);
        receiver.transfer_bytes = Some(2048);
        assert_eq!(row(&receiver)[3], "snapshot, 2.00 KiB");
        let mut silent = Receiver { queue: "orders".into(), node_id: 3, ..Default::default() };
        silent.set_state(ReceiverState::Unreachable);
        assert_eq!(row(&silent)[..4], ["orders", "3", "voter", "unreachable"]);
        assert!(row(&silent)[4..].iter().all(|figure| figure == "-"), "{:?}", row(&silent));
    }
}
