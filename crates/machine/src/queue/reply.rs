//! What the proposer of a command is told.

use std::fmt;

use thiserror::Error;

use super::command::{Attach, PRIORITY_MAX};
use super::ids::{Attachment, Offset};
use super::slots::SlotInfo;

/// Answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Carried out, with nothing to add; also for a session that is already gone.
    Done,
    /// The batch is in the queue.
    Published {
        /// Offset of its first message; the others follow it.
        first_offset: Offset,
        /// Messages of the batch.
        count: u32,
        /// It had entered before; nothing was added.
        duplicate: bool,
    },
    /// The session is attached.
    Attached {
        /// To be named when this stream ends.
        attachment: Attachment,
        /// The session was known, and kept its leases.
        resumed: bool,
    },
    /// Every item of a settle was looked at.
    Settled(Settled),
    /// The queue is empty.
    Purged {
        /// Messages dropped.
        count: u64,
    },
    /// The slot is there.
    SlotCreated {
        /// As it is now.
        slot: SlotInfo,
        /// False if it was there before.
        created: bool,
    },
    /// The slot has moved.
    SlotAdvanced {
        /// As it is now.
        slot: SlotInfo,
    },
    /// The consumers are at the place.
    Sought {
        /// Settled messages that are ready again, or wait for another of their group or for their time.
        again: u64,
        /// Messages before the place that left.
        left: u64,
    },
    /// Consumers were paused, resumed or ended.
    Controlled {
        /// How many were meant.
        consumers: u32,
    },
    /// All of a batch that was to be moved here is here already; nothing was added.
    AlreadyMoved,
    /// What was moved elsewhere has left.
    Moved {
        /// Messages that left just now.
        count: u64,
    },
    /// Refused; nothing has changed.
    Rejected(Rejection),
}

/// Outcome of a settle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Messages settled or extended.
    pub settled: u64,
    /// Runs `(first, count)` whose lease was not held with that token, in the order of the items.
    pub lost: Vec<(Offset, u32)>,
}

impl Settled {
    /// Whether the lease of the message at `offset` was not held.
    #[must_use]
    pub fn has_lost(&self, offset: u64) -> bool {
        let mut runs = self.lost.iter();
        runs.any(|(Offset(first), count)| (*first..first + u64::from(*count)).contains(&offset))
    }
}

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Rejection {
    /// The batch does not fit.
    #[error("queue is full: {limit} is {max}, {held} held")]
    QueueFull {
        /// The setting that it would exceed.
        limit: Limit,
        /// Value of the setting.
        max: u64,
        /// Held now, in the same unit.
        held: u64,
    },
    /// Batches before this one are missing.
    #[error("sequence is out of order: expected {expected}")]
    OutOfOrder {
        /// The producer's next sequence.
        expected: u64,
    },
    /// The sequence has been used, longer ago than the queue remembers.
    #[error("sequence is too old to tell a duplicate: {oldest} is the oldest remembered")]
    TooOldToDeduplicate {
        /// The oldest sequence remembered.
        oldest: u64,
    },
    /// A part of the batch has entered before, as part of another batch.
    #[error("sequence conflicts with an earlier batch: expected {expected}")]
    SequenceConflict {
        /// The producer's next sequence.
        expected: u64,
    },
    /// The batch would number its messages beyond the largest sequence.
    #[error("sequence exceeds 64 bits")]
    SequenceOverflow,
    /// The producer has started anew elsewhere.
    #[error("producer is fenced off by epoch {epoch}")]
    Fenced {
        /// Its present epoch.
        epoch: u32,
    },
    /// A batch of this message id has entered, and had another number of messages.
    #[error("message id is that of another batch, of {count} messages")]
    MessageIdConflict {
        /// Messages of the batch that has entered.
        count: u32,
    },
    /// The batch was to enter at another offset.
    #[error("the next offset is {}, not the one expected", .next.0)]
    UnexpectedOffset {
        /// The offset that the next message will have.
        next: Offset,
    },
    /// A batch without messages.
    #[error("batch is empty")]
    EmptyBatch,
    /// A frame that this version cannot cut.
    #[error("frame layout {layout} is unknown")]
    UnknownLayout {
        /// The layout.
        layout: u8,
    },
    /// Properties that are not of as many messages as the batch has.
    #[error("properties are to be of {count} messages in all, and of at least one each")]
    InvalidProperties {
        /// Messages of the batch.
        count: u32,
    },
    /// A priority that there is not.
    #[error("priority {priority} is not within 0 and {max}", max = PRIORITY_MAX)]
    InvalidPriority {
        /// The priority.
        priority: u8,
    },
    /// A message with a priority in a queue that has none.
    #[error("the queue has no priorities; they are switched on with its setting `priorities`")]
    NoPriorities,
    /// No room for another session.
    #[error("queue has {limit} sessions, the most it can have")]
    TooManyConsumers {
        /// The most sessions.
        limit: u32,
    },
    /// A prefetch out of range.
    #[error("prefetch {prefetch} is not within 1 and {max}", max = Attach::PREFETCH_MAX)]
    InvalidPrefetch {
        /// The prefetch asked for.
        prefetch: u32,
    },
    /// A filter in a queue that does not filter.
    #[error("the queue has no header to filter by; it is named with its setting `filter_header`")]
    NoFilter,
    /// A filter that is too long.
    #[error(
        "a filter has at most {values} values of at most {bytes} bytes each",
        values = Attach::FILTER_VALUES_MAX,
        bytes = Attach::FILTER_VALUE_BYTES_MAX
    )]
    InvalidFilter,
    /// No room for another session with a filter.
    #[error("queue has {limit} sessions with a filter, the most it can have")]
    TooManyFilters {
        /// The most of them.
        limit: u32,
    },
    /// A batch was asked for in the name of a consumer.
    #[error("the session is a consumer's, attached with a stream")]
    SessionHasStream,
    /// No session of this id or name.
    #[error("there is no such consumer")]
    ConsumerNotFound,
    /// No slot of this name.
    #[error("there is no such slot")]
    SlotNotFound,
    /// A slot of this name was made with other parameters.
    #[error("a slot of this name exists with other parameters")]
    SlotExists,
    /// Something that the slot needed is gone.
    #[error("the slot is lost: messages from {} on were let go of", .from.0)]
    SlotLost {
        /// The first message that it needed and that is gone.
        from: Offset,
    },
    /// A slot never moves back.
    #[error("the slot is at {} already and moves forward only", .position.0)]
    SlotBehind {
        /// Where it is.
        position: Offset,
    },
    /// A slot never moves beyond the end of the queue.
    #[error("the queue ends at {}", .next.0)]
    SlotBeyondEnd {
        /// The offset that the next message will have.
        next: Offset,
    },
    /// A slot cannot begin where messages are missing.
    #[error("a slot can begin within {} and {}: messages before are not all there", .first.0, .next.0)]
    SlotNotReadable {
        /// The first offset from which on all messages are there.
        first: Offset,
        /// The offset that the next message will have.
        next: Offset,
    },
    /// No room for another slot.
    #[error("queue has {limit} slots, the most it can have")]
    TooManySlots {
        /// The most slots.
        limit: u32,
    },
    /// The first messages of a batch that is moved here are here already.
    #[error("a part of the batch was moved before: go on with {next}")]
    MovedInPart {
        /// The number of the source's message that comes next.
        next: u64,
    },
    /// The source is not what it was: what it has now is numbered anew.
    #[error("the source was recovered since: it is in timeline {timeline}")]
    SourceRecovered {
        /// The latest timeline that it was heard to be in.
        timeline: u64,
    },
    /// No room for another source.
    #[error(
        "queue has had messages moved to it from {limit} queues, the most that it can remember"
    )]
    TooManySources {
        /// The most sources.
        limit: u32,
    },
    /// Messages that are to have been moved never died.
    #[error("messages died up to {next}, no more can have been moved")]
    NotDead {
        /// The number that the next dead message will have.
        next: u64,
    },
    /// Consumers never go beyond the end of the queue.
    #[error("the queue ends at {}", .next.0)]
    SeekBeyondEnd {
        /// The offset that the next message will have.
        next: Offset,
    },
    /// Messages after the place are not there any more.
    #[error("messages before {} are not all there any more", .first.0)]
    SeekForgotten {
        /// The first offset from which on all messages are there.
        first: Offset,
    },
    /// The queue keeps nothing that is settled.
    #[error("the queue does not keep settled messages: what it holds begins at {}", .first.0)]
    SeekNotRetained {
        /// Offset of the oldest message held, or that of the next one.
        first: Offset,
    },
    /// More would be held than may be.
    #[error("{limit} is {max}, and {held} would be held")]
    SeekNoRoom {
        /// The setting that it would exceed.
        limit: Limit,
        /// Value of the setting.
        max: u64,
        /// What would be held, in the same unit.
        held: u64,
    },
    /// What is to come back is not named by offset, from the place on.
    #[error("messages are to be named in order, from the place on: {} is not", .at.0)]
    SeekOutOfOrder {
        /// The first that is not.
        at: Offset,
    },
    /// Settings older than the queue's.
    #[error("settings are older than version {version}")]
    StaleSettings {
        /// Version of the queue's settings.
        version: u64,
    },
}

/// A limit of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Messages held.
    MaxMessages,
    /// Bytes held.
    MaxBytes,
    /// Runs of messages that are for later, or have a time to live, a priority, a group or a header to filter by of their
    /// own; neighbours that are alike in this count once.
    Delayed,
    /// Runs of dead messages that wait to be moved to the dead-letter queue.
    Dead,
}

impl Limit {
    /// Name of the setting.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxMessages => "max_messages",
            Self::MaxBytes => "max_bytes",
            Self::Delayed => "delayed",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
