//! Publishing: a batch enters whole or not at all, once, and within the limits.

use super::Queue;
use super::backlog::Batch;
use super::command::{Properties, Publish};
use super::dead::DEAD_MAX;
use super::dedup::Verdict;
use super::delayed::DELAYED_MAX;
use super::ids::Offset;
use super::message_ids::Entered;
use super::ready::Span;
use super::reply::{Limit, Rejection, Reply};
use super::settings::Settings;
use crate::frame;

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
        if publish.is_conditional()
            && let Some(first_offset) = self.meets(publish)?
        {
            return Ok(Some(first_offset));
        }
        self.has_room(publish)?;
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
        Ok(())
    }

    /// Whether a batch is within the limits.
    pub(super) fn has_room(&self, publish: &Publish) -> Result<(), Rejection> {
        let bytes = publish.frame.len() as u64;
        let Settings { max_messages, max_bytes, .. } = self.settings;
        within(Limit::MaxMessages, max_messages, self.backlog.messages(), publish.count.into())?;
        within(Limit::MaxBytes, max_bytes, self.backlog.bytes(), bytes)?;
        if !publish.properties.is_empty() {
            let (held, more) = (self.delayed.iter().len(), publish.properties.len());
            within(Limit::Delayed, Some(DELAYED_MAX), held as u64, more as u64)?;
        }
        within(Limit::Dead, Some(DEAD_MAX), self.dead.iter().len() as u64, 1)
    }

    /// Where a batch entered before, by its id; else whether it meets its condition.
    fn meets(&mut self, publish: &Publish) -> Result<Option<Offset>, Rejection> {
        let known = publish.message_id.as_ref();
        let known = known.map(|id| self.message_ids.judge(id, publish.count)).transpose()?;
        if let Some(first_offset) = known.flatten() {
            // The producer goes on with its next sequence, as after any batch that it was told has entered.
            self.remember_producer(publish, first_offset);
            return Ok(Some(first_offset));
        }
        let next = Offset(self.ready.next());
        match publish.expected_next {
            Some(expected) if expected != next => Err(Rejection::UnexpectedOffset { next }),
            _ => Ok(None),
        }
    }

    /// Gives the next messages their place: among the ready ones, or until they are due among the delayed.
    fn enter(&mut self, &Properties { count, due }: &Properties) {
        match due.filter(|&due| due > self.now) {
            None => self.ready.append(count),
            Some(due) => {
                let first = self.ready.pass_over(count);
                self.delayed.insert(due, Span { first, count: count.into(), attempts: 0 });
            }
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
        if let Some(id) = &publish.message_id {
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

/// Refuses what would exceed a limit.
fn within(limit: Limit, max: Option<u64>, held: u64, more: u64) -> Result<(), Rejection> {
    match max.filter(|&max| max > 0) {
        Some(max) if held.saturating_add(more) > max => {
            Err(Rejection::QueueFull { limit, max, held })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::delayed::DUE_MAX;
    use super::super::{Command, Queue};
    use super::*;
    use crate::{At, Machine, Millis};

    fn publish(queue: &mut Queue, index: u64, now: u64, dues: std::ops::Range<u64>) -> Reply {
        let count = (dues.end - dues.start) as u32;
        // Every other one, so that no two are neighbours of one time.
        let properties = dues.map(|due| Properties { count: 1, due: Some(Millis(due)) }).collect();
        let frame = vec![0; 6 * count as usize].into();
        let publish = Publish { properties, ..Publish::plain(count, frame) };
        let at = At { index, now: Millis(now) };
        let reply = queue.apply(at, 0, Command::Publish(publish), &mut Vec::new());
        queue.finish(at, &mut Vec::new());
        reply
    }

    #[test]
    fn no_more_is_for_later_than_a_snapshot_has_room_for_and_all_that_is_due_comes_in_steps() {
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
