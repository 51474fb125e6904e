//! Pauses between retries: doubling, capped, with jitter.

use std::time::Duration;

use crate::random;

/// The first pause.
const FIRST: Duration = Duration::from_millis(20);
/// No pause is longer, however often it failed.
const LONGEST: Duration = Duration::from_secs(1);

/// The pause before the next retry; starts anew after a success.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub fn new() -> Self {
        Self { next: FIRST }
    }

    /// The pause to make now. `wanted` is what the server asked for, honoured up to the cap.
    pub fn pause(&mut self, wanted: Option<Duration>) -> Duration {
        let pause = self.next.max(wanted.unwrap_or_default()).min(LONGEST);
        self.next = (self.next * 2).min(LONGEST);
        random::jitter(pause)
    }

    pub fn reset(&mut self) {
        self.next = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_cap_and_start_anew() {
        let mut backoff = Backoff::new();
        assert!(backoff.pause(None) <= FIRST);
        for _ in 0..20 {
            let pause = backoff.pause(None);
            assert!(pause >= FIRST && pause <= LONGEST, "{pause:?}");
        }
        assert!(backoff.pause(None) >= LONGEST / 2);
        backoff.reset();
        assert!(backoff.pause(None) <= FIRST);
        assert!(backoff.pause(Some(LONGEST * 9)) >= LONGEST / 2);
    }
}
