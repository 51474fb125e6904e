//! Small state that can be rebuilt from the log and the peers: checkpoints, cursors, node facts.
//!
//! [`SledMeta`] keeps it in sled, [`SimMeta`] in memory with the same crash model. Values carry
//! checksums (`chunks`), so a torn or damaged one is an error and never an answer; the caller
//! rebuilds it.

// Open for the fuzzing of its decoders only.
#[doc(hidden)]
pub mod chunks;
mod sim;
mod sled;

pub use sim::SimMeta;
pub use sled::{Opened, SledMeta};

use bytes::Bytes;

/// A map of keys to values, ordered by key. Changes are visible at once and durable after
/// [`Meta::sync`]; a crash before that keeps some prefix of them.
pub trait Meta: Send + Sync {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, MetaError>;

    /// Sets `key` to these pieces, one after the other. Values may be large (many MiB); keys are at most
    /// [`KEY_BYTES_MAX`] long.
    fn put(&self, key: &[u8], value: &[&[u8]]) -> Result<(), MetaError>;

    /// Removes `key`, if it is there.
    fn remove(&self, key: &[u8]) -> Result<(), MetaError>;

    /// All keys that start with `prefix`, in order, with their values.
    fn scan(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, MetaError>;

    /// All changes so far are on the device when this returns.
    fn sync(&self) -> Result<(), MetaError>;
}

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;

/// Why the state could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// A value is torn or changed; it has to be rebuilt.
    #[error("value of {key} is damaged: {reason}")]
    Damaged {
        /// The key, readable.
        key: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A key beyond [`KEY_BYTES_MAX`].
    #[error("key of {0} bytes is too long")]
    KeyTooLong(usize),
    /// Another process has the store open.
    #[error("{0} is open in another process")]
    Locked(String),
    /// The store or the device failed.
    #[error("{action}: {reason}")]
    Store {
        /// What was attempted, as a verb phrase.
        action: &'static str,
        /// What went wrong.
        reason: String,
    },
}
