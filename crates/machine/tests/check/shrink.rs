//! Makes a failing sequence short: takes steps out in ever smaller pieces, then makes the steps
//! that are left simpler, as long as what remains still fails.

use super::Subject;
use super::campaign::attempt;

/// Most attempts; a sequence that is not short by then is shown as it is.
const ATTEMPTS_MAX: usize = 20_000;

/// A sequence that fails, as short as could be found.
pub fn shrink<S: Subject>(mut steps: Vec<S::Step>) -> Vec<S::Step> {
    let mut left = ATTEMPTS_MAX;
    let mut fails = |steps: &[S::Step]| {
        left = left.saturating_sub(1);
        left > 0 && attempt::<S>(steps, 0).is_err()
    };
    loop {
        let shorter = remove_pieces::<S>(&mut steps, &mut fails);
        let simpler = simplify_steps::<S>(&mut steps, &mut fails);
        if !shorter && !simpler {
            return steps;
        }
    }
}

fn remove_pieces<S: Subject>(
    steps: &mut Vec<S::Step>,
    fails: &mut impl FnMut(&[S::Step]) -> bool,
) -> bool {
    let before = steps.len();
    let mut size = steps.len().max(1);
    while size > 0 {
        let mut at = 0;
        while at < steps.len() {
            let end = (at + size).min(steps.len());
            let rest = [&steps[..at], &steps[end..]].concat();
            if fails(&rest) {
                *steps = rest;
            } else {
                at = end;
            }
        }
        size /= 2;
    }
    steps.len() < before
}

fn simplify_steps<S: Subject>(
    steps: &mut [S::Step],
    fails: &mut impl FnMut(&[S::Step]) -> bool,
) -> bool {
    let mut changed = false;
    for at in 0..steps.len() {
        'again: loop {
            for simpler in S::simpler(&steps[at]) {
                let before = std::mem::replace(&mut steps[at], simpler);
                if fails(steps) {
                    changed = true;
                    continue 'again;
                }
                steps[at] = before;
            }
            break;
        }
    }
    changed
}
