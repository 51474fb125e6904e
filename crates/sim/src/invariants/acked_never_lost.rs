//! Every confirmed message is delivered in the end, or has left its queue by a rule that the queue
//! declares: purged, or exhausted after `max_deliveries`.

use std::collections::{BTreeMap, BTreeSet};

use super::{Invariant, must};
use crate::events::{Event, MessageId};

#[derive(Default)]
pub struct AckedNeverLost {
    confirmed: BTreeMap<u64, BTreeMap<u64, MessageId>>,
    delivered: BTreeMap<u64, BTreeSet<u64>>,
    /// By group: messages that the queue says left it without having been acked or rejected.
    dropped: BTreeMap<u64, u64>,
}

impl Invariant for AckedNeverLost {
    fn name(&self) -> &'static str {
        "acked_never_lost"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Confirmed { group, id, offset, .. } => {
                self.confirmed.entry(*group).or_default().insert(*offset, *id);
            }
            Event::Delivered { group, offset, .. } => {
                self.delivered.entry(*group).or_default().insert(*offset);
            }
            Event::Counted { group, counts } => {
                self.dropped.insert(*group, counts.exhausted + counts.purged);
            }
            _ => {}
        }
        Ok(())
    }

    fn at_end(&mut self) -> Result<(), String> {
        for (group, confirmed) in &self.confirmed {
            let delivered = self.delivered.entry(*group).or_default();
            let missing: Vec<_> =
                confirmed.iter().filter(|(offset, _)| !delivered.contains(offset)).collect();
            let dropped = self.dropped.get(group).copied().unwrap_or(0);
            must(missing.len() as u64 <= dropped, || {
                let first = missing.first().map(|(offset, id)| format!("{id} at offset {offset}"));
                format!(
                    "group {group}: {} confirmed messages were never delivered, {dropped} were dropped \
                     by rule; the first: {}",
                    missing.len(),
                    first.unwrap_or_default()
                )
            })?;
        }
        Ok(())
    }
}
