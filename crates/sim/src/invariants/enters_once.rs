//! A message enters its queue at most once, over retry, failover, snapshot and restore. What has a message id is judged by
//! `once_per_message_id`, and what was moved from another queue by `dead_letters_once`.

use std::collections::{BTreeMap, BTreeSet};

use super::{Invariant, entered, moved_here, must, named};
use crate::events::{Event, MessageId};

#[derive(Default)]
pub struct EntersOnce {
    /// By group and message: its offset.
    offsets: BTreeMap<(u64, MessageId), u64>,
    /// By group: offsets of messages that others judge.
    others: BTreeSet<(u64, u64)>,
}

impl EntersOnce {
    fn is_at(&mut self, group: u64, id: MessageId, offset: u64) -> Result<(), String> {
        if self.others.contains(&(group, offset)) {
            return Ok(());
        }
        let first = *self.offsets.entry((group, id)).or_insert(offset);
        must(first == offset, || format!("group {group}: {id} is at offsets {first} and {offset}"))
    }
}

impl Invariant for EntersOnce {
    fn name(&self) -> &'static str {
        "enters_once"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Made(entry) => {
                let others = moved_here(entry).chain(named(entry));
                self.others.extend(others.map(|offset| (entry.group, offset)));
                for (offset, id) in entered(entry) {
                    if let Some(id) = id {
                        self.is_at(entry.group, id, offset)?;
                    }
                }
                Ok(())
            }
            Event::Confirmed { group, id, offset: Some(offset), .. } => {
                self.is_at(*group, *id, *offset)
            }
            Event::Delivered { group, offset, id: Some(id), .. } => {
                self.is_at(*group, *id, *offset)
            }
            _ => Ok(()),
        }
    }
}
