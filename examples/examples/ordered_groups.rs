//! Order by key: the messages of one account are handled one after the other, also over a retry, while those of other
//! accounts go on beside them.
//!
//! ```text
//! quorate dev                                      in another terminal
//! cargo run -p quorate-examples --example ordered_groups
//! ```
//! It checks the order and prints:
//! ```text
//! created ledger-1795749000000-4711
//! account-3: step 4 fails, and the steps behind it wait for its retry
//! account-0: 0 1 2 3 4 5 6 7 8 9
//! ...
//! account-3: 0 1 2 3 4 4 5 6 7 8 9
//! in order in each of 6 accounts, up to 6 accounts at a time
//! ```
//! There are no partitions to choose: any string is a key, and any number of consumers share them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_client::{Client, Job, JobError, Message, QueueSettings};
use quorate_examples::{servers, unique};
use tokio::sync::Notify;

const ACCOUNTS: usize = 6;
const STEPS: u32 = 10;
/// The account and the step that fail once.
const FAILS: (&str, u32) = ("account-3", 4);

#[derive(Default)]
struct Ledger {
    /// The steps of each account, as they were begun.
    begun: BTreeMap<String, Vec<u32>>,
    /// Those that ended well.
    done: BTreeSet<(String, u32)>,
    at_work: BTreeSet<String>,
    most: usize,
    /// A handler's panic is but its message's failure, so what is wrong is told in the end.
    wrong: Vec<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::connect(servers()).await?;
    let queue = unique("ledger");
    client.create_queue(&queue, QueueSettings::default()).await?;
    println!("created {queue}");

    let producer = client.producer(&queue).build().await?;
    let mut sent = Vec::new();
    for step in 0..STEPS {
        for account in 0..ACCOUNTS {
            let message = Message::new(step.to_string()).group_key(format!("account-{account}"));
            sent.push(producer.send(message).await?);
        }
    }
    for pending in sent {
        pending.await?;
    }

    let (ledger, all_done) = (Arc::<Mutex<Ledger>>::default(), Arc::new(Notify::new()));
    let handler = {
        let (ledger, all_done) = (Arc::clone(&ledger), Arc::clone(&all_done));
        move |job: Job| handle(job, Arc::clone(&ledger), Arc::clone(&all_done))
    };
    let second = Duration::from_secs(1);
    let worker = client.worker(&queue, handler).concurrency(8).pauses(second / 2, second);
    worker.run_until(all_done.notified()).await?;

    check(&ledger.lock().expect("no panic while it is held"));
    client.delete_queue(&queue, false).await?;
    Ok(())
}

fn check(ledger: &Ledger) {
    for (account, steps) in &ledger.begun {
        let steps: Vec<String> = steps.iter().map(u32::to_string).collect();
        println!("{account}: {}", steps.join(" "));
    }
    assert!(ledger.wrong.is_empty(), "out of order: {:?}", ledger.wrong);
    assert_eq!(ledger.done.len(), ACCOUNTS * STEPS as usize, "every step was taken");
    assert!(ledger.most > 1, "accounts go side by side");
    println!("in order in each of {ACCOUNTS} accounts, up to {} accounts at a time", ledger.most);
}

/// Takes one step of one account.
async fn handle(
    job: Job,
    ledger: Arc<Mutex<Ledger>>,
    all_done: Arc<Notify>,
) -> Result<(), JobError> {
    let account = job.group_key().ok_or_else(|| JobError::reject("it has no account"))?;
    let step: u32 = std::str::from_utf8(&job.body)?.parse()?;
    begin(&mut ledger.lock().expect("no panic while it is held"), &account, step);
    tokio::time::sleep(Duration::from_millis(10)).await;

    let mut ledger = ledger.lock().expect("no panic while it is held");
    ledger.at_work.remove(&account);
    if (account.as_str(), step) == FAILS && job.attempt == 1 {
        println!("{account}: step {step} fails, and the steps behind it wait for its retry");
        return Err(JobError::retry("the account is locked"));
    }
    ledger.done.insert((account, step));
    if ledger.done.len() == ACCOUNTS * STEPS as usize {
        all_done.notify_one();
    }
    Ok(())
}

/// The step is the next one of its account, or the one before once more, and nothing else of the account is at work.
fn begin(ledger: &mut Ledger, account: &str, step: u32) {
    let begun = ledger.begun.entry(account.to_owned()).or_default();
    let in_order = match begun.last() {
        Some(&last) => step == last || step == last + 1,
        None => step == 0,
    };
    begun.push(step);
    if !in_order {
        ledger.wrong.push(format!("step {step} of {account}"));
    }
    if !ledger.at_work.insert(account.to_owned()) {
        ledger.wrong.push(format!("two steps of {account} at a time"));
    }
    ledger.most = ledger.most.max(ledger.at_work.len());
}
