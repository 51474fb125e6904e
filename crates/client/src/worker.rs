//! [`Worker`]: runs a handler over the messages of a queue, several at a time.

use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, pending};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use quorate_proto::frame::Headers;

use crate::client::Client;
use crate::consumer::{Consumer, ConsumerBuilder, Delivery};
use crate::error::{ConsumeError, Error};
use crate::random;

/// Handles the messages of a queue; made by [`Client::worker`].
///
/// A message whose handler succeeds is acknowledged. One whose handler fails or panics goes back to the queue and comes
/// again after a pause that doubles each time; one that is [rejected](JobError::reject), or has failed often enough,
/// leaves the queue. A handler may take longer than a lease, which is extended meanwhile. If the program dies, others
/// get its messages: **a handler has to bear that it sees a message twice**.
///
/// ```no_run
/// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::WorkerError> {
/// use quorate_client::{Job, JobError};
///
/// async fn handle(job: Job) -> Result<(), JobError> {
///     let order = std::str::from_utf8(&job.body).map_err(JobError::reject)?;
///     std::fs::write("last-order", order)?;
///     Ok(())
/// }
///
/// let stop = async { drop(tokio::signal::ctrl_c().await) };
/// client.worker("orders", handle).concurrency(8).attempts(5).run_until(stop).await
/// # }
/// ```
#[must_use = "a worker does nothing until it is run"]
pub struct Worker<H> {
    builder: ConsumerBuilder,
    handler: Arc<H>,
    concurrency: u32,
    pauses: Pauses,
    attempts: u32,
    patience: Duration,
}

impl<H> fmt::Debug for Worker<H> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Worker");
        shown.field("builder", &self.builder).field("concurrency", &self.concurrency);
        shown.finish_non_exhaustive()
    }
}

/// Between the attempts of a message.
#[derive(Clone, Copy, Debug)]
struct Pauses {
    first: Duration,
    longest: Duration,
}

impl Pauses {
    fn after(self, attempt: u32) -> Duration {
        let doubled = 1u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        random::jitter(self.first.saturating_mul(doubled).min(self.longest))
    }
}

/// A message, in the hands of a handler.
#[derive(Clone, Debug)]
pub struct Job {
    /// The message's place in the queue.
    pub offset: u64,
    /// Of a sharded queue, the number of the shard: the offset is one of the queue `NAME@NUMBER`.
    pub shard: Option<u16>,
    /// 1 at the first delivery of the message, one more at each further one.
    pub attempt: u32,
    /// The message's headers, in the order in which they were given.
    pub headers: Headers,
    /// The message's payload.
    pub body: Bytes,
}

impl Job {
    /// The key that the message was published with, if it has one; see [`Message::group_key`](crate::Message::group_key).
    #[must_use]
    pub fn group_key(&self) -> Option<String> {
        self.headers.group_key()
    }
}

/// Why a handler did not do its work. Any error becomes one that is to be retried.
#[derive(Debug)]
pub struct JobError {
    source: Box<dyn StdError + Send + Sync>,
    then: Then,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Retry(Option<Duration>),
    Reject,
}

impl JobError {
    /// It may work later: the message comes again after the worker's pause.
    pub fn retry(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { source: source.into(), then: Then::Retry(None) }
    }

    /// It may work after so long.
    pub fn retry_after(
        source: impl Into<Box<dyn StdError + Send + Sync>>,
        pause: Duration,
    ) -> Self {
        Self { source: source.into(), then: Then::Retry(Some(pause)) }
    }

    /// It will never work: the message leaves the queue.
    pub fn reject(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { source: source.into(), then: Then::Reject }
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(formatter)
    }
}

// Not an error itself, or it could not be made of any.
impl<E: StdError + Send + Sync + 'static> From<E> for JobError {
    fn from(source: E) -> Self {
        Self::retry(source)
    }
}

/// Why a worker has ended.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// It could not begin.
    #[error(transparent)]
    Start(#[from] Error),
    /// Its consumer ended after an error that retrying does not cure.
    #[error(transparent)]
    Consume(#[from] ConsumeError),
}

impl<H, F, E> Worker<H>
where
    H: Fn(Job) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<JobError> + Send + 'static,
{
    pub(crate) fn new(client: &Client, queue: String, handler: H) -> Self {
        Self {
            builder: client.consumer(queue).name("worker"),
            handler: Arc::new(handler),
            concurrency: 1,
            pauses: Pauses { first: Duration::from_secs(1), longest: Duration::from_secs(300) },
            attempts: 0,
            patience: Duration::from_secs(30),
        }
    }

    /// Most messages handled at a time, 1 to 65,535; 1 unless set. As many are leased; of a sharded queue one a shard at least,
    /// so that a worker of fewer handlers than shards holds messages that it has not begun.
    pub fn concurrency(mut self, handlers: u32) -> Self {
        self.concurrency = handlers;
        self
    }

    /// Shown to people in listings; at most 128 bytes, `worker` unless set.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.builder = self.builder.name(name);
        self
    }

    /// The pause after a first failure, which doubles with each further one up to the longest; half of it is up to
    /// chance, so that what failed together is not tried together. A second and five minutes unless set.
    pub fn pauses(mut self, first: Duration, longest: Duration) -> Self {
        self.pauses = Pauses { first, longest };
        self
    }

    /// Rejects a message that fails in its so-many-th delivery; 0, as unless set, leaves that to the queue's
    /// `max_deliveries`.
    pub fn attempts(mut self, most: u32) -> Self {
        self.attempts = most;
        self
    }

    /// How long handlers may go on when the worker is stopped, 30 s unless set. After that they are dropped, and their
    /// messages go back to the queue.
    pub fn patience(mut self, limit: Duration) -> Self {
        self.patience = limit;
        self
    }

    /// Changes what else a consumer can be set to.
    pub fn consumer(mut self, change: impl FnOnce(ConsumerBuilder) -> ConsumerBuilder) -> Self {
        self.builder = change(self.builder);
        self
    }

    /// Handles messages until an error ends it.
    ///
    /// # Errors
    /// As [`ConsumerBuilder::build`] and the stream of a [`Consumer`].
    pub async fn run(self) -> Result<(), WorkerError> {
        self.run_until(pending()).await
    }

    /// Handles messages until `stop` is done; then begins with no more, lets handlers finish, and gives back what it was
    /// handed and has not begun; in a queue with `max_deliveries` or `retry_ms` that is no delivery that counts.
    ///
    /// # Errors
    /// As [`ConsumerBuilder::build`] and the stream of a [`Consumer`].
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> Result<(), WorkerError> {
        let builder = self.builder.clone().prefetch(self.concurrency);
        let mut consumer = builder.build().await?;
        let mut handlers = FuturesUnordered::new();
        let mut stop = pin!(stop);
        let ended = loop {
            tokio::select! {
                biased;
                () = &mut stop => break Ok(()),
                Some(_) = handlers.next(), if !handlers.is_empty() => {}
                delivery = consumer.next(), if handlers.len() < self.concurrency as usize => match delivery {
                    Some(Ok(delivery)) => handlers.push(self.start(delivery)),
                    Some(Err(error)) => break Err(error.into()),
                    None => break Ok(()),
                },
            }
        };
        self.finish(consumer, handlers).await;
        ended
    }

    fn start(&self, delivery: Delivery) -> Aborting<()> {
        let Delivery { offset, shard, attempt, ref headers, ref body, .. } = delivery;
        let job = Job { offset, shard, attempt, headers: headers.clone(), body: body.clone() };
        let handler = Arc::clone(&self.handler);
        let (pauses, attempts) = (self.pauses, self.attempts);
        Aborting(tokio::spawn(async move {
            // A task of its own, so that a panic is the message's failure and nobody else's.
            let handling = Aborting(tokio::spawn(async move { handler(job).await }));
            let failed = match handling.await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.into()),
                Err(panic) => Some(JobError::retry(panic.to_string())),
            };
            settle(delivery, failed, pauses, attempts).await;
        }))
    }

    async fn finish(self, consumer: Consumer, mut handlers: FuturesUnordered<Aborting<()>>) {
        let finishing = async { while handlers.next().await.is_some() {} };
        if tokio::time::timeout(self.patience, finishing).await.is_err() {
            tracing::warn!(handlers = handlers.len(), "worker: these do not end, and are dropped");
            handlers.iter().for_each(|handler| handler.0.abort());
            while handlers.next().await.is_some() {}
        }
        consumer.close().await;
    }
}

/// A task that ends when nobody waits for it any more.
struct Aborting<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Aborting<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T> Future for Aborting<T> {
    type Output = Result<T, tokio::task::JoinError>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        std::pin::Pin::new(&mut self.0).poll(context)
    }
}

async fn settle(delivery: Delivery, failed: Option<JobError>, pauses: Pauses, attempts: u32) {
    let (offset, attempt) = (delivery.offset, delivery.attempt);
    let settled = match failed {
        None => delivery.ack().await,
        Some(error) => {
            let is_last = attempts > 0 && attempt >= attempts;
            match error.then {
                Then::Retry(pause) if !is_last => {
                    tracing::warn!(offset, attempt, %error, "a message is tried again");
                    delivery.nack(Some(pause.unwrap_or_else(|| pauses.after(attempt)))).await
                }
                _ => {
                    tracing::error!(offset, attempt, %error, "a message is rejected");
                    delivery.reject().await
                }
            }
        }
    };
    if let Err(error) = settled {
        // Its work may be done and be done again, which handlers have to bear.
        tracing::warn!(offset, attempt, %error, "a message is not settled");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let second = Duration::from_secs(1);
        let pauses = Pauses { first: second, longest: second * 300 };
        for (attempt, most) in [(1, 1), (2, 2), (5, 16), (10, 300), (40, 300), (u32::MAX, 300)] {
            let pause = pauses.after(attempt);
            assert!(pause >= second * most / 2 && pause <= second * most, "{attempt}: {pause:?}");
        }
    }
}
