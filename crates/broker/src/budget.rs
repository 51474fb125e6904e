//! What a node holds at most: memory of publishes under way, streams, and disk space.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use quorate_storage::Log;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Limits;
use crate::refusal::Refusal;
use crate::shutdown::Shutdown;

/// Memory and streams.
pub(crate) struct Budget {
    memory: Arc<Semaphore>,
    memory_bytes: u32,
    memory_wait: Duration,
    streams: Arc<Semaphore>,
    max_streams: u32,
}

impl Budget {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            memory: Arc::new(Semaphore::new(limits.publish_memory_bytes as usize)),
            memory_bytes: limits.publish_memory_bytes,
            memory_wait: Duration::from_millis(limits.memory_wait_ms.into()),
            streams: Arc::new(Semaphore::new(limits.max_streams as usize)),
            max_streams: limits.max_streams,
        }
    }

    /// Room for `bytes` until the permit is dropped; waits for it, which keeps the caller from
    /// reading on.
    pub(crate) async fn memory(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let bytes = (bytes as u32).min(self.memory_bytes);
        let permit = self.memory.clone().acquire_many_owned(bytes);
        match tokio::time::timeout(self.memory_wait, permit).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Refusal::exhausted(
                "publish_memory_bytes",
                "the node holds as many unconfirmed publishes as it may; send less at a time, or \
                 raise limits.publish_memory_bytes",
            )),
        }
    }

    pub(crate) fn stream(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        self.streams.clone().try_acquire_owned().map_err(|_| {
            Refusal::exhausted(
                "max_streams",
                format!(
                    "{} streams are open, the most that limits.max_streams allows",
                    self.max_streams
                ),
            )
        })
    }
}

/// Whether the disk has room, looked at now and then.
#[derive(Default)]
pub(crate) struct DiskSpace {
    full: AtomicBool,
    /// Less than a quarter of the reserve is left.
    nearly_out: AtomicBool,
    free_bytes: AtomicU64,
}

/// Time between two looks at the disk.
const LOOK_EVERY: Duration = Duration::from_millis(250);

impl DiskSpace {
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Whether a replica may still take entries in from its leader.
    pub(crate) fn takes_entries(&self) -> bool {
        !self.nearly_out.load(Ordering::Relaxed)
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn look(&self, log: &Log, reserve: u64) {
        let free = log.free_bytes();
        self.free_bytes.store(free, Ordering::Relaxed);
        self.nearly_out.store(free < reserve / 4, Ordering::Relaxed);
        // Some way back up, so that it does not flutter.
        let was = self.is_full();
        let full = free < if was { reserve + reserve / 16 } else { reserve };
        if full != was {
            self.full.store(full, Ordering::Relaxed);
            if full {
                tracing::warn!(free, reserve, "disk below its reserve: publishes are refused");
            } else {
                tracing::info!(free, reserve, "disk has room again: publishes are accepted");
            }
        }
    }

    /// Looks until the node ends.
    pub(crate) async fn watch(self: Arc<Self>, log: Log, reserve: u64, shutdown: Shutdown) {
        while !shutdown.is_said() {
            self.look(&log, reserve);
            tokio::select! {
                biased;
                () = shutdown.said() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}
