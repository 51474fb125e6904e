//! What a queue asks the broker to do.

use super::ids::{Attachment, Offset, Session, Token};
use crate::{LogIndex, NodeId};

/// Something to be done outside of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Hand messages to a consumer, which has leased them already.
    Deliver {
        /// The consumer.
        session: Session,
        /// The node that holds its stream.
        node: NodeId,
        /// Token of the lease.
        token: Token,
        /// The messages, in the order in which to hand them over.
        runs: Vec<Run>,
    },
    /// End a stream whose session has moved on or ended, or is to be attached anew.
    Closed {
        /// The session.
        session: Session,
        /// The node that holds the stream.
        node: NodeId,
        /// The attachment that the stream belongs to.
        attachment: Attachment,
        /// Why.
        reason: CloseReason,
    },
}

/// Why a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The session was attached again, elsewhere or at a new stream.
    Moved,
    /// It was not attached again within the grace period.
    GraceExpired,
    /// It was to be handed messages once, and there were none for as long as it waited.
    WaitOver,
    /// An administrator ended it.
    Kicked,
    /// It has a filter, and the header that the queue filters by is another one now, or none.
    FilterChanged,
    /// Settings that it was told of when it attached are others now. The session goes on, and is to be attached again.
    SettingsChanged,
}

/// Neighbouring messages of one batch, delivered equally often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Offset of the first.
    pub first_offset: Offset,
    /// Messages in the run.
    pub count: u32,
    /// Which delivery of these messages it is, from 1.
    pub attempt: u32,
    /// The entry that holds the batch.
    pub index: LogIndex,
    /// Ordinal, in its entry, of the first publish command of the batch.
    pub ordinal: u32,
    /// Messages to skip from there.
    pub skip: u32,
}
