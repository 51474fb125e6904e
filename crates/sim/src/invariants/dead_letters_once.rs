//! What dies in a queue that has a dead-letter queue is in that one in the end, once: each with the number that it died
//! under, as it was, and with the cause, place and deliveries of its end in its headers. It leaves its own queue once it is
//! there, not before; unless it was purged.

use std::collections::{BTreeMap, BTreeSet};

use quorate_machine::queue::{Command, PublishMoved, Reply};
use quorate_proto::frame::MAX_HEADERS;
use quorate_proto::{dead_letter, frame, v1};

use super::{Invariant, entered, must};
use crate::events::{Event, MessageId, QueueEntry};
use crate::workload::body;

#[derive(Default)]
pub struct DeadLettersOnce {
    /// By group and offset.
    ids: BTreeMap<(u64, u64), Option<MessageId>>,
    /// By group and number.
    died: BTreeMap<(u64, u64), Died>,
    /// By group and number: where each was moved to.
    moved: BTreeMap<(u64, u64), (u64, u64)>,
    /// By group: numbers of those that are dead still.
    waiting: BTreeMap<u64, BTreeMap<u64, u64>>,
    /// By group: its name, as the headers have it.
    names: BTreeMap<u64, String>,
    /// By group: messages that had entered when its figures were told last.
    counted: BTreeMap<u64, u64>,
}

#[derive(Clone, Debug, PartialEq)]
struct Died {
    offset: u64,
    cause: &'static str,
    deliveries: u32,
}

impl DeadLettersOnce {
    fn made(&mut self, entry: &QueueEntry<'_>) -> Result<(), String> {
        let group = entry.group;
        let named = entered(entry).into_iter().map(|(offset, id)| ((group, offset), id));
        self.ids.extend(named);
        let mut moved_below = 0;
        for (command, reply) in entry.commands.iter().zip(entry.replies) {
            match (command, reply) {
                (Command::PublishMoved(moved), Reply::Published { first_offset, .. }) => {
                    self.arrived(group, first_offset.0, moved)?;
                }
                (Command::Moved { to }, Reply::Moved { .. }) => moved_below = *to,
                _ => {}
            }
        }
        self.departed(entry, moved_below)?;
        if entry.stats.dead == 0 {
            return Ok(());
        }
        for run in entry.queue.dead_letters(u64::MAX) {
            let first = run.run.first_offset.0;
            for (number, offset) in (run.seq..).zip(first..first + u64::from(run.run.count)) {
                let died = Died { offset, cause: run.cause.as_str(), deliveries: run.run.attempt };
                let known = self.died.entry((group, number)).or_insert_with(|| died.clone());
                must(*known == died, || format!("{number} is {died:?}, and was {known:?}"))?;
                self.waiting.entry(group).or_default().insert(offset, number);
            }
        }
        Ok(())
    }

    /// Messages come to a dead-letter queue.
    fn arrived(&mut self, target: u64, first: u64, moved: &PublishMoved) -> Result<(), String> {
        let source = moved.source;
        let layout = moved.layout.into();
        let frame = v1::Frame { layout, count: moved.count, messages: moved.frame.clone() };
        let messages = frame::messages(&frame).map_err(|error| error.to_string())?;
        for ((number, offset), message) in (moved.first..).zip(first..).zip(messages) {
            let what = format!("{number} of group {source}");
            let Some(died) = self.died.get(&(source, number)) else {
                return Err(format!("{what} was moved here, and never died"));
            };
            let before = self.moved.insert((source, number), (target, offset));
            must(before.is_none(), || format!("{what} was moved to {before:?}, and to {offset}"))?;
            let id = self.ids.get(&(source, died.offset)).copied().flatten();
            must(body::read(&message.body) == id, || {
                format!("{what} was {id:?}, and came as {:?}", body::read(&message.body))
            })?;
            let header = |key: &str| {
                let mut found = message.headers.iter().filter(|(name, _)| *name == key);
                let value =
                    found.next().map(|(_, value)| String::from_utf8_lossy(&value).into_owned());
                value.filter(|_| found.next().is_none()).unwrap_or_default()
            };
            let told = [dead_letter::CAUSE, dead_letter::OFFSET, dead_letter::DELIVERIES];
            let told = told.map(header);
            let so = [died.cause.to_owned(), died.offset.to_string(), died.deliveries.to_string()];
            // One with very many headers of its own has no room for all of these.
            let has_room = message.headers.iter().count() < MAX_HEADERS;
            must(told == so || !has_room, || {
                format!("{what} is {died:?}, and was told to be {told:?}")
            })?;
            let name = header(dead_letter::SOURCE);
            let known = self.names.entry(source).or_insert_with(|| name.clone());
            must(!has_room || (!name.is_empty() && *known == name), || {
                format!("{what} came from {known}, and is told to come from {name:?}")
            })?;
        }
        Ok(())
    }

    /// What was dead and is gone is in the other queue, or was purged.
    fn departed(&mut self, entry: &QueueEntry<'_>, moved_below: u64) -> Result<(), String> {
        let Some(waiting) = self.waiting.get_mut(&entry.group) else { return Ok(()) };
        let gone: BTreeSet<(u64, u64)> = entry
            .left
            .iter()
            .filter_map(|offset| waiting.remove(offset).map(|number| (number, *offset)))
            .collect();
        for (number, offset) in gone.into_iter().filter(|(number, _)| *number < moved_below) {
            must(self.moved.contains_key(&(entry.group, number)), || {
                format!("{offset}, dead as {number}, has left, and is in no other queue")
            })?;
        }
        Ok(())
    }
}

impl Invariant for DeadLettersOnce {
    fn name(&self) -> &'static str {
        "dead_letters_once"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Made(entry) => {
                self.made(entry).map_err(|reason| format!("group {}: {reason}", entry.group))
            }
            Event::Counted { group, counts } => {
                self.counted.insert(*group, counts.published);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn at_end(&mut self) -> Result<(), String> {
        for (group, waiting) in &self.waiting {
            // What came after the queue was told to be empty may die yet.
            let counted = self.counted.get(group).copied().unwrap_or(0);
            let waits = waiting.range(..counted).next();
            must(waits.is_none(), || format!("group {group}: dead still, by offset: {waits:?}"))?;
        }
        Ok(())
    }
}
