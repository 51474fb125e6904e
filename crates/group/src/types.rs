//! The types that openraft is instantiated with: one instantiation for every kind of machine, since
//! each costs a long compile. What differs between machines is erased in [`Replies`] and in the
//! state machine's applier.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use openraft::RaftTypeConfig;
use openraft::impls::leader_id_std;
use openraft::raft::responder::Responder;
use openraft::vote::{RaftLeaderId, RaftLeaderIdExt};
use tokio::sync::oneshot;

use crate::runtime::Runtime;
use crate::state_machine::StateMachine;

/// openraft's type configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Types;

impl RaftTypeConfig for Types {
    type D = Payload;
    type R = Replies;
    type NodeId = u64;
    type Node = openraft::EmptyNode;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Payload, u64, openraft::EmptyNode>;
    type Entry = openraft::Entry<Committed, Self::Payload>;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = OnComplete<T>
    where
        T: Send + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: Send + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// openraft's handle of one replica.
pub type Raft = openraft::Raft<Types, StateMachine>;
pub(crate) type LogId = openraft::type_config::alias::LogIdOf<Types>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<Types>;
pub(crate) type Entry = openraft::type_config::alias::EntryOf<Types>;
pub(crate) type Membership = openraft::Membership<u64, openraft::EmptyNode>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Types>;
type LeaderId = leader_id_std::LeaderId<u64, u64>;
type Committed = <LeaderId as RaftLeaderId>::Committed;

pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId::new_committed(term, 0), index }
}

pub(crate) fn term_of(id: &LogId) -> u64 {
    id.leader_id.term
}

/// A place in a group's log. No two entries have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Term of the leader that made the entry.
    pub term: u64,
    /// Log index.
    pub index: u64,
}

impl From<&LogId> for Position {
    fn from(id: &LogId) -> Self {
        Self { term: term_of(id), index: id.index }
    }
}

/// Commands of one entry, encoded by `quorate_machine::EntryBuilder`.
#[derive(Clone)]
pub struct Payload {
    pub(crate) commands: Bytes,
    /// Who wants to know when the entry is on the disk of the node that made it. Not persisted.
    pub(crate) written: Option<Written>,
}

impl Payload {
    /// An entry that nobody waits to see on the leader's own disk.
    #[must_use]
    pub fn new(commands: Bytes) -> Self {
        Self { commands, written: None }
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.commands == other.commands
    }
}

/// An entry that is on its leader's own disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnDisk {
    /// Where it is.
    pub position: Position,
    /// The leader's time that it was stamped with.
    pub stamped_ms: u64,
}

/// Those who wait for an entry to be on its leader's own disk.
#[derive(Clone)]
pub(crate) struct Written {
    waiting: Arc<Mutex<Vec<oneshot::Sender<OnDisk>>>>,
    stamped_ms: u64,
}

impl Written {
    pub(crate) fn new(waiting: Vec<oneshot::Sender<OnDisk>>, stamped_ms: u64) -> Option<Self> {
        (!waiting.is_empty()).then(|| Self { waiting: Arc::new(Mutex::new(waiting)), stamped_ms })
    }

    pub(crate) fn tell(&self, position: Position) {
        let waiting = std::mem::take(&mut *self.waiting.lock().expect("no panic while held"));
        for waiting in waiting {
            let _ = waiting.send(OnDisk { position, stamped_ms: self.stamped_ms });
        }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.commands.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.commands.len())
    }
}

/// The replies to the commands of one entry: a `Vec<M::Reply>` of the group's machine.
pub struct Replies(pub(crate) Box<dyn Any + Send + Sync>);

impl fmt::Debug for Replies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Replies")
    }
}

/// Runs a closure where an entry's outcome becomes known, so that no task has to wait for it.
pub struct OnComplete<T>(Box<dyn FnOnce(T) + Send>);

impl<T> OnComplete<T> {
    pub(crate) fn new(run: impl FnOnce(T) + Send + 'static) -> Self {
        Self(Box::new(run))
    }
}

impl<T: Send + 'static> Responder<Types, T> for OnComplete<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}
