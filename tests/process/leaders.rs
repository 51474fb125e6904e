//! Planned changes of leaders under load: no publish fails, nothing is lost, and how long producers wait.

use std::time::{Duration, Instant};

use quorate_client::{Error, QueueSettings, reason};
use quorate_tests::process::run;
use quorate_tests::{Cluster, Load, turn};

use crate::{HEAVY, SOON};

const QUEUE: &str = "orders";
/// Producers of some 330 messages a second each.
const PRODUCERS: u32 = 6;
const SOME: usize = 1_000;

async fn loaded() -> (Cluster, Load) {
    let cluster = Cluster::start(3).await;
    let settings = QueueSettings { session_grace_ms: 3_000, ..Default::default() };
    let client = cluster.queue_with(QUEUE, settings).await;
    let load = Load::start(&client, QUEUE, PRODUCERS, 2);
    load.confirmed_more(SOME, SOON).await;
    (cluster, load)
}

#[test]
fn a_transfer_under_load_fails_no_publish() {
    turn::alone(HEAVY, async {
        let (cluster, load) = loaded().await;
        let client = cluster.client().await;
        for _ in 0..3 {
            for node in cluster.ids() {
                let leader = client.transfer_leader(QUEUE, Some(node)).await.expect("transfer");
                assert_eq!(leader.node_id, node);
                // A replica that has not heard from the new leader yet names the one before.
                let begun = Instant::now();
                while cluster.leader_of(QUEUE).await != node {
                    assert!(begun.elapsed() < SOON, "{node} leads, and others do not get to know");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                load.confirmed_more(SOME / 4, SOON).await;
            }
        }
        match client.transfer_leader(QUEUE, Some(9)).await {
            Err(Error::Refused(refusal)) => assert_eq!(refusal.reason, reason::INVALID_ARGUMENT),
            other => panic!("{other:?}"),
        }
        let history = load.finish(SOON).await;
        println!("eight planned transfers: longest gap {:?}", history.summary().longest_gap);
        assert_eq!(history.failures(), [""; 0]);
    });
}

#[test]
fn a_transfer_to_a_replica_that_is_catching_up_waits_for_it_and_stops_nobody() {
    turn::alone(HEAVY, async {
        let (mut cluster, load) = loaded().await;
        let client = cluster.client().await;
        let follower = cluster.follower_of(QUEUE).await;
        cluster.kill9(follower);
        load.confirmed_more(SOME * 3, SOON).await;
        cluster.start_node(follower);
        let begun = Instant::now();
        let leader = loop {
            // Refused while it is not there, or has not caught up.
            match client.transfer_leader(QUEUE, Some(follower)).await {
                Ok(leader) => break leader,
                Err(error) => assert!(begun.elapsed() < SOON, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert_eq!(leader.node_id, follower);
        let history = load.finish(SOON).await;
        println!("a transfer while it caught up: longest gap {:?}", history.summary().longest_gap);
        assert_eq!(history.failures(), [""; 0]);
    });
}

#[test]
fn a_rolling_restart_with_drains_under_load_fails_no_publish() {
    turn::alone(HEAVY, async {
        let (mut cluster, load) = loaded().await;
        let server = cluster.addresses().join(",");
        let quorate =
            async |args: &[&str]| run(&[args, &["--server", &server]].concat(), SOON).await;
        for node in cluster.ids() {
            let id = node.to_string();
            let drained = quorate(&["cluster", "drain", &id]).await;
            assert_eq!(drained.code, Some(0), "{}", drained.err);
            assert_ne!(cluster.leader_of(QUEUE).await, node);
            // Each node sees it once its replica of the catalog has it.
            let begun = Instant::now();
            while !quorate(&["cluster", "status"]).await.out.contains("draining") {
                assert!(begun.elapsed() < SOON, "no node is shown as draining");
            }
            cluster.stop(node).await;
            load.confirmed_more(SOME / 2, SOON).await;
            cluster.start_node(node);
            cluster.ready().await;
            let undrained = quorate(&["cluster", "undrain", &id]).await;
            assert_eq!(undrained.code, Some(0), "{}", undrained.err);
            load.confirmed_more(SOME / 2, SOON).await;
        }
        let balanced = quorate(&["cluster", "balance"]).await;
        assert_eq!(balanced.code, Some(0), "{}", balanced.err);
        quorate(&["cluster", "drain", "9"]).await.refused_with(6, &["no node 9"]);
        let history = load.finish(SOON).await;
        println!("a rolling restart: longest gap {:?}", history.summary().longest_gap);
        assert_eq!(history.failures(), [""; 0]);
    });
}

#[test]
fn a_drained_node_stays_without_leaders_over_a_restart_and_balance_gives_them_back() {
    turn::alone(HEAVY, async {
        let mut cluster = Cluster::start(3).await;
        let client = cluster.client().await;
        for n in 0..9 {
            client.create_queue(format!("q{n}"), QueueSettings::default()).await.expect("create");
        }
        let led = async |node: u64| {
            let status = client.status().await.expect("status");
            status.nodes.iter().find(|known| known.node_id == node).expect("known").leaders
        };
        client.drain_node(2, true).await.expect("drain");
        let begun = Instant::now();
        while led(2).await > 0 {
            assert!(begun.elapsed() < SOON, "node 2 leads still");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        cluster.stop(2).await;
        cluster.start_node(2);
        cluster.ready().await;
        client.create_queue("later", QueueSettings::default()).await.expect("create");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(led(2).await, 0, "it is still being drained");
        client.drain_node(2, false).await.expect("undrain");
        // On a machine that is busy another voter may be quicker to take over than the one that is to: it says so, and
        // is asked again.
        let begun = Instant::now();
        let mut moved = 0;
        loop {
            let balanced = client.balance_leaders().await.expect("balance");
            moved += balanced.moved;
            if balanced.left == 0 {
                break;
            }
            assert!(begun.elapsed() < SOON, "{balanced:?}");
        }
        assert!(moved > 0);
        while led(2).await != 3 {
            assert!(begun.elapsed() < SOON, "node 2 leads {}", led(2).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}
