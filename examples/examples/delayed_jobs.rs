//! Messages for later: reminders that are published now and come when they are due, never early.
//!
//! ```text
//! quorate dev                                      in another terminal
//! cargo run -p quorate-examples --example delayed_jobs
//! ```
//! It checks that none is early, and prints how late each is:
//! ```text
//! created reminders-1795749000000-4711
//! published 5 reminders, the last to come first
//! at once            is here, 4 ms after it was due
//! in 300 ms          is here, 2 ms after it was due
//! at a time, 600 ms  is here, 3 ms after it was due
//! ...
//! ```
//! A delay may be as long as 366 days, and is kept by the queue itself: it survives restarts and changes of leader.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use futures_util::StreamExt;
use quorate_client::{Client, Message, QueueSettings};
use quorate_examples::{now_ms, servers, unique};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::connect(servers()).await?;
    let queue = unique("reminders");
    client.create_queue(&queue, QueueSettings::default()).await?;
    println!("created {queue}");

    let producer = client.producer(&queue).build().await?;
    for delay_ms in [1200, 900, 600, 300, 0] {
        let (due, delay) = (now_ms() + delay_ms, Duration::from_millis(delay_ms));
        // The body says what is checked below.
        let message = Message::new(due.to_string());
        let message = match delay_ms {
            0 => message.header("title", "at once"),
            // Counted from when the leader has it,
            300 | 900 => message.header("title", format!("in {delay_ms} ms")).delay(delay),
            // or until a time of day.
            _ => {
                let time = SystemTime::UNIX_EPOCH + Duration::from_millis(due);
                message.header("title", format!("at a time, {delay_ms} ms")).deliver_at(time)
            }
        };
        producer.publish(message).await?;
    }
    println!("published 5 reminders, the last to come first");

    let mut consumer = client.consumer(&queue).name("reminders").build().await?;
    let mut seen = BTreeSet::new();
    while seen.len() < 5 {
        let delivery = consumer.next().await.context("the consumer has ended")??;
        let due: u64 = std::str::from_utf8(&delivery.body)?.parse()?;
        let title = delivery.headers.text("title").context("it has a title")?;
        let now = now_ms();
        assert!(now >= due, "{title} is {} ms early", due - now);
        println!("{title:18} is here, {} ms after it was due", now - due);
        seen.insert(delivery.offset);
        delivery.ack_later();
    }
    // Waits for the acks under way.
    consumer.close().await;
    client.delete_queue(&queue, false).await?;
    Ok(())
}
