//! Lag that one can see: what `cluster replication` says of a replica that is slow, away, and back.

use std::time::{Duration, Instant};

use quorate_client::{
    ChangeReplicasRequest, Client, Message, QueueSettings, ReplicaProgress, ReplicaRole,
    ReplicaState,
};
use quorate_tests::process::run;
use quorate_tests::{Cluster, Load, Plan, turn};

use crate::{HEAVY, SOON};

const QUEUE: &str = "orders";

async fn replica(client: &Client, node: u64) -> ReplicaProgress {
    let queues = client.replication(Some(QUEUE)).await.expect("replication");
    let found = queues[0].replicas.iter().find(|replica| replica.node_id == node);
    *found.expect("the replica is listed")
}

/// Looks until the replica is as it should be.
async fn until(client: &Client, node: u64, holds: impl Fn(&ReplicaProgress) -> bool) {
    let begun = Instant::now();
    loop {
        let seen = replica(client, node).await;
        if holds(&seen) {
            return;
        }
        assert!(begun.elapsed() < SOON, "{seen:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn the_lag_in_time_is_that_of_a_slow_link() {
    turn::alone(HEAVY, async {
        let cluster = Plan::of(3).relayed().start().await;
        let client = cluster.queue(QUEUE).await;
        let load = Load::start(&client, QUEUE, 2, 1);
        load.confirmed_more(200, SOON).await;
        let follower = cluster.follower_of(QUEUE).await;
        for link in [50, 150, 300] {
            // There and back: the leader knows what a replica has when it has been told.
            let delay = Duration::from_millis(link);
            cluster.delay(follower, delay);
            tokio::time::sleep(Duration::from_secs(1)).await;
            let mut seen = Vec::new();
            for _ in 0..10 {
                let replica = replica(&client, follower).await;
                assert!(replica.lag_entries > 0 && replica.lag_bytes > 0, "{replica:?}");
                seen.push(replica.lag_ms.expect("known"));
                tokio::time::sleep(Duration::from_millis(37)).await;
            }
            seen.sort_unstable();
            println!("link delayed {delay:?} each way: lag {seen:?} ms");
            let (median, both_ways) = (seen[5], 2 * link);
            assert!(median + 20 >= both_ways, "less than the link: {seen:?}");
            assert!(median <= both_ways + 1_000, "more than a report interval off: {seen:?}");
        }
        cluster.delay(follower, Duration::ZERO);
        until(&client, follower, |replica| replica.lag_ms < Some(100)).await;
        load.finish(SOON).await;
    });
}

#[test]
fn a_replica_streams_is_away_catches_up_and_streams_again() {
    turn::alone(HEAVY, async {
        let mut cluster = Cluster::start(3).await;
        let settings = QueueSettings { in_sync_lag_ms: 500, ..Default::default() };
        let client = cluster.queue_with(QUEUE, settings).await;
        let load = Load::start(&client, QUEUE, 2, 1);
        load.confirmed_more(200, SOON).await;
        let leader = cluster.leader_of(QUEUE).await;
        let seen = replica(&client, leader).await;
        assert_eq!((seen.role(), seen.in_sync, seen.sent_index), (ReplicaRole::Leader, true, None));
        assert!(
            seen.flushed_index <= seen.written_index && seen.applied_index > Some(0),
            "{seen:?}"
        );
        let follower = cluster.follower_of(QUEUE).await;
        until(&client, follower, |replica| {
            replica.state() == ReplicaState::Streaming
                && replica.in_sync
                && replica.sent_index >= replica.flushed_index
                && replica.applied_index > Some(0)
        })
        .await;
        cluster.kill9(follower);
        until(&client, follower, |replica| {
            replica.state() == ReplicaState::Away
                && !replica.in_sync
                && replica.lag_ms > Some(500)
                && replica.lag_bytes > 0
                && replica.applied_index.is_none()
        })
        .await;
        let server = cluster.addresses().join(",");
        let quorate =
            async |args: &[&str]| run(&[args, &["--server", &server]].concat(), SOON).await;
        let shown = quorate(&["cluster", "replication", "--lagging"]).await;
        assert_eq!(shown.code, Some(0), "{}", shown.err);
        assert!(shown.out.contains("away") && shown.out.contains("no"), "{}", shown.out);
        println!("{}", quorate(&["cluster", "replication"]).await.out);
        cluster.start_node(follower);
        cluster.ready().await;
        until(&client, follower, |replica| {
            replica.state() == ReplicaState::Streaming && replica.in_sync
        })
        .await;
        let shown = quorate(&["cluster", "replication", QUEUE, "-o", "json"]).await;
        let lines: Vec<serde_json::Value> =
            shown.out.lines().map(|line| serde_json::from_str(line).expect("json")).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines.iter().filter(|line| line["role"] == "leader").count(), 1);
        quorate(&["cluster", "replication", "nowhere"]).await.refused_with(5, &["QUEUE_NOT_FOUND"]);
        load.finish(SOON).await;
    });
}

#[test]
fn a_replica_that_was_away_is_sent_what_it_missed_and_a_new_one_all_there_is() {
    turn::alone(HEAVY, async {
        const MESSAGES: u64 = 3_000;
        const BYTES: u64 = 1_000;
        let mut cluster = Plan::of(4).start().await;
        let client = cluster.queue(QUEUE).await;
        let held = client.describe_queue(QUEUE).await.expect("describe").replicas;
        let leader = cluster.leader_of(QUEUE).await;
        let away = held.iter().map(|r| r.node_id).find(|node| *node != leader).expect("a follower");
        let publish = async || {
            let producer = client.producer(QUEUE).build().await.expect("a producer");
            let body = "x".repeat(BYTES as usize);
            let mut sent = Vec::new();
            for _ in 0..MESSAGES {
                sent.push(producer.send(Message::new(body.clone())).await.expect("send"));
            }
            for pending in sent {
                pending.await.expect("confirmed");
            }
        };
        publish().await;
        until(&client, away, |replica| replica.lag_entries == 0).await;
        cluster.kill9(away);
        until(&client, away, |replica| replica.state() == ReplicaState::Away).await;
        let before = replica(&client, away).await;
        publish().await;
        cluster.start_node(away);
        until(&client, away, |replica| {
            replica.state() == ReplicaState::Streaming && replica.lag_entries == 0
        })
        .await;
        let after = replica(&client, away).await;
        let sent = after.sent_log_bytes - before.sent_log_bytes;
        println!("missed {} bytes, was sent {sent}", MESSAGES * BYTES);
        let missed = MESSAGES * BYTES;
        assert!((missed..missed * 3 / 2).contains(&sent), "{sent} bytes for {missed}");
        assert_eq!(after.sent_snapshot_bytes, 0, "the log reaches back");
        // A new one gets all, in a snapshot as far as the log no longer reaches back.
        for _ in 0..4 {
            publish().await;
        }
        let ids = cluster.ids().into_iter();
        let free = ids.rev().find(|id| held.iter().all(|held| held.node_id != *id));
        let free = free.expect("a free node");
        let change =
            ChangeReplicasRequest { voters: vec![free], remove: vec![away], ..Default::default() };
        client.change_replicas(QUEUE, change).await.expect("change");
        let all = 6 * missed;
        until(&client, free, |replica| {
            replica.lag_entries == 0 && replica.sent_log_bytes + replica.sent_snapshot_bytes >= all
        })
        .await;
        let new = replica(&client, free).await;
        println!(
            "a new replica: {} in a snapshot, {} of the log",
            new.sent_snapshot_bytes, new.sent_log_bytes
        );
    });
}
