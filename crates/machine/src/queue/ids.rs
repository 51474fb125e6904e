//! The ids of the queue machine, each a type of its own.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

/// Place of a message in its queue: dense, from 0, given at apply, never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u64);

/// One attachment of a consumer, chosen at random by its client. It outlives a broken stream by
/// the queue's grace period, and a change of leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session(pub u128);

/// Fencing token of a lease: the log index of the entry that granted it. A later lease of the same
/// message has a larger token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Number of an attach command, by which a late word about an old stream of a session is told
/// from one about its present stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attachment(pub u64);

/// Name of an idempotent producer: 1 to [`ProducerId::BYTES_MAX`] bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerId(Bytes);

/// Why a producer id was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a producer id has 1 to {max} bytes, not {0}", max = ProducerId::BYTES_MAX)]
pub struct ProducerIdError(pub usize);

impl ProducerId {
    /// The longest id, in bytes.
    pub const BYTES_MAX: usize = 128;

    /// Checks the length of an id.
    ///
    /// # Errors
    /// When it is empty or too long.
    pub fn new(id: impl Into<Bytes>) -> Result<Self, ProducerIdError> {
        let id = id.into();
        match id.len() {
            1..=Self::BYTES_MAX => Ok(Self(id)),
            length => Err(ProducerIdError(length)),
        }
    }

    /// The id.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same id in memory of its own. An id that was decoded is a slice of its log entry, and
    /// would keep the whole entry in memory for as long as it is remembered.
    pub(super) fn detached(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }
}

/// Name that a client gave a batch, so that it enters once: 1 to [`MessageId::BYTES_MAX`] bytes of UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(Arc<str>);

/// Why a message id was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a message id has 1 to {max} bytes, not {0}", max = MessageId::BYTES_MAX)]
pub struct MessageIdError(pub usize);

impl MessageId {
    /// The longest id, in bytes.
    pub const BYTES_MAX: usize = 128;

    /// Checks the length of an id.
    ///
    /// # Errors
    /// When it is empty or too long.
    pub fn new(id: &str) -> Result<Self, MessageIdError> {
        match id.len() {
            1..=Self::BYTES_MAX => Ok(Self(id.into())),
            length => Err(MessageIdError(length)),
        }
    }

    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ProducerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ProducerId({})", self.0.escape_ascii())
    }
}
