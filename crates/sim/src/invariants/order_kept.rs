//! Offsets of one producer's messages follow the order in which it sent them; and a consumer is
//! shown first deliveries in the order of the queue, but for messages that were published for later, with a group key or
//! with a priority, and those that came back, by a seek or from a delivery that was not counted.

use std::collections::{BTreeMap, BTreeSet};

use quorate_machine::queue::{Command, Effect, Reply};

use super::{Invariant, entered, moved_here, must, named};
use crate::events::Event;

#[derive(Default)]
pub struct OrderKept {
    /// By group and producer: the last sequence that entered. Offsets only grow as entries come.
    entered: BTreeMap<(u64, u32), u32>,
    next_offset: BTreeMap<u64, u64>,
    /// By group and consumer: the last first delivery, and the tokens by offset: a lease that a
    /// consumer gave up for lost may be shown to it again.
    shown: BTreeMap<(u64, u32), (u64, BTreeMap<u64, u64>)>,
    /// By group and offset: what was published for later, with a key or with a priority, leased more than once, or came back
    /// by a seek.
    later: BTreeSet<(u64, u64)>,
    /// By group and offset: the token of the first lease.
    leased: BTreeMap<(u64, u64), u64>,
}

impl Invariant for OrderKept {
    fn name(&self) -> &'static str {
        "order_kept"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Made(entry) => {
                let group = entry.group;
                for (command, reply) in entry.commands.iter().zip(entry.replies) {
                    if let (Command::Publish(publish), Reply::Published { first_offset, .. }) =
                        (command, reply)
                    {
                        let each = publish.properties.iter();
                        let each = each.flat_map(|of| std::iter::repeat_n(of, of.count as usize));
                        let later = (first_offset.0..).zip(each);
                        let later = later.filter(|(_, of)| {
                            of.due.is_some() || of.group.is_some() || of.priority > 0
                        });
                        self.later.extend(later.map(|(offset, _)| (group, offset)));
                    }
                }
                self.later.extend(entry.returned.iter().map(|(offset, _)| (group, *offset)));
                for effect in entry.effects {
                    let Effect::Deliver { token, runs, .. } = effect else { continue };
                    for run in runs {
                        let first = run.first_offset.0;
                        for offset in first..first + u64::from(run.count) {
                            if *self.leased.entry((group, offset)).or_insert(token.0) != token.0 {
                                self.later.insert((group, offset));
                            }
                        }
                    }
                }
                // They are not in the order in which they were sent.
                let others: BTreeSet<u64> = moved_here(entry).chain(named(entry)).collect();
                for (offset, id) in entered(entry) {
                    let due = self.next_offset.insert(group, offset + 1).unwrap_or(0);
                    must(offset == due, || {
                        format!("group {group}: offset {offset} was given where {due} was due")
                    })?;
                    let Some(id) = id.filter(|_| !others.contains(&offset)) else { continue };
                    let before = self.entered.insert((group, id.producer), id.sequence);
                    must(before.is_none_or(|before| before < id.sequence), || {
                        format!("group {group}: {id} entered after p{}-{before:?}", id.producer)
                    })?;
                }
                Ok(())
            }
            Event::Delivered { group, offset, .. } if self.later.contains(&(*group, *offset)) => {
                Ok(())
            }
            Event::Delivered { group, consumer, offset, attempt: 1, token, .. } => {
                let (last, tokens) = self.shown.entry((*group, *consumer)).or_default();
                let first = tokens.is_empty();
                if tokens.insert(*offset, *token) == Some(*token) {
                    return Ok(());
                }
                let before = std::mem::replace(last, (*last).max(*offset));
                must(first || before < *offset, || {
                    format!("group {group} consumer {consumer}: {offset} shown after {before}")
                })
            }
            _ => Ok(()),
        }
    }
}
