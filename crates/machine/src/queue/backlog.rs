//! The batches that are in the queue: where each is in the log, and how much of it is left.
//!
//! One record a batch, whatever the size of the batch. What state a message is in is known
//! elsewhere (`ready`, `delayed`, `leased`); here it only counts as left until it is gone.
//!
//! **Bytes.** A frame is not walked, so the size of a single message is unknown here. A batch of
//! `bytes` and `count`, of which `remaining` are left, counts as `bytes * remaining / count`,
//! rounded down. As that only depends on `remaining`, what is released step by step adds up to
//! exactly the bytes of the batch, in whatever order its messages go.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;

use super::effect::Run;
use super::ids::Offset;
use crate::{LogIndex, Millis};

/// Dead records that are tolerated before live ones are moved together.
const DEAD_MIN: usize = 64;

/// Neighbouring publish commands of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// Log index of the entry.
    pub index: u64,
    /// Offset of the first message.
    pub first: u64,
    /// When it was applied.
    pub since: Millis,
    /// Ordinal of its first publish command in the entry.
    pub ordinal: u32,
    /// Messages that it came with.
    pub count: u32,
    /// Messages that are left; 0 only until the record is cleared away.
    pub remaining: u32,
    /// Bytes that it came with.
    pub bytes: u32,
}

impl Batch {
    /// The offset after the last message.
    pub fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    /// Bytes that it counts for.
    pub fn held_bytes(&self) -> u64 {
        u64::from(self.bytes) * u64::from(self.remaining) / u64::from(self.count)
    }
}

/// All batches, by offset, which is by log index too.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// Live records, and dead ones among them (never at the ends).
    batches: VecDeque<Batch>,
    dead: usize,
    messages: u64,
    bytes: u64,
}

impl Backlog {
    /// A backlog of live batches in order.
    pub fn from_batches(batches: VecDeque<Batch>) -> Self {
        let messages = batches.iter().map(|batch| u64::from(batch.remaining)).sum();
        let bytes = batches.iter().map(Batch::held_bytes).sum();
        Self { batches, dead: 0, messages, bytes }
    }

    /// Messages left.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Bytes left, by the rule above.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Live batches, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Batch> {
        self.batches.iter().filter(|batch| batch.remaining > 0)
    }

    /// How many batches are live.
    pub fn len(&self) -> usize {
        self.batches.len() - self.dead
    }

    /// Adds a batch. With `merge` the publish command before it, in the same entry, was accepted,
    /// so that both can be one record if that still holds nothing but whole batches.
    pub fn append(&mut self, batch: Batch, merge: bool) {
        debug_assert_eq!(batch.count, batch.remaining);
        self.messages += u64::from(batch.count);
        self.bytes += u64::from(batch.bytes);
        if merge && self.batches.back_mut().is_some_and(|last| absorb(last, &batch)) {
            return;
        }
        self.batches.push_back(batch);
    }

    /// From the one that holds `offset` on, or else from the first after it.
    pub fn from(&self, offset: u64) -> impl Iterator<Item = &Batch> {
        let at = self.batches.partition_point(|batch| batch.end() <= offset);
        self.batches.range(at..).filter(|batch| batch.remaining > 0)
    }

    /// Whether a message may be left: of its batch some are.
    pub fn covers(&self, offset: u64) -> bool {
        let at = self.batches.partition_point(|batch| batch.end() <= offset);
        let batch = self.batches.get(at);
        batch.is_some_and(|batch| batch.first <= offset && batch.remaining > 0)
    }

    /// The first offset left of those published at `time` or later: times go up with offsets.
    pub fn first_since(&self, time: Millis) -> Option<u64> {
        let at = self.batches.partition_point(|batch| batch.since < time);
        self.batches.range(at..).find(|batch| batch.remaining > 0).map(|batch| batch.first)
    }

    /// Messages `first..first + count` are gone; tells of each batch of which nothing is left.
    pub fn remove(&mut self, first: u64, count: u64, mut emptied: impl FnMut(Batch)) {
        let end = first + count;
        let mut at = self.position(first);
        let mut offset = first;
        while offset < end {
            let batch = &mut self.batches[at];
            let gone = end.min(batch.end()) - offset;
            offset += gone;
            self.messages -= gone;
            let before = batch.held_bytes();
            let left = u64::from(batch.remaining).checked_sub(gone);
            batch.remaining = left.expect("a message leaves its batch once") as u32;
            self.bytes -= before - batch.held_bytes();
            if batch.remaining == 0 {
                self.dead += 1;
                emptied(*batch);
            }
            at += 1;
        }
        self.clear_away();
    }

    /// Messages that were gone are left again: so many `more` of batches that are live, by their first offset, and those of
    /// the `revived`, which are in order and were not. Looks at all batches.
    pub fn hold_again(&mut self, revived: Vec<Batch>, more: &BTreeMap<u64, u32>) {
        let mut revived = revived.into_iter().peekable();
        let mut batches = VecDeque::with_capacity(self.len() + revived.len());
        for live in self.iter() {
            while let Some(batch) = revived.next_if(|batch| batch.first < live.first) {
                batches.push_back(batch);
            }
            let more = more.get(&live.first).copied().unwrap_or(0);
            let remaining = live.remaining + more;
            assert!(remaining <= live.count, "no more are left of a batch than it came with");
            batches.push_back(Batch { remaining, ..*live });
        }
        batches.extend(revived);
        *self = Self::from_batches(batches);
    }

    /// Every message is gone.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Appends where messages `first..first + count` are, one run a batch.
    pub fn runs(&self, first: u64, count: u64, attempt: u32, runs: &mut Vec<Run>) {
        let end = first + count;
        let mut offset = first;
        for batch in self.batches.range(self.position(first)..) {
            if offset >= end {
                break;
            }
            let stop = end.min(batch.end());
            runs.push(Run {
                first_offset: Offset(offset),
                count: (stop - offset) as u32,
                attempt,
                index: LogIndex(batch.index),
                ordinal: batch.ordinal,
                skip: (offset - batch.first) as u32,
            });
            offset = stop;
        }
    }

    /// Position of the batch that holds `offset`, which is left.
    fn position(&self, offset: u64) -> usize {
        let after = self.batches.partition_point(|batch| batch.first <= offset);
        let at = after.checked_sub(1).expect("a message that is left has a batch");
        assert!(offset < self.batches[at].end(), "a message that is left has a batch");
        at
    }

    /// Drops dead records at the ends, and all of them once they are the majority: so a message
    /// that is stuck at the head does not keep the records of those that went before it.
    fn clear_away(&mut self) {
        while self.batches.front().is_some_and(|batch| batch.remaining == 0) {
            self.batches.pop_front();
            self.dead -= 1;
        }
        while self.batches.back().is_some_and(|batch| batch.remaining == 0) {
            self.batches.pop_back();
            self.dead -= 1;
        }
        if self.dead > DEAD_MIN && self.dead > self.batches.len() / 2 {
            self.batches.retain(|batch| batch.remaining > 0);
            self.dead = 0;
        }
        if self.batches.capacity() > 1024 && self.batches.len() < self.batches.capacity() / 4 {
            self.batches.shrink_to(self.batches.len() * 2);
        }
    }
}

/// Log indexes of batches in order, neighbours joined.
pub(super) fn indexes<'a>(batches: impl Iterator<Item = &'a Batch>) -> Vec<RangeInclusive<u64>> {
    let mut ranges: Vec<RangeInclusive<u64>> = Vec::new();
    for batch in batches {
        match ranges.last_mut() {
            Some(last) if *last.end() == batch.index => {}
            Some(last) if *last.end() + 1 == batch.index => {
                *last = *last.start()..=batch.index;
            }
            _ => ranges.push(batch.index..=batch.index),
        }
    }
    ranges
}

/// Makes `next` a part of `last`, if they are neighbours in one entry and nothing overflows.
fn absorb(last: &mut Batch, next: &Batch) -> bool {
    let (Some(count), Some(bytes)) =
        (last.count.checked_add(next.count), last.bytes.checked_add(next.bytes))
    else {
        return false;
    };
    let whole = last.remaining == last.count;
    if last.index != next.index || last.end() != next.first || !whole {
        return false;
    }
    last.count = count;
    last.remaining = count;
    last.bytes = bytes;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(index: u64, first: u64, count: u32, bytes: u32) -> Batch {
        Batch { index, first, since: Millis(0), ordinal: 0, count, remaining: count, bytes }
    }

    #[test]
    fn bytes_released_add_up_to_the_bytes_of_the_batch() {
        for order in [[0, 1, 2, 3, 4, 5, 6], [6, 0, 5, 1, 4, 2, 3]] {
            let mut backlog = Backlog::default();
            backlog.append(batch(1, 0, 7, 1000), false);
            for (gone, offset) in order.into_iter().enumerate() {
                assert_eq!(backlog.bytes(), 1000 * (7 - gone as u64) / 7);
                backlog.remove(offset, 1, |_| {});
            }
            assert_eq!((backlog.bytes(), backlog.messages(), backlog.len()), (0, 0, 0));
        }
    }

    #[test]
    fn a_stuck_head_does_not_keep_dead_records() {
        let mut backlog = Backlog::default();
        for index in 0..10_000 {
            backlog.append(batch(index, index * 2, 2, 10), false);
        }
        let mut emptied = 0;
        backlog.remove(1, 9_999 * 2 - 1, |_| emptied += 1);
        assert_eq!(emptied, 9_998);
        assert_eq!(backlog.len(), 2);
        assert!(backlog.batches.len() <= 2 + DEAD_MIN);
        assert!(backlog.batches.capacity() <= 1024);
        assert_eq!(indexes(backlog.iter()), [0..=0, 9_999..=9_999]);
    }

    #[test]
    fn what_is_left_again_is_in_its_place_and_counts() {
        let mut backlog = Backlog::default();
        (0..5).for_each(|at| backlog.append(batch(at, at * 4, 4, 10), false));
        let mut gone = Vec::new();
        backlog.remove(2, 12, |batch| gone.push(batch));
        assert_eq!((backlog.len(), backlog.messages(), backlog.bytes()), (3, 8, 20));
        let revived = gone.iter().map(|batch| Batch { remaining: 1, ..*batch }).collect();
        backlog.hold_again(revived, &BTreeMap::from([(0, 2), (12, 1)]));
        let left: Vec<_> = backlog.iter().map(|batch| (batch.first, batch.remaining)).collect();
        assert_eq!(left, [(0, 4), (4, 1), (8, 1), (12, 3), (16, 4)]);
        assert_eq!((backlog.messages(), backlog.bytes()), (13, 10 + 2 + 2 + 7 + 10));
    }

    #[test]
    fn live_ranges_join_neighbouring_entries() {
        let mut backlog = Backlog::default();
        for (first, index) in [3, 3, 4, 6, 9, 10].into_iter().enumerate() {
            backlog.append(batch(index, first as u64, 1, 1), false);
        }
        assert_eq!(indexes(backlog.iter()), [3..=4, 6..=6, 9..=10]);
    }

    #[test]
    fn a_run_across_batches_names_each() {
        let mut backlog = Backlog::default();
        backlog.append(batch(3, 0, 4, 1), false);
        backlog.append(batch(5, 4, 2, 1), false);
        let mut runs = Vec::new();
        backlog.runs(3, 2, 1, &mut runs);
        let places: Vec<_> = runs.iter().map(|run| (run.index.0, run.skip, run.count)).collect();
        assert_eq!(places, [(3, 3, 1), (5, 0, 1)]);
    }
}
