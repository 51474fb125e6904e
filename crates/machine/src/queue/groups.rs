//! Messages with a key, of which one after the other is delivered, in the order of their offsets.
//!
//! ```text
//!   group 7   ──[head]──[=====]────[==]──►       the head is ready, delayed or leased, like any message;
//!   group 9   ─────[head]─────────────────►      what is behind it is blocked, a record a run
//!                    │
//!                    └─ leaves the queue ──► the first blocked one is the head, and goes to its place
//! ```
//!
//! A group is a hash of a key (see `docs/FORMATS.md`): keys that share it wait for each other, and lose no order. As no
//! more than one message of a group is ever outside of this module, no two of them can be in flight, and whatever
//! becomes of the head (a nack, a lease that ends, a delay, a back-off) holds back its own group and nothing else.
//!
//! Where consumers were set back (`seeking`), what comes back may be before the head: a consumer may have that one, so they wait
//! for it all the same.
//!
//! A head is a record, as its group has to be known when it leaves; messages without a key are not known here at all.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::Queue;
use super::dead::Cause;
use super::delayed::DUE_MAX;
use super::ready::Span;
use crate::Millis;
use crate::digest::digest;
use crate::planted::{self, Bug};

/// The group of the messages with this key. It is part of what is persisted: the function must never change.
#[must_use]
pub fn group_of(key: &str) -> u64 {
    digest(key.as_bytes())
}

/// Neighbouring messages of a group that wait for those before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blocked {
    /// How many.
    pub count: u64,
    /// Not to be delivered before this time.
    pub due: Option<Millis>,
    /// 0 to 9.
    pub priority: u8,
}

impl Blocked {
    fn is_due(&self, now: Millis) -> bool {
        self.due.is_none_or(|due| due <= now)
    }

    fn span(self, first: u64) -> Span {
        Span { first, count: self.count, attempts: 0, priority: self.priority }
    }
}

/// All groups of which a message is held.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// The group of each head, by offset.
    heads: BTreeMap<u64, u64>,
    /// The head of each group.
    by_group: BTreeMap<u64, u64>,
    /// By group and first offset.
    blocked: BTreeMap<(u64, u64), Blocked>,
    count: u64,
    /// Some that are blocked may come before their head; not part of the state.
    has_early: bool,
}

impl Groups {
    /// How many messages are blocked.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether no message that is held has a group.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty() && self.blocked.is_empty()
    }

    /// How many records there are; as many are part of a checkpoint.
    pub fn records(&self) -> usize {
        self.heads.len() + self.blocked.len()
    }

    /// Offset and group of each head, by offset.
    pub fn heads(&self) -> impl ExactSizeIterator<Item = (u64, u64)> {
        self.heads.iter().map(|(&offset, &group)| (offset, group))
    }

    /// Group, first offset and the rest of each run that is blocked, by group and offset.
    pub fn blocked(&self) -> impl ExactSizeIterator<Item = (u64, u64, Blocked)> {
        self.blocked.iter().map(|(&(group, first), &run)| (group, first, run))
    }

    /// Runs that are blocked, as they are held.
    pub fn spans(&self) -> impl Iterator<Item = Span> {
        self.blocked().map(|(_, first, run)| run.span(first))
    }

    /// Of a message that is blocked: its group, the run that it is in, until when that is held back for itself, and how many of
    /// the group are blocked before it. Looks at one run of each group.
    pub fn find(&self, offset: u64) -> Option<(u64, Span, Option<Millis>, u64)> {
        let (group, first, run) = self.blocked_groups().find_map(|group| {
            let mut up_to = self.blocked.range((group, 0)..=(group, offset));
            let (&(_, first), &run) = up_to.next_back()?;
            (offset - first < run.count).then_some((group, first, run))
        })?;
        let before = self.blocked.range((group, 0)..(group, first)).map(|(_, run)| run.count);
        Some((group, run.span(first), run.due, before.sum::<u64>() + (offset - first)))
    }

    /// Those of which some are blocked.
    fn blocked_groups(&self) -> impl Iterator<Item = u64> {
        let group_of = |key: Option<(&(u64, u64), &Blocked)>| key.map(|(&(group, _), _)| group);
        std::iter::successors(group_of(self.blocked.first_key_value()), move |&group| {
            let behind = (Bound::Excluded((group, u64::MAX)), Bound::Unbounded);
            group_of(self.blocked.range(behind).next())
        })
    }

    /// The head of a group.
    pub fn head(&self, group: u64) -> Option<u64> {
        self.by_group.get(&group).copied()
    }

    /// The first head in `from..to`.
    pub fn head_within(&self, from: u64, to: u64) -> Option<u64> {
        self.heads.range(from..to).next().map(|(&offset, _)| offset)
    }

    /// The lowest offset that is blocked, if one may come before its head; then it looks at all that are.
    pub fn first_early(&self) -> Option<u64> {
        let all = self.blocked.keys().filter(|_| self.has_early);
        all.map(|&(_, first)| first).min()
    }

    /// Runs that are blocked before `before`, and would be ready if they were not.
    pub fn waiting_before(&self, before: u64, now: Millis) -> impl Iterator<Item = Span> {
        let early =
            self.blocked().filter(move |(_, first, run)| *first < before && run.is_due(now));
        early.map(move |(_, first, run)| run.span(first).cut(0, before).0)
    }

    /// Makes a message the head of a group that has none.
    pub fn lead(&mut self, group: u64, offset: u64) {
        let before = self.by_group.insert(group, offset);
        assert!(before.is_none(), "a group has one head");
        self.heads.insert(offset, group);
    }

    /// A head is none any more: what becomes of it is for the caller to say.
    pub fn behead(&mut self, group: u64) {
        let offset = self.by_group.remove(&group).expect("it had a head");
        self.heads.remove(&offset);
    }

    /// Adds messages to those of their group that wait.
    pub fn block(&mut self, group: u64, first: u64, mut run: Blocked) {
        self.count += run.count;
        self.has_early |= self.head(group).is_some_and(|head| first < head);
        let is_alike = |other: &Blocked| (other.due, other.priority) == (run.due, run.priority);
        let end = first + run.count;
        if self.blocked.get(&(group, end)).is_some_and(is_alike) {
            let after = self.blocked.remove(&(group, end));
            run.count += after.map_or(0, |after| after.count);
        }
        let last = self.blocked.range_mut((group, 0)..(group, first)).next_back();
        if let Some((&(_, before), last)) = last
            && before + last.count == first
            && (last.due, last.priority) == (run.due, run.priority)
        {
            last.count += run.count;
        } else {
            self.blocked.insert((group, first), run);
        }
    }

    /// Takes a head in `from..to` and gives its group.
    fn pop_head(&mut self, from: u64, to: u64) -> Option<u64> {
        let (&offset, &group) = self.heads.range(from..to).next()?;
        self.heads.remove(&offset);
        self.by_group.remove(&group);
        Some(group)
    }

    /// Takes the first blocked message of a group.
    fn pop_blocked(&mut self, group: u64) -> Option<(u64, Blocked)> {
        let (&(_, first), &run) = self.blocked.range((group, 0)..=(group, u64::MAX)).next()?;
        self.blocked.remove(&(group, first));
        if run.count > 1 {
            self.blocked.insert((group, first + 1), Blocked { count: run.count - 1, ..run });
        }
        self.count -= 1;
        self.has_early &= self.count > 0;
        Some((first, Blocked { count: 1, ..run }))
    }

    /// Takes all that are blocked before `before`.
    pub fn take_before(&mut self, before: u64, taken: &mut Vec<Span>) {
        self.take_where(before, |_| true, taken);
    }

    /// Takes those that [`waiting_before`](Self::waiting_before) tells of.
    pub fn take_waiting_before(&mut self, before: u64, now: Millis, taken: &mut Vec<Span>) {
        self.take_where(before, |run| run.is_due(now), taken);
    }

    fn take_where(
        &mut self,
        before: u64,
        is_meant: impl Fn(&Blocked) -> bool,
        taken: &mut Vec<Span>,
    ) {
        let is_meant = |first: u64, run: &Blocked| first < before && is_meant(run);
        let runs = self.blocked.iter().filter(|((_, first), run)| is_meant(*first, run));
        for (key, run) in runs.map(|(&key, &run)| (key, run)).collect::<Vec<_>>() {
            self.blocked.remove(&key);
            let (group, first) = key;
            let (within, rests) = run.span(first).cut(first, before);
            for rest in rests.into_iter().flatten() {
                self.blocked.insert((group, rest.first), Blocked { count: rest.count, ..run });
            }
            self.count -= within.count;
            taken.push(within);
        }
    }

    /// Drops all and says how many were blocked.
    pub fn clear(&mut self) -> u64 {
        std::mem::take(self).count
    }
}

impl Queue {
    /// Gives the next messages, all of `group`, their place: the first its own if it is the head, the others behind
    /// it.
    pub(super) fn enter_group(
        &mut self,
        group: u64,
        mut count: u32,
        due: Option<Millis>,
        priority: u8,
    ) {
        if self.groups.head(group).is_none() {
            self.groups.lead(group, self.ready.next());
            self.enter_place(1, due, priority);
            count -= 1;
        }
        if count > 0 {
            let first = self.ready.pass_over(count);
            self.groups.block(group, first, Blocked { count: count.into(), due, priority });
        }
    }

    /// Lets go on what waited for these messages, which are about to leave or are out of their groups.
    pub(super) fn unblock(&mut self, span: Span) {
        if self.groups.is_empty() {
            return;
        }
        while let Some(group) = self.groups.pop_head(span.first, span.end()) {
            self.advance_group(group);
        }
    }

    /// The next of a group that has no head is its head; those that have outlived their time meanwhile are gone.
    pub(super) fn advance_group(&mut self, group: u64) {
        let mut left = DUE_MAX;
        while let Some((first, run)) = self.groups.pop_blocked(group) {
            let next = run.span(first);
            // Beyond what one step lets go of, one goes to its place, from where the next step takes it and goes on.
            if left > 0 && self.is_over(first) {
                left -= 1;
                self.die(next, Cause::Expired);
                continue;
            }
            self.groups.lead(group, first);
            self.in_time(next);
            return self.place(next, run.due.filter(|&due| due > self.now));
        }
    }

    /// What comes back to its place still holds back its group, unless that is what is to go wrong.
    pub(super) fn overtake(&mut self, span: Span) {
        if planted::is(Bug::OvertakeInGroup) {
            self.unblock(span);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(count: u64, due: Option<u64>) -> Blocked {
        Blocked { count, due: due.map(Millis), priority: 0 }
    }

    #[test]
    fn a_batch_of_one_group_is_one_record_and_so_are_its_neighbours() {
        let mut groups = Groups::default();
        groups.lead(7, 0);
        groups.block(7, 1, run(3, None));
        groups.block(7, 4, run(2, None));
        groups.block(7, 6, run(1, Some(50)));
        groups.block(9, 7, run(1, None));
        groups.block(7, 8, run(1, Some(50)));
        let blocked: Vec<_> = groups.blocked().map(|(group, first, _)| (group, first)).collect();
        assert_eq!(blocked, [(7, 1), (7, 6), (7, 8), (9, 7)]);
        assert_eq!((groups.len(), groups.records()), (8, 5));
    }

    #[test]
    fn a_blocked_message_is_found_among_the_runs_of_all_groups() {
        let mut groups = Groups::default();
        groups.lead(7, 0);
        groups.lead(9, 4);
        groups.block(7, 1, run(3, None));
        groups.block(9, 5, run(1, None));
        groups.block(7, 6, run(2, Some(50)));
        let found = |at| groups.find(at).map(|(group, span, _, ahead)| (group, span.first, ahead));
        for (at, expected) in [
            (0, None),
            (1, Some((7, 1, 0))),
            (3, Some((7, 1, 2))),
            (4, None),
            (5, Some((9, 5, 0))),
            (7, Some((7, 6, 4))),
            (8, None),
        ] {
            assert_eq!(found(at), expected, "{at}");
        }
    }

    #[test]
    fn what_is_blocked_before_its_head_is_known_until_it_has_gone() {
        let mut groups = Groups::default();
        groups.lead(7, 10);
        groups.block(7, 12, run(1, None));
        assert_eq!(groups.first_early(), None);
        groups.block(7, 3, run(2, None));
        groups.block(7, 11, run(1, None));
        groups.block(7, 8, run(1, Some(50)));
        let blocked: Vec<_> = groups.blocked().map(|(_, first, run)| (first, run.count)).collect();
        assert_eq!((blocked, groups.first_early()), (vec![(3, 2), (8, 1), (11, 2)], Some(3)));
        let mut waiting: Vec<_> = groups.waiting_before(12, Millis(9)).collect();
        let mut taken = Vec::new();
        groups.take_waiting_before(12, Millis(9), &mut taken);
        for spans in [&mut waiting, &mut taken] {
            spans.sort_unstable_by_key(|span| span.first);
        }
        assert_eq!(
            taken.iter().map(|span| (span.first, span.count)).collect::<Vec<_>>(),
            [(3, 2), (11, 1)]
        );
        assert_eq!((taken, groups.len()), (waiting, 2));
        assert_eq!(groups.pop_head(0, 20), Some(7));
        assert_eq!(groups.pop_blocked(7).map(|(first, _)| first), Some(8));
        assert_eq!(groups.pop_blocked(7).map(|(first, _)| first), Some(12));
        assert_eq!(groups.first_early(), None);
    }

    #[test]
    fn a_key_has_the_group_that_it_has_in_existing_logs() {
        let groups = ["", "a", "order 7", "Größe"].map(group_of);
        let known = [
            0x99b6_af62_e388_5e8f,
            0xc24e_fef1_1c5a_c9db,
            0xa134_f3d5_6f0a_e88b,
            0xf141_e135_9361_e43e,
        ];
        assert_eq!(groups, known);
    }

    #[test]
    fn the_next_of_a_group_is_the_first_that_is_blocked() {
        let mut groups = Groups::default();
        groups.lead(7, 10);
        groups.block(7, 11, run(2, None));
        groups.block(7, 15, run(1, Some(50)));
        assert_eq!(groups.pop_head(0, 10), None);
        assert_eq!(groups.pop_head(0, 11), Some(7));
        assert_eq!(groups.head(7), None);
        let next = std::iter::from_fn(|| groups.pop_blocked(7));
        let next: Vec<_> = next.map(|(first, run)| (first, run.due)).collect();
        assert_eq!(next, [(11, None), (12, None), (15, Some(Millis(50)))]);
        assert_eq!((groups.is_empty(), groups.records()), (true, 0));
    }
}
