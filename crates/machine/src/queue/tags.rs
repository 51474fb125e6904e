//! What messages have in the header that consumers filter by, as a hash: their *tag*.
//!
//! One record a run of neighbours with one tag, from when they are published until they leave. Messages without the header
//! are not known here; where no queue filters, nothing is.

use std::collections::BTreeMap;

use crate::digest::digest;

/// The tag of messages that have `value` in the header `header`. It is part of what is persisted: the function must
/// never change. Two values share a tag with a probability of 2^-64.
#[must_use]
pub fn tag_of(header: &str, value: &[u8]) -> u64 {
    digest(&[header.as_bytes(), b"\0", value].concat())
}

/// All messages with a tag that are held and not dead.
#[derive(Debug, Default)]
pub(super) struct Tags {
    /// Count and tag, by first offset; neighbours differ.
    runs: BTreeMap<u64, (u64, u64)>,
}

impl Tags {
    /// Whether no message has one.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// First offset, count and tag of each run, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u64, u64, u64)> {
        self.runs.iter().map(|(&first, &(count, tag))| (first, count, tag))
    }

    /// The tag of a message, if it has one.
    pub fn of(&self, offset: u64) -> Option<u64> {
        let (&first, &(count, tag)) = self.runs.range(..=offset).next_back()?;
        (offset - first < count).then_some(tag)
    }

    /// Gives messages, of which none has one, a tag.
    pub fn insert(&mut self, mut first: u64, mut count: u64, tag: u64) {
        if let Some(&(after, of)) = self.runs.get(&(first + count))
            && of == tag
        {
            self.runs.remove(&(first + count));
            count += after;
        }
        if let Some((&before, &(length, of))) = self.runs.range(..first).next_back()
            && (before + length, of) == (first, tag)
        {
            first = before;
            count += length;
        }
        self.runs.insert(first, (count, tag));
    }

    /// Messages `from..to` have left.
    pub fn forget(&mut self, from: u64, to: u64) {
        let before = self.runs.range(..from).next_back().map(|(&first, _)| first);
        let firsts = before.into_iter().chain(self.runs.range(from..to).map(|(&first, _)| first));
        for first in firsts.collect::<Vec<u64>>() {
            let (count, tag) = self.runs[&first];
            let end = first + count;
            if end <= from {
                continue;
            }
            self.runs.remove(&first);
            let rests = [(first, from.min(end)), (first.max(to), end)];
            let rests = rests.into_iter().filter(|(a, b)| a < b);
            self.runs.extend(rests.map(|(a, b)| (a, (b - a, tag))));
        }
    }

    /// Messages `from..to` in parts that each have one tag, or none: first offset, count and tag.
    pub fn parts(&self, from: u64, to: u64) -> Vec<(u64, u64, Option<u64>)> {
        let before = self.runs.range(..from).next_back();
        let (mut parts, mut at) = (Vec::new(), from);
        for (&first, &(count, tag)) in before.into_iter().chain(self.runs.range(from..to)) {
            let (first, end) = (first.max(from), (first + count).min(to));
            if first >= end {
                continue;
            }
            parts.extend((at < first).then_some((at, first - at, None)));
            parts.push((first, end - first, Some(tag)));
            at = end;
        }
        parts.extend((at < to).then_some((at, to - at, None)));
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_with_one_tag_are_one_run() {
        let mut tags = Tags::default();
        tags.insert(4, 2, 7);
        tags.insert(8, 2, 7);
        tags.insert(10, 1, 9);
        tags.insert(6, 2, 7);
        assert_eq!(tags.iter().collect::<Vec<_>>(), [(4, 6, 7), (10, 1, 9)]);
        assert_eq!(
            [3, 4, 9, 10, 11].map(|at| tags.of(at)),
            [None, Some(7), Some(7), Some(9), None]
        );
    }

    #[test]
    fn what_leaves_is_forgotten_and_its_neighbours_are_not() {
        let mut tags = Tags::default();
        tags.insert(0, 10, 7);
        tags.insert(10, 2, 9);
        tags.forget(3, 5);
        tags.forget(9, 11);
        assert_eq!(tags.iter().collect::<Vec<_>>(), [(0, 3, 7), (5, 4, 7), (11, 1, 9)]);
        tags.forget(0, 100);
        assert!(tags.is_empty());
    }

    #[test]
    fn a_run_is_parted_where_its_tags_change() {
        let mut tags = Tags::default();
        tags.insert(2, 2, 7);
        tags.insert(4, 2, 9);
        let parts = [(1, 1, None), (2, 2, Some(7)), (4, 1, Some(9))];
        assert_eq!(tags.parts(1, 5), parts);
        assert_eq!(tags.parts(3, 8), [(3, 1, Some(7)), (4, 2, Some(9)), (6, 2, None)]);
        assert_eq!(tags.parts(6, 8), [(6, 2, None)]);
    }

    #[test]
    fn a_value_has_the_tag_that_it_has_in_existing_logs() {
        let tags = [("region", "eu"), ("region", ""), ("regio", "neu")];
        let tags = tags.map(|(header, value)| tag_of(header, value.as_bytes()));
        let known = [0x33ba_359b_384c_7db6, 0x2526_1f0e_65fd_ce0a, 0xe855_c89a_fe10_0f77];
        assert_eq!(tags, known);
    }
}
