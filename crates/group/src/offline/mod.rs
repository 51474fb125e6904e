//! A stopped node's replicas: what its log and its checkpoints say of each group, for whoever looks into a
//! directory and not for a node.
//!
//! ```text
//!  storage::log::offline ──► Stopped ──► GroupInfo, Content    what is there
//!  checkpoints (Meta) ─────►    │ ─────► verify                whether it is sound
//!                               ▼
//!                            History ──► slice ──► Replay      the machine's states, here or elsewhere
//! ```

mod content;
mod history;
mod replay;
mod slice;
#[cfg(test)]
mod tests;
mod verify;

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use bytes::Bytes;
use quorate_machine::catalog::Catalog;
use quorate_storage::log::offline::{self, Offline, Seen};
use quorate_storage::{Disk, GroupId, Meta, OpenError};

pub use content::{Content, Members, StateRecord, Vote, content};
pub use history::{History, HistoryError, Landmark};
pub use replay::{Replay, ReplayError};
pub use slice::{
    CHECKPOINT_BYTES_MAX, Head, PART_BYTES_MAX, SLICE_VERSION, SliceError, SliceReader, SliceWriter,
};
pub use verify::{Finding, Report, verify};

use crate::checkpoint;
use crate::replica_log::BODIES;
use crate::types::Position;

/// The catalog's group; all others are queues.
pub const CATALOG: u64 = 0;

/// The group that a record of the log is about, and whether it is of the bodies that came with a snapshot.
#[must_use]
pub fn group_of(id: GroupId) -> (u64, bool) {
    (id.0 & !BODIES, id.0 & BODIES != 0)
}

/// A checkpoint as it is kept, with what stands in front of the machine's state.
#[derive(Clone)]
pub struct Base {
    bytes: Bytes,
    checkpoint: checkpoint::Checkpoint,
}

impl Base {
    /// Reads a checkpoint.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn decode(bytes: Bytes) -> Result<Self, String> {
        let checkpoint = checkpoint::decode(bytes.clone()).map_err(|error| error.to_string())?;
        Ok(Self { bytes, checkpoint })
    }

    /// The checkpoint as it is kept.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The last entry that it covers.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.checkpoint.meta.last_log_id.as_ref().map(Position::from)
    }

    /// Who the replicas were.
    #[must_use]
    pub fn members(&self) -> Members {
        Members::of(self.checkpoint.meta.last_membership.membership())
    }

    /// The machine's state.
    #[must_use]
    pub fn state(&self) -> &Bytes {
        &self.checkpoint.state
    }
}

impl std::fmt::Debug for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Base").field("position", &self.position()).finish_non_exhaustive()
    }
}

/// What is known of one group's replica here.
#[derive(Clone, Debug)]
pub struct GroupInfo {
    /// The group.
    pub group: u64,
    /// For whom it voted last.
    pub vote: Option<Vote>,
    /// What it knew to be committed; may lag.
    pub committed: Option<Position>,
    /// The last entry that Raft let go.
    pub purged: Option<Position>,
    /// Index of the first entry of the Raft log.
    pub first: Option<u64>,
    /// Its last entry.
    pub last: Option<Position>,
    /// Entries of the Raft log, those below its floor that are kept for their bodies included.
    pub entries: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Entries whose bodies came with a snapshot.
    pub bodies: u64,
    /// Bytes of their payloads.
    pub bodies_bytes: u64,
}

/// The log and the checkpoints of a node that does not run.
pub struct Stopped<'a> {
    log: Offline,
    meta: Option<&'a dyn Meta>,
}

impl<'a> Stopped<'a> {
    /// Reads all of the log, and calls `each` with every record, until it breaks.
    ///
    /// # Errors
    /// When the log cannot be listed.
    pub fn read(
        disk: &dyn Disk,
        meta: Option<&'a dyn Meta>,
        each: &mut dyn FnMut(&Seen<'_>) -> ControlFlow<()>,
    ) -> Result<Self, OpenError> {
        Ok(Self { log: offline::read(disk, each)?, meta })
    }

    /// The log beneath.
    #[must_use]
    pub fn log(&self) -> &Offline {
        &self.log
    }

    /// The groups of which anything is stored.
    #[must_use]
    pub fn groups(&self) -> BTreeSet<u64> {
        self.log.groups().map(|id| group_of(id).0).collect()
    }

    /// A group's checkpoint; `None` if there is none.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn checkpoint(&self, group: u64) -> Result<Option<Base>, String> {
        let Some(meta) = self.meta.filter(|_| !self.has_half_left(group)) else { return Ok(None) };
        let bytes = meta.get(&checkpoint::key(group)).map_err(|error| error.to_string())?;
        bytes.map(Base::decode).transpose()
    }

    /// The groups with a checkpoint, whatever the log has of them.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn checkpointed(&self) -> Result<BTreeSet<u64>, String> {
        let Some(meta) = self.meta else { return Ok(BTreeSet::new()) };
        let found = meta.scan(checkpoint::CHECKPOINT).map_err(|error| error.to_string())?;
        let group = |key: &[u8]| key[checkpoint::CHECKPOINT.len()..].try_into().ok();
        let groups = found.iter().filter_map(|(key, _)| group(key).map(u64::from_be_bytes));
        Ok(groups.filter(|group| !self.has_half_left(*group)).collect())
    }

    /// Whether its log is gone already, which goes first: what a checkpoint refers to is not there.
    fn has_half_left(&self, group: u64) -> bool {
        let state = self.log.state(GroupId(group));
        let is_blank = state.is_none_or(|state| state.last.or(state.purged).is_none());
        is_blank && self.is_leaving(group)
    }

    /// Whether the replica was leaving its node when that ended: the next start forgets it, or the rest of it.
    #[must_use]
    pub fn is_leaving(&self, group: u64) -> bool {
        let found = self.meta.map(|meta| meta.get(&checkpoint::leaving_key(group)));
        matches!(found, Some(Ok(Some(_))))
    }

    /// What is known of a group.
    #[must_use]
    pub fn info(&self, group: u64) -> GroupInfo {
        let state = self.log.state(GroupId(group)).cloned().unwrap_or_default();
        let position = |(index, term)| Position { term, index };
        let size = |id| {
            let sizes = self.log.entries(id, 0).map(|entry| u64::from(entry.payload_bytes));
            sizes.fold((0, 0), |(count, bytes), more| (count + 1, bytes + more))
        };
        let (entries, bytes) = size(GroupId(group));
        let (bodies, bodies_bytes) = size(GroupId(group | BODIES));
        let floor = state.purged.map_or(0, |(index, _)| index + 1);
        let first = self.log.entries(GroupId(group), floor).next().map(|entry| entry.index);
        let read = StateRecord::of(&state);
        GroupInfo {
            group,
            vote: read.as_ref().ok().and_then(|read| read.vote),
            committed: read.as_ref().ok().and_then(|read| read.committed),
            purged: state.purged.map(position),
            first,
            last: state.last.map(position),
            entries,
            bytes,
            bodies,
            bodies_bytes,
        }
    }

    /// Lets go of what the checkpoints make superfluous, as a node does when it starts: the figures of the
    /// segments are those of what is needed then. Checkpoints that cannot be read let go of nothing.
    pub fn release(&mut self) {
        let mut kept = Vec::new();
        for group in self.groups() {
            let Ok(Some(base)) = self.checkpoint(group) else { continue };
            let Some(live) = verify::live(group, &base) else { continue };
            let upto = base.position().map_or(0, |at| at.index);
            kept.push((GroupId(group), upto, live.clone()));
            kept.push((GroupId(group | BODIES), upto, live));
        }
        self.log.retain(&kept);
    }

    /// The catalog, as of the last entry here.
    ///
    /// # Errors
    /// When this node's log does not tell.
    pub fn catalog(&self) -> Result<Catalog, HistoryError> {
        let history = self.history(CATALOG, None)?;
        let mut replay = Replay::<Catalog>::begin(history.base())?;
        for entry in self.entries(&history) {
            replay.apply(&entry?)?;
        }
        Ok(replay.into_machine())
    }
}
