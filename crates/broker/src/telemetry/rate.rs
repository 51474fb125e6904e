//! How many spans a second, at most: a bucket that holds one second's worth, and fills evenly.

use std::time::Instant;

/// Parts of a span that the bucket counts in: it fills by the nanosecond.
const PARTS: u64 = 1_000_000_000;

#[derive(Debug)]
pub(super) struct Rate {
    per_second: u32,
    parts: u64,
    filled: Instant,
}

impl Rate {
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        Self { per_second, parts: u64::from(per_second) * PARTS, filled: now }
    }

    /// The most that can be had at once.
    pub(super) fn most(&self) -> u32 {
        self.per_second
    }

    /// As many of those wanted as there are.
    pub(super) fn take(&mut self, now: Instant, wanted: u32) -> u32 {
        let since = now.saturating_duration_since(self.filled).as_nanos();
        let since = u64::try_from(since).unwrap_or(u64::MAX).min(PARTS);
        self.filled = self.filled.max(now);
        let per_second = u64::from(self.per_second);
        self.parts = (self.parts + since * per_second).min(per_second * PARTS);
        let taken = u64::from(wanted).min(self.parts / PARTS);
        self.parts -= taken * PARTS;
        taken as u32
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn no_second_has_more_than_the_burst_and_the_rate() {
        let begun = Instant::now();
        let mut rate = Rate::new(200, begun);
        let at = |ms| begun + Duration::from_millis(ms);
        assert_eq!(rate.take(at(0), 150), 150);
        assert_eq!(rate.take(at(0), 150), 50);
        assert_eq!(rate.take(at(0), 1), 0);
        // Five milliseconds are one span, however they are cut.
        assert_eq!(rate.take(at(3), 9), 0);
        assert_eq!(rate.take(at(5), 9), 1);
        // Nothing is saved up beyond a second, and a clock that stands still gives nothing.
        assert_eq!(rate.take(at(3_600_000), 1_000), 200);
        assert_eq!(rate.take(at(3_600_000), 1_000), 0);
        assert_eq!(rate.take(at(5), 1), 0);
    }

    #[test]
    fn over_a_while_it_is_the_rate() {
        let begun = Instant::now();
        let mut rate = Rate::new(7, begun);
        let taken: u32 =
            (1..=10_000).map(|ms| rate.take(begun + Duration::from_millis(ms), 3)).sum();
        // What came while it was full is lost.
        assert_eq!(taken, 7 + 69);
    }
}
