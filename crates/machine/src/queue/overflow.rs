//! What becomes of a batch for which there is no room: it is refused, or the oldest messages make room for it.
//!
//! What makes room leaves for good, with a dead-letter queue too: as long as it waited there to be moved, it would count
//! as before.
//!
//! Only ready messages make room, those of the lowest priority first, of these the ones with the lowest offsets, and no
//! more than it takes. It is counted first how many that are, so that nothing is dropped for a batch that is refused.

use std::collections::BTreeMap;

use super::Queue;
use super::backlog::Batch;
use super::dead::Cause;
use super::reply::{Limit, Rejection};
use crate::planted::{self, Bug};

/// Messages and bytes that have to go.
#[derive(Clone, Copy)]
struct Excess {
    messages: u64,
    bytes: u64,
}

impl Queue {
    /// Makes room for a batch within the limits.
    pub(super) fn make_room(&mut self, count: u64, bytes: u64) -> Result<(), Rejection> {
        let (max_messages, max_bytes) = (self.settings.max_messages, self.settings.max_bytes);
        if max_messages.is_none() && max_bytes.is_none() {
            return Ok(());
        }
        let excess = Excess {
            messages: excess(max_messages, self.backlog.messages(), count),
            bytes: excess(max_bytes, self.backlog.bytes(), bytes),
        };
        if excess.messages == 0 && excess.bytes == 0 {
            return Ok(());
        }
        let too_large =
            excess.messages > self.backlog.messages() || excess.bytes > self.backlog.bytes();
        let oldest = match self.settings.drop_head && !too_large {
            true => self.oldest_that_make_room(excess),
            false => None,
        };
        let Some(mut left) = oldest else {
            return self.is_within(count, bytes);
        };
        if planted::is(Bug::DropOneMore) {
            left = self.ready.len().min(left + 1);
        }
        // All are taken before the first leaves, as another one of its group takes its place.
        let mut spans = Vec::new();
        while left > 0 {
            let span = self.ready.take_least(left).expect("they were counted before");
            left -= span.count;
            spans.push(span);
        }
        for span in spans {
            self.die(span, Cause::Dropped);
        }
        Ok(())
    }

    /// Refuses a batch that would exceed the limits.
    pub(super) fn is_within(&self, count: u64, bytes: u64) -> Result<(), Rejection> {
        let (max_messages, max_bytes) = (self.settings.max_messages, self.settings.max_bytes);
        within(Limit::MaxMessages, max_messages, self.backlog.messages(), count)?;
        within(Limit::MaxBytes, max_bytes, self.backlog.bytes(), bytes)
    }

    /// How many of the ready messages have to go; none if all of them are not enough.
    fn oldest_that_make_room(&self, excess: Excess) -> Option<u64> {
        if excess.messages > self.ready.len() {
            return None;
        }
        // Left of each batch that is met, as runs of several priorities may be of one.
        let mut remaining: BTreeMap<u64, u32> = BTreeMap::new();
        let (mut dropped, mut freed) = (0, 0);
        for span in self.ready.by_worth() {
            for batch in self.backlog.from(span.first).take_while(|batch| batch.first < span.end())
            {
                let part = span.end().min(batch.end()) - span.first.max(batch.first);
                let left = remaining.entry(batch.first).or_insert(batch.remaining);
                let before = Batch { remaining: *left, ..*batch };
                let messages = excess.messages.saturating_sub(dropped);
                let bytes = excess.bytes.saturating_sub(freed);
                if let Some(enough) = enough_of(&before, messages, bytes).filter(|&it| it <= part) {
                    return Some(dropped + enough);
                }
                *left -= part as u32;
                dropped += part;
                freed += before.held_bytes() - Batch { remaining: *left, ..*batch }.held_bytes();
            }
        }
        None
    }
}

/// The fewest messages of a batch with which it counts `bytes` less, and that are `messages` at least.
fn enough_of(batch: &Batch, messages: u64, bytes: u64) -> Option<u64> {
    let most = batch.held_bytes().checked_sub(bytes)?;
    let (count, all) = (u64::from(batch.count), u64::from(batch.bytes));
    // With `left` of them it counts `all * left / count`, rounded down.
    let left = ((most + 1) * count - 1).checked_div(all).unwrap_or(u64::MAX);
    Some(messages.max(u64::from(batch.remaining).saturating_sub(left)))
}

/// By how much `held` and `more` exceed a limit.
fn excess(max: Option<u64>, held: u64, more: u64) -> u64 {
    let max = max.filter(|&max| max > 0);
    max.map_or(0, |max| held.saturating_add(more).saturating_sub(max))
}

/// Refuses what would exceed a limit.
pub(super) fn within(
    limit: Limit,
    max: Option<u64>,
    held: u64,
    more: u64,
) -> Result<(), Rejection> {
    match max.filter(|_| excess(max, held, more) > 0) {
        Some(max) => Err(Rejection::QueueFull { limit, max, held }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Millis;

    #[test]
    fn no_fewer_messages_free_so_many_bytes() {
        for (count, bytes) in [(1, 10), (3, 10), (7, 1_000), (7, 6), (5, 0)] {
            for remaining in 1..=count {
                let of = |remaining| Batch {
                    index: 1,
                    first: 0,
                    since: Millis(0),
                    ordinal: 0,
                    count,
                    remaining,
                    bytes,
                };
                for wanted in 0..=u64::from(bytes) + 1 {
                    let frees = |gone: &u32| {
                        let left = of(remaining - gone).held_bytes();
                        of(remaining).held_bytes() - left >= wanted
                    };
                    let fewest = (0..=remaining).find(frees).map(u64::from);
                    let found = enough_of(&of(remaining), 0, wanted);
                    assert_eq!(found, fewest, "{wanted} of {bytes} with {remaining} of {count}");
                }
            }
        }
    }
}
