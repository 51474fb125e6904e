//! Consumers on followers: deliveries come from the replica that is asked, leases and settles from the leader.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use quorate_client::{
    ChangeReplicasRequest, Client, Consumer, Message, Producer, QueueSettings, reason,
};
use quorate_proto::v1;
use quorate_proto::v1::SettleKind;
use quorate_tests::process::run;
use quorate_tests::raw::{self, RawConsumer};
use quorate_tests::{Cluster, Plan, turn};

use crate::beside::{figure, get};
use crate::{HEAVY, LIGHT, SOON};

const QUEUE: &str = "orders";

fn attach(session: &bytes::Bytes, prefetch: u32, max_lag_ms: u32) -> v1::Attach {
    v1::Attach { max_lag_ms, ..raw::attach(QUEUE, session, prefetch) }
}

async fn publish(producer: &Producer, from: u64, to: u64) {
    let mut sent = Vec::new();
    for n in from..to {
        sent.push(producer.send(Message::new(n.to_string())).await.expect("send"));
    }
    for pending in sent {
        pending.await.expect("confirmed");
    }
}

async fn filled(cluster: &Cluster, messages: u64) -> (Client, Producer) {
    let client = cluster.queue_with(QUEUE, QueueSettings::default()).await;
    let producer = client.producer(QUEUE).build().await.expect("a producer");
    publish(&producer, 0, messages).await;
    (client, producer)
}

/// Takes and acknowledges messages until there are none for a while; how often each was shown.
async fn taken(mut consumer: Consumer) -> BTreeMap<u64, u32> {
    let mut seen = BTreeMap::new();
    while let Ok(Some(delivery)) =
        tokio::time::timeout(Duration::from_secs(2), consumer.next()).await
    {
        let delivery = delivery.expect("a delivery");
        assert_eq!(delivery.body, delivery.offset.to_string(), "the body is that of the offset");
        *seen.entry(delivery.offset).or_default() += 1;
        delivery.ack_later();
    }
    consumer.close().await;
    seen
}

async fn delivered(cluster: &Cluster, node: u64) -> (u64, u64) {
    let (_, metrics) = get(&cluster.address(node), "/metrics").await;
    let figure = |name| figure(&metrics, name) as u64;
    (figure("quorate_delivered_messages_total"), figure("quorate_delivered_bytes_total"))
}

#[test]
fn consumers_on_followers_are_served_from_their_own_replica_and_not_by_the_leader() {
    turn::alone(HEAVY, async {
        const MESSAGES: u64 = 5_000;
        let cluster = Cluster::start(3).await;
        let (client, _producer) = filled(&cluster, MESSAGES).await;
        let leader = cluster.leader_of(QUEUE).await;
        let mut consumers = Vec::new();
        for _ in 0..4 {
            let consumer = client.consumer(QUEUE).max_lag(Duration::from_secs(5)).build();
            consumers.push(tokio::spawn(taken(consumer.await.expect("a consumer"))));
        }
        let mut all = BTreeMap::new();
        for consumer in consumers {
            for (offset, times) in consumer.await.expect("took") {
                *all.entry(offset).or_insert(0) += times;
            }
        }
        assert_eq!(all.len() as u64, MESSAGES);
        assert!(all.values().all(|times| *times == 1), "each message once");
        let mut by_node = BTreeMap::new();
        for node in cluster.ids() {
            by_node.insert(node, delivered(&cluster, node).await);
        }
        println!("messages and bytes delivered, by node: {by_node:?}; {leader} leads");
        assert_eq!(by_node[&leader], (0, 0));
        assert_eq!(by_node.values().map(|(messages, _)| messages).sum::<u64>(), MESSAGES);
        let counts = client.describe_queue(QUEUE).await.expect("describe").counts.expect("counts");
        assert_eq!((counts.ready, counts.leased, counts.acked), (0, 0, MESSAGES));
    });
}

#[test]
fn a_follower_that_lags_too_much_hands_its_consumer_to_the_leader() {
    turn::alone(HEAVY, async {
        let cluster = Plan::of(3).relayed().start().await;
        let (client, producer) = filled(&cluster, 3).await;
        let leader = cluster.leader_of(QUEUE).await;
        let follower = cluster.follower_of(QUEUE).await;
        let address = cluster.listens(follower);
        let session = raw::session();
        let taking = RawConsumer::attach(&address, attach(&session, 10, 150)).await;
        let mut taking = taking.expect("attach");
        assert_eq!(taking.attached.delivered_by, follower);
        let first = taking.delivery().await;
        // The way to the leader takes 200 ms there and back: the follower cannot be known to lag less.
        cluster.delay(leader, Duration::from_millis(100));
        let begun = Instant::now();
        let status = loop {
            match taking.answer().await {
                Ok(Some(_)) => assert!(begun.elapsed() < SOON, "it goes on"),
                Ok(None) => panic!("it ends without a word"),
                Err(status) => break status,
            }
        };
        println!("handed over after {:?}: {}", begun.elapsed(), status.message());
        assert_eq!(raw::reason(&status), reason::STALENESS_EXCEEDED);
        assert_eq!(raw::leader(&status), Some(cluster.address(leader)));
        // The stream is over for the leader too, though the client has not let go of its half of it.
        let begun = Instant::now();
        while client.describe_queue(QUEUE).await.expect("describe").consumers[0].connected {
            assert!(begun.elapsed() < SOON, "the session is connected for ever");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // The same consumer again: the leader delivers, and the lease is the same.
        let again = RawConsumer::attach(&address, attach(&session, 10, 150)).await;
        let mut again = again.expect("attach");
        assert_eq!(again.attached.delivered_by, leader);
        let repeated = again.delivery().await;
        assert_eq!((repeated.token, repeated.first_offset), (first.token, first.first_offset));
        // A consumer that allows for it is served here.
        let patient = RawConsumer::attach(&address, attach(&raw::session(), 10, 2_000)).await;
        let mut patient = patient.expect("attach");
        assert_eq!(patient.attached.delivered_by, follower);
        publish(&producer, 3, 30).await;
        let delivery = patient.delivery().await;
        let all = raw::item(SettleKind::Ack, &delivery, 0);
        let settled = patient.settle(all).await;
        assert!(settled.lost.is_empty() && settled.failure.is_none(), "{settled:?}");
        drop((again, patient, client));
    });
}

#[test]
fn a_replica_that_leaves_with_deliveries_to_make_ends_their_stream_and_not_its_node() {
    turn::alone(HEAVY, async {
        let mut cluster = Cluster::start(4).await;
        let client = cluster.queue_with(QUEUE, QueueSettings::default()).await;
        let leader = cluster.leader_of(QUEUE).await;
        let held = client.describe_queue(QUEUE).await.expect("describe").replicas;
        let held: Vec<u64> = held.iter().map(|replica| replica.node_id).collect();
        let follower = *held.iter().find(|node| **node != leader).expect("a follower");
        let free = cluster.ids().into_iter().find(|node| !held.contains(node)).expect("another");
        // More than fits into what the stream takes without being read.
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        for _ in 0..60 {
            producer.send(Message::new(vec![7; 500_000])).await.expect("sent").await.expect("in");
        }
        let (address, first) = (cluster.address(follower), attach(&raw::session(), 60, 2_000));
        let mut stuck = RawConsumer::attach(&address, first).await.expect("attach");
        assert_eq!(stuck.attached.delivered_by, follower);
        stuck.delivery().await;
        let change = ChangeReplicasRequest {
            voters: vec![free],
            remove: vec![follower],
            ..Default::default()
        };
        client.change_replicas(QUEUE, change).await.expect("change");
        let begun = Instant::now();
        loop {
            let described = client.describe_queue(QUEUE).await.expect("describe");
            if described.replicas.iter().all(|replica| replica.node_id != follower) {
                break;
            }
            assert!(begun.elapsed() < SOON, "it moves still: {:?}", described.replicas);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // The replica has let go of its log by now, and the stream goes on.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let ended = loop {
            match stuck.answer().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ends without a word"),
                Err(status) => break status,
            }
        };
        println!("the stream ended: {}", ended.message());
        // One that has to stop takes a moment.
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(cluster.is_running(follower).await, "the node is as before");
        let mut consumer = client
            .consumer(QUEUE)
            .max_lag(Duration::from_secs(2))
            .build()
            .await
            .expect("a consumer");
        consumer.next().await.expect("goes on").expect("a delivery").ack().await.expect("acked");
    });
}

#[test]
fn consumers_on_followers_go_on_at_another_replica_when_theirs_dies() {
    turn::alone(HEAVY, async {
        let mut cluster = Cluster::start(3).await;
        let (client, producer) = filled(&cluster, 0).await;
        let consumer = client.consumer(QUEUE).max_lag(Duration::from_secs(2)).prefetch(8);
        let mut consumer = consumer.build().await.expect("a consumer");
        let mut next = 0;
        for node in cluster.ids() {
            for kill in [false, true] {
                if kill {
                    cluster.kill9(node);
                }
                publish(&producer, next, next + 20).await;
                let upto = next + 20;
                while next < upto {
                    let taken = tokio::time::timeout(SOON, consumer.next()).await;
                    let delivery = taken.expect("in time").expect("goes on").expect("a delivery");
                    assert_eq!(delivery.offset, next, "no gap and no repetition");
                    delivery.ack().await.expect("acknowledged");
                    next += 1;
                }
            }
            cluster.start_node(node);
            cluster.ready().await;
        }
        consumer.close().await;
    });
}

#[test]
fn what_a_replica_may_lag_is_checked_and_the_command_line_takes_from_one() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let (_client, _producer) = filled(&cluster, 5).await;
        for node in cluster.ids() {
            let (address, first) = (cluster.address(node), attach(&raw::session(), 1, 99));
            let refused = RawConsumer::attach(&address, first).await.expect_err("too small");
            assert_eq!(raw::reason(&refused), reason::INVALID_ARGUMENT);
        }
        let server = cluster.addresses().join(",");
        let args = ["consume", QUEUE, "-n", "5", "--max-lag", "1s", "--server", &server];
        let taken = run(&args, SOON).await;
        assert_eq!(taken.code, Some(0), "{}", taken.err);
        assert_eq!(taken.out.lines().count(), 5, "{}", taken.out);
        let leader = cluster.leader_of(QUEUE).await;
        assert_eq!(delivered(&cluster, leader).await.0, 0);
        let refused = run(&["consume", QUEUE, "--zone", "a", "--server", &server], SOON).await;
        assert_ne!(refused.code, Some(0), "a zone alone says nothing");
    });
}
