//! Settings that are changed while the queue is used, and files that say what queues there are to be.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use quorate_client::{
    AckLevel, Client, Consumer, ConsumerBuilder, Delivery, Error, Message, PublishError,
    QueueSettings, reason,
};
use quorate_proto::v1;
use quorate_tests::process::{Ended, run};
use quorate_tests::raw::RawConsumer;
use quorate_tests::{Cluster, raw, turn};

use crate::{HEAVY, LIGHT, SOON, until_killed};

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

/// A consumer's next message.
async fn next(consumer: &mut Consumer) -> Delivery {
    let next = tokio::time::timeout(SOON, consumer.next()).await.expect("in time");
    next.expect("goes on").expect("a delivery")
}

async fn set(client: &Client, wanted: QueueSettings, field: &str) {
    let updated = client.update_queue(QUEUE, wanted, &[field], false).await.expect("updated");
    assert!(updated.effective);
}

async fn set_lease(client: &Client, lease_ms: u32) {
    set(client, QueueSettings { lease_ms, ..Default::default() }, "lease_ms").await;
}

/// Consumers that get their messages from the leader, and from a follower.
fn builders(client: &Client) -> [ConsumerBuilder; 2] {
    let at_leader = client.consumer(QUEUE);
    [at_leader.clone().max_lag(Duration::from_secs(10)), at_leader]
}

#[test]
fn a_handler_may_take_longer_than_a_lease_that_was_lowered_under_it() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let client = cluster.queue(QUEUE).await;
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        for builder in builders(&client) {
            set_lease(&client, 30_000).await;
            let mut consumer = builder.prefetch(4).build().await.expect("a consumer");
            producer.publish(Message::new("before")).await.expect("published");
            let before = next(&mut consumer).await;
            set_lease(&client, 1_000).await;
            producer.publish(Message::new("after")).await.expect("published");
            let after = next(&mut consumer).await;
            let more = tokio::time::timeout(Duration::from_millis(3_500), consumer.next()).await;
            assert!(more.is_err(), "{more:?}");
            before.ack().await.expect("its lease lasts");
            after.ack().await.expect("its lease was extended");
            consumer.close().await;
        }
    });
}

#[test]
fn settings_that_change_leave_no_ack_in_doubt_and_show_no_message_twice() {
    turn::alone(HEAVY, async {
        const MESSAGES: u64 = 3_000;
        let cluster = Cluster::start(3).await;
        let client = cluster.queue(QUEUE).await;
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        for builder in builders(&client) {
            let mut consumer = builder.prefetch(64).build().await.expect("a consumer");
            let mut sent = Vec::new();
            for n in 0..MESSAGES {
                sent.push(producer.send(Message::new(n.to_string())).await.expect("sent"));
            }
            let consuming = async {
                let (mut acks, mut shown) = (tokio::task::JoinSet::new(), BTreeSet::new());
                while (shown.len() as u64) < MESSAGES {
                    let delivery = next(&mut consumer).await;
                    assert!(shown.insert(delivery.offset), "{} once more", delivery.offset);
                    acks.spawn(delivery.ack());
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                while let Some(acked) = acks.join_next().await {
                    acked.expect("no panic").expect("acknowledged");
                }
            };
            let changing = async {
                for lease_ms in (20_000..).step_by(1_000) {
                    set_lease(&client, lease_ms).await;
                    tokio::time::sleep(Duration::from_millis(150)).await;
                }
            };
            tokio::select! {
                () = consuming => {}
                () = changing => {}
            }
            consumer.close().await;
        }
        let counts = client.describe_queue(QUEUE).await.expect("describe").counts.expect("counts");
        assert_eq!(counts.acked, 2 * MESSAGES);
    });
}

#[test]
fn what_was_not_begun_is_not_charged_once_deliveries_are_limited() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let grace = QueueSettings { session_grace_ms: 1_000, ..Default::default() };
        let client = cluster.queue_with(QUEUE, grace).await;
        let servers = cluster.addresses();
        until_killed(async move {
            let client = Client::connect(servers).await.expect("connect");
            let building = client.consumer(QUEUE).prefetch(10).build();
            let mut consumer = building.await.expect("a consumer");
            let limited = QueueSettings { max_deliveries: 3, ..Default::default() };
            set(&client, limited, "max_deliveries").await;
            // It attaches again; what it is handed before that counts as begun.
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            let producer = client.producer(QUEUE).build().await.expect("a producer");
            for n in 0..5 {
                producer.publish(Message::new(n.to_string())).await.expect("published");
            }
            let first = next(&mut consumer).await;
            tokio::time::sleep(Duration::from_millis(1_000)).await;
            (consumer, first)
        });
        let mut last = client.consumer(QUEUE).prefetch(10).build().await.expect("a consumer");
        let mut again = Vec::new();
        for _ in 0..5 {
            let delivery = next(&mut last).await;
            again.push((delivery.offset, delivery.attempt));
            delivery.ack_later();
        }
        again.sort_unstable();
        assert_eq!(again, [(0, 2), (1, 1), (2, 1), (3, 1), (4, 1)]);
        last.close().await;
    });
}

#[test]
fn only_who_goes_by_what_has_changed_is_told_to_attach_again() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let client = cluster.queue(QUEUE).await;
        raw::publish(&cluster.address(1), QUEUE, "x", None).await.expect("published");
        let attach = v1::Attach { tells_starts: true, ..raw::attach(QUEUE, &raw::session(), 1) };
        let own_lease = v1::Attach { lease_ms: 20_000, ..raw::attach(QUEUE, &raw::session(), 1) };
        let at = cluster.address(1);
        let mut consumer = RawConsumer::attach(&at, attach.clone()).await.expect("attach");
        let held = consumer.delivery().await;
        let mut own = RawConsumer::attach(&at, own_lease).await.expect("attach");
        assert!(!consumer.attached.tell_starts);

        let others = QueueSettings { max_messages: 9, ..Default::default() };
        set(&client, others, "max_messages").await;
        assert!(consumer.is_silent_for(Duration::from_millis(500)).await, "nothing of its own");
        set_lease(&client, 5_000).await;
        let status = consumer.answer().await.expect_err("the stream ends");
        assert_eq!(raw::reason(&status), reason::SESSION_CLOSED, "{status:?}");
        assert!(status.message().contains("lease_ms") && status.message().contains("attach again"));
        assert!(own.is_silent_for(Duration::from_millis(500)).await, "its lease is its own");

        let mut consumer = RawConsumer::attach(&at, attach.clone()).await.expect("attach");
        assert_eq!((consumer.attached.lease_ms, consumer.attached.tell_starts), (5_000, false));
        let again = consumer.delivery().await;
        assert_eq!((again.first_offset, again.token), (held.first_offset, held.token));
        let limited = QueueSettings { max_deliveries: 3, retry_ms: 50, ..Default::default() };
        set(&client, limited.clone(), "max_deliveries").await;
        for stream in [&mut consumer, &mut own] {
            let status = stream.answer().await.expect_err("the stream ends");
            assert_eq!(raw::reason(&status), reason::SESSION_CLOSED, "{status:?}");
        }
        let mut consumer = RawConsumer::attach(&at, attach).await.expect("attach");
        assert!(consumer.attached.tell_starts);
        consumer.delivery().await;
        // Deliveries are counted already.
        set(&client, limited, "retry_ms").await;
        assert!(consumer.is_silent_for(Duration::from_millis(500)).await, "as it was");
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
