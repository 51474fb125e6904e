//! `quorate bench failover`: the queue's leader fails in the middle of a fixed rate.
//!
//! ```text
//! rate ──────────────── fault: kill -9 | SIGSTOP ──────────────── end ─► drain ─► lost? doubled?
//!      confirms, confirms, ◄─ longest gap ─► confirms, confirms
//! ```
//! Latency counts from when a message was due, so what waits for the new leader is seen to wait.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use quorate_client::{Client, Delivery};
use tokio::sync::watch;

use crate::commands::bench::body::{self, Bodies};
use crate::commands::bench::latency::{OPEN_IN_FLIGHT, took};
use crate::commands::bench::load::{self, Carries, Span, Tasks, WARM_UP};
use crate::commands::bench::plot;
use crate::commands::bench::record::{Record, Recorder};
use crate::commands::bench::report::{self, Report};
use crate::commands::bench::schedule::Schedule;
use crate::commands::bench::stage::{self, Own, Stage};
use crate::commands::bench::usage::Meter;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session;
use crate::units;

/// Options of `failover`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Messages a second of all producers together.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: u64,
    /// Producers at work.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=256))]
    producers: u64,
    /// Size of a message's body, 16 B to 512 KiB.
    #[arg(long, value_name = "SIZE", default_value = "1024", value_parser = units::parse_body_size)]
    size: u64,
    /// Seconds to measure, after one of warm-up; the fault comes in the middle.
    #[arg(long, value_name = "N", default_value_t = 8)]
    #[arg(value_parser = clap::value_parser!(u64).range(2..=600))]
    seconds: u64,
    /// The node that the client is told of; it learns of the others by itself.
    #[arg(long, value_enum, default_value_t = ClientOn::Survivor, value_name = "NODE")]
    client_on: ClientOn,
    /// What happens to the leader.
    #[arg(long, value_enum, default_value_t = Fault::Kill, value_name = "FAULT")]
    fault: Fault,
    /// Draw latency over time into this SVG file.
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    #[command(flatten)]
    pub own: Own,
}

/// Where a client begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ClientOn {
    /// A node that goes on.
    Survivor,
    /// The node that fails.
    Leader,
}

/// How the leader fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// kill -9: its connections break at once.
    Kill,
    /// SIGSTOP until the end of the load: its connections stay and are silent.
    Stop,
}

impl Fault {
    fn words(self) -> &'static str {
        match self {
            Fault::Kill => "kill -9",
            Fault::Stop => "SIGSTOP",
        }
    }
}

/// Consuming what was confirmed: nothing new for this long, and the queue is asked whether it is empty.
const QUIET: Duration = Duration::from_millis(500);
/// Nothing new for this long is not waited for.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// Measures.
pub async fn run(args: &Args, stage: &mut Stage) -> Result<Report, Failure> {
    let first = stage.open().await?;
    let queue = stage.create_queues(&first, 1).await?.remove(0);
    let leader = first.locate(queue.as_str()).await;
    let leader = leader.map_err(|error| session::failure("find the queue's leader", &error))?;
    let index = stage.nodes()?.index_of(leader.node_id)?;
    let client = client(args, stage, index).await?;
    let run = fail_over(args, stage, &client, &queue, index).await?;
    let tally = Arc::new(Mutex::new(Tally::default()));
    drain(stage, &client, &queue, &tally).await?;
    let verdict = tally.lock().unwrap_or_else(PoisonError::into_inner).verdict(&run.record.journal);
    let after = first.locate(queue.as_str()).await.ok().map(|leader| leader.node_id);

    let mut report = Report::new("failover");
    report.count("rate", args.rate);
    report.count("producers", args.producers);
    report.size(args.size);
    report.count("seconds", args.seconds);
    let on = args.client_on.to_possible_value().map(|value| value.get_name().to_owned());
    let on = on.unwrap_or_default();
    report.figure("client_on", "client on", on.as_str(), on.as_str());
    let fault = args.fault.to_possible_value().map(|value| value.get_name().to_owned());
    let words = format!("{} of node {}, the leader", args.fault.words(), leader.node_id);
    report.figure("fault", "fault", fault.unwrap_or_default(), words);
    let messages = run.record.latency_us.len();
    report.rate("messages_per_s", "messages/s", messages, run.span.took);
    report.latency(&run.record.latency_us);
    let gap = longest_gap(&run.record.journal, run.fault);
    let gap_ms = report::round(gap.as_secs_f64() * 1000.0);
    report.figure("longest_gap_ms", "longest gap", gap_ms, units::duration(gap));
    report.count("confirmed", run.record.journal.len() as u64);
    report.count("lost", verdict.lost);
    report.count("duplicates", verdict.duplicates);
    report.count("unconfirmed", run.record.failed);
    let words = after.map_or("none".to_owned(), |node| format!("node {node}"));
    report.figure("leader_after", "leader after", after, words);
    report.cost(&run.span.cost, messages, args.size);
    report.resident(stage);
    report.disk(stage.probed());
    if let (Some(path), Some(timeline)) = (&args.plot, &run.record.timeline) {
        let title = format!(
            "{} of the leader at {} messages/s",
            args.fault.words(),
            units::count(args.rate)
        );
        let mark = (timeline.second(run.fault), args.fault.words().to_owned());
        plot::write(path, &title, timeline, Some(mark))?;
    }
    Ok(report)
}

/// A client that was told of one node only.
async fn client(args: &Args, stage: &mut Stage, leader: usize) -> Result<Client, Failure> {
    let addresses = stage.nodes()?.addresses();
    let index = match args.client_on {
        ClientOn::Leader => leader,
        ClientOn::Survivor => (leader + 1) % addresses.len(),
    };
    stage::connect(&addresses[index..=index]).await
}

struct Run {
    record: Record,
    span: Span,
    fault: Instant,
}

async fn fail_over(
    args: &Args,
    stage: &mut Stage,
    client: &Client,
    queue: &str,
    leader: usize,
) -> Result<Run, Failure> {
    let (size, length) = (args.size as usize, Duration::from_secs(args.seconds));
    let mut producers = Vec::new();
    for _ in 0..args.producers {
        producers.push(load::producer(client, queue, OPEN_IN_FLIGHT, size).await?);
    }
    let begin = Instant::now();
    let (from, end) = (begin + WARM_UP, begin + WARM_UP + length);
    let mut recorder = Recorder::of_open_loop(from).with_journal();
    if args.plot.is_some() {
        recorder = recorder.with_timeline(begin, WARM_UP + length);
    }
    let recorder = Arc::new(recorder);
    let schedule = Schedule::new(begin, args.rate, WARM_UP + length);
    let producers =
        producers.into_iter().map(|one| (one, Bodies::numbered(size), Arc::clone(&recorder)));
    let mut tasks = load::open_all(producers.collect(), schedule, Carries::Number)?;
    stage.watch(load::beside(&mut tasks, sleep_until(from))).await?;
    let mut meter = Meter::start(stage.pids().as_deref());
    stage.watch(load::beside(&mut tasks, sleep_until(from + length / 2))).await?;
    let nodes = stage.nodes()?;
    let fault = Instant::now();
    match args.fault {
        Fault::Kill => {
            nodes.pid(leader).into_iter().for_each(|pid| meter.node_ends(pid));
            nodes.kill(leader).await?;
        }
        Fault::Stop => nodes.pause(leader),
    }
    stage.watch(load::beside(&mut tasks, sleep_until(end))).await?;
    let cost = meter.finish();
    if args.fault == Fault::Stop {
        stage.nodes()?.resume(leader);
    }
    stage.watch(load::finish(&mut tasks)).await?;
    let record = recorder.take();
    let span = Span { cost, took: took(length, from, &record) };
    Ok(Run { record, span, fault })
}

async fn sleep_until(when: Instant) -> Result<(), Failure> {
    tokio::time::sleep_until(when.into()).await;
    Ok(())
}

/// Takes all that is in the queue.
async fn drain(
    stage: &mut Stage,
    client: &Client,
    queue: &str,
    tally: &Arc<Mutex<Tally>>,
) -> Result<(), Failure> {
    const PREFETCH: u32 = 1024;
    let (drained, until) = watch::channel(false);
    let consumer = load::consumer(client, queue, PREFETCH).await?;
    let mut tasks = Tasks::new();
    let seen = {
        let tally = Arc::clone(tally);
        move |burst: &[Delivery]| {
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            burst.iter().for_each(|delivery| tally.delivered(&delivery.body, delivery.offset));
        }
    };
    tasks.spawn(load::consume(consumer, until, seen));
    stage.watch(load::beside(&mut tasks, until_empty(client, queue, tally))).await?;
    drained.send_replace(true);
    stage.watch(load::finish(&mut tasks)).await
}

async fn until_empty(client: &Client, queue: &str, tally: &Mutex<Tally>) -> Result<(), Failure> {
    let mut last = (0, Instant::now());
    loop {
        tokio::time::sleep(QUIET).await;
        let deliveries = tally.lock().unwrap_or_else(PoisonError::into_inner).deliveries;
        if deliveries > last.0 {
            last = (deliveries, Instant::now());
            continue;
        }
        let described = client.describe_queue(queue).await;
        let counts = described.ok().and_then(|queue| queue.counts);
        if counts.is_some_and(|counts| {
            counts.ready + counts.leased + counts.delayed + counts.blocked + counts.dead == 0
        }) {
            return Ok(());
        }
        if last.1.elapsed() > STUCK_AFTER {
            let what =
                format!("the queue is not empty, and nothing was delivered for {STUCK_AFTER:?}");
            return Err(Failure::new(Exit::Failed, what));
        }
    }
}

/// What the queue held: at which offsets each number was.
#[derive(Debug, Default)]
struct Tally {
    deliveries: u64,
    offsets: HashMap<u64, Vec<u64>>,
}

/// What became of the promises.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    /// Confirmed, and not in the queue.
    lost: u64,
    /// In the queue a second time. The same offset delivered again is none: that is at least once.
    duplicates: u64,
}

impl Tally {
    fn delivered(&mut self, body: &[u8], offset: u64) {
        self.deliveries += 1;
        let Some(number) = body::number(body) else { return };
        let offsets = self.offsets.entry(number).or_default();
        if !offsets.contains(&offset) {
            offsets.push(offset);
        }
    }

    fn verdict(&self, confirmed: &[(u64, Instant)]) -> Verdict {
        let lost = confirmed.iter().filter(|(number, _)| !self.offsets.contains_key(number));
        let duplicates = self.offsets.values().map(|offsets| offsets.len() as u64 - 1);
        Verdict { lost: lost.count() as u64, duplicates: duplicates.sum() }
    }
}

/// The longest time without a confirm that reaches beyond the fault. Times are in order.
fn longest_gap(confirmed: &[(u64, Instant)], fault: Instant) -> Duration {
    let gaps = confirmed.windows(2).filter(|pair| pair[1].1 > fault);
    gaps.map(|pair| pair[1].1 - pair[0].1).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_count_if_they_reach_beyond_the_fault() {
        let begin = Instant::now();
        let at = |millis| begin + Duration::from_millis(millis);
        let confirmed = [0, 500, 600, 1400, 1401].map(|millis| (millis, at(millis)));
        assert_eq!(longest_gap(&confirmed, at(610)), Duration::from_millis(800));
        assert_eq!(longest_gap(&confirmed, at(1400)), Duration::from_millis(1));
        assert_eq!(longest_gap(&[], begin), Duration::ZERO);
    }

    #[test]
    fn confirmed_and_missing_is_lost_a_second_offset_is_a_duplicate() {
        let body = |number: u64| Bodies::numbered(16).next(number);
        let confirmed = [0, 1, 2].map(|number| (number, Instant::now()));
        let mut tally = Tally::default();
        tally.delivered(&body(0), 10);
        tally.delivered(&body(0), 10);
        tally.delivered(&body(2), 11);
        assert_eq!(tally.verdict(&confirmed), Verdict { lost: 1, duplicates: 0 });
        tally.delivered(&body(2), 12);
        tally.delivered(&body(1), 13);
        tally.delivered(&body(9), 14);
        assert_eq!(tally.verdict(&confirmed), Verdict { lost: 0, duplicates: 1 });
    }
}
