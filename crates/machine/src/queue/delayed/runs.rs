//! Delayed runs by their first offset: 24 bytes a run, for there may be millions.
//!
//! ```text
//!   runs that begin within    0..64      64..128     256..320      (none begin between)
//!                            [=|=|=]     [=]         [==|=]
//! ```
//! Runs lie in blocks by where they begin. Within its block a run needs one byte for that, and those of messages that were
//! published one after the other, each with a time of its own, fill their block: a tree with a node for a few runs, half
//! of them empty as runs come in order, takes three times as much.

use std::collections::BTreeMap;

use super::super::ready::Span;
use crate::Millis;

/// Offsets at which the runs of one block may begin; at most 256.
const BLOCK: u64 = 64;

/// A run, as it lies in its block.
#[derive(Clone, Copy, Debug)]
struct Run {
    due: Millis,
    count: u64,
    attempts: u32,
    priority: u8,
    /// Its first offset, from the beginning of the block.
    at: u8,
}

impl Run {
    fn new(due: Millis, Span { first, count, attempts, priority }: Span) -> Self {
        Self { due, count, attempts, priority, at: (first % BLOCK) as u8 }
    }

    fn span(&self, block: u64) -> (Millis, Span) {
        let &Self { due, count, attempts, priority, at } = self;
        (due, Span { first: block * BLOCK + u64::from(at), count, attempts, priority })
    }
}

/// When each run is due, and what else it is.
#[derive(Debug, Default)]
pub(super) struct Runs {
    /// In order within a block; none is empty.
    blocks: BTreeMap<u64, Vec<Run>>,
}

impl Runs {
    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Millis, Span)> {
        self.blocks.iter().flat_map(|(&block, runs)| runs.iter().map(move |run| run.span(block)))
    }

    /// The one that begins at `first`.
    pub fn get(&self, first: u64) -> Option<(Millis, Span)> {
        let (block, at) = place(first);
        let runs = self.blocks.get(&block)?;
        search(runs, at).ok().map(|place| runs[place].span(block))
    }

    /// The last one that begins at `offset` or before it.
    pub fn up_to(&self, offset: u64) -> Option<(Millis, Span)> {
        let (block, at) = place(offset);
        self.blocks.range(..=block).rev().take(2).find_map(|(&found, runs)| {
            let before =
                if found < block { runs.len() } else { runs.partition_point(|run| run.at <= at) };
            runs[..before].last().map(|run| run.span(found))
        })
    }

    /// Those that overlap `from..to`, if none overlap each other.
    pub fn overlapping(&self, from: u64, to: u64) -> Vec<(Millis, Span)> {
        if from >= to {
            return Vec::new();
        }
        let before = from.checked_sub(1).and_then(|before| self.up_to(before));
        let before = before.filter(|(_, span)| span.end() > from);
        let blocks = self.blocks.range(place(from).0..=place(to - 1).0);
        let runs = blocks.flat_map(|(&block, runs)| runs.iter().map(move |run| run.span(block)));
        before
            .into_iter()
            .chain(runs.filter(|(_, span)| (from..to).contains(&span.first)))
            .collect()
    }

    /// Adds a run, in place of the one that begins where it does. False if there was one.
    pub fn insert(&mut self, due: Millis, span: Span) -> bool {
        let (block, at) = place(span.first);
        let (runs, run) = (self.blocks.entry(block).or_default(), Run::new(due, span));
        match search(runs, at) {
            Ok(place) => runs[place] = run,
            Err(place) => {
                runs.insert(place, run);
                return true;
            }
        }
        false
    }

    /// Takes the one that begins at `first`.
    pub fn remove(&mut self, first: u64) -> Option<(Millis, Span)> {
        let (block, at) = place(first);
        let runs = self.blocks.get_mut(&block)?;
        let run = runs.remove(search(runs, at).ok()?);
        if runs.is_empty() {
            self.blocks.remove(&block);
        } else if runs.len() < runs.capacity() / 4 {
            runs.shrink_to(runs.len() * 2);
        }
        Some(run.span(block))
    }

    /// Gives the one that begins at `first` another priority. False if there is none.
    pub fn set_priority(&mut self, first: u64, priority: u8) -> bool {
        let (block, at) = place(first);
        let run = self.blocks.get_mut(&block).and_then(|runs| {
            let place = search(runs, at).ok()?;
            runs.get_mut(place)
        });
        run.map(|run| run.priority = priority).is_some()
    }
}

/// The block of runs that begin at `first`, and where in it.
fn place(first: u64) -> (u64, u8) {
    (first / BLOCK, (first % BLOCK) as u8)
}

/// Where in a block the run that begins at `at` is, or belongs. As no two begin at one offset, a run has at most `at` of
/// them before it, and after it no more than there are offsets: in a full block that is one place.
fn search(runs: &[Run], at: u8) -> Result<usize, usize> {
    let (at_most, missing) = (usize::from(at), BLOCK as usize - runs.len());
    let to = runs.len().min(at_most + 1);
    let from = at_most.saturating_sub(missing).min(to);
    let found = runs[from..to].binary_search_by_key(&at, |run| run.at);
    found.map(|place| from + place).map_err(|place| from + place)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(due: u64, first: u64, count: u64, priority: u8) -> (Millis, Span) {
        (Millis(due), Span { first, count, attempts: first as u32 % 3, priority })
    }

    /// What a million of them take in memory is a promise: see `docs/PERFORMANCE.md`.
    #[test]
    fn runs_that_come_one_after_the_other_take_24_bytes_each_and_so_many_less_once_they_are_gone() {
        assert_eq!(size_of::<Run>(), 24);
        const MANY: u64 = 1_000 * BLOCK;
        let mut runs = Runs::default();
        for first in 0..MANY {
            runs.insert(Millis(first), run(first, first, 1, 0).1);
        }
        let room = |runs: &Runs| runs.blocks.values().map(Vec::capacity).sum::<usize>() as u64;
        assert_eq!((runs.blocks.len() as u64, room(&runs)), (MANY / BLOCK, MANY));
        // Those that are left lie far apart.
        for first in (0..MANY).filter(|first| first % BLOCK != 7) {
            assert!(runs.remove(first).is_some());
        }
        assert!(room(&runs) <= 4 * (MANY / BLOCK), "{}", room(&runs));
        (0..MANY).for_each(|first| assert_eq!(runs.remove(first).is_some(), first % BLOCK == 7));
        assert!(runs.blocks.is_empty());
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Insert(u64, u64, u64, u8),
        Remove(u64),
        Priority(u64, u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        // Some far from the others, so that blocks are missing in between.
        let first = prop_oneof![0..5 * BLOCK, 100 * BLOCK..102 * BLOCK];
        prop_oneof![
            3 => (1..9u64, first.clone(), 1..100u64, 0..3u8)
                .prop_map(|(due, first, count, priority)| Step::Insert(due, first, count, priority)),
            1 => first.clone().prop_map(Step::Remove),
            1 => (first, 0..3u8).prop_map(|(first, priority)| Step::Priority(first, priority)),
        ]
    }

    proptest! {
        #[test]
        fn they_are_a_map_by_first_offset(steps in proptest::collection::vec(step(), 0..200), at in 0..103 * BLOCK, length in 0..3 * BLOCK) {
            let (mut runs, mut model) = (Runs::default(), BTreeMap::<u64, (Millis, Span)>::new());
            for step in steps {
                match step {
                    Step::Insert(due, first, count, priority) => {
                        let (due, span) = run(due, first, count, priority);
                        let is_new = model.insert(first, (due, span)).is_none();
                        prop_assert_eq!(runs.insert(due, span), is_new);
                    }
                    Step::Remove(first) => prop_assert_eq!(runs.remove(first), model.remove(&first)),
                    Step::Priority(first, priority) => {
                        let found = model.get_mut(&first).map(|(_, span)| span.priority = priority);
                        prop_assert_eq!(runs.set_priority(first, priority), found.is_some());
                    }
                }
            }
            prop_assert!(runs.iter().eq(model.values().copied()));
            for at in [at % (6 * BLOCK), at] {
                prop_assert_eq!(runs.get(at), model.get(&at).copied());
                let last = model.range(..=at).next_back().map(|(_, run)| *run);
                prop_assert_eq!(runs.up_to(at), last);
                let to = at + length;
                let before = model.range(..at).next_back().filter(|(_, run)| run.1.end() > at && at < to);
                let within: Vec<_> = before.into_iter().chain(model.range(at..to)).map(|(_, run)| *run).collect();
                prop_assert_eq!(runs.overlapping(at, to), within);
            }
        }
    }
}
