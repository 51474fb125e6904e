//! One node of Quorate: its gRPC services, the delivery of messages, its connections to the other
//! nodes, the catalog and what follows from it.
//!
//! ```text
//!  server       binds, opens the data directory, starts and ends everything below
//!  founding     how a node comes to belong to a cluster
//!  member       what the parts share; answers other nodes
//!  reconciler   makes this node what the catalog says
//!  opening      leaders for the groups that were opened at the start
//!  succession   who takes over when another node is gone
//!  queue        one queue's replica here: serving, and the consumers whose streams end here
//!  service/     gRPC, thin: publish, consume, administration, cluster
//!  routing      here, or forwarded to the leader
//!  refusal      why a call was refused
//!  health       whether the node, a service or a queue's leader can take calls
//!  budget       memory, streams, disk space
//!  peers/       the connections between nodes
//!  telemetry    spans of sampled messages, told to a collector
//!  config       settings
//! ```
//!
//! Below is the `group` crate, which knows no services; beside it the `client` crate, which knows
//! only the protobuf files.

#[cfg(not(madsim))]
mod about;
mod awake;
mod budget;
mod config;
mod counts;
mod dead_letters;
mod founding;
// For `quorate-fuzz` alone: how requests are checked is private.
#[doc(hidden)]
pub mod fuzz;
mod healing;
#[cfg(not(madsim))]
mod health;
#[cfg(not(madsim))]
mod http;
mod last_node;
mod leaders;
mod listener;
mod log_writer;
mod member;
#[cfg(not(madsim))]
mod metrics;
mod moves;
mod opening;
mod outlet;
pub mod peers;
mod queue;
mod random;
mod reconciler;
mod recovery;
mod refusal;
mod routing;
mod server;
mod service;
mod shutdown;
mod succession;
#[cfg_attr(madsim, path = "telemetry/simulated.rs")]
mod telemetry;

pub use config::{
    Config, ConfigError, FOUNDERS_MAX, Limits, MESSAGE_BYTES_MAX, Peer, RaftConfig, StorageConfig,
    TelemetryConfig,
};
pub use founding::{JoinError, Joined, join};
pub use last_node::{RecoverCatalogError, RecoveredCatalog, recover_catalog};
pub use quorate_group::Volumes;
pub use quorate_storage::{DirError, Home};
pub use refusal::Refusal;
pub use server::{Node, StartError};
