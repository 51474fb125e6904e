//! Batches that enter once by their id, or where the queue ends as the producer knows it; and purges before an offset.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use quorate_client::{
    AckLevel, Batch, Client, Message, PublishError, PurgeBefore, Receipt, SlotSettings, reason,
};
use quorate_proto::v1;
use quorate_tests::process::run;
use quorate_tests::{Cluster, raw, turn};

use crate::{HEAVY, LIGHT, SOON};

const QUEUE: &str = "orders";

async fn once(client: &Client, id: &str, bodies: &[&str]) -> Result<Vec<Receipt>, PublishError> {
    let producer = client.producer(QUEUE).build().await.expect("a producer");
    let messages = bodies.iter().map(|body| Message::new((*body).to_owned()));
    producer.publish_batch(Batch::new(messages).id(id)).await
}

fn offsets(receipts: &[Receipt]) -> Vec<u64> {
    receipts.iter().map(|receipt| receipt.offset.expect("a place")).collect()
}

/// All that the queue has, offset by offset.
async fn contents(client: &Client) -> Vec<(u64, String)> {
    let mut reader = client.reader(QUEUE).linearizable().build();
    let mut contents = Vec::new();
    while let Some(message) = reader.next().await {
        let message = message.expect("read");
        contents.push((message.offset, String::from_utf8(message.body.to_vec()).expect("text")));
    }
    contents
}

#[test]
fn a_batch_of_an_id_enters_once_whoever_publishes_it_again_and_whoever_dies() {
    turn::alone(HEAVY, async {
        let mut cluster = Cluster::start(3).await;
        let client = cluster.queue(QUEUE).await;
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        // One after the other in flight, plain messages between them.
        let mut sent = Vec::new();
        for n in 0..200 {
            sent.push(producer.send(Message::new("plain")).await.expect("sent"));
            let batch =
                Batch::new([Message::new(format!("{n} a")), Message::new(format!("{n} b"))]);
            sent.extend(producer.send_batch(batch.id(format!("id-{n}"))).await.expect("sent"));
        }
        let mut first = Vec::new();
        for pending in sent {
            let receipt = pending.await.expect("confirmed");
            assert!(!receipt.duplicate);
            first.push(receipt.offset.expect("a place"));
        }
        assert!(first.is_sorted(), "in the order of sending");
        let leader = cluster.leader_of(QUEUE).await;
        cluster.kill9(leader);
        // Another program, that knows nothing of the first one's sequence.
        for n in 0..200 {
            let again = once(&client, &format!("id-{n}"), &["x", "y"]).await.expect("known");
            assert!(again.iter().all(|receipt| receipt.duplicate), "{n}");
            assert_eq!(offsets(&again), first[n * 3 + 1..n * 3 + 3], "{n}");
        }
        let other = once(&client, "id-7", &["one"]).await.expect_err("another batch");
        assert_eq!(other.reason(), Some(reason::MESSAGE_ID_CONFLICT));
        cluster.start_node(leader);
        assert_eq!(contents(&client).await.len(), 600);
        // A purge forgets none.
        client.purge_queue(QUEUE).await.expect("purged");
        let again = once(&client, "id-0", &["x", "y"]).await.expect("known");
        assert_eq!(offsets(&again), first[1..3]);
        assert!(contents(&client).await.is_empty());
        // Over the restart of all nodes, from their checkpoints and logs.
        for node in cluster.ids() {
            cluster.kill9(node);
        }
        for node in cluster.ids() {
            cluster.start_node(node);
        }
        let again = once(&client, "id-199", &["x", "y"]).await.expect("known");
        assert_eq!(offsets(&again), first[598..]);
    });
}

#[test]
fn of_two_producers_that_expect_the_same_offset_exactly_one_wins_each() {
    turn::alone(HEAVY, async {
        const OFFSETS: u64 = 300;
        let mut cluster = Cluster::start(3).await;
        let client = cluster.queue(QUEUE).await;
        let race = async |client: Client, name: &'static str| {
            let producer = client.producer(QUEUE).build().await.expect("a producer");
            let (mut won, mut lost, mut end) = (Vec::new(), 0, 0);
            while end < OFFSETS {
                let event = Message::new(format!("{name} {end}"));
                let batch = Batch::from(event).expect_offset(end);
                match producer.publish_batch(batch).await {
                    Ok(receipts) => {
                        assert_eq!(receipts[0].offset, Some(end), "where it was expected");
                        won.push(end);
                        end += 1;
                    }
                    Err(error) => {
                        let next = error.next_offset();
                        let next = next.unwrap_or_else(|| panic!("{name} at {end}: {error}"));
                        assert!(next > end, "{next} after {end}");
                        end = next;
                        lost += 1;
                    }
                }
            }
            (won, lost)
        };
        let one = tokio::spawn(race(client.clone(), "one"));
        let other = tokio::spawn(race(client.clone(), "other"));
        tokio::time::sleep(Duration::from_millis(300)).await;
        let leader = cluster.leader_of(QUEUE).await;
        cluster.kill9(leader);
        let (one, other) = (one.await.expect("no panic"), other.await.expect("no panic"));
        println!("won {} and {}, lost {} and {}", one.0.len(), other.0.len(), one.1, other.1);
        let all: BTreeSet<u64> = one.0.iter().chain(&other.0).copied().collect();
        assert_eq!(all.len(), one.0.len() + other.0.len(), "no offset was won twice");
        assert!(all.iter().copied().eq(0..OFFSETS), "every offset was won");
        for (offset, body) in contents(&client).await {
            assert_eq!(
                body == format!("one {offset}"),
                one.0.contains(&offset),
                "{offset}: {body}"
            );
        }
    });
}

#[test]
fn what_has_a_condition_is_judged_by_the_queue_at_every_level_and_by_one_call_too() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let client = cluster.queue(QUEUE).await;
        let producer = client.producer(QUEUE).ack(AckLevel::Accepted).build().await;
        let producer = producer.expect("a producer");
        let batch = |offset| Batch::from(Message::new("x")).expect_offset(offset);
        let receipts = producer.publish_batch(batch(0)).await.expect("it is empty");
        assert_eq!(receipts[0].level, AckLevel::Quorum, "no receipt before the queue has judged");
        let refused = producer.publish_batch(batch(0)).await.expect_err("another was there");
        assert_eq!(
            (refused.reason(), refused.next_offset()),
            (Some(reason::UNEXPECTED_OFFSET), Some(1))
        );
        // What was sent behind a refused batch enters, and in order.
        let first = producer.send_batch(batch(9)).await.expect("sent");
        let second = producer.send(Message::new("y")).await.expect("sent");
        let third = producer.send_batch(batch(2)).await.expect("sent");
        for pending in first {
            assert_eq!(pending.await.expect_err("refused").next_offset(), Some(1));
        }
        second.await.expect("entered");
        for pending in third {
            assert_eq!(pending.await.expect("entered").offset, Some(2));
        }
        // In one call, at a node that does not lead.
        let address = cluster.address(cluster.follower_of(QUEUE).await);
        let publish = async |message_id: &str, expected_next_offset| {
            let message = v1::Message { body: "z".into(), ..Default::default() };
            let request = v1::PublishRequest {
                queue: QUEUE.to_owned(),
                messages: vec![message],
                message_id: message_id.to_owned(),
                expected_next_offset,
                ..Default::default()
            };
            raw::publish_request(&address, request).await
        };
        let entered = publish("m", Some(3)).await.expect("entered");
        assert_eq!((entered.first_offset, entered.duplicate), (3, false));
        let again = publish("m", Some(3)).await.expect("the same");
        assert_eq!((again.first_offset, again.duplicate), (3, true));
        let refused = |outcome: Result<v1::Receipt, tonic::Status>| {
            raw::reason(&outcome.expect_err("refused"))
        };
        assert_eq!(refused(publish("n", Some(0)).await), reason::UNEXPECTED_OFFSET);
        assert_eq!(refused(publish(&"x".repeat(129), None).await), reason::INVALID_ARGUMENT);
        let empty = producer.publish_batch(Batch::default()).await.expect_err("nothing");
        assert_eq!(empty.reason(), Some(reason::INVALID_ARGUMENT));
    });
}

#[test]
fn a_purge_before_an_offset_drops_what_is_before_and_leases_of_it_are_lost() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let client = cluster.queue(QUEUE).await;
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        for n in 0..10 {
            producer.publish(Message::new(n.to_string())).await.expect("published");
        }
        client.create_slot(QUEUE, "behind", SlotSettings::default()).await.expect("a slot");
        let mut consumer = client.consumer(QUEUE).prefetch(3).build().await.expect("a consumer");
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(consumer.next().await.expect("goes on").expect("a delivery"));
        }
        let (purged, next) =
            client.purge_queue_before(QUEUE, PurgeBefore::Offset(6)).await.expect("purged");
        assert_eq!((purged, next), (6, 6));
        for delivery in held {
            delivery.ack().await.expect_err("its lease is lost");
        }
        let rest: Vec<u64> =
            contents(&client).await.into_iter().map(|(offset, _)| offset).collect();
        assert_eq!(rest, [6, 7, 8, 9]);
        let delivery = consumer.next().await.expect("goes on").expect("a delivery");
        assert_eq!(delivery.offset, 6, "credit is free again");
        delivery.ack().await.expect("acknowledged");
        consumer.close().await;
        let slots = client.list_slots(QUEUE).await.expect("slots");
        assert_eq!(slots[0].lost_from, Some(0), "it needed what was purged");
        let counts = client.describe_queue(QUEUE).await.expect("describe").counts.expect("counts");
        assert_eq!((counts.purged, counts.ready + counts.leased), (6, 3), "{counts:?}");
        // By time, and from the command line.
        let server = cluster.addresses().join(",");
        let quorate = async |args: &[&str]| {
            let ended = run(&[args, &["--server", &server]].concat(), SOON).await;
            assert_eq!(ended.code, Some(0), "{}", ended.err);
            ended.out
        };
        let none = quorate(&["queue", "purge", QUEUE, "--before", "1h", "--yes"]).await;
        assert!(none.starts_with("0 messages"), "{none}");
        let dry = quorate(&["queue", "purge", QUEUE, "--before", "8", "--dry-run"]).await;
        assert!(dry.contains("would be dropped"), "{dry}");
        let some = quorate(&["queue", "purge", QUEUE, "--before", "8", "--yes"]).await;
        assert!(some.starts_with("1 messages of queue orders before offset 8"), "{some}");
        let all = quorate(&["queue", "purge", QUEUE, "--before", "0s", "--yes"]).await;
        assert!(all.starts_with("2 messages"), "{all}");
    });
}

#[test]
fn the_command_line_names_and_conditions_batches_and_peeks_without_taking() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let client = cluster.queue(QUEUE).await;
        let server = Arc::new(cluster.addresses().join(","));
        let quorate =
            async |args: &[&str]| run(&[args, &["--server", &server]].concat(), SOON).await;
        let done = async |args: &[&str]| {
            let ended = quorate(args).await;
            assert_eq!(ended.code, Some(0), "{}", ended.err);
            ended.out
        };
        let first =
            done(&["publish", QUEUE, "a", "b", "--message-id", "batch-1", "-H", "k=v"]).await;
        assert!(first.contains("confirmed") && !first.contains("duplicate"), "{first}");
        let again = done(&["publish", QUEUE, "a", "b", "--message-id", "batch-1"]).await;
        assert_eq!(again.matches("duplicate").count(), 2, "{again}");
        quorate(&["publish", QUEUE, "a", "--message-id", "batch-1"])
            .await
            .refused_with(6, &["MESSAGE_ID_CONFLICT", "2 messages"]);
        quorate(&["publish", QUEUE, "c", "--expect-offset", "1"])
            .await
            .refused_with(6, &["UNEXPECTED_OFFSET", "next offset is 2"]);
        done(&["publish", QUEUE, "c", "--expect-offset", "2"]).await;
        let address = cluster.address(1);
        raw::publish(&address, QUEUE, vec![0xff, 0xfe], None).await.expect("published");
        let shown = done(&["queue", "peek", QUEUE]).await;
        for word in ["offset", "k=v", " a\n", " b\n", " c\n", "base64://4="] {
            assert!(shown.contains(word), "{word:?} in {shown}");
        }
        let page =
            done(&["queue", "peek", QUEUE, "--from", "1", "--count", "2", "-o", "json"]).await;
        let offsets: Vec<u64> = page
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
            .map(|line| line["offset"].as_u64().expect("an offset"))
            .collect();
        assert_eq!(offsets, [1, 2]);
        let nothing = done(&["queue", "peek", QUEUE, "--from", "99"]).await;
        assert!(nothing.contains("nothing to show"), "{nothing}");
        let counts = client.describe_queue(QUEUE).await.expect("describe").counts.expect("counts");
        assert_eq!((counts.ready, counts.leased, counts.acked), (4, 0, 0), "nothing was taken");
        let delivery = client.consumer(QUEUE).build().await.expect("a consumer").next().await;
        let delivery = delivery.expect("goes on").expect("a delivery");
        assert_eq!((delivery.offset, delivery.attempt), (0, 1), "nor counted");
        quorate(&["queue", "peek", "nowhere"]).await.refused_with(5, &["QUEUE_NOT_FOUND"]);
    });
}
