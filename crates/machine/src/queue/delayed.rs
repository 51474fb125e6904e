//! Messages that must not be delivered before a time.

mod runs;

use std::collections::BTreeSet;

use self::runs::Runs;
use super::ready::Span;
use crate::Millis;

/// Runs beyond which no message is published that makes more of them: for later, with a time to live, a priority or a
/// group of its own. Each is in memory, and part of every checkpoint.
pub const DELAYED_MAX: u64 = 1 << 21;

/// Most runs that become ready in one step, so that a million that are due at once do not hold up everything else; the
/// rest is due still.
pub(super) const DUE_MAX: usize = 1 << 16;

/// Delayed runs.
#[derive(Debug, Default)]
pub(super) struct Delayed {
    /// When each is due, and what else it is, by first offset.
    runs: Runs,
    dues: BTreeSet<(Millis, u64)>,
    count: u64,
}

impl Delayed {
    /// How many are delayed.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// How many runs there are.
    pub fn runs(&self) -> usize {
        self.dues.len()
    }

    /// Delayed runs, in order of their offsets: a walk through memory as it lies.
    pub fn iter(&self) -> impl Iterator<Item = (Millis, Span)> {
        self.runs.iter()
    }

    /// The lowest offset.
    pub fn first(&self) -> Option<u64> {
        self.runs.iter().next().map(|(_, span)| span.first)
    }

    /// The run that a message is in, and when it is due.
    pub fn find(&self, offset: u64) -> Option<(Millis, Span)> {
        self.runs.up_to(offset).filter(|(_, span)| offset < span.end())
    }

    /// Holds messages back until `due`.
    pub fn insert(&mut self, due: Millis, mut span: Span) {
        self.count += span.count;
        let before = span.first.checked_sub(1).and_then(|before| self.runs.up_to(before));
        let after = self.runs.get(span.end());
        if let Some((_, after)) = after.filter(|after| are_one(&(due, span), after)) {
            self.remove(due, after.first);
            span.count += after.count;
        }
        if let Some((_, before)) = before.filter(|before| are_one(before, &(due, span))) {
            span = Span { first: before.first, count: before.count + span.count, ..span };
        }
        self.dues.insert((due, span.first));
        self.runs.insert(due, span);
    }

    /// Holds back a run as it is; its priority follows. False if there is one at its place.
    pub fn restore(&mut self, due: Millis, span: Span) -> bool {
        self.count += span.count;
        self.dues.insert((due, span.first));
        self.runs.insert(due, span)
    }

    /// Says which priority a restored run has. False if there is none that begins at `first`.
    pub fn set_priority(&mut self, first: u64, priority: u8) -> bool {
        self.runs.set_priority(first, priority)
    }

    /// Whether there are runs that should be one.
    pub fn is_divided(&self) -> bool {
        self.runs.iter().zip(self.runs.iter().skip(1)).any(|(run, after)| are_one(&run, &after))
    }

    fn remove(&mut self, due: Millis, first: u64) {
        self.dues.remove(&(due, first));
        self.runs.remove(first);
    }

    /// Takes a run that is due.
    pub fn pop_due(&mut self, now: Millis) -> Option<Span> {
        let &(due, first) = self.dues.first().filter(|(due, _)| *due <= now)?;
        self.dues.remove(&(due, first));
        let (_, span) = self.runs.remove(first)?;
        self.count -= span.count;
        Some(span)
    }

    /// Takes all within `from..to`.
    pub fn cut(&mut self, from: u64, to: u64, taken: &mut Vec<Span>) {
        for (due, span) in self.runs.overlapping(from, to) {
            self.remove(due, span.first);
            self.count -= span.count;
            let (within, rests) = span.cut(from, to);
            rests.into_iter().flatten().for_each(|rest| self.insert(due, rest));
            taken.push(within);
        }
    }

    /// Takes the message at `offset`, if it is here and has never been delivered, and says when it is due.
    pub fn take_never_delivered(&mut self, offset: u64) -> Option<(Millis, Span)> {
        let (due, _) = self.find(offset).filter(|(_, span)| span.attempts == 0)?;
        let mut taken = Vec::new();
        self.cut(offset, offset + 1, &mut taken);
        taken.pop().map(|span| (due, span))
    }

    /// When the next run is due.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.dues.first().map(|&(due, _)| due)
    }

    /// Drops all and says how many there were.
    pub fn clear(&mut self) -> u64 {
        std::mem::take(self).count
    }
}

/// Whether a run goes on with the one after it.
fn are_one(run: &(Millis, Span), after: &(Millis, Span)) -> bool {
    let kind = |&(due, span): &(Millis, Span)| (due, span.attempts, span.priority);
    run.1.end() == after.1.first && kind(run) == kind(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(first: u64, count: u64, priority: u8) -> Span {
        Span { first, count, attempts: 0, priority }
    }

    #[test]
    fn neighbours_of_one_time_and_priority_are_one_run_and_what_is_cut_out_leaves_both_sides() {
        let mut delayed = Delayed::default();
        for (due, first, priority) in [(9, 4, 0), (9, 0, 0), (9, 2, 0), (9, 6, 1), (8, 8, 1)] {
            delayed.insert(Millis(due), span(first, 2, priority));
        }
        let runs: Vec<_> = delayed.iter().map(|(_, span)| (span.first, span.count)).collect();
        assert_eq!(runs, [(0, 6), (6, 2), (8, 2)]);
        let mut taken = Vec::new();
        delayed.cut(1, 7, &mut taken);
        assert_eq!(taken, [span(1, 5, 0), span(6, 1, 1)]);
        assert_eq!((delayed.len(), delayed.first()), (4, Some(0)));
        assert_eq!(delayed.pop_due(Millis(8)), Some(span(8, 2, 1)));
        assert_eq!((delayed.pop_due(Millis(8)), delayed.next_deadline()), (None, Some(Millis(9))));
        assert_eq!(delayed.pop_due(Millis(9)), Some(span(0, 1, 0)));
        assert_eq!(delayed.pop_due(Millis(9)), Some(span(7, 1, 1)));
        assert_eq!((delayed.pop_due(Millis(9)), delayed.len()), (None, 0));
    }
}
