//! A message that was confirmed at level `ACCEPTED` is lost only with the leader that confirmed it, before a
//! majority had it, or since its producer was fenced off: never because the queue thought otherwise. And the
//! position that a receipt names is that of the message.

use std::collections::{BTreeMap, BTreeSet};

use quorate_client::{AckLevel, LogPosition};
use quorate_machine::queue::{Command, Rejection, Reply};

use super::{Invariant, entered, messages, must};
use crate::events::{Event, MessageId};

#[derive(Default)]
pub struct WeakerIsDeclared {
    confirmed: BTreeMap<(u64, MessageId), (AckLevel, LogPosition)>,
    /// At which index; at several if its message id was forgotten in between.
    entered: BTreeMap<(u64, MessageId), Vec<u64>>,
    fenced: BTreeSet<(u64, MessageId)>,
    /// By group and index.
    terms: BTreeMap<(u64, u64), u64>,
    /// By group.
    newest: BTreeMap<u64, u64>,
}

impl Invariant for WeakerIsDeclared {
    fn name(&self) -> &'static str {
        "weaker_is_declared"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Confirmed { group, id, duplicate: false, level, position, .. } => {
                self.confirmed.insert((*group, *id), (*level, *position));
            }
            Event::Applied { group, term, index, .. } => {
                self.terms.insert((*group, *index), *term);
            }
            Event::Leads { group, term, .. } => {
                let newest = self.newest.entry(*group).or_default();
                *newest = (*newest).max(*term);
            }
            Event::Made(entry) => {
                for id in entered(entry).into_iter().filter_map(|(_, id)| id) {
                    self.entered.entry((entry.group, id)).or_default().push(entry.index);
                }
                for (command, reply) in entry.commands.iter().zip(entry.replies) {
                    if let (Command::Publish(publish), Reply::Rejected(Rejection::Fenced { .. })) =
                        (command, reply)
                    {
                        let ids = messages(publish).into_iter().flatten();
                        self.fenced.extend(ids.map(|id| (entry.group, id)));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn at_end(&mut self) -> Result<(), String> {
        for ((group, id), (level, position)) in &self.confirmed {
            let there = self.terms.get(&(*group, position.index)) == Some(&position.term);
            let key = (*group, *id);
            let told = || format!("{id} of group {group}, {level:?} at {position:?}");
            if let Some(indexes) = self.entered.get(&key) {
                // The receipt of a copy does not know at that level that it is one.
                must(*level == AckLevel::Accepted || indexes.contains(&position.index), || {
                    format!("{}: entered at index {indexes:?}", told())
                })?;
                continue;
            }
            must(*level == AckLevel::Accepted, || format!("{}: did not enter", told()))?;
            must(!there || self.fenced.contains(&key), || {
                format!("{}: a majority has the entry, and the queue refused it", told())
            })?;
            let newest = self.newest.get(group).copied().unwrap_or(0);
            must(there || newest > position.term, || {
                format!("{}: lost, and its leader still leads", told())
            })?;
        }
        Ok(())
    }
}
