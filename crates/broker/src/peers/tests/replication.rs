//! Three replicas elect, replicate, survive cuts, and bring up a late one.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::cluster::{Cluster, publish_many, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_elect_and_replicate_a_thousand_proposals() {
    let cluster = Cluster::start(3, 3).await;
    let since = Instant::now();
    let leader = cluster.leader().await;
    println!("elected after {:?}", since.elapsed());
    let since = Instant::now();
    let outcomes = publish_many(leader, 1000, 1024).await;
    println!("1000 proposals at once in {:?}", since.elapsed());
    assert!(outcomes.iter().all(Result::is_ok), "{:?}", outcomes.iter().find(|o| o.is_err()));
    let since = Instant::now();
    for _ in 0..1000 {
        cluster.publish(100).await;
    }
    println!("1000 proposals one by one in {:?}", since.elapsed());
    cluster.agree().await;
    assert_eq!(cluster.published(), [2000; 3]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_entries_pass() {
    let cluster = Cluster::start(3, 3).await;
    let leader = cluster.leader().await;
    let since = Instant::now();
    for bytes in [1 << 20, 5 << 20, 20 << 20] {
        let outcomes = publish_many(leader, 2, bytes).await;
        assert!(outcomes.iter().all(Result::is_ok), "{bytes}: {outcomes:?}");
    }
    println!("52 MiB of large entries in {:?}", since.elapsed());
    cluster.agree().await;
    assert_eq!(cluster.published(), [6; 3]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replication_goes_on_over_connections_that_are_cut_again_and_again() {
    let cluster = Cluster::start(3, 3).await;
    cluster.leader().await;
    let accepted: usize = cluster.nodes.iter().map(|node| node.relay.accepted()).sum();
    for round in 0..10 {
        for _ in 0..20 {
            cluster.publish(1000).await;
        }
        cluster.nodes[round % 3].relay.cut();
    }
    cluster.publish(10).await;
    cluster.agree().await;
    let published = cluster.published();
    // A publish whose outcome was lost is sent again.
    assert!(published[0] >= 201 && published.iter().all(|p| *p == published[0]), "{published:?}");
    let again: usize = cluster.nodes.iter().map(|node| node.relay.accepted()).sum();
    assert!(again > accepted, "{again} connections after {accepted}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_is_cut_off_catches_up() {
    let cluster = Cluster::start(3, 3).await;
    let leader = cluster.leader().await;
    let follower = cluster.followers(leader.id).next().unwrap();
    follower.relay.refuse(true);
    let outcomes = publish_many(leader, 200, 100_000).await;
    assert!(outcomes.iter().all(Result::is_ok));
    assert!(!leader.connections.reachable(follower.id));
    let since = Instant::now();
    follower.relay.refuse(false);
    cluster.agree().await;
    println!("20 MB caught up in {:?}", since.elapsed());
    assert_eq!(cluster.published(), [200; 3]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_follower_lags_and_catches_up_once_it_has_room() {
    let cluster = Cluster::start(3, 3).await;
    let leader = cluster.leader().await;
    let follower = cluster.followers(leader.id).next().unwrap();
    follower.directory.full.store(true, Ordering::Release);
    let term = leader.handle.leadership().term;
    let outcomes = publish_many(leader, 100, 1000).await;
    assert!(outcomes.iter().all(Result::is_ok));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(leader.handle.leadership().term, term, "the full follower keeps its leader");
    assert!(leader.connections.reachable(follower.id));
    let published = follower.handle.read(|queue| queue.stats().published);
    assert!(published < 100, "{published}");
    follower.directory.full.store(false, Ordering::Release);
    cluster.agree().await;
    assert_eq!(cluster.published(), [100; 3]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_replica_is_brought_up_by_a_snapshot() {
    let mut cluster = Cluster::start(2, 3).await;
    let leader = cluster.leader().await;
    for _ in 0..5 {
        let outcomes = publish_many(leader, 80, 100_000).await;
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    }
    let leader = leader.id;
    // More than is kept for followers: only a snapshot brings the late one up.
    within("a purge", || async {
        let node = cluster.nodes.iter().find(|node| node.id == leader)?;
        node.purged().filter(|purged| *purged > 1)
    })
    .await;
    let since = Instant::now();
    cluster.add(3).await;
    cluster.agree().await;
    println!("40 MB brought up in {:?}", since.elapsed());
    assert_eq!(cluster.published(), [400; 3]);
    assert!(cluster.nodes[2].purged().is_some(), "it came by a snapshot");
    // The bodies came too: the late one reads the first message from its own disk.
    let first = cluster.nodes[2].handle.read(quorate_machine::Machine::live)[0].clone();
    assert!(cluster.nodes[2].handle.entry(*first.start()).await.unwrap().len() > 100_000);
    for _ in 0..20 {
        cluster.publish(100).await;
    }
    cluster.agree().await;
    cluster.stop().await;
}
