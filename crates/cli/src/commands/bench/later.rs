//! `quorate bench later`: messages that wait for their time, what they take while they wait, and how late they come.
//!
//! Lateness is from when a message was due to when a consumer has it, by the clock of this machine: with nodes elsewhere it
//! has the difference of the clocks in it.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use quorate_client::{Client, Delivery, Message};
use tokio::sync::watch;

use crate::commands::bench::body::{self, Bodies};
use crate::commands::bench::load::{self, Tasks};
use crate::commands::bench::plot;
use crate::commands::bench::record::{self, Timeline};
use crate::commands::bench::report::Report;
use crate::commands::bench::stage::{Site, Stage};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session;
use crate::units;

/// Options of `later`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Messages that wait.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=2_000_000))]
    messages: u64,
    /// Size of a message's body, 16 B to 512 KiB.
    #[arg(long, value_name = "SIZE", default_value = "100", value_parser = units::parse_body_size)]
    size: u64,
    /// The first is due this long after publishing begins; all have to be published by then.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = units::parse_duration)]
    after: Duration,
    /// The last is due this long after the first, the others evenly between.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = units::parse_duration)]
    over: Duration,
    /// Due in no order, rather than in the order of publishing.
    #[arg(long)]
    shuffled: bool,
    /// Tell what they take while they wait, and do not wait for them.
    #[arg(long)]
    memory_only: bool,
    /// Draw lateness by the time that messages were due into this SVG file.
    #[arg(long, value_name = "FILE", conflicts_with = "memory_only")]
    pub plot: Option<PathBuf>,
    #[command(flatten)]
    pub site: Site,
}

/// Enough to fill the largest batches.
const IN_FLIGHT: usize = 2048;
/// What the consumer takes ahead: more than becomes due until its acks are through.
const PREFETCH: u32 = 10_000;
/// After publishing, until memory is looked at: checkpoints are written meanwhile.
const SETTLE: Duration = Duration::from_secs(2);
/// How late the last message may be.
const LATE_LIMIT: Duration = Duration::from_secs(120);
/// What counts as on time, in microseconds.
const ON_TIME_US: u64 = 20_000;
/// A prime larger than any number of messages: its multiples, modulo that number, are all of them in no order.
const SHUFFLE: u64 = 2_654_435_761;

/// When each message is due.
#[derive(Debug, Clone, Copy)]
struct Dues {
    first_ms: u64,
    over_ms: u64,
    messages: u64,
    shuffled: bool,
}

impl Dues {
    fn new(args: &Args) -> Dues {
        let millis = |time: Duration| time.as_millis() as u64;
        Dues {
            first_ms: now_us() / 1000 + millis(args.after),
            over_ms: millis(args.over),
            messages: args.messages,
            shuffled: args.shuffled,
        }
    }

    /// In milliseconds since the Unix epoch.
    fn of(&self, number: u64) -> u64 {
        let place = match self.shuffled {
            true => (u128::from(number) * u128::from(SHUFFLE) % u128::from(self.messages)) as u64,
            false => number,
        };
        self.first_ms + place * self.over_ms / self.messages
    }
}

/// What has been delivered.
struct Seen {
    once: Vec<bool>,
    left: u64,
    again: u64,
    early: u64,
    on_time: u64,
    late_us: Histogram<u64>,
    /// From when the first is due.
    timeline: Timeline,
    first_ms: u64,
    begun: Instant,
}

impl Seen {
    fn new(dues: Dues) -> Seen {
        let begun = Instant::now();
        Seen {
            once: vec![false; dues.messages as usize],
            left: dues.messages,
            again: 0,
            early: 0,
            on_time: 0,
            late_us: record::histogram(),
            timeline: Timeline::new(begun, Duration::from_millis(dues.over_ms + 1)),
            first_ms: dues.first_ms,
            begun,
        }
    }

    fn note(&mut self, number: u64, due_ms: u64, at_us: u64) {
        let Some(seen) = self.once.get_mut(number as usize) else { return };
        if std::mem::replace(seen, true) {
            self.again += 1;
            return;
        }
        self.left -= 1;
        self.early += u64::from(at_us < due_ms * 1000);
        let late_us = at_us.saturating_sub(due_ms * 1000);
        self.on_time += u64::from(late_us <= ON_TIME_US);
        self.late_us.saturating_record(late_us.max(1));
        let due = Duration::from_millis(due_ms.saturating_sub(self.first_ms));
        self.timeline.record(self.begun + due, late_us);
    }
}

/// Measures.
pub async fn run(args: &Args, stage: &mut Stage) -> Result<Report, Failure> {
    let client = stage.open().await?;
    let queue = stage.create_queues(&client, 1).await?.remove(0);
    let mut report = Report::new("later");
    report.count("messages", args.messages);
    report.size(args.size);
    let dues = Dues::new(args);
    let begun = Instant::now();
    stage.watch(publish(&client, &queue, args, dues)).await?;
    let took = begun.elapsed();
    report.rate("publish_per_s", "published/s", args.messages, took);
    if !args.memory_only && now_us() / 1000 + SETTLE.as_millis() as u64 > dues.first_ms {
        let what = format!("publishing took {}, so some were due before", units::duration(took));
        return Err(Failure::new(Exit::Failed, what).cure("--after with more time"));
    }
    tokio::time::sleep(SETTLE).await;
    report.resident(stage);
    if !args.memory_only {
        let seen = consume(&client, &queue, stage, dues).await?;
        report.latency_of("late_us", "late", &seen.late_us);
        let on_time = seen.on_time as f64 / args.messages as f64;
        let text = format!("{:.2} %", on_time * 100.0);
        report.optional("within_20_ms", "within 20 ms", Some(on_time), Some(text));
        report.count("delivered_again", seen.again);
        report.resident_at_most(stage);
        if let Some(path) = &args.plot {
            plot::write(path, "lateness", &seen.timeline, None)?;
        }
        if seen.early > 0 {
            let what = format!("{} messages came before they were due", units::count(seen.early));
            return Err(Failure::new(Exit::Failed, what));
        }
    }
    report.disk(stage.probed());
    Ok(report)
}

async fn publish(client: &Client, queue: &str, args: &Args, dues: Dues) -> Result<(), Failure> {
    let size = args.size as usize;
    let producer = load::producer(client, queue, IN_FLIGHT, size).await?;
    let mut bodies = Bodies::numbered(size);
    let failed = |error| session::failure("publish", &error);
    let mut pending = VecDeque::with_capacity(IN_FLIGHT);
    for number in 0..args.messages {
        let due = UNIX_EPOCH + Duration::from_millis(dues.of(number));
        let message = Message::new(bodies.next(number)).deliver_at(due);
        pending.push_back(producer.send(message).await.map_err(failed)?);
        if pending.len() == IN_FLIGHT
            && let Some(oldest) = pending.pop_front()
        {
            oldest.await.map_err(failed)?;
        }
    }
    for receipt in pending {
        receipt.await.map_err(failed)?;
    }
    producer.close().await;
    Ok(())
}

async fn consume(
    client: &Client,
    queue: &str,
    stage: &mut Stage,
    dues: Dues,
) -> Result<Seen, Failure> {
    let seen = Arc::new(Mutex::new(Seen::new(dues)));
    let (drained, until) = watch::channel(false);
    let consumer = load::consumer(client, queue, PREFETCH).await?;
    let book = Arc::clone(&seen);
    let note = move |burst: &[Delivery]| {
        let (at_us, mut book) = (now_us(), book.lock().unwrap_or_else(PoisonError::into_inner));
        for number in burst.iter().filter_map(|delivery| body::number(&delivery.body)) {
            book.note(number, dues.of(number), at_us);
        }
        if book.left == 0 {
            drained.send_replace(true);
        }
    };
    let mut tasks = Tasks::new();
    tasks.spawn(load::consume(consumer, until, note));
    let until_first = Duration::from_millis(dues.first_ms.saturating_sub(now_us() / 1000));
    let limit = until_first + Duration::from_millis(dues.over_ms) + LATE_LIMIT;
    let finished = stage.watch(async {
        let finishing = tokio::time::timeout(limit, load::finish(&mut tasks));
        finishing.await.unwrap_or_else(|_| {
            let left = seen.lock().unwrap_or_else(PoisonError::into_inner).left;
            let left = units::count(left);
            let what = format!("{left} messages have not come {LATE_LIMIT:?} after they were due");
            Err(Failure::new(Exit::Failed, what))
        })
    });
    finished.await?;
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::replace(&mut *seen, Seen::new(Dues { messages: 0, ..dues })))
}

/// Microseconds since the Unix epoch.
fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_has_a_time_of_its_own_also_in_no_order() {
        for messages in [1, 2, 999, 1000] {
            let dues = Dues { first_ms: 5, over_ms: messages, messages, shuffled: true };
            let mut all: Vec<u64> = (0..messages).map(|number| dues.of(number)).collect();
            let in_order = all.clone();
            all.sort_unstable();
            assert!(all.iter().copied().eq(5..5 + messages));
            assert!(messages < 3 || all != in_order);
        }
    }

    #[test]
    fn what_comes_early_late_or_twice_is_told_apart() {
        let mut seen =
            Seen::new(Dues { first_ms: 1_000, over_ms: 3, messages: 3, shuffled: false });
        seen.note(0, 1_000, 999_999);
        seen.note(1, 1_000, 1_020_000);
        seen.note(2, 1_000, 1_020_001);
        seen.note(2, 1_000, 1_030_000);
        assert_eq!((seen.left, seen.again, seen.early, seen.on_time), (0, 1, 1, 2));
        assert_eq!(seen.timeline.points().len(), 1);
    }
}
