//! Whoever is handed messages and has no filter is handed the first of what is ready: while one of a higher priority, or an
//! earlier one of the same, stays behind, no other goes out.

use std::collections::BTreeMap;

use quorate_machine::queue::{Command, Reply, Whereabouts};

use super::Invariant;
use crate::events::{Event, QueueEntry};

#[derive(Default)]
pub struct PriorityOrder {
    queues: BTreeMap<u64, Queue>,
}

/// The priority of each message that has one.
#[derive(Default)]
struct Queue(BTreeMap<u64, u8>);

impl Queue {
    fn of(&self, offset: u64) -> u8 {
        self.0.get(&offset).copied().unwrap_or(0)
    }

    fn made(&mut self, entry: &QueueEntry<'_>) -> Result<(), String> {
        for (command, reply) in entry.commands.iter().zip(entry.replies) {
            let Command::Publish(publish) = command else { continue };
            let Reply::Published { first_offset, duplicate: false, .. } = reply else { continue };
            let each = publish.properties.iter();
            let each = each.flat_map(|of| std::iter::repeat_n(of.priority, of.count as usize));
            let urgent = (first_offset.0..).zip(each).filter(|(_, priority)| *priority > 0);
            self.0.extend(urgent);
        }
        for offset in entry.left {
            self.0.remove(offset);
        }
        let back = entry.returned.iter().filter(|(_, of)| of.priority > 0);
        self.0.extend(back.map(|(offset, of)| (*offset, of.priority)));
        // Of the lowest priority that went out, the last.
        let worth = |offset: u64| (std::cmp::Reverse(self.of(offset)), offset);
        let by_filter = entry.granted_by_filter();
        let granted = entry.granted().filter(|(offset, _)| !by_filter.contains_key(offset));
        let Some((std::cmp::Reverse(lowest), last)) =
            granted.map(|(offset, _)| worth(offset)).max()
        else {
            return Ok(());
        };
        for (range, _) in entry.places.iter().filter(|(_, place)| *place == Whereabouts::Ready) {
            let higher = self.0.range(range.clone()).find(|(_, priority)| **priority > lowest);
            let mut before = range.start..range.end.min(last);
            let before = before.find(|offset| self.of(*offset) == lowest).map(|at| (at, lowest));
            let stays = higher.map(|(offset, priority)| (*offset, *priority)).or(before);
            if let Some((offset, priority)) = stays {
                return Err(format!(
                    "entry {}: {last} of priority {lowest} went out, and {offset} of {priority} stayed",
                    entry.index
                ));
            }
        }
        Ok(())
    }
}

impl Invariant for PriorityOrder {
    fn name(&self) -> &'static str {
        "priority_order"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        let Event::Made(entry) = event else { return Ok(()) };
        let queue = self.queues.entry(entry.group).or_default();
        queue.made(entry).map_err(|reason| format!("group {}: {reason}", entry.group))
    }
}
