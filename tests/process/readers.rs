//! Readers: any replica, a bound on staleness that holds or is refused, never back in time; retention.

use std::time::{Duration, Instant, SystemTime};

use futures_util::{StreamExt, TryStreamExt};
use quorate_client::{Client, Message, Producer, QueueSettings, ReadMessage, Reader, reason};
use quorate_proto::v1;
use quorate_proto::v1::read_request::{Consistency, From};
use quorate_proto::v1::reader_service_client::ReaderServiceClient;
use quorate_tests::process::run;
use quorate_tests::{Cluster, Plan, raw, turn};
use tonic::{Code, Status};

use crate::{HEAVY, LIGHT, SOON};

const QUEUE: &str = "orders";

/// A queue that keeps what was settled.
fn retaining() -> QueueSettings {
    QueueSettings { retain_bytes: 64 << 20, ..QueueSettings::default() }
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

async fn filled(cluster: &Cluster, settings: QueueSettings, messages: u64) -> (Client, Producer) {
    let client = cluster.queue_with(QUEUE, settings).await;
    let producer = client.producer(QUEUE).build().await.expect("a producer");
    publish(&producer, 0, messages).await;
    (client, producer)
}

async fn settle(client: &Client, messages: usize) {
    let mut consumer = client.consumer(QUEUE).build().await.expect("a consumer");
    for _ in 0..messages {
        consumer.next().await.expect("goes on").expect("a delivery").ack().await.expect("acked");
    }
    consumer.close().await;
}

async fn offsets(reader: Reader) -> Vec<u64> {
    let read = reader.map_ok(|message| {
        assert_eq!(message.body, message.offset.to_string(), "the body is that of the offset");
        message.offset
    });
    read.try_collect().await.expect("read to the end")
}

/// One read at one node, without the SDK: its messages and the position of the last answer.
async fn read_at(
    address: &str,
    consistency: Consistency,
    at_least_index: u64,
) -> Result<(u64, v1::ReadPosition), Status> {
    let request = v1::ReadRequest {
        queue: QUEUE.to_owned(),
        consistency: Some(consistency),
        at_least_index,
        ..Default::default()
    };
    let mut answers =
        ReaderServiceClient::new(raw::channel(address)).read(request).await?.into_inner();
    let (mut messages, mut position) = (0, v1::ReadPosition::default());
    while let Some(answer) = answers.message().await? {
        let counts = answer.batches.iter().filter_map(|batch| batch.frame.as_ref());
        messages += counts.map(|frame| u64::from(frame.count)).sum::<u64>();
        position = answer.position.expect("a position");
    }
    Ok((messages, position))
}

#[test]
fn every_reader_sees_every_message_from_wherever_it_begins_and_takes_none() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let (client, producer) = filled(&cluster, QueueSettings::default(), 500).await;
        let reader = || client.reader(QUEUE).linearizable();
        let all: Vec<u64> = (0..500).collect();
        assert_eq!(offsets(reader().build()).await, all);
        assert_eq!(offsets(reader().build()).await, all, "a second one sees the same");
        assert_eq!(offsets(reader().from_offset(490).build()).await, all[490..]);
        assert_eq!(offsets(reader().from_offset(490).limit(3).build()).await, [490, 491, 492]);
        assert_eq!(offsets(reader().from_next().build()).await, [0; 0]);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let since = SystemTime::now();
        publish(&producer, 500, 510).await;
        let later: Vec<ReadMessage> =
            reader().from_time(since).build().try_collect().await.expect("read");
        assert_eq!(
            later.iter().map(|m| m.offset).collect::<Vec<_>>(),
            (500..510).collect::<Vec<_>>()
        );
        // Told in whole milliseconds.
        assert!(later[0].published_at + Duration::from_millis(1) > since);

        let mut following = reader().from_next().follow().build();
        let first = tokio::spawn(async move { following.next().await });
        tokio::time::sleep(Duration::from_millis(300)).await;
        publish(&producer, 510, 511).await;
        let first = first.await.expect("read").expect("goes on").expect("a message");
        assert_eq!(first.offset, 510);
        let counts = client.describe_queue(QUEUE).await.expect("describe").counts.expect("counts");
        assert_eq!((counts.ready, counts.leased), (511, 0), "readers take nothing");
    });
}

#[test]
fn a_queue_that_works_forgets_what_is_settled_and_one_that_retains_keeps_it_up_to_its_bytes() {
    turn::beside_others(HEAVY, async {
        let cluster = Cluster::start(3).await;
        let (client, _producer) = filled(&cluster, QueueSettings::default(), 60).await;
        settle(&client, 50).await;
        let read = offsets(client.reader(QUEUE).linearizable().build()).await;
        assert_eq!(read, (50..60).collect::<Vec<_>>());

        client.delete_queue(QUEUE, false).await.expect("delete");
        let (client, producer) = filled(&cluster, retaining(), 60).await;
        settle(&client, 50).await;
        let read = offsets(client.reader(QUEUE).linearizable().build()).await;
        assert_eq!(read, (0..60).collect::<Vec<_>>(), "settled ones are kept");

        // Survives a restart of all nodes, in a checkpoint or not.
        producer.close().await;
        let mut cluster = cluster;
        for node in cluster.ids() {
            cluster.kill9(node);
        }
        for node in cluster.ids() {
            cluster.start_node(node);
        }
        cluster.ready().await;
        let client = cluster.client().await;
        let read = offsets(client.reader(QUEUE).linearizable().build()).await;
        assert_eq!(read, (0..60).collect::<Vec<_>>());

        client.delete_queue(QUEUE, false).await.expect("delete");
        let little = QueueSettings { retain_bytes: 2_000, ..QueueSettings::default() };
        let (client, producer) = filled(&cluster, little, 0).await;
        // In steps: what enters together goes together.
        for n in 0..20 {
            publish(&producer, n * 20, n * 20 + 20).await;
        }
        settle(&client, 400).await;
        let counts = client.describe_queue(QUEUE).await.expect("describe").counts.expect("counts");
        assert!(counts.retained_bytes <= 2_000 && counts.retained > 0, "{counts:?}");
        let read = offsets(client.reader(QUEUE).from_offset(5).linearizable().build()).await;
        assert_eq!(read.first(), Some(&counts.first_readable_offset), "begins with what is left");
    });
}

#[test]
fn a_bound_holds_or_is_refused_with_a_follower_that_is_200_ms_away() {
    turn::alone(HEAVY, async {
        let cluster = Plan::of(3).relayed().start().await;
        let (_client, producer) = filled(&cluster, QueueSettings::default(), 10).await;
        let leader = cluster.leader_of(QUEUE).await;
        let follower = cluster.follower_of(QUEUE).await;
        // What the follower asks the leader takes so long, one way and back.
        cluster.delay(leader, Duration::from_millis(100));
        let address = cluster.listens(follower);
        let begun = Instant::now();
        let bound = |ms| Consistency::MaxStalenessMs(ms);
        let refused = read_at(&address, bound(100), 0).await.expect_err("cannot be held");
        assert_eq!(
            (refused.code(), raw::reason(&refused).as_str()),
            (Code::Unavailable, reason::STALENESS_EXCEEDED)
        );
        let mut worst = 0;
        for n in 0..20u64 {
            // What was confirmed before the bound is seen: measured, not only said.
            publish(&producer, 10 + n, 11 + n).await;
            let confirmed = 11 + n;
            tokio::time::sleep(Duration::from_millis(20)).await;
            let (seen, position) = read_at(&address, bound(300), 0).await.expect("can be held");
            assert_eq!(position.node_id, follower);
            assert!(position.staleness_ms <= 300, "{position:?}");
            worst = worst.max(position.staleness_ms);
            assert!(seen <= confirmed);
        }
        println!(
            "20 reads at a follower 200 ms away, bound 300 ms: staleness at most {worst} ms, {:?}",
            begun.elapsed()
        );
        assert!(worst >= 1, "it tells how old it is");
        // Linearizable: everything confirmed before the request.
        for n in 30..35u64 {
            publish(&producer, n, n + 1).await;
            let (seen, _) =
                read_at(&address, Consistency::Linearizable(true), 0).await.expect("read");
            assert_eq!(seen, n + 1);
        }
    });
}

#[test]
fn a_follower_that_is_cut_off_refuses_and_the_sdk_reads_on_at_another() {
    turn::alone(HEAVY, async {
        let mut cluster = Cluster::start(3).await;
        let (client, producer) = filled(&cluster, QueueSettings::default(), 100).await;
        let mut reader = client.reader(QUEUE).follow().build();
        let mut next = 0;
        while next < 100 {
            let message = reader.next().await.expect("goes on").expect("a message");
            assert_eq!(message.offset, next);
            next += 1;
        }
        // Each node in turn goes while it reads.
        for node in cluster.ids() {
            cluster.kill9(node);
            publish(&producer, next, next + 20).await;
            let upto = next + 20;
            while next < upto {
                let message = reader.next().await.expect("goes on").expect("a message");
                assert_eq!(message.offset, next, "no gap and no repetition");
                next += 1;
            }
            cluster.start_node(node);
            cluster.ready().await;
        }
        // A node that has just started opens its replicas when it has heard from the catalog's leader: a heartbeat later.
        tokio::time::sleep(Duration::from_secs(1)).await;
        // Without a leader a replica can tell nothing about how old it is.
        let leader = cluster.leader_of(QUEUE).await;
        let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
        cluster.kill9(leader);
        cluster.kill9(others[0]);
        let address = cluster.address(others[1]);
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let refused = read_at(&address, Consistency::MaxStalenessMs(1_000), 0).await;
        let refused = refused.expect_err("nobody says how old it is");
        assert_eq!(raw::reason(&refused), reason::STALENESS_EXCEEDED);
        // And what a session has seen elsewhere, it has to have as well.
        let ahead = read_at(&address, Consistency::MaxStalenessMs(3_600_000), u64::MAX).await;
        assert_eq!(raw::reason(&ahead.expect_err("behind")), reason::STALENESS_EXCEEDED);
    });
}

#[test]
fn bad_reads_are_refused_and_the_command_line_reads() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        filled(&cluster, QueueSettings::default(), 30).await;
        let address = cluster.address(1);
        let mut reader = ReaderServiceClient::new(raw::channel(&address));
        let refused =
            reader.read(v1::ReadRequest { queue: "nowhere".into(), ..Default::default() });
        assert_eq!(raw::reason(&refused.await.expect_err("unknown")), reason::QUEUE_NOT_FOUND);
        let consistency = Some(Consistency::MaxStalenessMs(0));
        let from = Some(From::Offset(0));
        let request =
            v1::ReadRequest { queue: QUEUE.into(), from, consistency, ..Default::default() };
        let refused = reader.read(request).await.expect_err("no bound");
        assert_eq!(raw::reason(&refused), reason::INVALID_ARGUMENT);

        let server = cluster.addresses().join(",");
        let quorate =
            async |args: &[&str]| run(&[args, &["--server", &server]].concat(), SOON).await;
        let read = quorate(&["read", QUEUE, "--from", "27", "--linearizable"]).await;
        assert_eq!((read.code, read.out.as_str()), (Some(0), "27\n28\n29\n"), "{}", read.err);
        let read = quorate(&["read", QUEUE, "-n", "1", "-o", "json", "--since", "1h"]).await;
        let line: serde_json::Value = serde_json::from_str(&read.out).expect("a line of JSON");
        assert_eq!((line["offset"].as_u64(), line["body"].as_str()), (Some(0), Some("0")));
        quorate(&["read", "nowhere"]).await.refused_with(5, &["QUEUE_NOT_FOUND"]);
    });
}
