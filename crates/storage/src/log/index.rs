//! Where each stored entry of one group lies: 24 bytes an entry, in runs of consecutive indexes.
//!
//! A run is a deque of at most [`RUN_SLOTS`] slots, so that growing one never copies much and a
//! million entries in order cost little more than their slots. What remains of an old log (a few
//! live bodies, far apart) is a run each.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;

use super::format::RECORD_HEADER_BYTES;

/// Longest run, in slots.
const RUN_SLOTS: usize = 4096;

/// A record's place on disk. Segment 0 does not exist: such a place is a write that is still
/// queued, and `offset` is then the low half of its operation's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub segment: u32,
    pub offset: u32,
}

impl Place {
    /// The place of what operation `op` will write.
    pub fn pending(op: u64) -> Place {
        Place { segment: 0, offset: op as u32 }
    }
}

/// What is known of one stored entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub term: u64,
    pub place: Place,
    pub payload_bytes: u32,
    /// Part of the Raft log, so that truncation applies to it; otherwise stored beside it.
    pub raft: bool,
    /// It was read by itself before, so it may be wanted in parts, far apart in time.
    pub was_read: bool,
}

impl Slot {
    /// Bytes its record takes on disk.
    pub fn record_bytes(&self) -> u64 {
        RECORD_HEADER_BYTES as u64 + u64::from(self.payload_bytes)
    }
}

/// The entries of one group, by index.
#[derive(Debug, Default)]
pub struct Index {
    runs: BTreeMap<u64, VecDeque<Slot>>,
}

impl Index {
    pub fn get(&self, index: u64) -> Option<&Slot> {
        let (start, run) = self.runs.range(..=index).next_back()?;
        run.get((index - start) as usize)
    }

    pub fn get_mut(&mut self, index: u64) -> Option<&mut Slot> {
        let (start, run) = self.runs.range_mut(..=index).next_back()?;
        run.get_mut((index - start) as usize)
    }

    /// Stores `slot`; returns what it replaced.
    pub fn set(&mut self, index: u64, slot: Slot) -> Option<Slot> {
        if let Some((start, run)) = self.runs.range_mut(..=index).next_back() {
            let at = (index - start) as usize;
            if let Some(old) = run.get_mut(at) {
                return Some(std::mem::replace(old, slot));
            }
            if at == run.len() && at < RUN_SLOTS {
                run.push_back(slot);
                return None;
            }
        }
        let mut run = VecDeque::with_capacity(1);
        run.push_back(slot);
        self.runs.insert(index, run);
        None
    }

    /// Removes the Raft entries above `after` (all for `None`), giving each to `dropped`.
    pub fn truncate(&mut self, after: Option<u64>, mut dropped: impl FnMut(u64, Slot)) {
        let first = match after {
            Some(u64::MAX) => return,
            Some(after) => after + 1,
            None => 0,
        };
        // The usual case: an append, with nothing above it.
        let nothing_above =
            |(start, run): (&u64, &VecDeque<Slot>)| start + run.len() as u64 <= first;
        if self.runs.last_key_value().is_none_or(nothing_above) {
            return;
        }
        let mut beside = Vec::new();
        let tail = self.runs.range(..first).next_back().map(|(start, _)| *start);
        if let Some(start) = tail
            && let Some(run) = self.runs.get_mut(&start)
        {
            let keep = run.len().min((first - start) as usize);
            for (at, slot) in run.drain(keep..).enumerate() {
                beside.push((first + at as u64, slot));
            }
        }
        for (start, run) in self.runs.split_off(&first) {
            beside.extend(run.into_iter().enumerate().map(|(at, slot)| (start + at as u64, slot)));
        }
        for (index, slot) in beside {
            if slot.raft {
                dropped(index, slot);
            } else {
                self.set(index, slot);
            }
        }
    }

    /// Of the entries at or below `upto`, removes those outside of `keep` (sorted and disjoint),
    /// giving each to `dropped`. Runs that are kept whole are not touched.
    pub fn retain(
        &mut self,
        upto: u64,
        keep: &[RangeInclusive<u64>],
        mut dropped: impl FnMut(u64, Slot),
    ) {
        let affected: Vec<(u64, u64)> = self
            .runs
            .range(..=upto)
            .map(|(start, run)| (*start, start + run.len() as u64 - 1))
            .filter(|(first, last)| !covered(keep, *first, (*last).min(upto)))
            .collect();
        for (start, _) in affected {
            let Some(run) = self.runs.remove(&start) else { continue };
            let mut next_keep = keep.partition_point(|range| *range.end() < start);
            let mut piece: VecDeque<Slot> = VecDeque::new();
            let mut piece_start = start;
            for (at, slot) in run.into_iter().enumerate() {
                let index = start + at as u64;
                while keep.get(next_keep).is_some_and(|range| *range.end() < index) {
                    next_keep += 1;
                }
                let kept = index > upto || keep.get(next_keep).is_some_and(|r| r.contains(&index));
                if kept {
                    if piece.is_empty() {
                        piece_start = index;
                    }
                    piece.push_back(slot);
                } else {
                    dropped(index, slot);
                    self.insert_piece(piece_start, &mut piece);
                }
            }
            self.insert_piece(piece_start, &mut piece);
        }
    }

    fn insert_piece(&mut self, start: u64, piece: &mut VecDeque<Slot>) {
        if !piece.is_empty() {
            let mut run = std::mem::take(piece);
            run.shrink_to_fit();
            self.runs.insert(start, run);
        }
    }

    /// All entries from `index` on, in order.
    pub fn iter_from(&self, index: u64) -> impl Iterator<Item = (u64, &Slot)> {
        let first = self.runs.range(..=index).next_back().map_or(index, |(start, _)| *start);
        self.runs
            .range(first..)
            .flat_map(|(start, run)| {
                run.iter().enumerate().map(move |(at, slot)| (start + at as u64, slot))
            })
            .skip_while(move |(at, _)| *at < index)
    }

    /// The stored ranges, adjacent ones merged.
    pub fn ranges(&self) -> Vec<RangeInclusive<u64>> {
        let mut ranges: Vec<RangeInclusive<u64>> = Vec::new();
        for (start, run) in self.runs.iter().filter(|(_, run)| !run.is_empty()) {
            let end = start + run.len() as u64 - 1;
            match ranges.last_mut() {
                Some(last) if last.end() + 1 == *start => *last = *last.start()..=end,
                _ => ranges.push(*start..=end),
            }
        }
        ranges
    }

    /// How many entries are stored.
    pub fn len(&self) -> usize {
        self.runs.values().map(VecDeque::len).sum()
    }
}

/// Whether one range of `keep` covers `first..=last`.
fn covered(keep: &[RangeInclusive<u64>], first: u64, last: u64) -> bool {
    let at = keep.partition_point(|range| *range.end() < first);
    keep.get(at).is_some_and(|range| *range.start() <= first && last <= *range.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(term: u64) -> Slot {
        Slot {
            term,
            place: Place { segment: 1, offset: 0 },
            payload_bytes: 0,
            raft: true,
            was_read: false,
        }
    }

    fn filled(range: RangeInclusive<u64>) -> Index {
        let mut index = Index::default();
        range.for_each(|at| assert!(index.set(at, slot(at)).is_none()));
        index
    }

    #[test]
    fn entries_in_order_form_one_range_over_many_runs() {
        let index = filled(1..=10_000);
        assert_eq!(index.ranges(), vec![1..=10_000]);
        assert_eq!(index.len(), 10_000);
        assert_eq!(index.get(4097).map(|slot| slot.term), Some(4097));
        assert_eq!(index.iter_from(5000).next().map(|(at, _)| at), Some(5000));
    }

    #[test]
    fn truncation_drops_raft_entries_and_leaves_what_was_put_beside() {
        let mut index = filled(1..=100);
        index.set(200, Slot { raft: false, ..slot(9) });
        let mut dropped = Vec::new();
        index.truncate(Some(60), |at, _| dropped.push(at));
        assert_eq!(dropped, (61..=100).collect::<Vec<_>>());
        assert_eq!(index.ranges(), vec![1..=60, 200..=200]);
        index.truncate(None, |_, _| ());
        assert_eq!(index.ranges(), vec![200..=200]);
    }

    #[test]
    fn retain_keeps_the_ranges_and_all_above_its_bound() {
        let mut index = filled(1..=5000);
        index.retain(4990, &[3..=5, 100..=100, 4985..=4992], |_, _| ());
        assert_eq!(index.ranges(), vec![3..=5, 100..=100, 4985..=5000]);
    }

    #[test]
    fn a_slot_takes_no_more_than_its_budget() {
        assert!(std::mem::size_of::<Slot>() <= 40);
    }
}
