//! Numbers that look random and come from a seed: splitmix64, after Steele, Lea and Flood,
//! "Fast splittable pseudorandom number generators" (2014).

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// A stream of numbers.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The seed of one of many streams, which can be had without those before it.
    pub fn nth_seed(seed: u64, n: u64) -> u64 {
        mix(mix(seed.wrapping_add(GAMMA)).wrapping_add(n.wrapping_mul(GAMMA)))
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GAMMA);
        mix(self.0)
    }

    /// A number below `end`, which is not 0. Small ends only: they are not exactly equally likely.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }

    /// A number from `first` to `last`, both possible.
    pub fn within(&mut self, first: i64, last: i64) -> i64 {
        first + self.below(first.abs_diff(last) + 1) as i64
    }

    /// Whether one of `n` has come up.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A position, as likely as its weight says; some weight is above 0.
    pub fn weighted(&mut self, weights: &[u64]) -> usize {
        let mut left = self.below(weights.iter().sum());
        for (at, weight) in weights.iter().enumerate() {
            match left.checked_sub(*weight) {
                Some(rest) => left = rest,
                None => return at,
            }
        }
        unreachable!("what is left is below the sum of the weights")
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
