//! Large entries that were read from the disk, the most recent ones.
//!
//! An entry of many messages is taken in parts, by several consumers in turn, and is wanted for each
//! part. An entry of one index and term never changes, so what is kept here cannot be stale.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Entry, GroupId};

/// Smaller entries are not kept: they hold few messages.
const BYTES_MIN: usize = 8 << 10;
/// Most entries kept; they are looked through one by one.
const ENTRIES_MAX: usize = 64;

/// The entries read last, of all groups.
pub struct Recent {
    entries: VecDeque<(GroupId, Entry)>,
    held: usize,
    limit: usize,
}

impl Recent {
    /// `limit` bounds the payloads kept, in bytes.
    pub fn new(limit: usize) -> Recent {
        Recent { entries: VecDeque::new(), held: 0, limit }
    }

    /// Whether entries with so many bytes of payload are kept.
    pub fn keeps(&self, bytes: usize) -> bool {
        (BYTES_MIN..=self.limit).contains(&bytes)
    }

    pub fn get(&self, group: GroupId, index: u64, term: u64) -> Option<&Bytes> {
        let is_meant = |(of, entry): &&(GroupId, Entry)| {
            (*of, entry.index, entry.term) == (group, index, term)
        };
        self.entries.iter().rev().find(is_meant).map(|(_, entry)| &entry.payload)
    }

    pub fn insert(&mut self, group: GroupId, entry: &Entry) {
        let bytes = entry.payload.len();
        if !self.keeps(bytes) || self.get(group, entry.index, entry.term).is_some() {
            return;
        }
        self.held += bytes;
        self.entries.push_back((group, entry.clone()));
        while self.held > self.limit || self.entries.len() > ENTRIES_MAX {
            let Some((_, oldest)) = self.entries.pop_front() else { return };
            self.held -= oldest.payload.len();
        }
    }

    pub fn remove_group(&mut self, group: GroupId) {
        self.entries.retain(|(of, _)| *of != group);
        self.held = self.entries.iter().map(|(_, entry)| entry.payload.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64, bytes: usize) -> Entry {
        Entry { index, term, payload: Bytes::from(vec![0; bytes]) }
    }

    #[test]
    fn the_oldest_go_first() {
        let mut recent = Recent::new(4 * BYTES_MIN);
        (1..=5).for_each(|index| recent.insert(GroupId(1), &entry(index, 1, BYTES_MIN)));
        assert!(recent.get(GroupId(1), 1, 1).is_none());
        assert!((2..=5).all(|index| recent.get(GroupId(1), index, 1).is_some()));
    }

    #[test]
    fn an_entry_of_another_term_or_group_is_another_entry() {
        let mut recent = Recent::new(4 * BYTES_MIN);
        recent.insert(GroupId(1), &entry(7, 1, BYTES_MIN));
        assert!(recent.get(GroupId(1), 7, 2).is_none());
        assert!(recent.get(GroupId(2), 7, 1).is_none());
        recent.insert(GroupId(1), &entry(7, 2, BYTES_MIN + 1));
        assert_eq!(recent.get(GroupId(1), 7, 2).map(Bytes::len), Some(BYTES_MIN + 1));
    }

    #[test]
    fn small_entries_and_too_large_ones_are_not_kept() {
        let mut recent = Recent::new(4 * BYTES_MIN);
        recent.insert(GroupId(1), &entry(1, 1, BYTES_MIN - 1));
        recent.insert(GroupId(1), &entry(2, 1, 4 * BYTES_MIN + 1));
        assert!([1, 2].iter().all(|index| recent.get(GroupId(1), *index, 1).is_none()));
    }

    #[test]
    fn a_removed_group_leaves_nothing() {
        let mut recent = Recent::new(4 * BYTES_MIN);
        recent.insert(GroupId(1), &entry(1, 1, BYTES_MIN));
        recent.insert(GroupId(2), &entry(1, 1, BYTES_MIN));
        recent.remove_group(GroupId(1));
        assert!(recent.get(GroupId(1), 1, 1).is_none());
        assert_eq!(recent.held, BYTES_MIN);
    }
}
