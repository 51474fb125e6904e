//! 10,000 messages, many in flight, and a receipt for each; then a consumer that takes them by the batch.
//!
//! ```text
//! quorate dev                                      in another terminal
//! cargo run --release -p quorate-examples --example bulk
//! ```
//! It prints how long that took:
//! ```text
//! created bulk-1795749000000-4711
//! 10000 of 10000 messages confirmed in 190.3ms
//! 10000 messages received and acknowledged in 214.9ms
//! ```

use std::time::Instant;

use anyhow::ensure;
use quorate_client::{Client, Message, PublishError, QueueSettings};
use quorate_examples::{servers, unique};

const MESSAGES: usize = 10_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::connect(servers()).await?;
    let queue = unique("bulk");
    client.create_queue(&queue, QueueSettings::default()).await?;
    println!("created {queue}");
    publish(&client, &queue).await?;
    consume(&client, &queue).await?;
    client.delete_queue(&queue, false).await?;
    Ok(())
}

async fn publish(client: &Client, queue: &str) -> anyhow::Result<()> {
    let producer = client.producer(queue).build().await?;
    let started = Instant::now();
    let mut sent = Vec::with_capacity(MESSAGES);
    for n in 0..MESSAGES {
        // Does not wait for the receipt, only for room when too much is unconfirmed: the cluster sets the pace.
        sent.push(producer.send(Message::new(n.to_string())).await?);
    }
    // Receipts come in the order of sending.
    let (mut confirmed, mut before) = (0, None);
    for pending in sent {
        match pending.await {
            Ok(receipt) => {
                assert!(receipt.offset > before, "messages keep the order of sending");
                before = receipt.offset;
                confirmed += 1;
            }
            // Of the two kinds of failure, this is the one that leaves a question open.
            Err(PublishError::UnknownOutcome { last }) => eprintln!("perhaps published: {last}"),
            Err(error) => eprintln!("not published: {error}"),
        }
    }
    producer.close().await;
    println!("{confirmed} of {MESSAGES} messages confirmed in {:.1?}", started.elapsed());
    assert_eq!(confirmed, MESSAGES, "the cluster has refused some; see above");
    Ok(())
}

async fn consume(client: &Client, queue: &str) -> anyhow::Result<()> {
    let mut consumer = client.consumer(queue).name("bulk").prefetch(2_000).build().await?;
    let started = Instant::now();
    let (mut seen, mut received) = (vec![false; MESSAGES], 0);
    while received < MESSAGES {
        let batch = consumer.next_batch(500).await;
        ensure!(!batch.is_empty(), "the consumer has ended");
        for delivery in batch {
            let delivery = delivery?;
            let n: usize = std::str::from_utf8(&delivery.body)?.parse()?;
            // A message may come twice, if an ack was lost on its way: at least once.
            received += usize::from(!std::mem::replace(&mut seen[n], true));
            // Does not wait: acks that gather while one request is under way share the next.
            delivery.ack_later();
        }
    }
    // Waits for the acks under way.
    consumer.close().await;
    println!("{received} messages received and acknowledged in {:.1?}", started.elapsed());
    Ok(())
}
