//! The way of a message: a queue is made, a message published, consumed and acknowledged.
//!
//! ```text
//! quorate dev                                      in another terminal
//! cargo run -p quorate-examples --example hello
//! ```
//! It prints where the message is at each step:
//! ```text
//! created hello-1795749000000-4711 with 3 replicas
//! published: on disk on a majority, at offset 0
//! received "hello" in delivery 1, lang=en
//! acknowledged: it is never delivered again
//! ```

use anyhow::Context;
use futures_util::StreamExt;
use quorate_client::{Client, Message, QueueSettings};
use quorate_examples::{servers, unique};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // One address would do: the client learns the others from whichever node answers.
    let client = Client::connect(servers()).await?;

    // Three replicas unless the settings say otherwise, or one where there are fewer nodes. To create a queue that is
    // there already, with the same settings, is no error: a program may do so at every start.
    let queue = unique("hello");
    let created = client.create_queue(&queue, QueueSettings::default()).await?;
    println!("created {queue} with {} replicas", created.queue.replicas.len());

    // Returns once a majority of the replicas has the message on disk. If a node dies meanwhile, the producer
    // publishes again at the next leader, and the queue takes the message once.
    let producer = client.producer(&queue).build().await?;
    let receipt = producer.publish(Message::new("hello").header("lang", "en")).await?;
    let offset = receipt.offset.context("a majority has it, so it has a place")?;
    println!("published: on disk on a majority, at offset {offset}");

    // The message is leased to this consumer, which keeps the lease up for as long as the delivery is held. If the
    // program dies before it acknowledges, the message goes to another consumer.
    let mut consumer = client.consumer(&queue).name("hello").build().await?;
    let delivery = consumer.next().await.context("the consumer has ended")??;
    let body = String::from_utf8_lossy(&delivery.body).into_owned();
    let lang = delivery.headers.text("lang").context("the header has come along")?;
    println!("received {body:?} in delivery {}, lang={lang}", delivery.attempt);
    assert_eq!((body.as_str(), lang.as_str()), ("hello", "en"), "what was published is received");
    assert_eq!(delivery.offset, offset, "the offset names the message for ever");
    match delivery.ack().await {
        Ok(()) => println!("acknowledged: it is never delivered again"),
        // A node has died, and its answer with it. A message is delivered at least once.
        Err(error) => println!("perhaps acknowledged, or it is delivered again: {error}"),
    }
    consumer.close().await;
    client.delete_queue(&queue, false).await?;
    Ok(())
}
