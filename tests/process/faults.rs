//! Nodes that die, stand still and restart while producers and consumers are at work: nothing confirmed
//! is lost, nothing is delivered twice after its ack, and work goes on.

use std::time::{Duration, Instant};

use quorate_client::{QueueSettings, ReplicaRole};
use quorate_tests::history::Key;
use quorate_tests::load::wait_empty;
use quorate_tests::raw::{self, RawConsumer};
use quorate_tests::{Cluster, Load, turn};

use crate::{HEAVY, SOON};

const QUEUE: &str = "orders";
/// Messages confirmed before, between and after what is done.
const SOME: usize = 300;

/// Longer than the longest election timeout of the defaults (1.2 s), with room for a busy machine.
const LONGER_THAN_AN_ELECTION: Duration = Duration::from_secs(4);

async fn loaded(consumers: u32) -> (Cluster, Load) {
    let cluster = Cluster::start(3).await;
    // A consumer that loses its session shows within the test, not after it.
    let settings = QueueSettings { session_grace_ms: 3_000, ..Default::default() };
    let client = cluster.queue_with(QUEUE, settings).await;
    let load = Load::start(&client, QUEUE, 3, consumers);
    load.confirmed_more(SOME, SOON).await;
    (cluster, load)
}

#[test]
fn a_killed_leader_loses_nothing_that_was_confirmed() {
    turn::alone(HEAVY, async {
        let (mut cluster, load) = loaded(2).await;
        let leader = cluster.leader_of(QUEUE).await;
        cluster.kill9(leader);
        load.confirmed_more(SOME, SOON).await;
        cluster.start_node(leader);
        cluster.ready().await;
        load.confirmed_more(SOME, SOON).await;
        let history = load.finish(SOON).await;
        assert_eq!(history.failures(), [""; 0]);
    });
}

#[test]
fn a_consumer_that_is_alone_sees_the_order_of_sending_across_a_failover() {
    turn::alone(HEAVY, async {
        let (mut cluster, load) = loaded(1).await;
        let leader = cluster.leader_of(QUEUE).await;
        cluster.kill9(leader);
        load.confirmed_more(SOME, SOON).await;
        load.finish(SOON).await;
    });
}

#[test]
fn a_killed_follower_is_not_noticed_and_catches_up() {
    turn::alone(HEAVY, async {
        let (mut cluster, load) = loaded(2).await;
        let follower = cluster.follower_of(QUEUE).await;
        cluster.kill9(follower);
        load.confirmed_more(SOME, SOON).await;
        cluster.start_node(follower);
        cluster.ready().await;
        load.confirmed_more(SOME, SOON).await;
        let client = cluster.client().await;
        let history = load.finish(SOON).await;
        assert_eq!(history.failures(), [""; 0]);
        caught_up(&client, follower).await;
    });
}

/// Until the leader sees that the node's replica lacks nothing.
async fn caught_up(client: &quorate_client::Client, node: u64) {
    let begun = Instant::now();
    loop {
        let queue = client.describe_queue(QUEUE).await.expect("describe the queue");
        let replica = queue.replicas.iter().find(|replica| replica.node_id == node);
        let replica = replica.expect("a replica on that node");
        if replica.lag == 0 && replica.matched_index > 0 {
            assert_ne!(replica.role(), ReplicaRole::Observer);
            return;
        }
        assert!(begun.elapsed() < SOON, "node {node} has not caught up: {replica:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn killing_all_nodes_at_once_loses_nothing_that_was_confirmed() {
    turn::alone(HEAVY, async {
        let (mut cluster, load) = loaded(2).await;
        for node in cluster.ids() {
            cluster.kill9(node);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        for node in cluster.ids() {
            cluster.start_node(node);
        }
        cluster.ready().await;
        load.confirmed_more(SOME, SOON).await;
        let history = load.finish(SOON).await;
        assert_eq!(history.failures(), [""; 0]);
    });
}

#[test]
fn a_leader_that_stood_still_neither_confirms_nor_delivers_what_has_changed_since() {
    turn::alone(HEAVY, async {
        let (mut cluster, load) = loaded(2).await;
        let old = cluster.leader_of(QUEUE).await;
        let old_address = cluster.address(old);
        cluster.pause(old);
        // Sent to the old leader while it stands still: waits in its socket.
        let stale = Key { producer: 77, number: 0 };
        load.history().attempted(stale);
        let body = stale.body(100);
        let address = old_address.clone();
        let waiting = tokio::spawn(async move { raw::publish(&address, QUEUE, body, None).await });
        tokio::time::sleep(LONGER_THAN_AN_ELECTION).await;
        load.confirmed_more(SOME, SOON).await;
        assert_ne!(cluster.leader_of(QUEUE).await, old);
        cluster.resume(old);
        // If it is confirmed after all, then where the new leader has put it: the history checks that.
        match waiting.await.expect("no panic") {
            Ok(receipt) => load.history().confirmed(stale, receipt.first_offset),
            Err(status) => load.history().unknown(stale, status.to_string()),
        }
        load.confirmed_more(SOME, SOON).await;
        load.finish(SOON).await;
    });
}

#[test]
fn a_leader_that_stood_still_does_not_deliver_to_its_old_consumers() {
    turn::alone(HEAVY, async {
        let mut cluster = Cluster::start(3).await;
        let settings = QueueSettings { session_grace_ms: 1_000, ..Default::default() };
        let client = cluster.queue_with(QUEUE, settings).await;
        let old = cluster.leader_of(QUEUE).await;
        let session = raw::session();
        let attach = raw::attach(QUEUE, &session, 10);
        let mut consumer =
            RawConsumer::attach(&cluster.address(old), attach).await.expect("attach");
        cluster.pause(old);
        tokio::time::sleep(LONGER_THAN_AN_ELECTION).await;
        // Published, delivered and acked at the new leader, while the old one stands still.
        let load = Load::start(&client, QUEUE, 1, 1);
        load.confirmed_more(100, SOON).await;
        load.finish(SOON).await;
        cluster.resume(old);
        match consumer.answer().await {
            Ok(Some(answer)) => panic!("the old leader said {answer:?}"),
            Ok(None) => {}
            Err(status) => {
                assert_ne!(status.code(), tonic::Code::DeadlineExceeded, "the stream hangs");
            }
        }
        wait_empty(&client, QUEUE, SOON).await;
    });
}

#[test]
fn restarting_each_node_in_turn_fails_no_publish() {
    turn::alone(HEAVY, async {
        let (mut cluster, load) = loaded(2).await;
        for node in cluster.ids() {
            cluster.stop(node).await;
            load.confirmed_more(SOME / 2, SOON).await;
            cluster.start_node(node);
            cluster.ready().await;
            load.confirmed_more(SOME / 2, SOON).await;
        }
        let history = load.finish(SOON).await;
        assert_eq!(history.failures(), [""; 0]);
        println!("longest gap of a rolling restart: {:?}", history.summary().longest_gap);
    });
}
