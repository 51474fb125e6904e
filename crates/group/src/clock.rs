//! The leader's clock: stamped into entries, since machines have none.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

/// Unix time that never goes back and never stands still, shared by all that stamp entries of one
/// group.
///
/// While the system's clock is behind what was stamped before, by this node or another leader whose
/// clock was ahead, time passes at half its speed until the system's clock has caught up: leases
/// and delays still end, if late, instead of waiting for as long as the other clock was ahead.
#[derive(Clone, Default)]
pub struct Clock {
    last: Arc<Mutex<Option<Stamp>>>,
}

#[derive(Clone, Copy)]
struct Stamp {
    unix: Duration,
    at: Instant,
}

impl Clock {
    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.now(wall_clock(), Instant::now())
    }

    fn now(&self, wall: Duration, at: Instant) -> u64 {
        let mut last = self.last.lock().expect("no panic while held");
        let slowed = last.map(|last| last.unix + at.saturating_duration_since(last.at) / 2);
        let unix = slowed.map_or(wall, |slowed| slowed.max(wall));
        *last = Some(Stamp { unix, at });
        unix.as_millis() as u64
    }

    /// Takes in the time of an entry, so that this node, leading next, goes on from there.
    pub(crate) fn observe(&self, now_ms: u64) {
        let unix = Duration::from_millis(now_ms);
        let mut last = self.last.lock().expect("no panic while held");
        if last.is_none_or(|last| last.unix < unix) {
            *last = Some(Stamp { unix, at: Instant::now() });
        }
    }
}

/// What the system's clock shows, since the Unix epoch.
#[cfg(not(madsim))]
fn wall_clock() -> Duration {
    use std::time::{SystemTime, UNIX_EPOCH};
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(madsim)]
fn wall_clock() -> Duration {
    crate::sim::World::current().wall_clock()
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_ahead_goes_on_at_half_speed_until_it_is_caught_up() {
        let clock = Clock::default();
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        clock.observe(100_000);
        let observed = clock.last.lock().unwrap().unwrap().at;
        let now =
            |wall: u64, after: Duration| clock.now(Duration::from_secs(wall), observed + after);
        assert_eq!(now(60, second * 10), 105_000);
        // However often it is asked.
        for step in 1..=1_000u32 {
            let _ = now(60, second * 10 + second * step / 1_000);
        }
        assert_eq!(now(60, second * 11), 105_500);
        assert_eq!(now(200, second * 12), 200_000, "caught up");
        assert_eq!(now(199, second * 12), 200_000, "never back");
        assert!(start <= observed);
    }
}
