//! Reading again what was consumed long ago: a queue that keeps settled messages, and readers that begin at an offset
//! or at a time.
//!
//! ```text
//! quorate dev                                      in another terminal
//! cargo run -p quorate-examples --example replay
//! ```
//! It checks what each reader sees, and prints it:
//! ```text
//! created events-1795749000000-4711, which keeps what was consumed for an hour
//! published 20 events, consumed and acknowledged all of them
//! from the first:   20 events, the first is event 0
//! from offset 15:   5 events, the first is event 15
//! from half-time:   10 events, the first is event 10
//! followed:         event 20, as it was published
//! ```
//! Readers take nothing: any number of them see every message each, from whichever replica is near.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::StreamExt;
use quorate_client::{Client, Message, QueueSettings, ReadMessage, ReaderBuilder};
use quorate_examples::{servers, unique};

const EVENTS: u64 = 20;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::connect(servers()).await?;
    let queue = unique("events");
    // Without it, a message is gone for readers once it is settled.
    let settings = QueueSettings { retain_ms: 3_600_000, ..Default::default() };
    client.create_queue(&queue, settings).await?;
    println!("created {queue}, which keeps what was consumed for an hour");

    let producer = client.producer(&queue).build().await?;
    for n in 0..EVENTS {
        if n == EVENTS / 2 {
            // Half-time.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        producer.publish(Message::new(format!("event {n}"))).await?;
    }
    consume_all(&client, &queue).await?;
    println!("published {EVENTS} events, consumed and acknowledged all of them");

    // Linearizable: all that was confirmed by now, whichever replica answers. Otherwise what is read may be a second
    // old, or as `max_staleness` says.
    let reader = || client.reader(&queue).linearizable();
    let all = read("from the first:", reader()).await?;
    assert_eq!(numbers(&all), (0..EVENTS).collect::<Vec<_>>(), "all of them, in order, once");
    let rest = read("from offset 15:", reader().from_offset(15)).await?;
    assert_eq!(numbers(&rest), (15..EVENTS).collect::<Vec<_>>());
    // Each message has the time at which the leader took it.
    let half_time = all[10].published_at;
    let later = read("from half-time:", reader().from_time(half_time)).await?;
    assert_eq!(numbers(&later), (10..EVENTS).collect::<Vec<_>>());

    // A reader that follows goes on with what comes.
    let mut following = client.reader(&queue).from_offset(EVENTS).follow().build();
    producer.publish(Message::new(format!("event {EVENTS}"))).await?;
    let next = following.next().await.context("the reader has ended")??;
    println!("{:17} {}, as it was published", "followed:", text(&next));
    assert_eq!(numbers(&[next]), [EVENTS]);
    client.delete_queue(&queue, false).await?;
    Ok(())
}

async fn consume_all(client: &Client, queue: &str) -> anyhow::Result<()> {
    let mut consumer = client.consumer(queue).name("replay").build().await?;
    let mut seen = 0;
    while seen < EVENTS {
        let delivery = consumer.next().await.context("the consumer has ended")??;
        seen = seen.max(delivery.offset + 1);
        delivery.ack_later();
    }
    // Waits for the acks under way.
    consumer.close().await;
    Ok(())
}

/// Reads to the end of the queue.
async fn read(from: &str, reader: ReaderBuilder) -> anyhow::Result<Vec<ReadMessage>> {
    let mut reader = reader.build();
    let mut messages = Vec::new();
    while let Some(message) = reader.next().await {
        messages.push(message?);
    }
    ensure!(!messages.is_empty(), "{from} nothing to read");
    println!("{from:17} {} events, the first is {}", messages.len(), text(&messages[0]));
    Ok(messages)
}

fn text(message: &ReadMessage) -> String {
    String::from_utf8_lossy(&message.body).into_owned()
}

/// The numbers that the bodies end in.
fn numbers(messages: &[ReadMessage]) -> Vec<u64> {
    let number = |message| text(message).rsplit(' ').next().and_then(|n| n.parse().ok());
    messages.iter().filter_map(number).collect()
}
