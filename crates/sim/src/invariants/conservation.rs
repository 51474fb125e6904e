//! Every message published, and each time that one came back, is ready, leased, delayed, blocked, dead, or gone in one of the
//! ways there are, after each entry as in what clients are told; and no more were published, and came back, than the log says.

use std::collections::BTreeMap;

use quorate_machine::queue::Reply;

use super::{Invariant, entered, must};
use crate::events::Event;

#[derive(Default)]
pub struct Conservation {
    /// By group: messages that entered, as far as any replica has applied.
    entered: BTreeMap<u64, u64>,
    /// By group: messages that came back by seeks.
    returned: BTreeMap<u64, u64>,
}

/// How many a command has brought back.
fn came_back(reply: &Reply) -> u64 {
    match reply {
        Reply::Sought { again, .. } => *again,
        _ => 0,
    }
}

impl Invariant for Conservation {
    fn name(&self) -> &'static str {
        "conservation"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Made(entry) => {
                let published = self.entered.entry(entry.group).or_default();
                *published += entered(entry).len() as u64;
                let returned = self.returned.entry(entry.group).or_default();
                *returned += entry.replies.iter().map(came_back).sum::<u64>();
                let stats = entry.stats;
                let mut held = [0; 5];
                for (range, place) in entry.places {
                    held[*place as usize] += range.end - range.start;
                }
                let told = [stats.ready, stats.delayed, stats.blocked, stats.leased, stats.dead];
                must(held == told, || format!("group {}: {held:?} of {stats:?}", entry.group))?;
                let settled = stats.acked + stats.rejected + stats.exhausted;
                let dropped = stats.purged + stats.expired + stats.dropped;
                let gone = settled + dropped + stats.dead_lettered;
                let all = told.iter().sum::<u64>() + gone;
                let is_so = (stats.published, stats.replayed) == (*published, *returned);
                must(is_so && all == *published + *returned, || {
                    format!(
                        "group {}: {published} entered, {returned} came back, {all} are in {stats:?}",
                        entry.group
                    )
                })
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
                let returned = self.returned.get(group).copied().unwrap_or(0);
                must(counts.published <= entered && counts.replayed <= returned, || {
                    format!("group {group}: {entered} entered, {returned} came back: {counts:?}")
                })
            }
            _ => Ok(()),
        }
    }
}
