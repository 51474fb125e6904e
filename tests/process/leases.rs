//! Leases and sessions as a consumer sees them.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use quorate_client::{Client, Message, QueueSettings, reason};
use quorate_proto::v1;
use quorate_proto::v1::SettleKind;
use quorate_proto::v1::consume_request::Request;
use quorate_tests::raw::{self, RawConsumer, item};
use quorate_tests::{Cluster, Plan, turn};

use crate::{HEAVY, LIGHT};

const QUEUE: &str = "orders";
const GRACE_MS: u32 = 1_500;
const GRACE: Duration = Duration::from_millis(GRACE_MS as u64);

/// Three nodes, a queue with a short session grace, and messages numbered from 0.
async fn with_messages(count: u64) -> (Cluster, Client) {
    with_settings(count, QueueSettings { session_grace_ms: GRACE_MS, ..Default::default() }).await
}

async fn with_settings(count: u64, settings: QueueSettings) -> (Cluster, Client) {
    let cluster = Plan::of(3).start().await;
    let client = cluster.queue_with(QUEUE, settings).await;
    publish(&cluster, count).await;
    (cluster, client)
}

async fn publish(cluster: &Cluster, count: u64) {
    for number in 0..count {
        let body = format!("message {number}");
        raw::publish(&cluster.address(1), QUEUE, body, None).await.expect("publish");
    }
}

async fn attached(cluster: &Cluster, node: u64, prefetch: u32) -> RawConsumer {
    let attach = raw::attach(QUEUE, &raw::session(), prefetch);
    RawConsumer::attach(&cluster.address(node), attach).await.expect("attach")
}

/// Deliveries until `count` messages have come: (offset, attempt, token) each.
async fn taken(consumer: &mut RawConsumer, count: usize) -> Vec<(u64, u32, u64)> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let delivery = consumer.delivery().await;
        let messages = raw::bodies(&delivery).len() as u64;
        let offsets = delivery.first_offset..delivery.first_offset + messages;
        taken.extend(offsets.map(|offset| (offset, delivery.attempt, delivery.token)));
    }
    taken
}

async fn counts(client: &Client) -> v1::QueueCounts {
    let queue = client.describe_queue(QUEUE).await.expect("describe");
    queue.counts.expect("the leader knows the counts")
}

/// More than a connection takes that nobody reads from.
const UNREAD: usize = 32;
const LARGE: usize = 256 << 10;

#[test]
fn a_consumer_that_reads_nothing_is_disconnected_and_another_gets_the_messages() {
    turn::beside_others(HEAVY, async {
        let (cluster, client) = with_messages(0).await;
        for _ in 0..UNREAD {
            raw::publish(&cluster.address(1), QUEUE, vec![7; LARGE], None).await.expect("publish");
        }
        let leader = cluster.leader_of(QUEUE).await;
        let follower = cluster.follower_of(QUEUE).await;
        for (node, max_lag_ms) in [(leader, 0), (follower, 5_000)] {
            let attach = raw::attach(QUEUE, &raw::session(), UNREAD as u32);
            let attach = v1::Attach { lease_ms: 200, max_lag_ms, ..attach };
            let mut idle =
                RawConsumer::attach(&cluster.address(node), attach).await.expect("attach");
            assert_eq!(idle.attached.delivered_by, node);
            let begun = Instant::now();
            while !client.describe_queue(QUEUE).await.expect("describe").consumers.is_empty() {
                assert!(begun.elapsed() < Duration::from_secs(30), "it is still given messages");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let mut other = attached(&cluster, leader, UNREAD as u32).await;
            let taken = taken(&mut other, UNREAD).await;
            assert_eq!(taken.len(), UNREAD);
            drop(other);
            // Once it reads, it is told why it got no further.
            let ended = loop {
                match idle.answer().await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("the stream ends without a reason"),
                    Err(status) => break status,
                }
            };
            assert_eq!(raw::reason(&ended), reason::SESSION_CLOSED, "{ended:?}");
            // Its leases are over, and the next one begins with all of them.
            let begun = Instant::now();
            while counts(&client).await.ready < UNREAD as u64 {
                assert!(begun.elapsed() < Duration::from_secs(30), "what was leased is not ready");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    });
}

#[test]
fn a_consumer_that_leaves_while_it_is_attached_leaves_no_session_behind() {
    turn::beside_others(LIGHT, async {
        let (mut cluster, client) = with_messages(0).await;
        let leader = cluster.leader_of(QUEUE).await;
        let followers: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
        followers.iter().for_each(|node| cluster.pause(*node));
        let attach = raw::attach(QUEUE, &raw::session(), 5);
        let address = cluster.address(leader);
        let attaching = RawConsumer::attach(&address, attach);
        // Shorter than an election: the attach enters the log, and nobody waits for it any more.
        let left = tokio::time::timeout(Duration::from_millis(300), attaching).await;
        assert!(left.is_err(), "attached without a majority");
        followers.iter().for_each(|node| cluster.resume(*node));
        let begun = Instant::now();
        tokio::time::sleep(Duration::from_millis(500)).await;
        loop {
            let queue = client.describe_queue(QUEUE).await.expect("describe");
            if queue.consumers.is_empty() {
                break;
            }
            assert!(begun.elapsed() < GRACE + Duration::from_secs(10), "{:?}", queue.consumers);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
}

#[test]
fn a_dead_consumers_messages_go_to_another_after_the_session_grace() {
    turn::beside_others(LIGHT, async {
        let (cluster, _) = with_messages(5).await;
        let mut first = attached(&cluster, 1, 5).await;
        let held = taken(&mut first, 5).await;
        let mut second = attached(&cluster, 2, 5).await;
        drop(first);
        let died = Instant::now();
        let again = taken(&mut second, 5).await;
        assert!(died.elapsed() + Duration::from_millis(50) >= GRACE, "early: {:?}", died.elapsed());
        let offsets =
            |taken: &[(u64, u32, u64)]| taken.iter().map(|seen| seen.0).collect::<Vec<_>>();
        assert_eq!(offsets(&again), offsets(&held));
        assert!(again.iter().all(|(_, attempt, _)| *attempt == 2), "{again:?}");
    });
}

#[test]
fn a_consumer_that_attaches_again_in_time_keeps_its_tokens_at_any_node() {
    turn::beside_others(LIGHT, async {
        let (cluster, client) = with_messages(5).await;
        let attach = raw::attach(QUEUE, &raw::session(), 5);
        let mut held: Option<Vec<(u64, u32, u64)>> = None;
        for node in [1, 2, 3, 1] {
            let stream = RawConsumer::attach(&cluster.address(node), attach.clone()).await;
            let mut stream = stream.expect("attach");
            let shown = taken(&mut stream, 5).await;
            assert_eq!(held.get_or_insert_with(|| shown.clone()), &shown, "at node {node}");
        }
        assert_eq!(counts(&client).await.leased, 5);
    });
}

#[test]
fn leases_and_tokens_survive_the_death_of_the_leader() {
    turn::alone(HEAVY, async {
        let settings = QueueSettings { session_grace_ms: 20_000, ..Default::default() };
        let (mut cluster, client) = with_settings(5, settings).await;
        let leader = cluster.leader_of(QUEUE).await;
        let attach = raw::attach(QUEUE, &raw::session(), 5);
        let address = cluster.address(leader);
        let mut consumer = RawConsumer::attach(&address, attach.clone()).await.expect("attach");
        let held = taken(&mut consumer, 5).await;
        cluster.kill9(leader);
        let next = cluster.leader_of(QUEUE).await;
        let address = cluster.address(next);
        let mut consumer = RawConsumer::attach(&address, attach).await.expect("attach again");
        assert_eq!(taken(&mut consumer, 5).await, held);
        let (first_offset, _, token) = held[0];
        let all = v1::SettleItem {
            kind: SettleKind::Ack.into(),
            token,
            first_offset,
            count: 1,
            delay_ms: 0,
        };
        let settled = consumer.settle(all).await;
        assert!(settled.lost.is_empty() && settled.failure.is_none(), "{settled:?}");
        assert_eq!(counts(&client).await.acked, 1);
    });
}

#[test]
fn a_stream_that_is_replaced_is_told_so() {
    turn::beside_others(LIGHT, async {
        let (cluster, _) = with_messages(0).await;
        let attach = raw::attach(QUEUE, &raw::session(), 5);
        let address = cluster.address(1);
        let mut old = RawConsumer::attach(&address, attach.clone()).await.expect("attach");
        let _new = RawConsumer::attach(&address, attach).await.expect("attach");
        let status = old.answer().await.expect_err("the old stream ends");
        assert_eq!(raw::reason(&status), reason::SESSION_CLOSED, "{status:?}");
    });
}

#[test]
fn an_expired_lease_gives_the_message_to_the_next_and_not_before() {
    turn::beside_others(LIGHT, async {
        const LEASE: Duration = Duration::from_millis(1_000);
        let (cluster, _) = with_messages(1).await;
        let attach = v1::Attach { lease_ms: 1_000, ..raw::attach(QUEUE, &raw::session(), 1) };
        let mut slow = RawConsumer::attach(&cluster.address(1), attach).await.expect("attach");
        let begun = Instant::now();
        let held = slow.delivery().await;
        let mut next = attached(&cluster, 2, 1).await;
        let again = next.delivery().await;
        let waited = begun.elapsed();
        assert!(waited + Duration::from_millis(50) >= LEASE, "early: {waited:?}");
        assert_eq!((again.first_offset, again.attempt), (held.first_offset, 2));
        let late = slow.settle(item(SettleKind::Ack, &held, 0)).await;
        assert_eq!(late.lost.len(), 1, "{late:?}");
        let settled = next.settle(item(SettleKind::Ack, &again, 0)).await;
        assert!(settled.lost.is_empty(), "{settled:?}");
    });
}

#[test]
fn an_extended_lease_does_not_end() {
    turn::beside_others(LIGHT, async {
        let (cluster, client) = with_messages(1).await;
        let attach = v1::Attach { lease_ms: 600, ..raw::attach(QUEUE, &raw::session(), 1) };
        let mut consumer = RawConsumer::attach(&cluster.address(1), attach).await.expect("attach");
        let delivery = consumer.delivery().await;
        for _ in 0..8 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let extended = consumer.settle(item(SettleKind::Extend, &delivery, 5_000)).await;
            assert!(extended.lost.is_empty() && extended.failure.is_none(), "{extended:?}");
        }
        let settled = consumer.settle(item(SettleKind::Ack, &delivery, 0)).await;
        assert!(settled.lost.is_empty(), "{settled:?}");
        assert_eq!(counts(&client).await.acked, 1);
    });
}

#[test]
fn the_sdk_holds_a_lease_for_as_long_as_the_handler_takes() {
    turn::beside_others(LIGHT, async {
        let (_cluster, client) = with_messages(1).await;
        let building = client.consumer(QUEUE).lease(Duration::from_millis(1_000)).build();
        let mut consumer = building.await.expect("a consumer");
        let delivery = consumer.next().await.expect("a delivery").expect("a message");
        tokio::time::sleep(Duration::from_secs(4)).await;
        delivery.ack().await.expect("the lease has been extended");
        assert_eq!(counts(&client).await.acked, 1);
    });
}

#[test]
fn a_message_given_back_with_a_delay_never_comes_early() {
    turn::beside_others(LIGHT, async {
        const DELAY: Duration = Duration::from_millis(1_200);
        let (_cluster, client) = with_messages(1).await;
        let mut consumer = client.consumer(QUEUE).build().await.expect("a consumer");
        for attempt in 1..4 {
            let delivery = consumer.next().await.expect("a delivery").expect("a message");
            assert_eq!(delivery.attempt, attempt);
            let begun = Instant::now();
            delivery.nack(Some(DELAY)).await.expect("nack");
            assert_eq!(counts(&client).await.delayed, 1);
            let again = consumer.next().await.expect("a delivery").expect("a message");
            assert!(begun.elapsed() >= DELAY, "after {:?}", begun.elapsed());
            again.nack(None).await.expect("nack");
            // Without a delay it comes at once, as the next attempt, and is given back for the round.
            if attempt == 1 {
                break;
            }
        }
    });
}

#[test]
fn a_rejected_message_leaves_the_queue() {
    turn::beside_others(LIGHT, async {
        let (_cluster, client) = with_messages(2).await;
        let mut consumer = client.consumer(QUEUE).build().await.expect("a consumer");
        let first = consumer.next().await.expect("a delivery").expect("a message");
        first.reject().await.expect("reject");
        let second = consumer.next().await.expect("a delivery").expect("a message");
        assert_eq!(second.offset, 1);
        second.ack().await.expect("ack");
        let none = tokio::time::timeout(Duration::from_secs(1), consumer.next()).await;
        assert!(none.is_err(), "{none:?}");
        let counts = counts(&client).await;
        assert_eq!((counts.rejected, counts.acked, counts.ready + counts.leased), (1, 1, 0));
    });
}

#[test]
fn a_message_leaves_the_queue_after_its_last_delivery() {
    turn::beside_others(LIGHT, async {
        let settings = QueueSettings { max_deliveries: 3, ..Default::default() };
        let (_cluster, client) = with_settings(1, settings).await;
        let mut consumer = client.consumer(QUEUE).build().await.expect("a consumer");
        for attempt in 1..=3 {
            let delivery = consumer.next().await.expect("a delivery").expect("a message");
            assert_eq!(delivery.attempt, attempt);
            delivery.nack(None).await.expect("nack");
        }
        let none = tokio::time::timeout(Duration::from_secs(1), consumer.next()).await;
        assert!(none.is_err(), "{none:?}");
        assert_eq!(counts(&client).await.exhausted, 1);
    });
}

#[test]
fn a_full_queue_refuses_until_there_is_room() {
    turn::beside_others(LIGHT, async {
        let settings = QueueSettings { max_messages: 3, ..Default::default() };
        let (cluster, client) = with_settings(3, settings).await;
        let status = raw::publish(&cluster.address(1), QUEUE, "one more", None).await;
        assert_eq!(raw::reason(&status.expect_err("full")), reason::QUEUE_FULL);
        let mut consumer = client.consumer(QUEUE).prefetch(1).build().await.expect("a consumer");
        consumer.next().await.expect("a delivery").expect("a message").ack().await.expect("ack");
        publish(&cluster, 1).await;
    });
}

#[test]
fn a_purge_drops_what_is_leased_too_and_the_consumer_goes_on() {
    turn::beside_others(LIGHT, async {
        let (cluster, client) = with_messages(10).await;
        let mut consumer = client.consumer(QUEUE).prefetch(4).build().await.expect("a consumer");
        let held = consumer.next().await.expect("a delivery").expect("a message");
        let held_offset = held.offset;
        assert_eq!(client.purge_queue(QUEUE).await.expect("purge"), 10);
        assert_eq!(held.ack().await.expect_err("gone").reason(), Some(reason::LEASE_LOST));
        publish(&cluster, 1).await;
        // What was shown before the purge may still be on its way.
        let fresh = loop {
            let delivery = consumer.next().await.expect("a delivery").expect("a message");
            if delivery.offset >= 10 {
                break delivery;
            }
            assert!(delivery.offset > held_offset);
        };
        fresh.ack().await.expect("ack");
        let counts = counts(&client).await;
        assert_eq!((counts.purged, counts.acked, counts.ready + counts.leased), (10, 1, 0));
    });
}

#[test]
fn deleting_a_queue_ends_its_streams_with_the_reason() {
    turn::beside_others(LIGHT, async {
        let (cluster, client) = with_messages(3).await;
        let mut consumer = client.consumer(QUEUE).build().await.expect("a consumer");
        let delivery = consumer.next().await.expect("a delivery").expect("a message");
        let mut raw = Vec::new();
        for node in cluster.ids() {
            raw.push(attached(&cluster, node, 1).await);
        }
        let producer = client.producer(QUEUE).build().await.expect("a producer");
        let status = client.delete_queue(QUEUE, true).await.expect_err("it holds messages");
        assert_eq!(status.reason(), Some(reason::QUEUE_NOT_EMPTY));
        client.delete_queue(QUEUE, false).await.expect("delete");
        for (stream, node) in raw.iter_mut().zip(cluster.ids()) {
            ends_with_an_error(stream, node).await;
        }
        let refused = producer.publish(Message::new("too late")).await.expect_err("it is gone");
        assert_eq!(refused.reason(), Some(reason::QUEUE_NOT_FOUND), "{refused}");
        delivery.ack().await.expect_err("it is gone");
        // What was taken ahead may come first.
        let ended = loop {
            match tokio::time::timeout(Duration::from_secs(20), consumer.next()).await {
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(error))) => break error,
                other => panic!("an error was expected, not {other:?}"),
            }
        };
        assert_eq!(ended.reason(), Some(reason::QUEUE_NOT_FOUND), "{ended}");
        let again = client.create_queue(QUEUE, QueueSettings::default()).await.expect("create");
        assert!(again.created);
        assert_eq!(counts(&client).await.published, 0);
    });
}

async fn ends_with_an_error(stream: &mut RawConsumer, node: u64) {
    loop {
        match stream.answer().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream at node {node} ended without a word"),
            Err(status) => {
                assert_ne!(status.code(), tonic::Code::DeadlineExceeded, "the stream hangs");
                return;
            }
        }
    }
}

#[test]
fn a_clean_end_gives_back_what_is_leased_at_once() {
    turn::beside_others(LIGHT, async {
        let (cluster, client) = with_messages(5).await;
        let mut first = attached(&cluster, 1, 5).await;
        taken(&mut first, 5).await;
        first.send(Request::Detach(v1::Detach {})).await;
        assert!(matches!(first.answer().await, Ok(None)), "the stream ends");
        let counts = counts(&client).await;
        assert_eq!((counts.ready, counts.leased), (5, 0));
        let mut second = attached(&cluster, 2, 5).await;
        assert_eq!(taken(&mut second, 5).await.len(), 5);
    });
}

#[test]
fn prefetch_bounds_what_a_consumer_holds() {
    turn::beside_others(LIGHT, async {
        let (cluster, client) = with_messages(10).await;
        let mut consumer = attached(&cluster, 3, 4).await;
        let held = taken(&mut consumer, 4).await;
        assert_eq!(held.len(), 4);
        assert!(consumer.is_silent_for(Duration::from_millis(500)).await);
        assert_eq!(counts(&client).await.leased, 4);
        let (first_offset, _, token) = held[0];
        let one = v1::SettleItem {
            kind: SettleKind::Ack.into(),
            token,
            first_offset,
            count: 1,
            delay_ms: 0,
        };
        consumer.settle_later(one).await;
        assert_eq!(taken(&mut consumer, 1).await[0].0, 4);
    });
}
