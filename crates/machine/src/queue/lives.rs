//! Messages with times of their own: until when each is worth delivering, and from when the queue's time to live
//! counts for those that were published for later.
//!
//! One record a run, from when it is published until it leaves. A record is found by offset, as messages leave in any
//! order, and by time. One whose time came while a consumer holds its messages has *lapsed*: nothing waits for its
//! time any more, since it is looked at when they are given back.

use std::collections::{BTreeMap, BTreeSet};

use crate::Millis;

/// Times of a run; at least one is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    /// Messages of the run, at least 1.
    pub count: u64,
    /// Not to be delivered from then on.
    pub expires: Option<Millis>,
    /// The queue's time to live counts from then on; only while the queue has one.
    pub due: Option<Millis>,
    /// One of its times has come while its messages were leased.
    pub lapsed: bool,
}

/// All records.
#[derive(Debug, Default)]
pub(super) struct Lives {
    /// By first offset; none overlap.
    runs: BTreeMap<u64, Life>,
    by_expires: BTreeSet<(Millis, u64)>,
    by_due: BTreeSet<(Millis, u64)>,
}

impl Lives {
    /// How many runs there are.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether no message has a time of its own.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// All, by first offset.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u64, Life)> {
        self.runs.iter().map(|(&first, &life)| (first, life))
    }

    /// Adds a record of messages that have none.
    pub fn insert(&mut self, first: u64, life: Life) {
        debug_assert!(life.count > 0 && (life.expires.is_some() || life.due.is_some()));
        if !life.lapsed {
            self.by_expires.extend(life.expires.map(|expires| (expires, first)));
            self.by_due.extend(life.due.map(|due| (due, first)));
        }
        self.runs.insert(first, life);
    }

    fn take(&mut self, first: u64) -> Option<Life> {
        let life = self.runs.remove(&first)?;
        if !life.lapsed {
            life.expires.map(|expires| self.by_expires.remove(&(expires, first)));
            life.due.map(|due| self.by_due.remove(&(due, first)));
        }
        Some(life)
    }

    /// The one that holds `offset`, or else the first after it.
    pub fn from(&self, offset: u64) -> Option<(u64, Life)> {
        let before = self.runs.range(..=offset).next_back();
        let covers = before.filter(|(first, life)| **first + life.count > offset);
        covers.or_else(|| self.runs.range(offset..).next()).map(|(&first, &life)| (first, life))
    }

    /// Takes what `from..to` has, cut out of its runs.
    fn cut(&mut self, from: u64, to: u64) -> Vec<(u64, Life)> {
        let mut taken = Vec::new();
        while let Some((first, life)) = self.from(from).filter(|(first, _)| *first < to) {
            self.take(first);
            let end = first + life.count;
            let (start, stop) = (first.max(from), end.min(to));
            let rests = [(first, start), (stop, end)].into_iter().filter(|(a, b)| a < b);
            rests.for_each(|(a, b)| self.insert(a, Life { count: b - a, ..life }));
            taken.push((start, Life { count: stop - start, ..life }));
        }
        taken
    }

    /// Messages `from..to` have left.
    pub fn forget(&mut self, from: u64, to: u64) {
        if !self.is_empty() {
            self.cut(from, to);
        }
    }

    /// Messages `from..to` have been given back in time: their times are waited for again.
    pub fn revive(&mut self, from: u64, to: u64) {
        let mut at = from;
        while let Some((first, life)) = self.from(at).filter(|(first, _)| *first < to) {
            at = first + life.count;
            if life.lapsed {
                for (first, life) in self.cut(first.max(from), at.min(to)) {
                    self.insert(first, Life { lapsed: false, ..life });
                }
            }
        }
    }

    /// The queue's time to live counts from `due` on for messages `from..to`.
    pub fn set_due(&mut self, from: u64, to: u64, due: Millis) {
        let mut at = from;
        for (first, life) in self.cut(from, to) {
            self.fill(at, first, due);
            self.insert(first, Life { due: Some(due), ..life });
            at = first + life.count;
        }
        self.fill(at, to, due);
    }

    fn fill(&mut self, from: u64, to: u64, due: Millis) {
        if from < to {
            let (expires, due) = (None, Some(due));
            self.insert(from, Life { count: to - from, expires, due, lapsed: false });
        }
    }

    /// The queue has no time to live any more.
    pub fn clear_dues(&mut self) {
        self.by_due.clear();
        self.runs.retain(|_, life| {
            life.due = None;
            life.expires.is_some()
        });
    }

    /// A run of which a time has come: its own, or one from which on `ttl_ms` have passed. It has lapsed then.
    pub fn pop(&mut self, now: Millis, ttl_ms: Option<u64>) -> Option<(u64, Life)> {
        let mut earliest = self.due_at(ttl_ms).into_iter().flatten();
        let (_, first) = earliest.find(|(time, _)| *time <= now)?;
        let life = Life { lapsed: true, ..self.take(first)? };
        self.insert(first, life);
        Some((first, life))
    }

    /// When the next time comes.
    pub fn next(&self, ttl_ms: Option<u64>) -> Option<Millis> {
        self.due_at(ttl_ms).into_iter().flatten().map(|(time, _)| time).min()
    }

    fn due_at(&self, ttl_ms: Option<u64>) -> [Option<(Millis, u64)>; 2] {
        let by_due = self.by_due.first().zip(ttl_ms);
        [
            self.by_expires.first().copied(),
            by_due.map(|(&(due, first), ttl_ms)| (due.plus(ttl_ms), first)),
        ]
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(count: u64, expires: u64) -> Life {
        Life { count, expires: Some(Millis(expires)), due: None, lapsed: false }
    }

    fn runs(lives: &Lives) -> Vec<(u64, u64, bool)> {
        lives.iter().map(|(first, life)| (first, life.count, life.lapsed)).collect()
    }

    #[test]
    fn what_leaves_is_not_waited_for_and_the_rest_is() {
        let mut lives = Lives::default();
        lives.insert(10, own(10, 50));
        lives.forget(0, 12);
        lives.forget(14, 15);
        lives.forget(30, 40);
        assert_eq!(runs(&lives), [(12, 2, false), (15, 5, false)]);
        assert_eq!(lives.pop(Millis(49), None), None);
        assert_eq!(lives.pop(Millis(50), None).map(|(first, _)| first), Some(12));
        assert_eq!(lives.pop(Millis(50), None).map(|(first, _)| first), Some(15));
        assert_eq!((lives.pop(Millis(50), None), lives.next(None)), (None, None));
    }

    #[test]
    fn what_is_given_back_in_time_is_waited_for_again() {
        let mut lives = Lives::default();
        lives.set_due(10, 20, Millis(100));
        assert_eq!(lives.next(Some(7)), Some(Millis(107)));
        assert!(lives.pop(Millis(107), Some(7)).is_some());
        assert_eq!(lives.next(Some(7)), None);
        lives.revive(13, 15);
        assert_eq!(runs(&lives), [(10, 3, true), (13, 2, false), (15, 5, true)]);
        assert_eq!(lives.next(Some(50)), Some(Millis(150)));
        lives.clear_dues();
        assert!(lives.is_empty());
    }

    #[test]
    fn a_due_time_is_added_to_the_runs_that_there_are_and_to_what_is_between() {
        let mut lives = Lives::default();
        lives.insert(2, own(2, 50));
        lives.insert(6, own(4, 60));
        lives.set_due(3, 8, Millis(40));
        let found: Vec<_> = lives.iter().map(|(first, life)| (first, life.count)).collect();
        assert_eq!(found, [(2, 1), (3, 1), (4, 2), (6, 2), (8, 2)]);
        assert_eq!(lives.next(Some(5)), Some(Millis(45)));
        lives.clear_dues();
        assert_eq!(runs(&lives).len(), 4);
    }
}
