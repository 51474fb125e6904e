//! A message enters its queue at most once, over retry, failover, snapshot and restore.

use std::collections::BTreeMap;

use super::{Invariant, entered, must};
use crate::events::{Event, MessageId};

#[derive(Default)]
pub struct EntersOnce {
    /// By group and message: its offset.
    offsets: BTreeMap<(u64, MessageId), u64>,
}

impl EntersOnce {
    fn is_at(&mut self, group: u64, id: MessageId, offset: u64) -> Result<(), String> {
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
