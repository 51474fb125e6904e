//! What the process tests stand on: real nodes, a load, and a history that tells whether every promise
//! was kept.
//!
//! ```text
//!  turn::alone ── one heavy test at a time, with a time limit
//!  Cluster ────── `quorate server` processes on loopback: kill -9, SIGSTOP, SIGTERM, start again
//!  Load ───────── producers and consumers over the SDK ──► History ──► check()
//!  relay ──────── a way to a node that can be made slow
//!  raw ────────── calls without the SDK, for what it would not send
//! ```
//! The tests are in `process/`. They run the binary that is shipped: `QUORATE_BIN`, which `cargo xtask
//! test` sets, or else what `cargo build` left beside the test itself.

pub mod binary;
pub mod cluster;
pub mod collector;
pub mod history;
pub mod load;
pub mod ports;
pub mod process;
pub mod raw;
pub mod reading;
pub mod relay;
pub mod turn;

pub use cluster::{Cluster, Plan};
pub use history::History;
pub use load::Load;
