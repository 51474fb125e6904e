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
pub(crate) use builder::check_filter;
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
/// an administrator has ended the consumer. What is in hand then can still be settled, unless it is of the queue or shard that the error
/// is about; what was not shown stays leased until the consumer is closed or dropped.
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
    /// One of its streams has ended for good, and the application knows.
    ended: bool,
    /// What came right behind that: never shown, and not given back one by one either.
    unshown: Vec<Shown>,
}

impl Consumer {
    fn new(
        close: Vec<oneshot::Sender<oneshot::Sender<()>>>,
        deliveries: mpsc::UnboundedReceiver<Shown>,
    ) -> Self {
        Self { close, deliveries, ended: false, unshown: Vec::new() }
    }

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
        if self.ended {
            return batch;
        }
        self.deliveries.recv_many(&mut batch, most).await;
        if let Some(failed) = batch.iter().position(Result::is_err) {
            self.ended = true;
            self.unshown = batch.split_off(failed + 1);
        }
        batch.iter().flatten().for_each(|delivery| delivery.handle.started());
        batch
    }

    /// Finishes settles under way, then detaches: what is leased and not settled goes back to the queue
    /// at once, and deliveries still in hand cannot be settled any more. Takes at most 5 s; if no node
    /// answers until then, leases return when the queue's session grace is over.
    pub async fn close(self) {
        let Self { close, deliveries, ended: _, unshown } = self;
        let mut closing = Vec::with_capacity(close.len());
        for close in close {
            let (done, closed) = oneshot::channel();
            if close.send(done).is_ok() {
                closing.push(closed);
            }
        }
        drop((deliveries, unshown));
        for closed in closing {
            // The task drops its end, which is an error, when it is through.
            let _ = closed.await;
        }
    }
}

impl Stream for Consumer {
    type Item = Result<Delivery, ConsumeError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let shown = self.deliveries.poll_recv(context);
        match &shown {
            Poll::Ready(Some(Ok(delivery))) => delivery.handle.started(),
            Poll::Ready(Some(Err(_))) => self.ended = true,
            Poll::Ready(None) | Poll::Pending => {}
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use quorate_proto::frame::Headers;
    use tokio::sync::mpsc::error::TryRecvError;

    use super::*;
    use delivery::{Command, Handle};
    use ledger::Lease;

    #[tokio::test]
    async fn what_was_taken_before_a_shard_failed_is_settled_after_it() {
        let (shown, deliveries) = mpsc::unbounded_channel();
        let (handle, mut commands) = mpsc::unbounded_channel();
        let (close, mut closed) = oneshot::channel();
        let delivery = |offset| Delivery {
            offset,
            shard: Some(0),
            attempt: 1,
            token: 1,
            headers: Headers::default(),
            body: Default::default(),
            handle: Handle::new(Lease { token: 1, offset, log: 0 }, false, handle.clone()),
        };
        let mut consumer = Consumer::new(vec![close], deliveries);
        for next in
            [Ok(delivery(0)), Err(ConsumeError::Refused(Default::default())), Ok(delivery(1))]
        {
            shown.send(next).unwrap();
        }
        let mut batch = consumer.next_batch(10).await;
        assert_eq!(batch.len(), 2);
        assert!(batch.pop().unwrap().is_err());
        shown.send(Ok(delivery(2))).unwrap();
        assert!(consumer.next_batch(10).await.is_empty());
        assert!(consumer.next().await.is_none());
        // The shard's task is there, and nothing has been given back.
        assert_eq!(closed.try_recv().err(), Some(oneshot::error::TryRecvError::Empty));
        assert!(matches!(commands.try_recv(), Err(TryRecvError::Empty)));
        batch.pop().unwrap().unwrap().ack_later();
        match commands.try_recv() {
            Ok(Command::Settle(settle)) => assert_eq!(settle.lease.offset, 0),
            _ => panic!("it is settled"),
        }
        drop(consumer);
        assert_eq!(closed.try_recv().err(), Some(oneshot::error::TryRecvError::Closed));
    }
}
