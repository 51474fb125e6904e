//! A reader of a slot begins where the slot is and sees every message from there on, or is told why not; and a slot
//! without bounds is never lost, but by a purge.

use std::collections::{BTreeMap, BTreeSet};

use quorate_machine::queue::{Command, Reply, SlotInfo};
use quorate_proto::reason;

use super::{Invariant, must};
use crate::events::Event;

#[derive(Default)]
pub struct SlotNeverSkips {
    /// By group and name: where a slot was, in order, over all its lives.
    positions: BTreeMap<(u64, String), Vec<u64>>,
    readers: BTreeMap<u32, Reader>,
    /// Groups of which something was purged.
    purged: BTreeSet<u64>,
}

/// A reader of a slot.
struct Reader {
    /// How many positions the slot had had when it began.
    since: usize,
    /// The offset that it must see next, once it has seen one.
    next: Option<u64>,
}

impl SlotNeverSkips {
    fn is_at(&mut self, group: u64, slot: &SlotInfo) {
        let positions = self.positions.entry((group, slot.name.to_string())).or_default();
        positions.push(slot.position.0);
    }

    fn read(&mut self, group: u64, slot: &str, reader: u32, offset: u64) -> Result<(), String> {
        let Some(known) = self.readers.get_mut(&reader) else { return Ok(()) };
        let positions =
            self.positions.get(&(group, slot.to_owned())).map_or(&[][..], Vec::as_slice);
        let since = &positions[known.since.saturating_sub(1)..];
        let is_right = match known.next {
            Some(next) => offset == next,
            None => since.contains(&offset),
        };
        let next = known.next.replace(offset + 1);
        must(is_right, || {
            format!(
                "group {group}: reader {reader} of {slot} saw {offset}, and was to see {next:?}; the slot was at {since:?}"
            )
        })
    }
}

impl Invariant for SlotNeverSkips {
    fn name(&self) -> &'static str {
        "slot_never_skips"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Made(entry) => {
                let purges =
                    |of: &Command| matches!(of, Command::Purge | Command::PurgeBefore { .. });
                if entry.commands.iter().any(purges) {
                    self.purged.insert(entry.group);
                }
                for reply in entry.replies {
                    if let Reply::SlotCreated { slot, .. } | Reply::SlotAdvanced { slot } = reply {
                        self.is_at(entry.group, slot);
                    }
                }
                Ok(())
            }
            Event::SlotReader { group, slot, reader } => {
                let positions = self.positions.get(&(*group, (*slot).to_owned()));
                let since = positions.map_or(0, Vec::len);
                self.readers.insert(*reader, Reader { since, next: None });
                Ok(())
            }
            Event::Read { group, reader, offset, slot: Some(slot), .. } => {
                self.read(*group, slot, *reader, *offset)
            }
            Event::SlotRefused { group, slot, reason, is_bounded } => {
                let may_be_lost = *is_bounded || self.purged.contains(group);
                must(may_be_lost || *reason != reason::SLOT_LOST, || {
                    format!("group {group}: {slot} is lost, which has no bound")
                })
            }
            _ => Ok(()),
        }
    }
}
