//! Bytes kept durably on one node, without knowing what they mean.
//!
//! Three things live here, from big to small:
//!
//! ```text
//!  group ──append, vote, truncate──► Log ──batches──► Disk   log/*.seg   every entry and vote
//!  group ──checkpoints, cursors────► Meta ──────────► sled   meta/       small, can be rebuilt
//!  cli   ──who am I, am I alone?───► DataDir ───────► file   identity.json, lock
//! ```
//!
//! This crate knows neither Raft nor queues nor an async runtime: its neighbours above are the
//! `group` crate (a Raft log store over [`Log`]) and the binary that opens the directories. What
//! touches a real device stands behind [`Disk`] and [`Meta`]; [`SimDisk`] and [`SimMeta`] lose what
//! was not flushed, and a [`SimDir`] is the directory of both, so that the shipped log runs unchanged
//! in simulation.

pub mod dir;
pub mod disk;
pub mod log;
pub mod meta;

pub use dir::{DataDir, DirError, Home, Identity, SimDir, StoppedDir};
pub use disk::{Disk, File, ReadOnlyDisk, RealDisk, SimDisk};
pub use log::{
    Done, Entry, GroupId, GroupState, Log, LogError, OpenError, Options, ReadError, Stats, Writer,
};
pub use meta::{Meta, MetaError, Opened, SimMeta, SledMeta};
