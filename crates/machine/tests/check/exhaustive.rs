//! Every sequence of a length over a small alphabet of steps. As the state is compared after every
//! step, the shorter ones are among them.

use std::time::Instant;

use super::campaign::attempt;
use super::{Failure, Figures, Subject, Tally};

/// Runs, after `scene`, every sequence of `depth` steps; ends at the first that fails.
pub fn run<S: Subject>(
    scene: &[S::Step],
    alphabet: &[S::Step],
    depth: u32,
) -> Result<Figures, Box<Failure>> {
    let started = Instant::now();
    let mut tally = Tally::default();
    let base = alphabet.len() as u64;
    let sequences = base.pow(depth);
    for n in 0..sequences {
        let word = word(n, base, depth);
        let steps: Vec<S::Step> =
            scene.iter().cloned().chain(word.map(|at| alphabet[at].clone())).collect();
        match attempt::<S>(&steps, known(n, base, steps.len())) {
            Ok(more) => tally.merge(&more),
            Err(_) => {
                let again = format!("--depth {depth}");
                return Err(Box::new(Failure::of::<S>(n + 1, steps, &again)));
            }
        }
    }
    Ok(Figures { sequences, elapsed: started.elapsed(), tally })
}

/// The digits of `n`, the highest first.
fn word(n: u64, base: u64, depth: u32) -> impl Iterator<Item = usize> {
    (0..depth).rev().map(move |place| (n / base.pow(place) % base) as usize)
}

/// How many steps the sequence before this one, of `length`, began with too: all but the last,
/// and one fewer for each letter at the end that has begun anew.
fn known(n: u64, base: u64, length: usize) -> usize {
    if n == 0 {
        return 0;
    }
    let mut changed = 1;
    while n.is_multiple_of(base.pow(changed)) {
        changed += 1;
    }
    length - changed as usize
}
