//! What this node has done since it started, for its metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// A figure that only grows.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    #[cfg_attr(madsim, allow(dead_code, reason = "a simulated node has no metrics"))]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Messages that clients of this node brought and took.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Taken in for the quorum, and their bytes.
    pub(crate) published: Count,
    pub(crate) published_bytes: Count,
    /// With a receipt, by level.
    pub(crate) accepted: Count,
    pub(crate) quorum: Count,
    pub(crate) all: Count,
    /// Publishes that were answered with a failure.
    pub(crate) failed: Count,
    /// Handed to consumers, repeated ones included, and their bytes.
    pub(crate) delivered: Count,
    pub(crate) delivered_bytes: Count,
    /// Moved to dead-letter queues, of the queues led here.
    pub(crate) dead_lettered: Count,
    /// Shown to readers, and their bytes.
    pub(crate) read: Count,
    pub(crate) read_bytes: Count,
}
