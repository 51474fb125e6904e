//! Messages that must not be delivered before a time.

use std::collections::BTreeMap;

use super::ready::Span;
use crate::Millis;

/// Runs beyond which no message is published for later: each is part of every checkpoint, and of the one message of at
/// most 64 MiB that a snapshot's state is sent as.
pub const DELAYED_MAX: u64 = 1 << 21;

/// Most runs that become ready in one step, so that a million that are due at once do not hold up everything else; the
/// rest is due still.
pub(super) const DUE_MAX: usize = 1 << 16;

/// Delayed runs, by the time when they are due.
#[derive(Debug, Default)]
pub(super) struct Delayed {
    /// Count and deliveries of each run, by due time and first offset.
    runs: BTreeMap<(Millis, u64), (u64, u32)>,
    count: u64,
}

impl Delayed {
    /// How many are delayed.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Delayed runs, in order of their due times.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Millis, Span)> {
        self.runs
            .iter()
            .map(|(&(due, first), &(count, attempts))| (due, Span { first, count, attempts }))
    }

    /// Holds messages back until `due`.
    pub fn insert(&mut self, due: Millis, span: Span) {
        self.count += span.count;
        let (mut first, mut count) = (span.first, span.count);
        if let Some((&(_, before), run)) = self.runs.range((due, 0)..(due, first)).next_back()
            && before + run.0 == first
            && run.1 == span.attempts
        {
            first = before;
            count += run.0;
        }
        if let Some(&(after, attempts)) = self.runs.get(&(due, span.end()))
            && attempts == span.attempts
        {
            self.runs.remove(&(due, span.end()));
            count += after;
        }
        self.runs.insert((due, first), (count, span.attempts));
    }

    /// Takes a run that is due.
    pub fn pop_due(&mut self, now: Millis) -> Option<Span> {
        let earliest = self.runs.first_entry()?;
        let (due, first) = *earliest.key();
        if due > now {
            return None;
        }
        let (count, attempts) = earliest.remove();
        self.count -= count;
        Some(Span { first, count, attempts })
    }

    /// Takes all messages before `before`, run by run.
    pub fn take_before(&mut self, before: u64) -> Vec<Span> {
        let mut taken = Vec::new();
        let mut rest = Vec::new();
        self.runs.retain(|&(due, first), &mut (count, attempts)| {
            let within = before.saturating_sub(first).min(count);
            if within == 0 {
                return true;
            }
            taken.push(Span { first, count: within, attempts });
            if within < count {
                rest.push(((due, first + within), (count - within, attempts)));
            }
            false
        });
        self.runs.extend(rest);
        self.count -= taken.iter().map(|span| span.count).sum::<u64>();
        taken
    }

    /// When the next run is due.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.runs.first_key_value().map(|(&(due, _), _)| due)
    }

    /// Drops all and says how many there were.
    pub fn clear(&mut self) -> u64 {
        std::mem::take(self).count
    }
}
