//! The queue: messages that go in once, in order, are leased to consumers and are settled.
//!
//! ```text
//!               publish                 finish (credit)               ack
//!   producer ───────────► ready ──────────────────────────► leased ─────────► acked
//!                          ▲ ▲  nack, detach, expiry, grace  │ │ │ reject
//!                          │ └───────────────────────────────┘ │ └──────────► rejected
//!                          │ due                    nack later │  deliveries
//!   publish for later ───► └────────────── delayed ◄───────────┘  used up ──► exhausted
//!                                                  or back-off
//!   publish behind another of its key ──► blocked ──► ready or delayed, once that other one has left
//! ```
//!
//! What is ready or delayed also leaves when its time to live is over (`expiry`), or to make room (`overflow`). With a
//! dead-letter queue what is rejected, exhausted or expired is `dead` instead, until it has been moved there.
//!
//! Where settled messages are kept for readers, consumers can be set back, and what was settled is ready once more (`seeking`).
//!
//! Every message is in exactly one of these places or was purged; that is asserted after every
//! command. Memory is one record a batch (`backlog`) and one a run of messages that differ from
//! the rest (`ready`, `delayed`, `leased`, `dead`).
//!
//! Which message goes to whom is decided here, once an entry (`delivery`), on every replica
//! alike; the effect only says so.

use std::ops::RangeInclusive;

use bytes::{Bytes, BytesMut};

use crate::wire::{DecodeError, SnapshotError};
use crate::{At, Machine, Millis, NodeId};

mod backlog;
mod bodies;
mod check;
mod codec;
mod command;
mod consumers;
mod control;
mod dead;
mod dedup;
mod delayed;
mod delivery;
mod effect;
mod expiry;
mod explain;
mod groups;
mod holding;
mod ids;
mod leased;
mod lives;
mod message_ids;
mod overflow;
mod places;
mod publish;
mod purging;
mod reading;
mod ready;
mod receive;
mod reply;
mod retained;
mod retry;
mod sections;
mod seeking;
mod sessions;
mod settings;
mod settle;
mod slots;
mod snapshot;
mod sources;
mod stats;
mod tags;

pub use bodies::{body, properties, without_bodies};
pub use command::{
    Again, Attach, Command, Condition, PRIORITY_MAX, Producer, Properties, Publish, PublishMoved,
    Receive, SettleItem, SettleKind,
};
pub use consumers::{CONSUMERS_MAX, FILTERED_MAX};
pub use control::{Control, Target};
pub use dead::{Cause, DEAD_MAX, DeadRun};
pub use dedup::PRODUCERS_MAX;
pub use delayed::DELAYED_MAX;
pub use effect::{CloseReason, Effect, Run};
pub use explain::{Crowd, Explanation, Holder, Kept, Obstacle, Place, Standing, Waiting, Way};
pub use groups::group_of;
pub use ids::{
    Attachment, MessageId, MessageIdError, Offset, ProducerId, ProducerIdError, Session, Token,
};
pub use message_ids::MESSAGE_IDS_MAX;
pub use places::Whereabouts;
pub use reading::{Piece, View};
pub use reply::{Limit, Rejection, Reply, Settled};
pub use retained::RETAINED_MAX;
pub use retry::UNCHARGED_MAX;
pub use seeking::{SEEK_RUNS_MAX, SeekTo};
pub use settings::{
    FILTER_HEADER_BYTES_MAX, IN_SYNC_LAG_MS_MAX, LEASE_MS_MAX, RETRY_MAX_MS_DEFAULT, RETRY_MS_MAX,
    Settings,
};
pub use slots::{
    CreateSlot, SLOT_RETAINED_BYTES_DEFAULT, SLOTS_MAX, SlotInfo, SlotName, SlotNameError,
    SlotStart, SlotState,
};
pub use sources::SOURCES_MAX;
pub use stats::{ConsumerInfo, Stats};
pub use tags::tag_of;

use retry::Ending;

/// State of a queue.
#[derive(Debug, Default)]
pub struct Queue {
    settings: Settings,
    /// The latest time seen.
    now: Millis,
    backlog: backlog::Backlog,
    ready: ready::Ready,
    delayed: delayed::Delayed,
    expiry: expiry::Expiry,
    leased: leased::Leased,
    groups: groups::Groups,
    dead: dead::Dead,
    consumers: consumers::Consumers,
    dedup: dedup::Dedup,
    sources: sources::Sources,
    message_ids: message_ids::MessageIds,
    gone: Gone,
    retained: retained::Retained,
    slots: slots::Slots,
    uncharged: retry::Uncharged,
    /// Nobody is handed anything.
    paused: bool,
    /// Index of the entry that is applied; not part of the state.
    entry: u64,
    /// What an entry hands out, while it is decided; kept for its memory, and not part of the state.
    grants: Vec<delivery::Grant>,
    /// The publish command before this one, in the same entry, was accepted.
    merge: bool,
}

/// Messages that have left, by the way that they went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Gone {
    acked: u64,
    rejected: u64,
    exhausted: u64,
    purged: u64,
    expired: u64,
    dropped: u64,
    dead_lettered: u64,
    /// Of these, so many have come back.
    replayed: u64,
}

impl Queue {
    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    #[inline]
    fn execute(
        &mut self,
        at: At,
        ordinal: u32,
        command: Command,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        match command {
            Command::Configure(settings) => self.configure(*settings, effects),
            Command::Publish(ref publish) => self.publish(at.index, ordinal, publish),
            Command::Attach(attach) => self.attach(attach, effects),
            Command::Detach { session, attachment } => self.detach(session, attachment),
            Command::Disconnect { session, attachment } => self.disconnect(session, attachment),
            Command::Receive(receive) => self.receive(receive),
            Command::Settle { session, items } => Reply::Settled(self.settle(session, &items)),
            Command::Tick => Reply::Done,
            Command::Purge => self.purge(),
            Command::PurgeBefore { before } => self.purge_before(before),
            Command::Seek { to, again } => self.seek(to, &again),
            Command::LeaderChanged { node: _ } => self.leader_changed(),
            Command::CreateSlot(create) => self.create_slot(at.index, create),
            Command::AdvanceSlot { name, made_at, to } => self.advance_slot(&name, made_at, to),
            Command::DropSlot { name } => self.drop_slot(&name),
            Command::ControlConsumer { target, what } => self.control(&target, what, effects),
            Command::PublishMoved(moved) => self.publish_moved(at.index, ordinal, &moved),
            Command::Moved { to } => self.moved(to),
        }
    }

    /// Does all that is due by now.
    fn advance(&mut self, at: At, effects: &mut Vec<Effect>) {
        self.now = self.now.max(at.now);
        self.entry = at.index;
        while let Some((session, span, started)) = self.leased.pop_expired(self.now) {
            self.consumers.release_expired(session, span.count, self.settings.single_active);
            self.take_back(span, started, Ending::Death);
        }
        for _ in 0..delayed::DUE_MAX {
            let Some(span) = self.delayed.pop_due(self.now) else { break };
            self.ready.give_back(span);
        }
        self.end_graces(effects);
        // Last of what moves messages, as it judges those anew that came back.
        self.expire();
        self.dedup.evict(self.now, self.settings.dedup_age_ms);
        if self.message_ids.len() > 0 {
            self.message_ids.evict(self.now, &self.settings);
        }
        self.trim();
    }

    fn is_exhausted(&self, attempts: u32) -> bool {
        self.settings.max_deliveries > 0 && attempts >= self.settings.max_deliveries
    }

    fn configure(&mut self, settings: Settings, effects: &mut Vec<Effect>) -> Reply {
        let version = self.settings.version;
        if settings.version < version {
            return Reply::Rejected(Rejection::StaleSettings { version });
        }
        if settings.single_active && !self.settings.single_active {
            self.consumers.line_up();
        }
        let before = std::mem::replace(&mut self.settings, settings);
        self.ttl_configured(before.ttl_ms);
        if self.settings.filter_header != before.filter_header {
            self.end_filtered(effects);
        }
        self.close_outdated(&before, effects);
        Reply::Done
    }

    /// No message is lost, and none is in two places.
    #[inline]
    fn assert_conservation(&self) {
        let waiting = self.ready.len() + self.delayed.len() + self.groups.len();
        let held = waiting + self.leased.len() + self.dead.len();
        let Gone { acked, rejected, exhausted, purged, expired, dropped, dead_lettered, replayed } =
            self.gone;
        let given_up = rejected + exhausted + expired + dropped + dead_lettered;
        assert_eq!(
            self.ready.next() + replayed,
            held + acked + given_up + purged,
            "every message published is held or gone"
        );
        assert_eq!(self.backlog.messages(), held, "every message held has a batch");
    }
}

impl Machine for Queue {
    type Command = Command;
    type Reply = Reply;
    type Effect = Effect;

    fn new() -> Self {
        Self::default()
    }

    fn apply(
        &mut self,
        at: At,
        ordinal: u32,
        command: Command,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        self.advance(at, effects);
        let reply = self.execute(at, ordinal, command, effects);
        self.assert_conservation();
        reply
    }

    fn finish(&mut self, at: At, effects: &mut Vec<Effect>) {
        self.advance(at, effects);
        self.deliver(Token(at.index), effects);
        if self.end_waits(effects) && self.settings.single_active {
            // Who was in front has left the line, and the next one may be handed messages.
            self.deliver(Token(at.index), effects);
        }
        self.merge = false;
        self.assert_conservation();
    }

    fn encode(command: &Command, out: &mut BytesMut) {
        codec::encode(command, out);
    }

    fn decode(bytes: &mut Bytes) -> Result<Command, DecodeError> {
        codec::decode(bytes)
    }

    fn snapshot(&self) -> Vec<u8> {
        snapshot::write(self)
    }

    fn restore(bytes: &[u8]) -> Result<Self, SnapshotError> {
        snapshot::read(bytes)
    }

    fn live(&self) -> Vec<RangeInclusive<u64>> {
        backlog::indexes(self.readable(0))
    }

    fn hash(&self) -> u64 {
        snapshot::hash(self)
    }

    fn now(&self) -> Millis {
        self.now
    }

    fn next_deadline(&self) -> Option<Millis> {
        let deadlines = [
            self.leased.next_deadline(),
            self.delayed.next_deadline(),
            self.expiry_deadline(),
            self.consumers.next_deadline(),
            self.dedup.next_deadline(self.settings.dedup_age_ms),
            self.message_ids.next_deadline(self.settings.dedup_age_ms),
            self.retention_deadline(),
            self.slots.next_deadline(self.now, self.ready.next()),
        ];
        deadlines.into_iter().flatten().min()
    }

    fn tick() -> Command {
        Command::Tick
    }

    fn leader_changed(node: u64) -> Command {
        Command::LeaderChanged { node: NodeId(node) }
    }

    fn outstanding(&self, effects: &mut Vec<Effect>) {
        for (session, consumer) in self.consumers.iter() {
            if consumer.grace.is_none() && consumer.receiver.is_none() {
                self.deliver_again(session, consumer.node, effects);
            }
        }
    }
}
