//! The ways to the shards of a queue: one each, begun when the first message is for it.
//!
//! ```text
//!                                    ┌── lane to orders@0    its own stream, window and sequence
//!  send ── key? XXH64 mod shards ────┼── lane to orders@1
//!          none? the next in turn    └── (nothing yet for orders@2)
//! ```
//! Lanes share nothing: one that waits for a leader keeps nothing of the others back.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use futures_util::future::join_all;

use crate::error::PublishError;
use crate::message::Message;
use crate::nodes::Nodes;
use crate::producer::lane::Lane;
use crate::producer::{Batch, Pending, Settings};
use crate::sharding::{Sharding, refused};

#[derive(Debug)]
pub(crate) struct Shards {
    nodes: Arc<Nodes>,
    /// Of each lane, but for its queue.
    settings: Settings,
    sharding: Sharding,
    lanes: Vec<OnceLock<Lane>>,
    /// Messages without a key so far.
    keyless: AtomicUsize,
}

impl Shards {
    pub fn new(nodes: Arc<Nodes>, settings: Settings, sharding: Sharding) -> Self {
        let lanes = sharding.shards().iter().map(|_| OnceLock::new()).collect();
        Self { nodes, settings, sharding, lanes, keyless: AtomicUsize::new(0) }
    }

    pub async fn send(&self, message: Message) -> Result<Pending, PublishError> {
        message.check_shard_key()?;
        let place = match message.spread_by() {
            "" => self.next_place(),
            key => self.sharding.place(key),
        };
        self.lane(place).send(message).await
    }

    pub async fn send_batch(&self, batch: Batch) -> Result<Vec<Pending>, PublishError> {
        if batch.condition.expected_next_offset.is_some() {
            return Err(refused(
                "an offset is one of a shard's: a batch that expects one is published to the shard by its name".to_owned(),
            ));
        }
        for message in &batch.messages {
            message.check_shard_key()?;
        }
        let keys = batch.messages.iter().map(Message::spread_by);
        let place = match self.sharding.place_of_all(keys)? {
            Some(place) => place,
            None if batch.condition.message_id.is_empty() => self.next_place(),
            // Published again under its id, it has to come to where it is.
            None => self.sharding.place(&batch.condition.message_id),
        };
        self.lane(place).send_batch(batch).await
    }

    pub async fn flush(&self) {
        join_all(self.lanes.iter().filter_map(OnceLock::get).map(Lane::flush)).await;
    }

    /// Where the next message without a key goes: to each shard in turn as many as a batch has, but not where it would
    /// wait, if there is another.
    fn next_place(&self) -> usize {
        let turn = self.keyless.fetch_add(1, Ordering::Relaxed) / self.settings.batch_messages;
        let from = turn % self.lanes.len();
        let goes = |place: &usize| !self.lanes[*place].get().is_some_and(Lane::is_stalled);
        let mut places = (from..self.lanes.len()).chain(0..from);
        places.find(goes).unwrap_or(from)
    }

    fn lane(&self, place: usize) -> &Lane {
        self.lanes[place].get_or_init(|| {
            let shard = &self.sharding.shards()[place];
            let (queue, number) = (shard.name.clone(), Some(shard.number));
            let generation = self.sharding.generation;
            let settings = Settings { queue, shard: number, generation, ..self.settings.clone() };
            Lane::begin(Arc::clone(&self.nodes), settings)
        })
    }
}
