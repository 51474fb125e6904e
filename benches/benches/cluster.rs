//! A running cluster, measured through the SDK: publish throughput, confirm latency, consuming.
//!
//! ```text
//! quorate dev                                                   (another terminal, release build)
//! cargo bench -p quorate-benches --bench cluster -- [ADDRESSES [SECONDS]]
//! ```
//! Publish is confirmed by a quorum with each message on disk. Figures mean something only beside
//! others of the same run: machines are noisy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use hdrhistogram::Histogram;
use quorate_client::{Client, Message, QueueSettings};

const DEFAULT_ADDRESSES: &str = "127.0.0.1:7101,127.0.0.1:7102,127.0.0.1:7103";
const PRODUCERS: usize = 8;
const IN_FLIGHT: usize = 128;
const WARM_UP: Duration = Duration::from_secs(1);
const BACKLOG: u64 = 200_000;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let addresses = args.first().map_or(DEFAULT_ADDRESSES, String::as_str);
    let seconds = args.get(1).map_or(Ok(4), |text| text.parse()).context("SECONDS")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(addresses, Duration::from_secs(seconds)))
}

async fn run(addresses: &str, length: Duration) -> Result<()> {
    let client = Client::connect(addresses.split(',').map(str::to_owned)).await?;
    println!("scenario                                   messages/s    p50 ms    p99 ms");
    for (name, producers, in_flight, size) in [
        ("publish 8 x 128, 1 KB", PRODUCERS, IN_FLIGHT, 1024),
        ("publish 8 x 128, 100 B", PRODUCERS, IN_FLIGHT, 100),
        ("publish 8 x 128, 16 KB", PRODUCERS, IN_FLIGHT, 16 << 10),
        ("publish 1 x 256, 1 KB", 1, 256, 1024),
        ("publish 1 in flight, 1 KB", 1, 1, 1024),
    ] {
        let queue = format!("bench-{producers}-{in_flight}-{size}");
        let figures = publish(&client, &queue, producers, in_flight, size, length).await?;
        print(name, &figures);
        client.delete_queue(&queue, false).await?;
    }
    let rate = backlog(&client).await?;
    println!("{:<40} {:>12.0}", format!("consume + ack a backlog of {BACKLOG}"), rate);
    Ok(())
}

struct Figures {
    per_second: f64,
    confirm_us: Histogram<u64>,
}

fn print(name: &str, figures: &Figures) {
    let ms = |quantile| figures.confirm_us.value_at_quantile(quantile) as f64 / 1000.0;
    let rate = figures.per_second;
    println!("{name:<40} {rate:>12.0} {:>9.2} {:>9.2}", ms(0.5), ms(0.99));
}

async fn publish(
    client: &Client,
    queue: &str,
    producers: usize,
    in_flight: usize,
    size: usize,
    length: Duration,
) -> Result<Figures> {
    client.create_queue(queue, QueueSettings::default()).await?;
    let measuring = Arc::new(AtomicBool::new(false));
    let ended = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for _ in 0..producers {
        let producer = client.producer(queue).in_flight(in_flight).build().await?;
        let (measuring, ended) = (measuring.clone(), ended.clone());
        tasks.push(tokio::spawn(async move {
            let body = Bytes::from(vec![7; size]);
            let mut histogram = Histogram::<u64>::new(3).expect("3 digits");
            let mut pending = FuturesOrdered::new();
            while !ended.load(Ordering::Relaxed) {
                while pending.len() < in_flight {
                    let sent = Instant::now();
                    let receipt = producer.send(Message::new(body.clone())).await?;
                    pending.push_back(async move { (sent, receipt.await) });
                }
                let Some((sent, receipt)) = pending.next().await else { break };
                receipt?;
                if measuring.load(Ordering::Relaxed) {
                    histogram.record(sent.elapsed().as_micros() as u64).expect("auto range");
                }
            }
            producer.close().await;
            anyhow::Ok(histogram)
        }));
    }
    tokio::time::sleep(WARM_UP).await;
    measuring.store(true, Ordering::Relaxed);
    let started = Instant::now();
    tokio::time::sleep(length).await;
    measuring.store(false, Ordering::Relaxed);
    let measured = started.elapsed();
    ended.store(true, Ordering::Relaxed);
    let mut confirm_us = Histogram::<u64>::new(3)?;
    for task in tasks {
        confirm_us.add(task.await??)?;
    }
    Ok(Figures { per_second: confirm_us.len() as f64 / measured.as_secs_f64(), confirm_us })
}

async fn backlog(client: &Client) -> Result<f64> {
    const QUEUE: &str = "bench-backlog";
    const CONSUMERS: u64 = 4;
    client.create_queue(QUEUE, QueueSettings::default()).await?;
    let producer = client.producer(QUEUE).in_flight(4096).build().await?;
    let body = Bytes::from(vec![7; 1024]);
    let mut last = None;
    for _ in 0..BACKLOG {
        last = Some(producer.send(Message::new(body.clone())).await?);
    }
    if let Some(last) = last {
        last.await?;
    }
    producer.close().await;
    let acked = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..CONSUMERS {
        let mut consumer = client.consumer(QUEUE).prefetch(1024).build().await?;
        let acked = acked.clone();
        tasks.push(tokio::spawn(async move {
            while acked.load(Ordering::Relaxed) < BACKLOG {
                let next = tokio::time::timeout(Duration::from_millis(200), consumer.next()).await;
                let Ok(Some(delivery)) = next else { continue };
                delivery?.ack_later();
                acked.fetch_add(1, Ordering::Relaxed);
            }
            consumer.close().await;
            anyhow::Ok(())
        }));
    }
    while acked.load(Ordering::Relaxed) < BACKLOG {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let rate = BACKLOG as f64 / started.elapsed().as_secs_f64();
    for task in tasks {
        task.await??;
    }
    client.delete_queue(QUEUE, false).await?;
    Ok(rate)
}
