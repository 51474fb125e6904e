//! What Quorate replicates: two state machines, a [`queue`] and a [`catalog`].
//!
//! Everything here is synchronous and pure. There is no clock, no randomness, no disk and no
//! network: time and log positions come in with [`At`], and whatever must happen outside goes out
//! as an effect. So every replica that applies the same entries holds the same state, which
//! [`Machine::hash`] lets them compare.
//!
//! ```text
//!  log entry ── entry::decode_entry ──► commands ── Machine::decode ──► Machine::apply ─► reply
//!  (version, now, command*)                                                  │
//!                                        once per entry: Machine::finish ────┴──► effects
//! ```
//!
//! Message bodies never live in a machine. They stay in the log, and a machine keeps positions:
//! `(log index, ordinal, skip)` leads back to the bytes through [`queue::body`].
//!
//! Neighbours: the `group` crate proposes, applies and takes snapshots; the `broker` crate builds
//! commands and carries out effects. This crate knows neither.

use std::ops::RangeInclusive;

use bytes::{Bytes, BytesMut};

pub mod catalog;
pub mod entry;
pub mod frame;
pub mod planted;
pub mod queue;

mod digest;
mod wire;

pub use entry::{CommandIter, EntryBuilder, decode_entry};
pub use wire::{DecodeError, SnapshotError};

/// A point in time or a span of it, in milliseconds; as a point, since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

impl Millis {
    /// This time `ms` milliseconds later, or the last representable one.
    #[must_use]
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

/// A node of the cluster, as the catalog numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// Position of an entry in the log of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogIndex(pub u64);

/// Where and when a command is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Log index of the entry.
    pub index: u64,
    /// Unix milliseconds, stamped by the leader. A machine never lets it go back: it uses the
    /// largest value that it has seen.
    pub now: Millis,
}

/// A replicated state machine.
///
/// A rejection is an ordinary reply. A panic means that the state contradicts itself (an invariant
/// was asserted and did not hold); the node must stop rather than go on.
pub trait Machine: Sized + Send + 'static {
    /// What a log entry asks for.
    type Command: Send;
    /// What the proposer of a command is told.
    type Reply: Send + Sync + 'static;
    /// What must happen outside of the machine.
    type Effect: Send + 'static;

    /// The state before the first entry.
    fn new() -> Self;

    /// Applies one command. The commands of an entry come in order; `ordinal` is the position of
    /// this one in its entry, counting all commands from 0.
    fn apply(
        &mut self,
        at: At,
        ordinal: u32,
        command: Self::Command,
        effects: &mut Vec<Self::Effect>,
    ) -> Self::Reply;

    /// Ends an entry, after its last command. To be called once for every entry applied.
    fn finish(&mut self, at: At, effects: &mut Vec<Self::Effect>);

    /// Appends the persisted form of a command: version, kind, fields.
    fn encode(command: &Self::Command, out: &mut BytesMut);

    /// Reads what [`Machine::encode`] wrote, without copying bodies.
    ///
    /// # Errors
    /// For anything else; it never panics and allocates no more than the input is long.
    fn decode(bytes: &mut Bytes) -> Result<Self::Command, DecodeError>;

    /// The whole state, versioned and checksummed. To be taken between entries.
    fn snapshot(&self) -> Vec<u8>;

    /// The state that [`Machine::snapshot`] wrote.
    ///
    /// # Errors
    /// When the bytes are not a snapshot of a known version, are damaged, or describe a state that
    /// contradicts itself; it never panics.
    fn restore(bytes: &[u8]) -> Result<Self, SnapshotError>;

    /// Log indexes of the entries whose bodies are still needed: sorted, disjoint, inclusive.
    fn live(&self) -> Vec<RangeInclusive<u64>>;

    /// Digest of the whole logical state: equal on all replicas at the same log index.
    fn hash(&self) -> u64;

    /// The largest time that it has seen.
    fn now(&self) -> Millis;

    /// When [`Machine::tick`] is next due, if ever.
    fn next_deadline(&self) -> Option<Millis>;

    /// The command that lets time pass.
    fn tick() -> Self::Command;

    /// The command that a new leader proposes first.
    fn leader_changed(node: u64) -> Self::Command;

    /// The effects of past entries that a new leader must see carried out again.
    fn outstanding(&self, effects: &mut Vec<Self::Effect>);
}
