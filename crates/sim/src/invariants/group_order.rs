//! Messages of a group are in flight one at a time, in the order of their offsets: what is leased is the first of its
//! group that has not left the queue, and what comes after it is not leased before it has. What a seek brings back comes in
//! by its offset; but the first of its group, if it had been handed out, stays first.

use std::collections::BTreeMap;

use quorate_machine::queue::{
    Command, Effect, Publish, Reply, SettleItem, SettleKind, Whereabouts,
};

use super::{Invariant, must};
use crate::events::{Event, QueueEntry};
use crate::passages::place_of;

#[derive(Default)]
pub struct GroupOrder {
    queues: BTreeMap<u64, Queue>,
}

#[derive(Default)]
struct Queue {
    /// The group of each message that has one.
    group_of: BTreeMap<u64, u64>,
    groups: BTreeMap<u64, Group>,
    /// Of each message that has a group, under which it was leased last.
    tokens: BTreeMap<u64, u64>,
}

#[derive(Default)]
struct Group {
    /// Messages that have not ended: their last attempt.
    open: BTreeMap<u64, u32>,
    /// The last that was leased for the first time, since any came back.
    furthest: Option<u64>,
    /// The first, where a seek brought back others before it: nobody takes it away from who may have it.
    stays_first: Option<u64>,
}

impl Queue {
    fn published(&mut self, first: u64, publish: &Publish) {
        let groups = publish.properties.iter();
        let groups = groups.flat_map(|of| std::iter::repeat_n(of.group, of.count as usize));
        for (offset, group) in (first..).zip(groups) {
            let Some(group) = group else { continue };
            self.group_of.insert(offset, group);
            self.groups.entry(group).or_default().open.insert(offset, 0);
        }
    }

    /// Messages come back.
    fn returned(&mut self, entry: &QueueEntry<'_>) {
        let held = |offset: u64| place_of(entry.places, offset);
        let returned = entry.returned.iter().filter(|(offset, _)| held(*offset).is_some());
        let mut by_group: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for (offset, of) in returned {
            let Some(group) = of.group else { continue };
            by_group.entry(group).or_default().push(*offset);
        }
        for (number, offsets) in by_group {
            let group = self.groups.entry(number).or_default();
            // Whether it steps back depends on whether a delivery counted, which one that was returned since does not; it
            // waits for the others then.
            let steps_back = |first: u64| held(first) == Some(Whereabouts::Blocked);
            let stays_first = group.stays_first.filter(|first| group.open.contains_key(first));
            let stays_first = stays_first.filter(|first| !steps_back(*first));
            let first = group.open.first_key_value().filter(|(first, attempts)| {
                let is_behind = offsets.iter().any(|offset| offset < *first);
                is_behind && **attempts > 0 && !steps_back(**first)
            });
            group.stays_first = stays_first.or(first.map(|(first, _)| *first));
            group.furthest = None;
            for offset in offsets {
                group.open.insert(offset, 0);
                self.tokens.remove(&offset);
            }
        }
    }

    fn settled(&mut self, item: &SettleItem, offset: u64) -> Result<(), String> {
        let Some(group) = self.group_of.get(&offset) else { return Ok(()) };
        let group = self.groups.entry(*group).or_default();
        must(group.furthest.is_none_or(|furthest| furthest <= offset), || {
            format!("offset {offset} was settled, and {:?} behind it was leased", group.furthest)
        })?;
        if let SettleKind::Ack | SettleKind::Reject = item.kind {
            group.open.remove(&offset);
        }
        Ok(())
    }

    fn leased(&mut self, offset: u64, attempt: u32, token: u64) -> Result<(), String> {
        let Some(group) = self.group_of.get(&offset) else { return Ok(()) };
        // What is held is repeated to a consumer that comes back.
        if self.tokens.insert(offset, token) == Some(token) {
            return Ok(());
        }
        let group = self.groups.entry(*group).or_default();
        group.open.insert(offset, attempt);
        let stays_first = group.stays_first.filter(|first| group.open.contains_key(first));
        if let Some(first) = stays_first {
            return must(first == offset, || {
                format!("offset {offset} was leased, and {first} stays before it")
            });
        }
        must(group.furthest.is_none_or(|furthest| furthest <= offset), || {
            format!("offset {offset} was leased after {:?}, which is behind it", group.furthest)
        })?;
        group.furthest = Some(offset);
        let before = group.open.range(..offset).next();
        must(before.is_none(), || {
            format!("offset {offset} was leased, and {before:?} before it is in the queue")
        })?;
        group.open.retain(|open, _| *open >= offset);
        Ok(())
    }

    fn made(&mut self, entry: &QueueEntry<'_>) -> Result<(), String> {
        for (command, reply) in entry.commands.iter().zip(entry.replies) {
            match (command, reply) {
                (
                    Command::Publish(publish),
                    Reply::Published { first_offset, duplicate: false, .. },
                ) => self.published(first_offset.0, publish),
                (Command::Settle { items, .. }, Reply::Settled(settled)) => {
                    for item in items {
                        let offsets = item.first.0..item.first.0.saturating_add(item.count.into());
                        for offset in offsets.filter(|offset| !settled.has_lost(*offset)) {
                            self.settled(item, offset)?;
                        }
                    }
                }
                _ => {}
            }
        }
        // Before anything is handed out, and whatever the reason: `gone_for_a_reason` judges that.
        for offset in entry.ended {
            let group = self.group_of.get(offset).and_then(|group| self.groups.get_mut(group));
            if let Some(group) = group {
                group.open.remove(offset);
            }
        }
        self.returned(entry);
        for effect in entry.effects {
            let Effect::Deliver { token, runs, .. } = effect else { continue };
            for run in runs {
                for offset in run.first_offset.0..run.first_offset.0 + u64::from(run.count) {
                    self.leased(offset, run.attempt, token.0)?;
                }
            }
        }
        Ok(())
    }
}

impl Invariant for GroupOrder {
    fn name(&self) -> &'static str {
        "group_order"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        let Event::Made(entry) = event else { return Ok(()) };
        let queue = self.queues.entry(entry.group).or_default();
        queue.made(entry).map_err(|reason| format!("group {}: {reason}", entry.group))
    }
}
