//! [`Consumer`]: takes messages from one queue and settles them.
//!
//! `Consumer` is the handle; `task` owns the stream, `ledger` and `settles` (no I/O) the leases.

mod builder;
mod delivery;
mod ledger;
mod settles;
mod task;

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio::sync::{mpsc, oneshot};

pub use builder::ConsumerBuilder;
pub use delivery::Delivery;

use crate::error::ConsumeError;
use task::Shown;

/// Takes messages from one queue, as a stream of deliveries; made by
/// [`Client::consumer`](crate::Client::consumer).
///
/// Each delivery is leased to this consumer and extended by itself until it is settled, so a handler may
/// take its time; if the whole program dies, the lease ends and somebody else gets the message. A stream
/// that breaks is opened again, at whichever node leads the queue by then, under the same session: what was
/// leased stays leased, and is not shown twice. With [`max_lag`](ConsumerBuilder::max_lag) it takes from the nearest
/// replica instead.
///
/// Where the queue counts deliveries (`max_deliveries`) or waits between them (`retry_ms`), the consumer says which messages
/// the application has been given: if the program dies, the others come back as if they had not been delivered.
///
/// The stream ends after an error that retrying does not cure, such as a queue that was deleted, or `CONSUMER_KICKED`, when
/// an administrator has ended the consumer.
/// Dropping the consumer is closing it without waiting.
///
/// Of a sharded queue it takes messages from all shards, in the order in which they come; each shard's come in their order. It has a stream to
/// each, so a shard without a leader keeps nothing of the others back.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use futures_util::StreamExt;
/// use quorate_client::Client;
/// let client = Client::connect(["127.0.0.1:7101"]).await?;
/// let mut consumer = client.consumer("orders").name("billing").build().await?;
/// while let Some(delivery) = consumer.next().await {
///     let delivery = delivery?;
///     println!("{}: {:?}", delivery.offset, delivery.body);
///     delivery.ack().await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Consumer {
    // Goes first when dropped: the tasks then know that the deliveries dropped next need no settling.
    close: Vec<oneshot::Sender<oneshot::Sender<()>>>,
    deliveries: mpsc::UnboundedReceiver<Shown>,
}

impl Consumer {
    /// Waits for a delivery, then takes with it what is there already, at most `most` in all. Empty once the
    /// stream has ended.
    ///
    /// ```no_run
    /// # async fn example(mut consumer: quorate_client::Consumer) -> Result<(), quorate_client::ConsumeError> {
    /// for delivery in consumer.next_batch(100).await {
    ///     delivery?.ack_later();
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn next_batch(&mut self, most: usize) -> Vec<Result<Delivery, ConsumeError>> {
        let mut batch = Vec::new();
        self.deliveries.recv_many(&mut batch, most).await;
        if let Some(failed) = batch.iter().position(Result::is_err) {
            batch.truncate(failed + 1);
            self.end();
        }
        batch.iter().flatten().for_each(|delivery| delivery.handle.started());
        batch
    }

    /// Finishes settles under way, then detaches: what is leased and not settled goes back to the queue
    /// at once, and deliveries still in hand cannot be settled any more. Takes at most 5 s; if no node
    /// answers until then, leases return when the queue's session grace is over.
    pub async fn close(self) {
        let Self { close, deliveries } = self;
        let mut closing = Vec::with_capacity(close.len());
        for close in close {
            let (done, closed) = oneshot::channel();
            if close.send(done).is_ok() {
                closing.push(closed);
            }
        }
        drop(deliveries);
        for closed in closing {
            // The task drops its end, which is an error, when it is through.
            let _ = closed.await;
        }
    }

    /// One of its streams has ended for good, and so do the others.
    fn end(&mut self) {
        self.close.clear();
        self.deliveries.close();
        while self.deliveries.try_recv().is_ok() {}
    }
}

impl Stream for Consumer {
    type Item = Result<Delivery, ConsumeError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let shown = self.deliveries.poll_recv(context);
        match &shown {
            Poll::Ready(Some(Ok(delivery))) => delivery.handle.started(),
            Poll::Ready(Some(Err(_))) => self.end(),
            Poll::Ready(None) | Poll::Pending => {}
        }
        shown
    }
}
