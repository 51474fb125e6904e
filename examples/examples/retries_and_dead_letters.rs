//! What becomes of messages that cannot be handled: they come again after pauses that grow, a few times; then they are
//! moved to a dead-letter queue that says why, and can be sent back once the cause is mended.
//!
//! ```text
//! quorate dev                                      in another terminal
//! cargo run -p quorate-examples --example retries_and_dead_letters
//! ```
//! It prints each delivery, with the pause before it (200 to 400 ms before the second, 400 to 800 before the third),
//! and what is said of the dead:
//! ```text
//! created payments-1795749000000-4711 and payments-dead-1795749000000-4711
//! fine      delivery 1: done
//! flaky     delivery 1: failed, comes again
//! broken    delivery 1: failed, comes again
//! nonsense  delivery 1: rejected
//! flaky     delivery 2 after 317 ms: failed, comes again
//! ...
//! dead: nonsense: rejected in payments-1795749000000-4711, deliveries: 1
//! dead: broken: exhausted in payments-1795749000000-4711, deliveries: 3
//! sent back: broken, and done in delivery 1 once the handler was mended
//! ```

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use futures_util::StreamExt;
use quorate_client::{Batch, Client, Consumer, Delivery, Message, QueueSettings, dead_letter};
use quorate_examples::{now_ms, servers, unique};

/// How often a message is delivered at most.
const DELIVERIES: u32 = 3;
/// The pause before the second delivery, which doubles each time. Up to half of it is left off by chance, so that
/// what failed together is not tried together.
const RETRY_MS: u32 = 400;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::connect(servers()).await?;
    let (queue, dead) = (unique("payments"), unique("payments-dead"));
    client.create_queue(&dead, QueueSettings::default()).await?;
    let settings = QueueSettings {
        max_deliveries: DELIVERIES,
        retry_ms: RETRY_MS,
        dead_letter: dead.clone(),
        ..Default::default()
    };
    client.create_queue(&queue, settings).await?;
    println!("created {queue} and {dead}");

    let producer = client.producer(&queue).build().await?;
    for payment in ["fine", "flaky", "broken", "nonsense"] {
        producer.publish(Message::new(payment)).await?;
    }
    let mut payments = client.consumer(&queue).name("payments").build().await?;
    handle_all(&mut payments).await?;
    // Deliveries are their consumer's: when it goes, they go back. So it stays until the last of them is settled.
    let mut morgue = client.consumer(&dead).name("on call").build().await?;
    let broken = look_at_the_dead(&mut morgue, &queue).await?;

    // Back to where it died, under an id: if this program dies before the `ack`, the next run of it sends the message
    // again, and it enters once. `quorate queue redrive` does all of this for a whole queue.
    let message = Message::new(broken.body.clone());
    let id = format!("back from {dead}/{}", broken.offset);
    producer.publish_batch(Batch::from(message).id(id)).await?;
    broken.ack_later();
    let again = loop {
        match next(&mut payments).await? {
            delivery if text(&delivery) == "broken" => break delivery,
            // Of one that was done, the ack was lost: at least once.
            delivery => delivery.ack_later(),
        }
    };
    println!(
        "sent back: {}, and done in delivery {} once the handler was mended",
        text(&again),
        again.attempt
    );
    again.ack_later();

    morgue.close().await;
    payments.close().await;
    client.delete_queue(&queue, false).await?;
    client.delete_queue(&dead, false).await?;
    Ok(())
}

/// Handles the four payments until each is done or given up.
async fn handle_all(payments: &mut Consumer) -> anyhow::Result<()> {
    let mut given_back = BTreeMap::new();
    let mut ended = BTreeSet::new();
    while ended.len() < 4 {
        let delivery = next(payments).await?;
        let (payment, attempt) = (text(&delivery), delivery.attempt);
        let mut line = format!("{payment:9} delivery {attempt}");
        if let Some((before, at)) = given_back.remove(&delivery.offset) {
            let pause = now_ms() - at;
            line += &format!(" after {pause} ms");
            // Doubled with each delivery, less the half that is left to chance.
            let shortest = (u64::from(RETRY_MS) << (before - 1)) / 2;
            assert!(pause >= shortest, "{payment} came after {pause} ms, not {shortest} or more");
        }
        match payment.as_str() {
            "nonsense" => {
                println!("{line}: rejected");
                delivery.reject_later();
                ended.insert(payment);
            }
            "broken" | "flaky" if payment == "broken" || attempt < 3 => {
                let is_last = attempt == DELIVERIES;
                println!("{line}: failed, {}", if is_last { "for good" } else { "comes again" });
                given_back.insert(delivery.offset, (attempt, now_ms()));
                // Without a delay of its own: after the queue's back-off.
                delivery.nack_later(None);
                if is_last {
                    ended.insert(payment);
                }
            }
            _ => {
                println!("{line}: done");
                delivery.ack_later();
                ended.insert(payment);
            }
        }
    }
    Ok(())
}

/// Takes the two dead messages. Returns the one that is worth another try.
async fn look_at_the_dead(morgue: &mut Consumer, queue: &str) -> anyhow::Result<Delivery> {
    let mut broken = None;
    let mut causes = BTreeMap::new();
    while causes.len() < 2 {
        let delivery = next(morgue).await?;
        let said = |key| delivery.headers.text(key).with_context(|| format!("the header {key}"));
        let cause = said(dead_letter::CAUSE)?;
        let source = said(dead_letter::SOURCE)?;
        let deliveries = said(dead_letter::DELIVERIES)?;
        println!("dead: {}: {cause} in {source}, deliveries: {deliveries}", text(&delivery));
        assert_eq!(source, queue, "it says where it died");
        causes.insert(text(&delivery), (cause.clone(), deliveries));
        match cause.as_str() {
            "exhausted" => broken = Some(delivery),
            _ => delivery.ack_later(),
        }
    }
    let of =
        |payment: &str| causes.get(payment).map(|(cause, count)| (cause.as_str(), count.as_str()));
    assert_eq!(of("broken"), Some(("exhausted", "3")), "it was delivered as often as it may be");
    assert_eq!(of("nonsense").map(|it| it.0), Some("rejected"), "nobody wants it");
    broken.context("a message that was given up")
}

async fn next(consumer: &mut Consumer) -> anyhow::Result<Delivery> {
    Ok(consumer.next().await.context("the consumer has ended")??)
}

fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(&delivery.body).into_owned()
}
