//! A batch that has a message id enters once for as long as the queue has to remember the id, by count and by age, whoever
//! publishes it and through whatever failovers; where it is a duplicate, it is told the place of the first. And it is
//! no longer a duplicate once the id is beyond both bounds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use quorate_machine::queue::{Command, Publish, Rejection, Reply, Settings};

use super::{Invariant, messages, must};
use crate::events::{Event, MessageId, QueueEntry};

#[derive(Default)]
pub struct OncePerMessageId {
    queues: BTreeMap<u64, Queue>,
}

#[derive(Default)]
struct Queue {
    now_ms: u64,
    settings: Settings,
    /// Ids that the queue has to remember, the oldest first: where and when they entered, and with how many messages.
    known: VecDeque<(String, Entered)>,
    /// Where the batches of an id have ever entered.
    places: BTreeMap<String, BTreeSet<u64>>,
    /// The same by message.
    offsets: BTreeMap<MessageId, BTreeSet<u64>>,
}

#[derive(Clone, Copy)]
struct Entered {
    first: u64,
    count: u32,
    since_ms: u64,
}

impl Queue {
    fn forget(&mut self) {
        let most = self.settings.message_id_window.max(1) as usize;
        let (now_ms, age_ms) = (self.now_ms, self.settings.dedup_age_ms);
        let is_old = |(_, entered): &(String, Entered)| entered.since_ms + age_ms <= now_ms;
        while self.known.len() > most || self.known.front().is_some_and(is_old) {
            self.known.pop_front();
        }
    }

    fn published(&mut self, publish: &Publish, reply: &Reply) -> Result<(), String> {
        let Some(id) = publish.message_id().map(|id| id.as_str().to_owned()) else {
            return Ok(());
        };
        let known = self.known.iter().find(|(known, _)| *known == id).map(|(_, entered)| *entered);
        match (reply, known) {
            (Reply::Published { duplicate: false, first_offset, count }, None) => {
                let (first, count, since_ms) = (first_offset.0, *count, self.now_ms);
                for (offset, message) in (first..).zip(messages(publish)) {
                    let Some(message) = message else { continue };
                    self.offsets.entry(message).or_default().insert(offset);
                }
                self.places.entry(id.clone()).or_default().insert(first);
                self.known.push_back((id, Entered { first, count, since_ms }));
                Ok(())
            }
            (Reply::Published { duplicate: false, first_offset, .. }, Some(known)) => Err(format!(
                "a batch entered at {} under id {id}, which had entered at {}",
                first_offset.0, known.first
            )),
            (Reply::Published { duplicate: true, first_offset, .. }, known) => {
                let by_id = known.is_some_and(|known| known.first == first_offset.0);
                // By its producer's sequence, which is remembered apart and judged first: where the batch of that entered.
                let there = self.places.get(&id).is_some_and(|at| at.contains(&first_offset.0));
                let by_sequence = there && publish.producer.is_some();
                let first = known.map(|known| known.first);
                must(by_id || by_sequence, || {
                    format!("id {id} entered at {first:?}, its copy is told {first_offset:?}")
                })
            }
            (Reply::Rejected(Rejection::MessageIdConflict { count }), known) => {
                let conflicts = known.is_some_and(|known| known.count != publish.count);
                must(conflicts, || format!("id {id} is said to be of {count} messages"))
            }
            _ => Ok(()),
        }
    }

    fn made(&mut self, entry: &QueueEntry<'_>) -> Result<(), String> {
        self.now_ms = self.now_ms.max(entry.now_ms);
        for (command, reply) in entry.commands.iter().zip(entry.replies) {
            self.forget();
            match command {
                Command::Configure(settings) if *reply == Reply::Done => {
                    self.settings = (**settings).clone();
                }
                Command::Publish(publish) => self.published(publish, reply)?,
                _ => {}
            }
        }
        Ok(())
    }
}

impl Invariant for OncePerMessageId {
    fn name(&self) -> &'static str {
        "once_per_message_id"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Made(entry) => {
                let queue = self.queues.entry(entry.group).or_default();
                queue.made(entry).map_err(|reason| format!("group {}: {reason}", entry.group))
            }
            Event::Confirmed { group, id, offset: Some(offset), .. } => {
                let queue = self.queues.get(group);
                let places = queue.and_then(|queue| queue.offsets.get(id));
                must(places.is_none_or(|places| places.contains(offset)), || {
                    format!("group {group}: {id} was confirmed at {offset}, it is at {places:?}")
                })
            }
            _ => Ok(()),
        }
    }
}
