//! An offset of a queue names one message for ever: in the log, in receipts and in deliveries.

use std::collections::BTreeMap;

use super::{Invariant, entered, must};
use crate::events::{Event, MessageId};

#[derive(Default)]
pub struct OffsetIsOnePayload {
    /// By group and offset.
    names: BTreeMap<(u64, u64), MessageId>,
}

impl OffsetIsOnePayload {
    fn name_is(&mut self, group: u64, offset: u64, id: MessageId) -> Result<(), String> {
        let first = *self.names.entry((group, offset)).or_insert(id);
        must(first == id, || format!("group {group} offset {offset} is {first} and {id}"))
    }
}

impl Invariant for OffsetIsOnePayload {
    fn name(&self) -> &'static str {
        "offset_is_one_payload"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Made(entry) => {
                for (offset, id) in entered(entry) {
                    if let Some(id) = id {
                        self.name_is(entry.group, offset, id)?;
                    }
                }
                Ok(())
            }
            Event::Confirmed { group, id, offset: Some(offset), .. } => {
                self.name_is(*group, *offset, *id)
            }
            Event::Delivered { group, offset, id: Some(id), .. }
            | Event::Read { group, offset, id: Some(id), .. } => self.name_is(*group, *offset, *id),
            _ => Ok(()),
        }
    }
}
