//! What each ack level waits for, and what its receipt is worth.

use std::time::{Duration, Instant};

use quorate_client::{
    AckLevel, Client, Message, Producer, PublishError, QueueSettings, Receipt, ReceiptVerdict,
    reason,
};
use quorate_tests::process::run;
use quorate_tests::{Cluster, Plan, turn};

use crate::{HEAVY, SOON};

const QUEUE: &str = "orders";

async fn producer(client: &Client, level: AckLevel) -> Producer {
    client.producer(QUEUE).ack(level).build().await.expect("open a producer")
}

async fn publish(producer: &Producer) -> Receipt {
    producer.publish(Message::new("body")).await.expect("confirmed")
}

/// The middle one of the times that some publishes take, one at a time.
async fn median(producer: &Producer) -> Duration {
    const TIMES: usize = 21;
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let begun = Instant::now();
        publish(producer).await;
        times.push(begun.elapsed());
    }
    times.sort();
    times[TIMES / 2]
}

#[test]
fn a_slow_replica_delays_receipts_of_level_all_and_no_others() {
    turn::alone(HEAVY, async {
        let cluster = Plan::of(3).relayed().start().await;
        let client = cluster.queue(QUEUE).await;
        let (quorum, all) =
            (producer(&client, AckLevel::Quorum).await, producer(&client, AckLevel::All).await);
        let before = median(&quorum).await;
        let receipt = publish(&all).await;
        assert_eq!((receipt.level, receipt.in_sync), (AckLevel::All, 3));

        let slowed = Duration::from_millis(100);
        cluster.delay(cluster.follower_of(QUEUE).await, slowed / 2);
        let (of_quorum, of_all) = (median(&quorum).await, median(&all).await);
        println!("p50 of QUORUM {before:?}, with a slow replica {of_quorum:?}; of ALL {of_all:?}");
        assert!(of_all >= slowed, "ALL does not wait for the slow replica: {of_all:?}");
        let told = "QUORUM waits for the slow replica";
        assert!(of_quorum + slowed * 3 / 5 < of_all, "{told}: {of_quorum:?}, ALL takes {of_all:?}");
        assert_eq!(publish(&all).await.in_sync, 3);
    });
}

#[test]
fn too_few_in_sync_is_told_before_the_message_enters_or_with_its_place_if_it_has() {
    turn::alone(HEAVY, async {
        let mut cluster = Plan::of(3).set("limits.request_timeout_ms=3000").start().await;
        let settings =
            QueueSettings { min_in_sync: 3, in_sync_lag_ms: 500, ..QueueSettings::default() };
        let client = cluster.queue_with(QUEUE, settings).await;
        let (quorum, all) =
            (producer(&client, AckLevel::Quorum).await, producer(&client, AckLevel::All).await);
        assert_eq!(publish(&all).await.offset, Some(0));

        let follower = cluster.follower_of(QUEUE).await;
        cluster.kill9(follower);
        // It lacks nothing yet, so it is in sync until this does not arrive.
        match all.publish(Message::new("entered")).await {
            Err(error @ PublishError::NotEnoughInSync { offset, .. }) => {
                assert_eq!((offset, error.reason()), (Some(1), Some(reason::NOT_ENOUGH_IN_SYNC)));
            }
            other => panic!("{other:?}"),
        }
        match all.publish(Message::new("refused")).await {
            Err(PublishError::Refused(refusal)) => {
                assert_eq!(refusal.reason, reason::NOT_ENOUGH_IN_SYNC);
                assert_eq!(refusal.metadata["in_sync"], "2");
                assert_eq!(refusal.metadata["entered"], "false");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(
            publish(&quorum).await.offset,
            Some(2),
            "QUORUM goes on, and nothing else entered"
        );

        cluster.start_node(follower);
        cluster.ready().await;
        let begun = Instant::now();
        let receipt = loop {
            match all.publish(Message::new("again")).await {
                Ok(receipt) => break receipt,
                Err(error) => assert!(begun.elapsed() < SOON, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert_eq!((receipt.level, receipt.in_sync), (AckLevel::All, 3));
    });
}

#[test]
fn a_replica_that_is_gone_leaves_the_in_sync_set_and_all_goes_on_without_it() {
    turn::alone(HEAVY, async {
        let mut cluster = Cluster::start(3).await;
        let settings = QueueSettings { in_sync_lag_ms: 500, ..QueueSettings::default() };
        let client = cluster.queue_with(QUEUE, settings).await;
        let all = producer(&client, AckLevel::All).await;
        assert_eq!(publish(&all).await.in_sync, 3);
        cluster.kill9(cluster.follower_of(QUEUE).await);
        assert_eq!(publish(&all).await.in_sync, 2);
    });
}

#[test]
fn only_accepted_receipts_are_lost_with_their_leader_and_verify_names_them() {
    turn::alone(HEAVY, async {
        let mut cluster = Cluster::start(3).await;
        let client = cluster.queue(QUEUE).await;
        let producer = producer(&client, AckLevel::Accepted).await;
        // The first of a producer has to be known to the queue before others may be ahead of it.
        let first = publish(&producer).await;
        assert_eq!((first.level, first.offset), (AckLevel::Quorum, Some(0)));

        let leader = cluster.leader_of(QUEUE).await;
        let followers: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
        // Killed, not paused: what waited in a paused one's sockets would reach it later.
        followers.iter().for_each(|id| cluster.kill9(*id));
        let alone = publish(&producer).await;
        assert_eq!((alone.level, alone.offset), (AckLevel::Accepted, None));
        cluster.kill9(leader);
        followers.iter().for_each(|id| cluster.start_node(*id));
        cluster.ready().await;
        let next = cluster.leader_of(QUEUE).await;
        assert_ne!(next, leader);
        // What the producer sends on goes on behind what was lost.
        let later = publish(&producer).await;
        assert_eq!((later.level, later.offset), (AckLevel::Quorum, Some(1)));

        cluster.start_node(leader);
        cluster.ready().await;
        let verdicts = client.verify_receipts(QUEUE, &[first, alone, later]).await;
        let verdicts = verdicts.expect("verify");
        use ReceiptVerdict::{Honoured, Lost};
        assert_eq!(verdicts, [Honoured, Lost, Honoured]);
        producer.close().await;
    });
}

#[test]
fn receipts_of_the_command_line_are_verified_and_a_false_one_is_named() {
    turn::beside_others(HEAVY, async {
        let cluster = Cluster::start(3).await;
        cluster.queue(QUEUE).await;
        let server = cluster.addresses().join(",");
        let quorate =
            async |args: &[&str]| run(&[args, &["--server", &server]].concat(), SOON).await;
        let published =
            quorate(&["publish", QUEUE, "a", "b", "--count", "50", "--ack", "all", "-o", "json"])
                .await;
        assert_eq!(published.code, Some(0), "{}", published.err);
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("receipts.jsonl");
        let path = file.to_str().expect("a path");
        std::fs::write(&file, &published.out).expect("write the receipts");
        let verified = quorate(&["verify", path]).await;
        assert_eq!(verified.code, Some(0), "{}", verified.err);
        assert!(
            verified.out.contains("100 receipts are honoured: 100 in the log"),
            "{}",
            verified.out
        );

        // Settled since, they were honoured all the same.
        let consumed = quorate(&["consume", QUEUE, "--count", "100"]).await;
        assert_eq!(consumed.code, Some(0), "{}", consumed.err);
        assert_eq!(quorate(&["verify", path]).await.code, Some(0));

        let mut lines: Vec<serde_json::Value> = published
            .out
            .lines()
            .map(|line| serde_json::from_str(line).expect("a receipt"))
            .collect();
        assert_eq!(lines[7]["level"], "all");
        lines[7]["term"] = 999.into();
        let text: Vec<String> = lines.iter().map(ToString::to_string).collect();
        std::fs::write(&file, text.join("\n")).expect("write the receipts");
        let verified = quorate(&["verify", path]).await;
        verified.refused_with(1, &["1 receipts are not honoured"]);
        assert!(verified.out.contains("LOST") && verified.out.contains("999"), "{}", verified.out);
        std::fs::write(&file, "{\"offset\": 0, \"duplicate\": false}").expect("write");
        quorate(&["verify", path]).await.refused_with(2, &["line 1 is not a receipt"]);
    });
}
