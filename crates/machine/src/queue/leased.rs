//! Messages that a consumer has been handed, and until when it may keep them.
//!
//! A lease covers a run of messages that one entry granted to one session. It is cut when a part
//! of it is settled; so what is settled as it was granted costs one record, whatever its length.
//!
//! Leases are found by their end: no two of them overlap, so this is their order by first offset too, and the one that
//! has a message is the first that ends behind it. Mostly messages are settled one after the other from the first on; then
//! a lease stays where it is, and only becomes shorter.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::ids::{Session, Token};
use super::ready::Span;
use crate::Millis;

/// A lease, without whose it is.
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

/// A lease and the first offset that it covers.
type Held = (u64, Lease);

/// All leases.
#[derive(Debug, Default)]
pub(super) struct Leased {
    /// By session and the offset after the last.
    held: BTreeMap<(Session, u64), Held>,
    /// Deadline, the offset after the last, session.
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
        self.held.iter().map(|(&(session, _), &(first, lease))| (session, first, lease))
    }

    /// The leases of a session, by first offset.
    pub fn of(&self, session: Session) -> impl Iterator<Item = (u64, Lease)> {
        self.held.range((session, 0)..=(session, u64::MAX)).map(|(_, &held)| held)
    }

    /// Adds a lease of messages that nobody holds.
    pub fn insert(&mut self, session: Session, first: u64, lease: Lease) {
        self.count += u64::from(lease.count);
        let end = first + u64::from(lease.count);
        self.deadlines.insert((lease.deadline, end, session));
        let before = self.held.insert((session, end), (first, lease));
        assert!(before.is_none(), "a message has one lease");
    }

    /// The session's first lease with a message in `from..to`.
    pub fn overlapping(&self, session: Session, from: u64, to: u64) -> Option<(u64, Lease)> {
        // Mostly a settle names a run as it was granted, or the end of it.
        if let Some(&held) = self.held.get(&(session, to)).filter(|&&(first, _)| first <= from) {
            return Some(held);
        }
        let mut behind = self.held.range((session, from.saturating_add(1))..=(session, u64::MAX));
        behind.next().map(|(_, &held)| held).filter(|&(first, _)| first < to)
    }

    /// The lease of a message: whose, where it begins, and what else it is. Looks at one of each session.
    pub fn holder(&self, offset: u64) -> Option<(Session, u64, Lease)> {
        let mut sessions = self.sessions();
        sessions.find_map(|session| {
            let (first, lease) = self.overlapping(session, offset, offset.checked_add(1)?)?;
            Some((session, first, lease))
        })
    }

    /// The lowest offset that is leased. Looks at one lease of each session.
    pub fn first(&self) -> Option<u64> {
        self.sessions().filter_map(|session| self.of(session).next()).map(|(first, _)| first).min()
    }

    /// Those that hold something.
    fn sessions(&self) -> impl Iterator<Item = Session> {
        let session_of =
            |key: Option<(&(Session, u64), &Held)>| key.map(|(&(session, _), _)| session);
        std::iter::successors(session_of(self.held.first_key_value()), move |&session| {
            let behind = (Bound::Excluded((session, u64::MAX)), Bound::Unbounded);
            session_of(self.held.range(behind).next())
        })
    }

    /// Takes messages `from..to` out of the lease that ends at `end` and covers them.
    pub fn cut(&mut self, session: Session, end: u64, from: u64, to: u64) {
        let Entry::Occupied(mut entry) = self.held.entry((session, end)) else {
            panic!("the lease was found before");
        };
        let (first, lease) = *entry.get();
        assert!(first <= from && from < to && to <= end, "the lease covers what is cut from it");
        self.count -= to - from;
        if to < end {
            *entry.get_mut() = (to, Lease { count: (end - to) as u32, ..lease });
        } else {
            entry.remove();
            self.deadlines.remove(&(lease.deadline, end, session));
        }
        if first < from {
            let before = Lease { count: (from - first) as u32, ..lease };
            self.held.insert((session, from), (first, before));
            self.deadlines.insert((lease.deadline, from, session));
        }
    }

    /// Takes a lease of a session, and whether it was started.
    pub fn pop_of(&mut self, session: Session) -> Option<(Span, bool)> {
        let (first, lease) = self.of(session).next()?;
        let span = span(first, &lease);
        self.cut(session, span.end(), first, span.end());
        Some((span, lease.started))
    }

    /// All leases of a session count as started.
    pub fn start_all(&mut self, session: Session) {
        let all = self.held.range_mut((session, 0)..=(session, u64::MAX));
        all.for_each(|(_, (_, lease))| lease.started = true);
    }

    /// Says that a lease was not started.
    pub fn unstart(&mut self, session: Session, first: u64) -> bool {
        let lease = self.beginning_at(session, first);
        lease.map(|lease| lease.started = false).is_some()
    }

    /// Takes a lease whose deadline has come, and whether it was started.
    pub fn pop_expired(&mut self, now: Millis) -> Option<(Session, Span, bool)> {
        let &(deadline, end, session) = self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        let (first, lease) = self.held[&(session, end)];
        self.cut(session, end, first, end);
        Some((session, span(first, &lease), lease.started))
    }

    /// Says which priority the messages of a restored lease have. False if there is none that begins at `first`.
    pub fn set_priority(&mut self, session: Session, first: u64, priority: u8) -> bool {
        let lease = self.beginning_at(session, first);
        lease.map(|lease| lease.priority = priority).is_some()
    }

    fn beginning_at(&mut self, session: Session, at: u64) -> Option<&mut Lease> {
        let mut behind = self.held.range_mut((session, at.checked_add(1)?)..=(session, u64::MAX));
        behind.next().filter(|(_, (first, _))| *first == at).map(|(_, (_, lease))| lease)
    }

    /// Takes all messages before `before`, run by run, each with who held it.
    pub fn take_before(&mut self, before: u64) -> Vec<(Session, Span)> {
        let found: Vec<_> = self.iter().filter(|&(_, first, _)| first < before).collect();
        let taken = found.into_iter().map(|(session, first, lease)| {
            let held = span(first, &lease);
            let count = held.count.min(before - first);
            self.cut(session, held.end(), first, first + count);
            (session, Span { count, ..held })
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
        leased.cut(A, 20, 13, 15);
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
    fn who_holds_a_message_is_found_whatever_others_hold_around_it() {
        let mut leased = leased(3);
        let b = Session(2);
        let lease = |count| Lease { count, token: Token(10), ..leased_to_a(&leased) };
        let (one, two) = (lease(1), lease(2));
        leased.insert(b, 13, one);
        leased.insert(A, 14, two);
        leased.insert(b, 20, two);
        let holder = |at| leased.holder(at).map(|(session, first, _)| (session, first));
        for (at, expected) in [
            (9, None),
            (10, Some((A, 10))),
            (12, Some((A, 10))),
            (13, Some((b, 13))),
            (14, Some((A, 14))),
            (16, None),
            (21, Some((b, 20))),
            (22, None),
            (u64::MAX, None),
        ] {
            assert_eq!(holder(at), expected, "{at}");
        }
        assert_eq!(leased.first(), Some(10));
        leased.cut(A, 13, 10, 13);
        assert_eq!(leased.first(), Some(13));
        assert_eq!(Leased::default().first(), None);
    }

    fn leased_to_a(leased: &Leased) -> Lease {
        leased.of(A).next().expect("a lease").1
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
