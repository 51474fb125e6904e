//! Every confirmed message is delivered and settled for good in the end, as often as a seek has brought it back, or has left its
//! queue by a rule that the queue declares, which `gone_for_a_reason` judges as it happens; and the queue's own
//! figures say the same of every message.

use std::collections::{BTreeMap, BTreeSet};

use quorate_machine::queue::{Command, Reply, SettleKind};

use super::{Invariant, entered, must};
use crate::events::{Event, MessageId, QueueEntry};
use crate::passages::place_of;

#[derive(Default)]
pub struct AckedNeverLost {
    queues: BTreeMap<u64, Queue>,
}

#[derive(Default)]
struct Queue {
    confirmed: BTreeMap<u64, MessageId>,
    shown: BTreeSet<u64>,
    entered: BTreeSet<u64>,
    /// Not held any more.
    left: BTreeSet<u64>,
    /// Acknowledged or rejected, under a lease that lasted.
    settled: BTreeSet<u64>,
    acked: u64,
    /// Left as if acknowledged, since a seek went beyond them.
    skipped: u64,
    counts: quorate_client::QueueCounts,
}

impl Queue {
    fn made(&mut self, entry: &QueueEntry<'_>) {
        self.entered.extend(entered(entry).into_iter().map(|(offset, _)| offset));
        self.left.extend(entry.left);
        for (command, reply) in entry.commands.iter().zip(entry.replies) {
            if let Reply::Sought { left, .. } = reply {
                self.skipped += left;
            }
            let Command::Settle { items, .. } = command else { continue };
            let Reply::Settled(settled) = reply else { continue };
            for item in items {
                let end = item.first.0.saturating_add(item.count.into());
                let offsets = (item.first.0..end).filter(|offset| !settled.has_lost(*offset));
                match item.kind {
                    SettleKind::Ack => {
                        let before = self.settled.len();
                        self.settled.extend(offsets);
                        self.acked += (self.settled.len() - before) as u64;
                    }
                    SettleKind::Reject => self.settled.extend(offsets),
                    _ => {}
                }
            }
        }
        for (offset, _) in entry.returned {
            self.settled.remove(offset);
            if place_of(entry.places, *offset).is_some() {
                self.left.remove(offset);
            }
        }
    }

    /// All that had entered when the queue said that it was empty.
    fn judge(&self) -> Result<(), String> {
        let counts = &self.counts;
        let there = self.entered.range(..counts.published).count() as u64;
        must(there == counts.published, || {
            format!("{there} messages entered, the queue counts {}", counts.published)
        })?;
        let held = self.entered.range(..counts.published);
        let held = held.copied().find(|offset| !self.left.contains(offset));
        must(held.is_none(), || format!("offset {held:?} is there still: {counts:?}"))?;
        must(self.acked + self.skipped >= counts.acked, || {
            format!("{} messages were acknowledged, the queue counts {counts:?}", self.acked)
        })?;
        let settled = self.settled.range(..counts.published).count() as u64;
        let dropped = there - settled;
        let most = counts.exhausted
            + counts.purged
            + counts.expired
            + counts.dropped
            + counts.dead_lettered
            + self.skipped;
        must(dropped <= most, || {
            format!("{dropped} messages left without being settled, {counts:?}")
        })?;
        for (offset, id) in self.confirmed.range(..counts.published) {
            let seen = self.shown.contains(offset) || !self.settled.contains(offset);
            must(seen, || {
                format!("{id} at offset {offset} was confirmed, and no consumer was ever shown it")
            })?;
        }
        let beyond = self.confirmed.range(counts.published..).next();
        must(beyond.is_none(), || format!("confirmed, but not in the queue: {beyond:?}"))
    }
}

impl Invariant for AckedNeverLost {
    fn name(&self) -> &'static str {
        "acked_never_lost"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Confirmed { group, id, offset: Some(offset), .. } => {
                self.queues.entry(*group).or_default().confirmed.insert(*offset, *id);
            }
            Event::Delivered { group, offset, .. } => {
                self.queues.entry(*group).or_default().shown.insert(*offset);
            }
            Event::Made(entry) => self.queues.entry(entry.group).or_default().made(entry),
            Event::Counted { group, counts } => {
                self.queues.entry(*group).or_default().counts = **counts;
            }
            _ => {}
        }
        Ok(())
    }

    fn at_end(&mut self) -> Result<(), String> {
        for (group, queue) in self.queues.iter().filter(|(_, queue)| !queue.confirmed.is_empty()) {
            queue.judge().map_err(|reason| format!("group {group}: {reason}"))?;
        }
        Ok(())
    }
}
