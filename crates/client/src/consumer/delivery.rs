//! A message in the hands of the application.

use std::time::Duration;

use bytes::Bytes;
use quorate_proto::frame::Headers;
use tokio::sync::{mpsc, oneshot};

use crate::consumer::ledger::Lease;
use crate::consumer::settles::{Kind, Settle};
use crate::error::SettleError;

pub(crate) enum Command {
    Settle(Settle),
    /// The application has it.
    Started(Lease),
    /// The delivery was dropped unsettled.
    Dropped(Lease),
}

/// A message leased to this consumer. While it is held, its lease is extended in time; settle it with
/// [`ack`](Self::ack), [`nack`](Self::nack) or [`reject`](Self::reject).
///
/// **Dropping it unsettled is a `nack` without delay**: the message goes back to its place in the queue, after the
/// queue's back-off if it has one.
///
/// ```no_run
/// # use quorate_client::{Delivery, SettleError};
/// # fn work(body: &[u8]) -> bool { true }
/// # async fn example(delivery: Delivery) -> Result<(), SettleError> {
/// if work(&delivery.body) {
///     delivery.ack().await
/// } else {
///     delivery.nack(Some(std::time::Duration::from_secs(5))).await
/// }
/// # }
/// ```
#[derive(Debug)]
#[must_use = "dropping it gives the message back"]
pub struct Delivery {
    /// The message's place in the queue.
    pub offset: u64,
    /// Of a sharded queue, the number of the shard: the offset is one of the queue `NAME@NUMBER`.
    pub shard: Option<u16>,
    /// 1 at the first delivery of the message, one more after each that counted: all but those that were given back with
    /// [`put_back`](Self::put_back), and those that a consumer had not begun to handle when it died, in a queue with
    /// `max_deliveries` or `retry_ms`.
    pub attempt: u32,
    /// Names the lease: what fences off a consumer that was too slow.
    pub token: u64,
    /// The message's headers, in the order in which they were given.
    pub headers: Headers,
    /// The message's payload.
    pub body: Bytes,
    pub(crate) handle: Handle,
}

impl Delivery {
    /// The key that the message was published with, if it has one; see [`Message::group_key`](crate::Message::group_key).
    #[must_use]
    pub fn group_key(&self) -> Option<String> {
        self.headers.group_key()
    }

    /// Done: the message is never delivered again. Returns once a majority has that on disk.
    ///
    /// # Errors
    /// See [`SettleError`].
    pub async fn ack(self) -> Result<(), SettleError> {
        self.handle.settle(Kind::Ack).await
    }

    /// Gives the message back to its place in the queue, to be delivered again, not before `delay` if one
    /// is given (at most 49 days), and otherwise after the queue's back-off (`retry_ms`), if it has one.
    ///
    /// # Errors
    /// See [`SettleError`].
    pub async fn nack(self, delay: Option<Duration>) -> Result<(), SettleError> {
        self.handle.settle(nack(delay)).await
    }

    /// Gives the message back untouched, since it will not be handled here after all: it is at its place in the queue at once,
    /// and this delivery does not count. While some node of the cluster does not know how, as [`nack`](Self::nack).
    ///
    /// # Errors
    /// See [`SettleError`].
    pub async fn put_back(self) -> Result<(), SettleError> {
        self.handle.settle(Kind::Return).await
    }

    /// Not wanted: the message is moved to the queue's dead-letter queue, or dropped if it has none.
    ///
    /// # Errors
    /// See [`SettleError`].
    pub async fn reject(self) -> Result<(), SettleError> {
        self.handle.settle(Kind::Reject).await
    }

    /// As [`ack`](Self::ack), without waiting: many of them make one request. If it fails, the message is
    /// delivered again. [`Consumer::close`](crate::Consumer::close) waits for those under way.
    ///
    /// ```no_run
    /// # async fn example(delivery: quorate_client::Delivery) {
    /// delivery.ack_later();
    /// # }
    /// ```
    pub fn ack_later(self) {
        self.handle.settle_later(Kind::Ack);
    }

    /// As [`nack`](Self::nack), without waiting.
    pub fn nack_later(self, delay: Option<Duration>) {
        self.handle.settle_later(nack(delay));
    }

    /// As [`put_back`](Self::put_back), without waiting.
    pub fn put_back_later(self) {
        self.handle.settle_later(Kind::Return);
    }

    /// As [`reject`](Self::reject), without waiting. If it fails, the message is delivered again.
    pub fn reject_later(self) {
        self.handle.settle_later(Kind::Reject);
    }
}

fn nack(delay: Option<Duration>) -> Kind {
    // Rounded up: never earlier than asked for.
    let millis = delay.unwrap_or_default().as_micros().div_ceil(1_000);
    Kind::Nack { delay_ms: u32::try_from(millis).unwrap_or(u32::MAX) }
}

/// Settles one lease, at the latest when it is dropped.
#[derive(Debug)]
pub(crate) struct Handle {
    lease: Lease,
    /// The queue wants to know when it is begun.
    tells: bool,
    /// Taken when settled.
    commands: Option<mpsc::UnboundedSender<Command>>,
}

impl Handle {
    pub fn new(lease: Lease, tells: bool, commands: mpsc::UnboundedSender<Command>) -> Self {
        Self { lease, tells, commands: Some(commands) }
    }

    /// The application gets the delivery.
    pub fn started(&self) {
        if let Some(commands) = self.commands.as_ref().filter(|_| self.tells) {
            let _ = commands.send(Command::Started(self.lease));
        }
    }

    async fn settle(mut self, kind: Kind) -> Result<(), SettleError> {
        let (waiter, outcome) = oneshot::channel();
        self.send(Settle::new(kind, self.lease, Some(waiter)));
        outcome.await.unwrap_or(Err(SettleError::Closed))
    }

    fn settle_later(mut self, kind: Kind) {
        self.send(Settle::new(kind, self.lease, None));
    }

    fn send(&mut self, settle: Settle) {
        if let Some(commands) = self.commands.take() {
            // Without its task, the consumer is closed: its leases have ended.
            let _ = commands.send(Command::Settle(settle));
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(commands) = self.commands.take() {
            let _ = commands.send(Command::Dropped(self.lease));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_never_shortened() {
        assert_eq!(nack(None), Kind::Nack { delay_ms: 0 });
        assert_eq!(nack(Some(Duration::from_micros(1))), Kind::Nack { delay_ms: 1 });
        assert_eq!(nack(Some(Duration::MAX)), Kind::Nack { delay_ms: u32::MAX });
    }
}
