//! Data directories that are lost or belong elsewhere: a node never takes part under a name that is not
//! its own any more, and says what to do instead.

use std::fs;
use std::time::{Duration, Instant};

use quorate_tests::process::{Ended, Server, run};
use quorate_tests::{Cluster, ports, raw, turn};

use crate::LIGHT;

/// How long a node that cannot start may take to say so.
const SAID_WITHIN: Duration = Duration::from_secs(20);

/// Runs a node of the cluster in the foreground, until it ends by itself.
async fn run_node(cluster: &Cluster, node: u64) -> Ended {
    let args = cluster.server_args(node);
    let args: Vec<&str> =
        std::iter::once("server").chain(args.iter().map(String::as_str)).collect();
    run(&args, SAID_WITHIN).await
}

fn wipe(cluster: &Cluster, node: u64) {
    fs::remove_dir_all(cluster.data(node)).expect("wipe the node's data");
}

#[test]
fn a_wiped_node_is_refused_and_told_to_join_anew() {
    turn::beside_others(LIGHT, async {
        let mut cluster = Cluster::start(3).await;
        cluster.queue("orders").await;
        cluster.kill9(3);
        wipe(&cluster, 3);
        run_node(&cluster, 3).await.refused_with(3, &["node 3", "quorate cluster join"]);
    });
}

#[test]
fn a_wiped_founder_does_not_found_a_second_cluster() {
    turn::beside_others(LIGHT, async {
        let mut cluster = Cluster::start(3).await;
        cluster.queue("orders").await;
        cluster.kill9(1);
        wipe(&cluster, 1);
        run_node(&cluster, 1)
            .await
            .refused_with(3, &["belongs to cluster", "quorate cluster join"]);
        let client = cluster.client().await;
        client.describe_queue("orders").await.expect("the others go on");
    });
}

#[test]
fn a_wiped_founder_is_refused_while_the_others_are_down_too_until_one_is_back() {
    turn::beside_others(LIGHT, async {
        let mut cluster = Cluster::start(3).await;
        cluster.ids().into_iter().for_each(|node| cluster.kill9(node));
        wipe(&cluster, 1);
        cluster.start_node(1);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(cluster.is_running(1).await, "it waits for its peers");
        assert!(!cluster.data(1).join("identity.json").exists(), "it founded a cluster alone");
        cluster.start_node(2);
        let begun = Instant::now();
        while cluster.is_running(1).await {
            assert!(begun.elapsed() < SAID_WITHIN, "the wiped founder still runs");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(cluster.log(1).contains("quorate cluster join"));
    });
}

#[test]
fn a_node_whose_peers_addresses_belong_to_another_cluster_says_so_and_does_not_disturb_it() {
    turn::beside_others(LIGHT, async {
        let mut cluster = Cluster::start(3).await;
        cluster.kill9(1);
        cluster.kill9(2);
        // Where its peers were, somebody founds another cluster.
        let dir = tempfile::tempdir().expect("a directory");
        let peers = format!("1={},2={}", cluster.address(1), cluster.address(2));
        let start = |node: u64| {
            let data = dir.path().join(node.to_string()).display().to_string();
            let (id, listen) = (node.to_string(), cluster.address(node));
            let args = ["--node-id", &id, "--data", &data, "--listen", &listen, "--peer", &peers];
            Server::start(&args.map(str::to_owned), &dir.path().join(format!("{node}.log")))
        };
        let _others = [start(1), start(2)];
        let begun = Instant::now();
        let words = ["wrong cluster", "check the addresses of both"];
        while !words.iter().all(|word| cluster.log(3).contains(word)) {
            assert!(begun.elapsed() < SAID_WITHIN, "node 3 does not say what is wrong");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        loop {
            let status = cluster.status(1).await.expect("the new cluster answers");
            if status.nodes.len() == 2 && status.nodes.iter().all(|node| node.reachable) {
                break;
            }
            assert!(begun.elapsed() < SAID_WITHIN, "the new cluster is disturbed: {status:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}

#[test]
fn a_new_node_whose_peers_belong_to_a_cluster_already_is_refused() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let dir = tempfile::tempdir().expect("a directory");
        let (data, listen) =
            (dir.path().join("data").display().to_string(), ports::free().to_string());
        let peers = format!("1={listen},2={},3={}", cluster.address(2), cluster.address(3));
        let args =
            ["server", "--node-id", "1", "--data", &data, "--listen", &listen, "--peer", &peers];
        let ended = run(&args, SAID_WITHIN).await;
        ended.refused_with(3, &[&cluster.address(2), "belongs to cluster", "quorate cluster join"]);
    });
}

#[test]
fn a_data_directory_of_another_node_is_refused() {
    turn::beside_others(LIGHT, async {
        let mut cluster = Cluster::start(1).await;
        cluster.kill9(1);
        let data = cluster.data(1).display().to_string();
        let listen = cluster.address(1);
        let args = ["server", "--node-id", "7", "--data", &data, "--listen", &listen];
        let ended = run(&args, SAID_WITHIN).await;
        ended.refused_with(3, &[&data, "belongs to node 1", "node_id is 7", "own data directory"]);
    });
}

#[test]
fn a_node_that_joined_serves_like_the_others() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        cluster.queue("orders").await;
        let dir = tempfile::tempdir().expect("a directory");
        let (data, address) = (dir.path().join("node-4"), ports::free().to_string());
        let data = data.display().to_string();
        let server = cluster.address(1);
        let args = ["cluster", "join", "--data", &data, "--address", &address, "--server", &server];
        let ended = run(&args, SAID_WITHIN).await;
        assert_eq!(ended.code, Some(0), "{}\n{}", ended.out, ended.err);
        let args = ["--data", &data, "--listen", &address].map(str::to_owned);
        let _node = Server::start(&args, &dir.path().join("node-4.log"));
        let begun = Instant::now();
        while let Err(status) = raw::publish(&address, "orders", "by way of node 4", None).await {
            assert!(begun.elapsed() < SAID_WITHIN, "{status:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let status = cluster.status(1).await.expect("node 1 answers");
        assert_eq!(status.nodes.iter().filter(|node| node.reachable).count(), 4, "{status:?}");
    });
}
