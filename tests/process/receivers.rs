//! What replicas say of themselves, beside what their leader says of them: `cluster receivers`.

use std::time::{Duration, Instant};

use quorate_client::{
    ChangeReplicasRequest, Client, Message, Receiver, ReceiverState, ReplicaProgress, ReplicaRole,
};
use quorate_tests::process::run;
use quorate_tests::{Plan, turn};

use crate::{HEAVY, SOON};

const QUEUE: &str = "orders";
/// Of a snapshot; slow, so that it can be seen coming in.
const RATE: u64 = 4 << 20;

async fn receiver(client: &Client, node: u64) -> Receiver {
    let mut rows = client.receivers(Some(QUEUE), Some(node)).await.expect("receivers");
    assert_eq!(rows.len(), 1, "{rows:?}");
    rows.remove(0)
}

/// Looks until the replica on a node says of itself what it should.
async fn until(client: &Client, node: u64, holds: impl Fn(&Receiver) -> bool) -> Receiver {
    let begun = Instant::now();
    loop {
        let rows = client.receivers(Some(QUEUE), Some(node)).await.expect("receivers");
        if let Some(row) = rows.iter().find(|row| holds(row)) {
            return row.clone();
        }
        assert!(begun.elapsed() < SOON, "{rows:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn progress(client: &Client, node: u64) -> ReplicaProgress {
    let queues = client.replication(Some(QUEUE)).await.expect("replication");
    *queues[0].replicas.iter().find(|replica| replica.node_id == node).expect("it is listed")
}

async fn publish(client: &Client, messages: usize, bytes: usize) {
    let producer = client.producer(QUEUE).build().await.expect("a producer");
    let body = "x".repeat(bytes);
    let mut sent = Vec::new();
    for _ in 0..messages {
        sent.push(producer.send(Message::new(body.clone())).await.expect("send"));
    }
    for pending in sent {
        pending.await.expect("confirmed");
    }
}

/// The figures of a replica, as it says and as its leader says.
async fn agree(client: &Client, node: u64) {
    let (itself, leader) = (receiver(client, node).await, progress(client, node).await);
    println!("node {node}: {itself:?}");
    assert_eq!(itself.received_index, leader.written_index);
    assert_eq!(itself.flushed_index, leader.flushed_index);
    assert_eq!(itself.applied_index, leader.applied_index);
    assert_eq!(itself.committed_index, leader.applied_index, "it is idle");
    assert_eq!(itself.received_log_bytes, leader.sent_log_bytes);
    assert_eq!(itself.received_snapshot_bytes, leader.sent_snapshot_bytes);
    assert_eq!(itself.role(), leader.role());
}

#[test]
fn receivers_show_where_each_replica_is_and_agree_with_replication() {
    turn::alone(HEAVY, async {
        let plan = Plan::of(4).relayed();
        let cluster = plan.set(&format!("raft.snapshot_bytes_per_second={RATE}")).start().await;
        let client = cluster.queue(QUEUE).await;
        publish(&client, 3_000, 10_000).await;
        let leader = cluster.leader_of(QUEUE).await;
        let rows = client.receivers(Some(QUEUE), None).await.expect("receivers");
        let followers: Vec<u64> = rows.iter().map(|row| row.node_id).collect();
        assert_eq!(followers.len(), 2, "the leader receives from nobody: {rows:?}");
        for row in &rows {
            assert_eq!(row.leader.as_ref().expect("a leader").node_id, leader);
            assert_eq!(
                (row.role(), row.state()),
                (ReplicaRole::Follower, ReceiverState::Streaming)
            );
            assert_eq!(row.staleness_ms, None, "nobody has read");
        }
        // Idle, it is parked: no fault, though nothing is said in the group any more.
        for node in &followers {
            let parked = until(&client, *node, |row| row.state() == ReceiverState::Parked).await;
            assert!(parked.node_heard_ms < Some(1_000), "{parked:?}");
            agree(&client, *node).await;
        }
        let parked = until(&client, followers[0], |row| row.heard_ms > Some(3_000)).await;
        assert!(parked.node_heard_ms < Some(1_000), "{parked:?}");
        assert_eq!(parked.state(), ReceiverState::Parked);

        // A new replica gets what the log no longer reaches back to.
        let new = cluster.ids().into_iter().find(|id| *id != leader && !followers.contains(id));
        let new = new.expect("a free node");
        let change = ChangeReplicasRequest { observers: vec![new], ..Default::default() };
        client.change_replicas(QUEUE, change).await.expect("change");
        let first = until(&client, new, |row| row.transfer_bytes > Some(0)).await;
        assert_eq!(first.state(), ReceiverState::Snapshot);
        let more = until(&client, new, |row| {
            row.transfer_bytes > first.transfer_bytes.map(|bytes| bytes + RATE)
        })
        .await;
        println!("a snapshot of {:?}, then {:?} bytes", first.transfer_bytes, more.transfer_bytes);
        let done = until(&client, new, |row| {
            row.transfer_bytes.is_none() && row.applied_index == parked.applied_index.map(|i| i + 1)
        })
        .await;
        assert!(done.received_snapshot_bytes > 16 << 20, "{done:?}");
        until(&client, new, |row| row.state() == ReceiverState::Parked).await;
        agree(&client, new).await;
        assert_eq!(receiver(&client, new).await.role(), ReplicaRole::Observer);

        // A read asks the leader how fresh the replica is.
        let server = cluster.addresses().join(",");
        let quorate =
            async |args: &[&str]| run(&[args, &["--server", &server]].concat(), SOON).await;
        let read = quorate(&["read", QUEUE, "--from", "2999"]).await;
        assert_eq!(read.code, Some(0), "{}", read.err);
        let rows = client.receivers(None, None).await.expect("receivers");
        assert!(rows.iter().any(|row| row.staleness_ms < Some(10_000)), "{rows:?}");

        // Cut off from its leader, it says so itself, to whoever reaches it.
        let busy = tokio::spawn({
            let client = client.clone();
            async move {
                loop {
                    publish(&client, 20, 100).await;
                }
            }
        });
        let cut = followers[0];
        until(&client, cut, |row| row.state() == ReceiverState::Streaming).await;
        let beside = Client::connect([cluster.listens(cut)]).await.expect("beside the relay");
        cluster.delay(cut, Duration::from_secs(60));
        let away = until(&beside, cut, |row| row.state() == ReceiverState::Away).await;
        assert!(away.heard_ms >= Some(750), "{away:?}");
        let begun = Instant::now();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let later = receiver(&beside, cut).await;
        let grown = later.heard_ms.expect("known") - away.heard_ms.expect("known");
        let took = begun.elapsed().as_millis() as u64;
        println!("away for {:?} ms, then {grown} more in {took}", away.heard_ms);
        assert_eq!(later.state(), ReceiverState::Away);
        assert!((1_000..took + 1_000).contains(&grown), "{grown} in {took}");
        let unreachable =
            until(&client, cut, |row| row.state() == ReceiverState::Unreachable).await;
        assert_eq!((unreachable.received_index, unreachable.leader), (None, None));
        let begun = Instant::now();
        let shown = quorate(&["cluster", "receivers", QUEUE]).await;
        println!("{}\nin {:?}", shown.out, begun.elapsed());
        assert!(
            shown.out.contains("unreachable") && shown.out.contains("observer"),
            "{}",
            shown.out
        );
        cluster.delay(cut, Duration::ZERO);
        let begun = Instant::now();
        until(&client, cut, |row| row.state() == ReceiverState::Streaming).await;
        println!("streaming again {:?} after the way is free", begun.elapsed());
        busy.abort();

        let one =
            quorate(&["cluster", "receivers", "--node", &new.to_string(), "-o", "json"]).await;
        let lines: Vec<serde_json::Value> =
            one.out.lines().map(|line| serde_json::from_str(line).expect("json")).collect();
        assert_eq!(lines.len(), 1, "{}", one.out);
        assert_eq!((&lines[0]["role"], &lines[0]["node_id"]), (&"observer".into(), &new.into()));
        let nowhere = quorate(&["cluster", "receivers", "nowhere"]).await;
        nowhere.refused_with(5, &["QUEUE_NOT_FOUND"]);
        quorate(&["cluster", "receivers", "--node", "9"]).await.refused_with(6, &["no node 9"]);
    });
}
