//! Publishes 10,000 messages, many in flight, and counts what was confirmed.
//!
//! `cargo run -p quorate-examples --example publish [QUEUE]`

use std::time::Instant;

use quorate_client::{Client, Message, Pending, PublishError, QueueSettings};
use tokio::sync::mpsc;

const MESSAGES: usize = 10_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let queue = std::env::args().nth(1).unwrap_or("orders".to_owned());
    let client = Client::connect(servers()).await?;
    client.create_queue(queue.as_str(), QueueSettings::default()).await?;
    let producer = client.producer(queue).build().await?;

    let started = Instant::now();
    let (pending, receipts) = mpsc::channel(1024);
    let counting = tokio::spawn(count(receipts));
    for n in 0..MESSAGES {
        let message = Message::new(format!("order {n}")).header("content-type", "text/plain");
        // Waits here when too much is unconfirmed: the cluster sets the pace.
        pending.send(producer.send(message).await?).await?;
    }
    drop(pending);
    let confirmed = counting.await?;
    producer.close().await;
    println!("{confirmed} of {MESSAGES} messages confirmed in {:.1?}", started.elapsed());
    Ok(())
}

/// Takes the receipts in the order of sending.
async fn count(mut receipts: mpsc::Receiver<Pending>) -> usize {
    let mut confirmed = 0;
    while let Some(pending) = receipts.recv().await {
        match pending.await {
            Ok(_receipt) => confirmed += 1,
            Err(PublishError::UnknownOutcome { last }) => eprintln!("perhaps published: {last}"),
            Err(error) => eprintln!("not published: {error}"),
        }
    }
    confirmed
}

fn servers() -> Vec<String> {
    let servers = std::env::var("QUORATE_SERVER");
    let servers = servers.unwrap_or("127.0.0.1:7101,127.0.0.1:7102,127.0.0.1:7103".to_owned());
    servers.split(',').map(str::to_owned).collect()
}
