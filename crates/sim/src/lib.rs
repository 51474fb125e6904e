//! The shipped broker and SDK in a simulated world.
//!
//! One process, one thread, and one seed: three or five nodes run the code of the `broker`, `group`,
//! `machine` and `storage` crates over a simulated network, simulated clocks and disks that lose
//! what was not flushed; clients run the SDK. Faults are chosen by the seed, what happens is checked
//! against `invariants` as it happens, and the same seed does the same to the byte.
//!
//! ```text
//!  sweep ── seeds ──► run ── one runtime a seed ──► scenarios ──► world, workload, faults
//!                                                                    └──► events ──► invariants, trace
//! ```
//!
//! It exists only in builds with `--cfg madsim` (`cargo xtask sim` makes them); in others this crate
//! is empty but for the options of its program. Applications test their own producers and consumers
//! against a simulated cluster with `simulate`.

pub mod options;

#[cfg(madsim)]
pub mod events;
#[cfg(madsim)]
pub mod faults;
#[cfg(madsim)]
pub mod invariants;
#[cfg(madsim)]
mod passages;
#[cfg(all(madsim, feature = "planted"))]
mod planted;
#[cfg(madsim)]
mod run;
#[cfg(madsim)]
pub mod scenarios;
#[cfg(madsim)]
mod sweep;
#[cfg(madsim)]
pub mod trace;
#[cfg(madsim)]
pub mod workload;
#[cfg(madsim)]
pub mod world;

#[cfg(all(madsim, feature = "planted"))]
pub use planted::planted;
#[cfg(madsim)]
pub use run::{Report, Run, run, simulate};
#[cfg(madsim)]
pub use sweep::{determinism, sweep};
#[cfg(madsim)]
pub use world::{Cluster, Machine};
