//! A topic: one message to several queues, by the words of its subject and by a header.
//!
//! ```text
//! quorate dev                                      in another terminal
//! cargo run -p quorate-examples --example fan_out
//! ```
//! It checks who has got what, and prints it:
//! ```text
//! created topic orders-1795749000000-4711 with 3 queues
//! orders.42.made       -> audit
//! orders.42.paid       -> audit, billing
//! orders.43.paid       -> audit, billing, shipping-eu
//! orders.43.gone.wrong -> audit
//! audit       has made 42, paid 42, paid 43, wrong 43
//! billing     has paid 42, paid 43
//! shipping-eu has paid 43
//! ```
//! A topic holds nothing itself. Each queue keeps its own copy, with consumers, limits and retries of its own.

use std::time::Duration;

use futures_util::StreamExt;
use quorate_client::{Client, Message, QueueSettings, Route, Topic};
use quorate_examples::{servers, unique};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::connect(servers()).await?;
    let topic = unique("orders");
    let [audit, billing, shipping] =
        ["audit", "billing", "shipping-eu"].map(|name| format!("{topic}.{name}"));
    for queue in [&audit, &billing, &shipping] {
        client.create_queue(queue, QueueSettings::default()).await?;
    }
    let routes = vec![
        // `>` is one word or more, at the end; `*` is any one word.
        Route::new(&audit, "orders.>"),
        Route::new(&billing, "orders.*.paid"),
        Route::new(&shipping, "orders.*.paid").header("region", "eu"),
    ];
    // 0: there was no topic of this name before. With another version, routes are replaced.
    client.set_topic(&topic, 0, routes).await?;
    println!("created topic {topic} with 3 queues");

    let orders = client.topic(&topic);
    publish(&orders, "orders.42.made", Message::new("made 42")).await?;
    publish(&orders, "orders.42.paid", Message::new("paid 42").header("region", "us")).await?;
    publish(&orders, "orders.43.paid", Message::new("paid 43").header("region", "eu")).await?;
    publish(&orders, "orders.43.gone.wrong", Message::new("wrong 43")).await?;

    for (queue, expected) in [
        (&audit, &["made 42", "paid 42", "paid 43", "wrong 43"][..]),
        (&billing, &["paid 42", "paid 43"]),
        (&shipping, &["paid 43"]),
    ] {
        let held = held(&client, queue).await?;
        println!("{:11} has {}", short(queue), held.join(", "));
        assert_eq!(held, expected, "each queue has what its routes lead to it, once");
        client.delete_queue(queue, false).await?;
    }
    client.delete_topic(&topic).await?;
    Ok(())
}

/// Publishes until every queue has it. Queues are apart from each other: one that has no leader for a moment keeps
/// nothing from the others, and the answer says so. Under an id, to publish again adds nothing where it is.
async fn publish(topic: &Topic, subject: &str, message: Message) -> anyhow::Result<()> {
    let topic = topic.clone().message_id(unique(subject));
    let mut tries = 0;
    let delivered = loop {
        tries += 1;
        match topic.publish(subject, vec![message.clone()]).await {
            Ok(delivered) if delivered.is_complete() => break delivered,
            Ok(delivered) if tries == 50 => anyhow::bail!("not complete: {delivered:?}"),
            Err(error) if tries == 50 => return Err(error.into()),
            _ => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    };
    let queues: Vec<_> = delivered.outcomes.iter().map(|outcome| short(&outcome.queue)).collect();
    println!("{subject:20} -> {}", queues.join(", "));
    Ok(())
}

/// What is in a queue, without taking it.
async fn held(client: &Client, queue: &str) -> anyhow::Result<Vec<String>> {
    // Linearizable: all that was confirmed before this line, whichever replica is asked.
    let mut reader = client.reader(queue).linearizable().build();
    let mut held = Vec::new();
    while let Some(message) = reader.next().await {
        held.push(String::from_utf8_lossy(&message?.body).into_owned());
    }
    Ok(held)
}

/// A queue's name without the topic's.
fn short(queue: &str) -> &str {
    queue.split_once('.').map_or(queue, |(_, name)| name)
}
