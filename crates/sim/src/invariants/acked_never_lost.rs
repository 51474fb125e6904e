//! Every confirmed message is delivered and settled for good in the end, or has left its queue by a
//! rule that the queue declares: purged, or exhausted after `max_deliveries`; and the queue's own
//! figures say the same of every message.

use std::collections::{BTreeMap, BTreeSet};

use quorate_machine::queue::{Command, Effect, Reply, SettleKind};

use super::{Invariant, entered, must};
use crate::events::{Event, MessageId, QueueEntry};

#[derive(Default)]
pub struct AckedNeverLost {
    queues: BTreeMap<u64, Queue>,
}

#[derive(Default)]
struct Queue {
    confirmed: BTreeMap<u64, MessageId>,
    shown: BTreeSet<u64>,
    /// By offset: how often it was leased.
    entered: BTreeMap<u64, u32>,
    /// Acknowledged or rejected, under a lease that lasted.
    settled: BTreeSet<u64>,
    max_deliveries: u32,
    counts: quorate_client::QueueCounts,
}

impl Queue {
    fn made(&mut self, entry: &QueueEntry<'_>) {
        for (offset, _) in entered(entry) {
            self.entered.entry(offset).or_default();
        }
        for (command, reply) in entry.commands.iter().zip(entry.replies) {
            match (command, reply) {
                (Command::Configure(settings), Reply::Done) => {
                    self.max_deliveries = settings.max_deliveries;
                }
                (Command::Settle { items, .. }, Reply::Settled(settled)) => {
                    let for_good = items
                        .iter()
                        .filter(|item| matches!(item.kind, SettleKind::Ack | SettleKind::Reject));
                    for item in for_good {
                        let end = item.first.0.saturating_add(item.count.into());
                        let offsets = item.first.0..end;
                        self.settled.extend(offsets.filter(|offset| !settled.has_lost(*offset)));
                    }
                }
                _ => {}
            }
        }
        for effect in entry.effects {
            let Effect::Deliver { runs, .. } = effect else { continue };
            for run in runs {
                for offset in run.first_offset.0..run.first_offset.0 + u64::from(run.count) {
                    let leased = self.entered.entry(offset).or_default();
                    *leased = (*leased).max(run.attempt);
                }
            }
        }
    }

    /// All that had entered when the queue said that it was empty.
    fn judge(&self) -> Result<(), String> {
        let counts = &self.counts;
        let there: Vec<_> = self.entered.range(..counts.published).collect();
        must(there.len() as u64 == counts.published, || {
            format!("{} messages entered, the queue counts {}", there.len(), counts.published)
        })?;
        let dropped: Vec<_> =
            there.into_iter().filter(|(offset, _)| !self.settled.contains(offset)).collect();
        must(dropped.len() as u64 == counts.exhausted + counts.purged, || {
            format!("{} messages left without being settled, {counts:?}", dropped.len())
        })?;
        let early = dropped.iter().find(|(_, leased)| **leased < self.max_deliveries);
        must(counts.purged > 0 || early.is_none(), || {
            format!("dropped before its last delivery: {early:?} of {}", self.max_deliveries)
        })?;
        for (offset, id) in self.confirmed.range(..counts.published) {
            let dropped = dropped.iter().any(|(other, _)| *other == offset);
            must(dropped || self.shown.contains(offset), || {
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
