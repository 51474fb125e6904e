//! What a consumer does when streams break, leases run, and deliveries are dropped.

use std::time::{Duration, Instant};

use crate::fake::{Cluster, QUEUE, Session};
use futures_util::StreamExt;
use quorate_client::{ConsumeError, Consumer, Delivery, Error, SettleError, reason};
use quorate_proto::v1::consume_request::Request;
use quorate_proto::v1::consume_response::Response;
use quorate_proto::v1::{self, SettleKind};

async fn attached(cluster: &mut Cluster) -> (Consumer, Session) {
    let client = cluster.client().await;
    let consumer = client.consumer(QUEUE).name("test").prefetch(10).build().await.expect("build");
    let session = cluster.session().await;
    (consumer, session)
}

async fn next(consumer: &mut Consumer) -> Delivery {
    let delivery = tokio::time::timeout(Duration::from_secs(10), consumer.next()).await;
    delivery.expect("in time").expect("not ended").expect("a delivery")
}

async fn assert_nothing_comes(consumer: &mut Consumer) {
    let waited = tokio::time::timeout(Duration::from_millis(200), consumer.next()).await;
    assert!(waited.is_err(), "{waited:?}");
}

fn items(settle: &v1::Settle) -> Vec<(SettleKind, u64, u64, u32, u32)> {
    let items = settle.items.iter();
    items.map(|i| (i.kind(), i.token, i.first_offset, i.count, i.delay_ms)).collect()
}

#[tokio::test]
async fn deliveries_carry_offset_attempt_headers_and_body() {
    let mut cluster = Cluster::start(1);
    let (mut consumer, session) = attached(&mut cluster).await;
    assert_eq!((session.attach.prefetch, session.attach.name.as_str()), (10, "test"));
    assert_eq!(session.attach.session.len(), 16);
    session.deliver(7, 40, 2, 3);
    for offset in [40, 41] {
        let delivery = next(&mut consumer).await;
        assert_eq!((delivery.offset, delivery.attempt, delivery.token), (offset, 3, 7));
        assert_eq!(delivery.body, offset.to_string());
        assert_eq!(delivery.headers.get("n").unwrap(), offset.to_string());
        delivery.ack_later();
    }
}

#[tokio::test]
async fn settles_that_gather_during_a_request_go_as_ranges() {
    let mut cluster = Cluster::start(1);
    let (mut consumer, mut session) = attached(&mut cluster).await;
    session.deliver(7, 0, 6, 1);
    let mut deliveries = Vec::new();
    for _ in 0..6 {
        deliveries.push(next(&mut consumer).await);
    }
    let last = deliveries.pop().unwrap();
    let rejected = deliveries.pop().unwrap();
    let first = deliveries.remove(0);
    let acking = tokio::spawn(first.ack());
    let settle = session.settle().await;
    assert_eq!(items(&settle), [(SettleKind::Ack, 7, 0, 1, 0)]);
    deliveries.into_iter().for_each(Delivery::ack_later);
    let rejecting = tokio::spawn(rejected.reject());
    let nacking = tokio::spawn(last.nack(Some(Duration::from_millis(1500))));
    tokio::time::sleep(Duration::from_millis(100)).await;
    session.confirm(&settle);
    assert_eq!(acking.await.unwrap(), Ok(()));
    let settle = session.settle().await;
    let expected = [
        (SettleKind::Ack, 7, 1, 3, 0),
        (SettleKind::Nack, 7, 5, 1, 1500),
        (SettleKind::Reject, 7, 4, 1, 0),
    ];
    assert_eq!(items(&settle), expected);
    assert!(!rejecting.is_finished(), "not before it is confirmed");
    session.confirm(&settle);
    assert_eq!((rejecting.await.unwrap(), nacking.await.unwrap()), (Ok(()), Ok(())));
}

#[tokio::test]
async fn dropping_a_delivery_gives_it_back() {
    let mut cluster = Cluster::start(1);
    let (mut consumer, mut session) = attached(&mut cluster).await;
    session.deliver(7, 3, 1, 1);
    drop(next(&mut consumer).await);
    assert_eq!(items(&session.settle().await), [(SettleKind::Nack, 7, 3, 1, 0)]);
}

#[tokio::test]
async fn a_lost_lease_is_told() {
    let mut cluster = Cluster::start(1);
    let (mut consumer, mut session) = attached(&mut cluster).await;
    session.deliver(7, 0, 1, 1);
    let acking = tokio::spawn(next(&mut consumer).await.ack());
    let settle = session.settle().await;
    let lost = vec![v1::OffsetRange { first_offset: 0, count: 1 }];
    session.answer(Response::Settled(v1::Settled { id: settle.id, lost, failure: None }));
    assert_eq!(acking.await.unwrap(), Err(SettleError::LeaseLost));
}

#[tokio::test]
async fn a_new_lease_of_a_message_ends_the_old_one() {
    let mut cluster = Cluster::start(1);
    let (mut consumer, mut session) = attached(&mut cluster).await;
    session.deliver(7, 0, 1, 1);
    let old = next(&mut consumer).await;
    session.deliver(9, 0, 1, 2);
    let new = next(&mut consumer).await;
    assert_eq!(new.attempt, 2);
    assert_eq!(old.ack().await, Err(SettleError::LeaseLost));
    new.ack_later();
    assert_eq!(items(&session.settle().await), [(SettleKind::Ack, 9, 0, 1, 0)]);
}

#[tokio::test]
async fn leases_are_extended_while_the_handler_works() {
    let mut cluster = Cluster::start(1);
    let client = cluster.client().await;
    let lease = Duration::from_millis(800);
    let mut consumer = client.consumer(QUEUE).lease(lease).build().await.unwrap();
    let mut session = cluster.session().await;
    assert_eq!(session.attach.lease_ms, 800);
    session.deliver(7, 0, 3, 1);
    let mut since = Instant::now();
    let working = next(&mut consumer).await;
    // The other two wait in the buffer, which counts as held.
    for _ in 0..3 {
        let settle = session.settle().await;
        assert_eq!(items(&settle), [(SettleKind::Extend, 7, 0, 3, 800)]);
        assert!(since.elapsed() < lease * 3 / 4, "late: {:?}", since.elapsed());
        since = Instant::now();
        session.confirm(&settle);
    }
    working.ack_later();
    let settle = session.settle().await;
    assert_eq!(items(&settle), [(SettleKind::Ack, 7, 0, 1, 0)]);
    session.confirm(&settle);
    assert_eq!(items(&session.settle().await), [(SettleKind::Extend, 7, 1, 2, 800)]);
}

#[tokio::test]
async fn after_a_reconnect_nothing_is_shown_twice_and_settles_go_on() {
    let mut cluster = Cluster::start(2);
    let (mut consumer, mut session) = attached(&mut cluster).await;
    let name = session.attach.session.clone();
    session.deliver(7, 0, 4, 1);
    let settled = next(&mut consumer).await;
    let acking = tokio::spawn(settled.ack());
    let settle = session.settle().await;
    session.confirm(&settle);
    assert_eq!(acking.await.unwrap(), Ok(()));
    let unanswered = next(&mut consumer).await;
    let acking = tokio::spawn(unanswered.ack());
    session.settle().await;
    let working = next(&mut consumer).await;
    cluster.queue().leader = 1;
    session.break_off();

    let mut session = cluster.session().await;
    assert_eq!(session.node, 1, "at the new leader");
    assert_eq!(session.attach.session, name, "under the same session");
    // A late copy of what is settled, and all that is leased, each with its token; then a new message.
    session.deliver(7, 0, 4, 1);
    session.deliver(8, 4, 1, 1);
    let settle = session.settle().await;
    assert!(items(&settle).contains(&(SettleKind::Ack, 7, 1, 1, 0)), "{settle:?}");
    session.confirm(&settle);
    assert_eq!(acking.await.unwrap(), Ok(()));
    assert_eq!(next(&mut consumer).await.offset, 3, "was in the buffer");
    assert_eq!(next(&mut consumer).await.offset, 4);
    assert_nothing_comes(&mut consumer).await;
    drop(working);
}

#[tokio::test]
async fn a_stream_that_is_closed_is_opened_again_where_it_was_and_goes_by_the_lease_told_then() {
    let mut cluster = Cluster::start(3);
    let (mut consumer, mut session) = attached(&mut cluster).await;
    session.deliver(7, 0, 1, 1);
    let held = next(&mut consumer).await;
    for _ in 0..3 {
        cluster.queue().lease_ms = 800;
        session.end(reason::SESSION_CLOSED);
        session = cluster.session().await;
        assert_eq!(session.node, 0, "no other node is asked to forward");
    }
    session.deliver(7, 0, 1, 1);
    let mut since = Instant::now();
    for _ in 0..2 {
        let settle = session.settle().await;
        assert_eq!(items(&settle), [(SettleKind::Extend, 7, 0, 1, 800)]);
        assert!(since.elapsed() < Duration::from_millis(600), "late: {:?}", since.elapsed());
        since = Instant::now();
        session.confirm(&settle);
    }
    assert_nothing_comes(&mut consumer).await;
    held.ack_later();
}

#[tokio::test]
async fn messages_of_another_log_are_shown_whatever_was_leased_before() {
    // Created again; recovered; recovered once more, seen by a server that does not tell in between.
    for (before, between, after) in
        [((7, 0), None, (9, 0)), ((7, 0), None, (7, 1)), ((7, 1), Some((0, 0)), (7, 2))]
    {
        let mut cluster = Cluster::start(1);
        cluster.queue().log = before;
        let (mut consumer, mut session) = attached(&mut cluster).await;
        session.deliver(100, 0, 4, 1);
        let acking = tokio::spawn(next(&mut consumer).await.ack());
        let settle = session.settle().await;
        session.confirm(&settle);
        assert_eq!(acking.await.unwrap(), Ok(()));
        let (held, dropped) = (next(&mut consumer).await, next(&mut consumer).await);
        let unanswered = tokio::spawn(next(&mut consumer).await.ack());
        session.settle().await;
        for log in between.into_iter().chain([after]) {
            cluster.queue().log = log;
            session.break_off();
            session = cluster.session().await;
        }
        // Offsets and tokens begin again, and one is the same.
        session.deliver(3, 0, 1, 1);
        session.deliver(100, 1, 3, 1);
        let mut shown = Vec::new();
        while shown.len() < 4 {
            shown.push(next(&mut consumer).await);
        }
        let shown_as: Vec<_> = shown.iter().map(|one| (one.token, one.offset)).collect();
        assert_eq!(shown_as, [(3, 0), (100, 1), (100, 2), (100, 3)], "{before:?} to {after:?}");
        assert_eq!(unanswered.await.unwrap(), Err(SettleError::UnknownOutcome));
        // What is left of the former log settles nothing in this one.
        assert_eq!(held.ack().await, Err(SettleError::LeaseLost));
        drop(dropped);
        shown.remove(3).ack_later();
        assert_eq!(items(&session.settle().await), [(SettleKind::Ack, 100, 3, 1, 0)]);
    }
}

#[tokio::test]
async fn a_settle_without_an_answer_is_unknown_if_the_lease_is_gone_afterwards() {
    let mut cluster = Cluster::start(1);
    let (mut consumer, mut session) = attached(&mut cluster).await;
    session.deliver(7, 0, 1, 1);
    let acking = tokio::spawn(next(&mut consumer).await.ack());
    session.settle().await;
    session.break_off();
    let mut session = cluster.session().await;
    let settle = session.settle().await;
    let lost = vec![v1::OffsetRange { first_offset: 0, count: 1 }];
    session.answer(Response::Settled(v1::Settled { id: settle.id, lost, failure: None }));
    assert_eq!(acking.await.unwrap(), Err(SettleError::UnknownOutcome));
}

#[tokio::test]
async fn the_death_of_the_connected_node_is_survived() {
    let mut cluster = Cluster::start(3);
    let (mut consumer, session) = attached(&mut cluster).await;
    assert_eq!(session.node, 0);
    cluster.queue().leader = 2;
    cluster.kill(0);
    let session = cluster.session().await;
    assert_eq!(session.node, 2);
    session.deliver(1, 0, 1, 1);
    next(&mut consumer).await.ack_later();
}

#[tokio::test]
async fn leases_are_lost_when_no_node_answers_within_the_session_grace() {
    let mut cluster = Cluster::start(1);
    let (mut consumer, session) = attached(&mut cluster).await;
    session.deliver(7, 0, 2, 1);
    let early = next(&mut consumer).await;
    let late = next(&mut consumer).await;
    cluster.kill(0);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let started = Instant::now();
    // The fake queue's grace is one second.
    let early = tokio::time::timeout(Duration::from_secs(5), early.ack()).await;
    assert_eq!(early.expect("an outcome"), Err(SettleError::LeaseLost));
    assert!(started.elapsed() > Duration::from_millis(600));
    assert_eq!(late.ack().await, Err(SettleError::LeaseLost));
}

#[tokio::test]
async fn a_settle_that_is_not_taken_is_sent_again() {
    let mut cluster = Cluster::start(1);
    let (mut consumer, mut session) = attached(&mut cluster).await;
    session.deliver(7, 0, 1, 1);
    let acking = tokio::spawn(next(&mut consumer).await.ack());
    let settle = session.settle().await;
    let failure = v1::Failure { reason: reason::NO_QUORUM.to_owned(), ..Default::default() };
    let failure = Some(failure);
    session.answer(Response::Settled(v1::Settled { id: settle.id, lost: vec![], failure }));
    let mut session = cluster.session().await;
    let settle = session.settle().await;
    assert_eq!(items(&settle), [(SettleKind::Ack, 7, 0, 1, 0)]);
    session.confirm(&settle);
    assert_eq!(acking.await.unwrap(), Ok(()));
}

#[tokio::test]
async fn closing_finishes_settles_and_detaches() {
    let mut cluster = Cluster::start(1);
    let (mut consumer, mut session) = attached(&mut cluster).await;
    session.deliver(7, 0, 5, 1);
    next(&mut consumer).await.ack_later();
    let in_hand = next(&mut consumer).await;
    let dropped = next(&mut consumer).await;
    let closing = tokio::spawn(consumer.close());
    let settle = session.settle().await;
    // What waits in the buffer or is dropped now is not nacked: detaching returns it.
    assert_eq!(items(&settle), [(SettleKind::Ack, 7, 0, 1, 0)]);
    drop(dropped);
    tokio::time::sleep(Duration::from_millis(50)).await;
    session.confirm(&settle);
    assert!(matches!(session.request().await, Some(Request::Detach(_))));
    assert!(!closing.is_finished(), "the server has not ended the stream");
    drop(session);
    closing.await.unwrap();
    assert_eq!(in_hand.ack().await, Err(SettleError::Closed));
}

#[tokio::test]
async fn dropping_the_consumer_detaches() {
    let mut cluster = Cluster::start(1);
    let (consumer, mut session) = attached(&mut cluster).await;
    session.deliver(7, 0, 5, 1);
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(consumer);
    assert!(matches!(session.request().await, Some(Request::Detach(_))));
}

#[tokio::test]
async fn a_deleted_queue_ends_the_stream_with_its_reason() {
    let mut cluster = Cluster::start(1);
    let (mut consumer, session) = attached(&mut cluster).await;
    cluster.queue().deleted = true;
    session.break_off();
    let ended = tokio::time::timeout(Duration::from_secs(10), consumer.next()).await.unwrap();
    let error = ended.expect("an error").unwrap_err();
    assert!(matches!(error, ConsumeError::Refused(_)));
    assert_eq!(error.reason(), Some(reason::QUEUE_NOT_FOUND));
    assert!(consumer.next().await.is_none());

    let client = cluster.client().await;
    let missing = client.consumer(QUEUE).build().await.unwrap_err();
    assert_eq!(missing.reason(), Some(reason::QUEUE_NOT_FOUND));
    let invalid = client.consumer(QUEUE).prefetch(0).build().await.unwrap_err();
    assert!(matches!(invalid, Error::Invalid(_)));
}

#[tokio::test]
async fn a_batch_takes_what_is_there() {
    let mut cluster = Cluster::start(1);
    let (mut consumer, session) = attached(&mut cluster).await;
    session.deliver(7, 0, 5, 1);
    let batch = consumer.next_batch(3).await;
    assert_eq!(batch.len(), 3);
    assert_eq!(consumer.next_batch(10).await.len(), 2);
}

async fn telling(cluster: &mut Cluster) -> (Consumer, Session) {
    let client = cluster.client().await;
    let consumer =
        client.consumer(QUEUE).name("telling").prefetch(10).build().await.expect("build");
    let session = cluster.session().await;
    (consumer, session)
}

#[tokio::test]
async fn what_the_application_is_given_is_told_with_the_next_settle_if_the_queue_counts_it() {
    let mut cluster = Cluster::start(1);
    let (mut consumer, mut session) = telling(&mut cluster).await;
    session.deliver(7, 0, 10, 1);
    let first = next(&mut consumer).await;
    // Nothing else is to be said: it is told at once, and nothing of what was prefetched.
    let told = session.settle().await;
    assert_eq!(items(&told), [(SettleKind::Start, 7, 0, 1, 0)]);
    let second = next(&mut consumer).await;
    second.ack_later();
    let third = next(&mut consumer).await;
    let put_back = tokio::spawn(first.put_back());
    tokio::time::sleep(Duration::from_millis(100)).await;
    session.confirm(&told);
    // What is settled by now need not be told as begun.
    let settle = session.settle().await;
    let expected = [
        (SettleKind::Ack, 7, 1, 1, 0),
        (SettleKind::Return, 7, 0, 1, 0),
        (SettleKind::Start, 7, 2, 1, 0),
    ];
    assert_eq!(items(&settle), expected);
    session.confirm(&settle);
    assert_eq!(put_back.await.unwrap(), Ok(()));
    drop(third);
}

#[tokio::test]
async fn what_was_begun_is_told_again_when_the_answer_is_lost_and_before_a_consumer_closes() {
    let mut cluster = Cluster::start(1);
    let (mut consumer, mut session) = telling(&mut cluster).await;
    session.deliver(7, 0, 2, 1);
    let first = next(&mut consumer).await;
    assert_eq!(items(&session.settle().await), [(SettleKind::Start, 7, 0, 1, 0)]);
    session.break_off();
    let mut session = cluster.session().await;
    let told = session.settle().await;
    assert!(items(&told).contains(&(SettleKind::Start, 7, 0, 1, 0)), "{told:?}");
    session.confirm(&told);
    let second = next(&mut consumer).await;
    let closing = tokio::spawn(consumer.close());
    let told = session.settle().await;
    assert_eq!(items(&told), [(SettleKind::Start, 7, 1, 1, 0)], "before it detaches");
    session.confirm(&told);
    assert!(matches!(session.request().await, Some(Request::Detach(_))));
    drop(session);
    closing.await.unwrap();
    drop((first, second));
}

#[tokio::test]
async fn a_queue_that_counts_nothing_is_told_nothing_and_putting_back_is_a_nack_where_it_is_not_known()
 {
    let mut cluster = Cluster::start(1);
    let (mut consumer, mut session) = attached(&mut cluster).await;
    session.deliver(7, 0, 2, 1);
    let first = next(&mut consumer).await;
    let second = next(&mut consumer).await;
    second.put_back_later();
    assert_eq!(items(&session.settle().await), [(SettleKind::Nack, 7, 1, 1, 0)]);
    first.ack_later();
}
