//! A trace that goes through a queue: from the program that publishes, through the broker, to the one that consumes.
//!
//! ```text
//! quorate dev                                      in another terminal
//! cargo run -p quorate-examples --example traced
//! ```
//! It prints:
//! ```text
//! created traced-1795749000000-4711
//! published in trace 2f0c6c8e5a1f4b7d9d6d0f6f3b1e7c55, by span 91c5ab62a7d0b1f3
//! worked on in trace 2f0c6c8e5a1f4b7d9d6d0f6f3b1e7c55, by span 0b7f6a0e93d2c841, a child of 91c5ab62a7d0b1f3
//! ```
//! The trace travels in the message's `traceparent` header; the SDK knows nothing of it. With a tracing library,
//! `Context` is its span's context, and `inject` and `extract` are all that is to be written. Start the nodes with
//! `OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4317 quorate dev`, and a collector there, to see what the broker
//! adds: `publish`, `deliver` and `ack` below the span that is printed here.

use std::hash::{BuildHasher, RandomState};

use anyhow::Context as _;
use futures_util::StreamExt;
use quorate_client::{Client, Delivery, Message, QueueSettings};
use quorate_examples::{servers, unique};

/// What a tracing library has of a span: enough for a span elsewhere to be its child.
#[derive(Clone, Copy)]
struct Context {
    trace: u128,
    span: u64,
    sampled: bool,
}

impl Context {
    /// The first span of a trace.
    fn root() -> Self {
        let trace = u128::from(random()) << 64 | u128::from(random());
        Self { trace, span: random(), sampled: true }
    }

    /// The context of a child.
    fn child(self) -> Self {
        Self { span: random(), ..self }
    }
}

/// What is published belongs to the trace.
fn inject(context: Context, message: Message) -> Message {
    let Context { trace, span, sampled } = context;
    message.header("traceparent", format!("00-{trace:032x}-{span:016x}-{:02x}", u8::from(sampled)))
}

/// The trace that a message belongs to, if any.
fn extract(delivery: &Delivery) -> Option<Context> {
    let header = delivery.headers.text("traceparent")?;
    let fields: Vec<&str> = header.split('-').collect();
    let ["00", trace, span, flags] = fields[..] else { return None };
    Some(Context {
        trace: u128::from_str_radix(trace, 16).ok()?,
        span: u64::from_str_radix(span, 16).ok()?,
        sampled: u8::from_str_radix(flags, 16).ok()? & 1 == 1,
    })
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::connect(servers()).await?;
    let queue = unique("traced");
    client.create_queue(&queue, QueueSettings::default()).await?;
    println!("created {queue}");

    let sending = Context::root();
    let producer = client.producer(&queue).build().await?;
    producer.publish(inject(sending, Message::new("hello"))).await?;
    println!("published in trace {:032x}, by span {:016x}", sending.trace, sending.span);

    let mut consumer = client.consumer(&queue).name("traced").build().await?;
    let delivery = consumer.next().await.context("the consumer has ended")??;
    let parent = extract(&delivery).context("the message belongs to a trace")?;
    assert_eq!((parent.trace, parent.span), (sending.trace, sending.span), "as it was published");
    // The work on the message is a span below the producer's, beside those of the broker.
    let working = parent.child();
    println!(
        "worked on in trace {:032x}, by span {:016x}, a child of {:016x}",
        working.trace, working.span, parent.span
    );
    delivery.ack_later();
    consumer.close().await;
    client.delete_queue(&queue, false).await?;
    Ok(())
}

/// Good enough for an id; a tracing library brings its own.
fn random() -> u64 {
    RandomState::new().hash_one(0).max(1)
}
