//! Consumers that an administrator pauses, resumes and ends, at the command line and over gRPC.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use quorate_client::{
    Client, ConsumeError, Consumer, ConsumerControl, Consumers, Error, Message, QueueSettings,
    SeekTo, Sought, reason,
};
use quorate_proto::v1;
use quorate_proto::v1::admin_service_client::AdminServiceClient;
use quorate_tests::process::{Ended, run};
use quorate_tests::raw::{self, RawConsumer};
use quorate_tests::{Cluster, turn};

use crate::{HEAVY, LIGHT, SOON};

const QUEUE: &str = "orders";
/// Long enough that nothing comes back because it is over.
const GRACE_MS: u32 = 60_000;

async fn with_queue() -> (Cluster, Client) {
    let cluster = Cluster::start(3).await;
    let settings = QueueSettings { session_grace_ms: GRACE_MS, ..Default::default() };
    let client = cluster.queue_with(QUEUE, settings).await;
    (cluster, client)
}

async fn publish(cluster: &Cluster, node: u64, count: u64) {
    for number in 0..count {
        let body = format!("message {number}");
        raw::publish(&cluster.address(node), QUEUE, body, None).await.expect("publish");
    }
}

async fn quorate(cluster: &Cluster, args: &[&str]) -> Ended {
    let server = cluster.addresses().join(",");
    run(&[args, &["--server", &server]].concat(), SOON).await
}

async fn done(cluster: &Cluster, args: &[&str]) -> String {
    let ended = quorate(cluster, args).await;
    assert_eq!(ended.code, Some(0), "{args:?}: {}", ended.err);
    ended.out
}

async fn consumer(client: &Client, name: &str, prefetch: u32) -> Consumer {
    client.consumer(QUEUE).name(name).prefetch(prefetch).build().await.expect("a consumer")
}

async fn next(consumer: &mut Consumer) -> quorate_client::Delivery {
    let next = tokio::time::timeout(SOON, consumer.next()).await.expect("in time");
    next.expect("goes on").expect("a message")
}

async fn is_silent(consumer: &mut Consumer) -> bool {
    tokio::time::timeout(Duration::from_millis(1_200), consumer.next()).await.is_err()
}

#[test]
fn a_paused_consumer_is_handed_nothing_until_it_is_resumed_whoever_leads() {
    turn::alone(HEAVY, async {
        let (mut cluster, client) = with_queue().await;
        let mut billing = consumer(&client, "billing", 2).await;
        publish(&cluster, 1, 2).await;
        let (held, other) = (next(&mut billing).await, next(&mut billing).await);
        let said = done(&cluster, &["consumer", "pause", QUEUE, "billing"]).await;
        assert!(said.contains("consumer billing is paused"), "{said}");
        publish(&cluster, 1, 3).await;
        // It may settle what it has.
        held.ack().await.expect("ack");
        assert!(is_silent(&mut billing).await, "it is paused");

        let leader = cluster.leader_of(QUEUE).await;
        cluster.kill9(leader);
        assert_ne!(cluster.leader_of(QUEUE).await, leader);
        // Acknowledged at the next leader: so it is attached there.
        other.ack().await.expect("ack");
        assert!(is_silent(&mut billing).await, "it is paused at the next leader");
        let listed = done(&cluster, &["consumer", "list", QUEUE, "--output", "json"]).await;
        let listed: serde_json::Value = serde_json::from_str(listed.trim()).expect("one line");
        assert_eq!((&listed["paused"], &listed["leased"]), (&true.into(), &0.into()), "{listed}");
        assert_eq!((&listed["name"], &listed["prefetch"]), (&"billing".into(), &2.into()));
        let session = listed["session"].as_str().expect("a session").to_owned();

        done(&cluster, &["consumer", "resume", QUEUE, &session]).await;
        for offset in 2..5 {
            let delivery = next(&mut billing).await;
            assert_eq!(delivery.offset, offset);
            delivery.ack().await.expect("ack");
        }
        billing.close().await;
    });
}

#[test]
fn a_kicked_consumer_ends_and_what_it_had_goes_to_others_at_once() {
    turn::beside_others(LIGHT, async {
        let (cluster, client) = with_queue().await;
        let mut stuck = consumer(&client, "stuck", 5).await;
        publish(&cluster, 1, 5).await;
        let held = next(&mut stuck).await;
        let mut spare = consumer(&client, "spare", 9).await;
        let described = done(&cluster, &["consumer", "describe", QUEUE, "stuck"]).await;
        assert!(described.contains("stuck") && described.contains("connected"), "{described}");
        let begun = Instant::now();
        done(&cluster, &["consumer", "kick", QUEUE, "stuck"]).await;
        for offset in 0..5 {
            let delivery = next(&mut spare).await;
            assert_eq!((delivery.offset, delivery.attempt), (offset, 2));
            delivery.ack().await.expect("ack");
        }
        assert!(begun.elapsed() < Duration::from_millis(GRACE_MS.into()) / 2, "not by its grace");
        assert!(held.ack().await.is_err(), "its lease has ended");
        // It is told so, after what it had been handed before, and does not come back.
        let told = loop {
            match tokio::time::timeout(SOON, stuck.next()).await.expect("in time") {
                Some(Ok(_)) => {}
                told => break told,
            }
        };
        match told {
            Some(Err(ConsumeError::Refused(refusal))) => {
                assert_eq!(refusal.reason, reason::CONSUMER_KICKED, "{refusal:?}");
            }
            other => panic!("it is told that it was kicked, not {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let list = client.list_consumers(QUEUE, Consumers::All).await.expect("list");
        let names: Vec<&str> = list.consumers.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["spare"]);
        spare.close().await;
    });
}

#[test]
fn a_consumer_at_a_follower_is_kicked_as_well() {
    turn::beside_others(LIGHT, async {
        let (cluster, client) = with_queue().await;
        let follower = cluster.follower_of(QUEUE).await;
        let session = raw::session();
        let attach = v1::Attach { max_lag_ms: 5_000, ..raw::attach(QUEUE, &session, 5) };
        let mut consumer =
            RawConsumer::attach(&cluster.address(follower), attach).await.expect("attach");
        assert_eq!(consumer.attached.delivered_by, follower);
        let list = client.list_consumers(QUEUE, Consumers::All).await.expect("list");
        let [seen] = list.consumers.as_slice() else { panic!("{list:?}") };
        assert_eq!((seen.node_id, seen.role()), (follower, v1::ReplicaRole::Follower));
        let whom = Consumers::Session(session.as_ref().try_into().expect("16 bytes"));
        let kicked = client.control_consumers(QUEUE, whom, ConsumerControl::Kick).await;
        assert_eq!(kicked.expect("kicked"), 1);
        let ended = consumer.answer().await.expect_err("the stream ends");
        assert_eq!(raw::reason(&ended), reason::CONSUMER_KICKED, "{ended:?}");
    });
}

#[test]
fn a_paused_queue_takes_messages_and_hands_out_none_also_to_those_who_come() {
    turn::beside_others(LIGHT, async {
        let (cluster, client) = with_queue().await;
        done(&cluster, &["queue", "pause", QUEUE]).await;
        publish(&cluster, 1, 3).await;
        let mut late = consumer(&client, "late", 9).await;
        assert!(is_silent(&mut late).await, "the queue is paused");
        let described = done(&cluster, &["queue", "describe", QUEUE]).await;
        assert!(described.contains("paused"), "{described}");
        done(&cluster, &["queue", "resume", QUEUE]).await;
        for offset in 0..3 {
            let delivery = next(&mut late).await;
            assert_eq!(delivery.offset, offset);
            delivery.ack().await.expect("ack");
        }
        late.close().await;
    });
}

#[test]
fn consumers_are_listed_by_the_page_and_nobody_is_found_by_a_wrong_name() {
    turn::beside_others(LIGHT, async {
        let (cluster, client) = with_queue().await;
        let mut open = Vec::new();
        for number in 0..5 {
            open.push(consumer(&client, ["even", "odd"][number % 2], 1).await);
        }
        let mut admin = AdminServiceClient::new(raw::channel(&cluster.address(2)));
        let mut request =
            v1::ListConsumersRequest { queue: QUEUE.into(), page_size: 2, ..Default::default() };
        let mut sizes = Vec::new();
        let mut sessions = Vec::new();
        loop {
            let page = admin.list_consumers(request.clone()).await.expect("a page").into_inner();
            sizes.push(page.consumers.len());
            sessions.extend(page.consumers.into_iter().map(|consumer| consumer.session));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(sizes, [2, 2, 1]);
        assert!(sessions.is_sorted() && sessions.len() == 5);
        let odd = Consumers::Named("odd".to_owned());
        let list = client.list_consumers(QUEUE, odd.clone()).await.expect("list");
        assert_eq!(list.consumers.len(), 2);
        let paused = client.control_consumers(QUEUE, odd, ConsumerControl::Pause).await;
        assert_eq!(paused.expect("paused"), 2);

        let mut refused = async |request: v1::ControlConsumerRequest| {
            let request = v1::ControlConsumerRequest { queue: QUEUE.into(), ..request };
            raw::reason(&admin.control_consumer(request).await.expect_err("refused"))
        };
        use v1::control_consumer_request::Target;
        let (pause, none) = (v1::ConsumerControl::Pause.into(), String::new());
        let of = |target, what| v1::ControlConsumerRequest { target, what, queue: none.clone() };
        for wrong in [
            of(None, pause),
            of(Some(Target::Everyone(false)), pause),
            of(Some(Target::Session(vec![1; 15].into())), pause),
            of(Some(Target::Name("x".repeat(129))), pause),
            of(Some(Target::Everyone(true)), 0),
        ] {
            assert_eq!(refused(wrong).await, reason::INVALID_ARGUMENT);
        }
        let nobody = of(Some(Target::Name("nobody".into())), pause);
        assert_eq!(refused(nobody).await, reason::CONSUMER_NOT_FOUND);
        let failed = quorate(&cluster, &["consumer", "kick", QUEUE, "nobody"]).await;
        failed.refused_with(5, &["CONSUMER_NOT_FOUND", "quorate consumer list"]);
        for consumer in open {
            consumer.close().await;
        }
    });
}

/// What a consumer is handed until there is nothing more, acknowledged: offset, key and attempt.
async fn drained(client: &Client, queue: &str) -> Vec<(u64, String, u32)> {
    let mut consumer = client.consumer(queue).prefetch(4).build().await.expect("a consumer");
    let mut handed = Vec::new();
    // Within bounds, whatever is handed out by mistake.
    for _ in 0..200 {
        let counts = client.describe_queue(queue).await.expect("described").counts;
        let counts = counts.expect("counts");
        if counts.ready + counts.leased + counts.blocked == 0 {
            break;
        }
        let delivery = consumer.next().await.expect("goes on").expect("a delivery");
        let key = delivery.headers.get("key").expect("a key");
        let key = String::from_utf8_lossy(&key).into_owned();
        handed.push((delivery.offset, key, delivery.attempt));
        delivery.ack().await.expect("acknowledged");
    }
    consumer.close().await;
    handed
}

#[test]
fn a_seek_brings_back_what_was_settled_with_its_keys_and_priorities_and_outlives_the_leader() {
    turn::alone(HEAVY, async {
        let mut cluster = Cluster::start(3).await;
        let settings =
            QueueSettings { retain_ms: 3_600_000, priorities: true, ..Default::default() };
        let client = cluster.queue_with(QUEUE, settings).await;
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        for n in 0..20u64 {
            let key = ["a", "b", ""][n as usize % 3];
            let message = Message::new(n.to_string()).header("key", key);
            let message = if key.is_empty() { message } else { message.group_key(key) };
            let message = if n == 17 { message.priority(9) } else { message };
            producer.publish(message).await.expect("published");
        }
        assert_eq!(drained(&client, QUEUE).await.len(), 20);

        let would = client.preview_seek(QUEUE, SeekTo::Offset(5)).await.expect("a preview");
        assert_eq!(would, Sought { offset: 5, replayed: 15, skipped: 0 });
        let counts = client.describe_queue(QUEUE).await.expect("described").counts;
        assert_eq!(counts.expect("counts").ready, 0, "a preview changes nothing");
        client
            .control_consumers(QUEUE, Consumers::All, ConsumerControl::Pause)
            .await
            .expect("done");
        let sought = client.seek_consumers(QUEUE, SeekTo::Offset(5)).await.expect("sought");
        assert_eq!(sought, would);
        let leader = cluster.leader_of(QUEUE).await;
        cluster.kill9(leader);
        let resume = ConsumerControl::Resume;
        client.control_consumers(QUEUE, Consumers::All, resume).await.expect("done");

        let again = drained(&client, QUEUE).await;
        assert_eq!(again[0].0, 17, "the urgent one comes first");
        let offsets: BTreeSet<u64> = again.iter().map(|(offset, ..)| *offset).collect();
        assert_eq!((again.len(), offsets), (15, (5..20).collect()), "each once");
        assert!(again.iter().all(|(_, _, attempt)| *attempt == 1), "as if never delivered");
        for key in ["a", "b"] {
            let of_key = again.iter().filter(|(_, of, _)| of == key);
            assert!(of_key.map(|(offset, ..)| offset).is_sorted(), "{key} in order: {again:?}");
        }
        let counts = client.describe_queue(QUEUE).await.expect("described").counts;
        let counts = counts.expect("counts");
        assert_eq!((counts.published, counts.replayed, counts.acked), (20, 15, 35));
    });
}

#[test]
fn a_seek_that_cannot_be_is_refused_with_the_first_offset_that_there_is() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(3).await;
        let client = cluster.queue(QUEUE).await;
        publish(&cluster, 1, 4).await;
        let mut consumer = client.consumer(QUEUE).prefetch(1).build().await.expect("a consumer");
        for _ in 0..2 {
            consumer
                .next()
                .await
                .expect("goes on")
                .expect("a delivery")
                .ack()
                .await
                .expect("acked");
        }
        consumer.close().await;
        let refused = async |to, reason, metadata: Option<(&str, &str)>| {
            let error = client.seek_consumers(QUEUE, to).await.expect_err("refused");
            assert_eq!(error.reason(), Some(reason), "{error}");
            if let (Error::Refused(refusal), Some((key, value))) = (&error, metadata) {
                assert_eq!(refusal.metadata.get(key).map(String::as_str), Some(value), "{error}");
            }
        };
        let first = Some(("first_offset", "2"));
        refused(SeekTo::Offset(0), reason::NOT_RETAINED, first).await;
        refused(SeekTo::Offset(5), reason::INVALID_ARGUMENT, Some(("next_offset", "4"))).await;
        let next = client.seek_consumers(QUEUE, SeekTo::Next).await.expect("forward");
        assert_eq!(next, Sought { offset: 4, replayed: 0, skipped: 2 });

        // What was settled before is gone; what is from then on can come back, if there is room.
        let settings =
            QueueSettings { retain_bytes: 1 << 20, max_messages: 3, ..Default::default() };
        let fields = ["retain_bytes", "max_messages"];
        client.update_queue(QUEUE, settings, &fields, false).await.expect("updated");
        publish(&cluster, 2, 3).await;
        client.seek_consumers(QUEUE, SeekTo::Next).await.expect("forward");
        publish(&cluster, 3, 2).await;
        let first = Some(("first_offset", "4"));
        refused(SeekTo::Offset(3), reason::OFFSET_GONE, first).await;
        refused(SeekTo::First, reason::QUEUE_FULL, Some(("would_hold", "5"))).await;

        let ended = quorate(&cluster, &["consumer", "seek", QUEUE, "--to", "6"]).await;
        ended.refused_with(2, &["--yes", "--dry-run"]);
        let seek = ["consumer", "seek", QUEUE, "--yes", "--to"];
        let dry = done(&cluster, &[&seek[..], &["6", "--dry-run"]].concat()).await;
        let of_dry = "consumers of queue orders would be set to offset 6: 1 settled messages ready again, 0 skipped\n";
        assert_eq!(dry, of_dry);
        let back = done(&cluster, &[&seek[..], &["6", "-o", "json"]].concat()).await;
        let back: serde_json::Value = serde_json::from_str(&back).expect("JSON");
        assert_eq!((&back["replayed"], &back["skipped"]), (&1.into(), &0.into()), "{back}");
        let skipped = done(&cluster, &[&seek[..], &["next"]].concat()).await;
        assert!(
            skipped.ends_with("offset 9: 0 settled messages ready again, 3 skipped\n"),
            "{skipped}"
        );
        let gone = quorate(&cluster, &[&seek[..], &["1"]].concat()).await;
        gone.refused_with(6, &["OFFSET_GONE", "--to first"]);
        let hour = quorate(&cluster, &[&seek[..], &["1h"]].concat()).await;
        hour.refused_with(6, &["QUEUE_FULL", "5 would be held"]);
    });
}
