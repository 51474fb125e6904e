//! What a queue tells about itself.

use super::Queue;
use super::consumers::Consumer;
use super::dedup::PRODUCERS_MAX;
use super::ids::{Offset, ProducerId, Session, Token};
use super::slots::SlotInfo;
use crate::{Millis, NodeId};

/// Figures of a queue. `published` and `replayed` are together the sum of the twelve counts after them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Messages ever accepted.
    pub published: u64,
    /// Times that a settled message was made ready again, as consumers were set back.
    pub replayed: u64,
    /// Messages that wait for a consumer.
    pub ready: u64,
    /// Messages that a consumer holds.
    pub leased: u64,
    /// Messages that wait for their time.
    pub delayed: u64,
    /// Messages that wait for another of their group.
    pub blocked: u64,
    /// Messages done.
    pub acked: u64,
    /// Messages rejected by a consumer.
    pub rejected: u64,
    /// Messages dropped because they were delivered often enough.
    pub exhausted: u64,
    /// Messages dropped by a purge.
    pub purged: u64,
    /// Messages that nobody took in time.
    pub expired: u64,
    /// Messages dropped to make room for newer ones.
    pub dropped: u64,
    /// Messages that ended without an ack and wait to be moved to the dead-letter queue.
    pub dead: u64,
    /// Messages that were moved there.
    pub dead_lettered: u64,
    /// Messages settled and kept for readers, those of batches that are held in part not counted.
    pub retained: u64,
    /// Bytes of those.
    pub retained_bytes: u64,
    /// The first offset that a reader may see, or `next_offset`.
    pub first_readable: Offset,
    /// Bytes held; of a batch that is partly gone, its share.
    pub bytes: u64,
    /// Offset of the oldest message held, or `next_offset`.
    pub first_offset: Offset,
    /// Offset that the next message will have.
    pub next_offset: Offset,
    /// When the batch of the oldest message held was applied.
    pub oldest: Option<Millis>,
    /// Batches held.
    pub batches: u64,
    /// Producers remembered.
    pub producers: u64,
    /// Message ids remembered.
    pub message_ids: u64,
    /// Sessions, by id.
    pub consumers: Vec<ConsumerInfo>,
    /// Slots, by name.
    pub slots: Vec<SlotInfo>,
    /// Nobody is handed anything until everyone is resumed.
    pub paused: bool,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerInfo {
    /// Its id.
    pub session: Session,
    /// The name that its client gave.
    pub name: String,
    /// The node that holds its stream.
    pub node: NodeId,
    /// Most messages leased to it at a time.
    pub prefetch: u32,
    /// Messages leased to it.
    pub leased: u32,
    /// False while it is waited for; of one that receives without a stream, while no request of it waits.
    pub connected: bool,
    /// Where one consumer at a time is handed messages, that it is this one.
    pub active: bool,
    /// It is handed nothing until it is resumed.
    pub paused: bool,
    /// It tells which messages it has begun to handle.
    pub tells_starts: bool,
    /// Values of the queue's filter header that it is handed; empty if it is handed any messages.
    pub filter: Vec<String>,
}

impl Queue {
    /// Figures as of the last entry. Takes time in proportion to runs that are dead, and consumers, not to
    /// messages.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            published: self.ready.next(),
            replayed: self.gone.replayed,
            ready: self.ready.len(),
            leased: self.leased.len(),
            delayed: self.delayed.len(),
            blocked: self.groups.len(),
            acked: self.gone.acked,
            rejected: self.gone.rejected,
            exhausted: self.gone.exhausted,
            purged: self.gone.purged,
            expired: self.gone.expired,
            dropped: self.gone.dropped,
            dead: self.dead.len(),
            dead_lettered: self.gone.dead_lettered,
            retained: self.retained.messages(),
            retained_bytes: self.retained.bytes(),
            first_readable: self.first_readable(),
            bytes: self.backlog.bytes(),
            first_offset: Offset(self.first_offset()),
            next_offset: Offset(self.ready.next()),
            oldest: self.backlog.iter().next().map(|batch| batch.since),
            batches: self.backlog.len() as u64,
            producers: self.dedup.len() as u64,
            message_ids: self.message_ids.len() as u64,
            consumers: self.consumers_after(None).collect(),
            slots: self.slots(),
            paused: self.paused,
        }
    }

    /// Whether `session` holds the message at `offset` under `token`.
    #[must_use]
    pub fn holds(&self, session: Session, token: Token, offset: Offset) -> bool {
        let lease = self.leased.overlapping(session, offset.0, offset.0 + 1);
        lease.is_some_and(|(_, lease)| lease.token == token)
    }

    /// Whether `session` is a consumer's that is attached with a stream.
    #[must_use]
    pub fn has_stream(&self, session: Session) -> bool {
        self.consumers.get(session).is_some_and(|consumer| consumer.receiver.is_none())
    }

    /// When a producer last published, if the queue remembers it under that epoch, and is not about to forget
    /// it for others.
    #[must_use]
    pub fn producer_used(&self, id: &ProducerId, epoch: u32) -> Option<Millis> {
        let crowded = self.dedup.len() > PRODUCERS_MAX / 2;
        self.dedup.last_used(id, epoch).filter(|_| !crowded)
    }

    /// The offset that the next message will have.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        Offset(self.ready.next())
    }

    /// The latest time that an entry was stamped with.
    #[must_use]
    pub fn now(&self) -> Millis {
        self.now
    }

    /// Never delivered messages begin at the cursor; everything else held is before it. What is blocked comes after the
    /// head of its group, which is looked at, unless consumers were set back.
    pub(super) fn first_offset(&self) -> u64 {
        let dead = self.dead.iter().map(|died| died.span.first);
        let waiting = self.ready.first_returned().into_iter().chain(self.delayed.first());
        let lowest =
            waiting.chain(self.leased.first()).chain(dead).chain(self.groups.first_early()).min();
        lowest.unwrap_or(self.ready.cursor())
    }

    /// Who holds something, as nobody else is served meanwhile, or else who is in front. One that is paused is neither:
    /// it is followed by the next one once it holds nothing.
    fn is_active(&self, session: Session, consumer: &Consumer) -> bool {
        let holds_or_is_next = match self.leased.len() {
            0 => self.consumers.is_next(session),
            _ => consumer.leased > 0 && !consumer.paused,
        };
        self.settings.single_active && holds_or_is_next
    }

    /// Sessions beyond `after`, by id.
    pub fn consumers_after(&self, after: Option<Session>) -> impl Iterator<Item = ConsumerInfo> {
        self.consumers.after(after).map(|(session, consumer)| self.info(session, consumer))
    }

    /// A session, if it is known.
    pub(super) fn consumer_info(&self, session: Session) -> Option<ConsumerInfo> {
        self.consumers.get(session).map(|consumer| self.info(session, consumer))
    }

    fn info(&self, session: Session, consumer: &Consumer) -> ConsumerInfo {
        ConsumerInfo {
            session,
            name: consumer.name.clone(),
            node: consumer.node,
            prefetch: consumer.prefetch,
            leased: consumer.leased,
            connected: consumer.is_connected(),
            active: self.is_active(session, consumer),
            paused: consumer.paused,
            tells_starts: consumer.tells_starts,
            filter: consumer.filter.clone(),
        }
    }

    /// Whether nobody is handed anything until everyone is resumed.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused
    }
}
