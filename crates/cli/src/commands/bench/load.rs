//! Producers and consumers under measurement, as lean as the SDK allows: they share the machine's cores with
//! what they measure.
//!
//! Receipts come in the order of sending and a batch at a time, so a producer waits for its oldest message and
//! then takes along all others that are done. A closed loop refills its window only after that: one message
//! at a time would make batches of one.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use quorate_client::{Client, Consumer, Delivery, Message, Pending, Producer};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};

use crate::commands::bench::body::Bodies;
use crate::commands::bench::record::{Recorder, Sent};
use crate::commands::bench::schedule::{self, Lane, Schedule};
use crate::commands::bench::usage::{Cost, Meter};
use crate::commands::verify::Level;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session;
use crate::units;

/// Options of every load that goes on for a while.
#[derive(Debug, clap::Args)]
pub struct Shape {
    /// Size of a message's body, 16 B to 512 KiB.
    #[arg(long, value_name = "SIZE", default_value = "1024", value_parser = units::parse_body_size)]
    pub size: u64,
    /// Seconds to measure, after one of warm-up.
    #[arg(long, value_name = "N", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// Draw latency over time into this SVG file.
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
}

/// Before measuring: connections open, batches find their size.
pub const WARM_UP: Duration = Duration::from_secs(1);
/// How long a message is retried: longer than any failover.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(60);
/// Room for bytes in flight of one producer; the SDK's own limit.
const IN_FLIGHT_BYTES_MAX: usize = 1 << 30;
/// Deliveries taken at a time.
const DELIVERIES: usize = 1024;

/// The tasks of a load.
pub type Tasks = JoinSet<Result<(), Failure>>;

/// Opens a producer with this window.
pub async fn producer(
    client: &Client,
    queue: &str,
    in_flight: usize,
    size: usize,
) -> Result<Producer, Failure> {
    producer_at(client, queue, in_flight, size, Level::default()).await
}

/// The same, with receipts of this level.
pub async fn producer_at(
    client: &Client,
    queue: &str,
    in_flight: usize,
    size: usize,
    level: Level,
) -> Result<Producer, Failure> {
    const BYTES_MIN: usize = 32 << 20;
    let building = client
        .producer(queue)
        .in_flight(in_flight)
        .max_in_flight_bytes((in_flight * (size + 64)).clamp(BYTES_MIN, IN_FLIGHT_BYTES_MAX))
        .deadline(PUBLISH_DEADLINE)
        .ack(level.ack())
        .build();
    building.await.map_err(|error| session::failure("open producer", &error))
}

/// Opens a consumer.
pub async fn consumer(client: &Client, queue: &str, prefetch: u32) -> Result<Consumer, Failure> {
    let building = client.consumer(queue).name("quorate bench").prefetch(prefetch).build();
    building.await.map_err(|error| session::failure("open consumer", &error))
}

/// When a closed loop sends no more.
#[derive(Debug, Clone)]
pub enum Until {
    /// When this is set.
    Told(Arc<AtomicBool>),
    /// After this many messages.
    Sent(u64),
}

impl Until {
    fn wants_more(&self, sent: u64) -> bool {
        match self {
            Until::Told(ended) => !ended.load(Ordering::Relaxed),
            Until::Sent(messages) => sent < *messages,
        }
    }
}

/// Keeps `in_flight` messages on their way; returns when each has its receipt. Bodies are numbered by the
/// microseconds since `origin` at which they are handed over.
pub async fn closed(
    producer: Producer,
    in_flight: usize,
    until: Until,
    mut bodies: Bodies,
    origin: Instant,
    recorder: Arc<Recorder>,
) -> Result<(), Failure> {
    let mut pending: VecDeque<(Sent, Pending)> = VecDeque::with_capacity(in_flight);
    let mut done = Vec::with_capacity(in_flight);
    let mut sent = 0;
    loop {
        while pending.len() < in_flight && until.wants_more(sent) {
            let at = Instant::now();
            let body = bodies.next((at - origin).as_micros() as u64);
            let receipt = producer.send(Message::new(body)).await.map_err(failed)?;
            pending.push_back((Sent { number: sent, at }, receipt));
            sent += 1;
        }
        let Some((first, receipt)) = pending.pop_front() else { break };
        receipt.await.map_err(failed)?;
        done.push(first);
        while let Some((next, receipt)) = pending.front_mut()
            && let Some(outcome) = receipt.now_or_never()
        {
            outcome.map_err(failed)?;
            done.push(*next);
            pending.pop_front();
        }
        recorder.done(done.drain(..), Instant::now());
    }
    producer.close().await;
    Ok(())
}

/// Sends what becomes due by a schedule, each producer in its turn; returns the tasks that do.
pub fn open_all(
    producers: Vec<(Producer, Bodies, Arc<Recorder>)>,
    schedule: Schedule,
    carries: Carries,
) -> Result<Tasks, Failure> {
    let lanes = schedule::pace(schedule, producers.len() as u64)?;
    let mut tasks = Tasks::new();
    for ((producer, bodies, recorder), lane) in producers.into_iter().zip(lanes) {
        tasks.spawn(open(producer, lane, bodies, carries, recorder));
    }
    Ok(tasks)
}

/// What the body of a scheduled message carries.
#[derive(Debug, Clone, Copy)]
pub enum Carries {
    /// Its number in the schedule.
    Number,
    /// Microseconds from this moment to when it was due.
    DueSince(Instant),
}

/// Sends what becomes due; returns when each message has its receipt or has failed.
async fn open(
    producer: Producer,
    mut lane: Lane,
    mut bodies: Bodies,
    carries: Carries,
    recorder: Arc<Recorder>,
) -> Result<(), Failure> {
    // As many as the producer has in flight, and those that became due while it had no room.
    let (pending, mut receipts) = mpsc::unbounded_channel::<(Sent, Pending)>();
    let send = async {
        while let Some(due) = lane.recv().await {
            let number = match carries {
                Carries::Number => due.number,
                Carries::DueSince(origin) => (due.at - origin).as_micros() as u64,
            };
            match producer.send(Message::new(bodies.next(number))).await {
                Ok(receipt) => drop(pending.send((due, receipt))),
                Err(error) => recorder.failed(failed(error)),
            }
        }
        drop(pending);
    };
    let collect = async {
        while let Some((due, receipt)) = receipts.recv().await {
            match receipt.await {
                Ok(_) => recorder.done([due], Instant::now()),
                Err(error) => recorder.failed(failed(error)),
            }
        }
    };
    tokio::join!(send, collect);
    producer.close().await;
    Ok(())
}

fn failed(error: quorate_client::PublishError) -> Failure {
    session::failure("publish", &error)
}

/// Takes and acks messages until `drained` says so; `seen` gets them a burst at a time, before they are acked.
/// Returns once the acks are through.
pub async fn consume(
    mut consumer: Consumer,
    mut drained: watch::Receiver<bool>,
    mut seen: impl FnMut(&[Delivery]),
) -> Result<(), Failure> {
    let drained = async { drained.wait_for(|drained| *drained).await.map(drop) };
    let mut drained = pin!(drained);
    loop {
        let batch = tokio::select! {
            batch = consumer.next_batch(DELIVERIES) => batch,
            _ = &mut drained => break,
        };
        let batch: Result<Vec<Delivery>, _> = batch.into_iter().collect();
        let batch = batch.map_err(|error| session::failure("consume", &error))?;
        if batch.is_empty() {
            return Err(Failure::new(Exit::Failed, "consume: the stream of deliveries has ended"));
        }
        seen(&batch);
        batch.into_iter().for_each(Delivery::ack_later);
    }
    consumer.close().await;
    Ok(())
}

/// Does `work` beside the load; a task that fails meanwhile ends it with that failure.
pub async fn beside<T>(
    tasks: &mut Tasks,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            outcome = &mut work => return outcome,
            Some(ended) = tasks.join_next() => outcome_of(ended)?,
        }
    }
}

/// Waits for all tasks; the first failure ends it.
pub async fn finish(tasks: &mut Tasks) -> Result<(), Failure> {
    while let Some(ended) = tasks.join_next().await {
        outcome_of(ended)?;
    }
    Ok(())
}

fn outcome_of(ended: Result<Result<(), Failure>, JoinError>) -> Result<(), Failure> {
    ended.unwrap_or_else(|error| {
        Err(Failure::new(Exit::Failed, format!("a task of the load ended: {error}")))
    })
}

/// What a span has taken, and how long it was.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// What it took.
    pub cost: Cost,
    /// How long it was.
    pub took: Duration,
}

/// Measures a closed loop: the warm-up, then the span.
pub async fn measure(nodes: Option<Vec<u32>>, length: Duration, recorder: &Recorder) -> Span {
    tokio::time::sleep(WARM_UP).await;
    recorder.open();
    let (meter, begun) = (Meter::start(nodes.as_deref()), Instant::now());
    tokio::time::sleep(length).await;
    recorder.close();
    let took = begun.elapsed();
    Span { cost: meter.finish(), took }
}

/// Measures an open loop between two moments of its schedule.
pub async fn measure_between(nodes: Option<Vec<u32>>, from: Instant, to: Instant) -> Span {
    tokio::time::sleep_until(from.into()).await;
    let (meter, begun) = (Meter::start(nodes.as_deref()), Instant::now());
    tokio::time::sleep_until(to.into()).await;
    let took = begun.elapsed();
    Span { cost: meter.finish(), took }
}
