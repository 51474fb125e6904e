//! [`Producer`]: publishes messages to one queue, in order, each once.
//!
//! `Producer` is the handle, over a `lane` to its queue or, in `shards`, one to each shard; `task` owns a lane's stream,
//! `window` (no I/O) what is unconfirmed.

mod batch;
mod builder;
mod lane;
mod pending;
mod shards;
mod task;
mod window;

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use quorate_proto::frame::LENGTH_BYTES;
use quorate_proto::v1::{self, AckLevel};
use tokio::sync::Semaphore;

pub use batch::Batch;
pub(crate) use batch::Condition;
pub use builder::ProducerBuilder;
pub use pending::{Pending, Receipt};

use crate::error::PublishError;
use crate::message::Message;
use lane::Lane;
use shards::Shards;

/// Publishes messages to one queue; made by [`Client::producer`](crate::Client::producer).
///
/// Messages keep the order in which they were sent, and enter once however often the connection breaks:
/// batches carry a producer id and a sequence, by which the queue tells a retry from a new message. What a
/// node cannot take now (no leader, no majority, overload) is retried until the producer's deadline;
/// what it refuses for good (queue full, message too large) fails the messages of that batch, and what was
/// sent after them goes on.
///
/// Dropping a producer stops nothing: what was sent is still delivered, in the background.
///
/// On a sharded queue a message goes to the shard of its [group key](crate::Message::group_key) or else of its
/// [shard key](crate::Message::shard_key), and one without to the shards in turn, a batch to each. What is said here of order and of what
/// may be in flight then holds for each shard; a shard that is without a majority keeps only what belongs to it waiting.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use quorate_client::{Client, Message};
/// let client = Client::connect(["127.0.0.1:7101"]).await?;
/// let producer = client.producer("orders").build().await?;
/// let mut pending = Vec::new();
/// for n in 0..1000 {
///     pending.push(producer.send(Message::new(format!("order {n}"))).await?);
/// }
/// for receipt in pending {
///     println!("offset {:?}", receipt.await?.offset);
/// }
/// producer.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Producer {
    ways: Ways,
}

#[derive(Debug)]
enum Ways {
    One(Lane),
    Shards(Shards),
}

impl Producer {
    /// Sends a message, after waiting for room among those in flight. What it returns resolves to the
    /// receipt; receipts come in the order of sending.
    ///
    /// # Errors
    /// When the message is too large or breaks the format, or the producer has ended. Nothing was sent.
    ///
    /// Dropping this future before it is done sends nothing.
    pub async fn send(&self, message: Message) -> Result<Pending, PublishError> {
        match &self.ways {
            Ways::One(lane) => lane.send(message).await,
            Ways::Shards(shards) => shards.send(message).await,
        }
    }

    /// Sends messages that enter together or not at all, under an id or on a condition if the [`Batch`] has one, after
    /// waiting for room for all of them. What it returns resolves to their receipts, one by one in order. What was
    /// sent before stays before it.
    ///
    /// # Errors
    /// When a message is too large or breaks the format, when there are none or more than may be in flight, or when
    /// the producer has ended. Nothing was sent.
    ///
    /// Dropping this future before it is done sends nothing.
    pub async fn send_batch(&self, batch: Batch) -> Result<Vec<Pending>, PublishError> {
        match &self.ways {
            Ways::One(lane) => lane.send_batch(batch).await,
            Ways::Shards(shards) => shards.send_batch(batch).await,
        }
    }

    /// Sends messages that enter together or not at all, and waits for their receipts.
    ///
    /// # Errors
    /// See [`PublishError`]; `MESSAGE_ID_CONFLICT` and `UNEXPECTED_OFFSET` are what only a batch with an id or an
    /// expected offset meets.
    ///
    /// ```no_run
    /// # use quorate_client::{Batch, Message, Producer, PublishError};
    /// # async fn example(producer: Producer, mut known_end: u64) -> Result<(), PublishError> {
    /// let event = Message::new("seat 12A is taken");
    /// match producer.publish_batch(Batch::from(event).expect_offset(known_end)).await {
    ///     Ok(receipts) => println!("at {:?}", receipts[0].offset),
    ///     Err(error) => match error.next_offset() {
    ///         Some(end) => known_end = end, // others were first: read what they did, and decide anew
    ///         None => return Err(error),
    ///     },
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish_batch(&self, batch: Batch) -> Result<Vec<Receipt>, PublishError> {
        let mut receipts = Vec::new();
        for pending in self.send_batch(batch).await? {
            receipts.push(pending.await?);
        }
        Ok(receipts)
    }

    /// Sends a message and waits for its receipt. One at a time this costs a round trip each; several
    /// calls at a time share batches.
    ///
    /// # Errors
    /// See [`PublishError`].
    ///
    /// ```no_run
    /// # use quorate_client::{Message, Producer, PublishError};
    /// # async fn example(producer: Producer) -> Result<(), PublishError> {
    /// let receipt = producer.publish(Message::new("hello")).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish(&self, message: Message) -> Result<Receipt, PublishError> {
        self.send(message).await?.await
    }

    /// Waits until everything sent before has an outcome, good or bad: the [`Pending`]s tell which.
    ///
    /// ```no_run
    /// # use quorate_client::{Message, Producer, PublishError};
    /// # async fn example(producer: Producer) -> Result<(), PublishError> {
    /// let pending = producer.send(Message::new("hello")).await?;
    /// producer.flush().await;
    /// let receipt = pending.await?; // at once
    /// # Ok(())
    /// # }
    /// ```
    pub async fn flush(&self) {
        match &self.ways {
            Ways::One(lane) => lane.flush().await,
            Ways::Shards(shards) => shards.flush().await,
        }
    }

    /// Flushes, then ends the producer and its stream.
    pub async fn close(self) {
        self.flush().await;
    }
}

/// Settings of a producer, validated.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub queue: String,
    /// The queue is the shard of this number.
    pub shard: Option<u16>,
    /// Of the list of shards that it is of; 0 if it is none.
    pub generation: u64,
    pub producer_id: String,
    pub epoch: u32,
    pub in_flight: usize,
    pub max_in_flight_bytes: usize,
    pub batch_messages: usize,
    pub batch_bytes: usize,
    pub deadline: Duration,
    pub ack: AckLevel,
}

impl Settings {
    /// What a message takes of the producer's room. One that is larger than all of it goes alone.
    fn room_of(&self, bytes: usize) -> usize {
        (bytes + LENGTH_BYTES).min(self.max_in_flight_bytes)
    }

    /// What the stream is opened with.
    fn open(&self, epoch: u32) -> v1::PublishStreamRequest {
        let producer = v1::Producer { id: self.producer_id.clone(), epoch };
        let open = v1::PublishOpen {
            queue: self.queue.clone(),
            producer: Some(producer),
            shards_generation: self.generation,
        };
        v1::PublishStreamRequest { request: Some(v1::publish_stream_request::Request::Open(open)) }
    }
}

/// How much may be in flight, and how large a message the server takes.
#[derive(Debug)]
pub(crate) struct Room {
    messages: Semaphore,
    bytes: Semaphore,
    /// 0 = not known.
    max_message_bytes: AtomicU64,
    /// The stream is broken, or the queue does not take what it is sent for the moment.
    is_stalled: AtomicBool,
}

impl Room {
    fn new(settings: &Settings) -> Self {
        Self {
            messages: Semaphore::new(settings.in_flight),
            bytes: Semaphore::new(settings.max_in_flight_bytes),
            max_message_bytes: AtomicU64::new(0),
            is_stalled: AtomicBool::new(false),
        }
    }

    /// Waits for room for so many messages at once; first come, first served.
    async fn take(&self, messages: usize, bytes: usize) -> Result<(), PublishError> {
        let permits = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let (messages, bytes) = (permits(messages), permits(bytes));
        let closed = |_| PublishError::Closed;
        let message = self.messages.acquire_many(messages).await.map_err(closed)?;
        let bytes = self.bytes.acquire_many(bytes).await.map_err(closed)?;
        // Given back by `release` once the outcome is known.
        message.forget();
        bytes.forget();
        Ok(())
    }

    fn release(&self, messages: usize, bytes: usize) {
        self.messages.add_permits(messages);
        self.bytes.add_permits(bytes);
    }

    fn close(&self) {
        self.messages.close();
        self.bytes.close();
    }
}
