//! What is published on the condition that it gets an offset gets that one, or is told truly that the queue's next is
//! another; so of those who expect the same offset one wins, and whoever was refused has not entered.

use std::collections::BTreeMap;

use quorate_machine::queue::{Command, Rejection, Reply};

use super::{Invariant, must};
use crate::events::{Event, MessageId, QueueEntry};

#[derive(Default)]
pub struct ExpectedOffset {
    /// By group: the next offset, as far as any replica has applied.
    next: BTreeMap<u64, u64>,
    /// By group and offset.
    winners: BTreeMap<(u64, u64), MessageId>,
}

impl ExpectedOffset {
    fn made(&mut self, entry: &QueueEntry<'_>) -> Result<(), String> {
        let next = self.next.entry(entry.group).or_default();
        for (command, reply) in entry.commands.iter().zip(entry.replies) {
            let expected = match command {
                Command::Publish(publish) => publish.expected_next(),
                _ => None,
            };
            match reply {
                Reply::Published { first_offset, count, duplicate: false } => {
                    must(expected.is_none_or(|expected| expected == *first_offset), || {
                        format!("{} was given to who expected {expected:?}", first_offset.0)
                    })?;
                    *next = first_offset.0 + u64::from(*count);
                }
                Reply::Rejected(Rejection::UnexpectedOffset { next: told }) => {
                    let is_true = told.0 == *next && expected != Some(*told);
                    must(is_true, || {
                        format!("who expected {expected:?} was told {}, next is {next}", told.0)
                    })?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Invariant for ExpectedOffset {
    fn name(&self) -> &'static str {
        "expected_offset"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        match *event {
            Event::Made(ref entry) => {
                self.made(entry).map_err(|reason| format!("group {}: {reason}", entry.group))
            }
            Event::Confirmed { group, id, offset: Some(offset), .. } => {
                let winner = self.winners.get(&(group, offset));
                must(winner.is_none_or(|winner| *winner == id), || {
                    format!("group {group}: {offset} was claimed by {winner:?}, and is {id}'s")
                })
            }
            Event::Claimed { group, id, expected, got: Ok(offset) } => {
                must(offset == expected, || {
                    format!("group {group}: {id} expected {expected}, and has {offset}")
                })?;
                let winner = *self.winners.entry((group, expected)).or_insert(id);
                must(winner == id, || {
                    format!("group {group}: {winner} and {id} were both given {expected}")
                })
            }
            Event::Claimed { group, id, expected, got: Err(next) } => {
                let won = self.winners.get(&(group, expected)) == Some(&id);
                must(!won && next != expected, || {
                    format!("group {group}: {id} was refused {expected}, and told {next}")
                })
            }
            _ => Ok(()),
        }
    }
}
