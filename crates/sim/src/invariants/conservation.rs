//! Every message published is ready, leased, delayed, blocked, or gone in one of the ways there are; and no
//! more were published than the log says.

use std::collections::BTreeMap;

use super::{Invariant, entered, must};
use crate::events::Event;

#[derive(Default)]
pub struct Conservation {
    /// By group: messages that entered, as far as any replica has applied.
    entered: BTreeMap<u64, u64>,
}

impl Invariant for Conservation {
    fn name(&self) -> &'static str {
        "conservation"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Made(entry) => {
                *self.entered.entry(entry.group).or_default() += entered(entry).len() as u64;
                Ok(())
            }
            Event::Counted { group, counts } => {
                let waiting = counts.ready + counts.delayed + counts.blocked;
                let held = waiting + counts.leased + counts.dead;
                let settled = counts.acked + counts.rejected + counts.exhausted;
                let dropped = counts.purged + counts.expired + counts.dropped;
                let gone = settled + dropped + counts.dead_lettered;
                must(held + gone == counts.published + counts.replayed, || {
                    format!("group {group}: {held} held and {gone} gone of {counts:?}")
                })?;
                let entered = self.entered.get(group).copied().unwrap_or(0);
                must(counts.published <= entered, || {
                    format!("group {group}: {} published, {entered} entered", counts.published)
                })
            }
            _ => Ok(()),
        }
    }
}
