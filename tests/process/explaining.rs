//! Where a message is and why nobody gets it: each way that a user can bring about, over gRPC and at the command line.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use quorate_client::{
    BlockingMessage, Client, Consumer, ConsumerControl, Consumers, Delivery, DeliveryObstacle,
    GoneBy, Message, MessageExplanation, MessagePlace, QueueSettings, ReadyMessage,
};
use quorate_tests::process::run;
use quorate_tests::{Cluster, turn};

use crate::{HEAVY, LIGHT, SOON};

const QUEUE: &str = "orders";
const DEAD: &str = "orders.dead";

async fn publish(client: &Client, messages: impl IntoIterator<Item = Message>) {
    let producer = client.producer(QUEUE).build().await.expect("a producer");
    for message in messages {
        producer.publish(message).await.expect("confirmed");
    }
}

fn plain(count: u64) -> impl Iterator<Item = Message> {
    (0..count).map(|number| Message::new(number.to_string()))
}

async fn explain(client: &Client, offset: u64) -> MessageExplanation {
    let explained = client.explain_message(QUEUE, offset).await.expect("explained");
    assert!(explained.confirmed, "{explained:?}");
    explained
}

async fn place(client: &Client, offset: u64) -> MessagePlace {
    explain(client, offset).await.place.expect("a place")
}

async fn ready(client: &Client, offset: u64) -> ReadyMessage {
    match place(client, offset).await {
        MessagePlace::Ready(ready) => ready,
        place => panic!("{offset} is not ready: {place:?}"),
    }
}

/// Asks until what is in the way is this.
async fn until_in_the_way(client: &Client, offset: u64, wanted: DeliveryObstacle) -> ReadyMessage {
    let begun = Instant::now();
    loop {
        let ready = ready(client, offset).await;
        if ready.obstacles().any(|obstacle| obstacle == wanted) {
            return ready;
        }
        assert!(begun.elapsed() < SOON, "{offset}: {ready:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn consumer(client: &Client, name: &str, prefetch: u32) -> Consumer {
    client.consumer(QUEUE).name(name).prefetch(prefetch).build().await.expect("a consumer")
}

async fn next(consumer: &mut Consumer) -> Delivery {
    let next = tokio::time::timeout(SOON, consumer.next()).await.expect("in time");
    next.expect("goes on").expect("a message")
}

/// What the command says as JSON, and as text.
async fn said(cluster: &Cluster, offset: u64) -> (serde_json::Value, String) {
    let (server, offset) = (cluster.addresses().join(","), offset.to_string());
    let args = ["queue", "explain", QUEUE, &offset, "--server", &server];
    let text = run(&args, SOON).await;
    let json = run(&[&args[..], &["-o", "json"]].concat(), SOON).await;
    assert_eq!((text.code, json.code), (Some(0), Some(0)), "{} {}", text.err, json.err);
    (serde_json::from_str(&json.out).expect("JSON"), text.out)
}

#[test]
fn a_message_that_is_ready_says_how_many_are_before_it_and_why_nobody_takes_it() {
    turn::beside_others(HEAVY, async {
        let cluster = Cluster::start(3).await;
        let client = cluster.queue(QUEUE).await;
        assert!(matches!(place(&client, 0).await, MessagePlace::Unpublished(_)));
        publish(&client, plain(3)).await;
        let waits = ready(&client, 2).await;
        assert_eq!((waits.ahead, waits.consumers), (2, 0));
        assert_eq!(waits.obstacles, [DeliveryObstacle::NoConsumer as i32]);
        let facts = explain(&client, 2).await.facts.expect("facts");
        assert_eq!((facts.bytes, facts.headers, facts.deliveries), (Some(3), Some(0), Some(0)));
        assert!(facts.published_at_ms.is_some() && facts.expires_at_ms.is_none(), "{facts:?}");
        let (json, text) = said(&cluster, 2).await;
        assert_eq!((&json["state"], &json["place"]["ahead"]), (&"ready".into(), &2.into()));
        assert!(text.contains("2 messages are handed out before it"), "{text}");
        assert!(text.contains("nobody consumes"), "{text}");

        let mut billing = consumer(&client, "billing", 1).await;
        let held = next(&mut billing).await;
        let waits = until_in_the_way(&client, 2, DeliveryObstacle::CreditUsed).await;
        assert_eq!((waits.ahead, waits.consumers, waits.consumers_full), (1, 1, 1));
        let MessagePlace::Leased(leased) = place(&client, 0).await else { panic!("not leased") };
        let holder = leased.holder.expect("a holder");
        assert_eq!((holder.name.as_str(), holder.leased, holder.prefetch), ("billing", 1, 1));
        assert_eq!(leased.token, held.token);
        let (json, text) = said(&cluster, 0).await;
        assert_eq!(json["place"]["holder"]["name"], "billing");
        assert!(text.contains("consumer \"billing\" (session "), "{text}");

        let named = || Consumers::Named("billing".to_owned());
        client.control_consumers(QUEUE, named(), ConsumerControl::Pause).await.expect("paused");
        let waits = ready(&client, 2).await;
        assert_eq!(waits.obstacles, [DeliveryObstacle::ConsumersPaused as i32]);
        client.control_consumers(QUEUE, Consumers::All, ConsumerControl::Pause).await.expect("it");
        let waits = ready(&client, 2).await;
        assert_eq!(waits.obstacles[0], DeliveryObstacle::QueuePaused as i32);
        let (_, text) = said(&cluster, 2).await;
        assert!(text.contains("quorate queue resume orders"), "{text}");
        client.control_consumers(QUEUE, Consumers::All, ConsumerControl::Resume).await.expect("it");
        client.control_consumers(QUEUE, named(), ConsumerControl::Resume).await.expect("resumed");
        held.ack().await.expect("acknowledged");
        let MessagePlace::Gone(gone) = place(&client, 0).await else { panic!("it is done") };
        assert_eq!(gone.ways.len(), 1);
        assert_eq!((gone.ways[0].by(), gone.ways[0].messages), (GoneBy::Ack, 1));
        let (json, text) = said(&cluster, 0).await;
        assert_eq!(
            (&json["state"], &json["place"]["kept"]),
            (&"gone".into(), &serde_json::Value::Null)
        );
        assert!(text.contains("it was acknowledged") && text.contains("nothing is left"), "{text}");
        billing.close().await;
    });
}

#[test]
fn what_waits_for_a_time_or_for_another_of_its_key_says_for_which() {
    turn::beside_others(HEAVY, async {
        let cluster = Cluster::start(1).await;
        let settings = QueueSettings {
            retry_ms: 60_000,
            max_deliveries: 3,
            priorities: true,
            ..Default::default()
        };
        let client = cluster.queue_with(QUEUE, settings).await;
        let keyed = || Message::new("of a key").group_key("order 7");
        let later = Message::new("later").delay(Duration::from_secs(600));
        let urgent = Message::new("urgent").priority(9).ttl(Duration::from_secs(3_600));
        publish(&client, [keyed(), keyed(), keyed(), later, urgent]).await;
        let MessagePlace::Delayed(delayed) = place(&client, 3).await else { panic!("for later") };
        let explained = explain(&client, 3).await;
        assert!(delayed.due_ms > explained.now_ms + 500_000, "{delayed:?} {explained:?}");
        // The urgent one goes first.
        let waits = ready(&client, 0).await;
        assert_eq!((waits.ahead, waits.ahead_by_priority), (1, 1));
        let facts = explain(&client, 4).await.facts.expect("facts");
        assert_eq!((facts.priority, facts.own_expires_at_ms.is_some()), (Some(9), true));
        assert_eq!(facts.expires_at_ms, facts.own_expires_at_ms);

        let MessagePlace::Blocked(blocked) = place(&client, 2).await else { panic!("blocked") };
        assert_eq!((blocked.head_offset, blocked.ahead), (0, 2));
        assert!(matches!(blocked.head, Some(BlockingMessage::Ready(_))), "{blocked:?}");
        let mut consumer = consumer(&client, "billing", 2).await;
        next(&mut consumer).await.ack().await.expect("the urgent one");
        let first = next(&mut consumer).await;
        let MessagePlace::Blocked(blocked) = place(&client, 1).await else { panic!("blocked") };
        let Some(BlockingMessage::Leased(leased)) = blocked.head else { panic!("{blocked:?}") };
        assert_eq!(leased.holder.expect("a holder").name, "billing");
        let (_, text) = said(&cluster, 1).await;
        assert!(text.contains("waits for message 0") && text.contains("billing"), "{text}");
        first.nack(None).await.expect("given back");
        let explained = explain(&client, 0).await;
        assert!(matches!(explained.place, Some(MessagePlace::Delayed(_))), "{explained:?}");
        let facts = explained.facts.expect("facts");
        assert_eq!((facts.deliveries, facts.max_deliveries), (Some(1), 3));
        assert_eq!(facts.group_key.as_deref(), Some("order 7"));
        let (json, text) = said(&cluster, 0).await;
        assert_eq!(json["state"], "delayed");
        assert!(text.contains("delivered 1 of at most 3 times so far"), "{text}");
        let MessagePlace::Blocked(blocked) = place(&client, 1).await else { panic!("blocked") };
        assert!(matches!(blocked.head, Some(BlockingMessage::Delayed(_))), "{blocked:?}");
        consumer.close().await;
    });
}

#[test]
fn a_dead_message_says_where_it_goes_and_why_not_yet_and_a_moved_one_is_found_there() {
    turn::beside_others(HEAVY, async {
        let cluster = Cluster::start(1).await;
        let full = QueueSettings { max_messages: 1, ..Default::default() };
        let client = cluster.queue_with(DEAD, full).await;
        let settings = QueueSettings { dead_letter: DEAD.to_owned(), ..Default::default() };
        client.create_queue(QUEUE, settings).await.expect("create");
        publish(&client, plain(3)).await;
        let mut consumer = consumer(&client, "billing", 10).await;
        for _ in 0..3 {
            next(&mut consumer).await.reject().await.expect("rejected");
        }
        let begun = Instant::now();
        let dead = loop {
            if let MessagePlace::Dead(dead) = place(&client, 2).await
                && !dead.waits.is_empty()
            {
                break dead;
            }
            assert!(begun.elapsed() < SOON, "{:?}", place(&client, 2).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert_eq!((dead.cause.as_str(), dead.dead_letter.as_str()), ("rejected", DEAD));
        assert_eq!(dead.ahead, 1);
        assert!(dead.waits.contains("max_messages is 1"), "{dead:?}");
        let (json, text) = said(&cluster, 2).await;
        assert_eq!(json["state"], "dead");
        assert!(text.contains("waits to be moved to orders.dead"), "{text}");
        let (json, text) = said(&cluster, 0).await;
        assert_eq!((&json["state"], &json["dead_letter"]["offset"]), (&"gone".into(), &0.into()));
        assert!(text.contains("it was rejected and moved: it is orders.dead/0 now"), "{text}");
        consumer.close().await;
    });
}

#[test]
fn what_was_settled_is_kept_for_readers_as_it_says_and_what_expired_is_gone() {
    turn::beside_others(HEAVY, async {
        let cluster = Cluster::start(1).await;
        let settings =
            QueueSettings { retain_ms: 600_000, single_active: true, ..Default::default() };
        let client = cluster.queue_with(QUEUE, settings).await;
        publish(&client, plain(3)).await;
        let mut active = consumer(&client, "active", 2).await;
        let mut idle = consumer(&client, "idle", 2).await;
        next(&mut active).await.ack().await.expect("acknowledged");
        let MessagePlace::Gone(gone) = place(&client, 0).await else { panic!("it is done") };
        let kept = gone.kept.expect("kept");
        let published = explain(&client, 0).await.facts.and_then(|facts| facts.published_at_ms);
        assert!(kept.readable && kept.until_ms == published.expect("a time") + 600_000, "{kept:?}");
        let (json, text) = said(&cluster, 0).await;
        assert_eq!(json["state"], "settled");
        assert!(text.contains("quorate read orders --from 0 -n 1"), "{text}");
        // One more than the active one may hold.
        publish(&client, plain(1)).await;
        let waits = until_in_the_way(&client, 3, DeliveryObstacle::ActiveFull).await;
        assert_eq!(waits.active.expect("the active one").name, "active");
        let (_, text) = said(&cluster, 3).await;
        assert!(text.contains("one consumer at a time: consumer \"active\""), "{text}");
        idle = {
            idle.close().await;
            consumer(&client, "idle", 2).await
        };
        active.close().await;
        idle.close().await;
        client.purge_queue(QUEUE).await.expect("purged");
        publish(&client, [Message::new("short").ttl(Duration::from_millis(1))]).await;
        let begun = Instant::now();
        while !matches!(place(&client, 4).await, MessagePlace::Gone(_)) {
            assert!(begun.elapsed() < SOON, "{:?}", place(&client, 4).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let MessagePlace::Gone(gone) = place(&client, 4).await else { panic!("it is gone") };
        assert!(gone.ways.iter().any(|way| way.by() == GoneBy::Expiry), "{gone:?}");
    });
}

#[test]
fn without_a_majority_it_is_said_what_a_replica_has_and_who_is_there() {
    turn::alone(HEAVY, async {
        let mut cluster = Cluster::start(3).await;
        let client = cluster.queue(QUEUE).await;
        publish(&client, plain(2)).await;
        let missing = client.explain_message("no-such-queue", 0).await.unwrap_err();
        assert_eq!(missing.reason(), Some("QUEUE_NOT_FOUND"), "{missing}");
        let leader = cluster.leader_of(QUEUE).await;
        let left = cluster.follower_of(QUEUE).await;
        for node in cluster.ids() {
            if node != left {
                cluster.kill9(node);
            }
        }
        println!("killed the leader, {leader}, and another; {left} is left");
        let client = Client::connect([cluster.address(left)]).await.expect("it answers");
        let begun = Instant::now();
        let alone = loop {
            let explained = client.explain_message(QUEUE, 1).await.expect("an answer");
            if explained.replicas.iter().filter(|replica| !replica.reachable).count() == 2 {
                break explained;
            }
            assert!(begun.elapsed() < SOON, "{explained:?}");
        };
        assert!(!alone.confirmed && !alone.unconfirmed.is_empty(), "{alone:?}");
        assert_eq!((alone.node_id, alone.replicas.len()), (left, 3));
        assert!(matches!(alone.place, Some(MessagePlace::Ready(_))), "{alone:?}");
        let server = cluster.address(left);
        let ended = run(&["queue", "explain", QUEUE, "1", "--server", &server], SOON).await;
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        assert!(ended.out.contains("not confirmed: "), "{}", ended.out);
        assert_eq!(
            ended.out.lines().filter(|line| line.contains("away")).count(),
            2,
            "{}",
            ended.out
        );
        for node in cluster.ids() {
            if node != left {
                cluster.start_node(node);
            }
        }
        cluster.ready().await;
        cluster.leader_of(QUEUE).await;
        let waits = ready(&cluster.client().await, 1).await;
        assert_eq!(waits.ahead, 1);
    });
}

#[test]
fn an_offset_that_is_no_number_is_refused_and_a_queue_without_one_is_explained_as_before() {
    turn::beside_others(LIGHT, async {
        let cluster = Cluster::start(1).await;
        cluster.queue(QUEUE).await;
        let server = cluster.addresses().join(",");
        let ended = run(&["queue", "explain", QUEUE, "first", "--server", &server], SOON).await;
        assert_eq!(ended.code, Some(2), "{}", ended.err);
        let ended = run(&["queue", "explain", QUEUE, "--server", &server], SOON).await;
        assert!(ended.code == Some(0) && ended.out.contains("voters on"), "{}", ended.out);
    });
}
