//! Messages that are moved from one queue to another: each once, whoever is killed meanwhile, and as they were.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use quorate_client::{
    Client, ConsumerControl, Consumers, Message, QueueCounts, QueueSettings, ReadMessage,
};
use quorate_tests::process::{Ended, Server, run};
use quorate_tests::reading::{header, number, read};
use quorate_tests::{Cluster, turn};

use crate::{HEAVY, SOON};

const FROM: &str = "orders";
const TO: &str = "orders.new";
const KEYS: u64 = 5;

async fn queues(cluster: &Cluster, from: QueueSettings, to: QueueSettings) -> Client {
    let client = cluster.queue_with(FROM, from).await;
    client.create_queue(TO, to).await.expect("create the queue");
    client
}

async fn publish(client: &Client, queue: &str, messages: impl IntoIterator<Item = Message>) {
    let producer = client.producer(queue).build().await.expect("a producer");
    let mut sent = Vec::new();
    for message in messages {
        sent.push(producer.send(message).await.expect("sent"));
    }
    for pending in sent {
        pending.await.expect("confirmed");
    }
}

/// Every third has one of a few keys.
fn numbered(count: u64) -> impl Iterator<Item = Message> {
    (0..count).map(|number| {
        let message = Message::new(number.to_string()).header("parity", (number % 2).to_string());
        match number % 3 {
            0 => message.group_key(format!("key {}", number % KEYS)),
            _ => message,
        }
    })
}

async fn counts(client: &Client, queue: &str) -> QueueCounts {
    let queue = client.describe_queue(queue).await.expect("describe");
    queue.counts.expect("the leader knows the counts")
}

async fn moved(server: &str, args: &[&str]) -> (Ended, serde_json::Value) {
    let all = [&["queue", "move", FROM, TO, "-o", "json", "--server", server], args].concat();
    let ended = run(&all, HEAVY).await;
    let said = serde_json::from_str(&ended.out).unwrap_or_default();
    (ended, said)
}

/// Each message is there once, as it was, and those of a key are in their order.
fn check(there: &[ReadMessage], count: u64) {
    let (mut times, mut last) = (BTreeMap::new(), BTreeMap::new());
    for message in there {
        let number = number(message);
        *times.entry(number).or_insert(0) += 1;
        assert_eq!(header(message, "parity"), Some((number % 2).to_string()), "its own header");
        assert_eq!(header(message, "quorate-moved-from"), Some(format!("{FROM}/{number}")));
        let key = number.is_multiple_of(3).then(|| format!("key {}", number % KEYS));
        assert_eq!(header(message, "quorate-group-key"), key, "the key of {number}");
        let before = key.and_then(|key| last.insert(key, number));
        assert!(before < Some(number), "{number} comes behind {before:?} of its key");
    }
    let more: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
    assert!(more.is_empty(), "more than once: {more:?}");
    let missing: Vec<u64> = (0..count).filter(|number| !times.contains_key(number)).collect();
    assert!(missing.is_empty(), "not there: {missing:?}");
    assert_eq!(there.len() as u64, count, "nothing else is there");
}

/// Nodes that are killed while messages are moved.
const KILLS: u64 = 6;
const MESSAGES: u64 = 600;

#[test]
fn each_message_is_moved_once_whichever_leader_is_killed() {
    turn::alone(4 * HEAVY, async {
        let mut cluster = Cluster::start(3).await;
        let client = queues(&cluster, QueueSettings::default(), QueueSettings::default()).await;
        publish(&client, FROM, numbered(MESSAGES)).await;
        let server = cluster.addresses().join(",");
        let moving = tokio::spawn(async move {
            let mut runs = Vec::new();
            loop {
                let (ended, said) = moved(&server, &["--rate", "60/s", "--timeout", "30s"]).await;
                println!("run {}: {:?} {said} {}", runs.len(), ended.code, ended.err);
                runs.push(said["moved"].as_u64().unwrap_or(0));
                // What is not reached was leased for the kill of a leader: the next run takes it.
                if (ended.code == Some(0) && said["not_reached"] == 0) || runs.len() == 6 {
                    return runs;
                }
            }
        });
        for kill in 0..KILLS {
            tokio::time::sleep(Duration::from_millis(500 + kill * 137 % 400)).await;
            let leader = cluster.leader_of([FROM, TO][(kill % 2) as usize]).await;
            cluster.kill9(leader);
            cluster.start_node(leader);
            cluster.ready().await;
        }
        assert!(!moving.is_finished(), "nodes were killed while messages were moved");
        let runs = moving.await.expect("moved");
        println!("{KILLS} kills, runs that moved {runs:?}");
        let left = counts(&client, FROM).await;
        assert_eq!(
            (left.ready, left.leased, left.blocked, left.acked),
            (0, 0, 0, MESSAGES),
            "{left:?}"
        );
        check(&read(&client, TO).await, MESSAGES);
    });
}

/// Messages acknowledged by a run that goes as fast as it can, when it is killed.
const KILLED_AFTER: [u64; 2] = [40, 100];
/// Enough that a run is not through by then.
const MANY: u64 = 1_500;

#[test]
fn a_move_that_is_killed_leaves_nothing_leased_for_long_and_the_next_waits_for_it_and_goes_on() {
    turn::alone(2 * HEAVY, async {
        let cluster = Cluster::start(3).await;
        // Twelve hours, were the move to take what the queue has.
        let hours = 43_200_000;
        let long = QueueSettings { lease_ms: hours, session_grace_ms: hours, ..Default::default() };
        // As few ids as a move goes on with: what the killed one had sent must come before that is used up.
        let window = QueueSettings { message_id_window: 512, ..Default::default() };
        let client = queues(&cluster, long, window).await;
        publish(&client, FROM, numbered(MANY)).await;
        let server = cluster.addresses().join(",");
        for killed_after in KILLED_AFTER {
            let killed_at = counts(&client, FROM).await.acked + killed_after;
            let args = ["move", FROM, TO, "--server", &server].map(str::to_owned);
            let log = tempfile::NamedTempFile::new().expect("a file");
            let mut killed = Server::start_command("queue", &args, log.path());
            until(&client, |from| from.acked >= killed_at).await;
            killed.kill9();
            let at = counts(&client, FROM).await;
            println!("killed with {} acknowledged, {} leased", at.acked, at.leased);
            assert!(at.acked < MANY && at.leased > 0, "it was at work: {at:?}");
        }
        let there = counts(&client, TO).await.published;
        println!("{there} were published, {} acknowledged", counts(&client, FROM).await.acked);
        let (ended, said) = moved(&server, &[]).await;
        assert_eq!((ended.code, &said["not_acknowledged"]), (Some(0), &0.into()), "{said}");
        assert!(ended.err.contains("which is gone"), "it says what it waits for: {}", ended.err);
        let left = counts(&client, FROM).await;
        assert_eq!((left.ready, left.leased, left.acked), (0, 0, MANY), "{left:?}");
        check(&read(&client, TO).await, MANY);
        let (ended, said) = moved(&server, &[]).await;
        assert_eq!((ended.code, &said["moved"]), (Some(0), &0.into()), "nothing is left: {said}");
    });
}

async fn until(client: &Client, holds: impl Fn(&QueueCounts) -> bool) {
    let begun = Instant::now();
    loop {
        let from = counts(client, FROM).await;
        if holds(&from) {
            return;
        }
        assert!(begun.elapsed() < SOON, "{from:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn messages_are_chosen_by_header_and_count_and_keep_their_priorities_and_times_to_live() {
    turn::beside_others(HEAVY, async {
        let cluster = Cluster::start(1).await;
        let priorities = || QueueSettings { priorities: true, ..Default::default() };
        let client = queues(&cluster, priorities(), priorities()).await;
        let message = |number: u64| {
            let message =
                Message::new(number.to_string()).header("parity", (number % 2).to_string());
            message.priority((number % 4) as u8).ttl(Duration::from_secs(3_600))
        };
        publish(&client, FROM, (0..40).map(message)).await;
        let server = cluster.addresses().join(",");
        let (ended, said) = moved(&server, &["--where", "parity=1", "--dry-run"]).await;
        assert_eq!((ended.code, &said["would_move"]), (Some(0), &20.into()), "{said}");
        assert_eq!(counts(&client, TO).await.published, 0, "nothing was done");
        let (ended, said) = moved(&server, &["--where", "parity=1", "--count", "8"]).await;
        assert_eq!((ended.code, &said["moved"]), (Some(0), &8.into()), "{said} {}", ended.err);
        let there = read(&client, TO).await;
        let mut numbers: Vec<u64> = there.iter().map(number).collect();
        // Those of priority 3 first.
        assert_eq!(numbers, [3, 7, 11, 15, 1, 5, 9, 13]);
        for (offset, number) in (0..).zip(&numbers) {
            let explained = client.explain_message(TO, offset).await.expect("explained");
            let facts = explained.facts.expect("facts");
            assert_eq!(facts.priority, Some((number % 4) as u32), "of {number}");
            let left = facts.own_expires_at_ms.expect("a time to live") - explained.now_ms;
            assert!((3_000_000..=3_600_000).contains(&left), "{left} ms are left");
        }
        let left = counts(&client, FROM).await;
        assert_eq!((left.ready, left.leased, left.acked), (32, 0, 8), "at their place: {left:?}");
        let (ended, said) = moved(&server, &["--count", "2"]).await;
        assert_eq!((ended.code, &said["moved"]), (Some(0), &2.into()), "{said}");
        numbers = read(&client, TO).await.iter().map(number).collect();
        assert_eq!(numbers[8..], [19, 23], "the first that would be handed out");
    });
}

#[test]
fn what_is_settled_and_kept_for_readers_is_not_chosen_and_what_does_not_come_is_no_success() {
    turn::beside_others(HEAVY, async {
        let cluster = Cluster::start(1).await;
        let retains = QueueSettings { retain_ms: 3_600_000, ..Default::default() };
        let client = queues(&cluster, retains, QueueSettings::default()).await;
        let message = |number: u64| {
            let message =
                Message::new(number.to_string()).header("parity", (number % 2).to_string());
            message.header("all", "1")
        };
        publish(&client, FROM, (0..40).map(message)).await;
        // Settled are 0 to 9, at the beginning, and 11, behind what is held.
        let consumer = client.consumer(FROM).prefetch(40).build().await.expect("a consumer");
        let mut taken = consumer.take(40);
        while let Some(delivery) = taken.next().await {
            let delivery = delivery.expect("a delivery");
            match delivery.offset {
                0..=9 | 11 => delivery.ack().await.expect("acknowledged"),
                20 => delivery.nack(Some(HEAVY)).await.expect("delayed"),
                _ => delivery.put_back().await.expect("given back"),
            }
            let counts = counts(&client, FROM).await;
            if counts.acked == 11 && counts.delayed == 1 {
                break;
            }
        }
        taken.into_inner().close().await;
        let server = cluster.addresses().join(",");
        let (ended, said) = moved(&server, &["--where", "parity=1", "--count", "3"]).await;
        assert_eq!((ended.code, &said["moved"]), (Some(0), &3.into()), "{said} {}", ended.err);
        let numbers = |there: Vec<ReadMessage>| there.iter().map(number).collect::<Vec<_>>();
        assert_eq!(numbers(read(&client, TO).await), [13, 15, 17]);
        let (ended, said) = moved(&server, &["--where", "parity=1"]).await;
        assert_eq!((ended.code, &said["moved"]), (Some(0), &11.into()), "{said} {}", ended.err);
        // One of those that are chosen waits for its time: it stays, and the command does not say that it is done.
        let (ended, said) = moved(&server, &["--where", "all=1"]).await;
        assert_eq!((&said["moved"], &said["not_reached"]), (&14.into(), &0.into()), "{said}");
        assert_eq!(ended.code, Some(0), "what is delayed was not to be moved: {}", ended.err);
        let left = counts(&client, FROM).await;
        assert_eq!((left.ready, left.leased, left.delayed), (0, 0, 1), "{left:?}");
    });
}

#[test]
fn what_would_lose_a_part_of_a_message_is_refused_before_one_is_taken() {
    turn::beside_others(HEAVY, async {
        let cluster = Cluster::start(1).await;
        let priorities = QueueSettings { priorities: true, ..Default::default() };
        let client = queues(&cluster, priorities, QueueSettings::default()).await;
        publish(&client, FROM, (0..5).map(|n| Message::new(n.to_string()).priority(n as u8))).await;
        let server = cluster.addresses().join(",");
        let (ended, _) = moved(&server, &[]).await;
        assert_eq!(ended.code, Some(6), "{}", ended.err);
        assert!(
            ended.err.contains("PRIORITIES_OFF") && ended.err.contains("--priorities"),
            "{}",
            ended.err
        );
        let itself = ["queue", "move", FROM, FROM, "--server", &server];
        assert_eq!(run(&itself, SOON).await.code, Some(2));
        let nowhere = ["queue", "move", FROM, "no-such-queue", "--server", &server];
        assert_eq!(run(&nowhere, SOON).await.code, Some(5));
        client
            .control_consumers(FROM, Consumers::All, ConsumerControl::Pause)
            .await
            .expect("paused");
        let (ended, _) = moved(&server, &["--without-priorities"]).await;
        assert!(ended.code == Some(6) && ended.err.contains("queue resume"), "{}", ended.err);
        client
            .control_consumers(FROM, Consumers::All, ConsumerControl::Resume)
            .await
            .expect("resumed");
        assert_eq!(counts(&client, FROM).await.ready, 5, "nothing was taken");
        let (ended, said) = moved(&server, &["--without-priorities"]).await;
        assert_eq!((ended.code, &said["moved"]), (Some(0), &5.into()), "{said} {}", ended.err);
        let numbers: Vec<u64> = read(&client, TO).await.iter().map(number).collect();
        assert_eq!(numbers, [4, 3, 2, 1, 0], "in the order in which they would be handed out");
    });
}
