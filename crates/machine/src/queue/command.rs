//! What a log entry can ask of a queue. How it is persisted is next door, in `codec`.

use bytes::Bytes;

use super::control::{Control, Target};
use super::ids::{Attachment, MessageId, Offset, ProducerId, Session, Token};
use super::settings::Settings;
use super::slots::{CreateSlot, SlotName};
use crate::{Millis, NodeId, frame};

/// A command to a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Replaces the settings. Messages beyond a lowered limit stay.
    Configure(Box<Settings>),
    /// Appends a batch, whole or not at all.
    Publish(Publish),
    /// Starts a session, or takes it up again at a new stream.
    Attach(Attach),
    /// Ends a session on purpose: its leases return at once. Ignored when the session has been
    /// attached again since.
    Detach {
        /// The session.
        session: Session,
        /// The attachment that ends.
        attachment: Attachment,
    },
    /// Says that a session's stream broke: its leases return after the grace period, unless it is
    /// attached again. Ignored when it has been already.
    Disconnect {
        /// The session.
        session: Session,
        /// The attachment that broke.
        attachment: Attachment,
    },
    /// Asks for one batch of messages, without a stream.
    Receive(Receive),
    /// Decides what becomes of leased messages.
    Settle {
        /// The session that holds the leases.
        session: Session,
        /// What to do, in order.
        items: Vec<SettleItem>,
    },
    /// Lets time pass.
    Tick,
    /// Drops every message; leases become stale.
    Purge,
    /// Drops the messages before an offset; leases of them become stale.
    PurgeBefore {
        /// The first offset that stays. Beyond the end of the queue it is like its end.
        before: Offset,
    },
    /// Sets the consumers to a place: what is ready before it leaves as if acked, and settled messages from there on that
    /// are named are ready again.
    Seek {
        /// The place.
        to: Offset,
        /// What is to come back, by offset; what of it is not settled, or has outlived its time, stays as it is.
        again: Vec<Again>,
    },
    /// A leader takes up office: every stream that the last one knew of counts as broken.
    LeaderChanged {
        /// The new leader.
        node: NodeId,
    },
    /// Makes a slot; the same one once more is no conflict.
    CreateSlot(CreateSlot),
    /// Moves a slot on; never back.
    AdvanceSlot {
        /// The slot.
        name: SlotName,
        /// [`SlotInfo::made_at`](super::SlotInfo::made_at) of the slot that is meant; 0: whichever has the name.
        made_at: u64,
        /// The first message that it needs from now on.
        to: Offset,
    },
    /// Removes a slot, and with it its hold on the log.
    DropSlot {
        /// The slot.
        name: SlotName,
    },
    /// Pauses consumers, resumes them, or ends their sessions.
    ControlConsumer {
        /// Who is meant.
        target: Target,
        /// What is to become of them.
        what: Control,
    },
    /// Appends messages that died in another queue, once.
    PublishMoved(PublishMoved),
    /// Says that the dead-letter queue has what died: it leaves.
    Moved {
        /// The number of the first dead message that it does not have yet.
        to: u64,
    },
}

/// A batch to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Who publishes, for a batch that must enter once.
    pub producer: Option<Producer>,
    /// On what else it enters; in a box, as few batches have one, and every command is as large as the largest.
    pub condition: Option<Box<Condition>>,
    /// Messages in the frame, at least 1.
    pub count: u32,
    /// Layout of the frame; see [`crate::frame`].
    pub layout: u8,
    /// What sets its messages apart, run by run, as many as the frame has; empty if nothing does.
    pub properties: Vec<Properties>,
    /// The messages.
    pub frame: Bytes,
}

impl Publish {
    /// A batch of plain messages, to enter as often as it is published.
    #[must_use]
    pub fn plain(count: u32, frame: Bytes) -> Self {
        Self {
            producer: None,
            condition: None,
            count,
            layout: frame::LAYOUT,
            properties: Vec::new(),
            frame,
        }
    }

    /// Name of the batch, for one that must enter once.
    #[must_use]
    pub fn message_id(&self) -> Option<&MessageId> {
        self.condition.as_ref()?.message_id.as_ref()
    }

    /// The offset that the batch is to enter at, or not at all.
    #[must_use]
    pub fn expected_next(&self) -> Option<Offset> {
        self.condition.as_ref()?.expected_next
    }
}

/// On what a batch enters, beside its producer's sequence: at least one of the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Name of the batch, for one that must enter once. Judged after the producer's sequence.
    pub message_id: Option<MessageId>,
    /// The batch is to enter at this offset, or not at all. Judged after what would make it a duplicate.
    pub expected_next: Option<Offset>,
}

impl Condition {
    /// A condition, if there is one.
    #[must_use]
    pub fn of(message_id: Option<MessageId>, expected_next: Option<Offset>) -> Option<Box<Self>> {
        let is_one = message_id.is_some() || expected_next.is_some();
        is_one.then(|| Box::new(Self { message_id, expected_next }))
    }
}

/// A batch of dead messages that comes from another queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishMoved {
    /// The other queue's Raft group.
    pub source: u64,
    /// The timeline that it is in.
    pub timeline: u64,
    /// The number that the first message was given there when it died; those of the others follow.
    pub first: u64,
    /// Messages in the frame, at least 1.
    pub count: u32,
    /// Layout of the frame; see [`crate::frame`].
    pub layout: u8,
    /// The messages.
    pub frame: Bytes,
}

/// What sets neighbouring messages of a batch apart from plain ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// Messages that they are about, at least 1.
    pub count: u32,
    /// Not to be delivered before this time.
    pub due: Option<Millis>,
    /// Not to be delivered from this time on.
    pub expires: Option<Millis>,
    /// 0 to [`PRIORITY_MAX`]; higher ones are delivered first. Other than 0 only in a queue that has priorities.
    pub priority: u8,
    /// To be delivered one after the other: what the broker hashed their key to.
    pub group: Option<u64>,
    /// What consumers may filter by: what the broker hashed the header to that is set for it (see
    /// [`tag_of`](super::tag_of)).
    pub tag: Option<u64>,
}

/// Neighbouring messages that were published alike, and are to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Again {
    /// Offset of the first.
    pub first: Offset,
    /// How many, and what they were published with.
    pub of: Properties,
}

impl Again {
    pub(super) fn end(&self) -> u64 {
        self.first.0.saturating_add(self.of.count.into())
    }
}

/// The highest priority.
pub const PRIORITY_MAX: u8 = 9;

/// An idempotent producer and the place of a batch in what it sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Producer {
    /// Its name.
    pub id: ProducerId,
    /// Raised by the client whenever it starts numbering anew; fences older ones off.
    pub epoch: u32,
    /// Sequence of the batch's first message; each message takes one.
    pub sequence: u64,
}

/// A consumer that comes, or comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attach {
    /// Chosen by the client.
    pub session: Session,
    /// The node that holds the stream.
    pub node: NodeId,
    /// For people to read; at most [`Attach::NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// Most messages leased to it at a time, 1 to [`Attach::PREFETCH_MAX`].
    pub prefetch: u32,
    /// Length of its leases in milliseconds, if not the queue's.
    pub lease_ms: Option<u32>,
    /// It tells which messages it has begun to handle ([`SettleKind::Start`]); of the others no delivery is counted when
    /// it ends.
    pub tells_starts: bool,
    /// Values of the queue's filter header: it is handed messages with one of these only. Empty: any messages.
    pub filter: Vec<String>,
}

/// A request for one batch of messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receive {
    /// Chosen by the client; not one that is attached with a stream.
    pub session: Session,
    /// The node that answers the request.
    pub node: NodeId,
    /// For people to read; at most [`Attach::NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// Most messages, 1 to [`Attach::PREFETCH_MAX`].
    pub count: u32,
    /// Length of the leases in milliseconds, if not the queue's.
    pub lease_ms: Option<u32>,
    /// How long to wait for a first message, in milliseconds.
    pub wait_ms: u32,
    /// As [`Attach::filter`].
    pub filter: Vec<String>,
}

impl Attach {
    /// The longest name of a consumer, in bytes.
    pub const NAME_BYTES_MAX: usize = 256;
    /// The largest prefetch.
    pub const PREFETCH_MAX: u32 = 65_535;
    /// Most values of a filter.
    pub const FILTER_VALUES_MAX: usize = 16;
    /// The longest value of a filter, in bytes.
    pub const FILTER_VALUE_BYTES_MAX: usize = 256;
}

/// What becomes of a run of messages that one entry leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SettleItem {
    /// What to do.
    pub kind: SettleKind,
    /// Token of the lease.
    pub token: Token,
    /// First message of the run.
    pub first: Offset,
    /// Messages in the run.
    pub count: u32,
}

impl SettleItem {
    /// Most items of one command.
    pub const ITEMS_MAX: usize = 65_536;
}

/// The ways to settle, and what else is said about leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettleKind {
    /// Done: the message is gone.
    Ack,
    /// Not done: back to its place in the queue.
    Nack {
        /// Not before so many milliseconds have passed; 0: the queue's back-off.
        delay_ms: u32,
    },
    /// Never to be delivered again.
    Reject,
    /// Not done yet: the lease lasts at least so much longer.
    Extend {
        /// Milliseconds from now; an extension never shortens a lease.
        lease_ms: u32,
    },
    /// Not begun: back to its place at once, and the delivery does not count.
    Return,
    /// Begun to handle: from now on the delivery counts, whatever becomes of the consumer.
    Start,
}
