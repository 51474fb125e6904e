//! Batches whose messages have all been settled and that are kept for readers. The oldest go first; when, is
//! decided in `holding`.

use std::collections::BTreeMap;

use super::backlog::Batch;
use crate::Millis;

/// Most batches kept, whatever the settings say: they are part of every checkpoint and snapshot.
pub const RETAINED_MAX: usize = 1 << 18;

/// How much later than its age a batch may go when nothing else happens, so that many of them cost one
/// tick. In milliseconds.
const SLACK_MS: u64 = 10_000;

/// What is kept, by offset. `remaining` is 0 in all of them.
#[derive(Debug, Default)]
pub(super) struct Retained {
    /// By first offset; they come in any order, and many at a time.
    batches: BTreeMap<u64, Batch>,
    messages: u64,
    bytes: u64,
}

impl Retained {
    /// How many batches there are.
    pub fn len(&self) -> usize {
        self.batches.len()
    }

    /// Messages kept.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Bytes kept.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All, by offset.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Batch> {
        self.batches.values()
    }

    /// From the one that holds `offset` on, or else from the first after it.
    pub fn from(&self, offset: u64) -> impl Iterator<Item = &Batch> {
        let before = self.batches.range(..offset).next_back().map(|(&first, _)| first);
        let batches = self.batches.range(before.unwrap_or(offset)..).map(|(_, batch)| batch);
        batches.skip_while(move |batch| batch.end() <= offset)
    }

    /// The first offset published at `time` or later: times go up with offsets. Looks at all before it.
    pub fn first_since(&self, time: Millis) -> Option<u64> {
        self.iter().find(|batch| batch.since >= time).map(|batch| batch.first)
    }

    /// Takes in a batch of which no message is left.
    pub fn insert(&mut self, batch: Batch) {
        self.messages += u64::from(batch.count);
        self.bytes += u64::from(batch.bytes);
        self.batches.insert(batch.first, batch);
    }

    /// Takes out the one that begins at `first`.
    pub fn remove(&mut self, first: u64) -> Option<Batch> {
        let batch = self.batches.remove(&first)?;
        self.messages -= u64::from(batch.count);
        self.bytes -= u64::from(batch.bytes);
        Some(batch)
    }

    /// The one with the lowest offsets.
    pub fn oldest(&self) -> Option<&Batch> {
        self.batches.first_key_value().map(|(_, batch)| batch)
    }

    /// Lets go of the oldest.
    pub fn pop_oldest(&mut self) -> Option<Batch> {
        let (&first, _) = self.batches.first_key_value()?;
        self.remove(first)
    }

    /// When the oldest is to go at the latest.
    pub fn next_deadline(&self, age_ms: Option<u64>) -> Option<Millis> {
        let (age, oldest) = (age_ms?, self.oldest()?);
        Some(oldest.since.plus(age).plus(SLACK_MS))
    }

    /// Lets go of all.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retained(firsts: &[u64]) -> Retained {
        let mut retained = Retained::default();
        for &first in firsts {
            let (since, count, bytes) = (Millis(first * 10), 2, 100);
            let batch =
                Batch { index: first, first, since, ordinal: 0, count, remaining: 0, bytes };
            retained.insert(batch);
        }
        retained
    }

    fn firsts(retained: &Retained) -> Vec<u64> {
        retained.iter().map(|batch| batch.first).collect()
    }

    #[test]
    fn batches_are_in_order_of_offset_whenever_they_come() {
        let retained = retained(&[4, 8, 0, 6]);
        assert_eq!(firsts(&retained), [0, 4, 6, 8]);
        let from = |offset| retained.from(offset).map(|batch| batch.first).collect::<Vec<_>>();
        assert_eq!(from(1), [0, 4, 6, 8]);
        assert_eq!(from(2), [4, 6, 8]);
        assert_eq!(from(9), [8]);
        assert_eq!(from(10), [0; 0]);
    }

    #[test]
    fn the_oldest_goes_first_and_says_when() {
        let mut retained = retained(&[2, 0, 4]);
        assert_eq!(retained.next_deadline(Some(50)), Some(Millis(50 + SLACK_MS)));
        assert_eq!(retained.pop_oldest().map(|batch| batch.first), Some(0));
        assert_eq!((retained.bytes(), retained.messages()), (200, 4));
        assert_eq!(retained.next_deadline(Some(50)), Some(Millis(70 + SLACK_MS)));
        assert_eq!(retained.next_deadline(None), None);
    }
}
