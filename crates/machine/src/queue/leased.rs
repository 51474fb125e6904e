//! Messages that a consumer has been handed, and until when it may keep them.
//!
//! A lease covers a run of messages that one entry granted to one session. It is cut when a part
//! of it is settled; so what is settled as it was granted costs one record, whatever its length.

use std::collections::{BTreeMap, BTreeSet};

use super::ids::{Session, Token};
use super::ready::Span;
use crate::Millis;

/// A lease; its session and first offset are its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    /// Messages that it covers, at least 1.
    pub count: u32,
    /// Which delivery it is, from 1.
    pub attempt: u32,
    /// The entry that granted it.
    pub token: Token,
    /// When it ends.
    pub deadline: Millis,
    /// That of its messages.
    pub priority: u8,
    /// Its consumer has begun to handle its messages, or would not tell.
    pub started: bool,
}

/// All leases.
#[derive(Debug, Default)]
pub(super) struct Leased {
    held: BTreeMap<(Session, u64), Lease>,
    deadlines: BTreeSet<(Millis, u64, Session)>,
    count: u64,
}

impl Leased {
    /// How many messages are leased.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// How many leases there are.
    pub fn runs(&self) -> usize {
        self.held.len()
    }

    /// All leases, by session and first offset.
    pub fn iter(&self) -> impl Iterator<Item = (Session, u64, Lease)> {
        self.held.iter().map(|(&(session, first), &lease)| (session, first, lease))
    }

    /// The leases of a session, by first offset.
    pub fn of(&self, session: Session) -> impl Iterator<Item = (u64, Lease)> {
        self.held
            .range((session, 0)..=(session, u64::MAX))
            .map(|(&(_, first), &lease)| (first, lease))
    }

    /// Adds a lease of messages that nobody holds.
    pub fn insert(&mut self, session: Session, first: u64, lease: Lease) {
        self.count += u64::from(lease.count);
        self.deadlines.insert((lease.deadline, first, session));
        let before = self.held.insert((session, first), lease);
        assert!(before.is_none(), "a message has one lease");
    }

    /// The session's first lease with a message in `from..to`.
    pub fn overlapping(&self, session: Session, from: u64, to: u64) -> Option<(u64, Lease)> {
        // Mostly a settle names a run as it was granted.
        if let Some(&lease) = self.held.get(&(session, from)) {
            return Some((from, lease));
        }
        let before = self.held.range((session, 0)..(session, from)).next_back();
        let covers = before.filter(|((_, first), lease)| first + u64::from(lease.count) > from);
        covers
            .or_else(|| self.held.range((session, from)..(session, to)).next())
            .map(|(&(_, first), &lease)| (first, lease))
    }

    /// The lease of a message: whose, where it begins, and what else it is. Looks at all of them.
    pub fn holder(&self, offset: u64) -> Option<(Session, u64, Lease)> {
        self.iter()
            .find(|&(_, first, lease)| (first..first + u64::from(lease.count)).contains(&offset))
    }

    /// Takes messages `from..to` out of the lease that begins at `first` and covers them.
    pub fn cut(&mut self, session: Session, first: u64, from: u64, to: u64) {
        let lease = self.held.remove(&(session, first)).expect("the lease was found before");
        let end = first + u64::from(lease.count);
        assert!(first <= from && from < to && to <= end, "the lease covers what is cut from it");
        self.count -= to - from;
        if first < from {
            self.held.insert((session, first), Lease { count: (from - first) as u32, ..lease });
        } else {
            self.deadlines.remove(&(lease.deadline, first, session));
        }
        if to < end {
            self.held.insert((session, to), Lease { count: (end - to) as u32, ..lease });
            self.deadlines.insert((lease.deadline, to, session));
        }
    }

    /// Takes a lease of a session, and whether it was started.
    pub fn pop_of(&mut self, session: Session) -> Option<(Span, bool)> {
        let (first, lease) = self.of(session).next()?;
        self.cut(session, first, first, first + u64::from(lease.count));
        Some((span(first, &lease), lease.started))
    }

    /// All leases of a session count as started.
    pub fn start_all(&mut self, session: Session) {
        let all = self.held.range_mut((session, 0)..=(session, u64::MAX));
        all.for_each(|(_, lease)| lease.started = true);
    }

    /// Says that a lease was not started.
    pub fn unstart(&mut self, session: Session, first: u64) -> bool {
        let lease = self.held.get_mut(&(session, first));
        lease.map(|lease| lease.started = false).is_some()
    }

    /// Takes a lease whose deadline has come, and whether it was started.
    pub fn pop_expired(&mut self, now: Millis) -> Option<(Session, Span, bool)> {
        let &(deadline, first, session) = self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        let lease = self.held[&(session, first)];
        self.cut(session, first, first, first + u64::from(lease.count));
        Some((session, span(first, &lease), lease.started))
    }

    /// Says which priority the messages of a restored lease have. False if there is none that begins at `first`.
    pub fn set_priority(&mut self, session: Session, first: u64, priority: u8) -> bool {
        let lease = self.held.get_mut(&(session, first));
        lease.map(|lease| lease.priority = priority).is_some()
    }

    /// Takes all messages before `before`, run by run, each with who held it.
    pub fn take_before(&mut self, before: u64) -> Vec<(Session, Span)> {
        let found: Vec<_> = self.iter().filter(|&(_, first, _)| first < before).collect();
        let taken = found.into_iter().map(|(session, first, lease)| {
            let count = u64::from(lease.count).min(before - first);
            self.cut(session, first, first, first + count);
            (session, Span { count, ..span(first, &lease) })
        });
        taken.collect()
    }

    /// When the next lease ends.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.deadlines.first().map(|&(deadline, _, _)| deadline)
    }

    /// Drops all and says how many messages were leased.
    pub fn clear(&mut self) -> u64 {
        std::mem::take(self).count
    }
}

/// What a lease covers.
pub(super) fn span(first: u64, lease: &Lease) -> Span {
    Span { first, count: lease.count.into(), attempts: lease.attempt, priority: lease.priority }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Session = Session(1);

    fn leased(count: u32) -> Leased {
        let mut leased = Leased::default();
        let (attempt, token, deadline) = (1, Token(9), Millis(50));
        let lease = Lease { count, attempt, token, deadline, priority: 0, started: true };
        leased.insert(A, 10, lease);
        leased
    }

    #[test]
    fn cutting_the_middle_leaves_both_sides() {
        let mut leased = leased(10);
        leased.cut(A, 10, 13, 15);
        let left: Vec<_> = leased.of(A).map(|(first, lease)| (first, lease.count)).collect();
        assert_eq!(left, [(10, 3), (15, 5)]);
        assert_eq!(leased.len(), 8);
        assert_eq!(leased.pop_expired(Millis(49)), None);
        let span = |first, count| Span { first, count, attempts: 1, priority: 0 };
        let expired = |first, count| Some((A, span(first, count), true));
        assert_eq!(leased.pop_expired(Millis(50)), expired(10, 3));
        assert_eq!(leased.pop_expired(Millis(50)), expired(15, 5));
        assert_eq!((leased.pop_expired(Millis(50)), leased.len()), (None, 0));
    }

    #[test]
    fn overlap_is_found_before_within_and_after() {
        let leased = leased(10);
        let first = |from, to| leased.overlapping(A, from, to).map(|(first, _)| first);
        assert_eq!(first(0, 10), None);
        assert_eq!(first(0, 11), Some(10));
        assert_eq!(first(19, 30), Some(10));
        assert_eq!(first(20, 30), None);
        assert_eq!(leased.overlapping(Session(2), 0, 100), None);
    }
}
