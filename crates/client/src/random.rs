//! The one place that this crate takes randomness from: session ids, producer ids and jitter.

use std::time::Duration;

#[cfg(not(madsim))]
fn random() -> u128 {
    rand::random()
}

#[cfg(madsim)]
fn random() -> u128 {
    madsim::rand::random()
}

/// 16 bytes that name an attachment of a consumer.
pub(crate) fn session() -> [u8; 16] {
    random().to_be_bytes()
}

/// 32 hexadecimal digits that name a producer.
pub(crate) fn producer_id() -> String {
    format!("{:032x}", random())
}

/// Which of several to begin with; to be taken modulo how many there are.
pub(crate) fn choice() -> usize {
    random() as usize
}

/// A time from half of `most` to `most`, so that clients that failed together do not retry together.
pub(crate) fn jitter(most: Duration) -> Duration {
    let half = most / 2;
    let spread = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
    half + Duration::from_micros((random() as u64) % spread)
}
