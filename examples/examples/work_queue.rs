//! A work queue: a worker that does eight jobs at a time and stops in order, and another one that goes on.
//!
//! ```text
//! quorate dev                                      in another terminal
//! cargo run -p quorate-examples --example work_queue
//! ```
//! It prints:
//! ```text
//! created work-1795749000000-4711 with 60 jobs
//! first worker: stopped with 37 of 60 jobs done, up to 8 at a time, none left half done
//! second worker: stopped with 60 of 60 jobs done, up to 8 at a time, none left half done
//! ```
//! Ctrl-C stops a worker in the same way: it begins no more jobs, finishes those at work, and gives back what it was
//! handed ahead. If it dies instead, its jobs go to others when its session is over: **a handler has to bear that it
//! sees a job twice**.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use quorate_client::{Client, Job, JobError, Message, QueueSettings};
use quorate_examples::{servers, unique};
use tokio::sync::Notify;

const JOBS: usize = 60;
const AT_ONCE: u32 = 8;

/// What the workers note down.
#[derive(Default)]
struct Ledger {
    done: BTreeSet<u64>,
    at_work: u32,
    most: u32,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::connect(servers()).await?;
    let queue = unique("work");
    client.create_queue(&queue, QueueSettings::default()).await?;
    let producer = client.producer(&queue).build().await?;
    let mut sent = Vec::new();
    for n in 0..JOBS {
        sent.push(producer.send(Message::new(format!("job {n}"))).await?);
    }
    for pending in sent {
        pending.await?;
    }
    println!("created {queue} with {JOBS} jobs");

    let ledger = Arc::default();
    work(&client, &queue, "first worker", &ledger, JOBS / 2).await?;
    work(&client, &queue, "second worker", &ledger, JOBS).await?;
    assert_eq!(lock(&ledger).done.len(), JOBS, "all jobs are done");
    client.delete_queue(&queue, false).await?;
    Ok(())
}

/// Runs a worker until so many jobs are done, or Ctrl-C.
async fn work(
    client: &Client,
    queue: &str,
    name: &str,
    ledger: &Arc<Mutex<Ledger>>,
    enough: usize,
) -> anyhow::Result<()> {
    let reached = Arc::new(Notify::new());
    let handler = {
        let (ledger, reached) = (Arc::clone(ledger), Arc::clone(&reached));
        move |job: Job| handle(job, Arc::clone(&ledger), Arc::clone(&reached), enough)
    };
    let stop = async {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            () = reached.notified() => {}
        }
    };
    client.worker(queue, handler).name(name).concurrency(AT_ONCE).run_until(stop).await?;

    let ledger = lock(ledger);
    assert_eq!(ledger.at_work, 0, "a worker that has stopped leaves nothing half done");
    assert!((2..=AT_ONCE).contains(&ledger.most), "jobs go side by side, up to the limit");
    let (done, most) = (ledger.done.len(), ledger.most);
    println!(
        "{name}: stopped with {done} of {JOBS} jobs done, up to {most} at a time, none left half done"
    );
    Ok(())
}

/// Does one job. `Ok` acknowledges it; an error, or a panic, and it comes again after a pause that grows.
async fn handle(
    job: Job,
    ledger: Arc<Mutex<Ledger>>,
    reached: Arc<Notify>,
    enough: usize,
) -> Result<(), JobError> {
    if job.body.is_empty() {
        return Err(JobError::reject("there is nothing to do, now or later"));
    }
    {
        let mut ledger = lock(&ledger);
        ledger.at_work += 1;
        ledger.most = ledger.most.max(ledger.at_work);
    }
    // The work. It may take longer than a lease: the SDK extends that meanwhile.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let mut ledger = lock(&ledger);
    ledger.at_work -= 1;
    ledger.done.insert(job.offset);
    if ledger.done.len() >= enough {
        reached.notify_one();
    }
    Ok(())
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().expect("no panic while it is held")
}
