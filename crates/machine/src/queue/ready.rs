//! Messages that wait for a consumer, lowest offset first.
//!
//! ```text
//!            returned: runs with their deliveries       never delivered: one range
//!   offsets ──[==]────[=]──────[=====]────────────────┤cursor ············ next├──►
//! ```
//!
//! All that is beyond the cursor is ready, so a backlog of any size is two numbers. All that comes
//! back lies before it, so "lowest first" is: the runs, then the range. Where a message is published that is not
//! ready yet, the cursor goes past it, and what was between them is a run like one that was returned.

use std::collections::BTreeMap;

/// Neighbouring messages that were delivered equally often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Offset of the first.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// Deliveries so far.
    pub attempts: u32,
}

impl Span {
    /// The offset after the last message.
    pub fn end(&self) -> u64 {
        self.first + self.count
    }
}

/// The ready messages.
#[derive(Debug, Default)]
pub(super) struct Ready {
    cursor: u64,
    next: u64,
    /// Count and deliveries of each run, by first offset.
    returned: BTreeMap<u64, (u64, u32)>,
    returned_count: u64,
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

    /// Returned runs, in order.
    pub fn returned(&self) -> impl ExactSizeIterator<Item = Span> {
        self.returned.iter().map(|(&first, &(count, attempts))| Span { first, count, attempts })
    }

    /// Adds new messages.
    pub fn append(&mut self, count: u32) {
        self.next = self.next.checked_add(count.into()).expect("offsets do not reach 2^64");
    }

    /// Gives new messages their offsets, the first of which it tells, without their being ready.
    pub fn pass_over(&mut self, count: u32) -> u64 {
        let (before, first) = (self.cursor, self.next);
        self.append(count);
        self.cursor = self.next;
        if before < first {
            self.give_back(Span { first: before, count: first - before, attempts: 0 });
        }
        first
    }

    /// Puts messages back to their place.
    pub fn give_back(&mut self, span: Span) {
        debug_assert!(span.end() <= self.cursor);
        self.returned_count += span.count;
        let (mut first, mut count) = (span.first, span.count);
        if let Some((&before, run)) = self.returned.range(..first).next_back()
            && before + run.0 == first
            && run.1 == span.attempts
        {
            first = before;
            count += run.0;
        }
        if let Some(&(after, attempts)) = self.returned.get(&span.end())
            && attempts == span.attempts
        {
            self.returned.remove(&span.end());
            count += after;
        }
        self.returned.insert(first, (count, span.attempts));
    }

    /// Takes the lowest run, and of it at most `max` messages.
    pub fn take(&mut self, max: u64) -> Option<Span> {
        let Some(lowest) = self.returned.first_entry() else {
            return self.take_fresh(max);
        };
        let (first, (count, attempts)) = (*lowest.key(), *lowest.get());
        lowest.remove();
        let taken = count.min(max);
        if taken < count {
            self.returned.insert(first + taken, (count - taken, attempts));
        }
        self.returned_count -= taken;
        Some(Span { first, count: taken, attempts })
    }

    fn take_fresh(&mut self, max: u64) -> Option<Span> {
        let (first, count) = (self.cursor, self.fresh().min(max));
        self.cursor += count;
        (count > 0).then_some(Span { first, count, attempts: 0 })
    }

    /// Takes the lowest run of messages before `before`, or the part of it that is.
    pub fn take_before(&mut self, before: u64) -> Option<Span> {
        let lowest = self.returned.first_key_value().map_or(self.cursor, |(&first, _)| first);
        let max = before.checked_sub(lowest).filter(|&max| max > 0)?;
        self.take(max)
    }

    /// Drops all and says how many there were.
    pub fn clear(&mut self) -> u64 {
        let count = self.len();
        *self = Self::new(self.next, self.next);
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(first: u64, count: u64, attempts: u32) -> Span {
        Span { first, count, attempts }
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

    #[test]
    fn what_is_before_an_offset_is_taken_run_by_run() {
        let mut ready = Ready::new(10, 20);
        ready.give_back(span(2, 2, 1));
        ready.give_back(span(6, 3, 2));
        assert_eq!(ready.take_before(2), None);
        assert_eq!(ready.take_before(3), Some(span(2, 1, 1)));
        assert_eq!(ready.take_before(3), None);
        let taken: Vec<Span> = std::iter::from_fn(|| ready.take_before(14)).collect();
        assert_eq!(taken, [span(3, 1, 1), span(6, 3, 2), span(10, 4, 0)]);
        assert_eq!((ready.len(), ready.take_before(99)), (6, Some(span(14, 6, 0))));
    }
}
