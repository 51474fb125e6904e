//! The queue as a subject: how its logs are made, run and compared.

use quorate_machine::catalog::QueueName;
use quorate_machine::queue::Settings;

use super::{Rng, Subject, Tally};

mod alphabet;
mod explained;
pub mod op;
mod random;
mod reference;
mod trial;

pub use alphabet::{alphabet, scenes};
use op::Entry;
use trial::Trial;

/// The queue machine.
pub struct Queue;

impl Subject for Queue {
    const NAME: &'static str = "queue";
    type Step = Entry;

    fn random(rng: &mut Rng) -> Vec<Entry> {
        random::entries(rng)
    }

    fn run(entries: &[Entry], known: usize, tally: &mut Tally) {
        let mut trial = Trial::new(tally);
        for (at, entry) in entries.iter().enumerate() {
            trial.step(entry, at >= known);
        }
    }

    fn simpler(entry: &Entry) -> Vec<Entry> {
        let mut simpler = Vec::new();
        if entry.restore {
            simpler.push(Entry { restore: false, ..entry.clone() });
        }
        if entry.after_ms != 0 {
            simpler.push(Entry { after_ms: 0, ..entry.clone() });
        }
        for at in 0..entry.ops.len() {
            let mut ops = entry.ops.clone();
            ops.remove(at);
            simpler.push(Entry { ops, ..entry.clone() });
            for op in entry.ops[at].simpler() {
                let mut ops = entry.ops.clone();
                ops[at] = op;
                simpler.push(Entry { ops, ..entry.clone() });
            }
        }
        simpler
    }
}

/// What a trial begins with: times that a few steps can reach.
pub fn settings() -> Settings {
    Settings { lease_ms: 200, session_grace_ms: 100, dedup_age_ms: 500, ..Settings::default() }
}

/// Where what is dead is to go, which the queue does not know more of than the name.
pub fn dead_letter() -> QueueName {
    QueueName::parse("dead-letters").unwrap()
}
