//! What a caller holds of a message on its way.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use quorate_proto::v1::{self, AckLevel, LogPosition};
use tokio::sync::oneshot;

use crate::error::{PublishError, Refusal};

/// A confirmed message: it is where the producer's ack level wants it to be. Unless another level was asked
/// for, a majority of the queue's voters has it on disk.
///
/// ```no_run
/// # use quorate_client::{Message, Producer, PublishError};
/// # async fn example(producer: Producer) -> Result<(), PublishError> {
/// let receipt = producer.publish(Message::new("hello")).await?;
/// println!("{:?}: offset {:?}, duplicate: {}", receipt.level, receipt.offset, receipt.duplicate);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The message's place in the queue; never changes. `None` at level [`AckLevel::Accepted`]: a majority
    /// has yet to decide on it.
    pub offset: Option<u64>,
    /// The message had entered before, under the same sequence or in a batch of the same id: this is where.
    pub duplicate: bool,
    /// What holds of the message: at least what was asked for. Only `Accepted` may come to nothing.
    pub level: AckLevel,
    /// Where in the queue's log the message is, for [`Client::verify_receipts`](crate::Client::verify_receipts).
    pub position: LogPosition,
    /// At level [`AckLevel::All`]: voters that have it on disk.
    pub in_sync: u32,
    /// Of a sharded queue, the number of the shard that the message is in: the offset is one of the queue `NAME@NUMBER`.
    pub shard: Option<u16>,
}

impl Receipt {
    pub(crate) fn to_wire(self) -> v1::Receipt {
        v1::Receipt {
            first_offset: self.offset.unwrap_or(0),
            count: 1,
            duplicate: self.duplicate,
            level: self.level.into(),
            position: Some(self.position),
            in_sync: Vec::new(),
        }
    }
}

/// A message that was sent; resolves to its receipt. Dropping it does not take the message back.
///
/// ```no_run
/// # use quorate_client::{Message, Producer, PublishError};
/// # async fn example(producer: Producer) -> Result<(), PublishError> {
/// let first = producer.send(Message::new("first")).await?;
/// let second = producer.send(Message::new("second")).await?;
/// assert!(first.await?.offset < second.await?.offset); // at level QUORUM
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "dropping it hides whether the message was confirmed"]
pub struct Pending {
    pub(crate) outcome: oneshot::Receiver<Result<Receipt, PublishError>>,
}

impl Future for Pending {
    type Output = Result<Receipt, PublishError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.outcome).poll(context).map(|outcome| {
            // The producer's task was ended with its runtime.
            let ended = || Refusal { message: "the producer was stopped".into(), ..<_>::default() };
            outcome.unwrap_or_else(|_| Err(PublishError::UnknownOutcome { last: ended() }))
        })
    }
}
