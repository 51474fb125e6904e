//! The leader's clock: stamped into entries, since machines have none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Unix time that never goes back, shared by all that stamp entries of one group.
#[derive(Clone, Default)]
pub struct Clock {
    last_ms: Arc<AtomicU64>,
}

impl Clock {
    /// Milliseconds since the Unix epoch; the last value again while the system's clock is behind.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        let now = wall_clock_ms();
        self.last_ms.fetch_max(now, Ordering::AcqRel).max(now)
    }

    /// Takes in the time of an entry, so that this node, leading next, goes on from there.
    pub(crate) fn observe(&self, now_ms: u64) {
        self.last_ms.fetch_max(now_ms, Ordering::AcqRel);
    }
}

#[cfg(not(madsim))]
fn wall_clock_ms() -> u64 {
    use std::time::{SystemTime, UNIX_EPOCH};
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis() as u64)
}

#[cfg(madsim)]
fn wall_clock_ms() -> u64 {
    crate::sim::World::current().wall_clock_ms()
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_ahead_does_not_go_back() {
        let clock = Clock::default();
        let ahead = clock.now_ms() + 1_000_000;
        clock.last_ms.store(ahead, Ordering::Release);
        assert_eq!(clock.now_ms(), ahead);
    }
}
