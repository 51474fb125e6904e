//! The node-wide log: one sequence of batches for all groups of a node.
//!
//! ```text
//!  append, save_vote, truncate_after …           read, read_cached
//!        │ (any thread: memory changes at once)        ▲
//!        ▼                                             │
//!      State ── queue ──► Writer ── one batch ──► segment files
//!    index, tail                 durable │             │
//!        ▲                               ▼             │ upkeep: recycle, copy forward,
//!        └────────── places of records, `done` ◄───────┘         pre-write spares
//! ```
//!
//! One thread writes ([`Writer::run`]) while the next batch gathers in the queue, so the batch
//! grows with the load and one flush serves all that waited. In simulation the same writer is
//! stepped by a task ([`Writer::step`]).
//!
//! What holds, and where it is argued: bytes and checksums in [`format`](mod@format), which bytes
//! count after a crash in `recover`, why a start need not read them all in [`contents`], which
//! segments may go in `upkeep`. [`offline`] looks at the log of a node that does not run.

mod api;
pub mod contents;
mod drain;
pub mod format;
mod index;
pub mod offline;
mod read;
mod recent;
mod recover;
mod scan;
mod segment;
mod state;
mod tail;
mod upkeep;
mod writer;

use std::fmt;
use std::io;

use bytes::Bytes;

pub use api::Log;
pub use writer::Writer;

/// One Raft group, or one set of bodies beside a group. Never reused after
/// [`Log::remove_group`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A stored entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Position in the group's log.
    pub index: u64,
    /// Raft term that wrote it.
    pub term: u64,
    /// Opaque to this crate; at most [`Options::max_payload_bytes`] long.
    pub payload: Bytes,
}

/// What is known of a group beside its entries; small, and written as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupState {
    /// Opaque; empty if none was saved.
    pub vote: Bytes,
    /// Opaque; may lag, never names an entry beyond the durable log (the caller sees to that).
    pub committed: Bytes,
    /// The Raft floor: (index, term) of the last entry that Raft no longer needs.
    pub purged: Option<(u64, u64)>,
    /// (index, term) of the last Raft entry, or `purged` if there is none. `None`: no Raft log.
    pub last: Option<(u64, u64)>,
}

/// Called once, from the writer, when an operation is durable or has failed. Must not block.
pub type Done = Box<dyn FnOnce(Result<(), LogError>) + Send>;

/// How a log behaves. Sizes in bytes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Length of a segment file; a multiple of 4096, at least 32 KiB, below 4 GiB. A log keeps the
    /// length that its files were made with; files of another length are read and aged out.
    /// Default 64 MiB.
    pub segment_bytes: u64,
    /// Most that one batch takes from the queue. Default 4 MiB.
    pub max_batch_bytes: usize,
    /// Recent bodies kept in memory, whole node, beyond what is not durable yet. Default 32 MiB. A
    /// quarter as much again is kept of what was read from the disk last.
    pub tail_bytes: usize,
    /// Segments kept pre-written and ready, and the most that are kept for reuse. Default 2.
    pub spare_segments: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            segment_bytes: 64 << 20,
            max_batch_bytes: 4 << 20,
            tail_bytes: 32 << 20,
            spare_segments: 2,
        }
    }
}

/// Largest index of an entry. None is reached in a log's life, so recovery takes a larger one for
/// damage, and what follows an index can always be named.
pub const INDEX_MAX: u64 = u64::MAX >> 1;

/// Smallest segment, in bytes.
pub const SEGMENT_BYTES_MIN: u64 = 32 << 10;

impl Options {
    /// The largest payload of one entry: what fits into a segment of its own, in bytes.
    #[must_use]
    pub fn max_payload_bytes(&self) -> usize {
        let frame = format::SEGMENT_HEADER_BYTES
            + crate::disk::BLOCK
            + format::BATCH_HEADER_BYTES
            + format::RECORD_HEADER_BYTES;
        (self.segment_bytes as usize).saturating_sub(frame)
    }

    fn validate(&self) -> Result<(), OpenError> {
        let aligned = self.segment_bytes.is_multiple_of(crate::disk::BLOCK as u64);
        let sized = (SEGMENT_BYTES_MIN..=u64::from(u32::MAX)).contains(&self.segment_bytes);
        if aligned && sized {
            Ok(())
        } else {
            Err(OpenError::BadOptions { segment_bytes: self.segment_bytes })
        }
    }
}

/// Figures of a log since it was opened, and its size now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Segments that hold records, the one being written included.
    pub segments: usize,
    /// Segments ready to be written.
    pub spare_segments: usize,
    /// Bytes of records that are still needed.
    pub live_bytes: u64,
    /// Bytes of all files of the log, spares included.
    pub disk_bytes: u64,
    /// Bytes written to the device: batches with padding, headers, seals and tables of contents;
    /// not pre-writing.
    pub written_bytes: u64,
    /// Bytes of payload in the entries appended or put, as given by the callers.
    pub payload_bytes: u64,
    /// Batches written, each one flush.
    pub flushes: u64,
    /// Records written.
    pub records: u64,
    /// Bytes copied forward out of sparse segments.
    pub copied_bytes: u64,
    /// Payload bytes in the memory tail.
    pub tail_bytes: usize,
    /// Payload and record bytes that wait to be written.
    pub queued_bytes: usize,
    /// Entries in the index.
    pub entries: usize,
    /// Bytes free on the file system, as last looked up.
    pub free_bytes: u64,
    /// Whether the writer waits because no new segment can be made. It goes on by itself.
    pub waiting_for_space: bool,
    /// Whether a write or flush failed: nothing more is accepted.
    pub poisoned: bool,
}

/// Why an operation was not made durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// A write or flush failed, now or earlier. What the device holds is unknown: the node has to
    /// stop, and recovery decides on the next start.
    #[error("log is poisoned by a failed write: {reason}; stop this node, check its disk")]
    Poisoned {
        /// The first failure.
        reason: String,
    },
    /// [`Log::close`] was called, or the writer is gone.
    #[error("log is closed")]
    Closed,
    /// A Raft append that does not follow the last entry; nothing was stored.
    #[error("group {group}: append at {got} does not follow {expected}")]
    NotContiguous {
        /// The group.
        group: GroupId,
        /// The index that had to come.
        expected: u64,
        /// The index that came.
        got: u64,
    },
    /// A payload beyond [`Options::max_payload_bytes`]; nothing was stored.
    #[error("group {group}: payload of {bytes} bytes at {index} is beyond the limit of {limit}")]
    TooLarge {
        /// The group.
        group: GroupId,
        /// The entry.
        index: u64,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// An entry beyond [`INDEX_MAX`], with which the log could not be opened; nothing was stored.
    #[error("group {group}: no log reaches index {index}")]
    IndexTooHigh {
        /// The group.
        group: GroupId,
        /// The entry.
        index: u64,
    },
    /// The group was removed, and records of it may still lie in old segments.
    #[error("group {group} was removed")]
    Removed {
        /// The group.
        group: GroupId,
    },
}

/// Why entries could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The device refused.
    #[error("read {file} at {offset}")]
    Io {
        /// Segment file.
        file: String,
        /// Byte offset in it.
        offset: u64,
        /// What the device said.
        source: io::Error,
    },
    /// The record's checksum does not fit, or another record stands in its place.
    #[error("damaged record of group {group} index {index} in {file} at {offset}: {reason}")]
    Damaged {
        /// The group.
        group: GroupId,
        /// The entry.
        index: u64,
        /// Segment file.
        file: String,
        /// Byte offset in it.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
}

/// Why a log could not be opened. Nothing was changed on disk.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Acknowledged data is damaged: continuing would break promises made to the peers.
    #[error(
        "{file} is damaged at {offset}: {reason}; valid data follows, so this is not the trace of \
         a crash. Keep this directory for inspection and replace the node, so that it is restored \
         from its peers"
    )]
    Damaged {
        /// Segment file.
        file: String,
        /// Byte offset in it.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// Written by a newer version of this program.
    #[error("{file} was written by a newer version (format {version}); upgrade this node")]
    NewerFormat {
        /// Segment file.
        file: String,
        /// The version found.
        version: u32,
    },
    /// The options contradict themselves.
    #[error("segment_bytes {segment_bytes} is no multiple of 4096 between 32 KiB and 4 GiB")]
    BadOptions {
        /// The value given.
        segment_bytes: u64,
    },
    /// The device refused.
    #[error("{action} {file}")]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// On which file.
        file: String,
        /// What the device said.
        source: io::Error,
    },
}
