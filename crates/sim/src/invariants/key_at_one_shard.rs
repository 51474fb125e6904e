//! Of a sharded queue, what is published by a key enters at the shard that the key is hashed to, whoever hashes, and at no
//! other; and in the order in which its producer sent it, which is that of the shard.

use std::collections::BTreeMap;

use quorate_proto::sharding;

use super::{Invariant, entered, moved_here, must};
use crate::events::{Event, MessageId};

#[derive(Default)]
pub struct KeyAtOneShard {
    /// The group of the shard that each message belongs to, and its key.
    belongs: BTreeMap<MessageId, (u64, String)>,
    /// By key: where its messages have entered.
    at: BTreeMap<String, u64>,
    /// By producer and key: the last that entered.
    last: BTreeMap<(u32, String), u32>,
}

impl KeyAtOneShard {
    fn is_at(&self, group: u64, id: MessageId) -> Result<(), String> {
        let belongs = self.belongs.get(&id);
        must(belongs.is_none_or(|(shard, _)| *shard == group), || {
            format!("{id} is in group {group}, and its shard and key are {belongs:?}")
        })
    }

    fn entered(&mut self, group: u64, id: MessageId) -> Result<(), String> {
        self.is_at(group, id)?;
        let Some((_, key)) = self.belongs.get(&id) else { return Ok(()) };
        let first = *self.at.entry(key.clone()).or_insert(group);
        must(first == group, || format!("{key:?} is in groups {first} and {group}"))?;
        let before = self.last.insert((id.producer, key.clone()), id.sequence);
        must(before.is_none_or(|before| before < id.sequence), || {
            format!("{id} of {key:?} entered after p{}-{before:?}", id.producer)
        })
    }
}

impl Invariant for KeyAtOneShard {
    fn name(&self) -> &'static str {
        "key_at_one_shard"
    }

    fn saw(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Keyed { shards, id, key } => {
                let shard = shards[sharding::place(key.as_bytes(), shards.len())];
                self.belongs.insert(*id, (shard, (*key).to_owned()));
                Ok(())
            }
            Event::Made(entry) => {
                let moved: Vec<u64> = moved_here(entry).collect();
                for (offset, id) in entered(entry) {
                    let Some(id) = id.filter(|_| !moved.contains(&offset)) else { continue };
                    self.entered(entry.group, id)?;
                }
                Ok(())
            }
            Event::Confirmed { group, id, .. } => self.is_at(*group, *id),
            _ => Ok(()),
        }
    }
}
