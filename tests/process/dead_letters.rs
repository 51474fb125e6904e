//! Dead letters: what ends without an ack is moved to another queue, once, whoever dies; where that is not possible it
//! waits; and it comes back when it is sent back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use quorate_client::{Client, Error, Message, Overflow, QueueCounts, QueueSettings, reason};
use quorate_tests::process::{Server, run};
use quorate_tests::reading::{header, number, read};
use quorate_tests::{Cluster, turn};

use crate::beside::{figure, get};
use crate::{HEAVY, LIGHT, SOON};

const QUEUE: &str = "orders";
const DEAD: &str = "orders.dead";

/// A queue whose dead letters go to another, which is made with settings of its own.
async fn queues(cluster: &Cluster, settings: QueueSettings, dead: QueueSettings) -> Client {
    let client = cluster.queue_with(DEAD, dead).await;
    let settings = QueueSettings { dead_letter: DEAD.to_owned(), ..settings };
    client.create_queue(QUEUE, settings).await.expect("create the queue");
    client
}

async fn publish(client: &Client, queue: &str, numbers: std::ops::Range<u64>) {
    let producer = client.producer(queue).build().await.expect("a producer");
    for number in numbers {
        let message = Message::new(number.to_string()).header("number", number.to_string());
        let sent = producer.send(message.header("parity", (number % 2).to_string()));
        sent.await.expect("sent").await.expect("confirmed");
    }
}

/// Rejects the first so many messages.
async fn reject(client: &Client, queue: &str, count: usize) {
    let consumer = client.consumer(queue).prefetch(100).build().await.expect("a consumer");
    let mut taken = consumer.take(count);
    while let Some(delivery) = taken.next().await {
        delivery.expect("a delivery").reject().await.expect("rejected");
    }
    taken.into_inner().close().await;
}

async fn counts(client: &Client, queue: &str) -> QueueCounts {
    let queue = client.describe_queue(queue).await.expect("describe");
    queue.counts.expect("the leader knows the counts")
}

/// Waits until the counts of a queue are as they should be.
async fn until(
    client: &Client,
    queue: &str,
    limit: Duration,
    holds: impl Fn(&QueueCounts) -> bool,
) {
    let begun = Instant::now();
    loop {
        let counts = counts(client, queue).await;
        if holds(&counts) {
            return;
        }
        assert!(begun.elapsed() < limit, "{queue}: {counts:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn what_is_rejected_or_exhausted_is_moved_once_with_the_facts_of_its_end() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let settings = QueueSettings { max_deliveries: 2, ..Default::default() };
        let client = queues(&cluster, settings, QueueSettings::default()).await;
        publish(&client, QUEUE, 0..6).await;
        let mut consumer = client.consumer(QUEUE).build().await.expect("a consumer");
        let mut delivered = BTreeMap::new();
        // 0 and 3 are rejected, 1 and 4 given back until they are exhausted, 2 and 5 done.
        while delivered.values().sum::<u32>() < 8 {
            let taken = tokio::time::timeout(SOON, consumer.next()).await.expect("in time");
            let delivery = taken.expect("goes on").expect("a delivery");
            *delivered.entry(delivery.offset).or_default() += 1;
            match delivery.offset % 3 {
                0 => delivery.reject().await.expect("rejected"),
                1 => delivery.nack(None).await.expect("given back"),
                _ => delivery.ack().await.expect("acknowledged"),
            }
        }
        until(&client, QUEUE, SOON, |counts| counts.dead_lettered == 4).await;
        let left = counts(&client, QUEUE).await;
        assert_eq!(
            (left.acked, left.dead, left.rejected, left.exhausted),
            (2, 0, 0, 0),
            "{left:?}"
        );
        assert_eq!((left.ready, left.leased, left.bytes), (0, 0, 0), "{left:?}");
        let dead = read(&client, DEAD).await;
        let mut seen = BTreeMap::new();
        for message in &dead {
            let (cause, deliveries) = if number(message).is_multiple_of(3) {
                ("rejected", "1")
            } else {
                ("exhausted", "2")
            };
            assert_eq!(header(message, "quorate-dead-cause"), Some(cause.to_owned()));
            assert_eq!(header(message, "quorate-dead-deliveries"), Some(deliveries.to_owned()));
            assert_eq!(header(message, "quorate-dead-source"), Some(QUEUE.to_owned()));
            let offset = header(message, "quorate-dead-offset").expect("an offset");
            assert_eq!(offset, number(message).to_string());
            assert_eq!(header(message, "number"), Some(offset), "its own header");
            let at: u64 = header(message, "quorate-dead-moved-at-ms").unwrap().parse().unwrap();
            assert!(at > 1_600_000_000_000, "{at}");
            *seen.entry(number(message)).or_insert(0) += 1;
        }
        assert_eq!(seen, BTreeMap::from([(0, 1), (1, 1), (3, 1), (4, 1)]));
        consumer.close().await;
    });
}

/// Nodes that are killed, one after the other.
const KILLS: u64 = 50;
/// Messages that are published before each.
const A_KILL: u64 = 50;

#[test]
fn each_message_is_in_the_dead_letter_queue_once_whichever_leader_is_killed_and_how_often() {
    turn::alone(6 * HEAVY, async {
        let mut cluster = Cluster::start(3).await;
        // Whatever is not rejected for the death of a node ends by that.
        let settings =
            QueueSettings { max_deliveries: 1, session_grace_ms: 1_000, ..Default::default() };
        let client = queues(&cluster, settings, QueueSettings::default()).await;
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        let rejecting = tokio::spawn({
            let client = client.clone();
            async move {
                let mut consumer =
                    client.consumer(QUEUE).prefetch(20).build().await.expect("a consumer");
                while let Some(delivery) = consumer.next().await {
                    match delivery {
                        Ok(delivery) => delivery.reject_later(),
                        Err(error) => println!("consumer: {error}"),
                    }
                }
            }
        });
        let (begun, mut sent) = (Instant::now(), Vec::new());
        for kill in 0..KILLS {
            for n in 0..A_KILL {
                let message = Message::new((kill * A_KILL + n).to_string());
                sent.push(producer.send(message).await.expect("sent"));
            }
            // At another moment of the moving each time.
            tokio::time::sleep(Duration::from_millis(kill * 37 % 150)).await;
            let leader = cluster.leader_of([QUEUE, DEAD][(kill % 2) as usize]).await;
            cluster.kill9(leader);
            cluster.start_node(leader);
            cluster.ready().await;
        }
        println!("{KILLS} kills in {:?}", begun.elapsed());
        for pending in sent {
            pending.await.expect("confirmed");
        }
        let all = KILLS * A_KILL;
        until(&client, QUEUE, SOON, |counts| counts.dead_lettered == all).await;
        rejecting.abort();
        let mut times = BTreeMap::new();
        for message in read(&client, DEAD).await {
            *times.entry(number(&message)).or_insert(0) += 1;
        }
        assert_eq!(times.len() as u64, all, "all that died is there");
        let more: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
        assert!(more.is_empty(), "more than once: {more:?}");
        let moved = counts(&client, DEAD).await;
        assert_eq!(moved.published, all, "nothing else is there");
    });
}

fn refused(error: Error, expected: &str) -> String {
    match error {
        Error::Refused(refusal) if refusal.reason == expected => refusal.message,
        error => panic!("{error}"),
    }
}

#[test]
fn dead_letters_need_a_queue_to_go_to_that_stays_and_that_is_another_one() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(1).await;
        let client = cluster.client().await;
        let to = |name: &str| QueueSettings { dead_letter: name.to_owned(), ..Default::default() };
        let missing = client.create_queue(QUEUE, to(DEAD)).await.unwrap_err();
        let message = refused(missing, reason::QUEUE_NOT_FOUND);
        assert!(message.contains(DEAD) && message.contains("create it first"), "{message}");
        let itself = client.create_queue(QUEUE, to(QUEUE)).await.unwrap_err();
        let message = refused(itself, reason::DEAD_LETTER_CYCLE);
        assert!(message.contains("orders -> orders"), "{message}");
        let invalid = client.create_queue(QUEUE, to("no name")).await.unwrap_err();
        refused(invalid, reason::INVALID_ARGUMENT);
        client.create_queue(DEAD, QueueSettings::default()).await.expect("create");
        let created = client.create_queue(QUEUE, to(DEAD)).await.expect("create");
        assert_eq!(created.queue.settings.expect("settings").dead_letter, DEAD);
        assert!(!client.create_queue(QUEUE, to(DEAD)).await.expect("the same").created);
        let used = client.delete_queue(DEAD, false).await.unwrap_err();
        let message = refused(used, reason::IS_DEAD_LETTER_QUEUE);
        assert!(message.contains(QUEUE), "{message}");
        client.delete_queue(QUEUE, false).await.expect("deleted");
        client.delete_queue(DEAD, false).await.expect("deleted");
    });
}

#[test]
fn what_the_dead_letter_queue_has_no_room_for_waits_and_is_moved_later() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let full = QueueSettings { max_messages: 4, ..Default::default() };
        let client = queues(&cluster, QueueSettings::default(), full).await;
        publish(&client, QUEUE, 0..20).await;
        reject(&client, QUEUE, 20).await;
        until(&client, QUEUE, SOON, |counts| (counts.dead, counts.dead_lettered) == (16, 4)).await;
        // Waits, and says why, at its leader and in the metrics; and readers see what waits.
        let begun = Instant::now();
        loop {
            let queue = client.describe_queue(QUEUE).await.expect("describe");
            if queue.dead_letters_wait.contains("max_messages is 4, 4 held") {
                break;
            }
            assert!(begun.elapsed() < SOON, "{queue:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(read(&client, QUEUE).await.len(), 16);
        let leader = cluster.address(cluster.leader_of(QUEUE).await);
        let (_, metrics) = get(&leader, &format!("/metrics?queue={QUEUE}")).await;
        assert_eq!(figure(&metrics, "quorate_queue_dead_messages"), 16.0);
        assert_eq!(figure(&metrics, "quorate_queue_dead_lettered_messages_total"), 4.0);
        assert_eq!(figure(&metrics, "quorate_queue_dead_letters_stuck"), 1.0);
        assert!(figure(&metrics, "quorate_queues_with_stuck_dead_letters") >= 1.0);
        let server = cluster.addresses().join(",");
        let described = run(&["queue", "describe", QUEUE, "--server", &server], SOON).await.out;
        let waits = described.lines().find(|line| line.starts_with("dead letters wait"));
        assert!(waits.is_some_and(|line| line.contains(DEAD)), "{described}");
        // As what is there goes, the rest follows, in the order of dying.
        let mut consumer = client.consumer(DEAD).build().await.expect("a consumer");
        for expected in 0..20u64 {
            let taken = tokio::time::timeout(SOON, consumer.next()).await.expect("in time");
            let delivery = taken.expect("goes on").expect("a delivery");
            assert_eq!(delivery.body, expected.to_string());
            delivery.ack().await.expect("acknowledged");
        }
        until(&client, QUEUE, SOON, |counts| (counts.dead, counts.dead_lettered) == (0, 20)).await;
        let queue = client.describe_queue(QUEUE).await.expect("describe");
        assert_eq!(queue.dead_letters_wait, "");
        consumer.close().await;
    });
}

/// How the command ended, and what it said as JSON.
async fn redrive(cluster: &Cluster, args: &[&str]) -> (Option<i32>, serde_json::Value) {
    let server = cluster.addresses().join(",");
    let all = [&["queue", "redrive", DEAD, "-o", "json", "--server", &server], args].concat();
    let ended = run(&all, SOON).await;
    let said = serde_json::from_str(&ended.out);
    (ended.code, said.unwrap_or_else(|error| panic!("{error}: {} {}", ended.out, ended.err)))
}

#[test]
fn dead_letters_are_sent_back_where_they_died_chosen_by_header_and_not_too_fast() {
    turn::beside_others(HEAVY, async {
        let cluster = Cluster::start(3).await;
        let client = queues(&cluster, QueueSettings::default(), QueueSettings::default()).await;
        publish(&client, QUEUE, 0..40).await;
        reject(&client, QUEUE, 40).await;
        until(&client, DEAD, SOON, |counts| counts.ready == 40).await;
        let (code, would) = redrive(&cluster, &["--filter", "parity=1", "--dry-run"]).await;
        assert_eq!((code, &would["would_redrive"]), (Some(0), &20.into()), "{would}");
        assert_eq!(would["of"][0]["cause"], "rejected");
        assert_eq!(would["of"][0]["to"], QUEUE);
        assert_eq!(counts(&client, QUEUE).await.ready, 0, "nothing was done");
        let begun = Instant::now();
        let (code, said) =
            redrive(&cluster, &["--filter", "parity=1", "--max", "10", "--rate", "10/s"]).await;
        assert_eq!((code, &said["redriven"]), (Some(0), &10.into()), "{said}");
        assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
        let back = read(&client, QUEUE).await;
        let numbers: Vec<u64> = back.iter().map(number).collect();
        assert_eq!(numbers, (0..20).filter(|n| n % 2 == 1).collect::<Vec<_>>());
        for message in &back {
            let from = format!("{DEAD}/{}", number(message));
            assert_eq!(header(message, "quorate-redriven-from"), Some(from));
            assert_eq!(header(message, "quorate-dead-cause"), None);
            assert_eq!(header(message, "parity"), Some("1".to_owned()), "its own header");
        }
        // What was passed over is at its place again, at once.
        let left = counts(&client, DEAD).await;
        assert_eq!((left.ready, left.leased, left.acked), (30, 0, 10), "{left:?}");
        // Elsewhere, and all of it; what died twice has the facts of its second death.
        client.create_queue("again", QueueSettings::default()).await.expect("create");
        reject(&client, QUEUE, 10).await;
        until(&client, DEAD, SOON, |counts| counts.ready == 40).await;
        let (code, said) = redrive(&cluster, &["--to", "again"]).await;
        assert_eq!((code, &said["redriven"], &said["left"]), (Some(0), &40.into(), &0.into()));
        assert_eq!(counts(&client, "again").await.published, 40);
        let (code, said) = redrive(&cluster, &[]).await;
        assert_eq!((code, &said["redriven"]), (Some(0), &0.into()), "nothing is left: {said}");
    });
}

#[test]
fn a_redrive_that_is_killed_loses_nothing_and_what_has_nowhere_to_go_stays() {
    turn::beside_others(HEAVY, async {
        let cluster = Cluster::start(3).await;
        let grace = QueueSettings { session_grace_ms: 500, ..Default::default() };
        let client = queues(&cluster, QueueSettings::default(), grace).await;
        publish(&client, QUEUE, 0..100).await;
        reject(&client, QUEUE, 100).await;
        until(&client, DEAD, SOON, |counts| counts.ready == 100).await;
        let server = cluster.addresses().join(",");
        let args = ["redrive", DEAD, "--rate", "50/s", "--server", &server];
        let log = tempfile::NamedTempFile::new().expect("a file");
        let mut killed = Server::start_command("queue", &args.map(str::to_owned), log.path());
        until(&client, DEAD, SOON, |counts| counts.acked >= 10).await;
        killed.kill9();
        assert!(counts(&client, DEAD).await.acked < 100, "it was not done");
        let (code, said) = redrive(&cluster, &[]).await;
        assert_eq!(code, Some(0), "{said}");
        let left = counts(&client, DEAD).await;
        assert_eq!((left.ready, left.leased, left.acked), (0, 0, 100), "{left:?}");
        let mut times = BTreeMap::new();
        for message in read(&client, QUEUE).await {
            let from = header(&message, "quorate-redriven-from").expect("where from");
            *times.entry((number(&message), from)).or_insert(0) += 1;
        }
        assert_eq!(times.len(), 100, "all are back");
        assert!(times.values().all(|times| *times == 1), "each is back once: {times:?}");
        // What was never moved here says nowhere to go; it stays, and that is said.
        publish(&client, DEAD, 7..8).await;
        let (code, said) = redrive(&cluster, &[]).await;
        assert_eq!((code, &said["left"]), (Some(1), &1.into()), "{said}");
        assert!(said["refused"][0]["why"].as_str().is_some_and(|why| why.contains("--to")));
        assert_eq!(counts(&client, DEAD).await.ready, 1);
        // Nor does anything go where it would not be known again.
        let forgets = QueueSettings { message_id_window: 100, ..Default::default() };
        client.create_queue("forgets", forgets).await.expect("create");
        let (code, said) = redrive(&cluster, &["--to", "forgets"]).await;
        assert_eq!((code, &said["left"]), (Some(6), &1.into()), "{said}");
        let why = said["refused"][0]["why"].as_str().unwrap_or_default();
        assert!(why.contains("--message-id-window 512"), "{why}");
        assert_eq!(counts(&client, "forgets").await.published, 0);
    });
}

#[test]
fn a_redrive_drops_nothing_to_make_room_for_what_it_sends_back() {
    turn::beside_others(LIGHT, async {
        const OTHER: &str = "other";
        let cluster = Cluster::start(1).await;
        let drops = |max_messages, max_bytes| QueueSettings {
            overflow: Overflow::DropHead.into(),
            max_messages,
            max_bytes,
            ..Default::default()
        };
        let client = queues(&cluster, drops(10, 0), QueueSettings::default()).await;
        let other = QueueSettings { dead_letter: DEAD.to_owned(), ..drops(5, 0) };
        client.create_queue(OTHER, other).await.expect("create");
        for (queue, count) in [(QUEUE, 5), (OTHER, 3)] {
            publish(&client, queue, 0..count).await;
            reject(&client, queue, count as usize).await;
        }
        until(&client, DEAD, SOON, |counts| counts.ready == 8).await;
        publish(&client, QUEUE, 10..16).await;
        // Of the eight, three go where there is room for five, and five where there is room for four.
        let (code, said) = redrive(&cluster, &[]).await;
        assert_eq!(code, Some(6), "{said}");
        assert_eq!((&said["redriven"], &said["left"]), (&3.into(), &5.into()), "{said}");
        assert_eq!(said["refused"][0]["queue"], QUEUE, "{said}");
        let why = said["refused"][0]["why"].as_str().unwrap_or_default();
        assert!(why.contains("has 6 of at most 10, and 5 are to come"), "{why}");
        assert!(why.contains("--max"), "{why}");
        let there = counts(&client, QUEUE).await;
        assert_eq!((there.published, there.dropped), (11, 0), "{there:?}");
        let (code, said) = redrive(&cluster, &["--max", "4"]).await;
        assert_eq!((code, &said["redriven"]), (Some(0), &4.into()), "{said}");
        let there = counts(&client, QUEUE).await;
        assert_eq!((there.ready, there.dropped), (10, 0), "{there:?}");
        // By its bytes, as it is sent.
        for (queue, max_bytes, exit) in [("tiny", 60, 6), ("small", 200, 0)] {
            client.create_queue(queue, drops(0, max_bytes)).await.expect("create");
            let (code, said) = redrive(&cluster, &["--to", queue]).await;
            assert_eq!(code, Some(exit), "{said}");
        }
        assert_eq!(counts(&client, "small").await.ready, 1);
    });
}

#[test]
fn a_message_that_is_sent_back_has_its_group_key_and_holds_back_the_others_of_it() {
    turn::beside_others(HEAVY, async {
        let cluster = Cluster::start(1).await;
        let client = queues(&cluster, QueueSettings::default(), QueueSettings::default()).await;
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        for number in 0..4 {
            let message = Message::new(number.to_string()).group_key("order 7");
            producer.publish(message).await.expect("confirmed");
        }
        reject(&client, QUEUE, 4).await;
        until(&client, DEAD, SOON, |counts| counts.ready == 4).await;
        let (code, said) = redrive(&cluster, &[]).await;
        assert_eq!((code, &said["redriven"]), (Some(0), &4.into()), "{said}");
        for message in read(&client, QUEUE).await {
            assert_eq!(header(&message, "quorate-group-key"), Some("order 7".to_owned()));
            assert_eq!(header(&message, "quorate-dead-cause"), None);
        }
        // It is a key again, and no header alone: one after the other.
        let back = counts(&client, QUEUE).await;
        assert_eq!((back.ready, back.blocked), (1, 3), "{back:?}");
    });
}
