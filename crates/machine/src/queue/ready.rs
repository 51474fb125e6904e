//! Messages that wait for a consumer: highest priority first, of those the lowest offset.
//!
//! ```text
//!   priority 9 ──[=]───────────[==]──────────────
//!   ...                                              never delivered: one range
//!   priority 0 ──[==]────[=]──────[=====]────────────────┤cursor ············ next├──► offsets
//!                returned: runs with their deliveries
//! ```
//!
//! All that is beyond the cursor is ready, and has no priority, so a backlog of any size is two numbers. All that comes
//! back lies before it, so "lowest first" is: the runs, then the range. Where a message is published that is not
//! ready yet, or has a priority or a tag, the cursor goes past it, and what was between them is a run like one that was
//! returned. No run goes over messages of different tags, and those with one are also found by it: that is how a consumer
//! with a filter is handed what it wants without a look at the rest.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::tags::Tags;
use crate::planted::{self, Bug};

/// Neighbouring messages that were delivered equally often, and have one priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Offset of the first.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// Deliveries so far.
    pub attempts: u32,
    /// 0 to 9.
    pub priority: u8,
}

impl Span {
    /// The offset after the last message.
    pub fn end(&self) -> u64 {
        self.first + self.count
    }

    /// The part of it within `from..to`, which it overlaps, and what is left of it before and after.
    pub fn cut(self, from: u64, to: u64) -> (Self, [Option<Self>; 2]) {
        let part = |a: u64, b: u64| (a < b).then(|| Self { first: a, count: b - a, ..self });
        let (a, b) = (self.first.max(from), self.end().min(to));
        let within = part(a, b).expect("it overlaps what is cut");
        (within, [part(self.first, a), part(b, self.end())])
    }
}

/// Count and deliveries of runs of one priority, by first offset.
type Runs = BTreeMap<u64, (u64, u32)>;

/// The ready messages.
#[derive(Debug, Default)]
pub(super) struct Ready {
    cursor: u64,
    next: u64,
    /// Runs without a priority.
    returned: Runs,
    /// Runs with a priority, by it; there are some of each.
    urgent: BTreeMap<u8, Runs>,
    /// Messages of all runs.
    returned_count: u64,
    /// Tags of messages, wherever they are held.
    pub tags: Tags,
    /// Where runs with a tag begin: by tag, and of each in the order of handing out.
    by_tag: BTreeSet<(u64, Reverse<u8>, u64)>,
}

impl Ready {
    /// The state with nothing returned.
    pub fn new(cursor: u64, next: u64) -> Self {
        Self { cursor, next, ..Self::default() }
    }

    /// How many are ready.
    pub fn len(&self) -> u64 {
        self.fresh() + self.returned_count
    }

    /// How many are beyond the cursor.
    pub fn fresh(&self) -> u64 {
        self.next - self.cursor
    }

    /// The first offset after which all are ready, and have never been delivered.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The offset that the next message will have; as offsets are dense, also how many there were.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Runs without a priority, in order.
    pub fn returned(&self) -> impl ExactSizeIterator<Item = Span> {
        spans(&self.returned, 0)
    }

    /// Runs with a priority: the lowest first, of each in order.
    pub fn urgent(&self) -> impl Iterator<Item = Span> {
        self.urgent.iter().flat_map(|(&priority, runs)| spans(runs, priority))
    }

    /// How many runs there are.
    pub fn runs(&self) -> usize {
        self.returned.len() + self.urgent.values().map(BTreeMap::len).sum::<usize>()
    }

    /// The lowest offset before the cursor.
    pub fn first_returned(&self) -> Option<u64> {
        let all = std::iter::once(&self.returned).chain(self.urgent.values());
        all.filter_map(|runs| runs.first_key_value()).map(|(&first, _)| first).min()
    }

    /// All that are before `to`, in no order.
    pub fn before(&self, to: u64) -> impl Iterator<Item = Span> {
        let (first, end) = (self.cursor, to.min(self.next));
        let fresh =
            (first < end).then(|| Span { first, count: end - first, attempts: 0, priority: 0 });
        let runs = self.returned().chain(self.urgent()).filter(move |span| span.first < to);
        runs.map(move |span| span.cut(0, to).0).chain(fresh)
    }

    /// All runs, the one first that is delivered last: that is, the lowest priority first, but of each in order.
    pub fn by_worth(&self) -> impl Iterator<Item = Span> {
        let (first, count) = (self.cursor, self.fresh());
        let fresh = (count > 0).then_some(Span { first, count, attempts: 0, priority: 0 });
        self.returned().chain(fresh).chain(self.urgent())
    }

    /// The run that a message is in, if it is ready; how many are delivered before it, and of those how many of a higher
    /// priority.
    pub fn find(&self, offset: u64) -> Option<(Span, u64, u64)> {
        let span = self.by_worth().find(|span| (span.first..span.end()).contains(&offset))?;
        let (mut by_priority, mut before) = (0, offset - span.first);
        for other in self.by_worth() {
            if other.priority > span.priority {
                by_priority += other.count;
            } else if other.priority == span.priority && other.first < span.first {
                before += other.count;
            }
        }
        Some((span, by_priority + before, by_priority))
    }

    /// Adds new messages.
    pub fn append(&mut self, count: u32) {
        self.next = self.next.checked_add(count.into()).expect("offsets do not reach 2^64");
    }

    /// Gives new messages their offsets, the first of which it tells, without their being ready.
    pub fn pass_over(&mut self, count: u32) -> u64 {
        let first = self.next;
        self.append(count);
        self.pass(first, self.next);
        first
    }

    /// Moves the cursor to `end`, so that what is before `first` is a run.
    fn pass(&mut self, first: u64, end: u64) {
        let before = std::mem::replace(&mut self.cursor, end);
        if before < first {
            let count = first - before;
            self.give_back(Span { first: before, count, attempts: 0, priority: 0 });
        }
    }

    /// Puts messages back to their place.
    pub fn give_back(&mut self, span: Span) {
        debug_assert!(span.end() <= self.cursor);
        if self.tags.is_empty() {
            return self.insert(span, None);
        }
        for (first, count, tag) in self.tags.parts(span.first, span.end()) {
            self.insert(Span { first, count, ..span }, tag);
        }
    }

    /// Puts messages of one tag to their place.
    fn insert(&mut self, span: Span, tag: Option<u64>) {
        self.returned_count += span.count;
        let Self { returned, urgent, tags, by_tag, .. } = self;
        let runs = match span.priority {
            0 => returned,
            priority => urgent.entry(priority).or_default(),
        };
        let (mut first, mut count) = (span.first, span.count);
        if let Some((&before, run)) = runs.range(..first).next_back()
            && before + run.0 == first
            && run.1 == span.attempts
            && tags.of(before) == tag
        {
            first = before;
            count += run.0;
        }
        let place = |first| tag.map(|tag| (tag, Reverse(span.priority), first));
        if let Some(&(after, attempts)) = runs.get(&span.end())
            && attempts == span.attempts
            && tags.of(span.end()) == tag
        {
            runs.remove(&span.end());
            place(span.end()).map(|place| by_tag.remove(&place));
            count += after;
        }
        runs.insert(first, (count, span.attempts));
        by_tag.extend(place(first));
    }

    /// Puts a run to its place as it is; its priority follows.
    pub fn restore(&mut self, span: Span) {
        self.returned_count += span.count;
        self.returned.insert(span.first, (span.count, span.attempts));
    }

    /// Says which priority a restored run has. False if there is none that begins at `first`.
    pub fn set_priority(&mut self, first: u64, priority: u8) -> bool {
        let run = self.returned.remove(&first);
        let class = run.map(|run| (run, self.urgent.entry(priority).or_default()));
        class.map(|(run, class)| class.insert(first, run)).is_some()
    }

    /// Has the runs found by tag, once all that was restored of them has its tag and priority.
    pub fn index_by_tag(&mut self) {
        self.by_tag = self.places_by_tag();
    }

    fn places_by_tag(&self) -> BTreeSet<(u64, Reverse<u8>, u64)> {
        if self.tags.is_empty() {
            return BTreeSet::new();
        }
        let runs = self.returned().chain(self.urgent());
        let place = |run: Span| Some((self.tags.of(run.first)?, Reverse(run.priority), run.first));
        runs.filter_map(place).collect()
    }

    /// Whether no run goes over messages of different tags, and those with one are found by it.
    pub fn is_parted_by_tag(&self) -> bool {
        let is_of_one = |run: Span| self.tags.parts(run.first, run.end()).len() == 1;
        let fresh = self.tags.parts(self.cursor, self.next);
        self.returned().chain(self.urgent()).all(is_of_one)
            && fresh.iter().all(|(_, _, tag)| tag.is_none())
            && self.by_tag == self.places_by_tag()
    }

    /// Whether there are runs that should be one.
    pub fn is_divided(&self) -> bool {
        let mut all = std::iter::once(&self.returned).chain(self.urgent.values());
        let is_one = |(run, next): (Span, Span)| {
            run.end() == next.first
                && run.attempts == next.attempts
                && self.tags.of(run.first) == self.tags.of(next.first)
        };
        all.any(|runs| spans(runs, 0).zip(spans(runs, 0).skip(1)).any(is_one))
    }

    /// Takes the lowest run of the highest priority, and of it at most `max` messages.
    pub fn take(&mut self, max: u64) -> Option<Span> {
        match self.urgent.last_key_value() {
            _ if planted::is(Bug::IgnorePriority) => self.take_least(max),
            None => self.take_plain(max),
            Some((&priority, _)) => self.take_urgent(priority, max),
        }
    }

    /// Takes the lowest run of the lowest priority, and of it at most `max` messages.
    pub fn take_least(&mut self, max: u64) -> Option<Span> {
        self.take_plain(max).or_else(|| {
            let (&priority, _) = self.urgent.first_key_value()?;
            self.take_urgent(priority, max)
        })
    }

    /// Whether a message is ready that has any tag.
    pub fn has_tagged(&self) -> bool {
        !self.by_tag.is_empty()
    }

    /// Priority and first offset of the first run of a tag.
    fn first_of(&self, tag: u64) -> Option<(Reverse<u8>, u64)> {
        let &(of, priority, first) = self.by_tag.range((tag, Reverse(u8::MAX), 0)..).next()?;
        (of == tag).then_some((priority, first))
    }

    /// Takes the lowest run of the highest priority among those of these tags, and of it at most `max` messages.
    pub fn take_of(&mut self, tags: &[u64], max: u64) -> Option<Span> {
        let firsts = tags.iter().filter_map(|&tag| self.first_of(tag));
        let (Reverse(priority), first) = firsts.min()?;
        let runs = match priority {
            0 => &mut self.returned,
            priority => self.urgent.get_mut(&priority)?,
        };
        let (count, attempts) = take_at(runs, first, max)?;
        Some(self.taken(Span { first, count, attempts, priority }))
    }

    fn take_urgent(&mut self, priority: u8, max: u64) -> Option<Span> {
        let runs = self.urgent.get_mut(&priority)?;
        let (&first, _) = runs.first_key_value()?;
        let (count, attempts) = take_at(runs, first, max)?;
        Some(self.taken(Span { first, count, attempts, priority }))
    }

    /// The first messages of a run were taken.
    fn taken(&mut self, span: Span) -> Span {
        self.returned_count -= span.count;
        self.tidy(span);
        span
    }

    /// Messages of a run were taken: no class is empty, and what is left behind them is found by its tag.
    fn tidy(&mut self, span: Span) {
        let Self { returned, urgent, tags, by_tag, .. } = self;
        if !by_tag.is_empty()
            && let Some(tag) = tags.of(span.first)
        {
            let runs =
                if span.priority == 0 { Some(&*returned) } else { urgent.get(&span.priority) };
            let is_left = runs.is_some_and(|runs| runs.contains_key(&span.end()));
            by_tag.remove(&(tag, Reverse(span.priority), span.first));
            if is_left && tags.of(span.end()) == Some(tag) {
                by_tag.insert((tag, Reverse(span.priority), span.end()));
            }
        }
        if span.priority > 0 && urgent.get(&span.priority).is_some_and(BTreeMap::is_empty) {
            urgent.remove(&span.priority);
        }
    }

    fn take_plain(&mut self, max: u64) -> Option<Span> {
        let Some((&first, _)) = self.returned.first_key_value() else {
            return self.take_fresh(max);
        };
        let (count, attempts) = take_at(&mut self.returned, first, max)?;
        Some(self.taken(Span { first, count, attempts, priority: 0 }))
    }

    fn take_fresh(&mut self, max: u64) -> Option<Span> {
        let (first, count) = (self.cursor, self.fresh().min(max));
        self.cursor += count;
        (count > 0).then_some(Span { first, count, attempts: 0, priority: 0 })
    }

    /// Takes all within `from..to`.
    pub fn cut(&mut self, from: u64, to: u64, taken: &mut Vec<Span>) {
        let before = taken.len();
        cut_runs(&mut self.returned, 0, from, to, taken);
        for (&priority, runs) in &mut self.urgent {
            cut_runs(runs, priority, from, to, taken);
        }
        self.returned_count -= taken[before..].iter().map(|span| span.count).sum::<u64>();
        taken[before..].iter().for_each(|&span| self.tidy(span));
        let (first, end) = (from.max(self.cursor), to.min(self.next));
        if first < end {
            self.pass(first, end);
            taken.push(Span { first, count: end - first, attempts: 0, priority: 0 });
        }
    }

    /// Drops all and says how many there were.
    pub fn clear(&mut self) -> u64 {
        let count = self.len();
        *self = Self::new(self.next, self.next);
        count
    }
}

fn spans(runs: &Runs, priority: u8) -> impl ExactSizeIterator<Item = Span> {
    runs.iter().map(move |(&first, &(count, attempts))| Span { first, count, attempts, priority })
}

/// Takes at most `max` messages of the run at `first`: how many, and their deliveries.
fn take_at(runs: &mut Runs, first: u64, max: u64) -> Option<(u64, u32)> {
    let (count, attempts) = runs.remove(&first)?;
    let taken = count.min(max);
    if taken < count {
        runs.insert(first + taken, (count - taken, attempts));
    }
    Some((taken, attempts))
}

/// Takes what is within `from..to`.
fn cut_runs(runs: &mut Runs, priority: u8, from: u64, to: u64, taken: &mut Vec<Span>) {
    let before = runs.range(..from).next_back().filter(|(first, run)| **first + run.0 > from);
    let firsts = before.into_iter().chain(runs.range(from..to)).map(|(&first, _)| first);
    for first in firsts.collect::<Vec<u64>>() {
        let (count, attempts) = runs.remove(&first).expect("it was found before");
        let (within, rests) = Span { first, count, attempts, priority }.cut(from, to);
        let rests = rests.into_iter().flatten();
        runs.extend(rests.map(|rest| (rest.first, (rest.count, attempts))));
        taken.push(within);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(first: u64, count: u64, attempts: u32) -> Span {
        Span { first, count, attempts, priority: 0 }
    }

    #[test]
    fn returned_messages_come_before_new_ones() {
        let mut ready = Ready::default();
        ready.append(10);
        assert_eq!(ready.take(4), Some(span(0, 4, 0)));
        ready.give_back(span(2, 1, 1));
        assert_eq!(ready.take(5), Some(span(2, 1, 1)));
        assert_eq!(ready.take(5), Some(span(4, 5, 0)));
        assert_eq!(ready.take(5), Some(span(9, 1, 0)));
        assert_eq!(ready.take(5), None);
    }

    #[test]
    fn what_is_not_ready_is_passed_over() {
        let mut ready = Ready::default();
        ready.append(3);
        assert_eq!(ready.take(1), Some(span(0, 1, 0)));
        assert_eq!((ready.pass_over(2), ready.len()), (3, 2));
        assert_eq!((ready.pass_over(1), ready.len()), (5, 2));
        ready.append(1);
        ready.give_back(span(3, 2, 0));
        assert_eq!(ready.take(9), Some(span(1, 4, 0)));
        assert_eq!(ready.take(9), Some(span(6, 1, 0)));
    }

    #[test]
    fn neighbours_with_equal_deliveries_become_one_run() {
        let mut ready = Ready::new(10, 10);
        for first in [0, 4, 2] {
            ready.give_back(span(first, 2, 1));
        }
        ready.give_back(span(6, 1, 2));
        assert_eq!(ready.returned().collect::<Vec<_>>(), [span(0, 6, 1), span(6, 1, 2)]);
        assert_eq!(ready.len(), 7);
    }

    fn urgent(first: u64, count: u64, priority: u8) -> Span {
        Span { first, count, attempts: 0, priority }
    }

    #[test]
    fn the_highest_priority_comes_first_and_makes_room_last() {
        let mut ready = Ready::default();
        ready.append(2);
        for priority in [9, 1, 9] {
            let first = ready.pass_over(1);
            ready.give_back(urgent(first, 1, priority));
        }
        ready.append(2);
        assert_eq!((ready.len(), ready.cursor(), ready.runs()), (7, 5, 4));
        let worth: Vec<u64> = ready.by_worth().map(|span| span.first).collect();
        assert_eq!(worth, [0, 5, 3, 2, 4]);
        assert_eq!(ready.take(9), Some(urgent(2, 1, 9)));
        assert_eq!(ready.take(9), Some(urgent(4, 1, 9)));
        assert_eq!(ready.take_least(1), Some(span(0, 1, 0)));
        assert_eq!(ready.take(9), Some(urgent(3, 1, 1)));
        assert_eq!(ready.take(9), Some(span(1, 1, 0)));
        assert_eq!(ready.take_least(9), Some(span(5, 2, 0)));
        assert_eq!((ready.take_least(9), ready.len(), ready.runs()), (None, 0, 0));
    }

    #[test]
    fn what_is_cut_out_leaves_both_sides() {
        let mut ready = Ready::new(10, 20);
        ready.give_back(span(0, 10, 1));
        let mut taken = Vec::new();
        ready.cut(4, 6, &mut taken);
        ready.cut(8, 12, &mut taken);
        ready.cut(15, 16, &mut taken);
        assert_eq!(taken, [span(4, 2, 1), span(8, 2, 1), span(10, 2, 0), span(15, 1, 0)]);
        assert_eq!((ready.len(), ready.cursor()), (13, 16));
        let left: Vec<Span> = ready.returned().collect();
        assert_eq!(left, [span(0, 4, 1), span(6, 2, 1), span(12, 3, 0)]);
    }
}
