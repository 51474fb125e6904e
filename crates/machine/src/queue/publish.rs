//! Publishing: a batch enters whole or not at all, once, and within the limits.

use super::Queue;
use super::backlog::Batch;
use super::command::{PRIORITY_MAX, Properties, Publish};
use super::dead::DEAD_MAX;
use super::dedup::Verdict;
use super::delayed::DELAYED_MAX;
use super::ids::Offset;
use super::message_ids::Entered;
use super::overflow::within;
use super::ready::Span;
use super::reply::{Limit, Rejection, Reply};
use crate::planted::{self, Bug};
use crate::{Millis, frame};

impl Queue {
    pub(super) fn publish(&mut self, index: u64, ordinal: u32, publish: &Publish) -> Reply {
        let admitted = self.admit(publish);
        // A body is found by counting publish commands from the first of its batch, so one whose
        // messages did not enter must not be inside of a batch.
        let merge = std::mem::replace(&mut self.merge, matches!(admitted, Ok(None)));
        match admitted {
            Ok(None) => self.append(index, ordinal, publish, merge),
            Ok(Some(first_offset)) => {
                Reply::Published { first_offset, count: publish.count, duplicate: true }
            }
            Err(rejection) => Reply::Rejected(rejection),
        }
    }

    /// Whether a batch may enter; where it did before, if it is a duplicate.
    fn admit(&mut self, publish: &Publish) -> Result<Option<Offset>, Rejection> {
        Self::well_formed(publish)?;
        if let Some(producer) = &publish.producer {
            match self.dedup.judge(producer, publish.count) {
                Verdict::New => {}
                Verdict::Duplicate(first_offset) => {
                    self.dedup.touch(producer, self.now);
                    return Ok(Some(first_offset));
                }
                Verdict::Rejected(rejection) => return Err(rejection),
            }
        }
        if publish.condition.is_some()
            && let Some(first_offset) = self.meets(publish)?
        {
            return Ok(Some(first_offset));
        }
        if !publish.properties.is_empty() {
            self.admit_properties(&publish.properties)?;
        }
        self.admit_dead()?;
        // Last, as it may let go of others.
        self.make_room(publish.count.into(), publish.frame.len() as u64)?;
        Ok(None)
    }

    pub(super) fn well_formed(publish: &Publish) -> Result<(), Rejection> {
        if publish.count == 0 {
            return Err(Rejection::EmptyBatch);
        }
        if publish.layout != frame::LAYOUT {
            return Err(Rejection::UnknownLayout { layout: publish.layout });
        }
        if !covers(&publish.properties, publish.count) {
            return Err(Rejection::InvalidProperties { count: publish.count });
        }
        if let Some(of) = publish.properties.iter().find(|of| of.priority > PRIORITY_MAX) {
            return Err(Rejection::InvalidPriority { priority: of.priority });
        }
        Ok(())
    }

    /// Whether a batch of messages that nothing sets apart is within the limits. None makes room for it.
    pub(super) fn has_room(&self, publish: &Publish) -> Result<(), Rejection> {
        self.admit_dead()?;
        self.is_within(publish.count.into(), publish.frame.len() as u64)
    }

    /// Whether more may die.
    fn admit_dead(&self) -> Result<(), Rejection> {
        if self.settings.dead_letter.is_none() {
            return Ok(());
        }
        within(Limit::Dead, Some(DEAD_MAX), self.dead.iter().len() as u64, 1)
    }

    /// Where a batch entered before, by its id; else whether it meets its condition.
    fn meets(&mut self, publish: &Publish) -> Result<Option<Offset>, Rejection> {
        let known =
            publish.message_id().map(|id| self.message_ids.judge(id, publish.count)).transpose()?;
        if let Some(first_offset) = known.flatten() {
            // The producer goes on with its next sequence, as after any batch that it was told has entered.
            self.remember_producer(publish, first_offset);
            return Ok(Some(first_offset));
        }
        let next = Offset(self.ready.next());
        match publish.expected_next() {
            Some(expected) if expected != next && !planted::is(Bug::IgnoreExpectedOffset) => {
                Err(Rejection::UnexpectedOffset { next })
            }
            _ => Ok(None),
        }
    }

    /// Whether the queue takes messages that are set apart so.
    fn admit_properties(&self, properties: &[Properties]) -> Result<(), Rejection> {
        if !self.settings.priorities && properties.iter().any(|of| of.priority > 0) {
            return Err(Rejection::NoPriorities);
        }
        let more: usize = properties.iter().map(|of| self.runs_of(of)).sum();
        within(Limit::Delayed, Some(DELAYED_MAX), self.records() as u64, more as u64)
    }

    /// Runs that are held of messages that were set apart, or parted.
    pub(super) fn records(&self) -> usize {
        let waiting = self.delayed.runs() + self.ready.runs();
        waiting + self.expiry.lives.len() + self.groups.records() + self.ready.tags.iter().len()
    }

    /// Records that a run of messages takes at most: of a group, a head, its place, and a run that is blocked.
    pub(super) fn runs_of(&self, of: &Properties) -> usize {
        let lives = of.expires.is_some() || (of.due.is_some() && self.settings.ttl_ms.is_some());
        let places = if of.group.is_some() { 1 + of.count.min(2) as usize } else { 1 };
        places + usize::from(lives) + usize::from(of.tag.is_some())
    }

    /// Gives the next messages their place.
    fn enter(&mut self, of: &Properties) {
        let first = self.ready.next();
        let due = of.due.filter(|&due| due > self.now);
        if let Some(tag) = of.tag {
            self.ready.tags.insert(first, of.count.into(), tag);
        }
        match of.group {
            None => self.enter_place(of.count, due, of.priority),
            Some(group) => self.enter_group(group, of.count, due, of.priority),
        }
        self.note_life(first, of.count.into(), of.expires, due);
    }

    /// Gives the next messages, for which none before them matter, their place: among the ready ones, or until they
    /// are due among the delayed.
    pub(super) fn enter_place(&mut self, count: u32, due: Option<Millis>, priority: u8) {
        let is_tagged = self.ready.tags.of(self.ready.next()).is_some();
        if due.is_none() && priority == 0 && !is_tagged {
            return self.ready.append(count);
        }
        let first = self.ready.pass_over(count);
        self.place(Span { first, count: count.into(), attempts: 0, priority }, due);
    }

    /// Puts messages to their place, until `due` among the delayed.
    pub(super) fn place(&mut self, span: Span, due: Option<Millis>) {
        match due {
            None => self.ready.give_back(span),
            Some(due) => self.delayed.insert(due, span),
        }
    }

    pub(super) fn append(
        &mut self,
        index: u64,
        ordinal: u32,
        publish: &Publish,
        merge: bool,
    ) -> Reply {
        let count = publish.count;
        let first = self.ready.next();
        match publish.properties.is_empty() {
            true => self.ready.append(count),
            false => publish.properties.iter().for_each(|properties| self.enter(properties)),
        }
        let first_offset = Offset(first);
        let bytes = u32::try_from(publish.frame.len()).expect("a command is far below 4 GiB");
        let since = self.now;
        let batch = Batch { index, first, since, ordinal, count, remaining: count, bytes };
        self.backlog.append(batch, merge);
        self.slots.published(first, self.now);
        self.remember_producer(publish, first_offset);
        if let Some(id) = publish.message_id() {
            self.message_ids.record(id.clone(), Entered { first, count, since });
        }
        Reply::Published { first_offset, count, duplicate: false }
    }

    fn remember_producer(&mut self, publish: &Publish, first_offset: Offset) {
        if let Some(producer) = &publish.producer {
            let window = self.settings.dedup_window;
            self.dedup.record(producer, publish.count, first_offset, self.now, window);
        }
    }
}

/// Whether there are no properties, or they are of `count` messages.
fn covers(properties: &[Properties], count: u32) -> bool {
    let sum: u64 = properties.iter().map(|of| u64::from(of.count)).sum();
    properties.is_empty() || (sum == count.into() && properties.iter().all(|of| of.count > 0))
}

#[cfg(test)]
mod tests {
    use super::super::delayed::DUE_MAX;
    use super::super::{Command, Queue};
    use super::*;
    use crate::{At, Machine};

    fn publish(queue: &mut Queue, index: u64, now: u64, dues: std::ops::Range<u64>) -> Reply {
        let count = (dues.end - dues.start) as u32;
        // Every other one, so that no two are neighbours of one time.
        let properties = dues
            .map(|due| Properties { count: 1, due: Some(Millis(due)), ..Properties::default() })
            .collect();
        let frame = vec![0; 6 * count as usize].into();
        let publish = Publish { properties, ..Publish::plain(count, frame) };
        let at = At { index, now: Millis(now) };
        let reply = queue.apply(at, 0, Command::Publish(publish), &mut Vec::new());
        queue.finish(at, &mut Vec::new());
        reply
    }

    /// A head, its place and what it holds back are each a record, as those for later are.
    #[test]
    fn no_more_keys_are_held_than_a_snapshot_has_room_for() {
        const STEP: u32 = 1 << 16;
        let mut queue = Queue::new();
        let mut publish = |properties: Vec<Properties>| {
            let count = properties.iter().map(|of| of.count).sum();
            let frame = vec![0; 6 * count as usize].into();
            let publish = Publish { properties, ..Publish::plain(count, frame) };
            let at = At { index: 1, now: Millis(1) };
            queue.apply(at, 0, Command::Publish(publish), &mut Vec::new())
        };
        let of = |group, count| Properties { count, group: Some(group), ..Properties::default() };
        let steps = DELAYED_MAX / u64::from(STEP) / 3;
        for step in 0..steps {
            let groups = step * u64::from(STEP)..(step + 1) * u64::from(STEP);
            let reply = publish(groups.map(|group| of(group, 3)).collect());
            assert!(matches!(reply, Reply::Published { .. }), "{reply:?}");
        }
        let held = steps * u64::from(STEP) * 3;
        let full = Rejection::QueueFull { limit: Limit::Delayed, max: DELAYED_MAX, held };
        let groups = 0..u64::from(STEP);
        assert_eq!(publish(groups.map(|group| of(group, 2)).collect()), Reply::Rejected(full));
        let bytes = queue.snapshot().len();
        assert!(bytes < 48 << 20, "{bytes}");
    }

    #[test]
    fn no_more_is_for_later_than_the_limit_and_all_that_is_due_comes_in_steps() {
        const STEP: u64 = 1 << 16;
        let mut queue = Queue::new();
        let steps = DELAYED_MAX / STEP;
        for step in 0..steps {
            let dues = 1_000 + step * STEP..1_000 + (step + 1) * STEP;
            let reply = publish(&mut queue, step + 1, 1, dues);
            assert!(matches!(reply, Reply::Published { .. }), "{reply:?}");
        }
        let refused = publish(&mut queue, 100, 1, 5..6);
        let full =
            Rejection::QueueFull { limit: Limit::Delayed, max: DELAYED_MAX, held: DELAYED_MAX };
        assert_eq!(refused, Reply::Rejected(full));
        // What is not for later enters, and everything that is due is ready in the end.
        let end = 1_000 + DELAYED_MAX;
        let mut index = 101;
        while queue.next_deadline().is_some_and(|due| due.0 <= end) {
            let at = At { index, now: Millis(end) };
            let before = queue.stats().delayed;
            queue.apply(at, 0, Command::Tick, &mut Vec::new());
            let moved = before - queue.stats().delayed;
            assert!(moved > 0 && moved <= DUE_MAX as u64, "{moved}");
            index += 1;
        }
        assert_eq!((queue.stats().ready, queue.stats().delayed), (DELAYED_MAX, 0));
    }
}
