//! The state machine checker: a machine, a reference that is obviously right, and many logs.
//!
//! ```text
//!   proptest (tests/model.rs) ──┐                                ┌─ machine, never restored
//!   random ─── campaign ────────┼─► steps ──► Subject::run ──────┼─ machine, restored now and then
//!   alphabet ─ exhaustive ──────┘                 │              └─ reference: what must come out
//!                                                 ▼ they differ, or the machine asserts
//!              Failure: seed, steps ◄── shrink ◄── panic, caught
//! ```
//!
//! A step is an entry of the log. It names what it is about by position ("the second message that
//! this session holds"), so a sequence still means something when steps are taken out of it.
//!
//! The tests run some tens of thousands of sequences; `examples/check.rs` runs millions.

pub mod campaign;
pub mod catalog;
pub mod exhaustive;
pub mod queue;
pub mod rng;
mod shrink;
mod tally;

pub use campaign::{Failure, Figures, Subject};
pub use rng::Rng;
pub use tally::Tally;
