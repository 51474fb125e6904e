//! Publishing: a batch enters whole or not at all, once, and within the limits.

use super::Queue;
use super::backlog::Batch;
use super::command::{Properties, Publish};
use super::dedup::Verdict;
use super::ids::Offset;
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
        if publish.count == 0 {
            return Err(Rejection::EmptyBatch);
        }
        if publish.layout != frame::LAYOUT {
            return Err(Rejection::UnknownLayout { layout: publish.layout });
        }
        if !covers(&publish.properties, publish.count) {
            return Err(Rejection::InvalidProperties { count: publish.count });
        }
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
        let bytes = publish.frame.len() as u64;
        let Settings { max_messages, max_bytes, .. } = self.settings;
        within(Limit::MaxMessages, max_messages, self.backlog.messages(), publish.count.into())?;
        within(Limit::MaxBytes, max_bytes, self.backlog.bytes(), bytes)?;
        Ok(None)
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

    fn append(&mut self, index: u64, ordinal: u32, publish: &Publish, merge: bool) -> Reply {
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
        if let Some(producer) = &publish.producer {
            let window = self.settings.dedup_window;
            self.dedup.record(producer, count, first_offset, self.now, window);
        }
        Reply::Published { first_offset, count, duplicate: false }
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
