//! The shipped machine, run over entries without a group around it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use quorate_machine::{At, DecodeError, Machine, SnapshotError};
use quorate_storage::Entry;

use super::content::{self, Content};
use super::{Base, Members};
use crate::applier::apply_entry;
use crate::types::Position;

/// Why a machine could not go on.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The checkpoint is no state of this machine.
    #[error("restore the checkpoint: {0}")]
    Checkpoint(#[from] SnapshotError),
    /// An entry is not the one that comes next.
    #[error("entry {got} comes where {expected} is due")]
    Gap {
        /// The index that had to come.
        expected: u64,
        /// The index that came.
        got: u64,
    },
    /// An entry cannot be read.
    #[error("read entry {index}: {reason}")]
    Entry {
        /// Its index.
        index: u64,
        /// What is wrong.
        reason: String,
    },
    /// A command cannot be read.
    #[error("read entry {index}: {source}")]
    Command {
        /// Index of the entry.
        index: u64,
        /// What is wrong.
        source: DecodeError,
    },
    /// The state contradicts itself: a node stops there.
    #[error("the machine panicked at entry {index}: {what}")]
    Panicked {
        /// Index of the entry.
        index: u64,
        /// What it said.
        what: String,
    },
}

/// A machine and the last entry in it.
pub struct Replay<M> {
    machine: M,
    applied: Option<Position>,
    members: Option<Members>,
}

impl<M: Machine> Replay<M> {
    /// A machine before the first entry, or as of a checkpoint.
    ///
    /// # Errors
    /// When the checkpoint holds no state of this machine.
    pub fn begin(base: Option<&Base>) -> Result<Self, ReplayError> {
        let Some(base) = base else {
            return Ok(Self { machine: M::new(), applied: None, members: None });
        };
        let machine = M::restore(base.state())?;
        Ok(Self { machine, applied: base.position(), members: Some(base.members()) })
    }

    /// Applies the next entry, as a replica does.
    ///
    /// # Errors
    /// When it is not the next, cannot be read, or contradicts the state. The machine is not to be used then.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), ReplayError> {
        let (term, index) = (entry.term, entry.index);
        let expected = self.applied.map_or(0, |at| at.index + 1);
        if index != expected {
            return Err(ReplayError::Gap { expected, got: index });
        }
        let read = content::entry(term, index, entry.payload.clone());
        match read.map_err(|reason| ReplayError::Entry { index, reason })? {
            Content::Membership(members) => self.members = Some(members),
            Content::Commands(now, commands) => {
                let machine = &mut self.machine;
                let at = At { index, now };
                let apply = || apply_entry(machine, at, commands, &mut Vec::new());
                let applied = catch_unwind(AssertUnwindSafe(apply)).map_err(|panic| {
                    let text = panic.downcast_ref::<String>().map(String::as_str);
                    let text = text.or(panic.downcast_ref::<&str>().copied());
                    ReplayError::Panicked { index, what: text.unwrap_or("?").to_owned() }
                })?;
                applied.map_err(|source| ReplayError::Command { index, source })?;
            }
            Content::Blank | Content::State(_) | Content::Forgotten => {}
        }
        self.applied = Some(Position { term, index });
        Ok(())
    }

    /// The last entry applied.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.applied
    }

    /// Who the replicas are, as far as the entries told.
    #[must_use]
    pub fn members(&self) -> Option<&Members> {
        self.members.as_ref()
    }

    /// The state hash, by which replicas are compared.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.machine.hash()
    }

    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// The machine, for itself.
    #[must_use]
    pub fn into_machine(self) -> M {
        self.machine
    }
}
