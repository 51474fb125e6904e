//! One Raft group: propose → replicate → apply.
//!
//! ```text
//!  Handle::submit ─► proposer ─► openraft ─► LogStore ─► node's log (group commit)
//!                   (gathers)       │ ▲
//!                                   ▼ │ Network ◄─► Peers (the node's connections)
//!                             StateMachine ─► Machine::apply ─► replies, Event::Effects
//! ```
//!
//! Nothing above this crate knows of Raft, nothing in it knows of queues or gRPC services. The log
//! belongs to the `storage` crate, what is applied to the `machine` crate; the owner of a group, in
//! the `broker` crate, carries out its effects.

mod applier;
mod checkpoint;
mod clock;
mod codec;
// For `quorate-fuzz` alone: what is decoded here, and its types, are private.
mod freshness;
#[doc(hidden)]
pub mod fuzz;
mod handle;
mod in_sync;
mod keeper;
mod liveness;
mod log_store;
mod members;
mod network;
pub mod offline;
mod parking;
mod proposer;
mod received;
pub mod recovery;
mod replica;
mod replica_log;
mod runtime;
#[cfg(madsim)]
pub mod sim;
mod state_machine;
mod types;
mod volumes;
mod wire;

pub use applier::{EffectsTaken, Event};
pub use clock::Clock;
pub use handle::{
    EffectsAt, Handle, Leadership, Progress, Spec, StartError, Timing, forget, stored_groups,
    without_checkpoint,
};
pub use members::{Members, has_more_than_vote, leave};
pub use network::{AppendLink, LinkError, Peers};
pub use proposer::{Applied, COMMANDS_WAITING_MAX, ENTRIES_IN_FLIGHT, Outcome, ProposeError};
pub use received::{Receiving, Reception};
pub use replica::Replica;
pub use types::{OnDisk, Payload, Position, Replies, Types};
pub use volumes::Volumes;
