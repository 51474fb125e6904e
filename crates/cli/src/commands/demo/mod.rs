//! `quorate demo`: the promise, shown on real processes.
//!
//! ```text
//! 3 nodes ─► queue, 3 replicas ─► producers and consumers ─► half confirmed: kill -9 the queue's leader
//!   ─► 2 s later: start it again ─► all published ─► drain ─► compare what was confirmed and delivered
//! ```
//! Nothing is staged: the nodes are this same binary, the data is on disk, the users are the public SDK.

mod ledger;
mod report;
mod workload;

use std::io::Write;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use quorate_client::{Client, QueueSettings};
use tokio::task::JoinSet;

use crate::args::{Format, Global};
use crate::commands::demo::ledger::{Id, Ledger, Verdict};
use crate::commands::demo::report::Failover;
use crate::commands::demo::workload::Work;
use crate::commands::dev;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::nodes::{self, Node, Nodes};
use crate::session;
use crate::units;

/// Options of `demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Ends with 0 if everything confirmed was delivered once, else with 1.")]
pub struct Args {
    /// Messages to publish.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(100..=50_000_000))]
    messages: u64,
    /// Size of a message's body, 16 B to 512 KiB.
    #[arg(long, value_name = "SIZE", default_value = "1024", value_parser = units::parse_body_size)]
    size: u64,
    /// Producers at work.
    #[arg(long, value_name = "N", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=64))]
    producers: u64,
    /// Consumers at work.
    #[arg(long, value_name = "N", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=64))]
    consumers: u64,
    /// How long the killed leader stays down.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = units::parse_duration)]
    down: Duration,
    /// Give up after this long.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = units::parse_duration)]
    limit: Duration,
}

const QUEUE: &str = "demo";
const NODES: u64 = 3;
/// After the last message: time for a delivery that should not be to show itself.
const LINGER: Duration = Duration::from_secs(1);

/// Runs the demo; an error if anything confirmed is missing.
pub async fn run(args: Args, global: &Global) -> Result<(), Failure> {
    let directory = tempfile::Builder::new().prefix("quorate-demo-").tempdir()?;
    let ports = nodes::free_ports(NODES as usize)?;
    let list = (1..=NODES).zip(ports).map(|(id, port)| Node::new(id, port, directory.path()));
    let mut nodes = Nodes::new(list.collect())?;
    let stage = Stage::new(args.messages);
    let outcome = tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => Err(Failure::new(Exit::Failed, "interrupted")),
        outcome = tokio::time::timeout(args.limit, play(&args, &mut nodes, &stage)) => {
            outcome.unwrap_or_else(|_| Err(stage.too_late(args.limit)))
        }
    };
    stage.bar.finish_and_clear();
    nodes.stop_all().await;
    let told = outcome.and_then(|(verdict, failover)| {
        print(&verdict, &failover, global.output)?;
        judge(&verdict)
    });
    if told.is_err() {
        let kept = directory.keep();
        eprintln!("data and logs of the nodes are kept in {}", kept.display());
    }
    told
}

fn print(verdict: &Verdict, failover: &Failover, output: Format) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match output {
        Format::Json => writeln!(out, "{}", report::json(verdict, failover))?,
        Format::Table => write!(out, "{}", report::text(verdict, failover))?,
    }
    Ok(())
}

fn judge(verdict: &Verdict) -> Result<(), Failure> {
    if verdict.is_clean() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Failed,
        format!(
            "a promise was broken: {} lost, {} duplicated, {} strange of {} confirmed messages",
            verdict.lost, verdict.duplicates, verdict.strange, verdict.confirmed
        ),
    ))
}

/// What is going on, for the progress bar and for the message when time runs out.
struct Stage {
    bar: ProgressBar,
    now: Mutex<&'static str>,
}

impl Stage {
    fn new(messages: u64) -> Stage {
        // Hidden by itself when standard error is no terminal.
        let bar = ProgressBar::new(messages);
        let style = "{msg:24} {bar:32} {human_pos}/{human_len}  {per_sec}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Stage { bar, now: Mutex::new("starting") }
    }

    fn enter(&self, what: &'static str) {
        self.bar.set_message(what);
        if let Ok(mut now) = self.now.lock() {
            *now = what;
        }
    }

    fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    fn too_late(&self, limit: Duration) -> Failure {
        let now = self.now.lock().map_or("running", |now| *now);
        let what = format!("the demo did not end within {}; it was {now}", units::duration(limit));
        Failure::new(Exit::Failed, what).reason("TIMEOUT").cure("--limit with more time")
    }
}

async fn play(
    args: &Args,
    nodes: &mut Nodes,
    stage: &Stage,
) -> Result<(Verdict, Failover), Failure> {
    stage.enter("starting three nodes");
    nodes.start_all()?;
    let addresses = nodes.addresses();
    let ready = nodes.watch(dev::wait_for_leader(addresses.clone())).await?;
    stage.say(&format!(
        "3 nodes are up on {}, node {ready} leads the catalog",
        addresses.join(", ")
    ));
    let client = Client::connect(addresses).await;
    let client = client.map_err(|error| session::failure("connect", &error))?;
    stage.enter("creating the queue");
    let settings = QueueSettings { replicas: 3, ..QueueSettings::default() };
    let created = nodes.watch(async {
        let created = client.create_queue(QUEUE, settings).await;
        created.map_err(|error| session::failure("create queue", &error))
    });
    created.await?;

    let ledger = Arc::new(Ledger::new(args.messages));
    let work = Work {
        client: client.clone(),
        queue: QUEUE,
        ledger: Arc::clone(&ledger),
        size: args.size as usize,
        killed: Arc::new(AtomicBool::new(false)),
        drained: Arc::new(AtomicBool::new(false)),
    };
    stage.enter("publishing");
    ledger.start();
    let mut consumers = JoinSet::new();
    for number in 1..=args.consumers {
        consumers.spawn(workload::consume(work.clone(), format!("demo-{number}")));
    }
    let mut producers = JoinSet::new();
    for number in 0..args.producers {
        producers.spawn(workload::produce(work.clone(), share(args, number)));
    }
    let killed = fail_over(args, nodes, stage, &work, &client).await?;
    finish(&mut producers, nodes, stage, &ledger).await?;
    drain(nodes, stage, &work).await?;
    work.drained.store(true, Ordering::Relaxed);
    while consumers.join_next().await.is_some() {}
    let leader_after = client.locate(QUEUE).await.ok().map(|leader| leader.node_id);
    Ok((ledger.verdict(), Failover { node: killed, leader_after }))
}

/// The messages of one producer: together they cover all.
fn share(args: &Args, number: u64) -> std::ops::Range<Id> {
    let at = |number: u64| args.messages * number / args.producers;
    at(number)..at(number + 1)
}

/// Waits for half of the receipts, kills the queue's leader, starts it again.
async fn fail_over(
    args: &Args,
    nodes: &mut Nodes,
    stage: &Stage,
    work: &Work,
    client: &Client,
) -> Result<u64, Failure> {
    const LOOK_EVERY: Duration = Duration::from_millis(5);
    nodes
        .watch(async {
            while work.ledger.confirmed_count() < args.messages / 2 {
                stage.bar.set_position(work.ledger.confirmed_count());
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Ok(())
        })
        .await?;
    let leader = client.locate(QUEUE).await;
    let leader = leader.map_err(|error| session::failure("find the queue's leader", &error))?;
    let index = nodes.index_of(leader.node_id)?;
    let pid = nodes.pid(index).unwrap_or_default();
    work.ledger.killed();
    nodes.kill(index).await?;
    work.killed.store(true, Ordering::Relaxed);
    let confirmed = units::count(work.ledger.confirmed_count());
    stage.say(&format!("killed node {} (kill -9 {pid}) at {confirmed} confirmed", leader.node_id));
    nodes
        .watch(async {
            tokio::time::sleep(args.down).await;
            Ok(())
        })
        .await?;
    nodes.start(index)?;
    stage.say(&format!("started node {} again, on the same data", leader.node_id));
    Ok(leader.node_id)
}

async fn finish(
    producers: &mut JoinSet<Result<(), Failure>>,
    nodes: &mut Nodes,
    stage: &Stage,
    ledger: &Ledger,
) -> Result<(), Failure> {
    const SHOW_EVERY: Duration = Duration::from_millis(100);
    nodes.watch(async {
        loop {
            stage.bar.set_position(ledger.confirmed_count());
            tokio::select! {
                ended = producers.join_next() => match ended {
                    Some(Ok(outcome)) => outcome?,
                    Some(Err(error)) => {
                        return Err(Failure::new(Exit::Failed, format!("a producer ended: {error}")));
                    }
                    None => return Ok(()),
                },
                () = tokio::time::sleep(SHOW_EVERY) => {}
            }
        }
    })
    .await
}

/// Until all that was confirmed is acked for sure or the queue itself says that it is empty (the answer to an
/// ack can be lost at the failover, though the ack counts), and a little longer.
async fn drain(nodes: &mut Nodes, stage: &Stage, work: &Work) -> Result<(), Failure> {
    const LOOK_EVERY: Duration = Duration::from_millis(50);
    const QUIET: Duration = Duration::from_millis(500);
    const STUCK_AFTER: Duration = Duration::from_secs(60);
    stage.enter("draining");
    let mut done = (work.ledger.done(), Instant::now());
    nodes
        .watch(async {
            while work.ledger.outstanding() > 0 {
                tokio::time::sleep(LOOK_EVERY).await;
                stage.bar.set_position(work.ledger.done());
                if work.ledger.done() > done.0 {
                    done = (work.ledger.done(), Instant::now());
                }
                if done.1.elapsed() > QUIET && is_empty(work).await {
                    break;
                }
                if done.1.elapsed() > STUCK_AFTER {
                    stage.say("nothing has been acked for a minute: not waiting any longer");
                    break;
                }
            }
            tokio::time::sleep(LINGER).await;
            Ok(())
        })
        .await
}

/// Whether the queue holds nothing any more; no answer is no.
async fn is_empty(work: &Work) -> bool {
    let described = work.client.describe_queue(work.queue).await;
    let counts = described.ok().and_then(|queue| queue.counts);
    counts.is_some_and(|counts| {
        counts.ready + counts.leased + counts.delayed + counts.blocked + counts.dead == 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_all_messages_once() {
        for (messages, producers) in [(100, 1), (100, 3), (101, 4), (100_000, 64)] {
            let limit = Duration::from_secs(1);
            let args = Args { messages, size: 16, producers, consumers: 1, down: limit, limit };
            let mut next = 0;
            for number in 0..producers {
                let share = share(&args, number);
                assert_eq!(share.start, next);
                next = share.end;
            }
            assert_eq!(next, messages);
        }
    }

    #[test]
    fn a_lost_message_is_a_failure() {
        let ledger = Ledger::new(2);
        ledger.attempted(0, 1);
        ledger.confirmed(0, std::time::Instant::now());
        assert_eq!(judge(&ledger.verdict()).expect_err("lost").exit(), Exit::Failed);
        ledger.delivered(0, 1, 0, 1);
        assert!(judge(&ledger.verdict()).is_ok());
    }
}
