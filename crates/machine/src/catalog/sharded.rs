//! Sharded queues: one name, and several queues behind it.
//!
//! ```text
//!                      ┌─ orders@0   a queue: its own Raft group, placed as any other
//!   orders ── hash ────┼─ orders@1
//!   of the key         └─ orders@2
//! ```
//! A shard is an ordinary [`Queue`]. What the catalog adds is that shards are made, changed and deleted together, and
//! which of them a key belongs to. Nothing here looks at messages: clients hash, see [`ShardHash`].

use super::command::{Change, CreateQueue, Queue, Rejection, Reply};
use super::names::QueueName;
use super::{Catalog, Done, GroupId};
use crate::queue::Settings;
use crate::{At, Millis};

/// Fewest shards of a sharded queue.
pub const SHARDS_MIN: u16 = 2;

/// Most shards of a sharded queue.
pub const SHARDS_MAX: u16 = 64;

/// A queue of several shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sharded {
    /// Its name, which no queue has beside it.
    pub name: QueueName,
    /// Which list of shards this is: the group of its first shard, since groups are never given twice, not by a recovered
    /// catalog either. A client that has learned another one spreads keys by a list that is no more.
    pub generation: u64,
    /// How a key is hashed.
    pub hash: ShardHash,
    /// Numbers of the shards: a key belongs to the one at its hash modulo their number.
    pub shards: Vec<u16>,
    /// When it was created.
    pub created_at: Millis,
}

impl Sharded {
    /// The names of its shards, in the order in which keys are spread over them.
    pub fn names(&self) -> impl ExactSizeIterator<Item = QueueName> {
        self.shards.iter().map(|&number| self.name.shard(number).expect("checked when it was made"))
    }
}

/// How keys are spread over shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardHash {
    /// XXH64 with seed 0 of the key's bytes.
    Xxh64,
}

impl ShardHash {
    /// Its name, as clients learn it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Xxh64 => "xxh64",
        }
    }
}

/// A sharded queue to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateSharded {
    /// Its name, and what each of its shards is to be like.
    pub queue: CreateQueue,
    /// How many, [`SHARDS_MIN`] to [`SHARDS_MAX`].
    pub shards: u16,
}

impl Catalog {
    /// The sharded queue of that name.
    #[must_use]
    pub fn sharded(&self, name: &QueueName) -> Option<&Sharded> {
        self.sharded.get(name)
    }

    /// All sharded queues, by name.
    pub fn all_sharded(&self) -> impl ExactSizeIterator<Item = &Sharded> {
        self.sharded.values()
    }

    /// The shards of a sharded queue of this catalog, in the order in which keys are spread over them.
    pub fn shards_of<'a>(&'a self, sharded: &'a Sharded) -> impl Iterator<Item = &'a Queue> {
        sharded.names().filter_map(|name| self.queues.get(&name))
    }

    pub(super) fn create_sharded(
        &mut self,
        at: At,
        create: CreateSharded,
    ) -> Result<Done, Rejection> {
        let CreateSharded { queue, shards } = create;
        let CreateQueue { name, settings, replicas, candidates } = queue;
        if name.is_shard() {
            return Err(Rejection::ShardName);
        }
        if let Some(known) = self.queues.get(&name) {
            return Err(Rejection::QueueExists { same_settings: false, group: known.group });
        }
        if let Some(known) = self.sharded.get(&name) {
            let same_settings = known.shards.len() == usize::from(shards)
                && self.shards_of(known).all(|shard| shard.is_as(&settings, replicas));
            let group = self.first_group(known);
            return Err(Rejection::QueueExists { same_settings, group });
        }
        if !(SHARDS_MIN..=SHARDS_MAX).contains(&shards) {
            return Err(Rejection::InvalidShards { shards });
        }
        if name.shard(shards - 1).is_none() {
            return Err(Rejection::ShardNameTooLong);
        }
        self.check_new(&name, &settings, replicas, shards.into())?;
        // Whether there are enough nodes does not depend on what they carry: with the first shard all can be placed.
        self.place(&candidates, replicas)?;
        let (numbers, created_at) = ((0..shards).collect(), self.now);
        let (generation, hash) = (self.groups + 1, ShardHash::Xxh64);
        let sharded = Sharded { name: name.clone(), generation, hash, shards: numbers, created_at };
        for shard in sharded.names() {
            let placement = self.place(&candidates, replicas)?;
            self.begin(at, shard, settings.clone(), placement);
        }
        let group = self.first_group(&sharded);
        self.sharded.insert(name.clone(), sharded);
        Ok((Reply::Created { group }, Some(Change::Sharded { name })))
    }

    pub(super) fn delete_sharded(&mut self, at: At, name: QueueName) -> Result<Done, Rejection> {
        let sharded = self.sharded.remove(&name).ok_or(Rejection::NotFound)?;
        let group = self.first_group(&sharded);
        for shard in sharded.names() {
            self.end(at, &shard);
        }
        Ok((Reply::Deleted { group }, Some(Change::Sharded { name })))
    }

    pub(super) fn update_sharded(
        &mut self,
        at: At,
        name: QueueName,
        settings: Settings,
    ) -> Result<Done, Rejection> {
        let sharded = self.sharded.get(&name).ok_or(Rejection::NotFound)?;
        let group = self.first_group(sharded);
        let present = self.queues[&sharded.names().next().expect("it has shards")].settings.clone();
        if present.same_as(&settings) {
            return Ok((Reply::Updated { group, version: present.version }, None));
        }
        self.check_dead_letter(&name, &settings)?;
        // They have been changed together ever since, so one version is that of all.
        let version = at.index.max(present.version + 1);
        for shard in self.sharded[&name].names() {
            let queue = self.queues.get_mut(&shard).expect("a shard is there");
            queue.settings = Settings { version, ..settings.clone() };
        }
        Ok((Reply::Updated { group, version }, Some(Change::Sharded { name })))
    }

    /// Whether a queue may be changed or deleted by itself.
    pub(super) fn check_no_shard(&self, name: &QueueName) -> Result<(), Rejection> {
        match name.sharded() {
            Some((of, _)) if self.queues.contains_key(name) => Err(Rejection::IsShard { of }),
            _ => Ok(()),
        }
    }

    /// The group of its first shard.
    pub(super) fn first_group(&self, sharded: &Sharded) -> GroupId {
        let first = self.shards_of(sharded).next();
        first.map(|queue| queue.group).expect("the shards of a sharded queue are there")
    }
}
