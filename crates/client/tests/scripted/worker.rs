//! What a worker makes of what its handler says, and how it stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::fake::{Cluster, QUEUE};
use quorate_client::{Job, JobError};
use quorate_proto::v1::SettleKind;
use tokio::sync::{Notify, oneshot};

#[tokio::test]
async fn success_is_acknowledged_failure_comes_again_and_what_never_works_is_rejected() {
    let mut cluster = Cluster::start(1);
    let client = cluster.client().await;
    let handle = |job: Job| async move {
        match job.offset {
            0 => Ok(()),
            1 => Err(JobError::retry("not now")),
            2 => Err(JobError::retry_after("in a minute", Duration::from_secs(60))),
            3 => Err(JobError::reject("never")),
            _ => panic!("a mistake"),
        }
    };
    let second = Duration::from_secs(1);
    let worker = client.worker(QUEUE, handle).concurrency(8).pauses(second, second * 100);
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(worker.run_until(async { drop(stopped.await) }));
    let mut session = cluster.session().await;
    assert_eq!((session.attach.prefetch, session.attach.name.as_str()), (8, "worker"));
    session.deliver(7, 0, 5, 3);
    let mut seen = std::collections::BTreeMap::new();
    while seen.len() < 5 {
        let settle = session.settle().await;
        for item in &settle.items {
            for offset in item.first_offset..item.first_offset + u64::from(item.count) {
                seen.insert(offset, (item.kind(), item.delay_ms));
            }
        }
        session.confirm(&settle);
    }
    assert_eq!(seen[&0], (SettleKind::Ack, 0));
    assert_eq!(seen[&2], (SettleKind::Nack, 60_000));
    assert_eq!(seen[&3], (SettleKind::Reject, 0));
    for offset in [1, 4] {
        let (kind, delay_ms) = seen[&offset];
        assert_eq!(kind, SettleKind::Nack);
        assert!((2_000..=4_000).contains(&delay_ms), "third attempt: {delay_ms} ms");
    }
    stop.send(()).expect("it runs");
    running.await.expect("no panic").expect("it was stopped");
}

#[tokio::test]
async fn the_last_attempt_is_rejected() {
    let mut cluster = Cluster::start(1);
    let client = cluster.client().await;
    let worker = client.worker(QUEUE, |_| async { Err(JobError::retry("not now")) }).attempts(3);
    let running = tokio::spawn(worker.run());
    let mut session = cluster.session().await;
    session.deliver(7, 0, 1, 3);
    assert_eq!(session.settle().await.items[0].kind(), SettleKind::Reject);
    running.abort();
}

#[tokio::test]
async fn a_worker_that_is_stopped_lets_its_handlers_finish_and_takes_no_more() {
    let mut cluster = Cluster::start(1);
    let client = cluster.client().await;
    let (started, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let handle = {
        let (started, go) = (started.clone(), go.clone());
        move |_: Job| {
            started.fetch_add(1, Ordering::Relaxed);
            let go = go.clone();
            async move {
                go.notified().await;
                Ok::<(), JobError>(())
            }
        }
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let worker = client.worker(QUEUE, handle).concurrency(2);
    let running = tokio::spawn(worker.run_until(async { drop(stopped.await) }));
    let mut session = cluster.session().await;
    session.deliver(7, 0, 2, 1);
    while started.load(Ordering::Relaxed) < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.send(()).expect("it runs");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!running.is_finished(), "handlers are at work");
    go.notify_waiters();
    let mut acknowledged = 0;
    while acknowledged < 2 {
        let settle = session.settle().await;
        assert!(settle.items.iter().all(|item| item.kind() == SettleKind::Ack), "{settle:?}");
        acknowledged += settle.items.iter().map(|item| item.count).sum::<u32>();
        session.confirm(&settle);
    }
    running.await.expect("no panic").expect("it was stopped");
}

#[tokio::test]
async fn handlers_that_do_not_end_are_dropped_and_their_messages_go_back() {
    let mut cluster = Cluster::start(1);
    let client = cluster.client().await;
    let begun = Arc::new(Notify::new());
    let handle = {
        let begun = begun.clone();
        move |_: Job| {
            begun.notify_one();
            std::future::pending::<Result<(), JobError>>()
        }
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let worker = client.worker(QUEUE, handle).patience(Duration::from_millis(50));
    let running = tokio::spawn(worker.run_until(async { drop(stopped.await) }));
    let mut session = cluster.session().await;
    session.deliver(7, 0, 1, 1);
    begun.notified().await;
    stop.send(()).expect("it runs");
    let settle = session.settle().await;
    assert_eq!(settle.items[0].kind(), SettleKind::Nack);
    session.confirm(&settle);
    running.await.expect("no panic").expect("it was stopped");
}
