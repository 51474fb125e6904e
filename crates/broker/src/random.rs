//! The one place that this crate takes randomness from: ids of clusters and incarnations, jitter.

#[cfg(not(madsim))]
pub(crate) fn random() -> u128 {
    rand::random()
}

#[cfg(madsim)]
pub(crate) fn random() -> u128 {
    madsim::rand::random()
}

/// Evenly from 0 to below 1.
pub(crate) fn fraction() -> f64 {
    (random() >> 75) as f64 / (1u64 << 53) as f64
}
