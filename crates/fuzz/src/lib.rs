//! What must hold whatever bytes a decoder is given, from a damaged disk, a stranger or a peer.
//!
//! ```text
//!  fuzz/ (cargo fuzz, libFuzzer) ──► Target::run(data) ──► decode ─► assert ─► use what came out
//!  tests/replay.rs (cargo test)  ──►      │
//!   corpus/ and mutations of it           └─ in all: no panic, memory in proportion to the input
//! ```
//!
//! A module for each family of formats; [`TARGETS`] lists them. Where a checksum stands before what
//! is interesting, the target makes it fit, so that the fuzzer gets past it. `docs/FUZZING.md` says
//! what each asserts and how to add a finding.

pub mod mutate;

mod commands;
mod entries;
mod frames;
mod identity;
mod input;
mod log_format;
mod log_recovery;
mod memory;
mod meta_chunks;
mod raft_codec;
mod requests;
mod slices;
mod snapshots;

/// A family of decoders, as the fuzzer and the tests see it.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name of the fuzz target and of its directory in the corpus.
    pub name: &'static str,
    /// Mutations of each file of the corpus that the tests try; fewer where one is slow.
    pub mutations: u32,
    /// Real encodings to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    check: fn(&[u8]),
}

impl Target {
    const fn new(
        name: &'static str,
        mutations: u32,
        check: fn(&[u8]),
        seeds: fn() -> Vec<Vec<u8>>,
    ) -> Self {
        Self { name, mutations, seeds, check }
    }

    /// Gives the decoders `data`.
    ///
    /// # Panics
    /// When a property does not hold: that is a finding.
    pub fn run(&self, data: &[u8]) {
        memory::bounded(data.len(), || (self.check)(data));
    }
}

/// Batches, records and states of the log, as bytes.
pub const LOG_FORMAT: Target = Target::new("log_format", 200, log_format::check, log_format::seeds);
/// A whole log that is damaged, or forged.
pub const LOG_RECOVERY: Target =
    Target::new("log_recovery", 40, log_recovery::check, log_recovery::seeds);
/// Heads and chunks of the small state.
pub const META_CHUNKS: Target =
    Target::new("meta_chunks", 200, meta_chunks::check, meta_chunks::seeds);
/// `identity.json`.
pub const IDENTITY: Target = Target::new("identity", 50, identity::check, identity::seeds);
/// Votes, memberships, entry payloads and checkpoints.
pub const RAFT_CODEC: Target = Target::new("raft_codec", 200, raft_codec::check, raft_codec::seeds);
/// Single commands of queue and catalog.
pub const COMMANDS: Target = Target::new("commands", 200, commands::check, commands::seeds);
/// Entries, applied to queue and catalog.
pub const ENTRIES: Target = Target::new("entries", 100, entries::check, entries::seeds);
/// Snapshots of a queue.
pub const QUEUE_SNAPSHOT: Target =
    Target::new("queue_snapshot", 200, snapshots::check_queue, snapshots::queue_seeds);
/// Snapshots of the catalog.
pub const CATALOG_SNAPSHOT: Target =
    Target::new("catalog_snapshot", 200, snapshots::check_catalog, snapshots::catalog_seeds);
/// Message frames, and the way from a position to its bytes.
pub const FRAME: Target = Target::new("frame", 200, frames::check, frames::seeds);
/// Requests of clients.
pub const REQUESTS: Target = Target::new("requests", 200, requests::check, requests::seeds);
/// Messages of other nodes.
pub const PEER_MESSAGES: Target =
    Target::new("peer_messages", 200, requests::check_peer, requests::peer_seeds);

/// A part of a group's log in a file.
pub const SLICE: Target = Target::new("slice", 200, slices::check, slices::seeds);

/// All targets.
pub const TARGETS: [Target; 13] = [
    LOG_FORMAT,
    LOG_RECOVERY,
    META_CHUNKS,
    IDENTITY,
    RAFT_CODEC,
    COMMANDS,
    ENTRIES,
    QUEUE_SNAPSHOT,
    CATALOG_SNAPSHOT,
    FRAME,
    REQUESTS,
    PEER_MESSAGES,
    SLICE,
];
