//! What can happen in a run: anything (`random`), or one of the named scenarios, each of which is a
//! way in which a replicated queue is known to have lost messages or its way.

mod random;

use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::events::Record;

/// Sizes of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Nodes that found the cluster.
    pub nodes: usize,
    /// How long faults go on, for scenarios that take as long as they are told.
    pub time: Duration,
}

/// A kind of run.
pub struct Scenario {
    /// As the command line names it.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// Runs it; an error is what did not hold.
    pub run: fn(Plan, Record) -> BoxFuture<'static, Result<(), String>>,
}

/// Anything may happen.
pub static RANDOM: Scenario = random::SCENARIO;

/// The named ones.
pub static NAMED: &[&Scenario] = &[];

/// The scenario of a name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Scenario> {
    if name == RANDOM.name {
        return Some(&RANDOM);
    }
    NAMED.iter().copied().find(|scenario| scenario.name == name)
}
