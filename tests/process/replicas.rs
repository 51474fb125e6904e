//! Which nodes hold a queue: changed under load, replaced after a loss, and nodes that leave.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use quorate_client::{
    ChangeReplicasRequest, Client, Message, Producer, QueueSettings, ReplicaRole, SlotSettings,
};
use quorate_tests::process::run;
use quorate_tests::{Cluster, Load, Plan, turn};

use crate::{HEAVY, LIGHT, SOON};

const QUEUE: &str = "orders";
/// Producers of some 330 messages a second each.
const PRODUCERS: u32 = 6;
const SOME: usize = 1_000;

fn set(nodes: &[u64]) -> BTreeSet<u64> {
    nodes.iter().copied().collect()
}

/// The nodes that hold a queue, once nothing about that changes any more.
async fn holders(client: &Client, queue: &str) -> BTreeSet<u64> {
    placed(client, queue, 0).await
}

/// Changes the replicas, and tells which they are when that is done.
async fn change(client: &Client, change: ChangeReplicasRequest) -> BTreeSet<u64> {
    let changed = client.change_replicas(QUEUE, change).await.expect("change");
    placed(client, QUEUE, changed.placement).await
}

/// The leader of the queue may hear of a placement later than who has asked for it.
async fn placed(client: &Client, queue: &str, placement: u64) -> BTreeSet<u64> {
    let begun = Instant::now();
    loop {
        let described = client.describe_queue(queue).await.expect("describe");
        if !described.moving && described.placement >= placement {
            return described.replicas.iter().map(|replica| replica.node_id).collect();
        }
        assert!(begun.elapsed() < SOON, "it moves still: {:?}", described.replicas);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < SOON, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn confirmed(producer: &Producer, n: u64) -> Result<(), Box<dyn std::error::Error>> {
    producer.send(Message::new(n.to_string())).await?.await?;
    Ok(())
}

async fn loaded(cluster: &Cluster) -> (Client, Load) {
    let settings = QueueSettings { session_grace_ms: 3_000, ..Default::default() };
    let client = cluster.queue_with(QUEUE, settings).await;
    let load = Load::start(&client, QUEUE, PRODUCERS, 2);
    load.confirmed_more(SOME, SOON).await;
    (client, load)
}

#[test]
fn every_replica_of_a_queue_moves_under_load_and_no_publish_fails() {
    turn::alone(HEAVY, async {
        let cluster = Cluster::start(4).await;
        let (client, load) = loaded(&cluster).await;
        for round in 0..6 {
            let held = holders(&client, QUEUE).await;
            let free =
                cluster.ids().into_iter().find(|id| !held.contains(id)).expect("a free node");
            // The leader itself in every other round.
            let leader = cluster.leader_of(QUEUE).await;
            let from = match round % 2 {
                0 => leader,
                _ => *held.iter().find(|id| **id != leader).expect("a follower"),
            };
            let moved = ChangeReplicasRequest {
                voters: vec![free],
                remove: vec![from],
                ..Default::default()
            };
            let mut expected = held;
            expected.remove(&from);
            expected.insert(free);
            assert_eq!(change(&client, moved).await, expected);
            load.confirmed_more(SOME / 2, SOON).await;
            until("the node lets go of it", async || cluster.log(from).contains("has moved away"))
                .await;
        }
        // Nodes that have told of moves are known by what they know.
        tokio::time::sleep(Duration::from_secs(2)).await;
        client.create_slot(QUEUE, "late", SlotSettings::default()).await.expect("a slot");
        client.drop_slot(QUEUE, "late").await.expect("drop");
        let shown = client.replication(Some(QUEUE)).await.expect("replication").remove(0);
        let shown: BTreeSet<u64> = shown.replicas.iter().map(|replica| replica.node_id).collect();
        assert_eq!(shown, holders(&client, QUEUE).await);
        let history = load.finish(SOON).await;
        println!("six moves: longest gap {:?}", history.summary().longest_gap);
        assert_eq!(history.failures(), [""; 0]);
    });
}

#[test]
fn a_queue_grows_from_one_replica_to_three_and_moves_away_from_all_of_them() {
    turn::alone(HEAVY, async {
        let cluster = Cluster::start(5).await;
        let settings = QueueSettings { replicas: 1, ..Default::default() };
        let client = cluster.queue_with(QUEUE, settings).await;
        let load = Load::start(&client, QUEUE, PRODUCERS, 2);
        load.confirmed_more(SOME, SOON).await;
        let only = cluster.leader_of(QUEUE).await;
        let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != only).collect();
        let grown = ChangeReplicasRequest { voters: others[..2].to_vec(), ..Default::default() };
        assert_eq!(change(&client, grown).await, set(&[only, others[0], others[1]]));
        load.confirmed_more(SOME, SOON).await;
        // No node of before stays, so the leader cannot hand over: it is voted out.
        let last = others[3];
        let moved = ChangeReplicasRequest {
            voters: vec![last],
            remove: vec![only, others[0], others[1]],
            ..Default::default()
        };
        assert_eq!(change(&client, moved).await, set(&[last]));
        assert_eq!(cluster.leader_of(QUEUE).await, last);
        load.confirmed_more(SOME, SOON).await;
        let history = load.finish(SOON).await;
        println!("from 1 to 3 to 1: longest gap {:?}", history.summary().longest_gap);
        assert_eq!(history.failures(), [""; 0]);
    });
}

#[test]
fn an_observer_serves_reads_counts_for_no_majority_and_becomes_a_voter() {
    turn::alone(HEAVY, async {
        let mut cluster = Cluster::start(4).await;
        let settings = QueueSettings { retain_ms: 3_600_000, ..Default::default() };
        let client = cluster.queue_with(QUEUE, settings).await;
        let producer = client.producer(QUEUE).build().await.expect("producer");
        for n in 0..50 {
            confirmed(&producer, n).await.expect("confirmed");
        }
        let server = cluster.addresses().join(",");
        let quorate =
            async |args: &[&str]| run(&[args, &["--server", &server]].concat(), SOON).await;
        let held = holders(&client, QUEUE).await;
        let free = cluster.ids().into_iter().find(|id| !held.contains(id)).expect("a free node");
        let node = free.to_string();
        let added =
            quorate(&["queue", "replica", "add", QUEUE, "--node", &node, "--observer"]).await;
        assert_eq!(added.code, Some(0), "{}", added.err);
        assert!(added.out.contains(&format!("observed by node {node}")), "{}", added.out);
        let near = Client::connect([cluster.address(free)]).await.expect("connect");
        let mut reader = near.reader(QUEUE).build();
        for n in 0..50 {
            let read = reader.next().await.expect("a message").expect("read");
            assert_eq!((read.offset, read.body), (n, n.to_string().into()));
        }
        // Two of three voters gone: the observer makes no majority.
        let leader = cluster.leader_of(QUEUE).await;
        let followers: Vec<u64> = held.iter().copied().filter(|id| *id != leader).collect();
        let promoted = quorate(&["queue", "replica", "add", QUEUE, "--node", &node]).await;
        promoted.refused_with(6, &["4 voters"]);
        let gone = followers[0].to_string();
        cluster.kill9(followers[0]);
        let replace = ["queue", "replica", "replace", QUEUE, "--from", &gone, "--to", &node];
        let replaced = quorate(&replace).await;
        assert_eq!(replaced.code, Some(0), "{}", replaced.err);
        let expected = set(&[leader, followers[1], free]);
        assert_eq!(holders(&client, QUEUE).await, expected);
        // It counts now: with the other follower gone as well there is a majority still.
        cluster.kill9(followers[1]);
        until("it is confirmed without both", async || confirmed(&producer, 50).await.is_ok())
            .await;
        quorate(&["queue", "replica", "remove", QUEUE, "--node", "9"])
            .await
            .refused_with(6, &["node 9 does not hold"]);
    });
}

#[test]
fn the_replicas_of_a_node_that_is_gone_move_to_another_and_are_let_go_when_it_returns() {
    turn::alone(HEAVY, async {
        let mut cluster = Plan::of(4).set("raft.replace_after_ms=10000").start().await;
        let (client, load) = loaded(&cluster).await;
        let held = holders(&client, QUEUE).await;
        let free = cluster.ids().into_iter().find(|id| !held.contains(id)).expect("a free node");
        let gone = cluster.follower_of(QUEUE).await;
        let gone = if held.contains(&gone) { gone } else { *held.iter().next().expect("one") };
        cluster.kill9(gone);
        let killed = Instant::now();
        until("another node holds it", async || {
            let described = client.describe_queue(QUEUE).await;
            described.is_ok_and(|queue| queue.replicas.iter().any(|r| r.node_id == free))
        })
        .await;
        assert!(killed.elapsed() >= Duration::from_secs(9), "not before the time is over");
        assert!(!holders(&client, QUEUE).await.contains(&gone));
        println!("replaced {:?} after the kill", killed.elapsed());
        load.confirmed_more(SOME, SOON).await;
        cluster.start_node(gone);
        until("it lets go", async || cluster.log(gone).contains("has moved away")).await;
        let history = load.finish(SOON).await;
        assert_eq!(history.failures(), [""; 0]);
    });
}

#[test]
fn a_node_that_is_removed_leaves_what_it_holds_to_others_and_does_not_come_back() {
    turn::alone(HEAVY, async {
        let mut cluster = Cluster::start(4).await;
        let (client, load) = loaded(&cluster).await;
        for n in 0..6 {
            client.create_queue(format!("q{n}"), QueueSettings::default()).await.expect("create");
        }
        let server = cluster.addresses().join(",");
        let quorate =
            async |args: &[&str]| run(&[args, &["--server", &server]].concat(), SOON).await;
        let leaves = cluster.leader_of(QUEUE).await;
        let id = leaves.to_string();
        let removed = quorate(&["cluster", "remove-node", &id, "--timeout", "30s"]).await;
        assert_eq!(removed.code, Some(0), "{}", removed.err);
        assert!(removed.out.contains("was removed"), "{}", removed.out);
        for n in 0..6 {
            assert!(!holders(&client, &format!("q{n}")).await.contains(&leaves));
        }
        until("it stops", async || !cluster.is_running(leaves).await).await;
        assert!(cluster.log(leaves).contains("was removed from the cluster"));
        load.confirmed_more(SOME, SOON).await;
        // Of three nodes none can go: each queue has three voters.
        let other = cluster.ids().into_iter().find(|node| *node != leaves).expect("another");
        quorate(&["cluster", "remove-node", &other.to_string()])
            .await
            .refused_with(6, &["no other node is there", "cluster join"]);
        quorate(&["cluster", "remove-node", "9"]).await.refused_with(6, &["no node 9"]);
        let history = load.finish(SOON).await;
        println!("a removed node: longest gap {:?}", history.summary().longest_gap);
        assert_eq!(history.failures(), [""; 0]);
    });
}

#[test]
fn an_observer_takes_the_place_of_a_voter_whose_node_leaves_if_there_is_no_other() {
    turn::beside_others(HEAVY, async {
        let cluster = Cluster::start(4).await;
        let client = cluster.queue(QUEUE).await;
        let held = holders(&client, QUEUE).await;
        let free = cluster.ids().into_iter().find(|id| !held.contains(id)).expect("a free node");
        let observed = ChangeReplicasRequest { observers: vec![free], ..Default::default() };
        assert_eq!(change(&client, observed).await.len(), 4);
        let leaves = *held.iter().next_back().expect("one");
        let server = cluster.addresses().join(",");
        let id = leaves.to_string();
        let remove = ["cluster", "remove-node", &id, "--timeout", "30s", "--server", &server];
        let removed = run(&remove, SOON).await;
        assert_eq!(removed.code, Some(0), "{}", removed.err);
        let described = client.describe_queue(QUEUE).await.expect("describe");
        let replicas = described.replicas.iter();
        let votes = replicas.filter(|replica| replica.role() != ReplicaRole::Observer);
        let voters: BTreeSet<u64> = votes.map(|replica| replica.node_id).collect();
        let mut expected = held;
        expected.remove(&leaves);
        expected.insert(free);
        assert_eq!(voters, expected);
    });
}

#[test]
fn nodes_that_have_a_vote_in_the_catalog_leave_it_first() {
    turn::beside_others(HEAVY, async {
        for (nodes, leave) in [(4, vec![1, 2]), (2, vec![2])] {
            let mut cluster = Cluster::start(nodes).await;
            let stays = cluster.address(if nodes == 4 { 3 } else { 1 });
            let quorate =
                async |args: &[&str]| run(&[args, &["--server", &stays]].concat(), SOON).await;
            for node in &leave {
                let id = node.to_string();
                let removed = quorate(&["cluster", "remove-node", &id, "--timeout", "30s"]).await;
                assert_eq!(removed.code, Some(0), "{}", removed.err);
                until("it stops", async || !cluster.is_running(*node).await).await;
            }
            // The lowest that is left is one of those that found a cluster, and is started with all as peers.
            let founder = if nodes == 4 { 3 } else { 1 };
            cluster.stop(founder).await;
            cluster.start_node(founder);
            until("it is up again", async || cluster.status(founder).await.is_some()).await;
            let created = quorate(&["queue", "create", "more"]).await;
            assert_eq!(created.code, Some(0), "{nodes} nodes: {}", created.err);
        }
    });
}

#[test]
fn a_queue_does_not_move_to_where_it_would_have_no_majority() {
    turn::beside_others(HEAVY, async {
        let mut cluster = Cluster::start(3).await;
        let client = cluster.queue(QUEUE).await;
        let producer = client.producer(QUEUE).build().await.expect("producer");
        confirmed(&producer, 0).await.expect("confirmed");
        let leader = cluster.leader_of(QUEUE).await;
        let gone = cluster.follower_of(QUEUE).await;
        cluster.kill9(gone);
        let server = cluster.addresses().join(",");
        let quorate =
            async |args: &[&str]| run(&[args, &["--server", &server]].concat(), SOON).await;
        // A node that is gone is noticed within some seconds.
        tokio::time::sleep(Duration::from_secs(4)).await;
        let others: Vec<String> =
            cluster.ids().into_iter().filter(|id| *id != gone).map(|id| id.to_string()).collect();
        quorate(&["queue", "replica", "remove", QUEUE, "--node", &others[0], "--node", &others[1]])
            .await
            .refused_with(6, &["not there"]);
        confirmed(&producer, 1).await.expect("confirmed still");
        let third = cluster.ids().into_iter().find(|id| ![leader, gone].contains(id)).expect("one");
        cluster.kill9(third);
        tokio::time::sleep(Duration::from_secs(4)).await;
        let id = gone.to_string();
        let refused = quorate(&["queue", "replica", "remove", QUEUE, "--node", &id]).await;
        assert_ne!(refused.code, Some(0), "without a majority nothing moves");
    });
}

#[test]
fn a_new_node_gets_an_id_that_no_node_had() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(4).await;
        let server = cluster.addresses().join(",");
        let quorate =
            async |args: &[&str]| run(&[args, &["--server", &server]].concat(), SOON).await;
        let removed = quorate(&["cluster", "remove-node", "4"]).await;
        assert_eq!(removed.code, Some(0), "{}", removed.err);
        let data = cluster.data(1).with_file_name("new").display().to_string();
        let address = quorate_tests::ports::free().to_string();
        let joined = quorate(&["cluster", "join", "--data", &data, "--address", &address]).await;
        assert!(joined.out.contains("node 5 is registered"), "{} {}", joined.out, joined.err);
    });
}

#[test]
fn a_queue_with_much_in_it_moves_while_more_comes_than_its_log_keeps() {
    turn::alone(HEAVY, async {
        const BYTES: usize = 4_000;
        // The messages that are there take some seven seconds.
        let plan = Plan::of(4).set("raft.snapshot_bytes_per_second=6000000");
        let cluster = plan.start().await;
        let client = cluster.queue(QUEUE).await;
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        let publish = async |messages: usize| {
            let mut sent = Vec::new();
            for _ in 0..messages {
                sent.push(producer.send(Message::new(vec![b'x'; BYTES])).await.expect("send"));
            }
            for pending in sent {
                pending.await.expect("confirmed");
            }
        };
        publish(10_000).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let held = holders(&client, QUEUE).await;
        let free = cluster.ids().into_iter().find(|id| !held.contains(id)).expect("a free node");
        let leader = cluster.leader_of(QUEUE).await;
        let from = *held.iter().find(|id| **id != leader).expect("a follower");
        let moved =
            ChangeReplicasRequest { voters: vec![free], remove: vec![from], ..Default::default() };
        let begun = Instant::now();
        let moving = change(&client, moved);
        let mut moving = std::pin::pin!(moving);
        let mut published = 0;
        let now = loop {
            tokio::select! {
                biased;
                now = &mut moving => break now,
                () = publish(250) => published += 250 * BYTES,
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        assert!(now.contains(&free) && !now.contains(&from));
        println!("moved in {:?}, {published} bytes came meanwhile", begun.elapsed());
    });
}
