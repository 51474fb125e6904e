//! The catalog as a subject: how its logs are made, run and compared.

use super::{Rng, Subject, Tally};

mod op;
mod random;
mod reference;
mod trial;

pub use op::Entry;
use trial::Trial;

/// The catalog machine.
pub struct Catalog;

impl Subject for Catalog {
    const NAME: &'static str = "catalog";
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
        let restored = entry.restore.then(|| Entry { restore: false, ..entry.clone() });
        let paused = (entry.after_ms != 0).then(|| Entry { after_ms: 0, ..entry.clone() });
        let shorter = (0..entry.ops.len()).map(|at| {
            let mut ops = entry.ops.clone();
            ops.remove(at);
            Entry { ops, ..entry.clone() }
        });
        restored.into_iter().chain(paused).chain(shorter).collect()
    }
}
