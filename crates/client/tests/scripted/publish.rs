//! What a producer does when nodes, streams and answers fail.

use std::time::{Duration, Instant};

use crate::fake::{Cluster, QUEUE, Script};
use quorate_client::{Batch, Client, Error, Message, Producer, PublishError, Receipt, reason};

/// Sends `count` messages, whose bodies are their numbers, and collects the outcomes.
async fn publish(producer: &Producer, count: usize) -> Vec<Result<Receipt, PublishError>> {
    let mut pending = Vec::new();
    for n in 0..count {
        pending.push(producer.send(Message::new(n.to_string())).await.expect("send"));
        if n == 0 {
            // Lets it go, alone, before the others gather.
            tokio::task::yield_now().await;
        }
    }
    let mut outcomes = Vec::new();
    for pending in pending {
        let outcome = tokio::time::timeout(Duration::from_secs(20), pending).await;
        outcomes.push(outcome.expect("an outcome in time"));
    }
    outcomes
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|n| n.to_string()).collect()
}

/// All confirmed, at the offsets at which the fake queue has them, each once and in order.
fn assert_exactly_once(cluster: &Cluster, outcomes: &[Result<Receipt, PublishError>]) {
    for (n, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.as_ref().expect("confirmed").offset, Some(n as u64));
    }
    assert_eq!(cluster.queue().bodies, numbers(outcomes.len()));
}

async fn producer(cluster: &Cluster, batch: usize) -> Producer {
    let client = cluster.client().await;
    client.producer(QUEUE).batch_messages(batch).build().await.expect("build")
}

#[tokio::test]
async fn receipts_come_in_the_order_of_sending() {
    let cluster = Cluster::start(1);
    let outcomes = publish(&producer(&cluster, 16).await, 1000).await;
    assert_exactly_once(&cluster, &outcomes);
    assert!(cluster.queue().batches.iter().all(|count| *count <= 16));
    assert_eq!(cluster.queue().batches[0], 1, "with nothing in flight, the first goes at once");
}

#[tokio::test]
async fn a_limit_of_for_ever_is_one_that_a_clock_can_tell() {
    let cluster = Cluster::start(1);
    let client = Client::builder().request_timeout(Duration::MAX).connect_timeout(Duration::MAX);
    let client = client.addresses(cluster.addresses.iter().map(ToString::to_string));
    let client = client.connect().await.expect("connect");
    let producer = client.producer(QUEUE).deadline(Duration::MAX).build().await.expect("build");
    assert_exactly_once(&cluster, &publish(&producer, 2).await);
}

#[tokio::test]
async fn a_batch_of_the_callers_is_sent_whole_alone_and_in_its_place() {
    let cluster = Cluster::start(1);
    let producer = producer(&cluster, 4).await;
    let message = |n: usize| Message::new(n.to_string());
    let mut pending = Vec::new();
    for n in 0..3 {
        pending.push(producer.send(message(n)).await.expect("send"));
    }
    // Larger than the batches that the producer makes itself.
    pending.extend(producer.send_batch(Batch::new((3..13).map(message))).await.expect("send"));
    pending.push(producer.send(message(13)).await.expect("send"));
    pending.extend(producer.send_batch(Batch::from(message(14)).id("x")).await.expect("send"));
    let mut outcomes = Vec::new();
    for pending in pending {
        outcomes.push(pending.await);
    }
    assert_exactly_once(&cluster, &outcomes);
    let batches = cluster.queue().batches.clone();
    assert!(batches.contains(&10), "{batches:?}");
    assert_eq!(batches.last(), Some(&1), "{batches:?}");
    let none = producer.publish_batch(Batch::default()).await.expect_err("nothing to send");
    assert_eq!(none.reason(), Some(reason::INVALID_ARGUMENT));
    let many = Batch::new((0..8_193).map(message));
    let many = producer.publish_batch(many).await.expect_err("more than may be in flight");
    assert_eq!(many.reason(), Some(reason::INVALID_ARGUMENT));
}

#[tokio::test]
async fn a_batch_holds_what_callers_send_in_answer_to_receipts() {
    const WINDOW: usize = 64;
    const MESSAGES: usize = 20 * WINDOW;
    let cluster = Cluster::start(1);
    let producer = producer(&cluster, 1024).await;
    let mut pending = std::collections::VecDeque::new();
    for n in 0..MESSAGES {
        if pending.len() == WINDOW {
            let oldest: quorate_client::Pending = pending.pop_front().expect("a full window");
            tokio::time::timeout(Duration::from_secs(20), oldest)
                .await
                .unwrap()
                .expect("confirmed");
        }
        pending.push_back(producer.send(Message::new(n.to_string())).await.expect("send"));
    }
    producer.close().await;
    let batches = cluster.queue().batches.len();
    assert!(batches < 20 + 10, "{batches} batches: what was in flight went in halves");
}

#[tokio::test]
async fn order_is_kept_and_nothing_enters_twice_over_broken_streams() {
    let cluster = Cluster::start(1);
    let producer = producer(&cluster, 4).await;
    use Script::{BreakAfter, BreakBefore, Take, Unsure};
    cluster.script([BreakAfter, Take, BreakBefore, Take, BreakAfter, Unsure, Take, BreakAfter]);
    let outcomes = publish(&producer, 100).await;
    assert_exactly_once(&cluster, &outcomes);
    assert!(outcomes[0].as_ref().unwrap().duplicate, "its first copy had entered");
    assert!(cluster.queue().arrived.iter().all(|(epoch, _)| *epoch == 0));
}

#[tokio::test]
async fn a_leader_change_is_followed_by_the_hint() {
    let cluster = Cluster::start(3);
    // Room for one batch at a time, so that each script meets the batch it is meant for.
    let client = cluster.client().await;
    let producer = client.producer(QUEUE).batch_messages(4).in_flight(4).build().await.unwrap();
    cluster.script([Script::Take, Script::Move(2), Script::Take, Script::Move(1)]);
    let outcomes = publish(&producer, 40).await;
    assert_exactly_once(&cluster, &outcomes);
    assert_eq!(cluster.queue().opened, [0, 2, 1]);
}

#[tokio::test]
async fn the_death_of_the_connected_node_is_survived() {
    let mut cluster = Cluster::start(3);
    let producer = producer(&cluster, 4).await;
    let before = publish(&producer, 10).await;
    assert_exactly_once(&cluster, &before);
    cluster.kill(0);
    cluster.queue().leader = 1;
    let receipt = producer.publish(Message::new("10")).await.expect("confirmed elsewhere");
    assert_eq!(receipt.offset, Some(10));
}

#[tokio::test]
async fn a_dead_leader_that_is_still_named_is_gone_around() {
    let mut cluster = Cluster::start(2);
    cluster.kill(0);
    // The other node still believes in it, and forwards.
    let outcomes = publish(&producer(&cluster, 4).await, 10).await;
    assert_exactly_once(&cluster, &outcomes);
    assert_eq!(cluster.queue().opened, [1]);
}

#[tokio::test]
async fn a_full_queue_fails_its_batch_only_and_the_rest_goes_on() {
    let cluster = Cluster::start(1);
    let producer = producer(&cluster, 10).await;
    cluster.gate.shut();
    cluster.script([Script::Take, Script::Fail(reason::QUEUE_FULL)]);
    let opening = tokio::spawn({
        let gate = cluster.gate.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            gate.open();
        }
    });
    let outcomes = publish(&producer, 41).await;
    opening.await.unwrap();
    // Batches: message 0 at once, then 1..=10, which is refused, 11..=20, ...
    for (n, outcome) in outcomes.iter().enumerate() {
        match n {
            1..=10 => {
                let error = outcome.as_ref().unwrap_err();
                assert!(matches!(error, PublishError::Refused(_)), "{n}: {error}");
                assert_eq!(error.reason(), Some(reason::QUEUE_FULL));
            }
            _ => assert!(outcome.is_ok(), "{n}: {outcome:?}"),
        }
    }
    let mut expected = numbers(41);
    expected.drain(1..=10);
    assert_eq!(cluster.queue().bodies, expected);
    assert_eq!(cluster.queue().arrived.last().unwrap().0, 1, "under the next epoch");
}

#[tokio::test]
async fn what_a_forgetful_server_took_behind_a_refusal_enters_once() {
    let cluster = Cluster::start(1);
    let producer = producer(&cluster, 10).await;
    cluster.gate.shut();
    // The producer is unknown when its second batch arrives, so that is taken as its first.
    cluster.script([Script::Fail(reason::DISK_FULL)]);
    let gate = cluster.gate.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        gate.open();
    });
    let outcomes = publish(&producer, 31).await;
    assert_eq!(outcomes[0].as_ref().unwrap_err().reason(), Some(reason::DISK_FULL));
    assert!(outcomes[1..].iter().all(Result::is_ok));
    assert_eq!(cluster.queue().bodies, numbers(31)[1..]);
}

#[tokio::test]
async fn sending_waits_for_room_in_flight() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    for by_bytes in [false, true] {
        let builder = client.producer(QUEUE).batch_messages(1);
        let builder = if by_bytes {
            builder.max_in_flight_bytes(2 * (4 + 2 + 100))
        } else {
            builder.in_flight(2)
        };
        let producer = builder.build().await.unwrap();
        cluster.gate.shut();
        let message = || Message::new(vec![b'x'; 100]);
        let first = producer.send(message()).await.unwrap();
        let second = producer.send(message()).await.unwrap();
        let limit = Duration::from_millis(200);
        let third = tokio::time::timeout(limit, producer.send(message())).await;
        assert!(third.is_err(), "a third was taken, by bytes: {by_bytes}");
        cluster.gate.open();
        first.await.unwrap();
        second.await.unwrap();
        producer.publish(message()).await.unwrap();
    }
}

#[tokio::test]
async fn errors_are_typed() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let missing = client.producer("missing").build().await.unwrap_err();
    assert!(matches!(&missing, Error::Refused(_)), "{missing}");
    assert_eq!(missing.reason(), Some(reason::QUEUE_NOT_FOUND));
    let nonsense = client.producer(QUEUE).batch_messages(0).build().await.unwrap_err();
    assert!(matches!(nonsense, Error::Invalid(_)));

    let producer = producer(&cluster, 4).await;
    let large = producer.publish(Message::new(vec![0; 1 << 20])).await.unwrap_err();
    assert!(matches!(large, PublishError::TooLarge { limit: 1_048_576, .. }), "{large}");
    assert_eq!(large.reason(), Some(reason::MESSAGE_TOO_LARGE));
    let invalid = producer.publish(Message::new("x").header("", "v")).await.unwrap_err();
    assert!(matches!(invalid, PublishError::Invalid(_)), "{invalid}");
    assert!(cluster.queue().bodies.is_empty());
    producer.publish(Message::new("fits")).await.unwrap();
}

#[tokio::test]
async fn a_fenced_producer_ends() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let old = client.producer(QUEUE).producer_id("one").build().await.unwrap();
    old.publish(Message::new("a")).await.unwrap();
    let new = client.producer(QUEUE).producer_id("one").epoch(5).build().await.unwrap();
    new.publish(Message::new("b")).await.unwrap();
    for _ in 0..2 {
        let fenced = old.publish(Message::new("c")).await.unwrap_err();
        assert_eq!(fenced.reason(), Some(reason::PRODUCER_FENCED));
    }
    new.publish(Message::new("d")).await.unwrap();
    assert_eq!(cluster.queue().bodies, ["a", "b", "d"]);
}

#[tokio::test]
async fn the_deadline_tells_what_never_left_from_what_may_have_entered() {
    let mut cluster = Cluster::start(1);
    let client = cluster.client().await;
    let builder = client.producer(QUEUE).batch_messages(1).deadline(Duration::from_millis(600));
    let producer = builder.build().await.unwrap();
    cluster.script([Script::Silence]);
    let silent = producer.send(Message::new("sent")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.kill(0);
    let silent = silent.await.unwrap_err();
    assert!(matches!(silent, PublishError::UnknownOutcome { .. }), "{silent}");
    let started = Instant::now();
    let unsent = producer.publish(Message::new("unsent")).await.unwrap_err();
    assert!(matches!(unsent, PublishError::Unavailable { .. }), "{unsent}");
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_deleted_queue_fails_what_is_sent_to_it() {
    let cluster = Cluster::start(1);
    let producer = producer(&cluster, 4).await;
    cluster.queue().deleted = true;
    cluster.script([Script::BreakBefore]);
    let outcome = producer.publish(Message::new("0")).await.unwrap_err();
    assert_eq!(outcome.reason(), Some(reason::UNKNOWN_OUTCOME), "it was on a stream that broke");
    let outcome = producer.publish(Message::new("1")).await.unwrap_err();
    assert_eq!(outcome.reason(), Some(reason::QUEUE_NOT_FOUND));
    cluster.queue().deleted = false;
    producer.publish(Message::new("2")).await.expect("the queue is there again");
}

#[tokio::test]
async fn flush_and_close_wait_for_every_outcome() {
    let cluster = Cluster::start(1);
    let producer = producer(&cluster, 7).await;
    let mut pending = Vec::new();
    for n in 0..100 {
        pending.push(producer.send(Message::new(n.to_string())).await.unwrap());
    }
    producer.flush().await;
    assert_eq!(cluster.queue().bodies.len(), 100);
    drop(pending);
    let last = producer.send(Message::new("100")).await.unwrap();
    producer.close().await;
    assert_eq!(cluster.queue().bodies.len(), 101);
    assert_eq!(last.await.unwrap().offset, Some(100));
}

#[tokio::test]
async fn dropping_a_producer_does_not_take_messages_back() {
    let cluster = Cluster::start(1);
    let producer = producer(&cluster, 1000).await;
    let mut last = None;
    for n in 0..50 {
        last = Some(producer.send(Message::new(n.to_string())).await.unwrap());
    }
    drop(producer);
    last.unwrap().await.unwrap();
    assert_eq!(cluster.queue().bodies, numbers(50));
}
