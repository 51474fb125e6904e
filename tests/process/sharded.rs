//! Sharded queues: one name over several groups, where keys keep their order, one shard that has no leader keeps nothing
//! back but what is its own, and all shards are made, changed and deleted as one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use quorate_client::{
    Batch, Client, Consumer, ConsumerControl, Consumers, Delivery, Error, Job, JobError, Message,
    Overflow, Producer, PublishError, QueueDescription, QueueSettings, Settlement, reason,
};
use quorate_proto::v1;
use quorate_tests::process::run;
use quorate_tests::{Cluster, raw, turn};

use crate::{HEAVY, LIGHT, SOON};

const QUEUE: &str = "orders";

async fn sharded(cluster: &Cluster, shards: u32, settings: QueueSettings) -> Client {
    let client = cluster.client().await;
    client.create_sharded_queue(QUEUE, shards, settings).await.expect("create the queue");
    client
}

fn shard(number: u16) -> String {
    format!("{QUEUE}@{number}")
}

/// A message that says which key it is of and the how many-th of that key.
fn message(key: u64, number: u64) -> Message {
    Message::new(format!("{key} {number}")).shard_key(key.to_string())
}

fn told(delivery: &Delivery) -> (u64, u64) {
    let text = std::str::from_utf8(&delivery.body).expect("text");
    let (key, number) = text.split_once(' ').expect("a key and a number");
    (key.parse().expect("a key"), number.parse().expect("a number"))
}

async fn next(consumer: &mut Consumer) -> Delivery {
    let next = tokio::time::timeout(SOON, consumer.next()).await.expect("in time");
    next.expect("goes on").expect("a delivery")
}

/// Publishes numbers of each key in turn and waits for all receipts: the shard of each key.
async fn publish(producer: &Producer, keys: u64, numbers: std::ops::Range<u64>) -> Vec<u16> {
    let mut shards = vec![None; keys as usize];
    let mut pending = Vec::new();
    for number in numbers {
        for key in 0..keys {
            let sent = producer.send(message(key, number)).await.expect("sent");
            pending.push((key as usize, sent));
        }
    }
    for (key, sent) in pending {
        let shard = sent.await.expect("confirmed").shard.expect("a receipt names the shard");
        assert_eq!(*shards[key].get_or_insert(shard), shard, "a key has one shard");
    }
    shards.into_iter().flatten().collect()
}

async fn described(client: &Client) -> QueueDescription {
    client.describe_queue(QUEUE).await.expect("describe")
}

/// Waits until the sums over all shards are as they should be.
async fn until(client: &Client, holds: impl Fn(&v1::QueueCounts) -> bool) {
    let begun = Instant::now();
    loop {
        let queue = described(client).await;
        if queue.counts.as_ref().is_some_and(&holds) {
            return;
        }
        assert!(begun.elapsed() < SOON, "{:?}", queue.counts);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn refused<T>(outcome: Result<T, Error>) -> (String, String) {
    match outcome {
        Err(Error::Refused(refusal)) => (refusal.reason, refusal.message),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was done"),
    }
}

#[test]
fn keys_keep_their_order_and_all_arrives_once_while_a_shards_leader_is_killed() {
    const KEYS: u64 = 24;
    const ROUNDS: u64 = 60;
    turn::alone(HEAVY, async {
        let mut cluster = Cluster::start(3).await;
        let client = sharded(&cluster, 3, QueueSettings::default()).await;
        let leaders: BTreeSet<u64> = described(&client)
            .await
            .shards
            .iter()
            .map(|shard| shard.leader.as_ref().expect("it is led").node_id)
            .collect();
        assert_eq!(leaders.len(), 3, "the leaders are spread");
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        let mut consumer = client.consumer(QUEUE).name("all").build().await.expect("a consumer");
        let victim = cluster.leader_of(&shard(1)).await;
        let publishing = tokio::spawn(async move {
            let before = publish(&producer, KEYS, 0..ROUNDS / 2).await;
            let after = publish(&producer, KEYS, ROUNDS / 2..ROUNDS).await;
            assert_eq!(before, after, "keys stay where they are");
            before
        });
        // Of each key, how many of it have come, each once and in order.
        let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
        let mut places: BTreeSet<(u16, u64)> = BTreeSet::new();
        let mut killed = false;
        while seen.values().sum::<u64>() < KEYS * ROUNDS {
            let delivery = next(&mut consumer).await;
            let (key, number) = told(&delivery);
            let place = (delivery.shard.expect("a shard"), delivery.offset);
            // What had been settled, and the dead leader had not told us of, may come again, as it was.
            let is_new = places.insert(place);
            let expected = seen.entry(key).or_default();
            if is_new {
                assert_eq!(number, *expected, "key {key} at {place:?}");
                *expected += 1;
            } else {
                assert!(number < *expected, "key {key} at {place:?}");
            }
            delivery.ack_later();
            if !killed && places.len() as u64 > KEYS * ROUNDS / 4 {
                cluster.kill9(victim);
                killed = true;
            }
        }
        let shards = publishing.await.expect("published");
        assert_eq!(shards.iter().collect::<BTreeSet<_>>().len(), 3, "every shard has keys");
        assert_eq!(places.len() as u64, KEYS * ROUNDS, "each entered once");
        consumer.close().await;
        until(&client, |counts| counts.acked == KEYS * ROUNDS && counts.ready == 0).await;
    });
}

#[test]
fn a_shard_without_a_majority_stalls_only_what_is_its_own() {
    const KEYS: u64 = 12;
    turn::beside_others(HEAVY, async {
        let mut cluster = Cluster::start(3).await;
        // One replica each, so that a node that is gone takes its shard with it.
        let settings = QueueSettings { replicas: 1, ..Default::default() };
        let client = sharded(&cluster, 3, settings).await;
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        let of_key = publish(&producer, KEYS, 0..1).await;
        let stalled = of_key[0];
        let mut consumer = client.consumer(QUEUE).build().await.expect("a consumer");
        for _ in 0..KEYS {
            next(&mut consumer).await.ack().await.expect("acknowledged");
        }
        let victim = cluster.leader_of(&shard(stalled)).await;
        cluster.kill9(victim);
        let mut waiting = Vec::new();
        for key in 0..KEYS {
            waiting.push((key, producer.send(message(key, 1)).await.expect("sent")));
        }
        // Those of the other shards are confirmed and come; those of the stalled one do neither.
        let others = |key: &u64| of_key[*key as usize] != stalled;
        let (confirmed, stuck): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|(key, _)| others(key));
        let expected = confirmed.len();
        assert!(expected > 0 && !stuck.is_empty());
        for (_, sent) in confirmed {
            tokio::time::timeout(SOON, sent).await.expect("in time").expect("confirmed");
        }
        for _ in 0..expected {
            let delivery = next(&mut consumer).await;
            assert!(others(&told(&delivery).0), "{delivery:?}");
            delivery.ack().await.expect("acknowledged");
        }
        // A consumer and a producer that begin now are not kept waiting by it either.
        let late = client.consumer(QUEUE).build().await.expect("a consumer");
        late.close().await;
        let late = client.producer(QUEUE).build().await.expect("a producer");
        let key = (0..KEYS).find(others).expect("one of another shard");
        late.publish(message(key, 2)).await.expect("confirmed");
        next(&mut consumer).await.ack().await.expect("acknowledged");
        // It is described without the sums that nobody knows, and what can be purged is.
        let queue = described(&client).await;
        let of = |number: u16| &queue.shards[usize::from(number)];
        assert!(queue.counts.is_none() && of(stalled).counts.is_none());
        assert!((0..3).filter(|number| *number != stalled).all(|n| of(n).counts.is_some()));
        let (why, message) = refused(client.purge_queue(QUEUE).await);
        assert_eq!(why, reason::NO_QUORUM, "{message}");
        for number in 0..3 {
            assert!(message.contains(&shard(number)), "it says where it was done: {message}");
        }
        cluster.start_node(victim);
        let stuck_count = stuck.len();
        for (_, sent) in stuck {
            tokio::time::timeout(SOON, sent).await.expect("in time").expect("confirmed");
        }
        for _ in 0..stuck_count {
            let delivery = next(&mut consumer).await;
            assert_eq!(delivery.shard, Some(stalled));
            delivery.ack().await.expect("acknowledged");
        }
    });
}

#[test]
fn a_sharded_queue_is_made_changed_paused_purged_and_deleted_as_one() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let settings = QueueSettings { max_messages: 100, ..Default::default() };
        let client = sharded(&cluster, 4, settings.clone()).await;
        let again = client.create_sharded_queue(QUEUE, 4, settings.clone()).await;
        assert!(!again.expect("it is there").created);
        let other = client.create_sharded_queue(QUEUE, 5, settings.clone()).await;
        assert_eq!(refused(other).0, reason::QUEUE_EXISTS);
        let plain = client.create_queue(QUEUE, settings.clone()).await;
        assert_eq!(refused(plain).0, reason::QUEUE_EXISTS);
        // All or nothing: no shard of what was refused is there.
        let wide = QueueSettings { replicas: 5, ..Default::default() };
        let missing = client.create_sharded_queue("wide", 4, wide).await;
        assert_eq!(refused(missing).0, reason::NOT_ENOUGH_NODES);
        for shards in [1, 65, 1 << 20] {
            let wrong = client.create_sharded_queue("wide", shards, QueueSettings::default());
            assert_eq!(refused(wrong.await).0, reason::INVALID_ARGUMENT);
        }
        let listed = client.list_queues().await.expect("list");
        let names: Vec<&str> = listed.iter().map(|queue| queue.name.as_str()).collect();
        assert_eq!(names, ["orders", "orders@0", "orders@1", "orders@2", "orders@3"]);
        assert_eq!(client.find_queues("*@2").await.expect("find").len(), 1);
        let shards = listed[0].sharding.as_ref().expect("it is sharded");
        assert_eq!(shards.hash.as_str(), "xxh64");
        assert_eq!(shards.shards, names[1..]);

        let producer = client.producer(QUEUE).build().await.expect("a producer");
        publish(&producer, 20, 0..2).await;
        let queue = described(&client).await;
        assert_eq!(queue.counts.expect("sums").ready, 40);
        let each: Vec<u64> =
            queue.shards.iter().map(|shard| shard.counts.expect("known").ready).collect();
        assert_eq!(each.iter().sum::<u64>(), 40, "{each:?}");

        // Settings go to all shards, and to none alone.
        let wanted = QueueSettings {
            max_messages: 200,
            overflow: Overflow::DropHead.into(),
            ..Default::default()
        };
        let fields = ["max_messages", "overflow"];
        let dry = client.update_queue(QUEUE, wanted.clone(), &fields, true).await.expect("checked");
        assert_eq!((dry.changed.len(), dry.effective), (2, false));
        let updated = client.update_queue(QUEUE, wanted.clone(), &fields, false).await;
        let updated = updated.expect("updated");
        assert_eq!((updated.changed, updated.effective), (fields.map(str::to_owned).into(), true));
        for shard in described(&client).await.shards {
            assert_eq!(shard.settings.expect("known").max_messages, 200, "{}", shard.name);
        }
        let alone = client.update_queue(shard(1), wanted, &fields, false).await;
        let (why, said) = refused(alone);
        assert_eq!(why, reason::IS_SHARD, "{said}");
        assert_eq!(refused(client.delete_queue(shard(1), false).await).0, reason::IS_SHARD);

        // Paused, nothing is handed out by any shard.
        client
            .control_consumers(QUEUE, Consumers::All, ConsumerControl::Pause)
            .await
            .expect("paused");
        assert!(described(&client).await.paused);
        let mut consumer = client.consumer(QUEUE).name("one").build().await.expect("a consumer");
        let early = tokio::time::timeout(Duration::from_millis(500), consumer.next()).await;
        assert!(early.is_err(), "{early:?}");
        client.control_consumers(QUEUE, Consumers::All, ConsumerControl::Resume).await.expect("on");
        next(&mut consumer).await.ack().await.expect("acknowledged");
        let attached = described(&client).await.consumers;
        assert_eq!(attached.len(), 1, "one consumer, not one for each shard: {attached:?}");

        let held = refused(client.delete_queue(QUEUE, true).await);
        assert_eq!(held.0, reason::QUEUE_NOT_EMPTY);
        consumer.close().await;
        until(&client, |counts| counts.leased == 0).await;
        assert_eq!(client.purge_queue(QUEUE).await.expect("purged"), 39);
        until(&client, |counts| counts.ready == 0).await;
        client.delete_queue(QUEUE, true).await.expect("deleted");
        assert!(client.list_queues().await.expect("list").is_empty());
        // What was open ends with the reason, and spreads nothing over other shards of the name later.
        let begun = Instant::now();
        let gone = loop {
            match producer.publish(message(1, 1)).await {
                Err(gone) => break gone,
                // The shard's node has not heard of it yet.
                Ok(_) => assert!(begun.elapsed() < SOON, "it is there still"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert!(format!("{gone:?}").contains(reason::QUEUE_NOT_FOUND), "{gone:?}");
        client.create_sharded_queue(QUEUE, 5, settings).await.expect("created again");
        let other = producer.publish(message(1, 1)).await.expect_err("of another list");
        assert_eq!(other.reason(), Some(reason::SHARDS_CHANGED), "{other:?}");
        let anew = client.producer(QUEUE).build().await.expect("a producer");
        anew.publish(message(1, 1)).await.expect("confirmed");
    });
}

#[test]
fn what_is_not_for_a_sharded_queue_is_refused_with_the_reason_and_what_to_do() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(1).await;
        let client = sharded(&cluster, 3, QueueSettings::default()).await;
        let address = cluster.address(1);
        let is_sharded = |(why, message): (String, String)| {
            assert_eq!(why, reason::SHARDED_QUEUE, "{message}");
            assert!(message.contains("orders@0, orders@1, orders@2"), "{message}");
        };
        // Streams and calls without the SDK.
        let mut publishing =
            v1::queue_service_client::QueueServiceClient::new(raw::channel(&address));
        let open = v1::PublishOpen { queue: QUEUE.to_owned(), ..Default::default() };
        let open = v1::publish_stream_request::Request::Open(open);
        let first = v1::PublishStreamRequest { request: Some(open) };
        let status = publishing.publish_stream(futures_util::stream::iter([first])).await;
        let status = status.expect_err("one queue has a stream");
        is_sharded((raw::reason(&status), status.message().to_owned()));
        let mut consuming =
            v1::consumer_service_client::ConsumerServiceClient::new(raw::channel(&address));
        let attach = v1::Attach {
            queue: QUEUE.to_owned(),
            session: raw::session(),
            prefetch: 1,
            ..Default::default()
        };
        let attach = v1::consume_request::Request::Attach(attach);
        let first = v1::ConsumeRequest { request: Some(attach) };
        let status = consuming.consume(futures_util::stream::iter([first])).await;
        let status = status.expect_err("one queue has a stream");
        is_sharded((raw::reason(&status), status.message().to_owned()));
        let receive = v1::ReceiveRequest { queue: QUEUE.to_owned(), ..Default::default() };
        let status = consuming.receive(receive).await.expect_err("of one queue");
        is_sharded((raw::reason(&status), status.message().to_owned()));
        // A reader reads one shard.
        let mut reader = client.reader(QUEUE).build();
        let error = reader.next().await.expect("an answer").expect_err("offsets are of a shard");
        assert_eq!(error.reason(), Some(reason::SHARDED_QUEUE), "{error:?}");
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        publish(&producer, 9, 0..1).await;
        let mut read = 0;
        for number in 0..3 {
            let mut reader = client.reader(shard(number)).linearizable().build();
            while let Some(message) = reader.next().await {
                message.expect("read");
                read += 1;
            }
        }
        assert_eq!(read, 9, "each shard is read by its name");
        is_sharded(refused(client.list_slots(QUEUE).await));
        assert!(client.list_slots(shard(1)).await.expect("a shard has slots").is_empty());
        // A batch is of one shard: all keys, or none.
        let mixed = Batch::new((0..9).map(|key| message(key, 1)));
        let error = producer.publish_batch(mixed).await.expect_err("of different shards");
        assert!(matches!(&error, PublishError::Refused(refusal)
            if refusal.reason == reason::INVALID_ARGUMENT && refusal.message.contains("one shard")));
        let one = Batch::new([message(1, 1), Message::new("1 2"), message(1, 3)]);
        let receipts = producer.publish_batch(one).await.expect("of one shard");
        assert!(receipts.iter().all(|receipt| receipt.shard == receipts[0].shard));
        let offset = Batch::from(message(1, 4)).expect_offset(0);
        let error = producer.publish_batch(offset).await.expect_err("an offset of which shard?");
        assert_eq!(error.reason(), Some(reason::INVALID_ARGUMENT));
        // The same id comes to the same shard, with no key at all.
        let named = || Batch::new([Message::new("a"), Message::new("b")]).id("payment-7");
        let first = producer.publish_batch(named()).await.expect("entered");
        let again = producer.publish_batch(named()).await.expect("entered once");
        assert_eq!((again[0].shard, again[0].offset), (first[0].shard, first[0].offset));
        assert!(again[0].duplicate);
        // Dead letters go to a queue that is not sharded, and names with an @ are those of shards.
        for dead_letter in [QUEUE, "orders@1"] {
            let settings =
                QueueSettings { dead_letter: dead_letter.to_owned(), ..Default::default() };
            let outcome = client.create_queue("more", settings).await;
            assert_eq!(refused(outcome).0, reason::SHARDED_QUEUE);
        }
        let outcome = client.create_queue("orders@9", QueueSettings::default()).await;
        assert_eq!(refused(outcome).0, reason::INVALID_ARGUMENT);
        let outcome = client.delete_queue("orders@9", false).await;
        assert_eq!(refused(outcome).0, reason::QUEUE_NOT_FOUND);
    });
}

#[test]
fn without_the_sdk_a_publish_goes_to_the_shard_of_its_key_from_any_node() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let client = sharded(&cluster, 3, QueueSettings::default()).await;
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        let request = |key: &str| v1::PublishRequest {
            queue: QUEUE.to_owned(),
            messages: vec![v1::Message { body: "x".into(), ..Default::default() }],
            shard_key: key.to_owned(),
            ..Default::default()
        };
        let publish = |node: u64, request| {
            let channel = raw::channel(&cluster.address(node));
            let mut client = v1::queue_service_client::QueueServiceClient::new(channel);
            async move { client.publish(request).await.map(tonic::Response::into_inner) }
        };
        for key in ["a", "order 7", "customer-1042", "zażółć"] {
            let sdk = producer.publish(Message::new("x").shard_key(key)).await.expect("confirmed");
            for node in 1..=3 {
                let answer = publish(node, request(key)).await.expect("published");
                assert_eq!(answer.shard, shard(sdk.shard.expect("a shard")), "{key} at {node}");
                let position = answer.receipt.expect("a receipt").position.expect("a position");
                assert_eq!(position.group, sdk.position.group, "it is there indeed");
            }
        }
        // Without a key each shard has its turn.
        let mut met = BTreeSet::new();
        for _ in 0..3 {
            met.insert(publish(1, request("")).await.expect("published").shard);
        }
        assert_eq!(met.len(), 3, "{met:?}");
        let numbered = v1::PublishRequest {
            producer: Some(v1::Producer { id: "p".to_owned(), epoch: 0 }),
            ..request("a")
        };
        let status = publish(2, numbered).await.expect_err("a sequence of which shard?");
        assert_eq!(raw::reason(&status), reason::INVALID_ARGUMENT);
        assert!(status.message().contains("orders@0"), "{status:?}");
        let mut two = request("");
        let keyed = |key: &str| v1::Message { group_key: key.to_owned(), ..Default::default() };
        two.messages = vec![keyed("a"), keyed("order 7")];
        let status = publish(3, two).await.expect_err("of different shards");
        assert_eq!(raw::reason(&status), reason::INVALID_ARGUMENT);
        // A node that routes by shards which are not those in force: the request is not spoilt by it.
        for node in 1..=3 {
            let routed =
                v1::PublishRequest { queue: shard(0), shards_generation: u64::MAX, ..request("a") };
            let status = publish(node, routed).await.expect_err("other shards");
            assert_eq!(raw::reason(&status), reason::NOT_LEADER, "{status:?}");
        }
    });
}

#[test]
fn workers_and_receivers_take_from_all_shards() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(1).await;
        let client = sharded(&cluster, 3, QueueSettings::default()).await;
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        publish(&producer, 9, 0..2).await;
        let puller = client.pull_consumer(QUEUE);
        let mut shards = BTreeSet::new();
        for _ in 0..9 {
            let received = puller.receive(1, SOON).await.expect("received");
            shards.insert(received[0].held.shard.expect("a shard"));
            // By its text, as scripts do.
            let held = received[0].held.to_string().parse().expect("held");
            puller.settle(held, Settlement::Ack).await.expect("settled");
        }
        assert_eq!(shards.len(), 3, "each has its turn");
        until(&client, |counts| counts.acked == 9 && counts.ready == 9).await;
        let (done, mut told) = tokio::sync::mpsc::unbounded_channel();
        let handle = move |job: Job| {
            let done = done.clone();
            async move {
                done.send(job.shard.expect("a shard")).expect("somebody counts");
                Ok::<(), JobError>(())
            }
        };
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let stopped = async move { drop(stopped.await) };
        let worker = client.worker(QUEUE, handle).concurrency(4).run_until(stopped);
        let worker = tokio::spawn(worker);
        let mut worked = BTreeSet::new();
        for _ in 0..9 {
            let shard = tokio::time::timeout(SOON, told.recv()).await.expect("in time");
            worked.insert(shard.expect("a job"));
        }
        assert_eq!(worked.len(), 3);
        drop(stop);
        worker.await.expect("ended").expect("in order");
        until(&client, |counts| counts.acked == 18).await;
        // Nothing is there: one waits as long as it was asked to, and no longer.
        assert!(puller.receive(1, Duration::from_millis(100)).await.expect("none").is_empty());
        // Made again with other shards, the queue is taken from by who knew the ones before.
        client.delete_queue(QUEUE, false).await.expect("deleted");
        client.create_sharded_queue(QUEUE, 2, QueueSettings::default()).await.expect("made again");
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        publish(&producer, 9, 0..1).await;
        for _ in 0..9 {
            let received = puller.receive(1, SOON).await.expect("received");
            puller.settle(received[0].held, Settlement::Ack).await.expect("settled");
        }
        until(&client, |counts| counts.acked == 9).await;
    });
}

#[test]
fn the_command_line_takes_a_sharded_queue_as_any_other() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(1).await;
        let done = async |words: &[&str]| {
            let address = cluster.address(1);
            let ended = run(&[words, &["--server", &address]].concat(), SOON).await;
            assert_eq!(ended.code, Some(0), "{words:?}: {}\n{}", ended.out, ended.err);
            ended.out
        };
        let failed = async |words: &[&str], code: i32, said: &[&str]| {
            let address = cluster.address(1);
            run(&[words, &["--server", &address]].concat(), SOON).await.refused_with(code, said);
        };
        let made = done(&["queue", "create", QUEUE, "--shards", "3", "-o", "json"]).await;
        let made: serde_json::Value = serde_json::from_str(&made).expect("json");
        assert_eq!(made["sharding"]["shards"][2], "orders@2");
        let sent = done(&["publish", QUEUE, "one", "two", "--shard-key", "a", "-o", "json"]).await;
        for line in sent.lines() {
            assert!(line.contains("\"shard\":2"), "{line}");
        }
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name).to_str().expect("text").to_owned();
        let (receipts, file) = (path("receipts.jsonl"), path("queues.toml"));
        std::fs::write(&receipts, sent).expect("written");
        let verified = done(&["verify", &receipts]).await;
        assert!(verified.contains("2 receipts are honoured"), "{verified}");
        let listed = done(&["queue", "list"]).await;
        assert!(listed.contains("3 shards") && listed.contains("orders@2"), "{listed}");
        let shown = done(&["queue", "describe", QUEUE]).await;
        assert!(shown.contains("3, keys spread by xxh64"), "{shown}");
        let received = done(&["receive", QUEUE, "-o", "json"]).await;
        let received: serde_json::Value = serde_json::from_str(&received).expect("json");
        assert_eq!((&received["body"], &received["shard"]), (&"one".into(), &2.into()));
        let held = received["held"].as_str().expect("text");
        done(&["settle", QUEUE, held]).await;
        let consumed = done(&["consume", QUEUE]).await;
        assert_eq!(consumed, "two\n");
        failed(&["queue", "peek", QUEUE], 6, &["SHARDED_QUEUE", "orders@0"]).await;
        failed(&["queue", "delete", "orders@1", "--yes"], 6, &["IS_SHARD"]).await;
        // A file makes one, and does not divide it anew.
        let write = |text: &str| std::fs::write(&file, text).expect("written");
        write("[queue.orders]\nshards = 3\n\n[queue.mail]\nshards = 2\nlease = \"1m\"\n");
        let applied = done(&["apply", "-f", &file]).await;
        assert!(applied.contains("+ mail") && applied.contains("shards 2"), "{applied}");
        let again = done(&["apply", "-f", &file]).await;
        assert!(again.contains("nothing to change"), "{again}");
        write("[queue.orders]\nshards = 4\n");
        failed(&["apply", "-f", &file], 6, &["has 3 shards", "another name"]).await;
        write("[queue.orders]\n");
        let pruned = done(&["apply", "-f", &file, "--prune"]).await;
        assert!(pruned.starts_with("- mail\n"), "{pruned}");
        let deleted = done(&["queue", "delete", QUEUE, "--yes"]).await;
        assert!(deleted.contains("removed"), "{deleted}");
        assert!(!done(&["queue", "list"]).await.contains('@'));
    });
}
