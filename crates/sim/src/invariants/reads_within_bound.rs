//! What a reader is told of a queue is no older than its bound and than what the answer says; and a reader
//! that follows never sees a message twice or goes back, whichever replicas it is served by.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::{Invariant, entered, must};
use crate::events::Event;

#[derive(Default)]
pub struct ReadsWithinBound {
    /// By group: when messages were first applied anywhere, and the offset behind them.
    entered: BTreeMap<u64, Vec<(Instant, u64)>>,
    /// By reader: the last offset seen.
    seen: BTreeMap<u32, u64>,
}

impl ReadsWithinBound {
    /// The offset behind all that had been applied anywhere before a time.
    fn end_at(&self, group: u64, time: Instant) -> u64 {
        let entered = self.entered.get(&group).map_or(&[][..], Vec::as_slice);
        let before = entered.partition_point(|(at, _)| *at < time);
        before.checked_sub(1).map_or(0, |last| entered[last].1)
    }
}

impl Invariant for ReadsWithinBound {
    fn name(&self) -> &'static str {
        "reads_within_bound"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Made(entry) => {
                let end = entered(entry).last().map(|(offset, _)| offset + 1);
                let times = self.entered.entry(entry.group).or_default();
                if let Some(end) = end.filter(|end| times.last().is_none_or(|(_, last)| last < end))
                {
                    times.push((Instant::now(), end));
                }
                Ok(())
            }
            Event::Looked { group, asked, bound, position } => {
                let told = Duration::from_millis(position.staleness_ms.into());
                must(bound.is_none_or(|bound| told <= bound), || {
                    format!("group {group}: a read within {bound:?} was told {told:?}")
                })?;
                // It was looked at after it was asked for; a linearizable read is as of the question.
                let as_of = match bound {
                    Some(_) => asked.checked_sub(told).unwrap_or(*asked),
                    None => *asked,
                };
                let end = self.end_at(*group, as_of);
                must(position.end_offset >= end, || {
                    format!(
                        "group {group}: a read within {bound:?} ends at {}, told {told:?}, and {end} \
                         was applied before that",
                        position.end_offset
                    )
                })
            }
            Event::Read { group, reader, offset, .. } => {
                let before = self.seen.insert(*reader, *offset);
                must(before.is_none_or(|before| before < *offset), || {
                    format!("group {group}: reader {reader} saw {offset} after {before:?}")
                })
            }
            _ => Ok(()),
        }
    }
}
