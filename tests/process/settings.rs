//! Settings that are changed while the queue is used, and files that say what queues there are to be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use quorate_client::{AckLevel, Client, Error, Message, PublishError, QueueSettings, reason};
use quorate_tests::process::{Ended, run};
use quorate_tests::{Cluster, raw, turn};

use crate::{HEAVY, LIGHT, SOON};

const QUEUE: &str = "orders";

async fn settings(client: &Client) -> QueueSettings {
    let queue = client.describe_queue(QUEUE).await.expect("describe");
    queue.settings.expect("settings")
}

async fn quorate(cluster: &Cluster, args: &[&str]) -> Ended {
    let server = cluster.addresses().join(",");
    run(&[args, &["--server", &server]].concat(), SOON).await
}

async fn done(cluster: &Cluster, args: &[&str]) -> String {
    let ended = quorate(cluster, args).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    ended.out
}

#[test]
fn new_settings_hold_at_once_and_after_failovers_and_restarts() {
    turn::alone(HEAVY, async {
        let mut cluster = Cluster::start(3).await;
        let first = QueueSettings { max_messages: 5, max_deliveries: 100, ..Default::default() };
        let client = cluster.queue_with(QUEUE, first).await;
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        for n in 0..5 {
            producer.publish(Message::new(n.to_string())).await.expect("within the limit");
        }
        let full = producer.publish(Message::new("6")).await.expect_err("the limit");
        assert_eq!(full.reason(), Some(reason::QUEUE_FULL));
        // A higher limit: the same producer goes on.
        let wanted = QueueSettings { max_messages: 7, lease_ms: 900, ..Default::default() };
        let begun = Instant::now();
        let updated = client.update_queue(QUEUE, wanted.clone(), &["max_messages"], false).await;
        let updated = updated.expect("updated");
        println!("effective after {:?}", begun.elapsed());
        assert!(updated.effective);
        assert_eq!(updated.changed, ["max_messages"]);
        assert_eq!((updated.before.max_messages, updated.before.lease_ms), (5, 30_000));
        producer.publish(Message::new("6")).await.expect("by the new limit");
        producer.publish(Message::new("7")).await.expect("by the new limit");
        let full = producer.publish(Message::new("8")).await.expect_err("the new limit");
        assert_eq!(full.reason(), Some(reason::QUEUE_FULL));
        let now = settings(&client).await;
        assert_eq!((now.max_messages, now.max_deliveries, now.lease_ms), (7, 100, 30_000));
        // Shorter leases, for a consumer that is attached already.
        let mut consumer = client.consumer(QUEUE).prefetch(1).build().await.expect("a consumer");
        let held = consumer.next().await.expect("goes on").expect("a delivery");
        client.update_queue(QUEUE, wanted.clone(), &["lease_ms"], false).await.expect("updated");
        held.ack().await.expect("its lease is the old one");
        let held = consumer.next().await.expect("goes on").expect("a delivery");
        let taken = tokio::time::timeout(Duration::from_secs(20), async {
            // The SDK extends what it holds; a plain consumer does not.
            drop(held);
            let attach = raw::attach(QUEUE, &raw::session(), 1);
            let leader = cluster.address(cluster.leader_of(QUEUE).await);
            let mut plain = raw::RawConsumer::attach(&leader, attach).await.expect("attach");
            let begun = Instant::now();
            let first = plain.delivery().await;
            // After 900 ms it comes again, or goes to the other one.
            let again = plain.delivery().await;
            assert!(again.token > first.token);
            begun.elapsed()
        });
        let took = taken.await.expect("leases end in a second");
        assert!(took < Duration::from_secs(15), "{took:?}");
        consumer.close().await;
        // Over the death of the leader, and of all.
        let leader = cluster.leader_of(QUEUE).await;
        cluster.kill9(leader);
        producer.publish(Message::new("8")).await.expect("one was acknowledged");
        let full = producer.publish(Message::new("9")).await.expect_err("at the next leader too");
        assert_eq!(full.reason(), Some(reason::QUEUE_FULL));
        cluster.start_node(leader);
        for node in cluster.ids() {
            cluster.kill9(node);
        }
        for node in cluster.ids() {
            cluster.start_node(node);
        }
        cluster.ready().await;
        let now = settings(&client).await;
        assert_eq!((now.max_messages, now.max_deliveries, now.lease_ms), (7, 100, 900));
        let version = client.describe_queue(QUEUE).await.expect("describe").settings_version;
        // Asking for what is so changes nothing.
        let again = client.update_queue(QUEUE, wanted, &["max_messages", "lease_ms"], false).await;
        let again = again.expect("nothing to do");
        assert!(again.changed.is_empty() && again.effective);
        let queue = client.describe_queue(QUEUE).await.expect("describe");
        assert_eq!(queue.settings_version, version);
    });
}

#[test]
fn a_queue_that_is_parked_and_one_without_a_majority_take_new_settings_over() {
    turn::beside_others(LIGHT, async {
        let mut cluster = Cluster::start(3).await;
        let client = cluster.queue(QUEUE).await;
        let update = async |max_messages, limit| {
            let client = cluster.client().await;
            let wanted = QueueSettings { max_messages, ..Default::default() };
            let updating = client.update_queue(QUEUE, wanted, &["max_messages"], false);
            tokio::time::timeout(limit, updating).await.expect("an answer").expect("updated")
        };
        // Twice the time after which it is parked.
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(update(7, SOON).await.effective);
        let leader = cluster.leader_of(QUEUE).await;
        // The catalog goes on with one node less, a queue on one node does not.
        let single = QueueSettings { replicas: 1, ..Default::default() };
        client.create_queue("single", single).await.expect("created");
        let holder = client.describe_queue("single").await.expect("describe").replicas[0].node_id;
        println!("{QUEUE} at {leader}, single at {holder}");
        cluster.kill9(holder);
        let wanted = QueueSettings { max_messages: 3, ..Default::default() };
        let updating = client.update_queue("single", wanted, &["max_messages"], false);
        let updated = updating.await.expect("the catalog has it");
        assert!(!updated.effective, "nobody leads it");
        cluster.start_node(holder);
        // As soon as it is led it goes by them.
        let producer = client.producer("single").batch_messages(1).build().await;
        let producer = producer.expect("a producer");
        for n in 0..3 {
            producer.publish(Message::new(n.to_string())).await.expect("within the limit");
        }
        let full = producer.publish(Message::new("4")).await.expect_err("the limit");
        assert_eq!(full.reason(), Some(reason::QUEUE_FULL));
    });
}

#[test]
fn what_was_accepted_before_a_limit_came_is_in_the_queue() {
    turn::alone(HEAVY, async {
        let cluster = Cluster::start(3).await;
        let client = cluster.queue(QUEUE).await;
        let producer =
            client.producer(QUEUE).ack(AckLevel::Accepted).batch_messages(1).in_flight(256);
        // What is refused begins a stream of its own: the rest of a flood is given up.
        let producer = producer.deadline(Duration::from_secs(2)).build().await;
        let producer = Arc::new(producer.expect("a producer"));
        let limit = async |max_messages| {
            let wanted = QueueSettings { max_messages, ..Default::default() };
            let updated = client.update_queue(QUEUE, wanted, &["max_messages"], false).await;
            assert!(updated.expect("updated").effective);
        };
        let (mut accepted, mut refused, mut entered, mut unknown) = (0, 0, 0, 0);
        for _ in 0..5 {
            limit(0).await;
            client.purge_queue(QUEUE).await.expect("purged");
            let is_limited = Arc::new(AtomicBool::new(false));
            let flood = tokio::spawn({
                let (producer, is_limited) = (Arc::clone(&producer), Arc::clone(&is_limited));
                async move {
                    let mut pending = Vec::new();
                    while !is_limited.load(Ordering::Relaxed) {
                        pending.push(producer.send(Message::new("x")).await.expect("sent"));
                    }
                    let mut outcomes = Vec::new();
                    for pending in pending {
                        outcomes.push(pending.await);
                    }
                    outcomes
                }
            });
            tokio::time::sleep(Duration::from_millis(60)).await;
            limit(1).await;
            is_limited.store(true, Ordering::Relaxed);
            for outcome in flood.await.expect("no panic") {
                match outcome {
                    Ok(receipt) if receipt.level == AckLevel::Accepted => accepted += 1,
                    Ok(_) => entered += 1,
                    Err(PublishError::UnknownOutcome { .. }) => unknown += 1,
                    Err(_) => refused += 1,
                }
            }
        }
        println!(
            "{accepted} accepted, {entered} confirmed by a majority, {refused} refused, {unknown} unknown"
        );
        assert!(accepted > 100 && refused > 0, "the limit came in between");
        let counts = client.describe_queue(QUEUE).await.expect("describe").counts.expect("counts");
        let receipts = accepted + entered;
        let may_be = receipts..=receipts + unknown;
        assert!(may_be.contains(&counts.published), "{} of {may_be:?}", counts.published);
    });
}

#[test]
fn updates_of_different_settings_at_a_time_are_all_kept() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let client = cluster.queue(QUEUE).await;
        let wanted = QueueSettings {
            max_messages: 1_000,
            max_bytes: 1 << 30,
            max_deliveries: 9,
            lease_ms: 5_000,
            session_grace_ms: 5_000,
            dedup_age_ms: 60_000,
            retain_ms: 60_000,
            message_id_window: 100,
            ..Default::default()
        };
        let fields = [
            "max_messages",
            "max_bytes",
            "max_deliveries",
            "lease_ms",
            "session_grace_ms",
            "dedup_age_ms",
            "retain_ms",
            "message_id_window",
        ];
        let mut updates = tokio::task::JoinSet::new();
        for field in fields {
            let client = client.clone();
            let wanted = wanted.clone();
            updates.spawn(async move { client.update_queue(QUEUE, wanted, &[field], false).await });
        }
        while let Some(updated) = updates.join_next().await {
            assert!(updated.expect("no panic").expect("updated").effective);
        }
        let now = settings(&client).await;
        let wanted = QueueSettings {
            replicas: 3,
            min_in_sync: now.min_in_sync,
            in_sync_lag_ms: now.in_sync_lag_ms,
            // Said or left out, it is the same.
            overflow: now.overflow,
            ..wanted
        };
        assert_eq!(now, wanted);
    });
}

#[test]
fn settings_that_make_no_sense_change_nothing() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let client = cluster.queue(QUEUE).await;
        let before = settings(&client).await;
        let wrong = QueueSettings {
            replicas: 5,
            lease_ms: 1,
            min_in_sync: 4,
            message_id_window: 1 << 20,
            ..Default::default()
        };
        let update =
            async |fields: &[&str]| client.update_queue(QUEUE, wrong.clone(), fields, false).await;
        let wrongs: [&[&str]; 7] = [
            &["replicas"],
            &["lease_ms"],
            &["min_in_sync"],
            &["message_id_window"],
            &["max_bytes", "lease_ms"],
            &["max_byte"],
            &[],
        ];
        for fields in wrongs {
            let refused = update(fields).await.expect_err("refused");
            assert_eq!(refused.reason(), Some(reason::INVALID_ARGUMENT), "{fields:?}: {refused}");
        }
        let nowhere = client.update_queue("nowhere", wrong, &["max_bytes"], false).await;
        assert!(
            matches!(nowhere, Err(Error::Refused(refusal)) if refusal.reason == reason::QUEUE_NOT_FOUND)
        );
        assert_eq!(settings(&client).await, before);
        // The command line shows a change before it makes it.
        let dry =
            done(&cluster, &["queue", "update", QUEUE, "--max-bytes", "10GiB", "--dry-run"]).await;
        assert!(dry.contains("~ max-bytes none → 10GiB") && dry.contains("would be"), "{dry}");
        assert_eq!(settings(&client).await, before);
        let made =
            done(&cluster, &["queue", "update", QUEUE, "--max-bytes", "10GiB", "--lease", "1m"])
                .await;
        assert!(made.contains("~ lease 30s → 1m") && made.contains("is changed"), "{made}");
        let same = done(&cluster, &["queue", "update", QUEUE, "--lease", "60s"]).await;
        assert!(same.contains("has these settings already"), "{same}");
        let back = done(&cluster, &["queue", "update", QUEUE, "--lease", "0"]).await;
        assert!(back.contains("~ lease 1m → 30s"), "{back}");
        let none = quorate(&cluster, &["queue", "update", QUEUE]).await;
        none.refused_with(2, &["no setting was given"]);
    });
}

#[test]
fn a_file_is_applied_once_and_a_typo_in_it_is_named() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let client = cluster.queue(QUEUE).await;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("queues.toml");
        let file = path.to_str().expect("text");
        let write = |text: &str| std::fs::write(&path, text).expect("written");
        let apply =
            async |more: &[&str]| done(&cluster, &[&["apply", "-f", file], more].concat()).await;
        write(
            "[queue.orders]\nmax-bytes = \"10GiB\"\nlease = \"1m\"\n\n[queue.mail]\nreplicas = 1\nmax-messages = 100\n",
        );
        let dry = apply(&["--dry-run"]).await;
        for line in [
            "+ mail\n    replicas 1\n    max-messages 100\n",
            "~ orders\n    max-bytes none → 10GiB\n    lease 30s → 1m\n",
        ] {
            assert!(dry.contains(line), "{line} in {dry}");
        }
        assert_eq!(client.list_queues().await.expect("list").len(), 1, "nothing was changed");
        let made = apply(&[]).await;
        assert!(made.contains("2 changed"), "{made}");
        let now = settings(&client).await;
        assert_eq!((now.max_bytes, now.lease_ms, now.replicas), (10 << 30, 60_000, 3));
        let again = apply(&[]).await;
        assert_eq!(again, "nothing to change: the cluster is as the file says\n");
        // What is left out of the file stays, a queue too.
        write("[queue.orders]\nlease = \"2m\"\n");
        let less = apply(&["-o", "json"]).await;
        assert_eq!(less.lines().count(), 1, "{less}");
        assert!(less.contains("\"setting\":\"lease\"") && less.contains("\"to\":\"2m\""), "{less}");
        assert_eq!(settings(&client).await.max_bytes, 10 << 30);
        assert_eq!(client.find_queues("m*l").await.expect("find").len(), 1);
        // Mistakes, and nothing is changed.
        let refused = async |text: &str, code, words: &[&str]| {
            write(text);
            quorate(&cluster, &["apply", "-f", file]).await.refused_with(code, words);
        };
        let both = "[queue.new]\n\n[queue.orders]\nlease = \"3m\"\n";
        refused(
            &format!("{both}max-byte = 5\n"),
            2,
            &["queues.toml:5:", "did you mean `max-bytes`?"],
        )
        .await;
        refused(&format!("{both}replicas = 5\n"), 6, &["INVALID_ARGUMENT", "3 replicas"]).await;
        assert_eq!(settings(&client).await.lease_ms, 120_000);
        assert!(client.find_queues("new").await.expect("find").is_empty());
        // Queues that the file does not have go only if that is asked for, and if they are empty.
        write("[queue.orders]\n");
        raw::publish(&cluster.address(1), "mail", "x", None).await.expect("published");
        quorate(&cluster, &["apply", "-f", file, "--prune"])
            .await
            .refused_with(6, &["QUEUE_NOT_EMPTY", "mail", "--force"]);
        client.purge_queue("mail").await.expect("purged");
        let pruned = apply(&["--prune"]).await;
        assert!(pruned.starts_with("- mail\n"), "{pruned}");
        let left = client.list_queues().await.expect("list");
        assert_eq!(left.into_iter().map(|queue| queue.name).collect::<Vec<_>>(), [QUEUE]);
        let listed = done(&cluster, &["queue", "list", "ord*"]).await;
        assert!(listed.contains(QUEUE), "{listed}");
        write("");
        quorate(&cluster, &["apply", "-f", file, "--prune"])
            .await
            .refused_with(2, &["has no queue"]);
    });
}
