//! The part of a group's log from which its machine's states can be had again: all of it, or a checkpoint and
//! what follows.

use quorate_machine::Machine;
use quorate_machine::catalog::Catalog;
use quorate_machine::queue::Queue;
use quorate_storage::{Entry, GroupId, ReadError};

use super::{Base, CATALOG, Replay, ReplayError, Stopped};

/// Bytes of entries read at a time.
const READ_BYTES: usize = 1 << 20;

/// A state hash that a replica had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Landmark {
    /// At which index.
    pub index: u64,
    /// The hash.
    pub hash: u64,
}

/// Where to begin, and which entries follow.
#[derive(Clone, Debug)]
pub struct History {
    group: u64,
    base: Option<Base>,
    landmark: Option<Landmark>,
    first: u64,
    /// The last entry; `None` if there is none behind the base.
    last: Option<u64>,
}

/// Why there is no history.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Nothing is stored of the group.
    #[error("nothing of group {0} is stored here")]
    NoGroup(u64),
    /// The log does not reach back to the beginning, and nothing stands for what is missing.
    #[error("the log of group {group} does not reach back to its beginning, and {why}")]
    NoBase {
        /// The group.
        group: u64,
        /// What is with its checkpoint.
        why: String,
    },
    /// An index before the checkpoint.
    #[error("index {to} is before the checkpoint at {base}, where what is left of the log begins")]
    BeforeBase {
        /// The index asked for.
        to: u64,
        /// The checkpoint's.
        base: u64,
    },
    /// An index behind the end.
    #[error("index {to} is behind the last entry, {last}")]
    BehindEnd {
        /// The index asked for.
        to: u64,
        /// The last.
        last: u64,
    },
    /// An entry is missing.
    #[error("entry {0} is missing")]
    Missing(u64),
    /// An entry cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An entry or the checkpoint cannot be applied.
    #[error(transparent)]
    Replay(#[from] ReplayError),
}

impl History {
    /// The checkpoint to begin with, unless the entries begin with the first.
    #[must_use]
    pub fn base(&self) -> Option<&Base> {
        self.base.as_ref()
    }

    /// What the node had in its checkpoint, if the entries lead there.
    #[must_use]
    pub fn landmark(&self) -> Option<Landmark> {
        self.landmark
    }

    /// The last entry.
    #[must_use]
    pub fn last(&self) -> Option<u64> {
        self.last
    }
}

impl Stopped<'_> {
    /// The history of a group up to the entry at `to`, or to the last one here.
    ///
    /// # Errors
    /// When there is none.
    pub fn history(&self, group: u64, to: Option<u64>) -> Result<History, HistoryError> {
        let state = self.log.state(GroupId(group)).ok_or(HistoryError::NoGroup(group))?;
        let checkpoint = self.checkpoint(group);
        let begins = self.log.entries(GroupId(group), 0).next().map(|entry| entry.index);
        let is_whole = state.purged.is_none() && begins == Some(0);
        let (base, first) = match (&checkpoint, is_whole) {
            (_, true) => (None, 0),
            (Ok(Some(base)), false) => (Some(base.clone()), base.next()),
            (Ok(None), false) => {
                let why = "its checkpoint is missing".to_owned();
                return Err(HistoryError::NoBase { group, why });
            }
            (Err(why), false) => {
                let why = format!("its checkpoint cannot be read: {why}");
                return Err(HistoryError::NoBase { group, why });
            }
        };
        let end = state.last.map(|(index, _)| index).filter(|last| *last >= first);
        let last = match to {
            Some(to) if to.saturating_add(1) < first => {
                return Err(HistoryError::BeforeBase { to, base: first - 1 });
            }
            Some(to) if end.is_none_or(|end| to > end) && to.saturating_add(1) > first => {
                let last = end.unwrap_or(first.saturating_sub(1));
                return Err(HistoryError::BehindEnd { to, last });
            }
            Some(to) => end.map(|end| end.min(to)).filter(|last| *last >= first),
            None => end,
        };
        let landmark = match (is_whole, &checkpoint) {
            (true, Ok(Some(base))) => base.landmark(group)?,
            _ => None,
        };
        let landmark = landmark.filter(|landmark| last.is_some_and(|last| landmark.index <= last));
        Ok(History { group, base, landmark, first, last })
    }

    /// The entries of a history, in order.
    pub fn entries(
        &self,
        history: &History,
    ) -> impl Iterator<Item = Result<Entry, HistoryError>> + '_ {
        let (group, last) = (GroupId(history.group), history.last);
        let mut next = history.first;
        let mut read = Vec::new().into_iter();
        std::iter::from_fn(move || {
            if last.is_none_or(|last| next > last) {
                return None;
            }
            if read.len() == 0 {
                match self.log.read(group, next..last? + 1, READ_BYTES) {
                    Ok(entries) => read = entries.into_iter(),
                    Err(error) => {
                        next = u64::MAX;
                        return Some(Err(error.into()));
                    }
                }
            }
            let entry = read.next().ok_or(HistoryError::Missing(next));
            next = if entry.is_ok() { next + 1 } else { u64::MAX };
            Some(entry)
        })
    }
}

impl Base {
    /// The first entry that is not in it.
    pub(super) fn next(&self) -> u64 {
        self.position().map_or(0, |at| at.index + 1)
    }

    /// What it says of the machine's state, read and computed again.
    fn landmark(&self, group: u64) -> Result<Option<Landmark>, ReplayError> {
        fn hash<M: Machine>(base: &Base) -> Result<u64, ReplayError> {
            Replay::<M>::begin(Some(base)).map(|replay| replay.hash())
        }
        let Some(at) = self.position() else { return Ok(None) };
        let hash = if group == CATALOG { hash::<Catalog>(self)? } else { hash::<Queue>(self)? };
        Ok(Some(Landmark { index: at.index, hash }))
    }
}
