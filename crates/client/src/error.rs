//! What callers of the SDK get when something fails: an enum per operation.
//!
//! All of them answer `reason()` with the name that `quorate_proto::reason` documents, where there is one.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use quorate_proto::frame::FrameError;
use quorate_proto::reason;
use thiserror::Error;

use crate::fault::{Fault, Verdict};

/// What a server said when it refused.
///
/// ```no_run
/// # use quorate_client::{Client, Error, reason};
/// # async fn example(client: Client) {
/// if let Err(Error::Refused(refusal)) = client.describe_queue("orders").await {
///     assert_eq!(refusal.reason, reason::QUEUE_NOT_FOUND);
///     eprintln!("{}", refusal.message);
/// }
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// A name of [`reason`](crate::reason), for programs. Empty when the answer came from something that
    /// is no Quorate node, such as a proxy.
    pub reason: String,
    /// For people: what happened and what to do.
    pub message: String,
    /// Retrying may help after this time.
    pub retry_after: Option<Duration>,
    /// Facts for programs, such as `limit`.
    pub metadata: BTreeMap<String, String>,
}

impl Refusal {
    fn named(&self) -> Option<&str> {
        Some(self.reason.as_str()).filter(|reason| !reason.is_empty())
    }

    /// Takes the place of what was met before, unless that says more: what a node has answered is not
    /// hidden by connections to others that fail afterwards.
    pub(crate) fn or_better(self, before: Self) -> Self {
        if self.named().is_none() && before.named().is_some() { before } else { self }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.named() {
            Some(reason) => write!(f, "{} ({reason})", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// Why [`Client::connect`](crate::Client::connect) failed.
///
/// ```no_run
/// # use quorate_client::{Client, ConnectError};
/// # async fn example() {
/// match Client::connect(["127.0.0.1:7101"]).await {
///     Err(ConnectError::Unreachable { tried }) => eprintln!("no node answers: {tried:?}"),
///     other => drop(other),
/// }
/// # }
/// ```
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No address was given.
    #[error("no address of a node was given")]
    NoAddress,
    /// An address is not `host:port`.
    #[error("{address:?} is not an address: {why}")]
    InvalidAddress {
        /// What was given.
        address: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// None of the nodes answered.
    #[error("no node answers: {}", join(tried))]
    Unreachable {
        /// Each address with what happened there.
        tried: Vec<(String, String)>,
    },
}

impl ConnectError {
    /// Always `None`: no server has spoken. For symmetry with the other errors.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        None
    }
}

fn join(tried: &[(String, String)]) -> String {
    tried.iter().map(|(_, why)| why.as_str()).collect::<Vec<_>>().join("; ")
}

/// Why a call about queues or the cluster, or the opening of a producer or consumer, failed.
///
/// ```no_run
/// # use quorate_client::{Client, Error};
/// # async fn example(client: Client) {
/// match client.purge_queue("orders").await {
///     Ok(purged) => println!("{purged} messages dropped"),
///     Err(Error::UnknownOutcome { .. }) => println!("look at the queue before going on"),
///     Err(error) => println!("{error}"),
/// }
/// # }
/// ```
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The server refused; the call had no effect.
    #[error("{0}")]
    Refused(Refusal),
    /// No node took the call within the time limit; it had no effect.
    #[error("not done within {after:?}: {last}")]
    Unavailable {
        /// The time limit.
        after: Duration,
        /// What the last attempt met.
        last: Refusal,
    },
    /// The call was sent, and no answer came within the time limit, or none to a call that is not repeated, as
    /// twice would be more than once: it may have had its effect.
    #[error("outcome unknown after {after:?}: {last}")]
    UnknownOutcome {
        /// The time limit, or how long a call took that is not repeated.
        after: Duration,
        /// What the last attempt met.
        last: Refusal,
    },
    /// An answer did not hold what it must, or a setting is out of its range.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// The name of the reason, if a server gave one.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Refused(refusal) | Self::Unavailable { last: refusal, .. } => refusal.named(),
            Self::UnknownOutcome { .. } => Some(reason::UNKNOWN_OUTCOME),
            Self::Invalid(_) => None,
        }
    }

    pub(crate) fn after(fault: Fault, after: Duration, maybe_done: bool) -> Self {
        match fault.verdict {
            Verdict::Refused => Self::Refused(fault.refusal),
            _ if maybe_done => Self::UnknownOutcome { after, last: fault.refusal },
            _ => Self::Unavailable { after, last: fault.refusal },
        }
    }
}

/// Why a message was not confirmed.
///
/// ```no_run
/// # use quorate_client::{Message, Producer, PublishError, reason};
/// # async fn example(producer: Producer) {
/// match producer.publish(Message::new("hello")).await {
///     Ok(receipt) => println!("at offset {:?}", receipt.offset),
///     Err(error) if error.reason() == Some(reason::QUEUE_FULL) => println!("slow down"),
///     Err(PublishError::UnknownOutcome { .. }) => println!("it may be in the queue"),
///     Err(error) => println!("it is not in the queue: {error}"),
/// }
/// # }
/// ```
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The server refused the message, with its whole batch: it is not in the queue.
    #[error("{0}")]
    Refused(Refusal),
    /// The message is larger than the server takes; it was not sent.
    #[error("the message has {bytes} bytes with its headers, the server takes {limit}")]
    TooLarge {
        /// Bytes of the message, with its headers.
        bytes: u64,
        /// The most that the server takes.
        limit: u64,
    },
    /// The message breaks a limit of the format; it was not sent.
    #[error("the message cannot be sent: {0}")]
    Invalid(#[from] FrameError),
    /// No node took the message within the deadline, for instance since it was never sent: it is not in
    /// the queue. `last` is a `NO_QUORUM` where a node has said that there is no majority.
    #[error("not published within {after:?}: {last}")]
    Unavailable {
        /// The producer's deadline.
        after: Duration,
        /// What the last attempt met.
        last: Refusal,
    },
    /// The message was sent and no answer came that settles it, such as that a majority has it: it may be
    /// in the queue, now or soon. The reason is `UNKNOWN_OUTCOME`, also without a majority.
    /// Publishing it again may make it enter twice.
    #[error("outcome unknown: {last}")]
    UnknownOutcome {
        /// What the last attempt met.
        last: Refusal,
    },
    /// The message is in the queue, on a majority, but level `ALL` was asked for and fewer voters than the
    /// queue's `min_in_sync` have it.
    #[error("{refusal}")]
    NotEnoughInSync {
        /// What the server said; `metadata` counts the voters.
        refusal: Refusal,
        /// The message's place in the queue.
        offset: Option<u64>,
    },
    /// The producer was closed before the message was sent.
    #[error("the producer is closed")]
    Closed,
}

impl PublishError {
    /// The name of the reason, if there is one.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Refused(refusal)
            | Self::Unavailable { last: refusal, .. }
            | Self::NotEnoughInSync { refusal, .. } => refusal.named(),
            Self::TooLarge { .. } => Some(reason::MESSAGE_TOO_LARGE),
            Self::Invalid(_) => Some(reason::INVALID_ARGUMENT),
            Self::UnknownOutcome { .. } => Some(reason::UNKNOWN_OUTCOME),
            Self::Closed => None,
        }
    }

    /// The queue's next offset, if the batch was refused since it expected another one (`UNEXPECTED_OFFSET`).
    #[must_use]
    pub fn next_offset(&self) -> Option<u64> {
        match self {
            Self::Refused(refusal) if refusal.reason == reason::UNEXPECTED_OFFSET => {
                refusal.metadata.get("next_offset")?.parse().ok()
            }
            _ => None,
        }
    }
}

/// Why a consumer ended. It is the last item of the stream.
///
/// ```no_run
/// # use quorate_client::{ConsumeError, Consumer};
/// # use futures_util::StreamExt;
/// # async fn example(mut consumer: Consumer) {
/// while let Some(delivery) = consumer.next().await {
///     match delivery {
///         Ok(delivery) => delivery.ack_later(),
///         Err(error) => eprintln!("the consumer ended: {error}"),
///     }
/// }
/// # }
/// ```
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ConsumeError {
    /// The server refused the attachment, for instance since the queue was deleted.
    #[error("{0}")]
    Refused(Refusal),
    /// A delivery could not be read. It stays leased until its lease ends.
    #[error("a delivery cannot be read: {0}")]
    Unreadable(#[from] FrameError),
}

impl ConsumeError {
    /// The name of the reason, if there is one.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Refused(refusal) => refusal.named(),
            Self::Unreadable(_) => Some(reason::UNSUPPORTED_VERSION),
        }
    }
}

/// Why a reader ended. It is the last item of the stream.
///
/// ```no_run
/// # use quorate_client::{ReadError, Reader, reason};
/// # use futures_util::StreamExt;
/// # async fn example(mut reader: Reader) {
/// while let Some(message) = reader.next().await {
///     match message {
///         Ok(message) => println!("{}", message.offset),
///         Err(error) if error.reason() == Some(reason::STALENESS_EXCEEDED) => println!("too old"),
///         Err(error) => println!("the reader ended: {error}"),
///     }
/// }
/// # }
/// ```
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The server refused, for instance since the queue does not exist.
    #[error("{0}")]
    Refused(Refusal),
    /// No replica has answered for the client's request time limit, or none within the bound on staleness.
    #[error("nothing could be read for {after:?}: {last}")]
    Unavailable {
        /// The time limit.
        after: Duration,
        /// What the last attempt met.
        last: Refusal,
    },
    /// A message could not be read.
    #[error("a message cannot be read: {0}")]
    Unreadable(#[from] FrameError),
}

impl ReadError {
    /// The name of the reason, if there is one.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Refused(refusal) | Self::Unavailable { last: refusal, .. } => refusal.named(),
            Self::Unreadable(_) => Some(reason::UNSUPPORTED_VERSION),
        }
    }
}

/// Why a delivery was not settled.
///
/// ```no_run
/// # use quorate_client::{Delivery, SettleError};
/// # async fn example(delivery: Delivery) {
/// match delivery.ack().await {
///     Ok(()) => println!("never delivered again"),
///     Err(SettleError::LeaseLost) => println!("somebody else gets it, or got it"),
///     Err(error) => println!("it may be delivered again: {error}"),
/// }
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SettleError {
    /// The lease had ended: the message is or will be delivered again.
    #[error("the lease was lost: the message is delivered again")]
    LeaseLost,
    /// The server refused to settle.
    #[error("{0}")]
    Refused(Refusal),
    /// It was sent, the connection broke before the answer, and the lease is not held any more: either
    /// it took effect, or the message is delivered again.
    #[error("outcome unknown: the connection broke before the answer")]
    UnknownOutcome,
    /// The consumer was closed or dropped before this was sent: the message is delivered again.
    #[error("the consumer is closed: the message is delivered again")]
    Closed,
}

impl SettleError {
    /// The name of the reason, if there is one.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::LeaseLost => Some(reason::LEASE_LOST),
            Self::Refused(refusal) => refusal.named(),
            Self::UnknownOutcome => Some(reason::UNKNOWN_OUTCOME),
            Self::Closed => None,
        }
    }
}
