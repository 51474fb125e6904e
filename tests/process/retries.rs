//! Messages that come back: when they are ready again, and which deliveries count.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use quorate_client::{Client, Delivery, QueueSettings, reason};
use quorate_proto::v1;
use quorate_proto::v1::SettleKind;
use quorate_tests::process::run;
use quorate_tests::raw::{self, RawConsumer};
use quorate_tests::{Cluster, turn};

use crate::{HEAVY, LIGHT, SOON, until_killed};

const QUEUE: &str = "orders";

async fn with_messages(count: u64, settings: QueueSettings) -> (Cluster, Client) {
    let cluster = Cluster::start(3).await;
    let client = cluster.queue_with(QUEUE, settings).await;
    for number in 0..count {
        let body = format!("message {number}");
        raw::publish(&cluster.address(1), QUEUE, body, None).await.expect("publish");
    }
    (cluster, client)
}

async fn counts(client: &Client) -> v1::QueueCounts {
    let queue = client.describe_queue(QUEUE).await.expect("describe");
    queue.counts.expect("the leader knows the counts")
}

async fn next(consumer: &mut quorate_client::Consumer) -> Delivery {
    let next = tokio::time::timeout(SOON, consumer.next()).await.expect("in time");
    next.expect("goes on").expect("a message")
}

/// Offset and attempt of `count` messages, which are acknowledged.
async fn take(consumer: &mut quorate_client::Consumer, count: usize) -> Vec<(u64, u32)> {
    let mut taken = Vec::new();
    for _ in 0..count {
        let delivery = next(consumer).await;
        taken.push((delivery.offset, delivery.attempt));
        delivery.ack().await.expect("ack");
    }
    taken.sort_unstable();
    taken
}

#[test]
fn the_back_off_doubles_and_is_never_early_whoever_dies() {
    turn::alone(HEAVY, async {
        const FIRST: Duration = Duration::from_millis(400);
        let settings = QueueSettings {
            retry_ms: FIRST.as_millis() as u32,
            retry_max_ms: 2_400,
            session_grace_ms: 60_000,
            ..Default::default()
        };
        let (mut cluster, client) = with_messages(1, settings).await;
        let mut consumer = client.consumer(QUEUE).build().await.expect("a consumer");
        for attempt in 1..=5 {
            let delivery = next(&mut consumer).await;
            assert_eq!(delivery.attempt, attempt);
            let full = (FIRST * (1 << (attempt - 1))).min(Duration::from_millis(2_400));
            let begun = Instant::now();
            delivery.nack(None).await.expect("nack");
            assert_eq!(counts(&client).await.delayed, 1, "it waits");
            if attempt == 4 {
                cluster.kill9(cluster.leader_of(QUEUE).await);
            }
            let again = next(&mut consumer).await;
            let waited = begun.elapsed();
            println!("attempt {attempt}: {waited:?} of {full:?}");
            // Half of the delay at least, by the clocks of two machines that are one here.
            assert!(waited >= full / 2, "early: {waited:?} of {full:?}");
            assert_eq!(again.attempt, attempt + 1);
            // It is at its place again, untouched, for the next round.
            again.put_back().await.expect("put back");
        }
        // A delay of its own is what it is, and neither more nor less.
        let delivery = next(&mut consumer).await;
        let begun = Instant::now();
        delivery.nack(Some(Duration::from_millis(100))).await.expect("nack");
        let again = next(&mut consumer).await;
        let waited = begun.elapsed();
        let shortest = Duration::from_millis(1_200);
        assert!((Duration::from_millis(100)..shortest).contains(&waited), "{waited:?}");
        again.ack().await.expect("ack");
        consumer.close().await;
    });
}

#[test]
fn a_consumer_that_is_killed_is_charged_for_the_one_message_that_it_had_started() {
    turn::beside_others(LIGHT, async {
        let settings =
            QueueSettings { max_deliveries: 2, session_grace_ms: 1_000, ..Default::default() };
        let (cluster, client) = with_messages(10, settings).await;
        let servers = cluster.addresses();
        until_killed(async move {
            let client = Client::connect(servers).await.expect("connect");
            let building = client.consumer(QUEUE).prefetch(10).build();
            let mut consumer = building.await.expect("a consumer");
            let first = next(&mut consumer).await;
            assert_eq!((first.offset, first.attempt), (0, 1));
            // What it has begun is told when nothing else is to be settled, at once.
            tokio::time::sleep(Duration::from_millis(1_000)).await;
            (consumer, first)
        });
        let mut next = client.consumer(QUEUE).prefetch(20).build().await.expect("a consumer");
        let mut expected: Vec<(u64, u32)> = (0..10).map(|offset| (offset, 1)).collect();
        expected[0] = (0, 2);
        assert_eq!(take(&mut next, 10).await, expected);
        assert_eq!(counts(&client).await.exhausted, 0);
        next.close().await;
    });
}

#[test]
fn what_was_not_begun_comes_back_uncharged_from_a_consumer_that_closes() {
    turn::beside_others(LIGHT, async {
        let settings = QueueSettings { max_deliveries: 2, ..Default::default() };
        let (_cluster, client) = with_messages(10, settings).await;
        for _ in 0..3 {
            let mut consumer =
                client.consumer(QUEUE).prefetch(10).build().await.expect("a consumer");
            let first = next(&mut consumer).await;
            assert_eq!(first.attempt, 1);
            first.put_back().await.expect("put back");
            consumer.close().await;
        }
        // It closes with one begun.
        let mut consumer = client.consumer(QUEUE).prefetch(10).build().await.expect("a consumer");
        let _begun = next(&mut consumer).await;
        consumer.close().await;
        let mut last = client.consumer(QUEUE).build().await.expect("a consumer");
        let mut expected: Vec<(u64, u32)> = (0..10).map(|offset| (offset, 1)).collect();
        expected[0].1 = 2;
        assert_eq!(take(&mut last, 10).await, expected);
        last.close().await;
    });
}

#[test]
fn a_queue_that_counts_nothing_asks_for_nothing_and_charges_all() {
    turn::beside_others(LIGHT, async {
        let settings = QueueSettings { session_grace_ms: 500, ..Default::default() };
        let (cluster, client) = with_messages(2, settings).await;
        let attach = v1::Attach { tells_starts: true, ..raw::attach(QUEUE, &raw::session(), 10) };
        let mut consumer =
            RawConsumer::attach(&cluster.address(2), attach.clone()).await.expect("attach");
        assert!(!consumer.attached.tell_starts && consumer.attached.may_return);
        let delivery = consumer.delivery().await;
        // It changes nothing, and is no error.
        let started = consumer.settle(raw::item(SettleKind::Start, &delivery, 0)).await;
        assert!(started.lost.is_empty() && started.failure.is_none(), "{started:?}");
        drop(consumer);
        let mut last = client.consumer(QUEUE).build().await.expect("a consumer");
        assert_eq!(take(&mut last, 2).await, [(0, 2), (1, 2)]);
        last.close().await;
    });
}

#[test]
fn retries_are_set_at_the_command_line_and_refused_if_they_make_no_sense() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let client = cluster.client().await;
        for (retry_ms, retry_max_ms) in [(0, 5), (10, 5), (u32::MAX, 0), (1, u32::MAX)] {
            let settings = QueueSettings { retry_ms, retry_max_ms, ..Default::default() };
            let refused = client.create_queue("wrong", settings).await.expect_err("refused");
            assert_eq!(refused.reason(), Some(reason::INVALID_ARGUMENT), "{refused:?}");
        }
        let server = cluster.addresses().join(",");
        let quorate =
            async |args: &[&str]| run(&[args, &["--server", &server]].concat(), SOON).await;
        let created = quorate(&["queue", "create", QUEUE, "--retry", "1s"]).await;
        assert_eq!(created.code, Some(0), "{}", created.err);
        let described = quorate(&["queue", "describe", QUEUE]).await.out;
        assert!(described.contains("after 1.00 s, doubled up to 5 min 00 s"), "{described}");
        // The cap that is the default is no other setting.
        let args = ["queue", "create", QUEUE, "--retry", "1s", "--retry-max", "5m"];
        assert_eq!(quorate(&args).await.code, Some(0));
        let args = ["queue", "create", "other", "--retry", "1s", "--retry-max", "10m"];
        assert_eq!(quorate(&args).await.code, Some(0));
        assert_eq!(quorate(&args).await.code, Some(0), "the same once more");
        let wrong = quorate(&["queue", "create", "third", "--retry-max", "10m"]).await;
        assert_eq!(wrong.code, Some(2), "{}", wrong.err);
    });
}
